//! The composition root: settings in, a broker out. The only place that knows every room at once.

mod going;

pub use going::KEYS_EVERY;

use super::output::Failure;
use super::stores::open_store;
use crate::agents::Registry;
use crate::audit::{self, Sealing};
use crate::broker::operators::Operators;
use crate::broker::release::ResourceServers;
use crate::broker::respond::{Notify, Responses, Way};
use crate::broker::{
    Broker, Bundle, OperatorSettings, Parts, ResourceServerSettings, Role, RoleRule, SourceKind,
    SourceSettings,
};
use crate::clock::Clock;
use crate::config::{
    NotifyWay, ResourceServerProof, Settings, StoreSettings, sealing_key, secret_reference,
};
use crate::connectors::{Connectors, Setup};
use crate::fences::Fences;
use crate::identity::{
    CertificateSettings, ClientSettings, Enrolment, Identity, Nonces, Recognised,
};
use crate::intent::{Board, Intents};
use crate::jose::{KeyClient, Keyring, KeyringSettings, Purpose, Reach};
use crate::leases::{Leases, Sweeper};
use crate::secret::Sealer;
use crate::store::Store;
use ring::digest::{SHA256, digest};
use std::sync::Arc;
use std::time::Duration;

/// How long one call to a downstream may take in all.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// A broker and what keeps it going for as long as it is held.
#[derive(Debug)]
pub struct Composed {
    pub broker: Arc<Broker>,
    pub store: Arc<dyn Store>,
    pub keyring: Arc<Keyring>,
    pub clock: Arc<dyn Clock>,
    enrolment: Arc<Enrolment>,
    board: Arc<Board>,
    _sweeper: Arc<Sweeper>,
    sealing: Arc<Sealing>,
    /// SHA-256 of the tokens that the development broker made for itself.
    development_tokens: Vec<[u8; 32]>,
    sealer: Sealer,
}

impl Composed {
    /// Opens the store, the keys and the logs, checks that the store is fit, and builds the broker.
    pub async fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        development_tokens: Vec<[u8; 32]>,
    ) -> Result<Self, Failure> {
        let store = open_fit(&settings.broker.store).await?;
        Self::over(store, settings, clock, development_tokens).await
    }

    /// The same over a store that is open already.
    pub async fn over(
        store: Arc<dyn Store>,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        development_tokens: Vec<[u8; 32]>,
    ) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
        let sealer = sealer(settings)?;
        let (store, no_later, store_time) = going::in_store_time(store, &clock).await?;
        let kept = kept(settings);
        let keyring = Keyring::open_with(store.clone(), sealer.clone(), kept, clock.now())
            .await
            .map_err(|error| failed(&error))?;
        let keyring = Arc::new(keyring);
        let fences = Fences::start(
            store.clone(),
            sealer.clone(),
            clock.clone(),
            settings.broker.fence_view_max_age,
        );
        going::keep_fresh(&keyring, &fences, store_time);
        let leases = Arc::new(Leases::new(store.clone(), sealer.clone(), clock.clone()));
        let board = Arc::new(Board::new(clock.clone()));
        let enrolment = Arc::new(Enrolment::new(
            store.clone(),
            sealer.clone(),
            fences.clone(),
        ));
        let bundle = bundle(
            settings,
            &keyring,
            (&enrolment, &sealer, &board),
            &clock,
            &development_tokens,
        )?;
        bundle
            .connectors
            .prepare(clock.now())
            .await
            .map_err(|error| failed(&error))?;
        let connectors = Arc::new(arc_swap::ArcSwap::new(bundle.connectors.clone()));
        let current = connectors.clone();
        let sweeper = Sweeper::new(
            leases.clone(),
            fences.clone(),
            Arc::new(move |target| current.load().ender(target).cloned()),
        )
        .start(no_later);
        audit::check(store.as_ref(), &settings.broker.audit_path)
            .await
            .map_err(|error| failed(&error))?;
        let path = settings.broker.audit_path.clone();
        let sign = checkpoints(keyring.clone());
        let sealing = Sealing::start(store.clone(), clock.clone(), path, sign);
        let parts = Parts {
            url: settings.broker.url.clone(),
            certificates: settings.broker.certificate_doors(),
            clock: clock.clone(),
            store: store.clone(),
            sealer: sealer.clone(),
            fences,
            leases,
            sweeper: sweeper.clone(),
            keyring: keyring.clone(),
            enrolment: enrolment.clone(),
            connectors,
            sealing: sealing.clone(),
        };
        let broker = Arc::new(Broker::new(parts, bundle));
        let alone = matches!(settings.broker.store, StoreSettings::Embedded { .. });
        going::keep_going(&broker, alone, &clock);
        Ok(Self {
            broker,
            store,
            keyring,
            enrolment,
            board,
            clock,
            _sweeper: sweeper,
            sealing,
            development_tokens,
            sealer,
        })
    }

    /// Swaps everything or keeps everything.
    pub async fn reload(&self, settings: &Settings) -> Result<(), Failure> {
        if settings.broker.url != self.broker.url() {
            return Err(Failure::failed(
                "`url` cannot change under a running broker: tokens carry it; restart instead",
            ));
        }
        let bundle = bundle(
            settings,
            &self.keyring,
            (&self.enrolment, &self.sealer, &self.board),
            &self.clock,
            &self.development_tokens,
        )?;
        bundle
            .connectors
            .prepare(self.clock.now())
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let held = self.broker.hold_leavers(&bundle).await;
        held.map_err(|refusal| Failure::failed(refusal.detail))?;
        let said = self.broker.announce(&bundle.decides, false).await;
        said.map_err(|refusal| Failure::failed(refusal.detail))?;
        self.broker.reload(bundle);
        Ok(())
    }

    /// Audit entries that wait to be sealed, as far as this replica knows.
    pub fn waiting(&self) -> u64 {
        self.sealing.backlog()
    }

    /// Seals and exports what is still open, before the process ends.
    pub async fn finish(&self) {
        self.sealing.finish().await;
    }
}

