//! The house rules that a reader relies on, checked by reading the source as text.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read the source must fail"
)]

mod supply_chain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Tests and generated text aside, a file is one sitting's reading.
const LONGEST_FILE: usize = 500;

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    files.sort();
    assert!(files.len() > 20, "the source was not found");
    files
}

/// Rooms in the order that `lib.rs` declares them.
fn rooms(files: &[(PathBuf, String)]) -> BTreeMap<String, usize> {
    let (_, lib) = files
        .iter()
        .find(|(path, _)| path == Path::new("lib.rs"))
        .unwrap();
    lib.lines()
        .filter_map(|line| line.strip_prefix("pub mod "))
        .map(|line| line.split(';').next().unwrap().to_owned())
        .enumerate()
        .map(|(place, room)| (room, place))
        .collect()
}

fn room_of(path: &Path) -> String {
    let first = path
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Code without comments and without in-file test modules, with the line numbers kept.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or("")))
}

#[test]
fn a_room_uses_only_rooms_declared_above_it() {
    let files = sources();
    let rooms = rooms(&files);
    assert!(rooms.len() > 15, "lib.rs declares the rooms");
    let mut wrong = Vec::new();
    for (path, text) in &files {
        let room = room_of(path);
        if is_test(path) || matches!(room.as_str(), "main" | "lib") {
            continue;
        }
        let own = *rooms
            .get(&room)
            .unwrap_or_else(|| panic!("{room} is no room of lib.rs"));
        for (number, line) in code(text) {
            for used in line.split("crate::").skip(1) {
                let name: String = used
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if rooms.get(&name).is_some_and(|place| *place > own) {
                    wrong.push(format!("{}:{number} {room} uses {name}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "against the walk:\n{}", wrong.join("\n"));
}

#[test]
fn a_use_line_names_one_room() {
    let wrong: Vec<_> = sources()
        .iter()
        .flat_map(|(path, text)| {
            code(text)
                .filter(|(_, line)| line.trim_start().starts_with("use crate::{"))
                .map(|(number, _)| format!("{}:{number}", path.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "one room per use line:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn a_file_is_short_enough_to_read() {
    let wrong: Vec<_> = sources()
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (path, code(text).count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .map(|(path, lines)| format!("{} has {lines} lines", path.display()))
        .collect();
    assert!(
        wrong.is_empty(),
        "over {LONGEST_FILE} lines:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn only_one_room_names_josekit_and_one_names_redis() {
    let mut wrong = Vec::new();
    for (path, text) in &sources() {
        for (number, line) in code(text) {
            let room = room_of(path);
            if line.contains("josekit") && room != "jose" {
                wrong.push(format!("{}:{number} names josekit", path.display()));
            }
            if (line.contains("::redis::") || line.contains("use redis"))
                && room != "store"
                && !line.contains("crate::store")
                && !line.contains("store::redis")
            {
                wrong.push(format!("{}:{number} names redis", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_is_no_room_for_odds_and_ends() {
    for (path, _) in sources() {
        for part in path.components() {
            let part = part.as_os_str().to_str().unwrap().trim_end_matches(".rs");
            assert!(
                ![
                    "model", "models", "utils", "util", "common", "helpers", "misc"
                ]
                .contains(&part),
                "{} belongs in the room that guards it",
                path.display()
            );
        }
    }
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs")
        || path.components().any(|part| part.as_os_str() == "tests")
}

/// Rooms whose writes are not a broker's own: the store itself, commands that are run by hand, and what decides and
/// writes nothing (the steps of `policy` are those of an explanation).
const ELSEWHERE: [&str; 7] = [
    "store", "policy", "client", "config", "cli", "fuzzing", "main",
];

/// What changes the store, a file or a downstream.
const WRITES: [&str; 11] = [
    "settle(",
    ".commit(",
    ".step(",
    ".step_all(",
    ".mint(grant",
    "connector.end(",
    "fs::rename(",
    ".batch_execute(",
    ".write_all(",
    ".sync_data(",
    ".sync_all(",
];

/// Functions that write without a step, and why that is no gap: `FILE FUNCTION`.
const STEPLESS: [(&str, &[&str]); 4] = [
    (
        "whoever calls it names the steps",
        &[
            "audit/files.rs append",
            "audit/files.rs open",
            "audit/files.rs retract",
            "audit/files.rs sync_folder",
            // A mint that is made here is written with its lease, by `open_lease`.
            "broker/exchange.rs mint_here",
            "connectors/postgres/link.rs change",
            "connectors/registry.rs mint",
            "leases/close.rs step",
            "leases/close.rs step_all",
            "leases/open.rs abandon",
            "leases/sweep/end.rs record",
            "leases/sweep/matching.rs mark_all",
            "leases/sweep/matching.rs write_claim",
        ],
    ),
    (
        "one commit that is there or is not, with nothing before or behind it that could be half done; who was not answered asks again",
        &[
            "broker/approvals/mod.rs put_to_people",
            "broker/approvals/vote.rs say_yes",
            "broker/drift.rs count_drift",
            "broker/heard.rs heard",
            "broker/leavers.rs owner_back",
            "broker/leavers.rs hold_theirs",
            "broker/named.rs keep",
            "broker/overdue.rs alarm",
            "broker/overdue.rs watch_target",
            "broker/record.rs append",
            "broker/release.rs spend",
            "broker/respond/queue.rs advance",
            "broker/respond/work.rs note",
            "broker/respond/work.rs set_aside",
            "broker/sightings.rs write",
            "broker/standing.rs save",
            "broker/told.rs keep_told",
            "broker/watched/read.rs take",
            "identity/enrolment/mod.rs alarm",
            "identity/enrolment/mod.rs enrol",
            "identity/enrolment/mod.rs invite",
            "identity/enrolment/pin.rs pin",
            "jose/keyring/change.rs change",
            "jose/keyring/change.rs commit",
            // Said again it is the same.
            "leases/given_up.rs give_up",
            // A proof that is spent without a lease: there is nothing to lose.
            "leases/open.rs spend",
            // Nothing but the time of the next attempt.
            "leases/sweep/astray.rs put_off",
            "leases/sweep/end.rs postpone",
        ],
    ),
    (
        "made again from what stays: a start, a fork or the next few thousand entries",
        &[
            "audit/recover.rs resume",
            "audit/seen.rs put",
            "fences/fork.rs put_back",
            "fences/snapshot.rs write",
            "leases/rebuild.rs rebuild",
        ],
    ),
    (
        "it changes nothing that is kept",
        &[
            "broker/respond/deliver.rs run",
            "broker/status.rs sign_status",
            "connectors/conformance.rs ends_twice",
            "connectors/conformance.rs what_cannot_be_done_is_refused",
            "connectors/registry.rs send",
            "leases/status.rs compressed",
        ],
    ),
];

/// What is wrong with the writes of one file; the functions that write without a step.
fn writes_of(name: &str, text: &str) -> (Vec<String>, Vec<String>) {
    let (mut wrong, mut stepless) = (Vec::new(), Vec::new());
    let (mut function, mut steps, mut open) = (String::new(), 0, None);
    for (number, line) in code(text) {
        if let Some((_, rest)) = line.split_once("fn ")
            && line.trim_end().ends_with(['(', '{'])
            && let Some((called, _)) = rest.split_once(['(', '<'])
        {
            wrong.extend(open.take());
            (function, steps) = (called.to_owned(), 0);
            continue;
        }
        if line.contains("steps::at(") {
            (steps, open) = (steps + 1, None);
        }
        if !WRITES.iter().any(|write| line.contains(write)) {
            continue;
        }
        let place = format!("{name}:{number} in `{function}`");
        if steps == 0 {
            stepless.push(format!("{name} {function}"));
        } else if let Some(first) = open.replace(place) {
            wrong.push(format!("{first}, and another write before the next step"));
        }
    }
    wrong.extend(open);
    (wrong, stepless)
}

#[test]
fn every_write_has_a_step_at_which_tests_kill_the_process() {
    let excused = STEPLESS.iter().flat_map(|(_, names)| names.iter());
    let mut excused: BTreeMap<&str, bool> = excused.map(|name| (*name, false)).collect();
    let mut wrong = Vec::new();
    for (path, text) in &sources() {
        if is_test(path) || ELSEWHERE.contains(&room_of(path).as_str()) {
            continue;
        }
        let (between, stepless) = writes_of(&path.display().to_string(), text);
        wrong.extend(between);
        for name in stepless {
            match excused.get_mut(name.as_str()) {
                Some(met) => *met = true,
                None => wrong.push(name),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "name the moments before and after these writes in src/steps.rs, and reach them in tests/it/every_step.rs:\n{}",
        wrong.join("\n")
    );
    excused.retain(|_, met| !*met);
    assert!(excused.is_empty(), "excused, and not there: {excused:?}");
}

#[test]
fn a_write_without_a_step_behind_it_or_two_between_a_pair_are_found() {
    let file = |body: &str| format!("fn it() {{\n{body}\n}}\nfn next() {{\n}}\n");
    let wrong = |body: &str| writes_of("x.rs", &file(body)).0.len();
    let (before, after) = ("steps::at(Step::A);", "steps::at(Step::B);");
    let write = "settle(store).await?;";
    assert_eq!(wrong(&[before, write, after].join("\n")), 0);
    assert_eq!(wrong(&[before, write].join("\n")), 1, "none behind it");
    assert_eq!(wrong(&[before, write, write, after].join("\n")), 1, "two");
    assert_eq!(wrong(&[before, write, after, write].join("\n")), 1);
    let (none, stepless) = writes_of("x.rs", &file("file.sync_data()?;"));
    assert_eq!((none.len(), stepless), (0, vec!["x.rs it".to_owned()]));
}

#[test]
fn every_step_is_taken_and_the_program_watches_none() {
    let files = sources();
    let table = files.iter().find(|(path, _)| path == Path::new("steps.rs"));
    let names = table.unwrap().1.lines().filter_map(|line| {
        let (name, text) = line.strip_prefix("    ")?.split_once(" \"")?;
        text.ends_with('"').then_some(name)
    });
    let names: Vec<_> = names.collect();
    assert!(names.len() > 40, "{names:?}");
    let others: Vec<_> = files
        .iter()
        .filter(|(path, _)| path != Path::new("steps.rs") && !is_test(path))
        .collect();
    for name in names {
        let taken = format!("steps::at(Step::{name})");
        let count: usize = others
            .iter()
            .map(|(_, text)| text.matches(&taken).count())
            .sum();
        assert!(count > 0, "{name} is named and never taken");
    }
    for (path, text) in others {
        assert!(
            !text.contains("steps::watch") && !text.contains("watch as"),
            "{} could make the program die at a step",
            path.display()
        );
    }
}
