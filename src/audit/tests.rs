mod apart;
mod loss;
mod reader;
mod takeover;

use super::chain::unhex;
use super::state::State;
use super::*;
use crate::clock::Clock;
use crate::clock::SystemClock;
use crate::secret::{Sealer, Secret};
use crate::store::embedded::Embedded;
use crate::store::{Guard, Key, Outcome, Store, Transaction};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

fn now() -> OffsetDateTime {
    SystemClock::new().now()
}

fn tag(payload: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"checkpoint");
    URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, payload.as_bytes()))
}

fn sign(claims: &[u8]) -> Result<String, String> {
    let payload = URL_SAFE_NO_PAD.encode(claims);
    Ok(format!("e30.{payload}.{}", tag(&payload)))
}

fn verifying(jws: &str) -> bool {
    let parts: Vec<_> = jws.split('.').collect();
    matches!(parts.as_slice(), ["e30", payload, mac] if tag(payload) == *mac)
}

fn sealer() -> Sealer {
    Sealer::new(&[Secret::new(vec![7; 32])]).unwrap()
}

fn shard(number: usize) -> ShardId {
    ShardId::all().nth(number).unwrap()
}

async fn stage(store: &dyn Store, number: usize, agent: &str) {
    let entry = Entry::new(Event::Issued, now()).agent(agent);
    let transaction = Transaction::new(shard(number), now() + Duration::from_secs(10))
        .write(entry.append(shard(number)));
    let outcome = store.commit(transaction).await.unwrap();
    assert!(matches!(outcome, Outcome::Applied { .. }));
}

fn start(store: &Arc<Embedded>, path: &Path) -> Arc<Sealing> {
    Sealing::start(
        store.clone(),
        sealer(),
        Arc::new(SystemClock::new()),
        path.to_owned(),
        Box::new(sign),
    )
}

/// One replica starts, seals what is there, and ends.
async fn seal(store: &Arc<Embedded>, path: &Path) -> Option<String> {
    let sealing = start(store, path);
    sealing.finish().await;
    sealing.fault()
}

fn read(path: &Path) -> Report {
    verify(path, &verifying).unwrap()
}

struct Place {
    folder: tempfile::TempDir,
    store: Arc<Embedded>,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            store: Arc::new(Embedded::in_memory().unwrap()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[tokio::test]
async fn what_is_sealed_is_what_was_staged() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    for (number, agent) in [(1, "one"), (2, "two"), (1, "three")] {
        stage(place.store.as_ref(), number, agent).await;
    }
    assert_eq!(seal(&place.store, &path).await, None);
    let report = read(&path);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.entries, report.unsealed), (3, 0));
    let text = std::fs::read_to_string(&path).unwrap();
    let (staged, _) = recent(place.store.as_ref(), None, 10).await.unwrap();
    for entry in staged {
        let id = entry.get("id").unwrap().as_str().unwrap();
        assert_eq!(text.matches(id).count(), 1);
    }
    assert!(text.contains(r#""type_uid":300301"#));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_restart_goes_on_where_it_stopped() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    for round in 0..3 {
        stage(place.store.as_ref(), 1, "one").await;
        assert_eq!(seal(&place.store, &path).await, None);
        assert_eq!(read(&path).entries, round + 1);
    }
    let report = read(&path);
    assert!(report.is_sound(), "{report:?}");
    check(place.store.as_ref(), &sealer(), &path).await.unwrap();
}

#[tokio::test]
async fn it_seals_while_it_runs() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    let sealing = start(&place.store, &path);
    tokio::time::sleep(Duration::from_millis(200)).await;
    stage(place.store.as_ref(), 1, "one").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let report = read(&path);
    assert!(report.is_sound() && report.entries == 1, "{report:?}");
    assert!(sealing.may_mint());
    assert_eq!(sealing.backlog(), 0);
}

#[tokio::test]
async fn minting_stops_at_four_fifths_of_the_room_for_what_waits() {
    let limit = sealing::BACKLOG_LIMIT / 5 * 4;
    for (waits, may_mint) in [(limit - 1, true), (limit, false), (limit + 1, false)] {
        let place = Place::new();
        let path = place.path("audit.jsonl");
        stage(place.store.as_ref(), 1, "one").await;
        seal(&place.store, &path).await;
        let (before, version) = State::read(place.store.as_ref(), &sealer())
            .await
            .unwrap()
            .unwrap();
        // Another replica seals, and says how much waits.
        let state = State::new("another", &before.chain, waits, now());
        let said = state.write(&sealer(), Some(version), now()).unwrap();
        let outcome = place.store.commit(said).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied { .. }));
        let sealing = start(&place.store, &path);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(sealing.backlog(), waits);
        assert_eq!(sealing.may_mint(), may_mint, "{waits}");
    }
}

