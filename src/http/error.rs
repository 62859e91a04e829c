//! From a [`Reason`] to the wire: status, OAuth error, one fixed sentence. The only place.
//!
//! RFC 6749 section 5.2 in shape, RFC 8693 section 2.2.2 and RFC 9396 section 5 in codes. Until
//! the caller is matched to an agent in standing and to its own mission, every refusal that would
//! tell what exists wears one generic face. A refusal is logged here, once, under its id.

use crate::broker::Reason;
use crate::broker::Refusal;
use crate::jose::Algorithm;
use crate::telemetry;
use crate::telemetry::field;
use crate::wire::ErrorBody;
use crate::wire::Retry;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Who may see a face of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Anyone: it tells of the request itself, or of the broker's health.
    Always,
    /// Whoever was found to be an agent in standing, asking within a mission of its own.
    WhenExact,
    /// Nobody: it would tell which agents and missions exist.
    Never,
}

/// What the wire shows of a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Face {
    pub status: StatusCode,
    /// The `error` member.
    pub error: &'static str,
    /// The `error_description` member. ASCII without `"` and `\` (RFC 6749 section 5.2).
    pub description: &'static str,
    pub shown: Shown,
}

/// The face of everything that may not be told apart.
pub(super) const GENERIC: Face = Face {
    status: StatusCode::BAD_REQUEST,
    error: "invalid_request",
    description: "The request was refused. Its owner or an operator can have it explained by its refusal_id.",
    shown: Shown::Always,
};

/// Seconds to wait where nothing better is known.
const RETRY_AFTER: u32 = 2;

/// What the wire shows of this reason to those who may see it.
pub fn face(reason: Reason) -> Face {
    let (status, error, shown) = code(reason);
    Face {
        status,
        error,
        description: description(reason),
        shown,
    }
}

fn code(reason: Reason) -> (StatusCode, &'static str, Shown) {
    use Shown::{Always, Never, WhenExact};
    const REQUEST: &str = "invalid_request";
    const AUTHORITY: &str = "invalid_authorization_details";
    const TARGET: &str = "invalid_target";
    const CLIENT: &str = "invalid_client";
    const LATER: &str = "temporarily_unavailable";
    let bad = StatusCode::BAD_REQUEST;
    match reason {
        Reason::MalformedRequest => (bad, REQUEST, Always),
        Reason::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, REQUEST, Always),
        Reason::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, REQUEST, Always),
        Reason::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, LATER, Always),
        Reason::UnsupportedGrantType => (bad, "unsupported_grant_type", Always),
        Reason::UnsupportedResponseType => (bad, "unsupported_response_type", Always),
        Reason::HistoryNotKept => (StatusCode::NOT_IMPLEMENTED, REQUEST, Always),
        Reason::RequestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, Always),

        Reason::NoProof | Reason::InvalidClient => (StatusCode::UNAUTHORIZED, CLIENT, Always),
        // RFC 8693 section 2.2.2: `invalid_request`, for whatever reason; not `invalid_grant`.
        Reason::InvalidToken | Reason::TokenSpent => (bad, REQUEST, Always),
        // RFC 7523 section 3.1.
        Reason::InvalidAssertion => (bad, "invalid_grant", Always),
        Reason::InvalidDpopProof | Reason::DpopProofSpent => (bad, "invalid_dpop_proof", Always),
        Reason::UseDpopNonce => (bad, "use_dpop_nonce", Always),
        Reason::UnknownAgent | Reason::AgentNotInStanding => (bad, REQUEST, Never),

        Reason::InvalidIntent | Reason::IntentSpent => (bad, REQUEST, Always),

        Reason::OtherKeyPinned => (bad, REQUEST, WhenExact),
        Reason::UnknownMission => (bad, REQUEST, Never),
        Reason::AmbiguousMission
        | Reason::MissionEnded
        | Reason::SignerNotAccepted
        | Reason::SubjectNotAccepted
        | Reason::ActorNotAccepted
        | Reason::ParentNotAlive
        | Reason::ParentKeyNotProved
        | Reason::ChainTooDeep => (bad, REQUEST, WhenExact),
        Reason::UnknownTarget => (bad, TARGET, WhenExact),
        Reason::InvalidTarget => (bad, TARGET, Always),
        Reason::InvalidScope => (bad, "invalid_scope", Always),
        Reason::InvalidAuthorizationDetails => (bad, AUTHORITY, Always),
        Reason::ExceedsIntent
        | Reason::ExceedsMission
        | Reason::ExceedsAgentCeiling
        | Reason::ExceedsTargetCeiling
        | Reason::ExceedsPeopleCeiling
        | Reason::ExceedsParent
        | Reason::Restricted
        | Reason::Undecidable
        | Reason::LifetimeOutOfRange
        | Reason::TargetInexpressible
        | Reason::ForbiddenByPolicy => (bad, AUTHORITY, WhenExact),
        Reason::RequirementUnmet
        | Reason::ConditionUnmet
        | Reason::CredentialNotBindable
        | Reason::TetherMissing
        | Reason::Held
        | Reason::RevokedMeanwhile => (bad, REQUEST, WhenExact),

        // As RFC 8628 section 3.5 has both, and Deferred Token Response after it.
        Reason::ApprovalRequired => (bad, "authorization_pending", WhenExact),
        Reason::ApprovalDenied => (bad, "access_denied", WhenExact),

        Reason::TooManyLeases | Reason::TooManyRequests => {
            (StatusCode::TOO_MANY_REQUESTS, LATER, Always)
        }

        Reason::TargetRefused => (bad, TARGET, WhenExact),
        Reason::TargetUnavailable
        | Reason::IssuerUnavailable
        | Reason::StoreUnavailable
        | Reason::StaleView
        | Reason::ClockSkewed
        | Reason::ConfigurationSuperseded
        | Reason::StaleConfiguration
        | Reason::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, LATER, Always),
        Reason::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", Always),

        Reason::NotAuthenticated => (StatusCode::UNAUTHORIZED, CLIENT, Always),
        Reason::NotPermitted => (StatusCode::FORBIDDEN, "access_denied", Always),
        Reason::NotFound => (StatusCode::NOT_FOUND, "not_found", Always),
        Reason::ConfigurationRefused | Reason::AgentRefused => {
            (StatusCode::UNPROCESSABLE_ENTITY, REQUEST, Always)
        }
        Reason::PublishedMeanwhile | Reason::RegisteredMeanwhile | Reason::LeaseReadable => {
            (StatusCode::CONFLICT, REQUEST, Always)
        }
    }
}

