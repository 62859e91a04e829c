//! A store that lacks what was sealed: put back, cut, or lost in a part.

use super::{Place, now, read, seal, sealer, stage, start};
use crate::audit::chain::FENCES;
use crate::audit::state::{State, log_of};
use crate::audit::{AuditError, Entry, Event, Lost, Search, check, lost, resume};
use crate::ids::ShardId;
use crate::secret::{Sealer, Secret};
use crate::store::embedded::Embedded;
use crate::store::{Position, Store, Tail, Transaction, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Another store, with the state as it is here and the first entries of these logs, byte for byte.
async fn put_back(from: &dyn Store, state: &State, logs: &[(u8, usize)]) -> Arc<Embedded> {
    let other = Arc::new(Embedded::in_memory().unwrap());
    for (shard, kept) in logs {
        let log = log_of(*shard);
        let tail = from.tail(&log, Position::ORIGIN, 100, Duration::ZERO).await;
        let Tail::Entries { entries, .. } = tail.unwrap() else {
            panic!("nothing is trimmed yet");
        };
        for entry in entries.into_iter().take(*kept) {
            append(other.as_ref(), *shard, entry.value).await;
        }
    }
    let copied = state.write(&sealer(), None, now()).unwrap();
    other.commit(copied).await.unwrap();
    other
}

pub(super) async fn append(store: &dyn Store, shard: u8, value: Vec<u8>) {
    let log = log_of(shard);
    let transaction = Transaction::new(log.shard, now() + Duration::from_secs(10))
        .write(Write::Append { log, value });
    store.commit(transaction).await.unwrap();
}

pub(super) async fn state_of(store: &dyn Store) -> State {
    State::read(store, &sealer()).await.unwrap().unwrap().0
}

fn search(path: &Path) -> Search<'_> {
    Search {
        path,
        incomplete: false,
        without_unreadable: false,
        fences_lost: false,
    }
}

pub(super) async fn lost_from(store: &dyn Store, path: &Path) -> Result<Option<Lost>, AuditError> {
    lost(store, &sealer(), search(path)).await
}

/// Though exports are missing.
async fn lost_at_all(store: &dyn Store, path: &Path) -> Lost {
    let incomplete = true;
    let search = Search {
        incomplete,
        ..search(path)
    };
    let lost = lost(store, &sealer(), search).await;
    lost.unwrap().unwrap()
}

/// The loss is accepted, the next start seals it, and the one after finds nothing wrong.
async fn goes_on_after(store: &Arc<Embedded>, lost: &Lost, path: &Path) {
    resume(store.as_ref(), &sealer(), lost, now())
        .await
        .unwrap();
    check(store.as_ref(), &sealer(), path).await.unwrap();
    assert_eq!(seal(store, path).await, None);
    check(store.as_ref(), &sealer(), path).await.unwrap();
}

async fn refused(store: &dyn Store, path: &Path) -> AuditError {
    check(store, &sealer(), path).await.unwrap_err()
}

#[tokio::test]
async fn a_store_that_was_put_back_by_one_checkpoint_is_refused() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, &path).await;
    let before = state_of(place.store.as_ref()).await;
    stage(place.store.as_ref(), 1, "two").await;
    seal(&place.store, &path).await;
    let after = state_of(place.store.as_ref()).await;
    assert_eq!(after.chain.checkpoint, before.chain.checkpoint + 1);
    let other = put_back(place.store.as_ref(), &before, &[(1, 1)]).await;
    let refused = refused(other.as_ref(), &path).await;
    assert!(
        matches!(refused, AuditError::StoreLacks { .. }),
        "{refused}"
    );
    let lost = lost_from(other.as_ref(), &path).await.unwrap().unwrap();
    assert_eq!(lost.entries.len(), 1);
    // After a crash the store has them still.
    let crashed = put_back(place.store.as_ref(), &before, &[(1, 2)]).await;
    check(crashed.as_ref(), &sealer(), &path).await.unwrap();
    assert!(lost_from(crashed.as_ref(), &path).await.unwrap().is_none());
}

