//! Who signed an intent, with which key, and for whom they may.
//!
//! Keys of one signer are never tried for another: `iss` picks a configured issuer, or else the
//! agent itself, whose keys something else in the request vouches for.

use super::behalf::Behalf;
use super::claims::{ClaimFault, Signed};
use super::settings::IntentIssuer;
use super::{IntentError, Intents, IntentsError, SignerClass, TYP, Vouched};
use crate::identity::{Caller, Confirmation, IssuerKeys, KeySource, Proof, shown};
use crate::jose::{Algorithm, Compact, JoseError, KeyClient, TypRule, Verified};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use time::OffsetDateTime;

/// 8 KiB of claims and what base64 and the signature add.
const MAX_BYTES: usize = 12 * 1024;

/// A configured intent issuer with its keys.
#[derive(Debug)]
pub(super) struct Known {
    issuer: IntentIssuer,
    keys: IssuerKeys,
}

impl Known {
    pub fn new(mut issuer: IntentIssuer, fetcher: &KeyClient) -> Result<Self, IntentsError> {
        let source = std::mem::replace(&mut issuer.keys, KeySource::Discovery);
        let keys = IssuerKeys::new(source, &issuer.issuer, fetcher);
        let keys = keys.map_err(|error| IntentsError::Keys {
            issuer: issuer.issuer.clone(),
            why: error.to_string(),
        })?;
        Ok(Self { issuer, keys })
    }

    pub fn class(&self) -> SignerClass {
        self.issuer.class
    }

    // SECURITY: a good signature says who signed. For whom it counts is the configuration's to say.
    pub fn check_bounds(&self, signed: &Signed) -> Result<(), IntentError> {
        let issuer = || self.issuer.issuer.clone();
        if let Some(agents) = &self.issuer.agents
            && !agents
                .iter()
                .any(|agent| agent.as_str() == signed.client_id)
        {
            return Err(IntentError::NotItsAgent {
                issuer: issuer(),
                agent: signed.client_id.clone(),
            });
        }
        let Some(missions) = &self.issuer.missions else {
            return Ok(());
        };
        match &signed.mission {
            Some(mission) if missions.contains(mission) => Ok(()),
            Some(mission) => Err(IntentError::NotItsMission {
                issuer: issuer(),
                mission: mission.clone(),
            }),
            // What the agent adds beside the intent is not the issuer's word.
            None => Err(IntentError::MissionNotSigned(issuer())),
        }
    }
}

impl Intents {
    /// The intent with its signature checked, and the issuer that signed it; `None`: the agent.
    pub(super) async fn signed(
        &self,
        compact: Compact,
        caller: &Caller,
        vouched: &(dyn Fn(&str) -> Vouched + Sync),
        now: OffsetDateTime,
    ) -> Result<(Option<&Known>, Verified), IntentError> {
        let issuer = compact
            .unverified_claims()
            .get("iss")
            .and_then(Value::as_str)
            .and_then(|issuer| self.issuers.get(issuer));
        let (kid, algorithm) = (compact.kid(), compact.alg());
        if let Some(known) = issuer {
            // SECURITY: a configured issuer's keys are those configured, never one it is said to have.
            if compact.embedded_key().is_some() {
                return Err(IntentError::UnknownKey);
            }
            let keys = known.keys.current(kid, now).await;
            let keys = keys.map_err(|source| IntentError::Unavailable {
                issuer: known.issuer.issuer.clone(),
                source,
            })?;
            let candidates = keys.candidates(kid, algorithm);
            if candidates.is_empty() {
                return Err(IntentError::UnknownKey);
            }
            let verified = compact.verify(&candidates, &known.issuer.algorithms)?;
            return Ok((Some(known), verified));
        }
        let embedded = compact.embedded_key().cloned();
        let keys = match &embedded {
            Some(key) if is_agents_own(key.thumbprint(), caller, vouched) => vec![key],
            Some(_) => Vec::new(),
            None => caller
                .client_keys()
                .map_or_else(Vec::new, |keys| keys.candidates(kid, algorithm)),
        };
        if keys.is_empty() {
            return Err(IntentError::UnknownKey);
        }
        Ok((None, compact.verify(&keys, &Algorithm::ALL)?))
    }
}

/// The header may hold the key that signs: of a key that a token is bound to, or that is registered
/// by its thumbprint, the broker knows nothing else.
pub(super) fn parse(text: &str) -> Result<Compact, JoseError> {
    match Compact::parse(text, MAX_BYTES, &TypRule::Exactly(TYP)) {
        Err(JoseError::HeaderMember("jwk")) => {
            Compact::parse(text, MAX_BYTES, &TypRule::ExactlyWithKey(TYP))
        }
        parsed => parsed,
    }
}

/// A key that came with the intent counts only where something else already vouches for it.
fn is_agents_own(
    thumbprint: &str,
    caller: &Caller,
    vouched: &(dyn Fn(&str) -> Vouched + Sync),
) -> bool {
    caller.bound_key().and_then(Confirmation::jkt) == Some(thumbprint)
        || matches!(
            vouched(thumbprint),
            Vouched::Registered | Vouched::RegisteredForSeveral
        )
        || is_first_use(thumbprint, caller, vouched)
        || caller
            .client_keys()
            .is_some_and(|keys| keys.keys().iter().any(|key| key.thumbprint() == thumbprint))
}