#[tokio::test]
async fn leftovers_of_a_crash_are_cut_off_and_written_anew() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, &path).await;
    let before = std::fs::read(&path).unwrap();
    stage(place.store.as_ref(), 1, "two").await;
    seal(&place.store, &path).await;
    let after = std::fs::read(&path).unwrap();
    // The state in the store is ahead of this file by one run: as if the disk had lied.
    for cut in [before.len() + 1, after.len() - 1] {
        let torn = place.path("torn.jsonl");
        std::fs::write(&torn, &after[..cut]).unwrap();
        assert_eq!(seal(&place.store, &torn).await, None);
        assert_eq!(read(&torn).findings, []);
        std::fs::remove_file(&torn).unwrap();
    }
    // The file is ahead of the state by one run: a crash between the two.
    let (mut state, version) = State::read(place.store.as_ref(), &sealer())
        .await
        .unwrap()
        .unwrap();
    let ahead = place.path("ahead.jsonl");
    seal(&place.store, &ahead).await;
    let version = State::read(place.store.as_ref(), &sealer())
        .await
        .unwrap()
        .map_or(version, |(_, version)| version);
    let own = verify::own(&path).unwrap();
    state.chain = own.sealed.unwrap().0;
    state.chain.checkpoint -= 1;
    state.chain.heads.clear();
    state.until = now();
    let back = state.write(&sealer(), Some(version), now()).unwrap();
    place.store.commit(back).await.unwrap();
    check(place.store.as_ref(), &sealer(), &path).await.unwrap();
    assert_eq!(seal(&place.store, &path).await, None);
    let report = read(&path);
    assert!(report.is_sound() && report.entries == 2, "{report:?}");
}

#[tokio::test]
async fn a_changed_export_is_left_alone_and_nothing_is_sealed() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, &path).await;
    let changed = std::fs::read_to_string(&path)
        .unwrap()
        .replace("\"one\"", "\"0ne\"");
    std::fs::write(&path, &changed).unwrap();
    stage(place.store.as_ref(), 1, "two").await;
    let refused = check(place.store.as_ref(), &sealer(), &path)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, AuditError::Changed { line: 2, .. }),
        "{refused}"
    );
    assert!(
        seal(&place.store, &path)
            .await
            .unwrap()
            .contains("move the file away")
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), changed);
}

#[tokio::test]
async fn replicas_take_turns_and_their_files_fit_together() {
    let place = Place::new();
    let (a, b) = (place.path("a.jsonl"), place.path("b.jsonl"));
    let first = start(&place.store, &a);
    tokio::time::sleep(Duration::from_millis(200)).await;
    stage(place.store.as_ref(), 1, "one").await;
    assert_eq!(seal(&place.store, &b).await, None, "the other one waits");
    assert!(std::fs::metadata(&b).is_err(), "and writes nothing");
    first.finish().await;
    stage(place.store.as_ref(), 1, "two").await;
    seal(&place.store, &b).await;
    stage(place.store.as_ref(), 1, "three").await;
    seal(&place.store, &a).await;
    let alone = read(&a);
    assert_eq!(alone.findings, []);
    assert!(!alone.missing.is_empty(), "what b sealed is not in a");
    assert!(!alone.is_sound());
    let together = read(place.folder.path());
    assert!(together.is_sound(), "{together:?}");
    assert_eq!(together.entries, 3);
}

#[tokio::test]
async fn a_store_behind_its_export_is_refused() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    stage(place.store.as_ref(), 1, "one").await;
    seal(&place.store, &path).await;
    let other = Arc::new(Embedded::in_memory().unwrap());
    let refused = check(other.as_ref(), &sealer(), &path).await.unwrap_err();
    assert!(
        matches!(refused, AuditError::StoreBehind { .. }),
        "{refused}"
    );
    assert!(seal(&other, &path).await.unwrap().contains("behind"));
}

