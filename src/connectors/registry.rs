//! Every target's connector, behind a time limit, a breaker and a check of what it promised.

use super::Promises;
use super::access_token::AccessToken;
use super::api_key::ApiKey;
use super::aws::Aws;
use super::breaker::{Breaker, Pass};
use super::postgres::Postgres;
use super::{Connector, ConnectorError, ConnectorSettings, Ended, Handle, MintContext, Minted};
use crate::clock::Clock;
use crate::ids::{LeaseId, TargetId};
use crate::jose::{Keyring, KeyringError, Purpose};
use crate::policy::Grant;
use crate::secret::Secret;
use crate::telemetry::metric;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// What connectors are built from, beside their settings.
pub struct Setup<'a> {
    pub keyring: Arc<Keyring>,
    pub clock: Arc<dyn Clock>,
    /// The issuer identifier, without a trailing slash.
    pub broker_url: &'a str,
    /// The installation's bound on a broker-side death.
    pub fence_view_max_age: Duration,
    /// How long one call to a downstream may take in all.
    pub call_timeout: Duration,
    /// Reads a secret reference (`env:`, `file:`, `cmd:`).
    pub resolve: &'a dyn Fn(&str) -> Result<Secret<String>, String>,
}

impl fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("broker_url", &self.broker_url)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("target `{target}`: {problem}")]
pub struct ConnectorsError {
    pub target: TargetId,
    pub problem: String,
}

/// The connectors of one configuration.
#[derive(Debug)]
pub struct Connectors {
    by_target: BTreeMap<TargetId, Arc<dyn Connector>>,
    /// Of targets that earlier configurations had: they end what they minted, and mint no more.
    retired: BTreeMap<TargetId, Arc<dyn Connector>>,
    federated: Vec<TargetId>,
    keyring: Arc<Keyring>,
}

impl Connectors {
    /// Every connector, or every reason why not.
    pub fn build(
        targets: &[(TargetId, ConnectorSettings)],
        setup: &Setup<'_>,
    ) -> Result<Self, Vec<ConnectorsError>> {
        let mut by_target: BTreeMap<TargetId, Arc<dyn Connector>> = BTreeMap::new();
        let mut federated = Vec::new();
        let mut wrong = Vec::new();
        for (target, settings) in targets {
            if settings.is_federated() {
                federated.push(target.clone());
            }
            let error = |problem| ConnectorsError {
                target: target.clone(),
                problem,
            };
            match connector(target, settings, setup) {
                Ok(inner) => {
                    let guarded = Arc::new(Guarded::new(target.clone(), inner, setup));
                    if by_target.insert(target.clone(), guarded).is_some() {
                        wrong.push(error("is named twice".to_owned()));
                    }
                }
                Err(problems) => wrong.extend(problems.into_iter().map(error)),
            }
        }
        if wrong.is_empty() {
            Ok(Self {
                by_target,
                retired: BTreeMap::new(),
                federated,
                keyring: setup.keyring.clone(),
            })
        } else {
            Err(wrong)
        }
    }

    pub fn get(&self, target: &TargetId) -> Option<&Arc<dyn Connector>> {
        self.by_target.get(target)
    }

    /// The one that ends what was minted on this target, be it configured still or not.
    pub fn ender(&self, target: &TargetId) -> Option<&Arc<dyn Connector>> {
        self.get(target).or_else(|| self.retired.get(target))
    }

    /// Keeps the connectors of targets that the configuration before had and this one has not:
    /// their leases are still open.
    #[must_use]
    pub fn after(&self, before: &Self) -> Self {
        let mut retired = before.retired.clone();
        retired.extend(before.by_target.clone());
        retired.retain(|target, _| !self.by_target.contains_key(target));
        Self {
            by_target: self.by_target.clone(),
            retired,
            federated: self.federated.clone(),
            keyring: self.keyring.clone(),
        }
    }

    /// The targets that trust an issuer of the broker's, `<broker url>/federation/<target>`: its
    /// discovery document and keys must be served.
    pub fn federated(&self) -> &[TargetId] {
        &self.federated
    }

    /// Makes the federation keys that are not there yet. Call it before serving, so that a cloud
    /// finds the keys when it is set up.
    pub async fn prepare(&self, now: OffsetDateTime) -> Result<(), KeyringError> {
        for target in &self.federated {
            let purpose = Purpose::Federation(target.to_string());
            self.keyring.ensure(&purpose, now).await?;
        }
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&TargetId, &Arc<dyn Connector>)> {
        self.by_target.iter()
    }
}

fn connector(
    target: &TargetId,
    settings: &ConnectorSettings,
    setup: &Setup<'_>,
) -> Result<Box<dyn Connector>, Vec<String>> {
    let promises = settings.promises(setup.fence_view_max_age);
    Ok(match settings {
        ConnectorSettings::AccessToken { .. } => Box::new(AccessToken {
            keyring: setup.keyring.clone(),
            issuer: setup.broker_url.to_owned(),
            promises,
        }),
        ConnectorSettings::ApiKey {} => Box::new(ApiKey { promises }),
        ConnectorSettings::Aws(aws) => Box::new(Aws::new(target, aws, promises, setup)?),
        ConnectorSettings::Postgres(postgres) => {
            Box::new(Postgres::new(postgres, promises, setup)?)
        }
    })
}

