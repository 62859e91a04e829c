//! `/admin/v1`.

use super::{
    ADMIN, AGENT, About, Body, Content, FLAG, Gives, LEASE, LIMIT, MISSION, NO_MORE, Refuses,
    TARGET, TEXT, Takes, body, ok, path, query,
};
use crate::broker::Reason;
use crate::wire;
use serde_json::Value;

/// A door of the administration that only reads, and takes nothing.
const READ: About = About {
    id: "",
    tag: ADMIN,
    summary: "",
    text: "",
    params: &[],
    takes: Takes::Nothing,
    gives: &[],
    refuses: NO_MORE,
};

const RECEIPT: &str = r#"{"id":"01a1fdb2-4457-751c-9e33-b36b87ea0c65","selector":{"agent":"checkout-deployer"},"position":41,"state":"revoking","leases":{"broker":2,"expiry":1},"holds":true,"outstanding":1,"unreadable":0,"given_up":0,"agents":["checkout-deployer"],"targets":["aws-prod","deploy-api"]}"#;
const RECEIVED: Body = body::<wire::RevocationReceipt>(RECEIPT);
const NOT_YET: Gives = Gives {
    status: 202,
    text: "In force here, and not yet acknowledged by enough replicas of the store; or its receipt could not be written, and there is no `id`.",
    content: Content::Json(RECEIVED),
};

pub const REVOKE: About = About {
    id: "revoke",
    summary: "End every credential that a selector covers",
    text: "Every selector but `lease` also holds new ones back until it is lifted; `kill_only` does not. `retire` holds an agent or a mission for good.",
    params: &[query(
        "dry_run",
        FLAG,
        "The blast radius, and nothing is done.",
    )],
    takes: Takes::Json(body::<wire::RevocationRequest>(
        r#"{"selector":{"agent":"checkout-deployer"},"reason":"leaked in a log"}"#,
    )),
    gives: &[ok("In force.", RECEIVED), NOT_YET],
    refuses: Refuses::These(&[Reason::NotFound]),
    ..READ
};

pub const REVOCATION: About = About {
    id: "revocation",
    summary: "How far a revocation has come",
    text: "Until every downstream confirmed, and nothing that was decided before can come any more.",
    params: &[path(
        "id",
        r#"{"type":"string","format":"uuid"}"#,
        "From the receipt.",
    )],
    gives: &[ok("The receipt, as of now.", RECEIVED)],
    ..READ
};

pub const LIFT: About = About {
    id: "lift",
    summary: "End a hold",
    text: "What was killed stays dead. What was retired only an admin takes back; what is under review is reviewed. Not by break-glass token.",
    takes: Takes::Json(body::<wire::LiftRequest>(
        r#"{"selector":{"agent":"checkout-deployer"},"reason":"the key was replaced"}"#,
    )),
    gives: &[ok("Lifted.", RECEIVED), NOT_YET],
    refuses: Refuses::These(&[Reason::NotFound]),
    ..READ
};

const RESTRICTION: &str = r#"{"id":"01a1fdb2-4457-751c-9e33-b36b87ea0c65","target":"aws-prod","actions":["ecs:Delete*"],"locations":["*"],"ends_leases":true,"reason":"INC-4711","by":"octavia@acme.example","at":"2026-11-21T12:00:00Z","until":"2026-11-21T14:00:00Z","state":"in_force","leases":[],"all_listed":true}"#;
const RESTRICTED: Body = body::<wire::RestrictionReceipt>(RESTRICTION);

pub const RESTRICT: About = About {
    id: "restrict",
    summary: "Take something away on a target, for a while",
    text: "At every broker within the bound on its view. Requests for any of it are refused as `restricted`; live leases that could do any of it are listed, or ended with `end_leases`.",
    params: &[query(
        "dry_run",
        FLAG,
        "What it would cover, and nothing is done.",
    )],
    takes: Takes::Json(body::<wire::RestrictionRequest>(
        r#"{"target":"aws-prod","actions":["ecs:Delete*"],"for_seconds":7200,"reason":"INC-4711","end_leases":true}"#,
    )),
    gives: &[
        ok("In force.", RESTRICTED),
        Gives {
            status: 202,
            text: NOT_YET.text,
            content: Content::Json(RESTRICTED),
        },
    ],
    refuses: Refuses::These(&[Reason::NotFound]),
    ..READ
};