#[tokio::test]
async fn a_loss_in_the_store_is_a_named_segment_break() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    for agent in ["one", "two", "three"] {
        stage(place.store.as_ref(), 1, agent).await;
    }
    seal(&place.store, &path).await;
    // Another history that knows of the same sealing: what a failover leaves behind.
    let other = Arc::new(Embedded::in_memory().unwrap());
    stage(other.as_ref(), 1, "another").await;
    let (state, _) = State::read(place.store.as_ref(), &sealer())
        .await
        .unwrap()
        .unwrap();
    let copied = state.write(&sealer(), None, now()).unwrap();
    other.commit(copied).await.unwrap();
    assert_eq!(seal(&other, &path).await, None);
    let report = read(&path);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.entries, 4);
    let [broken] = report.breaks.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!((broken.shard, broken.sealed, broken.resumes), (1, 3, 0));
}

#[tokio::test]
async fn sealed_entries_are_forgotten_by_the_store_but_for_the_last() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    let mut transaction = Transaction::new(shard(1), now() + Duration::from_secs(10));
    for number in 0..1200 {
        let entry = Entry::new(Event::Issued, now()).with("number", number);
        transaction = transaction.write(entry.append(shard(1)));
    }
    place.store.commit(transaction).await.unwrap();
    let (_, cursor) = recent(place.store.as_ref(), None, 1).await.unwrap();
    let early = recent(place.store.as_ref(), Some("AQEB"), 1).await.unwrap();
    assert_eq!(
        early.0[0]["detail"]["number"], 1,
        "the second one follows the first"
    );
    assert_eq!(seal(&place.store, &path).await, None);
    let report = read(&path);
    assert!(report.is_sound() && report.entries == 1200, "{report:?}");
    let (items, _) = recent(place.store.as_ref(), None, 5000).await.unwrap();
    assert!((256..1200).contains(&items.len()), "{}", items.len());
    assert_eq!(items.last().unwrap()["detail"]["number"], 1199);
    // A reader from before is told what it missed, one that is up to date is not.
    let (items, _) = recent(place.store.as_ref(), Some("AQEB"), 5).await.unwrap();
    assert_eq!(items[0]["event"], "gap");
    assert_eq!(items[0]["after"], 1);
    let (items, _) = recent(place.store.as_ref(), cursor.as_deref(), 5)
        .await
        .unwrap();
    assert_eq!(items, [Value::Null; 0]);
}

#[tokio::test]
async fn reading_goes_on_behind_a_cursor_and_misses_nothing() {
    let place = Place::new();
    for number in 0..20 {
        stage(place.store.as_ref(), number % 4, &format!("a{number}")).await;
    }
    let (newest, _) = recent(place.store.as_ref(), None, 3).await.unwrap();
    let names: Vec<_> = newest
        .iter()
        .map(|e| e["agent"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a17", "a18", "a19"]);
    let (mut cursor, mut seen) = (Some("AQ".to_owned()), Vec::new());
    for _ in 0..10 {
        let (items, next) = recent(place.store.as_ref(), cursor.as_deref(), 3)
            .await
            .unwrap();
        seen.extend(
            items
                .iter()
                .map(|e| e["agent"].as_str().unwrap().to_owned()),
        );
        cursor = next;
    }
    let all: Vec<_> = (0..20).map(|number| format!("a{number}")).collect();
    assert_eq!(seen, all);
}

#[tokio::test]
async fn what_cannot_be_exported_is_counted_and_said() {
    let place = Place::new();
    for _ in 0..5 {
        stage(place.store.as_ref(), 1, "one").await;
    }
    let sealing = start(&place.store, &place.path("no such folder/audit.jsonl"));
    sealing.finish().await;
    assert_eq!(sealing.backlog(), 5);
    assert!(sealing.fault().unwrap().contains("cannot be written"));
}

#[tokio::test]
async fn what_is_no_entry_is_exported_all_the_same() {
    let place = Place::new();
    let path = place.path("audit.jsonl");
    let awkward: [&[u8]; 5] = [b"", b"\xff\0", b"{\"a\":\n1}", b"not json", b"{}"];
    for value in awkward {
        let write = Write::Append {
            log: log(shard(1)),
            value: value.to_vec(),
        };
        let transaction = Transaction::new(shard(1), now() + Duration::from_secs(9)).write(write);
        place.store.commit(transaction).await.unwrap();
    }
    assert_eq!(seal(&place.store, &path).await, None);
    let report = read(&path);
    assert!(report.is_sound() && report.entries == 5, "{report:?}");
}

#[test]
fn a_large_file_is_put_beside_and_all_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (sink, chain) = FileSink::open(&path).unwrap();
    let mut sink = sink.turned_over_at(3000);
    assert_eq!(chain, None);
    let mut chain = chain::Chain::default();
    let mut place = crate::store::Position::ORIGIN;
    for _ in 0..20 {
        let mut run = chain::Run::after(chain);
        if sink.is_new() {
            run.checkpoint(true, now(), &sign).unwrap();
        }
        place = place.next(b"{}");
        let entry = crate::store::LogEntry {
            position: place,
            value: b"{}".to_vec(),
        };
        run.entry(1, &entry).unwrap();
        run.checkpoint(false, now(), &sign).unwrap();
        sink.append(&run.bytes).unwrap();
        chain = run.chain;
        sink.turn_over(chain.checkpoint).unwrap();
    }
    let files = files::exported(&path).unwrap();
    assert!(files.len() > 3, "{files:?}");
    let report = read(&path);
    assert!(report.is_sound() && report.entries == 20, "{report:?}");
    assert_eq!(read(folder.path()), report);
    std::fs::remove_file(&files[1]).unwrap();
    assert!(!read(&path).is_sound(), "a file of the middle is missed");
    std::fs::remove_file(&files[0]).unwrap();
    let rest = read(&path);
    assert!(
        rest.is_sound() && rest.first > Some(1),
        "the oldest may lie elsewhere: {rest:?}"
    );
}

/// An export with several shards, several checkpoints and a break.
static EXPORT: LazyLock<(Vec<u8>, (u64, String))> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let place = Place::new();
        let path = place.path("audit.jsonl");
        for round in 0..3 {
            for number in 0..4 {
                stage(place.store.as_ref(), number, &format!("agent{round}")).await;
            }
            assert_eq!(seal(&place.store, &path).await, None);
        }
        let report = read(&path);
        assert!(report.is_sound(), "{report:?}");
        (std::fs::read(&path).unwrap(), report.last.unwrap())
    })
});