/// What stands between the corridor and every connector.
struct Guarded {
    target: TargetId,
    inner: Box<dyn Connector>,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
    call_timeout: Duration,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Guarded {
    fn new(target: TargetId, inner: Box<dyn Connector>, setup: &Setup<'_>) -> Self {
        Self {
            target,
            inner,
            breaker: Breaker::default(),
            clock: setup.clock.clone(),
            call_timeout: setup.call_timeout,
        }
    }

    /// What no connector should be asked. Nothing has been sent when this refuses.
    fn refuse_to_ask(&self, grant: &Grant, context: &MintContext<'_>) -> Option<ConnectorError> {
        let promises = self.inner.promises();
        let life = context.expires_at - context.now;
        let wrong = if *grant.target() != self.target {
            "the grant is for another target"
        } else if grant.detail_type() != promises.detail_type {
            "the grant is in another vocabulary"
        } else if life < promises.min_ttl {
            "the lifetime is shorter than the target can give"
        } else if life > promises.max_ttl {
            "the lifetime is longer than the target may give"
        } else {
            return None;
        };
        Some(ConnectorError::Inexpressible(wrong.to_owned()))
    }

    async fn send(
        &self,
        grant: &Grant,
        context: MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        if context.now >= context.mint_by {
            return Err(ConnectorError::Unavailable(
                "it is too late to ask for this lease: ask again".to_owned(),
            ));
        }
        let pass = self.pass()?;
        let left = (context.mint_by - context.now).unsigned_abs();
        // SECURITY: a request given up may still be answered, so its outcome is unknown.
        let answer =
            tokio::time::timeout(left.min(self.call_timeout), self.inner.mint(grant, context))
                .await
                .unwrap_or_else(|_| Err(ConnectorError::Unknown("no answer in time".to_owned())));
        match &answer {
            Err(ConnectorError::Unavailable(_) | ConnectorError::Unknown(_)) => {
                pass.failed(self.clock.since_boot());
            }
            Ok(_)
            | Err(
                ConnectorError::Refused(_)
                | ConnectorError::Inexpressible(_)
                | ConnectorError::Replaced(_),
            ) => pass.answered(),
        }
        self.show_breaker();
        answer
    }

    fn pass(&self) -> Result<Pass<'_>, ConnectorError> {
        self.breaker.pass(self.clock.since_boot()).map_err(|left| {
            let seconds = left.as_secs().max(1);
            ConnectorError::Unavailable(format!(
                "it did not answer lately and is not asked for {seconds} s"
            ))
        })
    }

    fn show_breaker(&self) {
        let open = if self.breaker.is_open() { 1.0 } else { 0.0 };
        metrics::gauge!(metric::BREAKER_OPEN, "target" => self.target.to_string()).set(open);
    }
}

#[async_trait]
impl Connector for Guarded {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    async fn beforehand(&self) -> Result<Option<Handle>, ConnectorError> {
        if self.inner.promises().local {
            return self.inner.beforehand().await;
        }
        let pass = self.pass()?;
        let answer = tokio::time::timeout(self.call_timeout, self.inner.beforehand())
            .await
            .unwrap_or_else(|_| Err(ConnectorError::Unavailable("no answer in time".to_owned())));
        // It may have been answered from memory: that says nothing about the target.
        if let Err(ConnectorError::Unavailable(_) | ConnectorError::Unknown(_)) = &answer {
            pass.failed(self.clock.since_boot());
            self.show_breaker();
        }
        answer
    }

    async fn mint(
        &self,
        grant: &Grant,
        context: MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        if let Some(refusal) = self.refuse_to_ask(grant, &context) {
            return Err(refusal);
        }
        let minted = if self.inner.promises().local {
            self.inner.mint(grant, context).await?
        } else {
            self.send(grant, context).await?
        };
        // INVARIANT: no credential leaves that outlives its lease.
        if minted.expires_at > context.expires_at {
            return Err(ConnectorError::Unknown(
                "the credential outlives its lease and is not handed out".to_owned(),
            ));
        }
        Ok(minted)
    }

    /// Past the breaker: ending is never given up.
    async fn end(&self, lease: &LeaseId, handle: Option<&Handle>) -> Result<Ended, ConnectorError> {
        tokio::time::timeout(self.call_timeout, self.inner.end(lease, handle))
            .await
            .unwrap_or_else(|_| Err(ConnectorError::Unavailable("no answer in time".to_owned())))
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        tokio::time::timeout(self.call_timeout, self.inner.check())
            .await
            .unwrap_or_else(|_| Err(ConnectorError::Unavailable("no answer in time".to_owned())))
    }
}

#[cfg(test)]
mod tests;
