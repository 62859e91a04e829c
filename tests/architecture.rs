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

/// Where an exchange, a revocation, a sweep and a sealing write.
const WRITERS: [&str; 11] = [
    "audit/files.rs",
    "audit/sealing.rs",
    "broker/exchange.rs",
    "broker/revoke.rs",
    "connectors/postgres/end.rs",
    "connectors/postgres/mint.rs",
    "fences/raise.rs",
    "leases/close.rs",
    "leases/hand_on.rs",
    "leases/open.rs",
    "leases/sweep/",
];

/// What changes the store or a downstream.
const WRITES: [&str; 8] = [
    "settle(",
    ".commit(",
    ".step(",
    ".step_all(",
    ".mint(grant",
    "connector.end(",
    "fs::rename(",
    ".batch_execute(",
];

/// Functions whose callers name the steps, or which are part of none of the four.
const STEPLESS: [&str; 12] = [
    // Their callers do.
    "step",
    "step_all",
    "abandon",
    "write_claim",
    "record",
    "no_login",
    "no_privilege",
    "no_role",
    // Nothing but the time of the next attempt.
    "postpone",
    "put_off",
    // A proof that is spent without a lease: there is nothing to lose.
    "spend",
    // A mint that is made here is written with its lease, by `open_lease`.
    "mint_here",
];

#[test]
fn every_write_has_a_step_at_which_tests_kill_the_process() {
    let mut wrong = Vec::new();
    for (path, text) in &sources() {
        let name = path.display().to_string();
        let looked_at = WRITERS.iter().any(|writer| name.starts_with(writer));
        if is_test(path) || !looked_at {
            continue;
        }
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
            let writes = WRITES.iter().any(|write| line.contains(write));
            if writes && !STEPLESS.contains(&function.as_str()) {
                let place = format!("{name}:{number} in `{function}`");
                if steps == 0 {
                    wrong.push(place);
                } else {
                    open = Some(place);
                }
            }
        }
        wrong.extend(open);
    }
    assert!(
        wrong.is_empty(),
        "name the moments before and after these writes in src/steps.rs, and reach them in tests/it/every_step.rs:\n{}",
        wrong.join("\n")
    );
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
