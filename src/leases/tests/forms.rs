//! Leases whose common part another version wrote in another form: what is counted is what is named.

use super::bench::{Bench, Downstream, store};
use crate::connectors::RevocationClass;
use crate::fences::DimensionKind;
use crate::fences::tests::fixture::Advanced;
use crate::leases::alike::{Half, Written};
use crate::leases::{Lease, State, keys};
use crate::store::{Key, Transaction, Write};
use ring::digest::{SHA256, digest};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

struct World {
    bench: Bench,
    lease: Lease,
    /// As this version names it, and as an older one did.
    new: Half,
    old: Half,
}

fn common(lease: &Lease, half: &Half) -> Key {
    keys::common(lease.id.shard(), half)
}

/// A lease of a version that knew one field less of what leases have in common.
async fn of_an_older_version() -> World {
    let bench = on_a_new_store().await;
    let lease = bench.issued().await;
    let new = lease.common().unwrap();
    // An array of twenty, of which the last one says `false`.
    let [0xdc, 0, 20, fields @ .., 0xc2] = new.bytes.as_slice() else {
        panic!("the form has changed: {:x?}", new.bytes);
    };
    let bytes = [&[0xdc, 0, 19], fields].concat();
    let sha256 = digest(&SHA256, &bytes).as_ref().try_into().unwrap();
    let old = Written { sha256, bytes };
    let key = keys::lease(&lease.id);
    let value = lease.record().bytes(&bench.leases.sealer, &old).unwrap();
    let world = World {
        new: new.half(),
        old: old.half(),
        bench,
        lease,
    };
    let writes = vec![
        Write::Share {
            key: common(&world.lease, &world.old),
            value: old.bytes,
        },
        world.unshare(&world.new),
        Write::Put {
            key,
            value,
            expires_at: None,
        },
    ];
    world.write(writes).await;
    assert!(!world.is_there(&world.new).await);
    world
}

async fn on_a_new_store() -> Bench {
    let downstream = Downstream::new(RevocationClass::Native, true);
    Bench::on(store(), downstream, Advanced::new()).await
}

impl World {
    async fn write(&self, writes: Vec<Write>) {
        let deadline = self.bench.now() + Duration::from_secs(30);
        let transaction = Transaction::new(self.lease.id.shard(), deadline);
        let transaction = writes.into_iter().fold(transaction, Transaction::write);
        self.bench.leases.store.commit(transaction).await.unwrap();
    }

    fn unshare(&self, half: &Half) -> Write {
        Write::Unshare {
            key: common(&self.lease, half),
            until: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1),
        }
    }

    async fn is_there(&self, half: &Half) -> bool {
        let key = [common(&self.lease, half)];
        let found = self.bench.leases.store.get(&key);
        found.await.unwrap().pop().flatten().is_some()
    }

    /// Whether somebody counts on it.
    async fn is_shared(&self, half: &Half) -> bool {
        let key = [common(&self.lease, half)];
        let found = self.bench.leases.store.get(&key);
        let Some(found) = found.await.unwrap().pop().flatten() else {
            return false;
        };
        // One that comes and goes takes it along if it was the only one.
        let share = Write::Share {
            key: common(&self.lease, half),
            value: found.value,
        };
        self.write(vec![share, self.unshare(half)]).await;
        self.is_there(half).await
    }

    /// As a replica reads it that has read nothing yet.
    async fn read(&self) -> Lease {
        let store = Arc::clone(&self.bench.leases.store);
        let downstream = Arc::clone(&self.bench.downstream);
        let fresh = Bench::on(store, downstream, Arc::clone(&self.bench.clock)).await;
        fresh.again(&self.lease).await
    }
}

#[tokio::test]
async fn a_lease_of_an_older_form_is_read_as_it_is_and_named_as_it_was() {
    let world = of_an_older_version().await;
    let read = world.read().await;
    assert_eq!(read.record(), world.lease.record());
    assert_eq!(read.shares(), world.old);
    assert!(world.is_shared(&world.old).await);
}

#[tokio::test]
async fn a_step_goes_from_the_name_that_it_was_read_under_to_the_new_one() {
    let world = of_an_older_version().await;
    let marked = world
        .bench
        .leases
        .hand_on(&world.lease.id, world.bench.now());
    assert!(marked.await.unwrap());
    let read = world.read().await;
    assert_eq!(read.shares(), world.new);
    assert!(read.handed_on);
    assert!(world.is_shared(&world.new).await);
    assert!(
        !world.is_shared(&world.old).await,
        "nobody is left to end it"
    );
}

#[tokio::test]
async fn a_lease_of_an_older_form_can_be_read_when_it_is_closed() {
    let world = of_an_older_version().await;
    world.bench.kill(DimensionKind::Agent, "deployer").await;
    // Both in one step, and in two.
    world.bench.sweep().await;
    let read = world.read().await;
    assert_eq!(read.state, State::Revoked);
    assert_eq!(read.owner, world.lease.owner);
    assert!(!world.is_shared(&world.old).await);
    assert!(!world.is_shared(&world.new).await);

    let world = of_an_older_version().await;
    let lease = world.read().await;
    let closed = world
        .bench
        .leases
        .step(&lease, world.bench.now(), |record| {
            record.state = State::Expired;
            let why = crate::leases::Why::Expired;
            let closing = crate::leases::Closing::new(why, "dayfly", "over", world.bench.now());
            record.closing = Some(closing);
            true
        });
    assert!(closed.await.unwrap().is_some());
    assert_eq!(world.read().await.owner, world.lease.owner);
    assert!(!world.is_shared(&world.old).await);
    assert!(!world.is_shared(&world.new).await);
}
