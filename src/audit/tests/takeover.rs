//! A replica that died between its export and the store, and another one that took over.

use super::loss::{lost_from, state_of};
use super::{Place, now, read, seal, sealer, shard, sign, stage, start};
use crate::audit::chain::Run;
use crate::audit::seen::newest;
use crate::audit::state::{State, log_of};
use crate::audit::{AuditError, Report, Sealing, check, unattended};
use crate::store::embedded::Embedded;
use crate::store::{LogEntry, Outcome, Position, Store, Tail};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

async fn entries(store: &dyn Store, number: u8, after: Position) -> Vec<LogEntry> {
    let tail = store
        .tail(&log_of(number), after, 100, Duration::ZERO)
        .await;
    let Tail::Entries { entries, .. } = tail.unwrap() else {
        panic!("nothing is trimmed yet");
    };
    entries
}

/// What is new on two shards is in the file, and the store never hears of it.
async fn exports_and_dies(store: &dyn Store, path: &Path) {
    let mut run = Run::after(state_of(store).await.chain);
    for number in [shard(1), shard(2)].map(|shard| shard.number()) {
        let head = run.chain.head(number).position;
        for entry in entries(store, number, head).await {
            run.entry(number, &entry).unwrap();
        }
    }
    let opening = run.bytes.is_empty();
    run.checkpoint(opening, now(), &sign).unwrap();
    append(path, &run.bytes);
}

fn append(path: &Path, bytes: &[u8]) {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// The second run of `a` was never sealed by it.
async fn taken_over() -> (Place, PathBuf, PathBuf) {
    let place = Place::new();
    let (a, b) = (place.path("a.jsonl"), place.path("b.jsonl"));
    let store = place.store.clone();
    stage(store.as_ref(), 1, "one").await;
    assert_eq!(seal(&store, &a).await, None);
    for (number, agent) in [(1, "two"), (2, "three")] {
        stage(store.as_ref(), number, agent).await;
    }
    exports_and_dies(store.as_ref(), &a).await;
    (place, a, b)
}

fn all(place: &Place) -> Report {
    read(place.folder.path())
}

#[tokio::test]
async fn what_was_exported_before_a_crash_is_known_as_what_another_replica_sealed() {
    let (place, a, b) = taken_over().await;
    assert_eq!(seal(&place.store, &b).await, None);
    let report = all(&place);
    assert!(report.is_sound() && report.entries == 3, "{report:?}");
    let [aside] = report.superseded.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!(
        (aside.file.clone(), aside.by.clone()),
        (a.clone(), b.clone())
    );
    assert_eq!((aside.checkpoint, aside.entries), (3, 2));
    assert_eq!(aside.sealed, Some(4));
    // Both go on, each in its file.
    for (agent, path) in [("four", &a), ("five", &b), ("six", &a)] {
        stage(place.store.as_ref(), 1, agent).await;
        check(place.store.as_ref(), &sealer(), path).await.unwrap();
        assert_eq!(seal(&place.store, path).await, None);
    }
    let report = all(&place);
    assert!(report.is_sound() && report.entries == 6, "{report:?}");
    assert_eq!(report.superseded.len(), 1);
    // One file alone misses what the other one has.
    assert!(!read(&a).is_sound());
    // A store that lost everything is told each entry once.
    let empty = Embedded::in_memory().unwrap();
    let lost = lost_from(&empty, place.folder.path()).await;
    assert_eq!(lost.unwrap().unwrap().entries.len(), 6);
}

#[tokio::test]
async fn a_replica_that_opened_its_file_and_died_stands_in_nobodys_way() {
    let (place, a, b) = taken_over().await;
    let opening = |path: PathBuf| {
        let store = place.store.clone();
        async move {
            let mut run = Run::after(state_of(store.as_ref()).await.chain);
            run.checkpoint(true, now(), &sign).unwrap();
            append(&path, &run.bytes);
        }
    };
    opening(b.clone()).await;
    opening(place.path("c.jsonl")).await;
    // Nobody went on: what has lines counts.
    let report = all(&place);
    assert!(report.is_sound() && report.entries == 3, "{report:?}");
    for (agent, path) in [("four", &b), ("five", &a)] {
        stage(place.store.as_ref(), 1, agent).await;
        assert_eq!(seal(&place.store, path).await, None);
        let report = all(&place);
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(report.superseded.len(), 2, "{report:?}");
    }
    assert_eq!(all(&place).entries, 5);
}

#[tokio::test]
async fn before_the_first_run_of_who_took_over_it_is_not_sealed_yet() {
    let (place, _, b) = taken_over().await;
    let mut run = Run::after(state_of(place.store.as_ref()).await.chain);
    for _ in 0..2 {
        run.checkpoint(true, now(), &sign).unwrap();
    }
    append(&b, &run.bytes);
    let report = all(&place);
    assert!(
        report.is_sound() && report.superseded.is_empty(),
        "{report:?}"
    );
    assert_eq!((report.entries, report.unsealed), (1, 2));
}

#[tokio::test]
async fn what_was_exported_and_sealed_by_nobody_is_found() {
    let (place, a, b) = taken_over().await;
    // Of another store: it holds two entries more, of which this one knows nothing.
    let text = std::fs::read_to_string(&a).unwrap();
    let sealed: Vec<_> = text.split_inclusive('\n').take(3).collect();
    std::fs::write(&a, sealed.concat()).unwrap();
    let other = Place::new();
    let head = state_of(place.store.as_ref()).await.chain;
    stage(other.store.as_ref(), 2, "never").await;
    let mut run = Run::after(head);
    let number = shard(2).number();
    for entry in entries(other.store.as_ref(), number, Position::ORIGIN).await {
        run.entry(number, &entry).unwrap();
    }
    run.checkpoint(false, now(), &sign).unwrap();
    append(&a, &run.bytes);
    assert_eq!(seal(&place.store, &b).await, None);
    let report = all(&place);
    let [finding] = report.findings.as_slice() else {
        panic!("{report:?}");
    };
    assert!(finding.what.starts_with("1 of the lines"), "{finding:?}");
    assert_eq!((&finding.file, finding.line), (&a, 5));
}

#[tokio::test]
async fn any_change_of_what_was_exported_twice_shows() {
    let (place, a, b) = taken_over().await;
    assert_eq!(seal(&place.store, &b).await, None);
    let sound = all(&place);
    assert!(sound.is_sound() && sound.superseded.len() == 1, "{sound:?}");
    for path in [&a, &b] {
        let whole = std::fs::read(path).unwrap();
        for place_of in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[place_of] ^= 1;
            std::fs::write(path, &bytes).unwrap();
            assert!(!all(&place).is_sound(), "{} {place_of}", path.display());
        }
        let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        for number in 0..lines.len() {
            let mut fewer = lines.clone();
            fewer.remove(number);
            std::fs::write(path, fewer.concat()).unwrap();
            let report = all(&place);
            // Whole lines cut off the end are told by what the broker knows.
            let is_cut = report.last != sound.last || report.superseded != sound.superseded;
            assert!(!report.is_sound() || is_cut, "{} {number}", path.display());
            let mut more = lines.clone();
            more.insert(number, lines[number]);
            std::fs::write(path, more.concat()).unwrap();
            assert!(!all(&place).is_sound(), "{} {number}", path.display());
        }
        std::fs::write(path, &whole).unwrap();
    }
    // The same file under another name is no crash.
    std::fs::copy(&a, place.path("copy.jsonl")).unwrap();
    assert!(!all(&place).is_sound());
}

