//! What is read back from disk: a configuration, a lease, an exported audit.

use crate::audit;
use crate::config;
use crate::ids::{LeaseId, ShardId};
use crate::leases::AtRest;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;
use time::OffsetDateTime;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

/// A configuration of one file. Its secrets and key files are not there.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let files = || vec![("dayfly.toml".to_owned(), text.to_owned())];
    let nowhere = || PathBuf::from("/nonexistent/dayfly");
    let report = config::check_files(files(), nowhere(), NOW);
    assert!(report.ok == (report.errors == 0));
    assert!(!report.to_string().is_empty());
    // What `check` calls clean is what the broker starts with.
    if report.ok {
        let loaded = config::load_with(files(), nowhere()).and_then(|document| document.resolve());
        let hash = loaded.ok().map(|settings| settings.hash);
        assert!(
            hash == report.hash,
            "clean, and yet it is not what is loaded"
        );
    }
}

/// What a lease has in common with others, and its own record behind its MAC.
pub fn lease(bytes: &[u8]) {
    let id = LeaseId::draw(ShardId::INSTALLATION);
    let Ok(read) = rmp_serde::from_slice::<AtRest>(bytes) else {
        return;
    };
    let Some(record) = read.record(&id) else {
        return;
    };
    let written = rmp_serde::to_vec(&AtRest::of(&record)).unwrap_or_default();
    let again = rmp_serde::from_slice::<AtRest>(&written).ok();
    let again = again.and_then(|again| again.record(&id));
    assert!(again == Some(record), "it does not survive being written");
}

const EXPORT: &str = include_str!("../../fuzz/corpus/audit/export.jsonl");

/// Signatures of checkpoints that the broker has made.
static SIGNED: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let signed = |line: &'static str| line.strip_prefix("{\"jws\":\"")?.split('"').next();
    EXPORT.lines().filter_map(signed).collect()
});

/// An exported audit: who has no key changes no byte of it unseen.
pub fn audit(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("dayfly-fuzz-{}.jsonl", std::process::id()));
    let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes));
    assert!(written.is_ok(), "the copy cannot be written");
    let report = audit::verify(&path, &|jws| SIGNED.contains(jws));
    let unsigned = audit::verify(&path, &|_| false);
    assert!(unsigned.is_ok_and(|report| !report.is_sound()));
    let Ok(report) = report else { return };
    if !report.is_sound() {
        return;
    }
    let text = String::from_utf8_lossy(bytes);
    let sealed = text.lines().count() - usize::try_from(report.unsealed).unwrap_or(0);
    assert!(
        text.lines().take(sealed).eq(EXPORT.lines().take(sealed)),
        "a change was not seen"
    );
}
