//! What the document says of each door that the table does not: one constant a door.

mod admin;
mod oauth;
mod people;
mod published;

pub use admin::{
    A_LEASE_BY_ID, AGENTS, AN_AGENT, AUDIT, CONFIGURATION, END_CONTEXT, ENROLLED_KEYS, EXPLAIN,
    FIND, GIVE_UP_LEASE, INVITE, LEASES, LIFT, LIFT_RESTRICTION, PUBLISH_CONFIGURATION,
    REGISTER_AGENT, REMOVE_AGENT, RESTRICT, RESTRICTIONS, REVIEW, REVIEWS, REVOCATION, REVOKE,
    ROTATE, SIGHTING_BY_ID, SIGHTINGS,
};
pub use oauth::{
    A_USER, ENROL, EVENTS, EVENTS_BY_FORM, EXCHANGE, FIND_USER, INTROSPECT, PATCH_USER, RELEASE,
    WEBHOOK,
};
pub use people::{AN_APPROVAL, APPROVALS, APPROVE, DENY};
pub use published::{
    AUTHORIZE, FEDERATION_KEYS, FEDERATION_METADATA, KEY_SET, LIVEZ, METRICS, OAUTH_METADATA,
    OPENAPI, OPENID_METADATA, READYZ, RESOURCE_METADATA, STATUS_LIST, STATUS_LISTS,
};

use crate::broker::Reason;
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema};

/// Beside a route, by name: the table does not compile without it.
#[derive(Debug)]
pub struct About {
    /// `operationId`: what generated clients call it.
    pub id: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub text: &'static str,
    pub params: &'static [Param],
    pub takes: Takes,
    pub gives: &'static [Gives],
    pub refuses: Refuses,
}

#[derive(Debug)]
pub struct Param {
    pub name: &'static str,
    pub place: Place,
    /// JSON Schema, as are all of them here.
    pub schema: &'static str,
    pub text: &'static str,
}

impl Param {
    pub fn required(&self) -> bool {
        self.place == Place::Path
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Path,
    Query,
    Header,
}

impl Place {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
        }
    }
}

#[derive(Debug)]
pub enum Takes {
    Nothing,
    Form {
        fields: &'static [Field],
        example: &'static str,
    },
    Json(Body),
    /// Somebody else's JSON, whatever its content type.
    Message {
        schema: &'static str,
        example: &'static str,
    },
}

#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub required: bool,
    pub schema: &'static str,
    pub text: &'static str,
}

/// A wire type with an example.
#[derive(Debug, Clone, Copy)]
pub struct Body {
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    pub example: &'static str,
}

#[derive(Debug)]
pub struct Gives {
    pub status: u16,
    pub text: &'static str,
    pub content: Content,
}

#[derive(Debug, Clone, Copy)]
pub enum Content {
    Empty,
    Json(Body),
    /// Media types with their schemas.
    Typed(&'static [(&'static str, &'static str)]),
}

/// What this door is refused for, beside what its kind is.
#[derive(Debug)]
pub enum Refuses {
    These(&'static [Reason]),
    LikeAnExchange,
}

const NO_MORE: Refuses = Refuses::These(&[]);

const fn body<T: JsonSchema>(example: &'static str) -> Body {
    Body {
        schema: |schemas| schemas.subschema_for::<T>(),
        example,
    }
}

const fn ok(text: &'static str, body: Body) -> Gives {
    Gives {
        status: 200,
        text,
        content: Content::Json(body),
    }
}

const fn typed(text: &'static str, kinds: &'static [(&'static str, &'static str)]) -> Gives {
    Gives {
        status: 200,
        text,
        content: Content::Typed(kinds),
    }
}

const fn path(name: &'static str, schema: &'static str, text: &'static str) -> Param {
    Param {
        name,
        place: Place::Path,
        schema,
        text,
    }
}

const fn query(name: &'static str, schema: &'static str, text: &'static str) -> Param {
    Param {
        name,
        place: Place::Query,
        schema,
        text,
    }
}

const fn header(name: &'static str, text: &'static str) -> Param {
    Param {
        name,
        place: Place::Header,
        schema: TEXT,
        text,
    }
}

/// RFC 9449: at the doors that read it.
pub const PROOF: Param = header(
    "DPoP",
    "RFC 9449: a proof of possession for this request, with the nonce of an earlier answer.",
);

const fn field(name: &'static str, schema: &'static str, text: &'static str) -> Field {
    Field {
        name,
        required: false,
        schema,
        text,
    }
}

const fn required(name: &'static str, schema: &'static str, text: &'static str) -> Field {
    Field {
        name,
        required: true,
        schema,
        text,
    }
}

pub const DOCUMENT: &str = "An agent proves who it is, signs why it asks, and gets a credential that is narrow, minutes \
long, recorded and killable. Every refusal has one shape (`ErrorBody`); `dayfly_reason` is told once the caller is known. Unknown form \
parameters are ignored; unknown members of JSON bodies and of the administration's queries are refused. A path answers other methods with \
405 and an `Allow` header, and an unknown path with 404, both in the shape of a refusal.";

const OAUTH: &str = "OAuth";
const PUBLIC: &str = "Published";
const ADMIN: &str = "Administration";
const PLATFORM: &str = "Platform";
const PROBES: &str = "Probes";

pub const TAGS: &[(&str, &str)] = &[
    (
        OAUTH,
        "Credentials: had, asked about, given back (RFC 6749, 7009, 7523, 7662, 8693, 9396).",
    ),
    (
        PUBLIC,
        "What the broker says of itself (RFC 7517, RFC 8414, OpenID Connect Discovery).",
    ),
    (
        ADMIN,
        "For operators: what lives, whose it is, and its end.",
    ),
    (PLATFORM, "Signed messages: something outside is over."),
    (PROBES, "On a listener of their own."),
];

const TEXT: &str = r#"{"type":"string"}"#;
const TOKEN: &str = r#"{"type":"string","minLength":1,"maxLength":16384}"#;
/// Empty counts as absent.
const MAY_BE_EMPTY: &str = r#"{"type":"string","maxLength":16384}"#;
const FLAG: &str = r#"{"type":"boolean"}"#;
const LIMIT: &str = r#"{"type":"integer","minimum":1,"maximum":1000,"default":100}"#;
const OBJECT: &str = r#"{"type":"object"}"#;
const AGENT: &str = r##"{"$ref":"#/components/schemas/AgentId"}"##;
const MISSION: &str = r##"{"$ref":"#/components/schemas/MissionId"}"##;
const TARGET: &str = r##"{"$ref":"#/components/schemas/TargetId"}"##;
const LEASE: &str = r##"{"$ref":"#/components/schemas/LeaseId"}"##;
