//! RFC 7009: whoever presents a credential or its handle may end that lease; and who may introspect.

use super::{Broker, Reason, Refusal, possession};
use crate::connectors::{api_key, handle};
use crate::identity::{Basic, Identity, Presented};
use crate::ids::{LeaseId, ShardId};
use crate::jose::{Algorithm, Compact, Purpose, TypRule};
use crate::leases::Lease;
use crate::replay::{self, ReplayMark};
use crate::store::{Guard, Key, Outcome, Transaction, Write, settle};
use ring::digest::{SHA256, digest};
use serde_json::Value;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

/// Longest credential string that is looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// `[resource_server.NAME]`.
#[derive(Debug, Clone)]
pub struct ResourceServerSettings {
    pub name: String,
    /// SHA-256 of its secret for Basic authentication.
    pub secret_sha256: Option<[u8; 32]>,
    /// Tokens for these audiences it may introspect.
    pub audiences: Vec<String>,
}

/// A resource server that has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceServer {
    pub name: String,
    pub audiences: Vec<String>,
}

/// A resource server that was let in, with what it takes to see whether it still would be.
#[derive(Debug)]
pub struct StillServer {
    pub(in crate::broker) known: ResourceServer,
    basic: Option<Basic>,
    /// Of the configuration that let it in.
    config: String,
}

impl StillServer {
    pub(in crate::broker) fn name(&self) -> &str {
        &self.known.name
    }

    /// An assertion or a certificate said who it was when it came, and cannot say it again.
    pub(in crate::broker) fn proves_a_moment(&self) -> bool {
        self.basic.is_none()
    }
}

/// Knows resource servers; `identity` knows the keys of those that use `private_key_jwt`, and the
/// certificates of those that show one.
#[derive(Debug)]
pub struct ResourceServers {
    identity: Identity,
    settings: Vec<ResourceServerSettings>,
}

impl ResourceServers {
    pub fn new(identity: Identity, settings: Vec<ResourceServerSettings>) -> Self {
        Self { identity, settings }
    }

    /// How they may authenticate, for the metadata.
    pub(in crate::broker) fn methods(&self, with_certificates: bool) -> Vec<&'static str> {
        let by_certificate = self.identity.certificate_methods(with_certificates);
        let mut methods = vec!["client_secret_basic", "private_key_jwt"];
        methods.extend(by_certificate);
        methods
    }

    fn by_name(&self, name: &str) -> Option<ResourceServer> {
        self.settings
            .iter()
            .find(|known| known.name == name)
            .map(|known| ResourceServer {
                name: name.to_owned(),
                audiences: known.audiences.clone(),
            })
    }

    /// Some clients form-encode id and secret first (RFC 6749 section 2.3.1), some do not: both
    /// readings are tried, both in constant time.
    fn by_secret(&self, id: &str, secret: &str) -> Option<ResourceServer> {
        let readings = [
            (form_decoded(id), form_decoded(secret)),
            (id.to_owned(), secret.to_owned()),
        ];
        readings.iter().find_map(|(id, secret)| {
            let known = self.settings.iter().find(|known| known.name == *id)?;
            let expected = known.secret_sha256?;
            let given = digest(&SHA256, secret.as_bytes());
            bool::from(expected.as_slice().ct_eq(given.as_ref())).then(|| self.by_name(id))?
        })
    }
}

impl Broker {
    /// The caller of `/introspect`. It must authenticate, or the endpoint would be an oracle.
    pub async fn resource_server(&self, presented: &Presented) -> Result<ResourceServer, Refusal> {
        let bundle = self.bundle.load_full();
        let known = match (&presented.basic, &presented.client_assertion) {
            (Some(basic), None) => bundle
                .resource_servers
                .by_secret(&basic.id, basic.secret.expose()),
            // SECURITY: what a connection shows beside a secret proves nothing more, and nobody else.
            (None, None) if presented.certificate.is_none() => None,
            (_, Some(_)) | (None, None) => {
                let now = self.clock.now();
                let caller = bundle
                    .resource_servers
                    .identity
                    .verify(presented, now)
                    .await?;
                self.spend(caller.replay(), now).await?;
                bundle.resource_servers.by_name(caller.subject())
            }
        };
        known.ok_or_else(|| Refusal::new(Reason::InvalidClient, "not a known resource server"))
    }

    /// The same for one that stays: it is looked at again and again.
    pub async fn staying_server(&self, presented: &Presented) -> Result<StillServer, Refusal> {
        let config = self.config_hash();
        let known = self.resource_server(presented).await?;
        let secret_counts = presented.client_assertion.is_none();
        Ok(StillServer {
            known,
            basic: presented.basic.clone().filter(|_| secret_counts),
            config,
        })
    }

    /// As it is configured now, if it still would be let in.
    pub(in crate::broker) fn still_server(&self, seen: &StillServer) -> Option<ResourceServer> {
        let bundle = self.bundle.load();
        match &seen.basic {
            Some(basic) => bundle
                .resource_servers
                .by_secret(&basic.id, basic.secret.expose()),
            // Whether its key is still there, only a new proof can tell.
            None if bundle.hash == seen.config => Some(seen.known.clone()),
            None => None,
        }
    }

