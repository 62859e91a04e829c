//! What for? In: a verified caller and the signed intent. Out: an [`Intent`].
//!
//! An intent is a compact JWS of `typ: intent+jwt` with a closed claim set ([`claims`]). Who may
//! have signed it follows from its `iss` ([`signer`]): the agent itself, with a key that the request
//! ties to it, or a configured [`IntentIssuer`]. What it says of the outside is declared; what
//! others have signed of it is proved ([`evidence`]). Without an intent the platform's own token
//! stands for it, as [`SignerClass::Platform`], and only a mission that says so accepts that.

mod approval;
pub mod behalf;
pub mod claims;
pub mod evidence;
mod polled;
mod settings;
mod signer;
mod stated;
mod steps;

pub use approval::Approval;
pub use behalf::{Behalf, Parent, Principal};
pub use claims::{ClaimFault, DetailFault};
pub use evidence::EvidenceFault;
pub use polled::{Board, Changed, Polled};
pub use settings::{IntentIssuer, IntentsError, Poll, Witness, check, group};
pub(crate) use stated::Stated;
pub use steps::Step;

use crate::authority::AuthorizationDetail;
use crate::fences::{Dimension, DimensionKind};
use crate::identity::{Caller, Confirmation, Facts, Presented};
use crate::ids::{IssuerId, MissionId};
use crate::jose::{JoseError, KeyClient, RemoteKeysError};
use crate::replay::{self, ReplayMark};
use evidence::Proved;
use ring::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use time::OffsetDateTime;

/// Whose signature stands under the intent. It proves who asked for what, never that it is allowed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
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

/// Who vouches for a key that an agent signs with, beside its proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vouched {
    /// The registry.
    Registered,
    /// The registry, of an agent with several identities: it signs for all of them.
    RegisteredForSeveral,
    /// Nobody, and nobody needs to: it is the only key of a caller's instance, or becomes it.
    OnFirstUse,
    Not,
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

