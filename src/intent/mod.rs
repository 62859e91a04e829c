//! What for? In: a verified caller and the signed intent. Out: an [`Intent`].
//!
//! An intent is a compact JWS of `typ: intent+jwt` with a closed claim set ([`claims`]). Who may
//! have signed it follows from its `iss`: the agent itself, with a key that the request ties to
//! it, or a configured [`IntentIssuer`]. Without an intent the platform's own token stands for
//! it, as [`SignerClass::Platform`], and only a mission that says so accepts that.

mod stated;

use crate::authority::AuthorizationDetail;
use crate::ids::MissionId;
use crate::jose::KeySet;
use crate::replay::ReplayMark;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

/// Whose signature stands under the intent. It proves who asked for what, never that it is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignerClass {
    Agent,
    Orchestrator,
    Approver,
    /// The platform's own token serves as the intent: for stock clients that can send nothing else.
    Platform,
}

/// What the door read beside the proof: may only narrow the intent.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The compact JWS of the `intent` parameter. Unverified.
    pub unverified_intent: Option<String>,
    /// `audience` values, then `resource` values.
    pub targets: Vec<String>,
    /// `authorization_details`, parsed and closed.
    pub authorization_details: Vec<AuthorizationDetail>,
    /// `scope`, split at spaces, without `mission:NAME`.
    pub scope: Vec<String>,
    /// From scope `mission:NAME`.
    pub mission: Option<MissionId>,
    /// RFC 7638 thumbprint of the key whose possession the request itself proved (a verified DPoP
    /// proof). The credential is bound to it.
    pub proved_key: Option<String>,
}

/// Someone other than agents who may sign intents: `[[intent_issuer]]`.
#[derive(Debug, Clone)]
pub struct IntentIssuer {
    /// Compared byte for byte with the intent's `iss`.
    pub issuer: String,
    /// [`SignerClass::Orchestrator`] or [`SignerClass::Approver`].
    pub class: SignerClass,
    pub keys: KeySet,
}

/// A verified intent. Only this room makes one.
#[derive(Debug, Clone)]
pub struct Intent {
    pub(in crate::intent) signer: SignerClass,
    pub(in crate::intent) mission: Option<MissionId>,
    pub(in crate::intent) authorization_details: Vec<AuthorizationDetail>,
    pub(in crate::intent) asked: Asked,
    pub(in crate::intent) client_id: Option<String>,
    pub(in crate::intent) goal: String,
    pub(in crate::intent) goal_ends: Option<OffsetDateTime>,
    pub(in crate::intent) task: Option<String>,
    pub(in crate::intent) instance: Option<String>,
    pub(in crate::intent) declared: Map<String, Value>,
    pub(in crate::intent) signing_key: Option<String>,
    pub(in crate::intent) sha256: [u8; 32],
    pub(in crate::intent) expires_at: OffsetDateTime,
    pub(in crate::intent) replay: Option<ReplayMark>,
}

impl Intent {
    pub fn signer(&self) -> SignerClass {
        self.signer
    }
    /// The mission that the intent or, where it names none, the request names.
    pub fn mission(&self) -> Option<&MissionId> {
        self.mission.as_ref()
    }
    /// Signed authority on exactly one target, narrowed by nothing yet. Empty only for
    /// [`SignerClass::Platform`].
    pub fn authorization_details(&self) -> &[AuthorizationDetail] {
        &self.authorization_details
    }
    pub fn asked(&self) -> &Asked {
        &self.asked
    }
    /// The agent it was signed for. `None` only for [`SignerClass::Platform`].
    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }
    /// Prose, for people and the audit. It never decides.
    pub fn goal(&self) -> &str {
        &self.goal
    }
    /// When the purpose itself ends (`intent.expires_at`): no lease for it should live longer.
    pub fn goal_ends(&self) -> Option<OffsetDateTime> {
        self.goal_ends
    }
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }
    /// Declared facts (`tctx`), for display. They never decide.
    pub fn declared(&self) -> &Map<String, Value> {
        &self.declared
    }
    /// RFC 7638 thumbprint of the key that signed it; `None` for [`SignerClass::Platform`].
    pub fn signing_key(&self) -> Option<&str> {
        self.signing_key.as_deref()
    }
    /// Of the compact JWS; of the caller's token for [`SignerClass::Platform`].
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
    /// Until when it may be exchanged.
    pub fn expires_at(&self) -> OffsetDateTime {
        self.expires_at
    }
    pub fn replay(&self) -> Option<&ReplayMark> {
        self.replay.as_ref()
    }
}
