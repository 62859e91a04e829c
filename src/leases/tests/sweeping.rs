use super::bench::{Bench, Downstream, store};
use crate::clock::Clock;
use crate::connectors::{Connector, RevocationClass};
use crate::fences::tests::fixture::{Advanced, Death};
use crate::fences::{Dimension, DimensionKind, FenceKind};
use crate::ids::TargetId;
use crate::leases::look::PAGE;
use crate::leases::sweep::{BACKLOG, BATCH};
use crate::leases::{Lease, State, Sweeper, keys};
use crate::policy::{Denial, Denied, Grant};
use crate::store::{Transaction, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Barrier;

fn target() -> TargetId {
    "orders-api".parse().unwrap()
}

#[tokio::test]
async fn one_fence_ends_every_lease_of_a_mission_downstream_too() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    for number in 0..40 {
        let grant = bench.granted(&format!("agent-{number}"));
        bench.issue(&grant).await.unwrap();
    }
    bench.kill(DimensionKind::Mission, "deploy-checkout").await;
    let swept = bench.sweep().await;
    assert_eq!((swept.matched, swept.closed), (40, 40));
    assert!(bench.downstream.live().is_empty());
    assert_eq!(bench.sweep().await, crate::leases::Swept::default());
}

/// The index is read from the near end: what moves there from a page that is still to come has to be
/// found all the same.
#[tokio::test]
async fn a_reservation_that_is_activated_behind_the_reading_is_matched() {
    let shared = store();
    let downstream = Downstream::new(RevocationClass::Native, true);
    let clock = Advanced::new();
    let one = Bench::on(shared.clone(), downstream.clone(), clock.clone()).await;
    let two = Bench::on(shared, downstream.clone(), clock).await;
    let grant = |ttl| {
        let grant = Grant::for_tests().agent("deployer").max_active(1000);
        grant.ttl(Duration::from_secs(ttl)).now(two.now()).build()
    };
    // More than a page, all before where a reservation lies, and one that is due before them.
    for _ in 0..PAGE + 1 {
        two.issue(&grant(60)).await.unwrap();
    }
    let early = grant(30);
    let draft = two.leases.draft(&early, &downstream.promises(), two.now());
    let reserved = two.leases.reserve(draft, &early, two.now()).await.unwrap();
    let id = reserved.lease().id;
    one.kill(DimensionKind::Agent, "deployer").await;

    let met = Arc::new(Barrier::new(2));
    *one.line.behind_range.lock().unwrap() = Some((PAGE, met.clone()));
    let activate = async {
        met.wait().await;
        let minted = downstream.mint(&early, reserved.context(two.now())).await;
        let view = two.fences.fresh().unwrap();
        let activated = two
            .leases
            .activate(reserved, minted.unwrap(), &view, two.now());
        let state = activated.await.unwrap().lease.state;
        met.wait().await;
        state
    };
    let (swept, state) = tokio::join!(one.sweep(), activate);
    assert_eq!(
        state,
        State::Active,
        "its broker has not heard of the fence"
    );
    assert_eq!(swept.matched, PAGE as u64 + 2);
    let lease = one.leases.get(&id).await.unwrap().unwrap();
    assert_ne!(lease.state, State::Active, "the fence was matched with it");
}

#[tokio::test]
async fn a_hold_ends_what_is_open_and_a_lift_brings_nothing_back() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let lease = bench.issued().await;
    let agent = Dimension::new(DimensionKind::Agent, "deployer");
    bench.raise(FenceKind::Hold, agent.clone()).await;
    bench.raise(FenceKind::Lift, agent).await;
    bench.sweep().await;
    assert_eq!(bench.again(&lease).await.state, State::Revoked);
    bench.issued().await;
    assert_eq!(bench.sweep().await.matched, 0);
}