/// Whether the change shows: as a finding, or because the last checkpoint is not the one that the
/// broker knows.
fn shows(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    std::fs::write(&path, bytes).unwrap();
    let report = read(&path);
    !report.is_sound() || report.last.as_ref() != Some(&EXPORT.1)
}

#[test]
fn the_untouched_export_shows_nothing() {
    assert!(!shows(&EXPORT.0));
}

#[test]
fn a_cut_between_checkpoints_is_the_one_change_that_only_the_broker_can_tell() {
    let lines: Vec<_> = EXPORT.0.split_inclusive(|byte| *byte == b'\n').collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let shorter = lines[..lines.len() - 5].concat();
    std::fs::write(&path, shorter).unwrap();
    let report = read(&path);
    assert!(report.is_sound());
    assert_ne!(report.last.as_ref(), Some(&EXPORT.1));
    // Lines behind the last checkpoint are told apart from proven ones.
    std::fs::write(&path, lines[..lines.len() - 1].concat()).unwrap();
    assert_eq!(read(&path).unsealed, 4);
}

#[test]
fn a_checkpoint_of_another_key_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    std::fs::write(&path, &EXPORT.0).unwrap();
    let report = verify(&path, &|_| false).unwrap();
    assert_eq!(report.findings.len() as u64, report.checkpoints);
}

