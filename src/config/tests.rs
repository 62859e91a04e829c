use super::*;
use std::path::Path;
use time::macros::datetime;

const NOW: time::OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name)
}

#[test]
fn the_example_checks_clean() {
    let report = check(&example("example"), NOW);
    assert!(report.ok, "{report}");
    assert_eq!(report.warnings, 0, "{report}");
    assert!(report.cases.len() >= 4);
}