#[tokio::test]
async fn one_shard_that_lost_its_end_is_refused_and_what_it_lost_is_found() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    for (number, agent) in [(1, "one"), (2, "two"), (2, "three")] {
        stage(place.store.as_ref(), number, agent).await;
    }
    seal(&place.store, &path).await;
    let state = state_of(place.store.as_ref()).await;
    let other = put_back(place.store.as_ref(), &state, &[(1, 1), (2, 1)]).await;
    let refused = refused(other.as_ref(), &path).await;
    assert!(refused.to_string().contains("shard 2"), "{refused}");
    let lost = lost_from(other.as_ref(), &path).await.unwrap().unwrap();
    let agents: Vec<_> = lost.entries.iter().map(|entry| &entry.agent).collect();
    assert_eq!(agents, [&Some("three".to_owned())]);
}

#[tokio::test]
async fn a_fence_log_that_was_cut_is_refused_until_somebody_recovers() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    stage(place.store.as_ref(), 1, "one").await;
    append(place.store.as_ref(), FENCES, b"a fence".to_vec()).await;
    let installation = ShardId::INSTALLATION.number();
    let told = Entry::new(Event::FenceRaised, now());
    let told = serde_json::to_vec(&told).unwrap();
    append(place.store.as_ref(), installation, told).await;
    seal(&place.store, &path).await;
    let report = read(&path);
    assert!(report.is_sound() && report.entries == 2, "{report:?}");
    let state = state_of(place.store.as_ref()).await;
    let logs = [(1, 1), (installation, 1)];
    let other = put_back(place.store.as_ref(), &state, &logs).await;
    let lacks = refused(other.as_ref(), &path).await;
    assert!(lacks.to_string().contains("fences"), "{lacks}");
    let lost = lost_from(other.as_ref(), &path).await.unwrap().unwrap();
    assert_eq!((lost.entries.len(), lost.fences.len()), (0, 1));
    resume(other.as_ref(), &sealer(), &lost, now())
        .await
        .unwrap();
    check(other.as_ref(), &sealer(), &path).await.unwrap();
    assert_eq!(seal(&other, &path).await, None);
    check(other.as_ref(), &sealer(), &path).await.unwrap();
    assert!(lost_from(other.as_ref(), &path).await.unwrap().is_none());
    assert!(read(&path).is_sound());
}

