//! One replica over a real store, and a downstream that really has credentials.

use crate::clock::Clock;
use crate::connectors::{
    Connector, ConnectorError, Ended, Handle, MintContext, Minted, Promises, RevocationClass,
};
use crate::fences::tests::fixture::{Advanced, Line};
use crate::fences::{Dimension, DimensionKind, FenceKind, Fences};
use crate::ids::{self, LeaseId};
use crate::leases::{Connectors, Issued, Lease, LeaseError, Leases, Sweeper, Swept};
use crate::policy::Grant;
use crate::secret::{Sealer, Secret};
use crate::store::Store;
use crate::store::embedded::Embedded;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use time::OffsetDateTime;

/// Credentials that work, by the handle that ends them.
#[derive(Debug)]
pub(super) struct Downstream {
    pub(super) promises: Promises,
    /// Whose, and until when.
    live: Mutex<BTreeMap<Vec<u8>, (LeaseId, OffsetDateTime)>>,
    pub(super) out_of_order: AtomicBool,
    pub(super) loses_answers: AtomicBool,
    pub(super) leaves_rubbish: AtomicBool,
    pub(super) cannot_end: AtomicBool,
    pub(super) hangs: AtomicBool,
    /// How long whoever asks it waits while it hangs. `None`: for ever.
    pub(super) gives_up: Mutex<Option<Duration>>,
    pub(super) ends: AtomicU64,
}

impl Downstream {
    pub(super) fn new(class: RevocationClass, named: bool) -> Arc<Self> {
        Arc::new(Self {
            promises: Promises {
                min_ttl: Duration::from_secs(60),
                max_ttl: Duration::from_secs(3600),
                class,
                dead_within: Some(Duration::from_secs(5)),
                local: class == RevocationClass::Broker,
                named_by_lease: named,
                expires_by_itself: true,
                status_list: class == RevocationClass::Broker,
                detail_type: "access_token",
            },
            live: Mutex::default(),
            out_of_order: AtomicBool::new(false),
            loses_answers: AtomicBool::new(false),
            leaves_rubbish: AtomicBool::new(false),
            cannot_end: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            gives_up: Mutex::default(),
            ends: AtomicU64::new(0),
        })
    }

    /// What it makes lives on past its expiry, as an open session does.
    pub(super) fn outliving() -> Arc<Self> {
        let made = Self::new(RevocationClass::Native, true);
        let mut made = Arc::try_unwrap(made).unwrap();
        made.promises.expires_by_itself = false;
        Arc::new(made)
    }

    pub(super) fn live(&self) -> Vec<LeaseId> {
        let live = self.live.lock().unwrap();
        live.values().map(|(of, _)| *of).collect()
    }

    /// Those whose time is not up, where time ends them.
    pub(super) fn live_at(&self, now: OffsetDateTime) -> Vec<LeaseId> {
        let live = self.live.lock().unwrap();
        let living = live.values().filter(|(_, until)| now < *until);
        living.map(|(of, _)| *of).collect()
    }
}

#[async_trait]
impl Connector for Downstream {
    fn promises(&self) -> Promises {
        self.promises
    }

    async fn mint(
        &self,
        grant: &Grant,
        context: MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        if self.out_of_order.load(Ordering::SeqCst) {
            return Err(ConnectorError::Unavailable("closed today".to_owned()));
        }
        let (handle, expires_at): ([u8; 16], _) = (ids::random(), context.now + grant.ttl());
        if self.promises.class != RevocationClass::Broker {
            let mut live = self.live.lock().unwrap();
            live.insert(handle.to_vec(), (*context.lease, expires_at));
        }
        if self.loses_answers.load(Ordering::SeqCst) {
            return Err(ConnectorError::Unknown("the line went dead".to_owned()));
        }
        let token = format!("token-of-{}", context.lease);
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        Ok(Minted {
            token: Some(Secret::new(token)),
            credential: None,
            issued_token_type: crate::connectors::ACCESS_TOKEN_TYPE,
            handle: Some(Secret::new(handle.to_vec())),
            names: vec![format!("AKIA{}", context.lease)],
            expires_at,
            token_sha256: digest.as_ref().try_into().ok(),
            signing_key: Some("key-1".to_owned()),
        })
    }