async fn sealed_behind(store: &dyn Store, checkpoint: u64) -> State {
    for _ in 0..100 {
        let found = State::read(store, &sealer()).await.unwrap();
        let is_later = |state: &State| state.chain.checkpoint > checkpoint;
        if let Some(state) = found.map(|(state, _)| state).filter(is_later) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nothing is sealed");
}

/// A replica that runs, with what the store said after each of three runs.
async fn three_runs(place: &Place, path: &Path) -> (Arc<Sealing>, Vec<State>) {
    let sealing = start(&place.store, path);
    let states = runs(place, &["one", "two", "three"]).await;
    (sealing, states)
}

/// What the store said after each run of whoever seals.
async fn runs(place: &Place, agents: &[&str]) -> Vec<State> {
    let found = State::read(place.store.as_ref(), &sealer()).await.unwrap();
    let mut last = found.map_or(1, |(state, _)| state.chain.checkpoint.max(1));
    let mut states = Vec::new();
    for agent in agents {
        stage(place.store.as_ref(), 1, agent).await;
        let state = sealed_behind(place.store.as_ref(), last).await;
        last = state.chain.checkpoint;
        states.push(state);
    }
    states
}

async fn loses_two(store: &dyn Store, states: &[State], age: Duration) {
    loses_all_behind(store, &states[0], age).await;
    assert_eq!(states[2].chain.checkpoint, states[0].chain.checkpoint + 2);
}

async fn loses_all_behind(store: &dyn Store, state: &State, age: Duration) {
    let mut older = state.clone();
    older.until -= age;
    let (_, version) = State::read(store, &sealer()).await.unwrap().unwrap();
    let lost = older.write(&sealer(), Some(version), now()).unwrap();
    let outcome = store.commit(lost).await.unwrap();
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
}

#[tokio::test]
async fn who_ran_through_a_failover_that_lost_two_states_goes_on_sealing() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    let (sealing, states) = three_runs(&place, &path).await;
    loses_two(place.store.as_ref(), &states, Duration::ZERO).await;
    stage(place.store.as_ref(), 1, "four").await;
    sealed_behind(place.store.as_ref(), states[2].chain.checkpoint).await;
    assert_eq!(sealing.fault(), None);
    sealing.finish().await;
    let report = read(&path);
    assert!(report.is_sound() && report.entries == 4, "{report:?}");
    check(place.store.as_ref(), &sealer(), &path).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_put_back_to_an_older_day_stops_who_seals_and_who_starts() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    let (sealing, states) = three_runs(&place, &path).await;
    loses_two(place.store.as_ref(), &states, Duration::from_secs(80)).await;
    stage(place.store.as_ref(), 1, "four").await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if sealing.fault().is_some() {
            break;
        }
    }
    assert!(sealing.fault().unwrap().contains("dayfly recover"));
    drop(sealing);
    // And nobody who did not run through it goes on, however short ago it was.
    loses_two(place.store.as_ref(), &states, Duration::from_secs(15)).await;
    let refused = check(place.store.as_ref(), &sealer(), &path)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, AuditError::StoreBehind { .. }),
        "{refused}"
    );
    let fault = seal(&place.store, &path).await;
    assert!(fault.unwrap().contains("dayfly recover"));
}

