//! The claim set of an intent: closed, bounded, and about exactly one target.
//!
//! In: verified claims. Out: [`Signed`], or the member that is wrong. RFC 7519, RFC 9396; prose
//! is kept for people and is checked only for what would deceive them.

use super::IntentError;
use crate::authority::AuthorizationDetail;
use crate::identity::{Confirmation, is_thumbprint, sole_audience};
use crate::ids::MissionId;
use crate::jose::claims::times;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Longest accepted exp - iat.
pub const MAX_LIFETIME: Duration = Duration::from_secs(300);

const MAX_CLAIMS_BYTES: usize = 8 * 1024;
const MAX_GOAL_CHARS: usize = 4096;
const MAX_DETAILS: usize = 16;
const MAX_ITEMS: usize = 128;
const MAX_EVIDENCE: usize = 4;
const MAX_DEPTH: usize = 5;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClaimFault {
    #[error("its claims are larger than 8 KiB")]
    TooLarge,
    #[error("`{0}` is no claim of an intent, or not of the right kind: {1}")]
    Shape(&'static str, String),
    #[error("`aud` must be this broker's issuer URL and nothing else")]
    Audience,
    #[error("`iat` is missing")]
    IssuedAt,
    #[error("`{0}` must be {1}")]
    Value(&'static str, &'static str),
    #[error(
        "`sub` is neither `client_id` nor whom the subject token is of, or `act` is not the client"
    )]
    OnBehalf,
    #[error("`intent.expires_at` is past: the purpose has ended")]
    GoalEnded,
}

/// `at` is a path within `authorization_details`, e.g. `[0].actions`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{at}: {fault}")]
pub struct DetailFault {
    pub at: String,
    pub fault: String,
}

/// What the signature stands under.
#[derive(Debug)]
pub(crate) struct Signed {
    pub issuer: String,
    pub subject: String,
    pub client_id: String,
    /// `act.sub`.
    pub actor: Option<String>,
    pub jti: String,
    pub expires_at: OffsetDateTime,
    pub confirmed_key: Option<Confirmation>,
    pub subject_token_hash: Option<String>,
    pub actor_token_hash: Option<String>,
    pub mission: Option<MissionId>,
    pub authorization_details: Vec<AuthorizationDetail>,
    pub goal: String,
    pub goal_ends: Option<OffsetDateTime>,
    pub task: Option<String>,
    pub instance: Option<String>,
    pub declared: Map<String, Value>,
    /// Compact JWS. Unverified.
    pub evidence: Vec<String>,
}