    /// From the holder it is a release: the work is done, the lease ends normally. An unknown token
    /// is a success (RFC 7009 section 2.2), and so is one that is already dead.
    pub async fn release(&self, token: &str, presented: &Presented) -> Result<(), Refusal> {
        let now = self.clock.now();
        let lease = match self.locate(token).await? {
            Some(lease) => {
                let identity = &self.bundle.load_full().identity;
                let proof = presented.dpop.as_ref();
                possession::of_what_is_released(identity, &lease, token, proof, now)?;
                Some(lease)
            }
            None => self.locate_for_agent(token, presented).await?,
        };
        let Some(lease) = lease else { return Ok(()) };
        // INVARIANT: durable before the answer; a dead lease needs no second fence.
        let by = lease.agent.as_str();
        let raised = self.leases.release(&lease, &self.fences, by, now).await?;
        if raised.is_some() {
            self.record.released(&lease);
        }
        match raised {
            Some(raised) if raised.replicated => Ok(()),
            None if lease.is_past(self.fences.no_later(now)) => Ok(()),
            // SECURITY: a holder that is told "done" does not ask again (RFC 7009 section 2.2.1: 503, and when).
            _ => self.acknowledged().await,
        }
    }

    /// The lease of a credential, whatever its kind, if the credential is truly ours. A bare lease
    /// id is no credential.
    pub(in crate::broker) async fn locate(&self, token: &str) -> Result<Option<Lease>, Refusal> {
        if token.len() > MAX_TOKEN {
            return Ok(None);
        }
        let named = api_key::parse(token).or_else(|| handle::parse(token));
        let Some(id) = named.or_else(|| self.lease_of_jwt(token)) else {
            return Ok(None);
        };
        let hash = digest(&SHA256, token.as_bytes());
        let lease = self.leases.get(&id).await?;
        // SECURITY: the id alone proves nothing; the whole string must be the one we made.
        Ok(lease.filter(|lease| {
            lease
                .token_sha256
                .is_some_and(|ours| ours.as_slice().ct_eq(hash.as_ref()).into())
        }))
    }

    /// An agent that authenticates may end its own lease by id.
    async fn locate_for_agent(
        &self,
        token: &str,
        presented: &Presented,
    ) -> Result<Option<Lease>, Refusal> {
        let Ok(id) = token.parse::<LeaseId>() else {
            return Ok(None);
        };
        if presented.subject_token.is_none()
            && presented.client_assertion.is_none()
            && presented.client_svid.is_none()
            && presented.certificate.is_none()
        {
            return Ok(None);
        }
        let bundle = self.bundle.load_full();
        let now = self.clock.now();
        let caller = bundle.identity.verify(presented, now).await?;
        possession::of_its_holder(&caller)?;
        let Some(agent) = bundle.agents.find(&caller) else {
            return Ok(None);
        };
        self.leases.spend(&agent.id, caller.replay(), now).await?;
        let lease = self.leases.get(&id).await?;
        Ok(lease.filter(|lease| agent.id == lease.agent))
    }

    /// A proof that may be used once only is used up here, where no lease is reserved with it.
    pub(in crate::broker) async fn spend(
        &self,
        marks: &[ReplayMark],
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        for mark in marks {
            let key = Key {
                shard: ShardId::INSTALLATION,
                name: [b"spent/".as_slice(), &mark.hash].concat(),
            };
            let transaction = Transaction::new(key.shard, now + time::Duration::seconds(30))
                .guard(Guard::Absent(key.clone()))
                .write(Write::Put {
                    key,
                    value: Vec::new(),
                    expires_at: Some(mark.keep_until),
                });
            match settle(self.store.as_ref(), transaction).await? {
                Outcome::Applied { .. } | Outcome::Unreplicated { .. } => {}
                Outcome::Conflict { .. } => {
                    let reason = match mark.kind.as_str() {
                        replay::DPOP_PROOF => Reason::DpopProofSpent,
                        _ => Reason::InvalidClient,
                    };
                    return Err(Refusal::new(reason, "the proof was used before").exact());
                }
                Outcome::TooLate => {
                    return Err(Refusal::new(Reason::StoreUnavailable, "too late").after(1));
                }
            }
        }
        Ok(())
    }

    fn lease_of_jwt(&self, token: &str) -> Option<LeaseId> {
        let parsed = Compact::parse(token, MAX_TOKEN, &TypRule::Exactly("at+jwt")).ok()?;
        let keys = self.keyring.verifying(&Purpose::AccessToken);
        let candidates = keys.candidates(parsed.kid(), parsed.alg());
        let verified = parsed.verify(&candidates, &Algorithm::ALL).ok()?;
        let claims = verified.claims();
        if claims.get("iss").and_then(Value::as_str) != Some(self.url.as_str()) {
            return None;
        }
        claims.get("jti").and_then(Value::as_str)?.parse().ok()
    }
}

fn form_decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={text}").as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_secret_is_read_as_its_sender_meant_it() {
        assert_eq!(
            form_decoded("spiffe%3A%2F%2Facme%2Etest"),
            "spiffe://acme.test"
        );
        assert_eq!(form_decoded("plain-secret"), "plain-secret");
    }
}
