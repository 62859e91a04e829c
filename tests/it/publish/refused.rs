//! What is not published, each for its own reason.

use super::{PUBLISHED, config, decided, setup, start, with_ttl};
use crate::support::broker::{Answer, Setup, TestBroker, publication};
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::sync::Arc;

/// 422 with one problem of this code that says this; and nothing has changed.
#[track_caller]
fn assert_refused(answer: &Answer, code: &str, words: &str) {
    assert_eq!(
        (answer.status, answer.error()),
        (422, "invalid_request"),
        "{}",
        answer.body
    );
    assert_eq!(answer.reason(), "configuration_refused");
    let problems = answer.body["problems"].as_array().unwrap();
    let found = problems.iter().any(|problem| {
        problem["code"] == code && problem["message"].as_str().unwrap().contains(words)
    });
    assert!(found, "{code} {words}: {problems:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_check_is_refused_with_the_problems_of_check() {
    let (broker, _) = start().await;
    let before = config(&broker).await;
    let good = with_ttl(&broker, "4m");
    let server = |secret: &str| {
        format!(
            "{good}\n[resource_server.x]\nsecret = \"{secret}\"\naudiences = [\"deploy-api\"]\n"
        )
    };
    let absolute = broker.folder.path().join("server.secret");
    let absolute = format!("file:{}", absolute.display());
    let notify = "\n[[notify]]\nname = \"mail\"\ncommand = [\"/usr/sbin/sendmail\", \"-t\"]\nto = [\"a@b.example\"]\n";
    let case = "\n[[case]]\nname = \"no more\"\nagent = \"deployer\"\nasked = []\nexpect = { refused = \"exceeds_mission\" }\n";
    let secret = crate::support::broker::SERVER_SECRET;
    for (text, code, words) in [
        (
            good.replace("purpose", "porpoise"),
            "unknown_key",
            "porpoise",
        ),
        (
            format!("{good}\n[broker]\nurl = \"https://x.example\"\n"),
            "unpublishable",
            "each replica's own",
        ),
        (
            server("cmd:/bin/cat /etc/hostname"),
            "unpublishable",
            "starts no program",
        ),
        (server(&absolute), "unpublishable", "below the folder"),
        (
            server("file:../server.secret"),
            "unpublishable",
            "below the folder",
        ),
        (server("file:sealing.key"), "unpublishable", "of `[broker]`"),
        (server("hunter2-hunter2"), "bad_reference", "reference"),
        (
            format!("{good}{notify}"),
            "unpublishable",
            "starts no program",
        ),
        (format!("{good}{case}"), "case_failed", "no more"),
        (
            format!("{good}\n# {secret}\n"),
            "unpublishable",
            "the value of a secret",
        ),
        (
            format!("{good}\n# -----BEGIN PRIVATE KEY-----\n"),
            "unpublishable",
            "the value of a secret",
        ),
        (
            format!("{good}\n# {}\n", "x".repeat(600_000)),
            "unpublishable",
            "at most",
        ),
    ] {
        assert_refused(&broker.publish(&text).await, code, words);
    }
    assert_eq!(config(&broker).await, before);
    assert_eq!(decided(&broker).await.1, 10);
    assert_eq!(
        broker.publish(&good).await.status,
        200,
        "and it is good without"
    );
}

/// Everything that the configuration has read at a replica, by the path that it is written with.
fn reading(good: &str, path: &str) -> [String; 4] {
    let url = "https://inside.example";
    [
        format!(
            "{good}\n[resource_server.x]\nsecret = \"file:{path}\"\naudiences = [\"deploy-api\"]\n"
        ),
        format!("{good}\n[trust_domain.x]\nname = \"x.example\"\nbundle = \"file:{path}\"\n"),
        format!(
            "{good}\n[issuer.x]\npreset = \"kubernetes\"\nurl = \"{url}\"\ntoken_review = {{ url = \"{url}\", token = \"file:{path}\" }}\n"
        ),
        format!(
            "{good}\n[issuer.x]\npreset = \"kubernetes\"\nurl = \"{url}\"\ntoken_review = {{ url = \"{url}\", token = \"file:server.secret\", ca = \"{path}\" }}\n"
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_the_machine_is_read_by_whatever_name() {
    let (broker, _) = start().await;
    let folder = broker.folder.path();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("other"), "a secret of the machine").unwrap();
    std::fs::create_dir(folder.join("keys")).unwrap();
    let link = |to: &std::path::Path, name: &str| {
        std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
    };
    link(&folder.join("sealing.key"), "linked.key");
    link(folder, "keys/..data");
    link(outside.path(), "out");
    link(&outside.path().join("not-yet"), "not-yet");
    let good = with_ttl(&broker, "4m");
    let absolute = folder.join("server.secret").display().to_string();
    for (path, words) in [
        ("sealing.key", "of `[broker]`"),
        ("./sealing.key", "of `[broker]`"),
        ("linked.key", "of `[broker]`"),
        ("keys/..data/sealing.key", "of `[broker]`"),
        ("unused.redb", "of `[broker]`"),
        ("audit", "of `[broker]`"),
        ("out/other", "below the folder"),
        ("../other", "below the folder"),
        (&absolute, "below the folder"),
    ] {
        for text in reading(&good, path) {
            assert_refused(&broker.publish(&text).await, "unpublishable", words);
        }
    }
    // What lies there, links and all, is read.
    link(&folder.join("server.secret"), "keys/linked.secret");
    let text = &reading(&good, "keys/..data/keys/linked.secret")[0];
    let answer = broker.publish(text).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_none_are_refused() {
    let (broker, _) = start().await;
    let (good, keys) = (with_ttl(&broker, "4m"), broker.deployer_keys());
    let whole = publication(&good, &[("deployer.jwks.json", &keys)]);
    let spoil = |path: &str, value: Value| {
        let mut body = whole.clone();
        *body.pointer_mut(path).unwrap() = value;
        body
    };
    let mut twice = whole.clone();
    let file = twice["files"][0].clone();
    twice["files"].as_array_mut().unwrap().push(file);
    let mut many = whole.clone();
    many["attached"] = (0..1024)
        .map(|n| json!({ "name": format!("{n}"), "text": "" }))
        .collect();
    for (body, code, words) in [
        (
            spoil("/files/0/name", json!("common.yaml")),
            "unpublishable",
            "neither",
        ),
        (
            spoil("/files/0/name", json!("")),
            "unpublishable",
            "file's name",
        ),
        (
            spoil("/files/0/name", json!("a\nb.toml")),
            "unpublishable",
            "file's name",
        ),
        (
            spoil("/files/0/name", json!(format!("{}.toml", "a".repeat(255)))),
            "unpublishable",
            "file's name",
        ),
        (spoil("/files", json!([])), "unpublishable", "no file"),
        (twice, "unpublishable", "twice"),
        (many, "unpublishable", "more than 1024"),
        // Keys that lie beside the replica are not what was published.
        (spoil("/attached", json!([])), "bad_keys", "not published"),
        (spoil("/attached/0/text", json!("{}")), "bad_keys", ""),
    ] {
        assert_refused(
            &broker.admin("POST", "/config", Some(body)).await,
            code,
            words,
        );
    }
    let unknown = json!({ "files": [], "attached": [], "reason": "x", "force": true });
    let answer = broker.admin("POST", "/config", Some(unknown)).await;
    assert_eq!((answer.status, answer.reason()), (400, "malformed_request"));
    let answer = broker.admin("POST", "/config", Some(whole)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_folder_decides_takes_none() {
    let broker = TestBroker::start().await;
    let answer = broker.publish(&with_ttl(&broker, "4m")).await;
    assert_refused(&answer, "unpublishable", "own folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_may_forbid_operators_to_publish() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let policy = "@reason(\"changes are frozen\")\nforbid (principal, action == Dayfly::Action::\"publishConfiguration\", resource);\n";
    let policies = vec![("policies/frozen.cedar".to_owned(), policy.to_owned())];
    let broker = TestBroker::with(Setup {
        policies,
        ..setup(&store)
    })
    .await;
    let answer = broker.publish(&with_ttl(&broker, "4m")).await;
    assert_eq!(
        (answer.status, answer.error()),
        (403, "access_denied"),
        "{}",
        answer.body
    );
    assert_eq!(config(&broker).await["revision"], 0);
    assert!(PUBLISHED.contains("published"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_publishes_could_publish_the_next_one_too_or_says_that_they_know() {
    let (broker, _) = start().await;
    let policy = "@reason(\"for good\")\nforbid (principal, action == Dayfly::Action::\"publishConfiguration\", resource);\n";
    let mut body = broker.publication();
    let file = json!({ "name": "policies/frozen.cedar", "text": policy });
    body["files"].as_array_mut().unwrap().push(file);
    let before = config(&broker).await;
    let answer = broker.admin("POST", "/config", Some(body.clone())).await;
    assert_refused(&answer, "unpublishable", "could not publish the next one");
    assert_eq!(config(&broker).await, before);
    body["even_without_me"] = json!(true);
    let answer = broker.admin("POST", "/config", Some(body.clone())).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = broker.publish(&with_ttl(&broker, "4m")).await;
    assert_eq!(answer.status, 403, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_late_takes_nothings_place() {
    let (broker, _) = start().await;
    let after = |text: &str, number: &Value| {
        let mut body = publication(text, &[("deployer.jwks.json", &broker.deployer_keys())]);
        body["after"] = number.clone();
        body
    };
    let publish = |body: Value| broker.admin("POST", "/config", Some(body));
    let number = config(&broker).await["number"].clone();
    let first = publish(after(&with_ttl(&broker, "4m"), &number)).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let late = publish(after(&with_ttl(&broker, "5m"), &number)).await;
    assert_eq!((late.status, late.reason()), (409, "published_meanwhile"));
    assert_eq!(decided(&broker).await.1, 4);
    let next = publish(after(&with_ttl(&broker, "5m"), &first.body["revision"])).await;
    assert_eq!(next.status, 200, "{}", next.body);
    assert_eq!(decided(&broker).await.1, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_at_once_one_is_told_of_the_other() {
    let (broker, store) = start().await;
    let other = super::beside(&broker, &store, Setup::default()).await;
    let mut refused = 0;
    for round in 0..6 {
        let texts =
            [4, 5].map(|ttl| with_ttl(&broker, &format!("{ttl}m")) + &format!("# {round}\n"));
        let (one, two) = tokio::join!(broker.publish(&texts[0]), other.publish(&texts[1]));
        for answer in [&one, &two] {
            if answer.status != 200 {
                assert_eq!(
                    (answer.status, answer.reason()),
                    (409, "published_meanwhile"),
                    "{}",
                    answer.body
                );
                refused += 1;
            }
        }
        assert!(one.status == 200 || two.status == 200);
        crate::support::process::until("both have the same", || async {
            let (a, b) = (config(&broker).await, config(&other).await);
            a["hash"] == b["hash"] && a["hash"] == a["published"]["hash"]
        })
        .await;
    }
    println!("{refused} of 6 were told");
}
