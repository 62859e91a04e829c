//! The documents are true: every example in them is run, parsed or checked, every link leads
//! somewhere, and the page about the command line is what the program itself says.
//!
//! The convention, by the fence's info string: `sh` is run, in order, in one folder per document that
//! holds `config/example`;
//! `sh background` is started and stays; `sh not-run` is for what a test cannot do. `text` is output of
//! the commands before it, ` ... ` leaves something out, ids and times may differ. `text demo` is the
//! demo's. `toml` passes `dayfly check` (with a `[broker]`, if it has none); `toml part` only parses.
//! A kind with a file behind it (`python tests/clients/google_auth.py`) is a part of that file, which a test runs.
//! `json` parses, `cedar` passes the policies' strict check. Every `dayfly` line in any fence parses.

mod caches;
mod page;
mod run;

use crate::support::postgres::{PASSWORD, Postgres};
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use dayfly::cli::Cli;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// A fenced block.
struct Block {
    document: PathBuf,
    line: usize,
    info: String,
    text: String,
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.document.display(), self.line)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the project, as it lies in a clone: relative path and bytes.
fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(root()).unwrap().to_owned();
            if relative == Path::new("target") || relative == Path::new(".git") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((relative, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn documents() -> Vec<(PathBuf, String)> {
    let all: Vec<_> = files()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "md"))
        .map(|(path, bytes)| (path, String::from_utf8(bytes).unwrap()))
        .collect();
    assert!(all.len() > 10, "the documents were not found");
    all
}

fn blocks(document: &Path, text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(done)) => found.push(done),
            (Some(info), None) => {
                open = Some(Block {
                    document: document.to_owned(),
                    line: number + 1,
                    info: info.trim().to_owned(),
                    text: String::new(),
                });
            }
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a fence is open", document.display());
    found
}

fn all_blocks() -> Vec<Block> {
    documents()
        .iter()
        .flat_map(|(path, text)| blocks(path, text))
        .collect()
}

fn fail_if_any(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sql_example_sets_up_a_role_that_can_make_logins() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let mut ran = 0;
    for block in all_blocks().iter().filter(|block| block.info == "sql") {
        // The test server's own broker is called `dayfly`.
        let name = format!("broker_{}", block.line);
        let text = block.text.replace("dayfly", &name).replace("...", PASSWORD);
        let client = server.login("postgres", PASSWORD).await.unwrap();
        client.batch_execute(&text).await.unwrap_or_else(|error| {
            panic!("{}: {error:?}", block.place());
        });
        let broker = server.login(&name, PASSWORD).await.unwrap();
        broker
            .batch_execute("CREATE ROLE made; GRANT SELECT ON orders TO made; REVOKE ALL ON orders FROM made; DROP ROLE made")
            .await
            .unwrap_or_else(|error| panic!("{}: {error:?}", block.place()));
        ran += 1;
    }
    assert!(ran > 0);
}

#[test]
fn every_fence_says_what_it_is() {
    let known = [
        "sh",
        "sh background",
        "sh not-run",
        "text",
        "text demo",
        "text plain",
        "toml",
        "toml part",
        "json",
        "cedar",
        "sql",
        "mermaid",
        "yaml",
        "rust",
    ];
    let wrong: Vec<_> = all_blocks()
        .iter()
        .filter(|block| part_of(block).is_none() && !known.contains(&block.info.as_str()))
        .map(|block| format!("{}: a fence with `{}`", block.place(), block.info))
        .collect();
    fail_if_any(&wrong);
}

/// The file that the block says it is a part of.
fn part_of(block: &Block) -> Option<&str> {
    let (kind, file) = block.info.split_once(' ')?;
    (["apache", "haproxy", "js", "lua", "python", "toml"].contains(&kind)
        && file.starts_with("tests/"))
    .then_some(file)
}

#[test]
fn every_example_from_a_file_is_in_it_word_for_word() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for block in all_blocks() {
        let Some(file) = part_of(&block) else {
            continue;
        };
        seen += 1;
        let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        if !text.contains(&block.text) {
            wrong.push(format!("{}: {file} has another text", block.place()));
        }
    }
    assert!(seen > 5, "only {seen} were found");
    fail_if_any(&wrong);
}

#[test]
fn every_runnable_example_runs_and_prints_what_the_document_shows() {
    if !run::is_there("bash") || !run::is_there("curl") {
        assert!(
            !std::env::var_os("DAYFLY_TEST_REQUIRE")
                .is_some_and(|all| all.to_string_lossy().contains("clients")),
            "bash and curl are required"
        );
        eprintln!("skipped: bash or curl is not there");
        return;
    }
    let mut ran = 0;
    for (path, text) in documents() {
        let blocks = blocks(&path, &text);
        if blocks.iter().any(|block| block.info == "sh") {
            run::document(&path, &blocks);
            ran += 1;
        }
    }
    assert!(ran > 0, "the README has examples to run");
}