/// Whether nothing vouches for the key but that the caller's instance signs with no other.
///
/// SECURITY: never beside keys that something does vouch for: whoever steals a token would choose the
/// weaker way.
pub(super) fn is_first_use(
    thumbprint: &str,
    caller: &Caller,
    vouched: &(dyn Fn(&str) -> Vouched + Sync),
) -> bool {
    caller.instance().is_some()
        && caller.bound_key().is_none()
        && caller.client_keys().is_none()
        && vouched(thumbprint) == Vouched::OnFirstUse
}

/// Where a token or an intent names a key, the request must show possession of exactly that key:
/// by the agent's signature under the intent, or by a proof of its own (DPoP). What binds the
/// credential is the key that the intent confirms; else the key of the token; else, where nothing names
/// one, whichever the request proves.
pub(super) fn check_possession(
    (signer, pins): (SignerClass, bool),
    signing_key: &str,
    confirmed_key: Option<&Confirmation>,
    caller: &Caller,
) -> Result<(), IntentError> {
    let signed_with =
        (signer == SignerClass::Agent).then(|| Confirmation::Jkt(signing_key.to_owned()));
    let signed_with = signed_with.as_ref();
    let proved = caller.proved_key();
    // A pinned key is the token's as much as one that the token names.
    let bound_key = caller.bound_key().or(signed_with.filter(|_| pins));
    if let Some(bound) = bound_key
        && signed_with != Some(bound)
        && proved != Some(bound)
    {
        return Err(IntentError::KeyNotProved);
    }
    match confirmed_key {
        Some(key) if proved.or(signed_with) != Some(key) => Err(IntentError::OtherKey),
        // SECURITY: or whoever stole a bound token with its intent could bind the credential to a key
        // of their own.
        None if contradicts(bound_key, proved) => Err(IntentError::KeyNotProved),
        _ => Ok(()),
    }
}

/// A person's token that is bound to a key is presented by whoever has that key: the agent that signs
/// with it, or a proof of its own. Of a lease that is handed on, policy says the same.
pub(super) fn check_persons_key(
    signer: SignerClass,
    signing_key: &str,
    caller: &Caller,
    behalf: &Behalf,
) -> Result<(), IntentError> {
    let Behalf::Person(person) = behalf else {
        return Ok(());
    };
    let by_signature = signer == SignerClass::Agent
        && person.bound_key().and_then(Confirmation::jkt) == Some(signing_key);
    if by_signature || shown(person.bound_key(), caller.proved_key()).is_ok() {
        Ok(())
    } else {
        Err(IntentError::KeyNotProved)
    }
}

/// Two keys, or two certificates. One of each are two proofs of different kinds.
fn contradicts(bound: Option<&Confirmation>, proved: Option<&Confirmation>) -> bool {
    match (bound, proved) {
        (Some(Confirmation::Jkt(bound)), Some(Confirmation::Jkt(proved)))
        | (Some(Confirmation::X5t(bound)), Some(Confirmation::X5t(proved))) => bound != proved,
        _ => false,
    }
}

/// `sub` is the agent, or whom it acts for; `act`, where it is there, is the agent.
pub(super) fn check_behalf(signed: &Signed, behalf: &Behalf) -> Result<(), ClaimFault> {
    let for_itself = signed.subject == signed.client_id;
    let known = for_itself || behalf.served().as_ref() == Some(&signed.subject);
    let acts = match &signed.actor {
        None => true,
        Some(actor) => !behalf.is_nobody() && *actor == signed.client_id,
    };
    if known && acts {
        Ok(())
    } else {
        Err(ClaimFault::OnBehalf)
    }
}

/// What [`check_token_hashes`] asks of a token, of an X.509-SVID: a key that is registered for an agent with
/// several identities signs for each of them, and the intent of one must not be joined with the facts of
/// another. Of one identity alone the facts are the same, whichever certificate shows it.
pub(super) fn check_certificate(signed: &Signed, caller: &Caller) -> Result<(), IntentError> {
    if caller.proof() == Proof::Svid && signed.confirmed_key.is_none() {
        return Err(IntentError::NoCertificate);
    }
    Ok(())
}

/// An intent that names a token goes with that one only. It must name the token of whoever it is
/// for. It must name the agent's own where nothing else ties the two together: a key registered for
/// the agent signs for all of its runs, and the intent of one run must not be joined with the facts
/// of another.
pub(super) fn check_token_hashes(
    signer: SignerClass,
    signed: &Signed,
    caller: &Caller,
    behalf: &Behalf,
) -> Result<(), IntentError> {
    let is = |hash: &String, token: &[u8; 32]| *hash == URL_SAFE_NO_PAD.encode(token);
    let (own, other, missing) = match behalf.token_sha256() {
        Some(token) => {
            match &signed.subject_token_hash {
                None => return Err(IntentError::NoSubjectHash),
                Some(hash) if !is(hash, token) => return Err(IntentError::OtherToken),
                Some(_) => {}
            }
            let own = &signed.actor_token_hash;
            (own, IntentError::OtherActorToken, IntentError::NoActorHash)
        }
        None if signed.actor_token_hash.is_some() => return Err(IntentError::OtherActorToken),
        None => {
            let own = &signed.subject_token_hash;
            (own, IntentError::OtherToken, IntentError::NoTokenHash)
        }
    };
    let presented = match caller.proof() {
        Proof::WorkloadToken | Proof::SignedRequest | Proof::Person => true,
        Proof::ClientAssertion | Proof::ClientCertificate | Proof::Svid => false,
    };
    match own {
        Some(hash) if presented && is(hash, caller.token_sha256()) => Ok(()),
        Some(_) => Err(other),
        None if presented && signer == SignerClass::Agent && caller.bound_key().is_none() => {
            Err(missing)
        }
        None => Ok(()),
    }
}
