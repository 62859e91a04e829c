//! What every connector must do, whatever it stands in front of. The suite asks only through the
//! trait and uses the credential on the real thing.

use super::{Connector, ConnectorError, ConnectorSettings, Connectors, Ended, MintContext, Minted};
use super::{RevocationClass, Setup, sha256};
use crate::clock::{Clock, SystemClock};
use crate::ids::{LeaseId, ShardId, TargetId};
use crate::jose::Keyring;
use crate::policy::{Grant, GrantBuilder};
use crate::secret::{Sealer, Secret};
use crate::store::embedded::Embedded;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// What the suite cannot know of a connector.
pub(super) struct Subject<'a> {
    /// As [`super::Connectors`] hands it out.
    pub connector: &'a dyn Connector,
    /// A grant that it can express.
    pub grant: GrantBuilder,
    /// A grant of its own vocabulary that it cannot express.
    pub inexpressible: GrantBuilder,
}

pub(super) fn draw() -> LeaseId {
    LeaseId::draw(ShardId::all().next().unwrap())
}

/// A request for a lease of this life, made now.
pub(super) fn context(lease: &LeaseId, life: Duration) -> MintContext<'_> {
    let now = SystemClock::new().now();
    MintContext {
        lease,
        expires_at: now + life,
        mint_by: now + Duration::from_secs(30),
        now,
        status: None,
        beforehand: None,
    }
}