fn kept(settings: &Settings) -> KeyringSettings {
    KeyringSettings {
        access_tokens: settings.broker.access_token_algorithm,
        ..KeyringSettings::default()
    }
}

/// The store that the settings name, if it is fit for use.
pub async fn open_fit(settings: &StoreSettings) -> Result<Arc<dyn Store>, Failure> {
    let store = open_store(settings).await?;
    let found = store
        .check()
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    let (advice, unfit): (Vec<_>, Vec<_>) =
        found.iter().partition(|finding| finding.fault.is_advice());
    for finding in advice {
        tracing::warn!(code = finding.fault.code(), "{}", finding.message);
    }
    if !unfit.is_empty() {
        let lines: Vec<_> = unfit.iter().map(ToString::to_string).collect();
        return Err(Failure::failed(format!(
            "the store is not fit for use:\n  {}",
            lines.join("\n  ")
        )));
    }
    Ok(store)
}

pub fn sealer(settings: &Settings) -> Result<Sealer, Failure> {
    let mut keys = Vec::new();
    for reference in &settings.broker.sealing_keys {
        keys.push(sealing_key(reference).map_err(|error| Failure::failed(error.to_string()))?);
    }
    Sealer::new(&keys).map_err(|error| Failure::failed(error.to_string()))
}

/// Everything that a reload swaps.
fn bundle(
    settings: &Settings,
    keyring: &Arc<Keyring>,
    (enrolment, sealer, board): (&Arc<Enrolment>, &Sealer, &Arc<Board>),
    clock: &Arc<dyn Clock>,
    development_tokens: &[[u8; 32]],
) -> Result<Bundle, Failure> {
    let url = &settings.broker.url;
    let reach = Reach {
        loopback: settings.broker.allow_loopback,
        private: false,
    };
    let http = KeyClient::new(reach, &[]).map_err(|error| Failure::failed(error.to_string()))?;
    let nonces = settings
        .broker
        .dpop_nonce
        .then(|| Nonces::new(sealer.clone(), url.clone()));
    let identity = |recognised: Recognised| {
        Identity::of(recognised, url.clone(), &http)
            .map(|identity| identity.demanding(nonces.clone()))
            .map_err(|error| Failure::failed(error.to_string()))
    };
    let targets: Vec<_> = settings
        .targets
        .iter()
        .map(|(target, connector)| (target.id.clone(), connector.clone()))
        .collect();
    let setup = Setup {
        keyring: keyring.clone(),
        clock: clock.clone(),
        broker_url: url,
        fence_view_max_age: settings.broker.fence_view_max_age,
        call_timeout: CALL_TIMEOUT,
        resolve: &|text| secret_reference(text).map_err(|error| error.to_string()),
    };
    let connectors = Connectors::build(&targets, &setup).map_err(|wrong| together(&wrong))?;
    let policy = settings.policy().map_err(|wrong| together(&wrong))?;
    let operators = match &settings.operators {
        Some(table) => Some(identity(Recognised {
            issuers: vec![table.issuer.clone()],
            ..Recognised::default()
        })?),
        None => None,
    };
    let (servers, servers_known) = resource_servers(settings)?;
    Ok(Bundle {
        identity: identity(settings.recognised())?.with_enrolment(enrolment.clone()),
        intents: Intents::new(
            url.clone(),
            settings.intent_issuers.clone(),
            settings.witnesses.clone(),
            &http,
        )
        .map(|intents| intents.on(board.clone()))
        .map_err(|error| Failure::failed(error.to_string()))?,
        agents: Registry::new(settings.agents.clone())
            .map_err(|error| Failure::failed(error.to_string()))?,
        policy,
        connectors: Arc::new(connectors),
        resource_servers: ResourceServers::new(identity(servers_known)?, servers),
        operators: Operators::new(operators, operator_settings(settings, development_tokens)?),
        sources: sources(settings)?,
        responses: responses(settings, &http)?,
        hash: settings.hash.clone(),
        decides: settings.decides.clone(),
    })
}

