//! `/admin/v1/approvals`.

use super::{ADMIN, About, Content, Gives, Refuses, TEXT, Takes, body, ok, path};
use crate::broker::Reason;
use crate::wire;

const APPROVAL: &str = r#"{"id":"apr_0f0ad1d3b9c2e4a8f5d6c7b8a9e0f1d2c3b4a596","state":"pending","agent":"checkout-deployer","owner":"payments@acme.example","mission":"deploy-checkout","target":"deploy-api","authorization_details":[{"type":"access_token","identifier":"deploy-api","actions":["deploy:write"],"max_ttl":900}],"audience":"deploy-api","bound":false,"goal":"Deploy checkout 1.42","facts":{"pipeline.environment":"production"},"issuer":"https://ci.acme.example","subject":"repo:acme/checkout","asked_at":"2026-11-21T12:00:00Z","needed":1,"votes":[],"until":"2026-11-21T13:00:00Z"}"#;
const ID: super::Param = path("id", TEXT, "`deferral_code` of the refusal.");

const PEOPLE: About = About {
    id: "",
    tag: ADMIN,
    summary: "",
    text: "",
    params: &[ID],
    takes: Takes::Nothing,
    gives: &[ok(
        "As it stands now.",
        body::<wire::ApprovalView>(APPROVAL),
    )],
    refuses: Refuses::These(&[Reason::NotFound]),
};

pub const APPROVALS: About = About {
    id: "approvals",
    summary: "What waits for people, and what they approved that is still good",
    text: "The first that is over first.",
    params: &[],
    gives: &[ok(
        "All of them, a thousand at most.",
        body::<wire::Page<wire::ApprovalView>>(r#"{"items":[]}"#),
    )],
    refuses: Refuses::These(&[]),
    ..PEOPLE
};

pub const AN_APPROVAL: About = About {
    id: "approval",
    summary: "Exactly what would be issued, to whom, and what for",
    text: "`goal` is what the agent says; nobody has verified it.",
    ..PEOPLE
};

pub const APPROVE: About = About {
    id: "approve",
    summary: "Say yes to what a request would get",
    text: "Good for exactly that, and for as long as the mission says. Not for what one asks for oneself or for an agent that one owns. Not by break-glass token.",
    takes: Takes::Json(body::<wire::VoteRequest>(r#"{"reason":"CHG-17"}"#)),
    ..PEOPLE
};

pub const DENY: About = About {
    id: "deny",
    summary: "Say no, or take a yes back",
    text: "What was issued on it is ended; the same request is refused until its time is over.",
    takes: Takes::Json(body::<wire::VoteRequest>(r#"{"reason":"not tonight"}"#)),
    gives: &[
        ok("In force.", body::<wire::ApprovalView>(APPROVAL)),
        Gives {
            status: 202,
            text: "In force here, not yet acknowledged by enough replicas of the store.",
            content: Content::Json(body::<wire::ApprovalView>(APPROVAL)),
        },
    ],
    ..PEOPLE
};
