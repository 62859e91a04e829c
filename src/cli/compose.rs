//! The composition root: settings in, a broker out. The only place that knows every room at once.

mod going;

pub use going::KEYS_EVERY;

use super::bundle::Maker;
use super::output::Failure;
use super::stores::open_store;
use crate::audit::{self, Sealing};
use crate::broker::publish::{Publishing, Stored};
use crate::broker::{Broker, Bundle, Parts};
use crate::clock::Clock;
use crate::config::{Settings, StoreSettings, sealing_key};
use crate::fences::Fences;
use crate::identity::Enrolment;
use crate::intent::Board;
use crate::jose::{Keyring, KeyringSettings, Purpose};
use crate::leases::{Leases, Sweeper};
use crate::secret::Sealer;
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;

/// How long a start waits for the fence log.
const UNTIL_FOLLOWED: Duration = Duration::from_secs(30);

/// A broker and what keeps it going for as long as it is held.
#[derive(Debug)]
pub struct Composed {
    pub broker: Arc<Broker>,
    pub store: Arc<dyn Store>,
    pub keyring: Arc<Keyring>,
    pub clock: Arc<dyn Clock>,
    maker: Arc<Maker>,
    _sweeper: Arc<Sweeper>,
    sealing: Arc<Sealing>,
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
        // SECURITY: before anything is read of it, or written to it.
        let sealed = audit::check(store.as_ref(), &sealer, &settings.broker.audit_path)
            .await
            .map_err(|error| failed(&error))?;
        let (store, no_later, store_time) = going::in_store_time(store, &clock).await?;
        let kept = kept(settings);
        let keyring = Keyring::open_with(store.clone(), sealer.clone(), kept, clock.now())
            .await
            .map_err(|error| failed(&error))?;
        let keyring = Arc::new(keyring);
        let fences = Fences::idle(
            store.clone(),
            sealer.clone(),
            clock.clone(),
            settings.broker.fence_view_max_age,
        );
        let fences = fences.sealed_at(sealed).begin();
        going::keep_fresh(&keyring, &fences, store_time);
        let leases = Arc::new(Leases::new(store.clone(), sealer.clone(), clock.clone()));
        let enrolment = Enrolment::new(store.clone(), sealer.clone(), fences.clone());
        let maker = Arc::new(Maker {
            keyring: keyring.clone(),
            enrolment: Arc::new(enrolment),
            sealer: sealer.clone(),
            board: Arc::new(Board::new(clock.clone())),
            clock: clock.clone(),
            development_tokens,
        });
        let (bundle, publishing) = first(&maker, settings, (&store, &fences)).await?;
        let connectors = Arc::new(arc_swap::ArcSwap::new(bundle.connectors.clone()));
        let current = connectors.clone();
        let sweeper = Sweeper::new(
            leases.clone(),
            fences.clone(),
            Arc::new(move |target| current.load().ender(target).cloned()),
        )
        .start(no_later);
        let path = settings.broker.audit_path.clone();
        let sign = checkpoints(keyring.clone());
        let sealing = Sealing::start(store.clone(), sealer.clone(), clock.clone(), path, sign);
        let parts = Parts {
            url: settings.broker.url.clone(),
            certificates: settings.broker.certificate_doors(),
            clock: clock.clone(),
            store: store.clone(),
            sealer,
            fences,
            leases,
            sweeper: sweeper.clone(),
            keyring: keyring.clone(),
            enrolment: maker.enrolment.clone(),
            connectors,
            publishing,
            sealing: sealing.clone(),
        };
        let broker = Arc::new(Broker::new(parts, bundle));
        let alone = matches!(settings.broker.store, StoreSettings::Embedded { .. });
        going::keep_going(&broker, alone, &clock);
        Ok(Self {
            broker,
            store,
            keyring,
            maker,
            clock,
            _sweeper: sweeper,
            sealing,
        })
    }

    /// Swaps everything or keeps everything; the hash of what decides then.
    pub async fn reload(&self, settings: &Settings) -> Result<String, Failure> {
        if settings.broker.url != self.broker.url() {
            return Err(Failure::failed(
                "`url` cannot change under a running broker: tokens carry it; restart instead",
            ));
        }
        // What was published stays, with this replica's own part and its secrets read again.
        let build = self.maker.of_published(settings.node.clone());
        let folder = async {
            let ready = self.maker.ready(settings).await;
            ready.map_err(|failure| failure.message)
        };
        let read = self.broker.read_again(build, folder).await;
        read.map_err(Failure::failed)
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

pub(super) fn kept(settings: &Settings) -> KeyringSettings {
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

/// The configuration that decides first: what was published last, or the folder where nothing ever was.
///
/// SECURITY: where something was published and cannot be had, the folder is no way out: it may be older,
/// and wider.
async fn first(
    maker: &Arc<Maker>,
    settings: &Settings,
    (store, fences): (&Arc<dyn Store>, &Fences),
) -> Result<(Bundle, Option<Publishing>), Failure> {
    if !settings.broker.published {
        return Ok((maker.ready(settings).await?, None));
    }
    let failed =
        |why: String| Failure::failed(format!("the published configuration cannot be had: {why}"));
    let view = fences.reach_within(UNTIL_FOLLOWED).await;
    let view = view.map_err(|stale| failed(stale.to_string()))?;
    let wanted = view.configured().and_then(|said| said.record());
    let held = match wanted {
        None => None,
        Some(wanted) => {
            let stored = Stored::load(store.as_ref(), &maker.sealer, &wanted).await;
            let stored = stored.map_err(failed)?;
            if stored.url != settings.broker.url {
                return Err(failed(format!("it is for `{}`", stored.url)));
            }
            Some(stored)
        }
    };
    let mut bundle = match &held {
        Some(stored) => {
            let settings = maker.settings_of(stored, settings.node.clone()).await?;
            maker.ready(&settings).await?
        }
        None => maker.ready(settings).await?,
    };
    bundle.revision = held.as_ref().map_or(0, |held| held.revision);
    let build = maker.of_published(settings.node.clone());
    let publishing = Publishing::new(held, build);
    Ok((bundle, Some(publishing)))
}

pub fn sealer(settings: &Settings) -> Result<Sealer, Failure> {
    let mut keys = Vec::new();
    for reference in &settings.broker.sealing_keys {
        keys.push(sealing_key(reference).map_err(|error| Failure::failed(error.to_string()))?);
    }
    Sealer::new(&keys).map_err(|error| Failure::failed(error.to_string()))
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
