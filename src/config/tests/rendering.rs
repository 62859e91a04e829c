//! What a person sees, and what a script does.

use super::*;

#[test]
fn a_problem_shows_its_line_and_what_to_write() {
    let report = checked(&spoiled("ttl     = \"10m\"", "ttll    = \"10m\""));
    insta::assert_snapshot!(report.to_string(), @r#"
    error[unknown_key]: `mission.deploy` has no key `ttll`
      --> dayfly.toml:18:1
       |
    18 | ttll    = "10m"
       | ^^^^
       = help: did you mean `ttl`?

    not ok: 1 error, 0 warnings, 0 of 0 cases passed
    "#);
}

#[test]
fn a_name_that_stands_twice_shows_both_places() {
    let report = check_files(
        vec![
            ("a.toml".to_owned(), GOOD.to_owned()),
            (
                "b.toml".to_owned(),
                "\n[target.api]\nkind = \"api_key\"\nceiling = { actions = [\"x\"] }\n".to_owned(),
            ),
        ],
        PathBuf::new(),
        NOW,
    );
    insta::assert_snapshot!(report.to_string(), @r"
    error[duplicate]: `[target.api]` stands twice
     --> b.toml:2:9
      |
    2 | [target.api]
      |         ^^^
      = see: a.toml:20:9
      = help: keep one of them

    not ok: 1 error, 0 warnings, 0 of 0 cases passed
    ");
}

#[test]
fn a_grant_wider_than_its_target_shows_both() {
    let report = checked(&spoiled("\"@write\"", "\"payments:write\""));
    insta::assert_snapshot!(report.to_string(), @r#"
    error[wider_than_target]: `payments:write` on `https://api.acme.example/shop` is more than the ceiling of `target.api` allows
      --> dayfly.toml:17:12
       |
    17 | allow   = [{ target = "api", actions = ["payments:write"], locations = ["https://api.acme.example/shop"] }]
       |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       = see: dayfly.toml:20:9
       = help: ask for less here, or have the target's owner raise its ceiling

    not ok: 1 error, 0 warnings, 0 of 0 cases passed
    "#);
}

#[test]
fn a_script_gets_the_same_as_json() {
    let report = checked(&spoiled("\"10m\"", "\"2h\""));
    let json = serde_json::to_value(&report).unwrap();
    insta::assert_json_snapshot!(json["problems"], @r#"
    [
      {
        "severity": "warning",
        "code": "ttl_capped",
        "file": "dayfly.toml",
        "line": 18,
        "column": 11,
        "message": "this is longer than target `api` gives",
        "help": "its leases will end after `1h`"
      }
    ]
    "#);
}