#[tokio::test]
async fn a_loss_is_accepted_once() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, &path).await;
    let state = state_of(place.store.as_ref()).await;
    let other = put_back(place.store.as_ref(), &state, &[]).await;
    let lost = lost_from(other.as_ref(), &path).await.unwrap().unwrap();
    resume(other.as_ref(), &sealer(), &lost, now())
        .await
        .unwrap();
    let accepted = state_of(other.as_ref()).await;
    seal(&other, &path).await;
    assert_eq!(state_of(other.as_ref()).await.accepted, None);
    stage(other.as_ref(), 1, "two").await;
    seal(&other, &path).await;
    // The record that accepted it, put back, accepts nothing more.
    let again = put_back(other.as_ref(), &accepted, &[]).await;
    let refused = refused(again.as_ref(), &path).await;
    assert!(
        matches!(refused, AuditError::StoreBehind { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_state_that_no_broker_wrote_is_refused() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, &path).await;
    let (state, version) = State::read(place.store.as_ref(), &sealer())
        .await
        .unwrap()
        .unwrap();
    let stranger = Sealer::new(&[Secret::new(vec![66; 32])]).unwrap();
    let forged = state.write(&stranger, Some(version), now()).unwrap();
    place.store.commit(forged).await.unwrap();
    let refused = refused(place.store.as_ref(), &path).await;
    assert!(matches!(refused, AuditError::State), "{refused}");
}

#[tokio::test]
async fn what_another_replica_exported_is_asked_for() {
    let place = Place::new();
    let (a, b) = (place.path("a.jsonl"), place.path("b.jsonl"));
    for (agent, path) in [("one", &a), ("two", &b), ("three", &a)] {
        stage(place.store.as_ref(), 1, agent).await;
        seal(&place.store, path).await;
    }
    let empty = Embedded::in_memory().unwrap();
    for path in [&a, &b] {
        let found = lost_from(&empty, path).await;
        let incomplete = matches!(found, Err(AuditError::Incomplete { .. }));
        assert!(incomplete || path == &b, "{found:?}");
    }
    let all = lost_from(&empty, place.folder.path()).await;
    let all = all.unwrap().unwrap();
    assert_eq!((all.entries.len(), all.missing.len()), (3, 0));
    let some = lost_at_all(&empty, &a).await;
    assert_eq!((some.entries.len(), some.missing.len()), (2, 1));
}

#[tokio::test]
async fn a_replica_that_never_sealed_knows_an_older_store() {
    let place = Place::new();
    let (a, b) = (place.path("a.jsonl"), place.path("b.jsonl"));
    let first = start(&place.store, &a);
    stage(place.store.as_ref(), 1, "one").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let second = start(&place.store, &b);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop((first, second));
    check(place.store.as_ref(), &sealer(), &b).await.unwrap();
    let older = Embedded::in_memory().unwrap();
    let refused = refused(&older, &b).await;
    assert!(matches!(refused, AuditError::SeenLater { .. }), "{refused}");
}

#[tokio::test]
async fn an_empty_newest_file_hides_none_of_the_older_ones() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, &path).await;
    std::fs::rename(&path, place.path("audit-000000000002.jsonl")).unwrap();
    std::fs::write(&path, "").unwrap();
    let refused = refused(&Embedded::in_memory().unwrap(), &path).await;
    assert!(
        matches!(refused, AuditError::StoreBehind { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_log_that_was_cut_asks_for_every_export_there_was() {
    let place = Place::new();
    let (a, b) = (place.path("a.jsonl"), place.path("b.jsonl"));
    for (agent, path) in [("one", &a), ("two", &b), ("three", &a)] {
        stage(place.store.as_ref(), 1, agent).await;
        append(place.store.as_ref(), FENCES, agent.into()).await;
        seal(&place.store, path).await;
    }
    let state = state_of(place.store.as_ref()).await;
    let cut = put_back(place.store.as_ref(), &state, &[(1, 3), (FENCES, 1)]).await;
    let found = lost_from(cut.as_ref(), &a).await;
    assert!(
        matches!(found, Err(AuditError::Incomplete { .. })),
        "{found:?}"
    );
    let all = lost_from(cut.as_ref(), place.folder.path()).await.unwrap();
    assert_eq!(all.unwrap().missing, []);
}

#[tokio::test]
async fn without_its_export_a_loss_is_accepted_only_as_a_whole() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, &path).await;
    let state = state_of(place.store.as_ref()).await;
    let other = put_back(place.store.as_ref(), &state, &[]).await;
    let gone = place.path("gone.jsonl");
    assert!(matches!(
        lost_from(other.as_ref(), &gone).await,
        Err(AuditError::Incomplete { .. })
    ));
    let lost = lost_at_all(other.as_ref(), &gone).await;
    goes_on_after(&other, &lost, &gone).await;
}

#[tokio::test]
async fn what_another_replica_sealed_last_is_missed_too() {
    let place = Place::new();
    let (a, b) = (place.path("a.jsonl"), place.path("b.jsonl"));
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, &b).await;
    let first = start(&place.store, &a);
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage(place.store.as_ref(), 1, "two").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let second = start(&place.store, &b);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop((first, second));
    let empty = Arc::new(Embedded::in_memory().unwrap());
    let found = lost_from(empty.as_ref(), &b).await;
    let Err(AuditError::Incomplete { last, .. }) = found else {
        panic!("{found:?}");
    };
    assert_eq!(last, state_of(place.store.as_ref()).await.chain.checkpoint);
    // It was accepted: what was seen before does not stop the next start.
    let lost = lost_at_all(empty.as_ref(), &b).await;
    goes_on_after(&empty, &lost, &b).await;
}

/// Another store, on which it was accepted that it lacks what this export has.
async fn accepted_loss(place: &Place, export: &Path) -> Arc<Embedded> {
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, export).await;
    let state = state_of(place.store.as_ref()).await;
    let other = put_back(place.store.as_ref(), &state, &[]).await;
    let lost = lost_from(other.as_ref(), export).await.unwrap().unwrap();
    resume(other.as_ref(), &sealer(), &lost, now())
        .await
        .unwrap();
    other
}