#[tokio::test]
async fn two_sweepers_at_once_end_a_credential_by_one_claim() {
    let shared = store();
    let downstream = Downstream::new(RevocationClass::Native, true);
    let clock = Advanced::new();
    let one = Bench::on(
        Arc::clone(&shared),
        Arc::clone(&downstream),
        Arc::clone(&clock),
    )
    .await;
    let two = Bench::on(shared, Arc::clone(&downstream), clock).await;
    for number in 0..10 {
        one.issue(&one.granted(&format!("agent-{number}")))
            .await
            .unwrap();
    }
    one.kill(DimensionKind::Mission, "deploy-checkout").await;
    let (a, b) = tokio::join!(one.sweep(), two.sweep());
    let (c, d) = tokio::join!(one.sweep(), two.sweep());
    assert_eq!(a.closed + b.closed + c.closed + d.closed, 10);
    assert_eq!(downstream.ends.load(Ordering::SeqCst), 10);
    assert!(downstream.live().is_empty());
}

/// The value of a metric, as a scrape shows it.
fn shown(handle: &metrics_exporter_prometheus::PrometheusHandle, name: &str) -> Option<f64> {
    let line = format!("{name}{{target=\"orders-api\"}} ");
    let text = handle.render();
    let value = text.lines().find_map(|found| found.strip_prefix(&line));
    value.map(|value| value.parse().unwrap())
}

#[tokio::test]
async fn what_must_be_dead_and_is_not_shows_in_the_metrics_until_it_is() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _here = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::new(RevocationClass::Native, true).await;
    for _ in 0..3 {
        bench.issued().await;
    }
    bench.sweep().await;
    assert_eq!(shown(&handle, "dayfly_ending_backlog"), None);
    bench.downstream.out_of_order.store(true, Ordering::SeqCst);
    bench.kill(DimensionKind::Agent, "deployer").await;
    bench.sweep().await;
    bench.later(90);
    bench.sweep().await;
    assert_eq!(shown(&handle, "dayfly_ending_backlog"), Some(3.0));
    let oldest = shown(&handle, "dayfly_ending_oldest_seconds").unwrap();
    assert!((85.0..100.0).contains(&oldest), "{oldest}");
    let backlogs = bench.sweeper.backlogs();
    assert_eq!(backlogs.of[&target()].number, 3);
    bench.downstream.out_of_order.store(false, Ordering::SeqCst);
    bench.later(400);
    bench.sweep().await;
    bench.sweep().await;
    assert_eq!(shown(&handle, "dayfly_ending_backlog"), Some(0.0));
    assert_eq!(shown(&handle, "dayfly_ending_oldest_seconds"), Some(0.0));
}

#[tokio::test]
async fn what_nobody_was_given_is_counted_until_it_cannot_live() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _here = metrics::set_default_local_recorder(&recorder);
    let bench = Bench::new(RevocationClass::Native, false).await;
    bench.downstream.loses_answers.store(true, Ordering::SeqCst);
    assert!(bench.issue(&bench.grant()).await.is_err());
    // Each round looks at one shard.
    let all_shards = async || {
        for _ in 0..crate::ids::SHARDS {
            bench.sweep().await;
        }
    };
    all_shards().await;
    assert_eq!(shown(&handle, "dayfly_unclaimed"), Some(1.0));
    bench.later(3600 + 10 + crate::leases::TOLERANCE.as_secs() + 1);
    assert_eq!(bench.sweep().await.lapsed, 1);
    all_shards().await;
    assert_eq!(shown(&handle, "dayfly_unclaimed"), Some(0.0));
}

#[tokio::test]
async fn a_target_of_another_kind_ends_nothing_that_was_made_before_it() {
    let (shared, clock) = (store(), Advanced::new());
    let downstream = Downstream::new(RevocationClass::Native, true);
    let first = Bench::on(shared.clone(), downstream.clone(), clock.clone()).await;
    let lease = first.issued().await;
    // The configuration gives its target's name to what the broker makes itself.
    let local = Downstream::new(RevocationClass::Broker, true);
    let second = Bench::on(shared, local, clock).await;
    second.kill(DimensionKind::Agent, "deployer").await;
    second.sweep().await;
    assert_eq!(second.again(&lease).await.state, State::Revoking);
    assert_eq!(downstream.live().len(), 1);
    first.later(10);
    first.sweep().await;
    assert_eq!(first.again(&lease).await.state, State::Revoked);
    assert!(downstream.live().is_empty());
}