#[test]
fn the_demo_prints_what_the_readme_shows() {
    let output = run::dayfly(&["demo", "--once"], root());
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    for block in all_blocks().iter().filter(|b| b.info == "text demo") {
        run::shown_in(block, &said);
    }
}

#[test]
fn every_dayfly_line_of_the_documents_is_a_command_that_exists() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for block in all_blocks() {
        if !["sh", "yaml"]
            .iter()
            .any(|kind| block.info.starts_with(kind))
        {
            continue;
        }
        for words in page::commands(&block.text) {
            seen += 1;
            if let Err(error) = Cli::try_parse_from(&words)
                && !matches!(
                    error.kind(),
                    // Required values may come from the environment that an earlier line exports.
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                )
            {
                wrong.push(format!("{}: {words:?}: {error}", block.place()));
            }
        }
    }
    assert!(seen > 20, "only {seen} lines were found");
    fail_if_any(&wrong);
}

#[test]
fn every_toml_example_is_a_configuration_without_errors() {
    const BROKER: &str = "[broker]\nurl = \"https://dayfly.example\"\n\
        store = { embedded = \"dayfly.redb\" }\nkeys = { sealing = [\"file:sealing.key\"] }\n\
        audit = { path = \"audit.jsonl\" }\n";
    let mut wrong = Vec::new();
    for block in all_blocks() {
        if !block.info.starts_with("toml") {
            continue;
        }
        if let Err(error) = block.text.parse::<toml::Table>() {
            wrong.push(format!("{}: {error}", block.place()));
            continue;
        }
        if block.info == "toml part" || part_of(&block).is_some() {
            continue;
        }
        let mut files = vec![("example.toml".to_owned(), block.text.clone())];
        if !block.text.contains("[broker]") {
            files.push(("broker.toml".to_owned(), BROKER.to_owned()));
        }
        let report =
            dayfly::config::check_files(files, root().to_owned(), OffsetDateTime::UNIX_EPOCH);
        if !report.ok {
            wrong.push(format!("{}:\n{report}", block.place()));
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn every_json_example_parses() {
    let wrong: Vec<_> = all_blocks()
        .iter()
        .filter(|block| block.info == "json")
        .filter_map(|block| {
            let error = serde_json::from_str::<serde_json::Value>(&block.text).err()?;
            Some(format!("{}: {error}", block.place()))
        })
        .collect();
    fail_if_any(&wrong);
}

#[test]
fn every_cedar_example_passes_the_strict_check() {
    for block in all_blocks() {
        if block.info != "cedar" {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let example = root().join("config/example/dayfly.toml");
        std::fs::copy(example, folder.path().join("dayfly.toml")).unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        std::fs::write(folder.path().join("policies/example.cedar"), &block.text).unwrap();
        let report = run::dayfly(&["check", "-o", "json"], folder.path());
        let said = String::from_utf8_lossy(&report.stdout).into_owned();
        let report: serde_json::Value = serde_json::from_str(&said).unwrap();
        // The policy may do what it says to the example's own case.
        let does_its_work = |problem: &serde_json::Value| {
            problem["code"] == "case_failed"
                && problem["message"]
                    .as_str()
                    .unwrap()
                    .contains("example.cedar#")
        };
        let wrong = report["problems"].as_array().unwrap().iter();
        let wrong: Vec<_> = wrong.filter(|problem| !does_its_work(problem)).collect();
        assert!(wrong.is_empty(), "{}:\n{wrong:?}", block.place());
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let documents = documents();
    let mut wrong = Vec::new();
    for (path, text) in &documents {
        for (line, link) in page::links(text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.parent().unwrap().join(file)
            };
            let there = root().join(&target);
            if !there.exists() {
                wrong.push(format!("{}:{line}: no {file}", path.display()));
            } else if !anchor.is_empty() {
                let text = std::fs::read_to_string(there).unwrap();
                if !page::anchors(&text).iter().any(|have| have == anchor) {
                    wrong.push(format!("{}:{line}: no heading {link}", path.display()));
                }
            }
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn every_document_is_in_the_index() {
    let index = std::fs::read_to_string(root().join("docs/README.md")).unwrap();
    let linked: Vec<_> = page::links(&index).into_iter().map(|(_, to)| to).collect();
    let wrong: Vec<_> = documents()
        .iter()
        .filter_map(|(path, _)| path.strip_prefix("docs").ok().map(Path::to_owned))
        .filter(|path| path.components().count() == 1 && path != Path::new("README.md"))
        .filter(|path| !linked.iter().any(|to| Path::new(to) == path))
        .map(|path| format!("docs/README.md does not link {}", path.display()))
        .collect();
    fail_if_any(&wrong);
}

#[test]
fn no_file_names_a_machine_or_a_package_mirror() {
    // In two halves, so that this file does not find itself.
    let places = [
        ("/ho", "me/"),
        ("/ro", "ot/"),
        ("/Us", "ers/"),
        ("/wo", "rk/"),
    ]
    .map(|(a, b)| format!("{a}{b}"));
    let hosts = [
        ("pypi", ".org"),
        ("registry", ".npmjs"),
        ("jf", "rog"),
        ("arti", "factory"),
        ("index", ".crates.io"),
        ("static", ".crates.io"),
    ]
    .map(|(a, b)| format!("{a}{b}"));
    let mut wrong = Vec::new();
    for (path, bytes) in files() {
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        let built_in = root().to_str().unwrap();
        for (number, line) in text.lines().enumerate() {
            let starts = |word: &String| {
                line.match_indices(word.as_str()).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "}~.>-_*".contains(c))
                })
            };
            if line.contains(built_in)
                || places.iter().any(starts)
                || hosts.iter().any(|host| line.contains(host.as_str()))
            {
                wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn what_init_writes_passes_check() {
    let folder = tempfile::tempdir().unwrap();
    let written = run::dayfly(
        &[
            "init",
            "github",
            "acme/checkout",
            "--repository-id=1234",
            "--owner-id=99",
            "--aws-role=arn:aws:iam::111122223333:role/dayfly-deploy",
            "--owner=payments@acme.example",
            "--ends=2099-12-31",
            "--url=https://dayfly.acme.example",
        ],
        folder.path(),
    );
    assert!(written.status.success(), "{written:?}");
    let checked = run::dayfly(&["check", "dayfly-config"], folder.path());
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{said}");
    assert!(said.contains("2 of 2 cases passed"), "{said}");

    let policy = folder.path().join("dayfly-config/aws-trust-policy.json");
    let policy: serde_json::Value =
        serde_json::from_slice(&std::fs::read(policy).unwrap()).unwrap();
    assert_eq!(
        policy["Statement"][0]["Condition"]["StringEquals"]["dayfly.acme.example/federation/aws-111122223333:sub"],
        "agent:checkout-pipeline:mission:deploy-checkout"
    );
    let workflow =
        std::fs::read_to_string(folder.path().join("dayfly-config/workflow/deploy.yml")).unwrap();
    assert!(!page::commands(&workflow).is_empty());

    let again = run::dayfly(&["agent", "keygen", "reporter"], folder.path());
    assert!(again.status.success());
    let kept = run::dayfly(&["agent", "keygen", "reporter"], folder.path());
    assert!(!kept.status.success(), "a key is never overwritten");
}

#[test]
fn the_page_about_the_command_line_is_what_the_program_says() {
    let path = root().join("docs/cli.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (by_hand, made) = page
        .split_once(page::MARK)
        .expect("the mark in docs/cli.md");
    let should = page::reference(&mut Cli::command());
    if std::env::var_os("DAYFLY_BLESS").is_some() {
        std::fs::write(&path, format!("{by_hand}{}{should}", page::MARK)).unwrap();
    } else {
        let first = made
            .lines()
            .zip(should.lines())
            .find(|(is, should)| is != should);
        assert!(
            made == should,
            "docs/cli.md is older than the program: {first:?}\n\
             DAYFLY_BLESS=1 cargo test --test it documents:: writes it anew"
        );
    }
    for name in page::environment(&Cli::command()) {
        assert!(by_hand.contains(&name), "docs/cli.md leaves out {name}");
    }
    assert!(page::examples_of_help(&Cli::command()) > 15);
}

/// Pages whose tables say by which tests each of their rows is shown, and how many tests they name at least.
const SHOWN: [(&str, usize); 2] = [("docs/fail-matrix.md", 100), ("docs/rules.md", 150)];

#[test]
fn every_test_that_a_page_names_exists_and_every_row_names_one() {
    let tests = functions_that_test();
    let mut wrong = Vec::new();
    for (page, at_least) in SHOWN {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let mut seen = 0;
        for row in text.lines().filter(|line| line.starts_with("| ")) {
            let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
            if last == "shown by" {
                continue;
            }
            // Why there is none stands there.
            if last.starts_with("none: ") || last.starts_with("not yet: ") {
                continue;
            }
            let names: Vec<_> = last.split('`').skip(1).step_by(2).collect();
            seen += names.len();
            if names.is_empty() {
                wrong.push(format!("{page}: no test: {row}"));
            }
            let unknown = names.iter().filter(|name| !tests.contains(**name));
            wrong.extend(unknown.map(|name| format!("{page}: there is no test `{name}`")));
        }
        assert!(seen > at_least, "{page}: only {seen} were found");
    }
    fail_if_any(&wrong);
}

/// The names of all tests, of the rooms' own and of these.
fn functions_that_test() -> std::collections::BTreeSet<String> {
    let sources = files().into_iter().filter(|(path, _)| {
        path.extension().is_some_and(|kind| kind == "rs")
            && (path.starts_with("src") || path.starts_with("tests"))
    });
    let mut tests = std::collections::BTreeSet::new();
    for (_, bytes) in sources {
        let text = String::from_utf8(bytes).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                tests.extend(rest.split('(').next().map(str::to_owned));
                is_test = false;
            }
        }
    }
    tests
}
