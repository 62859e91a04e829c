//! For whom? A token of an issuer of people (`people = true`) says which person an agent serves. It
//! never says who the agent is.

use super::claims::{self, text};
use super::{
    Caller, Confirmation, Identity, IdentityError, Presented, PresentedToken, Proof, TokenFault,
    TokenType, audience,
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
    /// It is the ID token of a sign-in that is bound to a key of the person's own machine.
    pub(super) sign_in: bool,
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
    /// What the token is bound to: whoever presents it proves that.
    pub fn bound_key(&self) -> Option<&Confirmation> {
        self.token.bound_key.as_ref()
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

    /// Whether an agent that proved itself may act on behalf of the person.
    ///
    /// SECURITY: a sign-in that is bound to the person's own key is for that machine alone. Elsewhere
    /// it would be a bearer token that lies on a laptop.
    pub fn on_behalf(&self) -> Result<(), IdentityError> {
        match key_of_nonce(self.claims()) {
            Ok(None) => Ok(()),
            _ => Err(IdentityError::InvalidToken(TokenFault::SignIn)),
        }
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
    /// SECURITY: only with a sign-in that is bound to a key. An ID token travels to every API of its
    /// audience, and any of them could send it here. `cnf` does not do: in a person's access token it
    /// names the key of the OAuth client, which may be any service that people use.
    pub fn in_person(
        &self,
        person: &Person,
        presented: &Presented,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let proved = self.proved(presented, now)?;
        if !person.sign_in {
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
        // RFC 9068 section 2.1: an access token may call itself one, and then it is sent as one.
        let as_access_token = token.token_type == TokenType::AccessToken;
        let token = self.workload(token, now).await?;
        let issuer = self.issuers.get(&token.issuer_url);
        let (Proof::Person, Some(issuer)) = (token.proof, issuer) else {
            return Err(IdentityError::InvalidToken(TokenFault::NoPerson));
        };
        let is_bound = matches!(key_of_nonce(&token.claims), Ok(Some(_)));
        Ok(Person {
            sign_in: is_bound
                && !as_access_token
                && asked_for_us(&token.claims, issuer.audiences()),
            token,
            agents_issuer: self.broker_url.clone(),
        })
    }
}

/// Whether those whom an ID token is for asked for it themselves (OpenID Connect Core section
/// 3.1.3.7).
///
/// SECURITY: another client could have a person sign in with a `nonce` of its own choice.
fn asked_for_us(claims: &Map<String, Value>, accepted: &[String]) -> bool {
    let ours = |client: &Value| accepted.iter().any(|one| client == one);
    let (azp, client) = (claims.get("azp"), claims.get("client_id"));
    let known = azp.is_some() || audience::sole(claims).is_some();
    known && azp.into_iter().chain(client).all(ours)
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