#[tokio::test]
async fn ending_is_tried_with_growing_pauses_and_never_given_up() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let lease = bench.issued().await;
    bench.downstream.out_of_order.store(true, Ordering::SeqCst);
    bench.kill(DimensionKind::Agent, "deployer").await;
    bench.sweep().await;
    assert!(bench.sweeper.backlog(&target()).is_some());
    for _ in 0..40 {
        bench.later(20);
        bench.sweep().await;
    }
    let tried = bench.downstream.ends.load(Ordering::SeqCst);
    assert!((8..30).contains(&tried), "{tried} attempts in 800 s");
    assert_eq!(bench.again(&lease).await.state, State::Revoking);
    bench.downstream.out_of_order.store(false, Ordering::SeqCst);
    bench.later(400);
    bench.sweep().await;
    bench.sweep().await;
    assert_eq!(bench.again(&lease).await.state, State::Revoked);
    assert!(bench.sweeper.backlog(&target()).is_none());
}

/// Those that fail together are not all due again at one moment.
#[tokio::test]
async fn what_could_not_be_ended_is_tried_again_at_times_of_its_own() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let mut leases = Vec::new();
    for number in 0..60 {
        let grant = bench.granted(&format!("agent-{number}"));
        leases.push(bench.issue(&grant).await.unwrap().lease);
    }
    bench.downstream.out_of_order.store(true, Ordering::SeqCst);
    bench.kill(DimensionKind::Mission, "deploy-checkout").await;
    for (tries, whole) in [1_000, 2_000, 4_000].into_iter().enumerate() {
        let now = bench.now();
        bench.sweeper.run_once(now).await.unwrap();
        let mut pauses = std::collections::BTreeSet::new();
        for lease in &leases {
            let lease = bench.again(lease).await;
            assert_eq!(lease.attempts as usize, tries + 1);
            pauses.insert((lease.claimed_until.unwrap() - now).whole_milliseconds());
        }
        let (first, last) = (*pauses.first().unwrap(), *pauses.last().unwrap());
        let quarter = whole / 4;
        // Records know milliseconds.
        assert!(whole - quarter - 1 <= first && last <= whole + quarter);
        assert!(pauses.len() > 40, "{pauses:?}");
        assert!(last - first > quarter, "{pauses:?}");
        bench.later(300);
    }
}

#[tokio::test]
async fn what_could_not_be_ended_lapses_only_after_its_own_expiry() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let lease = bench.issued().await;
    bench.downstream.out_of_order.store(true, Ordering::SeqCst);
    bench.kill(DimensionKind::Agent, "deployer").await;
    bench.later(899);
    bench.sweep().await;
    assert_eq!(bench.again(&lease).await.state, State::Revoking);
    bench.later(400);
    assert_eq!(bench.sweep().await.lapsed, 1);
    assert_eq!(bench.again(&lease).await.state, State::Lapsed);
}

#[tokio::test]
async fn what_outlives_its_expiry_is_tried_until_it_is_dead_and_stops_its_target() {
    let downstream = Downstream::outliving();
    let bench = Bench::on(store(), Arc::clone(&downstream), Advanced::new()).await;
    let lease = bench.issued().await;
    downstream.out_of_order.store(true, Ordering::SeqCst);
    // Nobody revokes it: its time is up, and the session that it opened goes on.
    for _ in 0..40 {
        bench.later(3600);
        assert_eq!(bench.sweep().await.lapsed, 0);
        assert_eq!(bench.again(&lease).await.state, State::Revoking);
    }
    assert!(bench.sweeper.backlog(&target()).is_some());
    downstream.out_of_order.store(false, Ordering::SeqCst);
    bench.later(3600);
    bench.sweep().await;
    assert_eq!(bench.again(&lease).await.state, State::Expired);
    assert!(downstream.live().is_empty());
    bench.sweep().await;
    assert!(bench.sweeper.backlog(&target()).is_none());
}