/// A second replica, once it has seen what the first one sealed last.
async fn beside(place: &Place, states: &[State]) -> Arc<Sealing> {
    let other = place.path("other.jsonl");
    let sealing = start(&place.store, &other);
    let last = states.last().unwrap().chain.checkpoint;
    for _ in 0..100 {
        if newest(&other).unwrap() == Some(last) {
            return sealing;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it has not seen checkpoint {last}");
}

/// Nobody has the claim any more, either.
const UNCLAIMED: Duration = Duration::from_secs(15);

async fn fault_of(sealing: &Sealing) -> String {
    for _ in 0..100 {
        if let Some(fault) = sealing.fault() {
            return fault;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it seals");
}

#[tokio::test]
async fn what_a_failover_lost_is_left_to_the_replica_that_sealed_it() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    let (sealing, states) = three_runs(&place, &path).await;
    let other = beside(&place, &states).await;
    loses_two(place.store.as_ref(), &states, UNCLAIMED).await;
    // Nothing new is there, so who sealed it looks later than the other one.
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage(place.store.as_ref(), 1, "four").await;
    let state = sealed_behind(place.store.as_ref(), states[2].chain.checkpoint).await;
    assert_eq!(state.holder, states[2].holder);
    sealing.finish().await;
    other.finish().await;
    let report = all(&place);
    assert!(report.is_sound() && report.superseded.is_empty() && report.entries == 4);
}

#[tokio::test]
async fn what_a_failover_lost_of_a_replica_that_died_is_not_waited_for_for_ever() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    let (sealing, mut states) = three_runs(&place, &path).await;
    // So many that whoever goes on is behind what was seen for a while.
    states.extend(runs(&place, &["lost", "lost, too", "and this"]).await);
    let other = beside(&place, &states).await;
    drop(sealing);
    // It says that somebody seals: who sees that knows later all the same.
    let mut claimed = states[0].clone();
    claimed.until = now() + State::LEASE / 2;
    loses_all_behind(place.store.as_ref(), &claimed, Duration::ZERO).await;
    let begun = tokio::time::Instant::now();
    stage(place.store.as_ref(), 1, "four").await;
    let is_sealed = |state: &State| state.chain.head(shard(1).number()).position.sequence == 7;
    while !is_sealed(&state_of(place.store.as_ref()).await) {
        assert!(begun.elapsed() < 6 * State::LEASE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() > 2 * State::LEASE);
    other.finish().await;
    assert_eq!(other.fault(), None);
    let now = state_of(place.store.as_ref()).await.chain.checkpoint;
    assert!(now < states[5].chain.checkpoint, "{now}");
    // And it may start again.
    let other = place.path("other.jsonl");
    check(place.store.as_ref(), &sealer(), &other)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_store_that_is_put_back_to_an_older_day_is_sealed_by_nobody_who_saw_a_later_one() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    let (sealing, states) = three_runs(&place, &path).await;
    let other = beside(&place, &states).await;
    drop(sealing);
    loses_two(place.store.as_ref(), &states, Duration::from_secs(80)).await;
    assert!(fault_of(&other).await.contains("dayfly recover"));
    let state = state_of(place.store.as_ref()).await;
    assert_eq!(state.chain.checkpoint, states[0].chain.checkpoint);
}

#[tokio::test]
async fn a_store_on_which_somebody_seals_is_attended() {
    let place = Place::new();
    let store = place.store.as_ref();
    unattended(store, &sealer(), now()).await.unwrap();
    let sealing = start(&place.store, &place.path("audit.jsonl"));
    stage(store, 1, "one").await;
    sealed_behind(store, 1).await;
    let found = unattended(store, &sealer(), now()).await;
    assert!(matches!(found, Err(AuditError::Attended)), "{found:?}");
    // Killed: its claim ends by itself.
    drop(sealing);
    let begun = tokio::time::Instant::now();
    unattended(store, &sealer(), now()).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(1));
    // Stopped in order: at once.
    assert_eq!(seal(&place.store, &place.path("other.jsonl")).await, None);
    let begun = tokio::time::Instant::now();
    unattended(store, &sealer(), now()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}
