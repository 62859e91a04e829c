//! What lies in front of an index of what is due, and what lies behind it.

use super::bench::{Bench, Downstream, store};
use crate::audit;
use crate::connectors::RevocationClass;
use crate::fences::DimensionKind;
use crate::fences::tests::fixture::Advanced;
use crate::ids::{LeaseId, ShardId};
use crate::leases::look::PAGE;
use crate::leases::{Lease, State, keys};
use crate::policy::Grant;
use crate::secret::Secret;
use crate::store::redis::tests::support::RedisServer;
use crate::store::redis::{Redis, RedisSettings};
use crate::store::{MAX_RANK, Position, Ranked, Store, Tail, Transaction, Write};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Both kinds, and the server of the second one.
async fn stores() -> Vec<(Arc<dyn Store>, Option<RedisServer>)> {
    let mut stores = vec![(store(), None)];
    if let Some(server) = RedisServer::start(&[]).unwrap() {
        let settings = RedisSettings::new(Secret::new(server.url()));
        let redis: Arc<dyn Store> = Arc::new(Redis::connect(settings).await.unwrap());
        stores.push((redis, Some(server)));
    }
    stores
}

async fn on(store: &Arc<dyn Store>) -> Bench {
    let downstream = Downstream::new(RevocationClass::Native, true);
    Bench::on(Arc::clone(store), downstream, Advanced::new()).await
}

async fn write(bench: &Bench, shard: ShardId, writes: Vec<Write>) {
    let deadline = bench.now() + Duration::from_secs(30);
    let transaction = Transaction::new(shard, deadline);
    let transaction = writes.into_iter().fold(transaction, Transaction::write);
    bench.leases.store.commit(transaction).await.unwrap();
}

async fn due(bench: &Bench, shard: ShardId) -> Vec<Ranked> {
    let all = -MAX_RANK..=MAX_RANK;
    let index = keys::due(shard);
    let found = bench.leases.store.range(&index, all, 10_000);
    found.await.unwrap()
}

#[tokio::test]
async fn what_one_end_marks_is_read_page_by_page_at_the_cost_of_its_number() {
    for (store, _server) in stores().await {
        for leases in [1024_u64, 16_384] {
            let bench = on(&store).await;
            let shard = ShardId::all().nth(usize::from(leases > 2000)).unwrap();
            let now = bench.now();
            let mut left = leases;
            while left > 0 {
                let some = left.min(512);
                let rank = |_| {
                    let id = LeaseId::draw(shard);
                    Write::Rank {
                        index: keys::due(shard),
                        member: keys::member(&id),
                        rank: keys::place(now, &id),
                    }
                };
                write(&bench, shard, (0..some).map(rank).collect()).await;
                left -= some;
            }
            bench.line.members.store(0, Ordering::SeqCst);
            let (mut seen, mut pages, mut after) = (BTreeSet::new(), 0, None);
            loop {
                let page = bench
                    .leases
                    .members(&keys::due(shard), after.as_ref(), PAGE)
                    .await
                    .unwrap();
                let Some(last) = page.last() else { break };
                after = Some((last.rank, last.member.clone()));
                pages += 1;
                seen.extend(page.into_iter().map(|ranked| ranked.member));
            }
            assert_eq!(seen.len() as u64, leases);
            let read = bench.line.members.load(Ordering::SeqCst);
            assert!(
                read <= leases + 32 * pages,
                "{read} members were read for {leases} leases"
            );
        }
    }
}

#[tokio::test]
async fn what_one_end_marks_is_spread_within_its_millisecond() {
    let bench = on(&store()).await;
    let mut leases = Vec::new();
    let grant = Grant::for_tests().agent("deployer").max_active(1000);
    let grant = grant.now(bench.now()).build();
    for _ in 0..64 {
        leases.push(bench.issue(&grant).await.unwrap().lease);
    }
    let shard = leases[0].id.shard();
    bench.kill(DimensionKind::Agent, "deployer").await;
    let before = bench.now();
    bench.downstream.out_of_order.store(true, Ordering::SeqCst);
    bench.fences.follow(Duration::ZERO).await.unwrap();
    let marked_at = bench.now();
    bench.sweeper.match_fences(marked_at).await.unwrap();
    let found = due(&bench, shard).await;
    assert_eq!(found.len(), leases.len());
    let ranks: BTreeSet<_> = found.iter().map(|ranked| ranked.rank).collect();
    assert!(ranks.len() > leases.len() / 2, "{} places", ranks.len());
    for rank in ranks {
        let at = keys::moment_of(rank).unwrap();
        assert!(before - Duration::from_millis(1) <= at && at <= marked_at);
        assert!((keys::first_place(at)..=keys::last_place(at)).contains(&rank));
    }
    for index in [keys::ending(shard), keys::closed(shard)] {
        let found = bench.leases.store.range(&index, 0..=MAX_RANK, 1000).await;
        for ranked in found.unwrap() {
            let at = keys::moment_of(ranked.rank).unwrap();
            assert!((at - marked_at).abs() < Duration::from_secs(60));
        }
    }
}