#[tokio::test]
async fn what_cannot_be_ended_waits_for_its_expiry_and_stops_no_target() {
    let bench = Bench::new(RevocationClass::Expiry, true).await;
    bench.downstream.cannot_end.store(true, Ordering::SeqCst);
    let lease = bench.issued().await;
    bench.kill(DimensionKind::Agent, "deployer").await;
    bench.sweep().await;
    bench.later(300);
    bench.sweep().await;
    assert_eq!(bench.again(&lease).await.state, State::Revoking);
    assert_eq!(bench.downstream.ends.load(Ordering::SeqCst), 1);
    assert!(bench.sweeper.backlog(&target()).is_none());
    bench.later(1000);
    bench.sweep().await;
    assert_eq!(bench.again(&lease).await.state, State::Lapsed);
}

#[tokio::test]
async fn rubbish_is_collected_later_and_stops_no_target() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    bench
        .downstream
        .leaves_rubbish
        .store(true, Ordering::SeqCst);
    let lease = bench.issued().await;
    bench.kill(DimensionKind::Agent, "deployer").await;
    bench.sweep().await;
    let stored = bench.again(&lease).await;
    assert_eq!((stored.state, stored.uncollected), (State::Revoked, true));
    assert!(bench.sweeper.backlog(&target()).is_none());
    bench
        .downstream
        .leaves_rubbish
        .store(false, Ordering::SeqCst);
    bench.later(60);
    bench.sweep().await;
    assert!(!bench.again(&lease).await.uncollected);
}

#[tokio::test]
async fn a_lease_whose_time_is_up_is_closed_as_its_class_allows() {
    for (class, closed) in [
        (RevocationClass::Broker, State::Expired),
        (RevocationClass::Expiry, State::Expired),
        (RevocationClass::Deny, State::Expired),
        (RevocationClass::Native, State::Expired),
    ] {
        let bench = Bench::new(class, true).await;
        let lease = bench.issued().await;
        bench.later(902);
        bench.sweep().await;
        bench.sweep().await;
        assert_eq!(bench.again(&lease).await.state, closed, "{class:?}");
        let told = u64::from(class == RevocationClass::Native);
        assert_eq!(bench.downstream.ends.load(Ordering::SeqCst), told);
    }
}

#[tokio::test]
async fn a_sweep_that_died_half_way_is_taken_over() {
    for commit in [1, 2, 3, 4, 5, 129, 130, 131] {
        for death in [Death::Before, Death::After] {
            let shared = store();
            let downstream = Downstream::new(RevocationClass::Native, true);
            let clock = Advanced::new();
            let one = Bench::on(
                Arc::clone(&shared),
                Arc::clone(&downstream),
                Arc::clone(&clock),
            )
            .await;
            let two = Bench::on(shared, Arc::clone(&downstream), clock).await;
            let lease = one.issued().await;
            one.kill(DimensionKind::Target, "orders-api").await;
            one.line.die_at(commit, death);
            let _ = one.sweeper.run_once(one.now()).await;
            two.later(61);
            two.sweep().await;
            two.later(10);
            two.sweep().await;
            assert_eq!(two.again(&lease).await.state, State::Revoked);
            assert!(downstream.live().is_empty());
        }
    }
}