pub const RESTRICTIONS: About = About {
    id: "restrictions",
    summary: "The restrictions that stand",
    text: "Oldest first.",
    gives: &[ok(
        "All of them.",
        body::<wire::Page<wire::RestrictionView>>(r#"{"items":[]}"#),
    )],
    ..READ
};

pub const LIFT_RESTRICTION: About = About {
    id: "liftRestriction",
    summary: "End a restriction before its time",
    text: "What it ended stays dead. Not by break-glass token.",
    params: &[path(
        "id",
        r#"{"type":"string","format":"uuid"}"#,
        "From the receipt.",
    )],
    takes: Takes::Json(body::<wire::RestrictionLift>(
        r#"{"reason":"INC-4711 is closed"}"#,
    )),
    gives: &[
        ok("Lifted.", RESTRICTED),
        Gives {
            status: 202,
            text: NOT_YET.text,
            content: Content::Json(RESTRICTED),
        },
    ],
    refuses: Refuses::These(&[Reason::NotFound]),
    ..READ
};

const LEASE_EXAMPLE: &str = r#"{"id":"dfla6jwgyzy3e7dqmx5yqfzvbtmcq","state":"active","alive":true,"agent":"checkout-deployer","owner":"payments@acme.example","mission":"deploy-checkout","target":"deploy-api","goal":"Deploy checkout 1.42","issuer":"https://token.actions.githubusercontent.com","subject":"repo:acme/checkout:ref:refs/heads/main","authorization_details":[{"type":"access_token","identifier":"deploy-api","actions":["deploy:write"],"locations":["https://deploy.example/checkout"]}],"revocation":{"class":"broker","within_seconds":1},"names":["dfla6jwgyzy3e7dqmx5yqfzvbtmcq"],"created_at":"2026-11-21T12:00:00Z","expires_at":"2026-11-21T12:10:00Z","config_hash":"9f86d081"}"#;
const LEASE_PAGE: &str = r#"{"items":[]}"#;
const A_LEASE: Body = body::<wire::LeaseView>(LEASE_EXAMPLE);

pub const LEASES: About = About {
    id: "leases",
    summary: "What lives, and what lived",
    text: "In pages: pass `next` as `after`.",
    params: &[
        query("agent", AGENT, "Of this agent."),
        query("mission", MISSION, "Of this mission."),
        query("target", TARGET, "On this target."),
        query("task", TEXT, "Of this run of work."),
        query(
            "instance",
            TEXT,
            "Of this one of several of an agent's processes.",
        ),
        query(
            "alive",
            FLAG,
            "Only those that the broker would vouch for now, or only the others.",
        ),
        query("after", TEXT, "`next` of the page before."),
        query("limit", LIMIT, "Of one page."),
    ],
    gives: &[ok(
        "A page.",
        body::<wire::Page<wire::LeaseView>>(LEASE_PAGE),
    )],
    ..READ
};

pub const A_LEASE_BY_ID: About = About {
    id: "lease",
    summary: "One lease",
    text: "By its id.",
    params: &[path("id", LEASE, "`dfl` and 26 characters.")],
    gives: &[ok("The lease.", A_LEASE)],
    ..READ
};

const GIVEN_UP: Body = body::<wire::LeaseGivenUp>(
    r#"{"lease":"dfla6jwgyzy3e7dqmx5yqfzvbtmcq","by":"octavia@acme.example","reason":"INC-4711: no such login at orders-db","at":"2026-11-21T12:00:00Z","replicated":true}"#,
);

pub const GIVE_UP_LEASE: About = About {
    id: "giveUpLease",
    summary: "Stop waiting for a lease that cannot be read",
    text: "Somebody has looked for its credential downstream, by the lease's id. It ends alarms, and that revocations are not confirmed for it; the record stays, and nothing of it is accepted. Said again it is the same. 409 for one that can be read. Not by break-glass token.",
    params: &[path("id", LEASE, "`dfl` and 26 characters.")],
    takes: Takes::Json(body::<wire::GiveUpRequest>(
        r#"{"reason":"INC-4711: no such login at orders-db"}"#,
    )),
    gives: &[
        ok("Nobody waits for it.", GIVEN_UP),
        Gives {
            status: 202,
            text: "The same, and not yet acknowledged by enough replicas of the store: say it again.",
            content: Content::Json(GIVEN_UP),
        },
    ],
    refuses: Refuses::These(&[Reason::NotFound, Reason::LeaseReadable]),
    ..READ
};

pub const FIND: About = About {
    id: "find",
    summary: "Whose is it?",
    text: "By a credential, a handle, an access key id, a session name or a lease id. In a body, because URLs are logged.",
    takes: Takes::Json(body::<wire::FindRequest>(r#"{"query":"ASIAXAMPLE"}"#)),
    gives: &[ok("The lease.", A_LEASE)],
    refuses: Refuses::These(&[Reason::NotFound]),
    ..READ
};

const AGENT_EXAMPLE: &str = r#"{"id":"checkout-deployer","owner":"payments@acme.example","purpose":"Deploys the checkout service","ends":"2027-03-01","state":"active","missions":["deploy-checkout"],"live_leases":2,"next_review":"2027-02-19T12:00:00Z","refused_from":"2027-03-05T12:00:00Z","dormant_at":"2026-12-21T12:00:00Z"}"#;

pub const AGENTS: About = About {
    id: "agents",
    summary: "Every agent",
    text: "Owner, purpose, standing, what it holds.",
    gives: &[ok(
        "All of them, in one page.",
        body::<wire::Page<wire::AgentView>>(r#"{"items":[]}"#),
    )],
    ..READ
};

pub const AN_AGENT: About = About {
    id: "agent",
    summary: "One agent",
    text: "By its name.",
    params: &[path("id", AGENT, "`[agent.NAME]`.")],
    gives: &[ok("The agent.", body::<wire::AgentView>(AGENT_EXAMPLE))],
    ..READ
};

const REGISTERED: Body = body::<wire::RegistrationReceipt>(
    r#"{"id":"night-worker","number":7,"ended":true,"replicated":true}"#,
);
const REGISTERED_HOW: &[Gives] = &[
    ok(
        "At every replica within the age that its view may have.",
        REGISTERED,
    ),
    Gives {
        status: 202,
        text: "In force, and not yet acknowledged by enough replicas of the store.",
        content: Content::Json(REGISTERED),
    },
];
const NUMBER: &str = r#"{"type":"integer","minimum":0}"#;

pub const REGISTER_AGENT: About = About {
    id: "registerAgent",
    summary: "Register an agent, or change one that is registered",
    text: "The keys of `[agent.NAME]`, read as a file's, and the missions that it joins: such as say `allow_registered`. Never under a name that a file has. A change ends what was given to the agent before, unless it takes nothing away. Not by break-glass token.",
    params: &[path("id", AGENT, "Its name.")],
    takes: Takes::Json(body::<wire::RegistrationRequest>(
        r#"{"agent":{"owner":"nights@acme.example","purpose":"Tidies up at night","ends":"2027-03-01","identity":{"issuer":"ci","subject":"night"},"missions":["tidy"]},"reason":"CHG-17"}"#,
    )),
    gives: REGISTERED_HOW,
    refuses: Refuses::These(&[Reason::AgentRefused, Reason::RegisteredMeanwhile]),
    ..READ
};

pub const REMOVE_AGENT: About = About {
    id: "removeAgent",
    summary: "Remove an agent that was registered",
    text: "It is nobody from here on, and what it holds is dead. An agent of a file is the file's to remove. Not by break-glass token.",
    params: &[
        path("id", AGENT, "Its name."),
        query("reason", TEXT, "It is in the audit."),
        query(
            "after",
            NUMBER,
            "Only if this is still the number of the last change.",
        ),
    ],
    gives: REGISTERED_HOW,
    refuses: Refuses::These(&[Reason::NotFound, Reason::RegisteredMeanwhile]),
    ..READ
};

const SIGHTING: &str = r#"{"id":"0123456789abcdef","issuer":"github","issuer_url":"https://token.actions.githubusercontent.com","subject":"repo:acme/books:ref:refs/heads/main","claims":{"repository":"acme/books","repository_id":"99"},"asked":[{"targets":["deploy-api"]}],"first_seen":"2026-11-21T12:00:00Z","last_seen":"2026-11-21T12:00:00Z","count":1}"#;

pub const SIGHTINGS: About = About {
    id: "sightings",
    summary: "Who knocks and is no agent",
    text: "With a valid proof of a configured issuer. The latest first.",
    gives: &[ok(
        "All of them, in one page.",
        body::<wire::Page<wire::SightingView>>(r#"{"items":[]}"#),
    )],
    ..READ
};

pub const SIGHTING_BY_ID: About = About {
    id: "sighting",
    summary: "One of them",
    text: "By its id.",
    params: &[path("id", TEXT, "From the list.")],
    gives: &[ok(
        "What is known of it.",
        body::<wire::SightingView>(SIGHTING),
    )],
    refuses: Refuses::These(&[Reason::NotFound]),
    ..READ
};

const REVIEW_EXAMPLE: &str = r#"{"when":"later","agent":{"id":"checkout-deployer","owner":"payments@acme.example","purpose":"Deploys the checkout service","ends":"2027-03-01","state":"active","missions":["deploy-checkout"],"live_leases":2,"next_review":"2027-02-19T12:00:00Z","refused_from":"2027-03-05T12:00:00Z"}}"#;

pub const REVIEWS: About = About {
    id: "reviews",
    summary: "What somebody must look at",
    text: "Agents and missions whose review is due within two weeks, the most urgent first.",
    params: &[query("all", FLAG, "Everything that is registered.")],
    gives: &[ok(
        "All of them, in one page.",
        body::<wire::Page<wire::ReviewView>>(r#"{"items":[]}"#),
    )],
    ..READ
};

pub const REVIEW: About = About {
    id: "review",
    summary: "Keep, narrow or retire an agent or a mission",
    text: "It moves the next review, and lifts the hold of one that was overdue. To retire takes an operator. Not by break-glass token.",
    takes: Takes::Json(body::<wire::ReviewRequest>(
        r#"{"subject":{"agent":"checkout-deployer"},"decision":"keep","note":"still deploys"}"#,
    )),
    gives: &[
        ok(
            "As it stands now.",
            body::<wire::ReviewView>(REVIEW_EXAMPLE),
        ),
        Gives {
            status: 202,
            text: NOT_YET.text,
            content: Content::Json(body::<wire::ReviewView>(REVIEW_EXAMPLE)),
        },
    ],
    refuses: Refuses::These(&[Reason::NotFound]),
    ..READ
};

pub const INVITE: About = About {
    id: "invite",
    summary: "Let one machine of an agent enrol a key of its own",
    text: "The join token is told once. The agent's configuration says `enrol = true`. Not by break-glass token.",
    params: &[path("id", AGENT, "`[agent.NAME]`.")],
    takes: Takes::Json(body::<wire::InvitationRequest>(
        r#"{"valid_seconds":900,"note":"db-7"}"#,
    )),
    gives: &[ok(
        "Good once, in its time.",
        body::<wire::InvitationAnswer>(
            r#"{"agent":"backup","join_token":"dayflyjoin_0123","expires_at":"2026-11-21T12:15:00Z"}"#,
        ),
    )],
    ..READ
};

pub const ENROLLED_KEYS: About = About {
    id: "enrolledKeys",
    summary: "The keys that an agent's machines enrolled",
    text: "One that is held proves nothing.",
    params: &[path("id", AGENT, "`[agent.NAME]`.")],
    gives: &[ok(
        "All of them, in one page.",
        body::<wire::Page<wire::EnrolledKeyView>>(r#"{"items":[]}"#),
    )],
    ..READ
};

pub const EXPLAIN: About = About {
    id: "explain",
    summary: "Why would this be granted or refused?",
    text: "The same decision as an exchange's, with every check: on stated claims, on the question of a \
           refusal (`{\"refusal\": ID}`), or on that of an exported entry (`{\"recorded\": ENTRY}`).",
    takes: Takes::Json(body::<wire::ExplainQuestion>(
        r#"{"agent":"checkout-deployer","authorization_details":[{"type":"access_token","identifier":"deploy-api","actions":["deploy:write"],"locations":["https://deploy.example/checkout"]}],"facts":{"pipeline.environment":"production"}}"#,
    )),
    gives: &[ok(
        "The decision.",
        body::<wire::ExplainAnswer>(
            r#"{"granted":false,"reason":"exceeds_mission","at":"authorization_details[0].actions[0]","summary":"More was asked than the mission allows.","checks":[{"name":"mission","passed":false,"detail":"deploy:write"}]}"#,
        ),
    )],
    refuses: Refuses::These(&[Reason::NotFound, Reason::UnknownAgent]),
    ..READ
};

pub const AUDIT: About = About {
    id: "audit",
    summary: "What was done, in order",
    text: "The part that is still in the store; the export has all of it.",
    params: &[
        query("after", TEXT, "`next` of the page before."),
        query("limit", LIMIT, "Of one page."),
    ],
    gives: &[ok("A page.", body::<wire::Page<Value>>(r#"{"items":[]}"#))],
    ..READ
};

const ROTATED: Body = body::<wire::RotateAnswer>(
    r#"{"new_key":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I","signs_from":"2026-11-21T12:05:00Z","removed":[],"replicated":true}"#,
);

pub const ROTATE: About = About {
    id: "rotateKey",
    summary: "A new signing key",
    text: "With `compromised`, the old one is gone at once, and every lease that it signed. Not by break-glass token.",
    takes: Takes::Json(body::<wire::RotateRequest>(r#"{"purpose":"access_token"}"#)),
    gives: &[
        ok("Published; it signs once every cache knows it.", ROTATED),
        Gives {
            status: 202,
            text: "Done, and the end of what the removed keys signed is not yet acknowledged by enough replicas of the store.",
            content: Content::Json(ROTATED),
        },
    ],
    refuses: Refuses::These(&[Reason::NotFound]),
    ..READ
};

const PUBLISHED: Body = body::<wire::PublishAnswer>(
    r#"{"revision":8,"hash":"9f86d081","before":"60303ae2","position":412,"replicated":true}"#,
);

pub const PUBLISH_CONFIGURATION: About = About {
    id: "publishConfiguration",
    summary: "One configuration for all replicas",
    text: "It is checked, stored whole and decides from one position of the fence log on. For brokers with `config = \"published\"`. Not by break-glass token.",
    takes: Takes::Json(body::<wire::PublishRequest>(
        r#"{"files":[{"name":"missions.toml","text":"[mission.deploy]"}],"attached":[],"reason":"CHG-17"}"#,
    )),
    gives: &[
        ok("In force.", PUBLISHED),
        Gives {
            status: 202,
            text: "In force, and not yet acknowledged by enough replicas of the store.",
            content: Content::Json(PUBLISHED),
        },
    ],
    refuses: Refuses::These(&[Reason::ConfigurationRefused, Reason::PublishedMeanwhile]),
    ..READ
};

pub const CONFIGURATION: About = About {
    id: "configuration",
    summary: "What decides at this replica",
    text: "And what was published last.",
    gives: &[ok(
        "Which configuration, and why not another.",
        body::<wire::ConfigView>(
            r#"{"hash":"9f86d081","revision":8,"published":{"revision":8,"hash":"9f86d081"}}"#,
        ),
    )],
    ..READ
};

pub const END_CONTEXT: About = About {
    id: "endContext",
    summary: "Something outside is over, and so are its leases",
    text: "`issuer` is the one that proved it.",
    takes: Takes::Json(body::<wire::EndContextRequest>(
        r#"{"issuer":"https://token.actions.githubusercontent.com","kind":"pipeline","id":"77"}"#,
    )),
    gives: &[ok("In force.", RECEIVED), NOT_YET],
    refuses: Refuses::These(&[Reason::NotFound]),
    ..READ
};