/// Two hundred of what cannot be read, of every kind, due long ago.
async fn put_in_front(bench: &Bench, shard: ShardId, server: Option<&RedisServer>) -> u64 {
    let long_ago = bench.now() - Duration::from_secs(1000);
    let mut writes = Vec::new();
    for number in 0..200_u32 {
        let elsewhere = ShardId::all().find(|other| *other != shard).unwrap();
        let id = LeaseId::draw(if number % 5 == 4 { elsewhere } else { shard });
        let member = match number % 5 {
            3 => number.to_be_bytes().to_vec(),
            _ => keys::member(&id),
        };
        writes.push(Write::Rank {
            index: keys::due(shard),
            member,
            rank: keys::place(long_ago, &id),
        });
        // Of the others there is no record at all.
        if number % 5 < 2 {
            writes.push(Write::Put {
                key: keys::lease(&id),
                value: vec![0xa5; 64],
                expires_at: None,
            });
        }
        if let Some(server) = server.filter(|_| number % 5 == 2) {
            let name: String = [b"lease/".as_slice(), id.as_bytes()]
                .concat()
                .iter()
                .map(|byte| format!("\\x{byte:02x}"))
                .collect();
            let damaged = format!("SET \"{{d{}}}r{name}\" short", shard.number());
            assert_eq!(server.command(&damaged).unwrap(), "+OK\r\n");
        }
    }
    write(bench, shard, writes).await;
    200
}

async fn alarms(bench: &Bench, lease: &Lease) -> usize {
    let log = audit::log(lease.id.shard());
    let tail = bench
        .leases
        .store
        .tail(&log, Position::ORIGIN, 10_000, Duration::ZERO);
    let Tail::Entries { entries, .. } = tail.await.unwrap() else {
        panic!("the audit is not there");
    };
    let entries = entries.iter().map(|entry| {
        let entry: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
        entry
    });
    entries
        .filter(|entry| entry["event"] == "record_unreadable" && entry["reason"] == "lease")
        .count()
}

#[tokio::test]
async fn what_cannot_be_read_hides_nothing_is_told_once_and_is_never_lost() {
    for (store, server) in stores().await {
        let bench = on(&store).await;
        let honest = bench.issued().await;
        let shard = honest.id.shard();
        let unreadable = put_in_front(&bench, shard, server.as_ref()).await;
        bench.kill(DimensionKind::Agent, "deployer").await;
        bench.sweep().await;
        assert_eq!(bench.again(&honest).await.state, State::Revoked);
        assert!(bench.downstream.live().is_empty());

        let put_off = due(&bench, shard).await;
        assert_eq!(put_off.len() as u64, unreadable, "none is lost");
        let now = keys::last_place(bench.now());
        assert!(put_off.iter().all(|ranked| ranked.rank > now));
        assert_eq!(alarms(&bench, &honest).await as u64, unreadable);
        // Again and again, and the audit is not filled with it.
        bench.later(400);
        let later = bench.issued().await;
        bench
            .kill(DimensionKind::Lease, &later.id.to_string())
            .await;
        bench.sweep().await;
        assert_eq!(bench.again(&later).await.state, State::Revoked);
        let now = keys::last_place(bench.now());
        let put_off = due(&bench, shard).await;
        assert_eq!(put_off.len() as u64, unreadable);
        assert!(put_off.iter().all(|ranked| ranked.rank > now));
        assert_eq!(alarms(&bench, &honest).await as u64, unreadable);
    }
}

#[tokio::test]
async fn what_somebody_moved_to_the_front_goes_back_to_its_place() {
    let bench = on(&store()).await;
    let lease = bench.issued().await;
    let shard = lease.id.shard();
    let before = due(&bench, shard).await;
    let moved = Write::Rank {
        index: keys::due(shard),
        member: keys::member(&lease.id),
        rank: 0,
    };
    write(&bench, shard, vec![moved]).await;
    bench.sweep().await;
    assert_eq!(due(&bench, shard).await, before);
    assert_eq!(bench.again(&lease).await.record(), lease.record());
}

#[tokio::test]
async fn an_end_by_a_clock_that_is_ahead_is_due_by_the_stores() {
    let bench = on(&store()).await;
    let lease = bench.issued().await;
    bench.later(600);
    bench.fences.follow(Duration::ZERO).await.unwrap();
    bench.downstream.out_of_order.store(true, Ordering::SeqCst);
    bench
        .leases
        .release(&lease, &bench.fences, "deployer", bench.now())
        .await
        .unwrap()
        .unwrap();
    let stored = bench.again(&lease).await;
    assert_eq!(stored.state, State::Revoking);
    let found = due(&bench, lease.id.shard()).await;
    let theirs = bench.now() - Duration::from_secs(599);
    assert!(keys::moment_of(found[0].rank).unwrap() < theirs);
    assert!(stored.closing.as_ref().unwrap().since < theirs);
}

#[tokio::test]
async fn an_index_of_the_wrong_kind_is_named_until_it_is_moved_aside() {
    let Some(server) = RedisServer::start(&[]).unwrap() else {
        return;
    };
    let settings = RedisSettings::new(Secret::new(server.url()));
    let redis: Arc<dyn Store> = Arc::new(Redis::connect(settings).await.unwrap());
    let bench = on(&redis).await;
    let index = "\"{d7}ilease-ending\"";
    let wrong = server.command(&format!("SET {index} nothing")).unwrap();
    assert_eq!(wrong, "+OK\r\n");
    bench.sweeper.look_everywhere(bench.now()).await;
    assert!(!bench.sweeper.has_looked());
    let why = bench.sweeper.not_looked().unwrap();
    assert!(why.contains("index `lease-ending` of shard 7: "), "{why}");
    assert!(why.contains("docs/leases.md"), "{why}");
    server.command(&format!("RENAME {index} aside")).unwrap();
    bench.sweeper.look_everywhere(bench.now()).await;
    assert_eq!(bench.sweeper.not_looked(), None);
}