const MALFORMED: &str = "The request is not well formed, or the parameter named in at is missing, repeated, out of bounds or not accepted.";
const MEDIA_TYPE: &str = "Send application/x-www-form-urlencoded to the OAuth endpoints, application/json to the administration, neither compressed.";

#[expect(
    clippy::too_many_lines,
    reason = "a table with a line for each reason, which the compiler holds to be whole"
)]
fn description(reason: Reason) -> &'static str {
    match reason {
        Reason::MalformedRequest => MALFORMED,
        Reason::UnsupportedMediaType => MEDIA_TYPE,
        Reason::MethodNotAllowed => "This path answers other methods: see the Allow header.",
        Reason::RequestTimeout => "The request did not arrive in time.",
        Reason::UnsupportedGrantType => {
            "Use token exchange (RFC 8693), client_credentials or jwt-bearer (RFC 7523)."
        }
        Reason::UnsupportedResponseType => {
            "No flow begins in a browser here: ask for tokens at the token endpoint."
        }
        Reason::HistoryNotKept => "Lists of the past are not kept: ask without time.",
        Reason::RequestTooLarge => "The request body is larger than 64 KiB.",
        Reason::NoProof => {
            "No proof of identity came with the request: send a subject_token or a client_assertion."
        }
        Reason::InvalidClient => "The client could not be authenticated.",
        Reason::InvalidToken => "The subject_token was not accepted.",
        Reason::InvalidAssertion => "The assertion was not accepted, or was used before.",
        Reason::TokenSpent => "The subject_token is single use and was used before.",
        Reason::InvalidDpopProof => "The DPoP proof was not accepted, or is missing.",
        Reason::UseDpopNonce => "Make another DPoP proof, with the nonce in the DPoP-Nonce header.",
        Reason::DpopProofSpent => "The DPoP proof was used before: make one for each request.",
        Reason::UnknownAgent | Reason::AgentNotInStanding | Reason::UnknownMission => {
            GENERIC.description
        }
        Reason::InvalidIntent => "The intent was not accepted.",
        Reason::OtherKeyPinned => "This instance of the agent has signed with another key before.",
        Reason::IntentSpent => "The intent was used before: sign a new one.",
        Reason::AmbiguousMission => {
            "Several missions fit: name one in the intent or with scope mission:NAME."
        }
        Reason::MissionEnded => "The mission is past its end date.",
        Reason::SignerNotAccepted => {
            "The mission does not accept an intent signed by this class of signer."
        }
        Reason::SubjectNotAccepted => {
            "The mission is not given on behalf of this subject, or not in this way."
        }
        Reason::ActorNotAccepted => "The subject does not let this agent act for it.",
        Reason::ParentNotAlive => "The lease of the subject_token is over.",
        Reason::ParentKeyNotProved => {
            "The subject_token is bound to a key that this request does not prove."
        }
        Reason::ChainTooDeep => "More than three agents would act one for another.",
        Reason::UnknownTarget => "None of the agent's missions has this target.",
        Reason::InvalidTarget => {
            "resource must be an absolute URI without a fragment, and one target is named in all."
        }
        Reason::InvalidScope => "The scope is malformed, or names several missions.",
        Reason::InvalidAuthorizationDetails => {
            "authorization_details is malformed, too large, or has unknown fields."
        }
        Reason::ExceedsIntent => "The request asks for more than the signed intent.",
        Reason::ExceedsMission => "The request asks for more than the mission allows.",
        Reason::ExceedsAgentCeiling => "The request asks for more than the agent's ceiling.",
        Reason::ExceedsTargetCeiling => "The request asks for more than the target's ceiling.",
        Reason::ExceedsPeopleCeiling => {
            "The request asks for more than agents may do for this person."
        }
        Reason::ExceedsParent => "The request asks for more than the lease that is handed on.",
        Reason::Restricted => {
            "A restriction takes something of what was asked away, for now: ask without it."
        }
        Reason::Undecidable => "A pattern in the request cannot be compared with what is allowed.",
        Reason::LifetimeOutOfRange => {
            "The lifetime asked for is shorter than the target can give, or longer than allowed."
        }
        Reason::RequirementUnmet => {
            "A verified fact that the mission requires is absent or has another value."
        }
        Reason::CredentialNotBindable => {
            "This target gives nothing that a DPoP proof or a certificate can bind."
        }
        Reason::ConditionUnmet => "The mission's condition does not hold.",
        Reason::ForbiddenByPolicy => "An organisation-wide policy forbids it.",
        Reason::TetherMissing => {
            "The fact that the credential would hang on is not proved by this request."
        }
        Reason::Held => "A hold stands on something that this request names.",
        Reason::ApprovalRequired => {
            "People have to approve it: ask for the same again until they have, no faster than interval says."
        }
        Reason::ApprovalDenied => "The people who were asked have not approved it.",
        Reason::TooManyLeases => "The agent holds as many live credentials as it may.",
        Reason::TooManyRequests => "Too many requests: wait as long as Retry-After says.",
        Reason::RevokedMeanwhile => "Revoked while it was being made; nothing was handed out.",
        Reason::TargetRefused => "The target refused to mint.",
        Reason::TargetInexpressible => {
            "The grant cannot be put in the target's own terms without widening it: ask for less."
        }
        Reason::TargetUnavailable => "The target cannot be reached; nothing was minted.",
        Reason::IssuerUnavailable => "The keys of the token's issuer cannot be had now.",
        Reason::StoreUnavailable
        | Reason::StaleView
        | Reason::ClockSkewed
        | Reason::ConfigurationSuperseded
        | Reason::StaleConfiguration
        | Reason::Overloaded => "The broker cannot vouch for anything now; nothing was handed out.",
        Reason::Internal => {
            "A fault of the broker's own; its log has the cause under the refusal_id."
        }
        Reason::NotAuthenticated => "Authentication is missing or was not accepted.",
        Reason::NotPermitted => "The caller may not do this.",
        Reason::NotFound => "There is nothing under this name.",
        Reason::LeaseReadable => {
            "The lease can be read, so nobody gives it up: revoke it, and it is ended."
        }
        Reason::ConfigurationRefused => "The configuration was not published: see problems.",
        Reason::AgentRefused => "The agent was not registered: see problems.",
        Reason::RegisteredMeanwhile => {
            "Somebody else registered, changed or removed an agent meanwhile: look at it, and ask again."
        }
        Reason::PublishedMeanwhile => {
            "Somebody else published a configuration meanwhile: look at it, and publish again."
        }
    }
}

