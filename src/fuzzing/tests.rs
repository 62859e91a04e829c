//! A short run of every target on every change: its seeds, then changes of them. The same changes
//! each time, so that a failure is one for everybody; the long runs are `fuzz/run`.

use super::*;
use crate::clock::{Clock as _, SystemClock};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For one target.
const LONGEST: Duration = Duration::from_secs(2);
const CHANGES: usize = 20_000;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(name)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries.map(|entry| stem(entry.unwrap().path())).collect()
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder("corpus").join(name)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{name} has no seed");
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// xorshift64*: the same numbers everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % bound.max(1)
    }

    /// One to four changes, and now and then a piece of another seed.
    fn changed(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        const ODD: &[u8] = b"\0\n\"\\{}[]:,.*%&=+-_?'09azAZ\x7f\x80\xc3\xff";
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + 1 + self.below(16)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = ODD[self.below(ODD.len())],
                2 => bytes.insert(at, ODD[self.below(ODD.len())]),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len() + 1);
                    bytes.splice(to..to, piece);
                }
                _ => {
                    let from = self.below(other.len() + 1);
                    let length = self.below(64).min(other.len() - from);
                    bytes.splice(at..at, other[from..from + length].iter().copied());
                }
            }
        }
        bytes
    }
}

fn smoke(name: &str) {
    let (_, run) = TARGETS.iter().find(|(other, _)| *other == name).unwrap();
    let seeds = seeds(name);
    seeds.iter().for_each(|seed| run(seed));
    let clock = SystemClock::new();
    let began = clock.since_boot();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..CHANGES {
        if clock.since_boot() - began > LONGEST {
            break;
        }
        let seed = &seeds[round % seeds.len()];
        let other = &seeds[dice.below(seeds.len())];
        run(&dice.changed(seed, other));
    }
}

/// One test each, so that they run beside one another and a failure names its target.
macro_rules! smoke {
    ($($target:ident),*) => {
        $(#[test] fn $target() { smoke(stringify!($target)); })*

        #[test]
        fn every_target_has_a_smoke_run_a_file_and_seeds() {
            let here: BTreeSet<_> = [$(stringify!($target).to_owned()),*].into();
            let listed: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(here, listed);
            assert_eq!(names(&folder("fuzz_targets")), listed);
            assert_eq!(names(&folder("corpus")), listed);
            let manifest = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
            for name in listed {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
                // The file is built by nobody but who fuzzes, so it is known by heart.
                let file = folder("fuzz_targets").join(format!("{name}.rs"));
                let text = std::fs::read_to_string(file).unwrap();
                let line = format!("fuzz_target!(|bytes: &[u8]| dayfly::fuzzing::{name}(bytes));");
                assert_eq!(text, format!("#![no_main]\nlibfuzzer_sys::{line}\n"));
            }
        }
    };
}

smoke!(
    audit,
    authorization_details,
    aws,
    bundle,
    certificate,
    claims,
    config,
    dpop,
    form,
    intent,
    jwks,
    jws,
    lease,
    patterns
);