/// Runs the whole suite; `works` says whether the real thing takes the credential.
pub(super) async fn holds<W>(subject: &Subject<'_>, works: W)
where
    W: AsyncFn(&Minted) -> bool,
{
    promises_are_consistent(subject.connector);
    let promises = subject.connector.promises();
    let mut seen = BTreeSet::new();
    for life in [promises.min_ttl, Duration::from_secs(899), promises.max_ttl] {
        let grant = subject.grant.clone().ttl(life).build();
        let lease = draw();
        let asked = context(&lease, life);
        let minted = subject.connector.mint(&grant, asked).await.unwrap();
        is_within_the_grant(&minted, &asked, promises.named_by_lease && !promises.local);
        assert!(
            seen.insert(secret_of(&minted)),
            "two leases, one credential"
        );
        assert!(works(&minted).await, "the real thing does not take it");
        ends_twice(subject.connector, &lease, &minted).await;
        is_as_dead_as_promised(promises.class, &minted, &works).await;
    }
    one_ends_without_the_other(subject, &works).await;
    what_cannot_be_done_is_refused(subject).await;
    subject.connector.check().await.unwrap();
}

fn promises_are_consistent(connector: &dyn Connector) {
    let promises = connector.promises();
    assert!(!promises.min_ttl.is_zero());
    assert!(promises.min_ttl < promises.max_ttl);
    assert!(
        promises.max_ttl <= Duration::from_secs(3600),
        "minutes, not days"
    );
    assert_eq!(
        promises.dead_within.is_none(),
        promises.class == RevocationClass::Expiry,
        "only what cannot be ended has no bound"
    );
    assert!(!promises.detail_type.is_empty());
    assert!(!promises.local || promises.class == RevocationClass::Broker);
}

fn is_within_the_grant(minted: &Minted, asked: &MintContext<'_>, named: bool) {
    assert!(minted.expires_at <= asked.expires_at, "outlives its lease");
    assert!(minted.expires_at > asked.now - Duration::from_secs(1));
    assert_ne!(
        minted.token.is_some(),
        minted.credential.is_some(),
        "one string, or fields"
    );
    assert_eq!(
        minted.token_sha256,
        minted.token.as_ref().map(|token| sha256(token.expose()))
    );
    if let Some(fields) = &minted.credential {
        assert!(
            serde_json::from_str::<serde_json::Value>(fields.expose())
                .unwrap()
                .is_object()
        );
    }
    if named {
        let lease = asked.lease.to_string();
        assert!(minted.names.contains(&lease), "{:?}", minted.names);
    }
    // Nothing secret where people look.
    let secret = secret_of(minted);
    assert!(!format!("{minted:?}").contains(&secret));
    assert!(!minted.names.contains(&secret));
}

fn secret_of(minted: &Minted) -> String {
    let secret = minted.token.as_ref().or(minted.credential.as_ref());
    secret.unwrap().expose().clone()
}

async fn ends_twice(connector: &dyn Connector, lease: &LeaseId, minted: &Minted) {
    let promises = connector.promises();
    let handle = minted.handle.as_ref();
    for _ in 0..2 {
        let ended = connector.end(lease, handle).await.unwrap();
        assert_eq!(
            ended == Ended::LivesUntilExpiry,
            promises.class == RevocationClass::Expiry
        );
    }
    if promises.named_by_lease {
        connector.end(lease, None).await.unwrap();
        connector.end(&draw(), None).await.unwrap();
    }
}

/// What ends at the target does not work there any more. What the broker answers for, and what
/// nobody can end, is taken until it expires: no promise says otherwise.
async fn is_as_dead_as_promised<W>(class: RevocationClass, minted: &Minted, works: &W)
where
    W: AsyncFn(&Minted) -> bool,
{
    let dead = match class {
        RevocationClass::Native | RevocationClass::Deny => true,
        RevocationClass::Broker | RevocationClass::Expiry => false,
    };
    assert_ne!(works(minted).await, dead, "after it was ended");
}

/// By its lease's name alone, and nobody else's with it.
async fn one_ends_without_the_other<W>(subject: &Subject<'_>, works: &W)
where
    W: AsyncFn(&Minted) -> bool,
{
    let promises = subject.connector.promises();
    let (connector, life) = (subject.connector, promises.min_ttl);
    let grant = subject.grant.clone().ttl(life).build();
    let (first, second) = (draw(), draw());
    let minted = connector.mint(&grant, context(&first, life)).await.unwrap();
    let other = connector.mint(&grant, context(&second, life)).await;
    let other = other.unwrap();
    let handle = minted.handle.as_ref().filter(|_| !promises.named_by_lease);
    connector.end(&first, handle).await.unwrap();
    is_as_dead_as_promised(promises.class, &minted, works).await;
    assert!(works(&other).await, "another lease was ended");
    connector.end(&second, other.handle.as_ref()).await.unwrap();
}

async fn what_cannot_be_done_is_refused(subject: &Subject<'_>) {
    let promises = subject.connector.promises();
    let minute = promises.min_ttl;
    let grant = subject.grant.clone().build();
    let elsewhere = subject.grant.clone().target("somewhere-else").build();
    let foreign = subject.grant.clone().detail_type("no_such_type").build();
    let nothing = subject.grant.clone().authority(Default::default()).build();
    let inexpressible = subject.inexpressible.clone().build();
    let shorter = promises.min_ttl - Duration::from_millis(1);
    let longer = promises.max_ttl + Duration::from_millis(1);
    for (what, grant, life) in [
        ("another target", &elsewhere, minute),
        ("another vocabulary", &foreign, minute),
        ("nothing granted", &nothing, minute),
        ("inexpressible", &inexpressible, minute),
        ("too short", &grant, shorter),
        ("too long", &grant, longer),
    ] {
        let lease = draw();
        let error = subject
            .connector
            .mint(grant, context(&lease, life))
            .await
            .unwrap_err();
        assert!(
            matches!(error, ConnectorError::Inexpressible(_)),
            "{what}: {error}"
        );
    }
    if !promises.local {
        let lease = draw();
        let late = MintContext {
            mint_by: OffsetDateTime::UNIX_EPOCH,
            ..context(&lease, minute)
        };
        let error = subject.connector.mint(&grant, late).await.unwrap_err();
        assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
    }
}

/// The grant's own lifetime is not the connector's business: the context says when it ends.
pub(super) fn grant(target: &str, detail_type: &'static str) -> GrantBuilder {
    Grant::for_tests().target(target).detail_type(detail_type)
}

/// A keyring of this test's own.
pub(super) async fn keyring() -> Arc<Keyring> {
    let store = Arc::new(Embedded::in_memory().unwrap());
    let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
    let now = SystemClock::new().now();
    Arc::new(Keyring::open(store, sealer, now).await.unwrap())
}

/// The connector of one target, built as the broker builds it.
pub(super) async fn built(
    keyring: &Arc<Keyring>,
    target: &str,
    settings: ConnectorSettings,
    call_timeout: Duration,
) -> Arc<dyn Connector> {
    let target: TargetId = target.parse().unwrap();
    let setup = Setup {
        keyring: keyring.clone(),
        clock: Arc::new(SystemClock::new()),
        broker_url: "https://broker.example",
        fence_view_max_age: Duration::from_secs(1),
        call_timeout,
        resolve: &|reference| match reference.strip_prefix("test:") {
            Some(value) => Ok(Secret::new(value.to_owned())),
            None => Err(format!("`{reference}` is not there")),
        },
    };
    let connectors = Connectors::build(&[(target.clone(), settings)], &setup).unwrap();
    connectors.prepare(setup.clock.now()).await.unwrap();
    connectors.get(&target).unwrap().clone()
}