/// How a 401 asks for authentication (RFC 9110 section 11.6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Challenge {
    /// The `Authorization` header was not used: RFC 6749 asks for no challenge.
    #[default]
    None,
    Basic,
    /// RFC 6750 section 3, RFC 9449 section 7.1. `true`: a bearer token was sent and was no good.
    Token(bool),
    /// RFC 9449 section 7.1: a proof, or the token beside it, was no good.
    Dpop,
}

/// A refusal at a door, on its way to being an answer.
#[derive(Debug)]
pub struct Refused {
    refusal: Box<Refusal>,
    challenge: Challenge,
}

impl Refused {
    pub fn new(refusal: Refusal, challenge: Challenge) -> Self {
        Self {
            refusal: Box::new(refusal),
            challenge,
        }
    }

    pub fn reason(&self) -> Reason {
        self.refusal.reason
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal, Challenge::None)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self { refusal, challenge } = self;
        log(&refusal);
        telemetry::refused(refusal.reason.code());
        let (face, body) = told(&refusal);
        let status = match (challenge, face.status) {
            // RFC 9449 sections 7.1 and 9: at a resource a bad proof is missing authentication.
            (Challenge::Dpop, StatusCode::BAD_REQUEST) => StatusCode::UNAUTHORIZED,
            (_, status) => status,
        };
        let mut response = (status, Json(&body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        if body.retry == Retry::After {
            let seconds = refusal.retry_after.unwrap_or(RETRY_AFTER);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            for asked in challenges(challenge, face.error) {
                if let Ok(asked) = HeaderValue::from_str(&asked) {
                    headers.append(header::WWW_AUTHENTICATE, asked);
                }
            }
        }
        response
    }
}

/// What whoever asked is told.
pub(super) fn told(refusal: &Refusal) -> (Face, ErrorBody) {
    let own = face(refusal.reason);
    // SECURITY: everything not shown has one face, `retry` included.
    let shown = match own.shown {
        Shown::Always => true,
        Shown::WhenExact => refusal.exact,
        Shown::Never => false,
    };
    let face = if shown { own } else { GENERIC };
    let exact = shown && refusal.exact;
    let pending = refusal.pending().filter(|_| exact);
    let body = ErrorBody {
        error: face.error.to_owned(),
        error_description: face.description.to_owned(),
        dayfly_reason: exact.then(|| refusal.reason.code().to_owned()),
        at: refusal.at.clone().filter(|_| exact),
        refusal_id: refusal.id.to_string(),
        deferral_code: pending.map(|one| one.approval.clone()),
        interval: pending.map(|one| one.interval),
        expires_in: pending.map(|one| one.expires_in),
        problems: refusal.problems().to_vec(),
        retry: if shown {
            refusal.reason.retry()
        } else {
            Retry::Never
        },
    };
    (face, body)
}

/// One header each: not every client reads two challenges from one.
fn challenges(challenge: Challenge, error: &str) -> Vec<String> {
    let bearer = r#"Bearer realm="dayfly""#;
    let dpop = |error: &str| {
        let algorithms = Algorithm::ALL.map(Algorithm::name).join(" ");
        format!(r#"DPoP realm="dayfly"{error}, algs="{algorithms}""#)
    };
    match challenge {
        Challenge::None => Vec::new(),
        Challenge::Basic => vec![r#"Basic realm="dayfly", charset="UTF-8""#.to_owned()],
        Challenge::Token(false) => vec![bearer.to_owned(), dpop("")],
        Challenge::Token(true) => vec![format!(r#"{bearer}, error="invalid_token""#), dpop("")],
        // The token, where it is not the proof.
        Challenge::Dpop if error == "invalid_client" => vec![dpop(r#", error="invalid_token""#)],
        Challenge::Dpop => vec![dpop(&format!(r#", error="{error}""#))],
    }
}

/// Once per refusal. `detail` may quote the caller, so it is written escaped.
fn log(refusal: &Refusal) {
    let status = face(refusal.reason).status;
    if status.is_server_error() {
        tracing::warn!(
            { field::REFUSAL_ID } = %refusal.id,
            { field::REASON } = refusal.reason.code(),
            { field::DETAIL } = ?refusal.detail,
            at = refusal.at.as_deref(),
            "refused"
        );
    } else {
        tracing::info!(
            { field::REFUSAL_ID } = %refusal.id,
            { field::REASON } = refusal.reason.code(),
            { field::DETAIL } = ?refusal.detail,
            at = refusal.at.as_deref(),
            "refused"
        );
    }
}

#[cfg(test)]
mod tests;