#[test]
fn a_forger_without_the_key_cannot_mend_the_chain() {
    // The last entry is changed and every hash behind it made to fit.
    let text = String::from_utf8(EXPORT.0.clone()).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let victim = lines.len() - 2;
    let rest = lines[victim]
        .split_once("\",")
        .unwrap()
        .1
        .replace("agent2", "agent9");
    let hash = ring::digest::digest(&ring::digest::SHA256, rest.as_bytes());
    lines[victim] = format!("{{\"hash\":\"{}\",{rest}", hex(hash.as_ref()));
    assert!(shows(format!("{}\n", lines.join("\n")).as_bytes()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_changed_byte_shows(place: prop::sample::Index, flip in 1..=u8::MAX) {
        let mut bytes = EXPORT.0.clone();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        prop_assert!(shows(&bytes), "byte {}", place);
    }

    #[test]
    fn any_removed_or_repeated_line_shows(place: prop::sample::Index, twice: bool) {
        let mut lines: Vec<_> = EXPORT.0.split_inclusive(|byte| *byte == b'\n').collect();
        let place = place.index(lines.len());
        if twice {
            lines.insert(place, lines[place]);
        } else {
            lines.remove(place);
        }
        prop_assert!(shows(&lines.concat()), "line {}", place);
    }

    #[test]
    fn any_two_swapped_lines_show(a: prop::sample::Index, b: prop::sample::Index) {
        let mut lines: Vec<_> = EXPORT.0.split_inclusive(|byte| *byte == b'\n').collect();
        let (a, b) = (a.index(lines.len()), b.index(lines.len()));
        prop_assume!(a != b);
        lines.swap(a, b);
        prop_assert!(shows(&lines.concat()), "lines {} and {}", a, b);
    }

    #[test]
    fn any_cut_shows(place: prop::sample::Index) {
        let place = place.index(EXPORT.0.len());
        prop_assert!(shows(&EXPORT.0[..place]), "cut at {}", place);
    }

    #[test]
    fn nonsense_is_refused_without_a_panic(bytes: Vec<u8>) {
        prop_assert!(shows(&bytes));
    }
}

#[tokio::test]
async fn an_entry_is_there_exactly_when_its_commit_is() {
    let place = Place::new();
    let key = Key {
        shard: shard(1),
        name: b"thing".to_vec(),
    };
    let once = |agent: &str| {
        Transaction::new(key.shard, now() + Duration::from_secs(9))
            .guard(Guard::Absent(key.clone()))
            .write(Write::Put {
                key: key.clone(),
                value: Vec::new(),
                expires_at: None,
            })
            .write(
                Entry::new(Event::Issued, now())
                    .agent(agent)
                    .append(key.shard),
            )
    };
    place.store.commit(once("first")).await.unwrap();
    place.store.commit(once("second")).await.unwrap();
    let (items, _) = recent(place.store.as_ref(), None, 9).await.unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["agent"], "first");
}

#[test]
fn an_entry_survives_the_trip_and_its_event_is_named_as_it_is_written() {
    for event in [
        Event::Issued,
        Event::Refused,
        Event::RefusedSummary,
        Event::Activated,
        Event::Ended,
        Event::Released,
        Event::Revoked,
        Event::FenceRaised,
        Event::FenceLifted,
        Event::RevocationConfirmed,
        Event::RevocationOverdue,
        Event::ContextEnded,
        Event::OperatorAction,
        Event::KeyRotated,
        Event::ConfigLoaded,
        Event::RecordUnreadable,
        Event::FactsTold,
        Event::StoreSegmentBreak,
    ] {
        let entry = Entry::new(event, now())
            .caller("https://issuer.example", "subject")
            .token_hash(&[7; 32])
            .with("n", 1);
        let text = serde_json::to_string(&entry).unwrap();
        assert!(text.contains(&format!(r#""event":"{}""#, event.name())));
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }
}

/// `DAYFLY_BLESS=1 cargo test --lib the_fuzzers` writes it.
#[tokio::test]
async fn the_fuzzers_seed_is_an_export_as_it_is_written_today() {
    let seed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fuzz/corpus/audit/export.jsonl"
    );
    if std::env::var_os("DAYFLY_BLESS").is_some() {
        let place = Place::new();
        let path = place.path("audit.jsonl");
        for (number, agent) in [(1, "one"), (2, "two"), (1, "three")] {
            stage(place.store.as_ref(), number, agent).await;
            assert_eq!(seal(&place.store, &path).await, None);
        }
        std::fs::write(seed, std::fs::read(path).unwrap()).unwrap();
    }
    let report = read(Path::new(seed));
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.entries, report.unsealed), (3, 0));
}

#[test]
fn a_hash_has_one_spelling() {
    let hash = "0a".repeat(32);
    assert_eq!(unhex::<32>(&hash), Some([10; 32]));
    for other in ["+a", "0A", " a", "-0", "0x", "é"] {
        let other = hash.replacen("0a", other, 1);
        assert_eq!(unhex::<32>(&other), None, "{other}");
    }
}

#[test]
fn a_digit_of_a_hash_written_in_another_way_shows() {
    let seed = include_bytes!("../../fuzz/corpus/audit/export.jsonl");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    // What a careless reader of hexadecimal takes for the same number.
    for place in (0..seed.len()).filter(|place| seed[*place] == b'0') {
        let mut bytes = seed.to_vec();
        bytes[place] = b'+';
        std::fs::write(&path, bytes).unwrap();
        assert!(!read(&path).is_sound(), "byte {place}");
    }
}