/// A verified intent. Only this room makes one.
#[derive(Debug, Clone)]
pub struct Intent {
    pub(in crate::intent) signer: SignerClass,
    pub(in crate::intent) mission: Option<MissionId>,
    pub(in crate::intent) authorization_details: Vec<AuthorizationDetail>,
    pub(in crate::intent) asked: Asked,
    pub(in crate::intent) behalf: Behalf,
    pub(in crate::intent) client_id: Option<String>,
    pub(in crate::intent) goal: String,
    pub(in crate::intent) goal_ends: Option<OffsetDateTime>,
    pub(in crate::intent) task: Option<String>,
    pub(in crate::intent) instance: Option<String>,
    pub(in crate::intent) declared: Map<String, Value>,
    pub(in crate::intent) proved: Proved,
    pub(in crate::intent) dimensions: Vec<Dimension>,
    pub(in crate::intent) signing_key: Option<String>,
    pub(in crate::intent) pins: bool,
    pub(in crate::intent) confirmed_key: Option<Confirmation>,
    pub(in crate::intent) sha256: [u8; 32],
    pub(in crate::intent) expires_at: OffsetDateTime,
    pub(in crate::intent) replay: Option<ReplayMark>,
    pub(in crate::intent) approval: Option<Approval>,
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
    /// Whom the agent acts for.
    pub fn behalf(&self) -> &Behalf {
        &self.behalf
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
    /// What is verified about the outside, by the caller's platform and by evidence: what a mission
    /// may require.
    pub fn facts(&self) -> &Facts {
        &self.proved.facts
    }
    /// Who proves what a fact is about ([`group`]), where it is not the caller's platform: name and
    /// URL.
    pub fn provers(&self) -> &BTreeMap<String, (IssuerId, String)> {
        &self.proved.provers
    }
    /// The evidence that was accepted.
    pub fn evidence(&self) -> &[evidence::Seen] {
        &self.proved.seen
    }
    /// Who vouched for it beside the caller, and with which key: signer and authorities.
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }
    /// RFC 7638 thumbprint of the key that signed it; `None` for [`SignerClass::Platform`].
    pub fn signing_key(&self) -> Option<&str> {
        self.signing_key.as_deref()
    }
    /// The key that signed it, where nothing vouches for it but that the caller's instance signs with
    /// no other: whether that holds, the store must say before anything is granted.
    pub fn to_pin(&self) -> Option<&str> {
        self.signing_key().filter(|_| self.pins)
    }
    /// `cnf`: what the request showed possession of, since the signer asked for it.
    pub fn confirmed_key(&self) -> Option<&Confirmation> {
        self.confirmed_key.as_ref()
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
    /// What people have said yes to, where they were asked.
    pub fn approval(&self) -> Option<&Approval> {
        self.approval.as_ref()
    }
    // SECURITY: only the broker's own record of it says so, and policy compares it with what is asked.
    #[must_use]
    pub fn approved(mut self, approval: Approval) -> Self {
        self.approval = Some(approval);
        self
    }
}

/// Everything but [`IntentError::Details`] and [`IntentError::Unavailable`] is `invalid_request`.
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
    #[error(
        "the intent names no certificate, and the agent has several identities: say which with `cnf` and `x5t#S256` (`dayfly intent sign --certificate`)"
    )]
    NoCertificate,
    #[error("`subject_token_hash` is missing: an intent for someone else names that one's token")]
    NoSubjectHash,
    #[error("`actor_token_hash` is not the SHA-256 of this request's actor token")]
    OtherActorToken,
    #[error("`actor_token_hash` is missing: a registered key signs for one actor token only")]
    NoActorHash,
    #[error("an agent that acts for someone else signs an intent")]
    NotSigned,
    #[error("the request names mission `{asked}`, its intent `{signed}`")]
    OtherMission { asked: MissionId, signed: MissionId },
    #[error("intent issuer `{issuer}` does not sign for agent `{agent}`")]
    NotItsAgent { issuer: String, agent: String },
    #[error("intent issuer `{issuer}` does not sign for mission `{mission}`")]
    NotItsMission { issuer: String, mission: MissionId },
    #[error("intent issuer `{0}` is bound to missions, so its intents name one")]
    MissionNotSigned(String),
    #[error("`tctx.evidence[{place}]` is not acceptable: {fault}")]
    Evidence { place: usize, fault: EvidenceFault },
    #[error("`{0}` is declared or proved in two ways that contradict each other")]
    Contradiction(String),
    /// 503: it cannot be decided now, so it is refused now.
    #[error("the keys of `{issuer}` cannot be had: {source}")]
    Unavailable {
        issuer: String,
        source: RemoteKeysError,
    },
}

pub const TYP: &str = "intent+jwt";

/// Whether these claims have the form of an intent, for whoever is about to sign them.
pub fn well_formed(
    claims: &Map<String, Value>,
    broker_url: &str,
    now: OffsetDateTime,
) -> Result<(), IntentError> {
    claims::Signed::read(claims, broker_url, now).map(drop)
}

/// Verifies intents. Immutable: a reload builds another one.
#[derive(Debug)]
pub struct Intents {
    broker_url: String,
    issuers: HashMap<String, signer::Known>,
    witnesses: evidence::Witnesses,
    polled: Vec<Polled>,
    board: Option<Arc<Board>>,
}

impl Intents {
    /// `fetcher` fetches the keys that are not fixed.
    pub fn new(
        broker_url: String,
        issuers: Vec<IntentIssuer>,
        witnesses: Vec<Witness>,
        fetcher: &KeyClient,
    ) -> Result<Self, IntentsError> {
        check(&issuers, &witnesses)?;
        let mut known = HashMap::new();
        for issuer in issuers {
            let url = issuer.issuer.clone();
            known.insert(url, signer::Known::new(issuer, fetcher)?);
        }
        let asked = witnesses.iter().filter_map(|witness| {
            let poll = witness.poll.clone()?;
            Some(Polled::new(witness.clone(), poll, fetcher))
        });
        Ok(Self {
            broker_url,
            issuers: known,
            polled: asked.collect::<Result<_, _>>()?,
            witnesses: evidence::Witnesses::new(witnesses, fetcher)?,
            board: None,
        })
    }

    /// Where what is asked for is posted.
    #[must_use]
    pub fn on(self, board: Arc<Board>) -> Self {
        let board = Some(board);
        Self { board, ..self }
    }

    /// Those who are asked.
    pub fn polled(&self) -> &[Polled] {
        &self.polled
    }

    pub fn board(&self) -> Option<&Arc<Board>> {
        self.board.as_ref()
    }

