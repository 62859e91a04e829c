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

#[test]
fn what_a_connector_cannot_be_set_up_with_is_found_at_its_key() {
    let file = "[target.aws-prod]\nkind = \"aws\"\n\
                role = \"arn:aws:iam::111122223333:role/deploy\"\n\
                endpoint = \"http://sts.example\"\n\
                ceiling = { actions = [\"s3:*\"], locations = [\"*\"] }\n";
    let files = vec![("dayfly.toml".to_owned(), file.to_owned())];
    let problems = check_files(files, PathBuf::new(), NOW).to_string();
    assert!(
        problems.contains("`endpoint` must be an https URL"),
        "{problems}"
    );
    assert!(problems.contains("dayfly.toml:4:"), "{problems}");
}
