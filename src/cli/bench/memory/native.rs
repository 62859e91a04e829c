//! Leases whose end a downstream must confirm, one by one.

use super::super::{PATIENCE, decide, failed};
use super::{AGENTS, ENDING, any_open};
use crate::cli::output::Failure;
use crate::clock::{Clock, SystemClock};
use crate::connectors::{
    ACCESS_TOKEN_TYPE, Connector, ConnectorError, Ended, Handle, MintContext, Minted, Promises,
    RevocationClass,
};
use crate::fences::{Dimension, FenceKind, Fences, NewFence};
use crate::ids::{self, LeaseId};
use crate::leases::{Connectors, Leases, Sweeper};
use crate::policy::Grant;
use crate::secret::{Sealer, Secret};
use crate::store::Store;
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A downstream that confirms at once: what is measured is the broker's own part.
#[derive(Debug, Default)]
struct Downstream {
    ended: AtomicU32,
}

#[async_trait]
impl Connector for Downstream {
    fn promises(&self) -> Promises {
        Promises {
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(3600),
            class: RevocationClass::Native,
            dead_within: Some(Duration::from_secs(5)),
            local: false,
            named_by_lease: true,
            expires_by_itself: true,
            status_list: false,
            detail_type: "access_token",
        }
    }

    async fn mint(
        &self,
        grant: &Grant,
        context: MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        Ok(Minted {
            token: Some(Secret::new(context.lease.to_string())),
            credential: None,
            issued_token_type: ACCESS_TOKEN_TYPE,
            handle: Some(Secret::new(ids::random::<16>().to_vec())),
            names: Vec::new(),
            expires_at: context.now + grant.ttl(),
            token_sha256: None,
            signing_key: None,
        })
    }

    async fn end(&self, _: &LeaseId, _: Option<&Handle>) -> Result<Ended, ConnectorError> {
        self.ended.fetch_add(1, Ordering::Relaxed);
        Ok(Ended::Dead)
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// On a store of their own: one fence, and every end told to a downstream and confirmed.
pub(super) async fn ended(count: u32, store: Arc<dyn Store>) -> Result<Duration, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let sealer = Sealer::new(&[Secret::new(ids::random::<32>().to_vec())]).map_err(failed)?;
    let fences = Fences::start(store.clone(), sealer.clone(), clock.clone(), PATIENCE);
    let leases = Arc::new(Leases::new(store.clone(), sealer, clock.clone()));
    let downstream = Arc::new(Downstream::default());
    let until = clock.since_boot() + PATIENCE;
    let view = loop {
        match fences.fresh() {
            Ok(view) => break view,
            Err(stale) if clock.since_boot() > until => return Err(failed(stale)),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let grants = decide::Stage::set(AGENTS, clock.now())?.grants(&view, clock.now())?;
    for (_, grant) in (0..count).zip(grants.iter().cycle()) {
        let now = clock.now();
        let draft = leases.draft(grant, &downstream.promises(), now);
        let reserved = leases.reserve(draft, grant, now).await.map_err(failed)?;
        let minted = downstream.mint(grant, reserved.context(now)).await;
        let minted = minted.map_err(failed)?;
        leases
            .activate(reserved, minted, &view, now)
            .await
            .map_err(failed)?;
    }
    let connector = downstream.clone();
    let connectors: Connectors = Arc::new(move |_| Some(connector.clone() as Arc<dyn Connector>));
    let _sweeper = Sweeper::new(leases, fences.clone(), connectors).start(clock.clone());
    let fence = NewFence::new(FenceKind::Kill, Dimension::all(), "bench", "measured");
    let begun = clock.since_boot();
    fences.raise(fence, clock.now()).await.map_err(failed)?;
    loop {
        let took = clock.since_boot() - begun;
        if downstream.ended.load(Ordering::Relaxed) >= count
            && !any_open(store.as_ref()).await.map_err(failed)?
        {
            return Ok(took);
        }
        if took > ENDING {
            return Err(Failure::failed("leases that were ended stay open"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