/// The whole of the top level. The times and the audience are read from the claims themselves.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    iss: String,
    sub: String,
    client_id: String,
    #[serde(rename = "aud")]
    _aud: Value,
    #[serde(rename = "iat")]
    _iat: Value,
    #[serde(rename = "nbf", default)]
    _nbf: Option<Value>,
    #[serde(rename = "exp")]
    _exp: Value,
    jti: String,
    txn: Option<String>,
    instance: Option<String>,
    cnf: Option<Confirmation>,
    act: Option<Actor>,
    mission: Option<MissionMember>,
    #[serde(default)]
    authorization_details: Option<Vec<Value>>,
    intent: Prose,
    #[serde(default)]
    tctx: Map<String, Value>,
    subject_token_hash: Option<String>,
    actor_token_hash: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Actor {
    sub: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MissionMember {
    id: MissionId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prose {
    goal: String,
    expires_at: Option<String>,
}

impl Signed {
    pub(crate) fn read(
        claims: &Map<String, Value>,
        broker_url: &str,
        now: OffsetDateTime,
    ) -> Result<Self, IntentError> {
        if serde_json::to_vec(claims).map_or(usize::MAX, |bytes| bytes.len()) > MAX_CLAIMS_BYTES {
            return Err(ClaimFault::TooLarge.into());
        }
        if sole_audience(claims) != Some(broker_url) {
            return Err(ClaimFault::Audience.into());
        }
        if !claims.contains_key("iat") {
            return Err(ClaimFault::IssuedAt.into());
        }
        let times = times(claims, now, MAX_LIFETIME)?;
        let members = Members::deserialize(Value::Object(claims.clone()))
            .map_err(|error| ClaimFault::Shape("claims", error.to_string()))?;
        check_members(&members)?;
        let goal_ends = goal_ends(&members.intent, now)?;
        let (declared, evidence) = check_declared(members.tctx)?;
        let authorization_details = match members.authorization_details {
            Some(values) => details(values)?,
            // All that the mission grants on the target of the request: then the mission is signed.
            None if members.mission.is_some() => Vec::new(),
            None => return Err(missing_details().into()),
        };
        Ok(Self {
            issuer: members.iss,
            subject: members.sub,
            actor: members.act.map(|actor| actor.sub),
            client_id: members.client_id,
            jti: members.jti,
            expires_at: times.expires_at,
            confirmed_key: members.cnf,
            subject_token_hash: members.subject_token_hash,
            actor_token_hash: members.actor_token_hash,
            mission: members.mission.map(|mission| mission.id),
            authorization_details,
            goal: members.intent.goal,
            goal_ends,
            task: members.txn,
            instance: members.instance,
            declared,
            evidence,
        })
    }
}

fn check_members(members: &Members) -> Result<(), ClaimFault> {
    if !is_label(&members.jti, 256) {
        return Err(ClaimFault::Value("jti", LABEL_256));
    }
    if members.txn.as_ref().is_some_and(|txn| !is_label(txn, 128)) {
        return Err(ClaimFault::Value("txn", LABEL_128));
    }
    if members
        .instance
        .as_ref()
        .is_some_and(|instance| !is_label(instance, 63))
    {
        return Err(ClaimFault::Value("instance", LABEL_63));
    }
    if members
        .cnf
        .as_ref()
        .is_some_and(|confirmation| !confirmation.is_well_formed())
    {
        return Err(ClaimFault::Value(
            "cnf",
            "a SHA-256 thumbprint as `jkt` or `x5t#S256`",
        ));
    }
    let hashes = [
        ("subject_token_hash", &members.subject_token_hash),
        ("actor_token_hash", &members.actor_token_hash),
    ];
    for (name, hash) in hashes {
        if hash.as_ref().is_some_and(|hash| !is_thumbprint(hash)) {
            return Err(ClaimFault::Value(
                name,
                "a SHA-256 in base64url without padding",
            ));
        }
    }
    check_prose(&members.intent.goal)
}

const LABEL_63: &str = "1 to 63 of letters, digits and `._:/@+=-`";
const LABEL_128: &str = "1 to 128 of letters, digits and `._:/@+=-`";
const LABEL_256: &str = "1 to 256 of letters, digits and `._:/@+=-`";

fn is_label(text: &str, max: usize) -> bool {
    !text.is_empty()
        && text.len() <= max
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:/@+=-".contains(&byte))
}

/// People approve what they read, so what is read must be what is there: no control characters,
/// nothing that turns the direction of text around.
fn check_prose(goal: &str) -> Result<(), ClaimFault> {
    let deceives = |letter: char| {
        (letter.is_control() && letter != '\n' && letter != '\t')
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if goal.trim().is_empty() || goal.chars().count() > MAX_GOAL_CHARS || goal.chars().any(deceives)
    {
        return Err(ClaimFault::Value(
            "intent.goal",
            "1 to 4096 characters, without control or direction characters",
        ));
    }
    Ok(())
}

fn goal_ends(prose: &Prose, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, ClaimFault> {
    let Some(text) = &prose.expires_at else {
        return Ok(None);
    };
    let ends = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| ClaimFault::Value("intent.expires_at", "an RFC 3339 time"))?;
    if ends <= now {
        return Err(ClaimFault::GoalEnded);
    }
    Ok(Some(ends))
}

/// Declared facts are kept as they are, so they are kept small. Evidence is no such fact.
fn check_declared(
    mut tctx: Map<String, Value>,
) -> Result<(Map<String, Value>, Vec<String>), ClaimFault> {
    if tctx.len() > MAX_ITEMS || !tctx.values().all(|value| is_shallow(value, MAX_DEPTH - 1)) {
        return Err(ClaimFault::Value(
            "tctx",
            "an object of at most 5 levels and 128 members each",
        ));
    }
    let wrong = || ClaimFault::Value("tctx.evidence", "a list of at most 4 compact JWS");
    let evidence = match tctx.remove("evidence") {
        None => Vec::new(),
        Some(Value::Array(items)) if items.len() <= MAX_EVIDENCE => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(wrong()),
    };
    Ok((tctx, evidence))
}

fn is_shallow(value: &Value, levels: usize) -> bool {
    match value {
        Value::Object(members) => {
            levels > 0
                && members.len() <= MAX_ITEMS
                && members.values().all(|value| is_shallow(value, levels - 1))
        }
        Value::Array(items) => {
            levels > 0
                && items.len() <= MAX_ITEMS
                && items.iter().all(|value| is_shallow(value, levels - 1))
        }
        _ => true,
    }
}

fn missing_details() -> DetailFault {
    DetailFault {
        at: String::new(),
        fault: "an intent without them must name its mission".to_owned(),
    }
}

fn details(values: Vec<Value>) -> Result<Vec<AuthorizationDetail>, DetailFault> {
    let fault = |at: String, fault: &str| DetailFault {
        at,
        fault: fault.to_owned(),
    };
    if values.is_empty() || values.len() > MAX_DETAILS {
        return Err(fault("[]".to_owned(), "1 to 16 members"));
    }
    let mut details: Vec<AuthorizationDetail> = Vec::new();
    for (place, value) in values.into_iter().enumerate() {
        let detail = AuthorizationDetail::deserialize(value)
            .map_err(|error| fault(format!("[{place}]"), &error.to_string()))?;
        check_detail(&detail)
            .map_err(|(member, text)| fault(format!("[{place}].{member}"), text))?;
        if let Some(first) = details.first()
            && (first.identifier != detail.identifier || first.kind != detail.kind)
        {
            return Err(fault(
                format!("[{place}].identifier"),
                "an intent is about one target: the same `type` and `identifier` in every member",
            ));
        }
        details.push(detail);
    }
    Ok(details)
}

fn check_detail(detail: &AuthorizationDetail) -> Result<(), (&'static str, &'static str)> {
    let is_text = |text: &String| {
        !text.is_empty() && text.chars().count() <= 2048 && !text.chars().any(char::is_control)
    };
    if !is_label(&detail.kind, 63) {
        return Err(("type", LABEL_63));
    }
    if !is_text(&detail.identifier) {
        return Err(("identifier", "1 to 2048 characters"));
    }
    if detail.actions.is_empty() || detail.actions.len() > MAX_ITEMS {
        return Err(("actions", "1 to 128 members"));
    }
    if !detail.actions.iter().all(is_text) {
        return Err(("actions", "strings of 1 to 2048 characters"));
    }
    if detail.locations.len() > MAX_ITEMS || !detail.locations.iter().all(is_text) {
        return Err(("locations", "at most 128 strings of 1 to 2048 characters"));
    }
    if detail.max_ttl == Some(0) {
        return Err(("max_ttl", "at least 1 second"));
    }
    Ok(())
}
