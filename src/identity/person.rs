//! For whom? A token of an issuer of people (`people = true`) says which person an agent serves. It
//! never says who the agent is.

use super::claims::{self, text};
use super::{
    Caller, Confirmation, Identity, IdentityError, Presented, PresentedToken, Proof, TokenFault,
};
use crate::ids::IssuerId;
use crate::jose::unverified_issuer;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// What `dayfly login` puts before the thumbprint of the key it made, in the `nonce` of its
/// request: OpenID Connect Core section 2 has the provider sign it into the ID token, unchanged.
pub const NONCE_PREFIX: &str = "dayfly-jkt:";

/// A person whose token was verified. Only this room makes one.
#[derive(Debug, Clone)]
pub struct Person {
    pub(super) token: Caller,
    pub(super) agents_issuer: String,
}

impl Person {
    /// The issuer's name in the configuration.
    pub fn issuer(&self) -> &IssuerId {
        &self.token.issuer
    }
    pub fn issuer_url(&self) -> &str {
        &self.token.issuer_url
    }
    pub fn subject(&self) -> &str {
        &self.token.subject
    }
    pub fn issuer_key(&self) -> &str {
        &self.token.issuer_key
    }
    pub fn token_sha256(&self) -> &[u8; 32] {
        &self.token.token_sha256
    }
    /// Whose the names of agents are: the broker's own URL.
    pub fn agents_issuer(&self) -> &str {
        &self.agents_issuer
    }
    /// Everything that the token says.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.token.claims
    }
    /// RFC 8693 section 4.4: whom the person's issuer lets act, where it says so.
    pub fn may_act(&self) -> Option<&Value> {
        self.token.claims.get("may_act")
    }
    /// The sign-in, where the issuer names it: signing out ends what hangs on it.
    pub fn session(&self) -> Option<&str> {
        let session = self.token.claims.get("sid").and_then(Value::as_str);
        session.filter(|session| !session.is_empty() && session.len() <= 256)
    }

    /// Whether the token has every one of these claims, alone or as a member of a list.
    pub fn has(&self, wanted: &BTreeMap<String, Value>) -> bool {
        let claims = &self.token.claims;
        // SECURITY: an address that its issuer did not verify could be anybody's.
        let doubtful = wanted.contains_key("email")
            && claims
                .get("email_verified")
                .is_some_and(|verified| text(verified).as_deref() != Some("true"));
        !doubtful
            && wanted
                .iter()
                .all(|(path, wanted)| match claims::find(claims, path) {
                    Some(Value::Array(values)) => {
                        values.iter().any(|value| claims::same(value, wanted))
                    }
                    Some(value) => claims::same(value, wanted),
                    None => false,
                })
    }
}

impl Identity {
    /// The person as the one who runs the agent that the request names, without a proof of the
    /// agent's own. A DPoP proof, or a certificate, beside it counts as
    /// beside any other proof.
    ///
    /// SECURITY: only with a token that is bound to a key. An ID token travels to every API of its
    /// audience, and any of them could send it here.
    pub fn in_person(
        &self,
        person: &Person,
        presented: &Presented,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let proved = self.proved(presented, now)?;
        if person.token.bound_key.is_none() {
            return Err(IdentityError::InvalidToken(TokenFault::PersonUnbound));
        }
        let caller = Caller {
            named_client: presented.client_id.clone(),
            ..person.token.clone()
        };
        Ok(caller.with(proved, presented.certificate.as_ref()))
    }

    /// Whether the token says that it is of an issuer of people. That only picks the way on which it
    /// is verified, with the keys of the very issuer it names.
    pub fn names_person(&self, token: &PresentedToken) -> bool {
        unverified_issuer(token.unverified.expose(), super::workload::MAX_BYTES)
            .and_then(|issuer| self.issuers.get(&issuer))
            .is_some_and(super::workload::Issuer::is_of_people)
    }

    /// The person that the token was issued to.
    pub async fn person(
        &self,
        token: &PresentedToken,
        now: OffsetDateTime,
    ) -> Result<Person, IdentityError> {
        let token = self.workload(token, now).await?;
        if token.proof != Proof::Person {
            return Err(IdentityError::InvalidToken(TokenFault::NoPerson));
        }
        Ok(Person {
            token,
            agents_issuer: self.broker_url.clone(),
        })
    }
}

/// The key in a `nonce` that `dayfly login` chose.
pub(super) fn key_of_nonce(
    claims: &Map<String, Value>,
) -> Result<Option<Confirmation>, TokenFault> {
    let nonce = claims.get("nonce").and_then(Value::as_str);
    let Some(thumbprint) = nonce.and_then(|nonce| nonce.strip_prefix(NONCE_PREFIX)) else {
        return Ok(None);
    };
    let key = Confirmation::Jkt(thumbprint.to_owned());
    if key.is_well_formed() {
        Ok(Some(key))
    } else {
        Err(TokenFault::BoundKey)
    }
}