    fn posted(&self, proved: Proved) -> Result<Proved, IntentError> {
        match &self.board {
            Some(board) => board.add(&self.polled, proved),
            None => Ok(proved),
        }
    }

    /// `vouched` answers who vouches for a key (by its RFC 7638 thumbprint) of the agent that the
    /// caller is: `|jkt| registry.vouches(&caller, jkt)`.
    pub async fn verify(
        &self,
        asked: Asked,
        caller: &Caller,
        behalf: Behalf,
        vouched: &(dyn Fn(&str) -> Vouched + Sync),
        now: OffsetDateTime,
    ) -> Result<Intent, IntentError> {
        let Some(text) = asked.unverified_intent.clone() else {
            if !behalf.is_nobody() {
                return Err(IntentError::NotSigned);
            }
            return platform(asked, caller, self.posted(Proved::default())?);
        };
        let (signer, verified) = self
            .signed(signer::parse(&text)?, caller, vouched, now)
            .await?;
        let signed = claims::Signed::read(verified.claims(), &self.broker_url, now)?;
        let class = signer.map_or(SignerClass::Agent, signer::Known::class);
        match signer {
            Some(issuer) => issuer.check_bounds(&signed)?,
            None if signed.issuer != signed.client_id => return Err(IntentError::UnknownSigner),
            None => {}
        }
        let key = verified.key().thumbprint();
        let pins = signer.is_none() && signer::is_first_use(key, caller, vouched);
        signer::check_possession((class, pins), key, signed.confirmed_key.as_ref(), caller)?;
        signer::check_persons_key(class, key, caller, &behalf)?;
        signer::check_behalf(&signed, &behalf)?;
        signer::check_token_hashes(class, &signed, caller, &behalf)?;
        if class == SignerClass::Agent && vouched(key) == Vouched::RegisteredForSeveral {
            signer::check_certificate(&signed, caller)?;
        }
        let mission = same_mission(signed.mission, asked.mission.as_ref())?;
        let about = evidence::About {
            agent: &signed.client_id,
            task: signed.task.as_deref(),
            mission: mission.as_ref(),
        };
        let proved = self
            .witnesses
            .verify(&signed.evidence, about, (&self.broker_url, now))
            .await?;
        let proved = self.posted(proved)?.with_caller(caller)?;
        proved.check_declared(&signed.declared)?;
        let replay = replay::mark(
            TYP,
            &signed.issuer,
            Some(&signed.jti),
            verified.signing_input(),
            signed.expires_at,
        );
        let mut dimensions = proved.dimensions.clone();
        dimensions.push(Dimension::new(DimensionKind::IssuerKey, key));
        if signer.is_some() {
            dimensions.push(Dimension::new(DimensionKind::Issuer, &signed.issuer));
        }
        Ok(Intent {
            signer: class,
            mission,
            authorization_details: signed.authorization_details,
            asked,
            behalf,
            client_id: Some(signed.client_id),
            goal: signed.goal,
            goal_ends: signed.goal_ends,
            task: signed.task,
            instance: signed.instance,
            declared: signed.declared,
            proved,
            dimensions,
            signing_key: Some(key.to_owned()),
            pins,
            confirmed_key: signed.confirmed_key,
            sha256: sha256(&text),
            expires_at: signed.expires_at,
            replay: Some(replay),
            approval: None,
        })
    }
}

/// The platform's own token in the place of an intent: it names no goal, no task and no authority.
fn platform(asked: Asked, caller: &Caller, proved: Proved) -> Result<Intent, IntentError> {
    signer::check_possession((SignerClass::Platform, false), "", None, caller)?;
    let proved = proved.with_caller(caller)?;
    Ok(Intent {
        signer: SignerClass::Platform,
        mission: asked.mission.clone(),
        authorization_details: Vec::new(),
        asked,
        behalf: Behalf::Nobody,
        client_id: None,
        goal: String::new(),
        goal_ends: None,
        task: None,
        instance: None,
        declared: Map::new(),
        proved,
        dimensions: Vec::new(),
        signing_key: None,
        pins: false,
        confirmed_key: None,
        sha256: *caller.token_sha256(),
        expires_at: caller.expires_at(),
        replay: None,
        approval: None,
    })
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