#[tokio::test]
async fn a_forged_record_does_not_hide_the_leases_beside_it() {
    let shared = store();
    let downstream = Downstream::new(RevocationClass::Native, true);
    let bench = Bench::on(Arc::clone(&shared), downstream, Advanced::new()).await;
    let (forged, honest) = (bench.issued().await, bench.issued().await);
    let deadline = bench.now() + Duration::from_secs(10);
    let transaction = Transaction::new(forged.id.shard(), deadline).write(Write::Put {
        key: keys::lease(&forged.id),
        value: b"nonsense".to_vec(),
        expires_at: None,
    });
    shared.commit(transaction).await.unwrap();
    bench.kill(DimensionKind::Agent, "deployer").await;
    bench.sweep().await;
    assert_eq!(bench.again(&honest).await.state, State::Revoked);
}

/// A sealing key that was taken away too early and is brought back; or another broker that has it.
#[tokio::test]
async fn what_could_not_be_read_when_its_fence_was_matched_is_ended_once_it_can_be() {
    for is_covered in [true, false] {
        let shared = store();
        let downstream = Downstream::new(RevocationClass::Native, true);
        let bench = Bench::on(Arc::clone(&shared), downstream, Advanced::new()).await;
        let lease = bench.issued().await;
        bench.sweep().await;
        let key = keys::lease(&lease.id);
        let whole = shared.get(std::slice::from_ref(&key)).await.unwrap();
        let whole = whole.into_iter().next().flatten().unwrap().value;
        let put = async |value: Vec<u8>| {
            let deadline = bench.now() + Duration::from_secs(10);
            let transaction = Transaction::new(key.shard, deadline).write(Write::Put {
                key: key.clone(),
                value,
                expires_at: None,
            });
            shared.commit(transaction).await.unwrap();
        };
        put(b"nonsense".to_vec()).await;
        let agent = if is_covered { "deployer" } else { "another" };
        bench.kill(DimensionKind::Agent, agent).await;
        bench.sweep().await;
        bench.sweep().await;
        put(whole).await;
        bench.sweep().await;
        assert_eq!(bench.again(&lease).await.state, State::Active);
        bench.later(301);
        bench.sweep().await;
        bench.sweep().await;
        let (state, live) = match is_covered {
            true => (State::Revoked, 0),
            false => (State::Active, 1),
        };
        assert_eq!(bench.again(&lease).await.state, state);
        assert_eq!(bench.downstream.live().len(), live);
        // What lives on goes back to its place.
        bench.later(61);
        bench.sweep().await;
        let now = keys::last_place(bench.now());
        let due = shared.range(&keys::due(key.shard), i64::MIN..=now, 9).await;
        assert_eq!(due.unwrap(), []);
    }
}

#[tokio::test]
async fn sweeping_in_the_background_needs_no_call() {
    let Bench {
        line: _line,
        clock,
        leases,
        fences: _,
        sweeper: _,
        downstream,
    } = Bench::new(RevocationClass::Native, true).await;
    let fences = crate::fences::Fences::start(
        Arc::clone(&leases.store),
        leases.sealer.clone(),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Duration::from_secs(1),
    );
    fences.reach(0).await.unwrap();
    let connector = Arc::clone(&downstream);
    let connectors: crate::leases::Connectors =
        Arc::new(move |_| Some(Arc::clone(&connector) as Arc<dyn Connector>));
    let sweeper = Sweeper::new(Arc::clone(&leases), Arc::clone(&fences), connectors);
    let _sweeper = sweeper.start(Arc::clone(&clock) as Arc<dyn Clock>);
    let bench = Bench::on(
        Arc::clone(&leases.store),
        Arc::clone(&downstream),
        Arc::clone(&clock),
    )
    .await;
    let lease = bench.issued().await;
    bench.kill(DimensionKind::All, "").await;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if downstream.live().is_empty() && bench.again(&lease).await.state == State::Revoked {
            return;
        }
    }
    panic!("{:?}", bench.again(&lease).await.state);
}