fn together(wrong: &[impl std::fmt::Display]) -> Failure {
    let lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
    Failure::failed(lines.join("\n"))
}

fn operator_settings(
    settings: &Settings,
    development_tokens: &[[u8; 32]],
) -> Result<OperatorSettings, Failure> {
    let mut roles = Vec::new();
    for rule in settings.operators.iter().flat_map(|table| &table.roles) {
        let role = match rule.role.as_str() {
            "viewer" => Role::Viewer,
            "reviewer" => Role::Reviewer,
            "operator" => Role::Operator,
            "admin" => Role::Admin,
            other => return Err(Failure::failed(format!("`{other}` is no role"))),
        };
        roles.push(RoleRule {
            role,
            claims: rule.claims.clone(),
        });
    }
    let issuer = settings.operators.as_ref();
    Ok(OperatorSettings {
        issuer: issuer.map(|table| table.issuer.url.clone()),
        roles,
        development_tokens: development_tokens.to_vec(),
    })
}

fn resource_servers(
    settings: &Settings,
) -> Result<(Vec<ResourceServerSettings>, Recognised), Failure> {
    let mut servers = Vec::new();
    let mut known = Recognised::default();
    for table in &settings.resource_servers {
        let name = || {
            let name = table.name.parse();
            name.map_err(|error| Failure::failed(format!("resource server: {error}")))
        };
        let secret_sha256 = match &table.proof {
            ResourceServerProof::Secret(reference) => {
                let secret = secret_reference(reference)
                    .map_err(|error| Failure::failed(error.to_string()))?;
                digest(&SHA256, secret.expose().as_bytes())
                    .as_ref()
                    .try_into()
                    .ok()
            }
            ResourceServerProof::Keys(keys) => {
                known.clients.push(ClientSettings {
                    agent: name()?,
                    keys: keys.clone(),
                    legacy_audience: false,
                    enrol: false,
                });
                None
            }
            ResourceServerProof::Certificate(rule) => {
                known.certificates.push(CertificateSettings {
                    agent: name()?,
                    rule: rule.clone(),
                });
                None
            }
        };
        servers.push(ResourceServerSettings {
            name: table.name.clone(),
            secret_sha256,
            audiences: table.audiences.clone(),
        });
    }
    Ok((servers, known))
}

fn sources(settings: &Settings) -> Result<Vec<SourceSettings>, Failure> {
    let mut sources = Vec::new();
    for table in &settings.sources {
        let kind = match table.kind.as_str() {
            "github" => SourceKind::Github,
            "gitlab" => SourceKind::Gitlab,
            "generic" => SourceKind::Generic,
            "scim" => SourceKind::Scim,
            other => return Err(Failure::failed(format!("`{other}` is no kind of source"))),
        };
        sources.push(SourceSettings {
            name: table.name.clone(),
            kind,
            secret: secret_reference(&table.secret)
                .map_err(|error| Failure::failed(error.to_string()))?,
            issuer_url: table.issuer_url.clone(),
            may_end: table.may_end.clone(),
        });
    }
    Ok(sources)
}

fn responses(settings: &Settings, http: &KeyClient) -> Result<Responses, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let mut notify = Vec::new();
    for table in &settings.notify {
        let way = match &table.way {
            NotifyWay::Webhook { url, secret } => Way::Webhook {
                // The operator named it: it may be inside the organisation.
                client: http.to_service(None).map_err(|error| failed(&error))?,
                url: url.clone(),
                secret: secret_reference(secret).map_err(|error| failed(&error))?,
            },
            NotifyWay::Command { words, to } => Way::Command {
                words: words.clone(),
                to: to.clone(),
            },
        };
        let name = table.name.clone();
        notify.push(Notify { name, way });
    }
    Ok(Responses {
        responses: settings.responses.clone(),
        notify,
    })
}

/// Signs what the audit's sealer writes down every second.
fn checkpoints(keyring: Arc<Keyring>) -> Box<audit::Sign> {
    Box::new(move |claims: &[u8]| {
        let claims: serde_json::Value =
            serde_json::from_slice(claims).map_err(|error| error.to_string())?;
        keyring
            .sign(Purpose::Checkpoint, super::audit::CHECKPOINT_TYP, &claims)
            .map(|(jws, _)| jws.expose().clone())
            .map_err(|error| error.to_string())
    })
}
