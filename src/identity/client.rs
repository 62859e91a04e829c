//! `private_key_jwt`: an agent that signs with a key registered for it (RFC 7523 section 3, with
//! the sole-audience rule of 7523bis). Real clients leave out `client_id`, `kid`, `typ` or `jti`.

use super::settings::{ClientSettings, SettingsError};
use super::workload::{bounded, sha256};
use super::{
    AuthenticatedClient, Caller, ClientFault, Facts, Identity, IdentityError, Presented, Proof,
    audience,
};
use crate::ids::{AgentId, IssuerId};
use crate::jose::claims::times;
use crate::jose::{Compact, KeySet, TypRule, Verified};
use crate::replay;
use crate::secret::Secret;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

const MAX_BYTES: usize = 8 * 1024;

/// authlib and oauthlib sign for an hour.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);

const TYP: TypRule = TypRule::AbsentOr(&["JWT", "client-authentication+jwt"]);

/// The same claims in the other slot: what calls itself client authentication is no grant.
pub(super) const TYP_GRANT: TypRule = TypRule::AbsentOr(&["JWT"]);

#[derive(Debug, Clone)]
pub(super) struct Client {
    agent: AgentId,
    keys: Arc<KeySet>,
    legacy_audience: bool,
    enrols: bool,
}

impl Client {
    pub(super) fn new(settings: ClientSettings) -> Self {
        Self {
            agent: settings.agent,
            keys: Arc::new(settings.keys),
            legacy_audience: settings.legacy_audience,
            enrols: settings.enrol,
        }
    }

    pub(super) fn enrols(&self) -> bool {
        self.enrols
    }

    pub(super) fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys)
    }

    pub(super) fn id(&self) -> &str {
        self.agent.as_str()
    }
}

impl Identity {
    /// With more that have keys of their own. Who vouches for workloads is the same, with whatever is known
    /// of them.
    pub fn with_clients(&self, more: Vec<ClientSettings>) -> Result<Self, SettingsError> {
        let mut clients = self.clients.clone();
        for client in more {
            let agent = client.agent.clone();
            let client = Client::new(client);
            if clients.insert(client.id().to_owned(), client).is_some() {
                return Err(SettingsError::SameClient(agent));
            }
        }
        Ok(Self {
            broker_url: self.broker_url.clone(),
            issuers: Arc::clone(&self.issuers),
            trust_domains: Arc::clone(&self.trust_domains),
            sts: Arc::clone(&self.sts),
            clients,
            enrolment: self.enrolment.clone(),
            certificates: Arc::clone(&self.certificates),
            cache: Arc::clone(&self.cache),
            nonces: self.nonces.clone(),
        })
    }

    pub(super) async fn client(
        &self,
        assertion: &Secret<String>,
        presented: &Presented,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let client_id = presented.client_id.as_deref();
        self.assertion(assertion.expose(), &TYP, client_id, now)
            .await
    }

    /// Whatever is wrong with it is [`IdentityError::InvalidClient`].
    pub(super) async fn assertion(
        &self,
        text: &str,
        typ: &TypRule,
        client_id: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let bad = IdentityError::InvalidClient;
        let (client, compact) = self.claimed(text, typ, client_id).map_err(bad)?;
        let enrolled = match &self.enrolment {
            Some(enrolment) if client.enrols => enrolment
                .verifying(&client.agent, now)
                .await
                .map_err(IdentityError::Enrolled)?,
            _ => KeySet::default(),
        };
        let (kid, algorithm) = (compact.kid().map(str::to_owned), compact.alg());
        let keys: Vec<_> = [&*client.keys, &enrolled]
            .into_iter()
            .flat_map(|keys| keys.candidates(kid.as_deref(), algorithm))
            .collect();
        let verified = compact
            .verify(&keys, &[algorithm])
            .map_err(|error| bad(error.into()))?;
        // SECURITY: a machine's key signs its own intents; another machine's, for none of it.
        let own = enrolled
            .by_thumbprint(verified.key().thumbprint())
            .and_then(|key| KeySet::new(vec![key.clone()]).ok());
        let keys = own.map_or_else(|| Arc::clone(&client.keys), Arc::new);
        self.client_caller(client, keys, &verified, (sha256(text), now))
            .map_err(bad)
    }

    /// Whose it says it is. Nothing is verified yet.
    fn claimed(
        &self,
        text: &str,
        typ: &TypRule,
        client_id: Option<&str>,
    ) -> Result<(&Client, Compact), ClientFault> {
        let compact = Compact::parse(text, MAX_BYTES, typ)?;
        let issuer = text_claim(compact.unverified_claims(), "iss")?;
        let subject = text_claim(compact.unverified_claims(), "sub")?;
        if issuer != subject {
            return Err(ClientFault::IssuerSubject);
        }
        if client_id.is_some_and(|named| named != subject) {
            return Err(ClientFault::OtherClient);
        }
        let client = self.clients.get(subject);
        Ok((client.ok_or(ClientFault::UnknownClient)?, compact))
    }

    fn client_caller(
        &self,
        client: &Client,
        keys: Arc<KeySet>,
        verified: &Verified,
        (token_sha256, now): ([u8; 32], OffsetDateTime),
    ) -> Result<Caller, ClientFault> {
        let claims = verified.claims();
        let name = client.agent.as_str();
        let times = times(claims, now, MAX_LIFETIME)?;
        self.check_audience(client, audience::sole(claims))?;
        let jti = bounded(claims, "jti", 256).map_err(|()| ClientFault::TokenId)?;
        let mark = replay::mark(
            replay::CLIENT_ASSERTION,
            name,
            jti,
            verified.signing_input(),
            times.expires_at,
        );
        Ok(Caller {
            issuer: IssuerId::client(),
            issuer_url: self.broker_url.clone(),
            subject: name.to_owned(),
            proof: Proof::ClientAssertion,
            issuer_key: verified.key().thumbprint().to_owned(),
            // SECURITY: the agent wrote every other claim itself, so none of them proves anything.
            claims: Map::from_iter([
                ("iss".to_owned(), Value::from(name)),
                ("sub".to_owned(), Value::from(name)),
            ]),
            facts: Facts::new(),
            barred: BTreeMap::new(),
            bound_key: None,
            proved_key: None,
            token_sha256,
            expires_at: times.expires_at,
            client: Some(AuthenticatedClient {
                agent: client.agent.clone(),
                keys,
            }),
            beside: None,
            instance: None,
            named_client: None,
            replay: vec![mark],
        })
    }

    fn check_audience(&self, client: &Client, named: Option<&str>) -> Result<(), ClientFault> {
        let named = named.ok_or(ClientFault::Audience)?;
        if named == self.broker_url {
            return Ok(());
        }
        if client.legacy_audience && named == audience::token_endpoint(&self.broker_url) {
            tracing::info!(agent = %client.agent, "client assertion with the token endpoint as its audience");
            return Ok(());
        }
        Err(ClientFault::Audience)
    }
}

fn text_claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<&'a str, ClientFault> {
    claims
        .get(name)
        .and_then(Value::as_str)
        .ok_or(ClientFault::IssuerSubject)
}