#[tokio::test]
async fn a_target_that_hangs_is_asked_once_and_then_left_alone_for_a_while() {
    let mut bench = Bench::new(RevocationClass::Native, true).await;
    bench.sweeper.patience = Duration::from_millis(50);
    for _ in 0..10 {
        bench.issued().await;
    }
    bench.downstream.hangs.store(true, Ordering::SeqCst);
    bench.kill(DimensionKind::Agent, "deployer").await;
    for _ in 0..5 {
        bench.sweep().await;
    }
    let asked = bench.downstream.ends.load(Ordering::SeqCst);
    assert!(asked <= 8, "{asked}: as many as are worked on at once");
    bench.downstream.hangs.store(false, Ordering::SeqCst);
    bench.later(20);
    bench.sweep().await;
    assert!(bench.downstream.live().is_empty());
}

#[tokio::test]
async fn a_start_from_a_snapshot_still_follows_fences_on_single_leases() {
    let shared = store();
    let downstream = Downstream::new(RevocationClass::Native, true);
    let clock = Advanced::new();
    let one = Bench::on(
        Arc::clone(&shared),
        Arc::clone(&downstream),
        Arc::clone(&clock),
    )
    .await;
    let lease = one.issued().await;
    let early = one.issued().await;
    one.kill(DimensionKind::Lease, &early.id.to_string()).await;
    one.kill(DimensionKind::Mission, "another").await;
    one.fences.store_snapshot_now().await;
    one.sweep().await;
    one.kill(DimensionKind::Lease, &lease.id.to_string()).await;
    // The replica that raised the last fence dies before it follows it.
    let two = Bench::on(shared, downstream, clock).await;
    two.sweep().await;
    assert_eq!(two.again(&early).await.state, State::Revoked);
    assert_eq!(two.again(&lease).await.state, State::Revoked);
}

#[tokio::test]
async fn every_end_is_in_the_audit_with_its_reason() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let (released, killed) = (bench.issued().await, bench.issued().await);
    bench
        .leases
        .release(&released, &bench.fences, "deployer", bench.now())
        .await
        .unwrap();
    bench.sweep().await;
    bench.kill(DimensionKind::Agent, "deployer").await;
    bench.sweep().await;
    for (lease, end, reason) in [
        (&released, "released", "released"),
        (&killed, "revoked", "fenced"),
    ] {
        let events = audited(&bench, lease).await;
        let names: Vec<_> = events.iter().map(|event| event["event"].clone()).collect();
        assert_eq!(names, ["issued", "activated", end, "ended"], "{events:?}");
        assert_eq!(events[2]["reason"], reason);
        assert_eq!(events[3]["detail"]["state"], end);
    }
}

#[tokio::test]
async fn the_audit_keeps_the_question_and_what_was_only_observed() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    let passed = Denied {
        reason: Denial::RequirementUnmet,
        mission: None,
        at: None,
        unapproved: None,
        detail: "a.b must be `c`, and is `d`".to_owned(),
    };
    let grant = Grant::for_tests()
        .agent("deployer")
        .now(bench.now())
        .observed(passed, &[("a.b", "d")])
        .build();
    let promises = bench.downstream.promises;
    let draft = bench.leases.draft(&grant, &promises, bench.now());
    let reserved = bench.leases.reserve(draft, &grant, bench.now()).await;
    let events = audited(&bench, reserved.unwrap().lease()).await;
    let detail = &events[0]["detail"];
    assert_eq!(detail["facts"], serde_json::json!({ "a.b": "d" }));
    assert_eq!(detail["observed"][0]["reason"], "requirement_unmet");
    assert_eq!(detail["observed"][0]["why"], "a.b must be `c`, and is `d`");
    // What the broker says of the answer is not the question's to say.
    assert_eq!(detail["goal"], "Ship checkout");
    let plain = bench.issued().await;
    let events = audited(&bench, &plain).await;
    assert!(events[0]["detail"].get("observed").is_none());
}

