//! One failure, three faces: this is the face the audit, the metrics and the operators see.
//! `http/error.rs` alone turns it into a status and an OAuth error.

use crate::wire::Retry;
use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $retry:ident;)+) => {
        /// Why nothing was issued. The codes are stable: they are in audits, metrics and scripts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// What whoever asked should do next.
            pub fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)+ }
            }

            /// What happened and what to change, for `docs/errors.md` and `dayfly explain`.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    // The request itself.
    /// The request is not well formed, or a parameter is missing, repeated, out of bounds or not accepted.
    MalformedRequest = "malformed_request", Never;
    /// The content type, or the content encoding, is not the one this endpoint takes.
    UnsupportedMediaType = "unsupported_media_type", Never;
    /// This path answers other methods.
    MethodNotAllowed = "method_not_allowed", Never;
    /// The request did not arrive in time.
    RequestTimeout = "request_timeout", After;
    /// This grant type is not offered: use token exchange, client credentials or jwt-bearer.
    UnsupportedGrantType = "unsupported_grant_type", Never;
    /// There is no flow that begins in a browser: ask for tokens at `POST /token`.
    UnsupportedResponseType = "unsupported_response_type", Never;
    /// Status lists tell of the present alone: ask without `time`.
    HistoryNotKept = "history_not_kept", Never;
    /// The request body is larger than 64 KiB.
    RequestTooLarge = "request_too_large", Never;

    // Who.
    /// No proof of identity came with the request.
    NoProof = "no_proof", Refresh;
    /// The client could not be authenticated: unknown client, bad signature, wrong audience, expired or spent assertion.
    InvalidClient = "invalid_client", Refresh;
    /// The bootstrap token was not accepted: unknown issuer, bad signature, wrong audience, expired, or barred by the issuer's settings.
    InvalidToken = "invalid_token", Refresh;
    /// The assertion of a `jwt-bearer` grant was not accepted: unknown issuer or client, bad signature, wrong audience, expired or spent.
    InvalidAssertion = "invalid_assertion", Refresh;
    /// The DPoP proof was not accepted: see `at` for the part of it. Or what was presented is bound to a key, and no proof of that key came with it.
    InvalidDpopProof = "invalid_dpop_proof", Refresh;
    /// The DPoP proof must carry a nonce of this broker: make another with the one in the `DPoP-Nonce` header of this answer.
    UseDpopNonce = "use_dpop_nonce", Refresh;
    /// The DPoP proof was used before: make one for each request.
    DpopProofSpent = "dpop_proof_spent", Refresh;
    /// The bootstrap token is single use and was used before.
    TokenSpent = "token_spent", Refresh;
    /// No registered agent matches this identity.
    UnknownAgent = "unknown_agent", Never;
    /// The agent is held (suspended, retired, its review overdue, its owner has left), or past its last day.
    AgentNotInStanding = "agent_not_in_standing", Never;

    // What for.
    /// The intent was not accepted: malformed, bad signature, wrong audience, expired, or not bound to this request.
    InvalidIntent = "invalid_intent", Refresh;
    /// This pod or job has signed with another key before, and that one is its key for as long as it lives.
    OtherKeyPinned = "other_key_pinned", Never;
    /// The intent was used before: sign a new one.
    IntentSpent = "intent_spent", Refresh;

    // How far.
    /// The mission does not exist or does not name this agent.
    UnknownMission = "unknown_mission", Never;
    /// Several missions fit: name one in the intent or with scope `mission:NAME`.
    AmbiguousMission = "ambiguous_mission", Narrow;
    /// The mission is past its end date.
    MissionEnded = "mission_ended", Never;
    /// The mission does not accept an intent signed by this class of signer.
    SignerNotAccepted = "signer_not_accepted", Never;
    /// The mission is not given on behalf of this person, is given on behalf of people only, or lets nobody run its agents in person.
    SubjectNotAccepted = "subject_not_accepted", Never;
    /// The agent may not act for this subject: `may_act` of the person's token names another, or the mission of the lease that is handed on does not name this agent in `delegates_to`.
    ActorNotAccepted = "actor_not_accepted", Never;
    /// The lease whose credential was sent as the subject is over: released, revoked, expired, or something it hangs on has ended.
    ParentNotAlive = "parent_not_alive", Refresh;
    /// The lease whose credential was sent as the subject is bound to a key, and the request does not prove that key.
    ParentKeyNotProved = "parent_key_not_proved", Refresh;
    /// More than three agents would act one for another.
    ChainTooDeep = "chain_too_deep", Never;
    /// The target does not exist, or the agent has no mission for it.
    UnknownTarget = "unknown_target", Never;
    /// `resource` is not an absolute URI without a fragment, or too many targets are named.
    InvalidTarget = "invalid_target", Never;
    /// `scope` is malformed, or names several missions.
    InvalidScope = "invalid_scope", Narrow;
    /// `authorization_details` is malformed, too large, or has unknown fields.
    InvalidAuthorizationDetails = "invalid_authorization_details", Narrow;
    /// The outer parameters ask for more than the signed intent.
    ExceedsIntent = "exceeds_intent", Narrow;
    /// More was asked than the mission allows.
    ExceedsMission = "exceeds_mission", Narrow;
    /// More was asked than the agent's ceiling.
    ExceedsAgentCeiling = "exceeds_agent_ceiling", Narrow;
    /// More was asked than the target's ceiling.
    ExceedsTargetCeiling = "exceeds_target_ceiling", Narrow;
    /// More was asked than agents may do for this person: the ceiling of the group of people.
    ExceedsPeopleCeiling = "exceeds_people_ceiling", Narrow;
    /// More was asked than the lease that is handed on, or for another target.
    ExceedsParent = "exceeds_parent", Narrow;
    /// An operator's restriction takes something of what was asked away on this target, for now: ask without it.
    Restricted = "restricted", Narrow;
    /// A pattern that was asked for cannot be compared with what is allowed.
    Undecidable = "undecidable", Narrow;
    /// The lifetime asked for is shorter than the target can give, or longer than allowed.
    LifetimeOutOfRange = "lifetime_out_of_range", Narrow;
    /// A verified fact that the mission requires is absent or has another value.
    RequirementUnmet = "requirement_unmet", Never;
    /// A DPoP proof was sent and the target's credentials cannot be bound to a key: they are never quietly issued unbound.
    CredentialNotBindable = "credential_not_bindable", Never;
    /// The mission's `when` condition does not hold.
    ConditionUnmet = "condition_unmet", Never;
    /// An organisation-wide policy forbids it.
    ForbiddenByPolicy = "forbidden_by_policy", Never;
    /// The fact that the lease would hang on is not proved by this request.
    TetherMissing = "tether_missing", Refresh;
    /// A hold stands on something this request names: its mission, target, task, context, or another dimension.
    Held = "held", Never;

    // People.
    /// Everything else allows it: the people whom the mission, or a response, asks have not said yes. The same request again, with a new intent, gets the credential once they have.
    ApprovalRequired = "approval_required", Approve;
    /// They have said no, or taken their yes back.
    ApprovalDenied = "approval_denied", Never;

    // Limits.
    /// The agent holds as many live leases as it may.
    TooManyLeases = "too_many_leases", After;
    /// The agent asks more often than it may.
    TooManyRequests = "too_many_requests", After;

    // Ours and downstream.
    /// The lease was revoked while it was being made; nothing was handed out.
    RevokedMeanwhile = "revoked_meanwhile", Never;
    /// The target refused to mint.
    TargetRefused = "target_refused", Never;
    /// The grant cannot be put in the target's own terms without widening it.
    TargetInexpressible = "target_inexpressible", Narrow;
    /// The target cannot be reached; nothing was minted.
    TargetUnavailable = "target_unavailable", After;
    /// The issuer's keys cannot be had.
    IssuerUnavailable = "issuer_unavailable", After;
    /// The store cannot be reached or refuses to be trusted; nothing was minted.
    StoreUnavailable = "store_unavailable", After;
    /// This replica's view of revocations is too old to vouch for anything.
    StaleView = "stale_view", After;
    /// This replica's clock and the store's differ by more than 30 s: it mints nothing until they agree.
    ClockSkewed = "clock_skewed", After;
    /// Another configuration is in force than this replica has: it mints nothing until it has that one.
    ConfigurationSuperseded = "configuration_superseded", After;
    /// This replica does not have the configuration that was published, or the registered agents; the others may.
    StaleConfiguration = "stale_configuration", After;
    /// The broker is shutting down or overloaded.
    Overloaded = "overloaded", After;
    /// A fault of the broker's own. The cause is in its log under the refusal id.
    Internal = "internal", After;

    // Other doors.
    /// The caller of this endpoint is not who it may be, or presented nothing.
    NotAuthenticated = "not_authenticated", Refresh;
    /// The caller is known and may not do this.
    NotPermitted = "not_permitted", Never;
    /// There is nothing under this name.
    NotFound = "not_found", Never;
    /// The lease can be read, so nobody gives it up: revoke it, and it is ended.
    LeaseReadable = "lease_readable", Never;
    /// The configuration was not published: `problems` says what is wrong with it, as `dayfly check` does.
    ConfigurationRefused = "configuration_refused", Never;
    /// Somebody else published a configuration meanwhile: look at it, and publish again.
    PublishedMeanwhile = "published_meanwhile", Never;
    /// The agent was not registered: `problems` says what is wrong with its definition, as `dayfly check` does.
    AgentRefused = "agent_refused", Never;
    /// Somebody else registered, changed or removed an agent meanwhile: look at it, and ask again.
    RegisteredMeanwhile = "registered_meanwhile", Never;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What some refusals tell beside their reason.