#[tokio::test]
async fn an_accepted_loss_stays_accepted_over_a_crash_at_the_next_checkpoint() {
    let place = Place::new();
    let (a, b) = (place.path("a.jsonl"), place.path("b.jsonl"));
    let other = accepted_loss(&place, &a).await;
    // Another replica opens its file, and dies before the store hears of it.
    let accepted = state_of(other.as_ref()).await;
    let mut run = crate::audit::chain::Run::after(accepted.chain.clone());
    run.checkpoint(true, now(), &super::sign).unwrap();
    std::fs::write(&b, &run.bytes).unwrap();
    check(other.as_ref(), &sealer(), &b).await.unwrap();
    assert_eq!(seal(&other, &b).await, None);
    assert_eq!(state_of(other.as_ref()).await.accepted, None);
    check(other.as_ref(), &sealer(), &b).await.unwrap();
}

#[tokio::test]
async fn an_acceptance_that_somebody_puts_back_accepts_nothing_more() {
    let place = Place::new();
    let (a, b) = (place.path("a.jsonl"), place.path("b.jsonl"));
    let other = accepted_loss(&place, &a).await;
    // A minute ago.
    let (mut accepted, version) = State::read(other.as_ref(), &sealer())
        .await
        .unwrap()
        .unwrap();
    accepted.until -= Duration::from_secs(60);
    let written = accepted.write(&sealer(), Some(version), now()).unwrap();
    other.commit(written).await.unwrap();
    check(other.as_ref(), &sealer(), &b).await.unwrap();
    // One seals from then on, the other one never does.
    let first = start(&other, &a);
    stage(other.as_ref(), 1, "two").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let second = start(&other, &b);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop((first, second));
    check(other.as_ref(), &sealer(), &b).await.unwrap();
    let again = put_back(other.as_ref(), &accepted, &[]).await;
    let refused = refused(again.as_ref(), &b).await;
    assert!(matches!(refused, AuditError::SeenLater { .. }), "{refused}");
}

/// What nobody can read in the store, and all of it that the exports tell.
#[tokio::test]
async fn how_far_it_is_sealed_is_taken_from_every_export_where_the_store_does_not_tell() {
    let place = Place::new();
    let (a, b) = (place.path("a.jsonl"), place.path("b.jsonl"));
    for (agent, path) in [("one", &a), ("two", &b), ("three", &a)] {
        stage(place.store.as_ref(), 1, agent).await;
        seal(&place.store, path).await;
    }
    let store = place.store.clone();
    let (state, version) = State::read(store.as_ref(), &sealer())
        .await
        .unwrap()
        .unwrap();
    let stranger = Sealer::new(&[Secret::new(vec![66; 32])]).unwrap();
    let forged = state.write(&stranger, Some(version), now()).unwrap();
    store.commit(forged).await.unwrap();
    let found = lost_from(store.as_ref(), place.folder.path()).await;
    assert!(matches!(found, Err(AuditError::State)), "{found:?}");
    fn given_up(path: &Path) -> Search<'_> {
        Search {
            without_unreadable: true,
            ..search(path)
        }
    }
    // One of them does not tell all.
    for path in [a.clone(), b.clone(), place.path("gone.jsonl")] {
        let found = lost(store.as_ref(), &sealer(), given_up(&path)).await;
        let incomplete = matches!(found, Err(AuditError::Incomplete { .. }));
        assert!(incomplete, "{}: {found:?}", path.display());
    }
    let all = given_up(place.folder.path());
    let lost = lost(store.as_ref(), &sealer(), all).await.unwrap().unwrap();
    assert_eq!((lost.entries.len(), lost.without_state), (0, true));
    resume(store.as_ref(), &sealer(), &lost, now())
        .await
        .unwrap();
    for (agent, path) in [("four", &b), ("five", &a)] {
        stage(store.as_ref(), 1, agent).await;
        check(store.as_ref(), &sealer(), path).await.unwrap();
        assert_eq!(seal(&store, path).await, None);
    }
    let report = read(place.folder.path());
    assert!(report.is_sound() && report.entries == 5, "{report:?}");
}