async fn audited(bench: &Bench, lease: &Lease) -> Vec<serde_json::Value> {
    let log = crate::audit::log(lease.id.shard());
    let tail = bench
        .leases
        .store
        .tail(&log, crate::store::Position::ORIGIN, 100, Duration::ZERO)
        .await
        .unwrap();
    let crate::store::Tail::Entries { entries, .. } = tail else {
        panic!("{tail:?}");
    };
    entries
        .iter()
        .map(|entry| serde_json::from_slice(&entry.value).unwrap())
        .filter(|event: &serde_json::Value| event["lease"] == lease.id.to_string())
        .collect()
}

/// Leases of one agent, so of one shard, at this target.
async fn at(bench: &Bench, target: &str, number: usize) -> Vec<Lease> {
    let mut leases = Vec::new();
    for _ in 0..number {
        let position = bench.fences.fresh().unwrap().position();
        let grant = Grant::for_tests().agent("deployer").max_active(10_000);
        let grant = grant.target(target).position(position).now(bench.now());
        leases.push(bench.issue(&grant.build()).await.unwrap().lease);
    }
    leases
}

#[tokio::test]
async fn one_targets_many_ends_do_not_hide_that_another_is_overdue() {
    let bench = Bench::new(RevocationClass::Native, true).await;
    at(&bench, "orders-api", BACKLOG + 1).await;
    let hidden = at(&bench, "orders-db", 1).await;
    bench.downstream.out_of_order.store(true, Ordering::SeqCst);
    bench.kill(DimensionKind::Target, "orders-api").await;
    bench.sweep().await;
    bench.later(2);
    bench.kill(DimensionKind::Target, "orders-db").await;
    bench.sweep().await;
    bench.later(130);
    bench.sweep().await;
    let backlogs = bench.sweeper.backlogs();
    assert_eq!(backlogs.of[&target()].number, BACKLOG as u64 + 1);
    let waiting = &backlogs.of[&"orders-db".parse().unwrap()];
    assert_eq!((waiting.lease, waiting.number), (hidden[0].id, 1));
}

#[tokio::test]
async fn what_a_target_that_hangs_has_to_end_holds_up_no_other_behind_it() {
    holds_up_nobody(Duration::from_millis(50), None).await;
}

/// As those that are configured do, whose bound is shorter than the sweeper's.
#[tokio::test]
async fn a_target_whose_connector_gives_up_first_holds_up_no_other_either() {
    let gives_up = Duration::from_millis(60);
    holds_up_nobody(Duration::from_millis(100), Some(gives_up)).await;
}

async fn holds_up_nobody(patience: Duration, gives_up: Option<Duration>) {
    let mut bench = Bench::new(RevocationClass::Native, true).await;
    let other = Downstream::new(RevocationClass::Native, true);
    let (hangs, works) = (Arc::clone(&bench.downstream), Arc::clone(&other));
    let connectors = Arc::new(move |of: &TargetId| {
        let target = if of.as_str() == "orders-api" {
            &hangs
        } else {
            &works
        };
        Some(Arc::clone(target) as Arc<dyn Connector>)
    });
    bench.sweeper = Sweeper::new(bench.leases.clone(), bench.fences.clone(), connectors);
    bench.sweeper.patience = patience;
    at(&bench, "orders-api", 3 * BATCH).await;
    let behind = at(&bench, "orders-db", 1).await;
    bench.downstream.hangs.store(true, Ordering::SeqCst);
    *bench.downstream.gives_up.lock().unwrap() = gives_up;
    bench.kill(DimensionKind::Target, "orders-api").await;
    bench.fences.follow(Duration::ZERO).await.unwrap();
    bench.sweeper.match_fences(bench.now()).await.unwrap();
    bench.later(1);
    bench.kill(DimensionKind::Target, "orders-db").await;
    let swept = bench.sweep().await;
    assert_eq!(bench.again(&behind[0]).await.state, State::Revoked);
    assert_eq!(other.ends.load(Ordering::SeqCst), 1);
    let asked = bench.downstream.ends.load(Ordering::SeqCst);
    assert_eq!(swept.left_alone + asked, 3 * BATCH as u64);
    assert!(asked <= 8, "{asked}");
}