#[derive(Debug)]
pub enum Beside {
    /// People are asked.
    Pending(Pending),
    /// What is wrong with a configuration or a definition, for the operator who sent it.
    Problems(Vec<serde_json::Value>),
}

/// What waits for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub approval: String,
    /// Seconds that it waits for them.
    pub expires_in: u64,
    /// Seconds until it is worth asking again.
    pub interval: u64,
    /// They were asked just now.
    pub is_new: bool,
    /// The response that has them asked, where the mission does not.
    pub by_response: Option<String>,
}

/// A refusal on its way out: the reason, what the caller may be told, what the log keeps.
#[derive(Debug)]
pub struct Refusal {
    pub id: uuid::Uuid,
    pub reason: Reason,
    /// Caller, agent and its own mission were established: the exact reason may be told.
    pub exact: bool,
    /// Which part of the request.
    pub at: Option<String>,
    /// One of the caller's own, where it is known.
    pub mission: Option<crate::ids::MissionId>,
    /// The condition that failed, for the audit and `explain`. Never on the wire.
    pub detail: String,
    /// Seconds, where waiting helps.
    pub retry_after: Option<u32>,
    /// What else is told.
    pub beside: Option<Box<Beside>>,
}

impl Refusal {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            id: crate::ids::draw_uuid(),
            reason,
            exact: false,
            at: None,
            mission: None,
            detail: detail.into(),
            retry_after: None,
            beside: None,
        }
    }

    #[must_use]
    pub fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    #[must_use]
    pub fn at(mut self, at: Option<String>) -> Self {
        self.at = at;
        self
    }

    #[must_use]
    pub fn with(mut self, beside: Beside) -> Self {
        self.beside = Some(Box::new(beside));
        self
    }

    pub fn pending(&self) -> Option<&Pending> {
        match self.beside.as_deref() {
            Some(Beside::Pending(pending)) => Some(pending),
            Some(Beside::Problems(_)) | None => None,
        }
    }

    pub fn problems(&self) -> &[serde_json::Value] {
        match self.beside.as_deref() {
            Some(Beside::Problems(problems)) => problems,
            Some(Beside::Pending(_)) | None => &[],
        }
    }

    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}
