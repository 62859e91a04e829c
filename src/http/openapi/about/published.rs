//! What anyone may read, and the probes.

use super::{
    About, Content, Gives, NO_MORE, OBJECT, PROBES, PUBLIC, Param, Refuses, TARGET, TEXT, Takes,
    header, path, typed,
};
use crate::broker::Reason;

const KEYS: &str = r#"{"type":"object","required":["keys"],"properties":{"keys":{"type":"array","items":{"type":"object"}}}}"#;

pub const AUTHORIZE: About = About {
    id: "authorize",
    tag: PUBLIC,
    summary: "Always refused: no flow begins in a browser",
    text: "Named in the metadata because some clients do not read a document without it.",
    params: &[],
    takes: Takes::Nothing,
    gives: &[],
    refuses: Refuses::These(&[Reason::UnsupportedResponseType]),
};

pub const KEY_SET: About = About {
    id: "jwks",
    tag: PUBLIC,
    summary: "Public keys of tokens, signed introspection answers, status lists and audit checkpoints",
    text: "RFC 7517. A new key stands here before it signs.",
    params: &[],
    takes: Takes::Nothing,
    gives: &[typed("The keys.", &[("application/jwk-set+json", KEYS)])],
    refuses: NO_MORE,
};

pub const RESOURCE_METADATA: About = About {
    id: "protectedResource",
    tag: PUBLIC,
    summary: "Whose tokens a door for operators takes",
    text: "RFC 9728, of each door of the administration and of the events. A 401 of such a door names its document in `resource_metadata`.",
    params: &[path(
        "resource",
        r#"{"type":"string","pattern":"^(admin/v1/[a-z]+|events)$"}"#,
        "The door's path, below the issuer's.",
    )],
    takes: Takes::Nothing,
    gives: &[typed("The metadata.", &[("application/json", OBJECT)])],
    refuses: NO_MORE,
};

pub const STATUS_LISTS: About = About {
    id: "statusLists",
    tag: PUBLIC,
    summary: "Where every token status list is",
    text: "The aggregation of draft-ietf-oauth-status-list-21 section 9.3.",
    params: &[],
    takes: Takes::Nothing,
    gives: &[typed(
        "The lists.",
        &[(
            "application/json",
            r#"{"type":"object","required":["status_lists"],"properties":{"status_lists":{"type":"array","items":{"type":"string","format":"uri"}}}}"#,
        )],
    )],
    refuses: NO_MORE,
};

pub const STATUS_LIST: About = About {
    id: "statusList",
    tag: PUBLIC,
    summary: "Which tokens were ended before their time, for those who only verify signatures",
    text: "A token status list (draft-ietf-oauth-status-list-21), signed: one bit for each token that points to it, 1 once the token \
is over. True, or refused with 503. Of the past nothing is kept: with `time` the answer is 501.",
    params: &[
        path(
            "list",
            r#"{"type":"integer","minimum":0,"maximum":63}"#,
            "As in the `uri` of a token's `status.status_list`.",
        ),
        header("If-None-Match", "The `ETag` of the list that is known."),
        header("Accept-Encoding", "`gzip`, or the list is sent as it is."),
    ],
    takes: Takes::Nothing,
    gives: &[
        typed("The list.", &[("application/statuslist+jwt", TEXT)]),
        Gives {
            status: 304,
            text: "It is the one that is known.",
            content: Content::Empty,
        },
    ],
    refuses: Refuses::These(&[Reason::NotFound, Reason::HistoryNotKept, Reason::StaleView]),
};

const METADATA: About = About {
    id: "",
    tag: PUBLIC,
    summary: "What is offered here, and where",
    text: "RFC 8414 and OpenID Connect Discovery: the same document.",
    params: &[],
    takes: Takes::Nothing,
    gives: &[typed(
        "The metadata.",
        &[(
            "application/json",
            r#"{"type":"object","required":["issuer","token_endpoint","jwks_uri","response_types_supported","grant_types_supported"],"properties":{"issuer":{"type":"string","format":"uri"},"token_endpoint":{"type":"string","format":"uri"},"jwks_uri":{"type":"string","format":"uri"},"response_types_supported":{"type":"array","items":{"type":"string"}},"grant_types_supported":{"type":"array","items":{"type":"string"}}}}"#,
        )],
    )],
    refuses: NO_MORE,
};

pub const OAUTH_METADATA: About = About {
    id: "oauthMetadata",
    ..METADATA
};

pub const OPENID_METADATA: About = About {
    id: "openidMetadata",
    ..METADATA
};

pub const OPENAPI: About = About {
    id: "openapi",
    summary: "This document",
    text: "OpenAPI 3.1.",
    gives: &[typed("The document.", &[("application/json", OBJECT)])],
    ..METADATA
};

const FEDERATED: Param = path(
    "target",
    TARGET,
    "A target that trusts an issuer of its own.",
);

pub const FEDERATION_METADATA: About = About {
    id: "federationMetadata",
    summary: "The issuer that one target's cloud trusts",
    text: "OpenID Connect Discovery.",
    params: &[FEDERATED],
    gives: &[typed(
        "The metadata.",
        &[(
            "application/json",
            r#"{"type":"object","required":["issuer","jwks_uri"],"properties":{"issuer":{"type":"string","format":"uri"},"jwks_uri":{"type":"string","format":"uri"}}}"#,
        )],
    )],
    ..METADATA
};

pub const FEDERATION_KEYS: About = About {
    id: "federationJwks",
    summary: "The public keys that one target's cloud trusts",
    text: "RFC 7517. No access token is signed with any of them.",
    params: &[FEDERATED],
    ..KEY_SET
};

const PROBE: About = About {
    tag: PROBES,
    text: "",
    id: "",
    summary: "",
    params: &[],
    takes: Takes::Nothing,
    gives: &[],
    refuses: NO_MORE,
};

pub const LIVEZ: About = About {
    id: "livez",
    summary: "The process runs",
    text: "And answers; nothing else is asked of it.",
    gives: &[typed("It does.", &[("text/plain", TEXT)])],
    ..PROBE
};

pub const READYZ: About = About {
    id: "readyz",
    summary: "This replica would answer a request now",
    text: "If not, why. `warnings`: what somebody must look at and what stops nothing here (the audit cannot be exported). `view_age_ms`: how old what it knows of revocations is, `null` until it has read them once.",
    gives: &[
        typed(
            "It would.",
            &[(
                "application/json",
                r#"{"type":"object","required":["ready","warnings"],"properties":{"ready":{"const":true},"warnings":{"type":"array","items":{"type":"string"}},"view_age_ms":{"type":["integer","null"],"minimum":0}}}"#,
            )],
        ),
        Gives {
            status: 503,
            text: "It would not; `why` says so.",
            content: Content::Typed(&[(
                "application/json",
                r##"{"anyOf":[{"type":"object","required":["ready","why","warnings"],"properties":{"ready":{"const":false},"why":{"type":"array","items":{"type":"string"}},"warnings":{"type":"array","items":{"type":"string"}},"view_age_ms":{"type":["integer","null"],"minimum":0}}},{"$ref":"#/components/schemas/ErrorBody"}]}"##,
            )]),
        },
    ],
    ..PROBE
};

pub const METRICS: About = About {
    id: "metrics",
    summary: "For Prometheus",
    text: "Text format 0.0.4.",
    gives: &[typed("The metrics.", &[("text/plain", TEXT)])],
    ..PROBE
};