    async fn end(&self, lease: &LeaseId, handle: Option<&Handle>) -> Result<Ended, ConnectorError> {
        self.ends.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            let gives_up = *self.gives_up.lock().unwrap();
            tokio::time::sleep(gives_up.unwrap_or(Duration::MAX)).await;
            return Err(ConnectorError::Unavailable("no answer in time".to_owned()));
        }
        if self.out_of_order.load(Ordering::SeqCst) {
            return Err(ConnectorError::Unavailable("closed today".to_owned()));
        }
        let never = self.promises.class == RevocationClass::Expiry;
        if never || self.cannot_end.load(Ordering::SeqCst) {
            return Ok(Ended::LivesUntilExpiry);
        }
        let mut live = self.live.lock().unwrap();
        if let Some(handle) = handle {
            live.remove(handle.expose());
        }
        if self.promises.named_by_lease {
            live.retain(|_, (of, _)| of != lease);
        } else if handle.is_none() {
            return Err(ConnectorError::Refused("which one?".to_owned()));
        }
        Ok(if self.leaves_rubbish.load(Ordering::SeqCst) {
            Ended::DeadUncollected
        } else {
            Ended::Dead
        })
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

pub(super) struct Bench {
    pub(super) line: Arc<Line>,
    pub(super) clock: Arc<Advanced>,
    pub(super) leases: Arc<Leases>,
    pub(super) fences: Arc<Fences>,
    pub(super) sweeper: Sweeper,
    pub(super) downstream: Arc<Downstream>,
}

pub(super) fn store() -> Arc<dyn Store> {
    Arc::new(Embedded::in_memory().unwrap())
}

impl Bench {
    pub(super) async fn new(class: RevocationClass, named: bool) -> Self {
        Self::on(store(), Downstream::new(class, named), Advanced::new()).await
    }

    /// A process of its own on a store that is shared.
    pub(super) async fn on(
        store: Arc<dyn Store>,
        downstream: Arc<Downstream>,
        clock: Arc<Advanced>,
    ) -> Self {
        Self::bounded(store, downstream, clock, Duration::from_secs(1_000_000)).await
    }

    /// Its view is fresh for so long.
    pub(super) async fn bounded(
        store: Arc<dyn Store>,
        downstream: Arc<Downstream>,
        clock: Arc<Advanced>,
        bound: Duration,
    ) -> Self {
        let line = Line::to(store);
        let store = Arc::clone(&line) as Arc<dyn Store>;
        let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let fences = Arc::new(Fences::idle(
            Arc::clone(&store),
            sealer.clone(),
            Arc::clone(&time),
            bound,
        ));
        fences.follow(Duration::ZERO).await.unwrap();
        let leases = Arc::new(Leases::new(store, sealer, time));
        let connector = Arc::clone(&downstream);
        let connectors: Connectors =
            Arc::new(move |_| Some(Arc::clone(&connector) as Arc<dyn Connector>));
        let sweeper = Sweeper::new(Arc::clone(&leases), Arc::clone(&fences), connectors);
        Self {
            line,
            clock,
            leases,
            fences,
            sweeper,
            downstream,
        }
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    pub(super) fn grant(&self) -> Grant {
        self.granted("deployer")
    }

    pub(super) fn granted(&self, agent: &str) -> Grant {
        Grant::for_tests()
            .agent(agent)
            .position(self.fences.fresh().unwrap().position())
            .now(self.now())
            .build()
    }

    /// The corridor's order.
    pub(super) async fn issue(&self, grant: &Grant) -> Result<Issued, LeaseError> {
        let now = self.now();
        let promises = self.downstream.promises;
        let draft = self.leases.draft(grant, &promises, now);
        if promises.local {
            let minted = self.downstream.mint(grant, draft.context(now)).await;
            return self.leases.issue(draft, grant, minted.unwrap(), now).await;
        }
        let reserved = self.leases.reserve(draft, grant, now).await?;
        match self.downstream.mint(grant, reserved.context(now)).await {
            Ok(minted) => {
                let view = self.fences.fresh()?;
                self.leases.activate(reserved, minted, &view, now).await
            }
            Err(error) => {
                let lease = reserved.lease().clone();
                self.leases.fail(reserved, &error, now).await?;
                Err(LeaseError::Closed(lease.id))
            }
        }
    }

    pub(super) async fn issued(&self) -> Lease {
        self.issue(&self.grant()).await.unwrap().lease
    }

    pub(super) async fn again(&self, lease: &Lease) -> Lease {
        self.leases.get(&lease.id).await.unwrap().unwrap()
    }

    pub(super) async fn kill(&self, kind: DimensionKind, value: &str) {
        self.raise(FenceKind::Kill, Dimension::new(kind, value))
            .await;
    }

    pub(super) async fn raise(&self, kind: FenceKind, dimension: Dimension) {
        let fence = crate::fences::tests::new(kind, dimension);
        self.fences.raise(fence, self.now()).await.unwrap();
    }

    pub(super) async fn sweep(&self) -> Swept {
        self.fences.follow(Duration::ZERO).await.unwrap();
        self.sweeper.run_once(self.now()).await.unwrap()
    }

    pub(super) fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}
