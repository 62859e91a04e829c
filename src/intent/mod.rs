//! What for? In: a verified caller and the signed intent. Out: an [`Intent`].
//!
//! An intent is a compact JWS of `typ: intent+jwt` with a closed claim set ([`claims`]). Who may
//! have signed it follows from its `iss`: the agent itself, with a key that the request ties to
//! it, or a configured [`IntentIssuer`]. Without an intent the platform's own token stands for
//! it, as [`SignerClass::Platform`], and only a mission that says so accepts that.

pub mod claims;

pub use claims::{ClaimFault, DetailFault};

mod stated;

pub(crate) use stated::Stated;

use crate::authority::AuthorizationDetail;
use crate::identity::{Caller, Confirmation, Presented, Proof};
use crate::ids::MissionId;
use crate::jose::{Algorithm, Compact, JoseError, KeySet, TypRule, VerifyingKey};
use crate::replay::{self, ReplayMark};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
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

impl SignerClass {
    /// As it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Orchestrator => "orchestrator",
            Self::Approver => "approver",
            Self::Platform => "platform",
        }
    }
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
    /// The key or certificate whose possession the request itself proved (a verified DPoP proof).
    /// The credential is bound to it.
    pub proved_key: Option<Confirmation>,
}

impl Asked {
    /// Takes the intent from where Transaction Token clients put it: a `self_signed` subject token.
    pub fn or_self_signed(mut self, presented: &Presented) -> Result<Self, IntentError> {
        if let Some(alias) = presented.unverified_self_signed() {
            if self.unverified_intent.is_some() {
                return Err(IntentError::TwoIntents);
            }
            self.unverified_intent = Some(alias.expose().clone());
        }
        Ok(self)
    }
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

/// Everything but [`IntentError::Details`] is `invalid_request` on the wire.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum IntentError {
    #[error("two intents are presented: send the intent parameter or a self_signed subject token")]
    TwoIntents,
    #[error("the intent is not acceptable: {0}")]
    Jose(#[from] JoseError),
    #[error("the intent is not acceptable: {0}")]
    Claim(#[from] ClaimFault),
    /// `invalid_authorization_details`.
    #[error("`authorization_details` of the intent: {0}")]
    Details(#[from] DetailFault),
    #[error("`iss` is neither the intent's `client_id` nor a configured intent issuer")]
    UnknownSigner,
    #[error(
        "no key of the signer fits: sign with the key the token is bound to, or with a registered one"
    )]
    UnknownKey,
    #[error("the subject token is bound to a key that this request does not prove: sign with it")]
    KeyNotProved,
    #[error("`cnf.jkt` names another key than the one this request proves")]
    OtherKey,
    #[error("`subject_token_hash` is not the SHA-256 of this request's subject token")]
    OtherToken,
    #[error("`subject_token_hash` is missing: a registered key signs for one subject token only")]
    NoTokenHash,
    #[error("the request names mission `{asked}`, its intent `{signed}`")]
    OtherMission { asked: MissionId, signed: MissionId },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IntentsError {
    #[error("intent issuer `{0}` is configured twice")]
    SameIssuer(String),
    #[error("intent issuer `{0}` must be a URL: a bare name is an agent's")]
    NotUrl(String),
    #[error("intent issuer `{0}` must be of class `orchestrator` or `approver`")]
    Class(String),
    #[error("intent issuer `{0}` has no key")]
    NoKey(String),
}

/// 8 KiB of claims and what base64 and the signature add.
const MAX_BYTES: usize = 12 * 1024;

const TYP: &str = "intent+jwt";

/// Verifies intents. Immutable: a reload builds another one.
#[derive(Debug)]
pub struct Intents {
    broker_url: String,
    issuers: HashMap<String, IntentIssuer>,
}

impl Intents {
    pub fn new(broker_url: String, issuers: Vec<IntentIssuer>) -> Result<Self, IntentsError> {
        let mut known = HashMap::new();
        for issuer in issuers {
            let name = issuer.issuer.clone();
            if url::Url::parse(&name).is_err() {
                return Err(IntentsError::NotUrl(name));
            }
            if !matches!(
                issuer.class,
                SignerClass::Orchestrator | SignerClass::Approver
            ) {
                return Err(IntentsError::Class(name));
            }
            if issuer.keys.keys().is_empty() {
                return Err(IntentsError::NoKey(name));
            }
            if known.insert(name.clone(), issuer).is_some() {
                return Err(IntentsError::SameIssuer(name));
            }
        }
        Ok(Self {
            broker_url,
            issuers: known,
        })
    }

    /// `registered` answers whether a key (by its RFC 7638 thumbprint) is registered for the agent
    /// that the caller is: `|jkt| registry.signs_with(&caller, jkt)`.
    pub fn verify(
        &self,
        asked: Asked,
        caller: &Caller,
        registered: &dyn Fn(&str) -> bool,
        now: OffsetDateTime,
    ) -> Result<Intent, IntentError> {
        let Some(text) = asked.unverified_intent.clone() else {
            return platform(asked, caller);
        };
        let compact = parse(&text)?;
        let embedded = compact.embedded_key().cloned();
        let (signer, keys) = self.signer(&compact, embedded.as_ref(), caller, registered)?;
        let verified = compact.verify(&keys, &Algorithm::ALL)?;
        let signed = claims::Signed::read(verified.claims(), &self.broker_url, now)?;
        if signer == SignerClass::Agent && signed.issuer != signed.client_id {
            return Err(IntentError::UnknownSigner);
        }
        let key = verified.key().thumbprint();
        check_possession(signer, key, signed.confirmed_key.as_ref(), caller, &asked)?;
        check_token_hash(signer, signed.subject_token_hash.as_deref(), caller)?;
        let mission = same_mission(signed.mission, asked.mission.as_ref())?;
        let replay = replay::mark(
            TYP,
            &signed.issuer,
            Some(&signed.jti),
            verified.signing_input(),
            signed.expires_at,
        );
        Ok(Intent {
            signer,
            mission,
            authorization_details: signed.authorization_details,
            asked,
            client_id: Some(signed.client_id),
            goal: signed.goal,
            goal_ends: signed.goal_ends,
            task: signed.task,
            instance: signed.instance,
            declared: signed.declared,
            signing_key: Some(key.to_owned()),
            sha256: sha256(&text),
            expires_at: signed.expires_at,
            replay: Some(replay),
        })
    }

    /// The signer's class and the keys it may have signed with. Keys of one signer are never tried
    /// for another.
    fn signer<'a>(
        &'a self,
        compact: &Compact,
        embedded: Option<&'a VerifyingKey>,
        caller: &'a Caller,
        registered: &dyn Fn(&str) -> bool,
    ) -> Result<(SignerClass, Vec<&'a VerifyingKey>), IntentError> {
        let issuer = compact
            .unverified_claims()
            .get("iss")
            .and_then(Value::as_str)
            .and_then(|issuer| self.issuers.get(issuer));
        let (class, keys) = match (issuer, embedded) {
            // SECURITY: a configured issuer's keys are those configured, never one it is said to have.
            (Some(_), Some(_)) => return Err(IntentError::UnknownKey),
            (Some(issuer), None) => (
                issuer.class,
                issuer.keys.candidates(compact.kid(), compact.alg()),
            ),
            (None, Some(key)) => {
                if !is_agents_own(key.thumbprint(), caller, registered) {
                    return Err(IntentError::UnknownKey);
                }
                (SignerClass::Agent, vec![key])
            }
            (None, None) => (
                SignerClass::Agent,
                caller.client_keys().map_or_else(Vec::new, |keys| {
                    keys.candidates(compact.kid(), compact.alg())
                }),
            ),
        };
        if keys.is_empty() {
            return Err(IntentError::UnknownKey);
        }
        Ok((class, keys))
    }
}

/// The header may hold the key that signs: of a key that a token is bound to, or that is registered
/// by its thumbprint, the broker knows nothing else.
fn parse(text: &str) -> Result<Compact, JoseError> {
    match Compact::parse(text, MAX_BYTES, &TypRule::Exactly(TYP)) {
        Err(JoseError::HeaderMember("jwk")) => {
            Compact::parse(text, MAX_BYTES, &TypRule::ExactlyWithKey(TYP))
        }
        parsed => parsed,
    }
}

/// A key that came with the intent counts only where something else already vouches for it.
fn is_agents_own(thumbprint: &str, caller: &Caller, registered: &dyn Fn(&str) -> bool) -> bool {
    caller.bound_key().and_then(Confirmation::jkt) == Some(thumbprint)
        || registered(thumbprint)
        || caller
            .client_keys()
            .is_some_and(|keys| keys.keys().iter().any(|key| key.thumbprint() == thumbprint))
}

/// The platform's own token in the place of an intent: it names no goal, no task and no authority.
fn platform(asked: Asked, caller: &Caller) -> Result<Intent, IntentError> {
    check_possession(SignerClass::Platform, "", None, caller, &asked)?;
    Ok(Intent {
        signer: SignerClass::Platform,
        mission: asked.mission.clone(),
        authorization_details: Vec::new(),
        asked,
        client_id: None,
        goal: String::new(),
        goal_ends: None,
        task: None,
        instance: None,
        declared: Map::new(),
        signing_key: None,
        sha256: *caller.token_sha256(),
        expires_at: caller.expires_at(),
        replay: None,
    })
}

/// Where a token or an intent names a key, the request must show possession of exactly that key:
/// by the agent's signature under the intent, or by a proof of its own (DPoP).
fn check_possession(
    signer: SignerClass,
    signing_key: &str,
    confirmed_key: Option<&Confirmation>,
    caller: &Caller,
    asked: &Asked,
) -> Result<(), IntentError> {
    let signed_with =
        (signer == SignerClass::Agent).then(|| Confirmation::Jkt(signing_key.to_owned()));
    let signed_with = signed_with.as_ref();
    let proved = asked.proved_key.as_ref();
    if let Some(bound) = caller.bound_key()
        && signed_with != Some(bound)
        && proved != Some(bound)
    {
        return Err(IntentError::KeyNotProved);
    }
    match confirmed_key {
        Some(key) if proved.or(signed_with) != Some(key) => Err(IntentError::OtherKey),
        _ => Ok(()),
    }
}

/// An intent that names a subject token goes with that one only. It must name one where nothing
/// else ties the two together: a key registered for the agent signs for all of its runs, and the
/// intent of one run must not be joined with the facts of another.
fn check_token_hash(
    signer: SignerClass,
    hash: Option<&str>,
    caller: &Caller,
) -> Result<(), IntentError> {
    match (hash, caller.proof()) {
        (Some(hash), Proof::WorkloadToken)
            if hash == URL_SAFE_NO_PAD.encode(caller.token_sha256()) =>
        {
            Ok(())
        }
        (Some(_), _) => Err(IntentError::OtherToken),
        (None, Proof::WorkloadToken)
            if signer == SignerClass::Agent && caller.bound_key().is_none() =>
        {
            Err(IntentError::NoTokenHash)
        }
        (None, _) => Ok(()),
    }
}

/// Beside an intent that names a mission the request may only repeat it.
fn same_mission(
    signed: Option<MissionId>,
    asked: Option<&MissionId>,
) -> Result<Option<MissionId>, IntentError> {
    match (signed, asked) {
        (Some(signed), Some(asked)) if signed != *asked => Err(IntentError::OtherMission {
            asked: asked.clone(),
            signed,
        }),
        (signed, asked) => Ok(signed.or_else(|| asked.cloned())),
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes
        .iter_mut()
        .zip(digest(&SHA256, text.as_bytes()).as_ref())
        .for_each(|(to, from)| *to = *from);
    bytes
}

#[cfg(test)]
mod tests;
