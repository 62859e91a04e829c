//! The whole corridor on a Redis that was set up with `deploy/redis/dayfly.conf`, as its user; what
//! `check --live` says about a Redis; and what `serve` does about one that is not fit.

use crate::cli::dayfly;
use crate::support::process::{Installation, secret_file, until};
use crate::support::redis::{RedisServer, shipped_conf};
use serde_json::{Value, json};

const PASSWORD: &str = "a-password";

/// A Redis with the shipped file, and the folder that holds it.
fn shipped() -> Option<(RedisServer, tempfile::TempDir)> {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("dayfly.conf");
    std::fs::write(&conf, shipped_conf(PASSWORD)).unwrap();
    let redis = RedisServer::start(&["--include", conf.to_str().unwrap()]).unwrap()?;
    Some((redis, folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_user_may_do_all_that_a_broker_does() {
    let Some((redis, _folder)) = shipped() else {
        return;
    };
    let installation = Installation::start().await;
    let url = redis.url_as("dayfly", PASSWORD);
    let response =
        "[[response]]\non = \"exceeds_mission\"\ncount = 2\nwithin = \"10m\"\ndo = [\"suspend\"]\n";
    let replica = installation.on_redis("one", &url, response);
    let process = replica.serve().await;
    let admin = async |method: &str, path: &str, body: Option<Value>| {
        let answer = installation.admin(&process, method, path, body).await;
        let answer = answer.unwrap();
        assert_eq!(
            answer.status,
            200,
            "{path}: {}\n{}",
            answer.body,
            process.log()
        );
        answer.body
    };
    let kept = installation.issue(&process).await;
    let dead = installation.issue(&process).await;
    let token = |issued: &Value| issued["access_token"].as_str().unwrap().to_owned();
    assert!(installation.is_active(&process, &token(&kept)).await);
    let selector = json!({ "lease": dead["lease_id"] });
    let answer = installation.revoke(&process, selector).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(!installation.is_active(&process, &token(&dead)).await);
    // The sweep closes what the fence killed.
    let id = dead["lease_id"].as_str().unwrap().to_owned();
    until("the sweep", || async {
        installation.lease(&process, &id).await["state"] == "revoked"
    })
    .await;
    let rotate = json!({ "purpose": "access_token", "compromised": true });
    admin("POST", "/keys/rotate", Some(rotate)).await;
    let hold = json!({ "agent": "deployer" });
    let answer = installation.revoke(&process, hold.clone()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let lift = json!({ "selector": hold, "reason": "it was a test" });
    admin("POST", "/lifts", Some(lift)).await;
    admin("GET", "/agents/deployer", None).await;
    admin("GET", "/audit?limit=100", None).await;
    installation.issue(&process).await;
    // What happened is sealed, exported and trimmed.
    let export = replica.folder.join("audit.jsonl");
    until("the export", || async {
        std::fs::read_to_string(&export).is_ok_and(|text| text.contains("it was a test"))
    })
    .await;
    // Governance, responses, status lists and snapshots run beside all this.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(
        redis.command("ACL LOG").unwrap(),
        "*0\r\n",
        "Redis refused the user something"
    );
}

/// `+get`, `+set`, ... of the shipped line.
fn rights() -> Vec<&'static str> {
    let conf = include_str!("../../deploy/redis/dayfly.conf");
    let line = conf.lines().find(|line| line.starts_with("user ")).unwrap();
    line.split(' ')
        .filter_map(|word| word.strip_prefix('+'))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_lacks_one_right_is_named_with_it_by_check_live_as_by_serve() {
    let Some((redis, _folder)) = shipped() else {
        return;
    };
    let installation = Installation::start().await;
    let replica = installation.on_redis("one", &redis.url_as("dayfly", PASSWORD), "");
    let rights = rights();
    assert!(rights.len() > 35, "{rights:?}");
    for right in rights {
        let without = format!("ACL SETUSER dayfly -{right}");
        assert_eq!(redis.command(&without).unwrap(), "+OK\r\n");
        let mut process = replica.spawn();
        let report = live(&replica.folder, 1).await;
        assert_eq!(codes(&report, "store"), ["store_user_refused"], "{report}");
        assert!(!process.ended().await.success(), "{right}");
        let words = right.replace('|', " ");
        for told in [report["live"].to_string(), process.log()] {
            let told = told.to_lowercase();
            let told = told.split("store_user_refused").nth(1).expect(right);
            // Of one alone: `may not run XADD;`, or in the server's own words.
            let named = [
                format!("may not run {words};"),
                format!("'{right}' command"),
            ];
            assert!(
                named.iter().any(|one| told.contains(one)),
                "{right}: {told}"
            );
        }
        redis
            .command(&format!("ACL SETUSER dayfly +{right}"))
            .unwrap();
    }
    assert_eq!(redis.command("DBSIZE").unwrap(), ":0\r\n");
    live(&replica.folder, 0).await;
}

async fn live(folder: &std::path::Path, code: i32) -> Value {
    let folder = folder.to_str().unwrap();
    let done = dayfly(&["check", folder, "--live", "-o", "json"], &[], "").await;
    done.is(code);
    assert!(!done.out.contains(PASSWORD), "{}", done.out);
    assert!(!done.err.contains(PASSWORD), "{}", done.err);
    serde_json::from_str(&done.out).unwrap()
}

fn codes(report: &Value, what: &str) -> Vec<String> {
    let rows = report["live"].as_array().unwrap().iter();
    rows.filter(|row| row["what"] == what && row["ok"] == false)
        .map(|row| row["code"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_live_finds_what_is_there_and_leaves_no_trace() {
    let Some((redis, _folder)) = shipped() else {
        return;
    };
    let installation = Installation::start().await;
    let replica = installation.on_redis("one", &redis.url_as("dayfly", PASSWORD), "");
    let report = live(&replica.folder, 0).await;
    assert_eq!(report["ok"], true, "{report}");
    for what in ["sealing keys", "store", "issuer ci", "target deploy-api"] {
        let rows = report["live"].as_array().unwrap();
        assert!(
            rows.iter().any(|row| row["what"] == what),
            "{what}: {report}"
        );
    }
    assert_eq!(redis.command("DBSIZE").unwrap(), ":0\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_live_names_what_is_missing() {
    let Some((redis, _folder)) = shipped() else {
        return;
    };
    let installation = Installation::start().await;
    let url = redis.url_as("dayfly", PASSWORD);
    let replica = installation.on_redis("one", &url, "");
    let at = installation.folder.path().join("redis.url");
    let nobody = crate::support::process::free_port();
    for (url, code) in [
        (format!("redis://127.0.0.1:{nobody}"), "store_unreachable"),
        (redis.url_as("dayfly", "wrong"), "store_user_refused"),
        (
            redis
                .url_as("default", PASSWORD)
                .replace("redis:", "rediss:"),
            "store_unreachable",
        ),
        (
            url.replace("redis:", "redis+cluster:"),
            "store_user_refused",
        ),
        (
            format!("{}/main", url.replace("redis:", "redis+sentinel:")),
            "store_needs_min_replicas",
        ),
        ("nonsense".to_owned(), "store_address"),
    ] {
        secret_file(&at, &url);
        let report = live(&replica.folder, 1).await;
        assert_eq!(codes(&report, "store"), [code], "{report}");
    }
    std::fs::remove_file(&at).unwrap();
    let report = live(&replica.folder, 1).await;
    assert_eq!(codes(&report, "store"), ["secret_unreadable"], "{report}");
    secret_file(&at, &redis.url_as("dayfly", PASSWORD));

    std::fs::remove_file(replica.folder.join("sealing.key")).unwrap();
    let report = live(&replica.folder, 1).await;
    assert_eq!(
        codes(&report, "sealing keys"),
        ["secret_unreadable"],
        "{report}"
    );
    // An issuer whose keys cannot be had.
    let dead = format!("http://127.0.0.1:{nobody}");
    replica.edit(&installation.issuer.url, &dead);
    let report = live(&replica.folder, 1).await;
    assert_eq!(codes(&report, "issuer ci"), ["issuer_keys"], "{report}");
}

/// One thing is wrong with each.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_fit_is_named_by_check_live_as_by_serve() {
    let durable = ["--appendonly", "yes"];
    let with = |more: &[&'static str]| [durable.as_slice(), more].concat();
    let evicting = with(&["--maxmemory-policy", "allkeys-lru"]);
    let following = with(&["--replicaof", "127.0.0.1", "1"]);
    let clustered = with(&["--cluster-enabled", "yes"]);
    // A primary that takes no writes, of itself.
    let lonely = with(&["--min-replicas-to-write", "1"]);
    for (arguments, min_replicas, code) in [
        (evicting, 0, "store_may_evict"),
        (Vec::new(), 0, "store_forgets"),
        (with(&[]), 1, "store_too_few_replicas"),
        (following, 0, "store_not_primary"),
        (clustered, 0, "store_other_kind"),
        (lonely, 0, "store_too_few_replicas"),
    ] {
        let Some(redis) = RedisServer::start(&arguments).unwrap() else {
            return;
        };
        let installation = Installation::start().await;
        secret_file(&installation.folder.path().join("redis.url"), &redis.url());
        let store = format!(r#"{{ redis = "file:../redis.url", min_replicas = {min_replicas} }}"#);
        let replica = installation.replica("one", &store, "");
        let report = live(&replica.folder, 1).await;
        assert!(
            report["live"].to_string().contains(code),
            "{code}: {report}"
        );
        let mut process = replica.spawn();
        assert!(!process.ended().await.success());
        assert!(
            process.log().contains(&format!("{code}: ")),
            "{}",
            process.log()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_save_is_named_by_check_live_as_by_serve() {
    let folder = tempfile::tempdir().unwrap();
    // A file cannot take the place of a folder, whoever it is that writes.
    std::fs::create_dir(folder.path().join("dump.rdb")).unwrap();
    let at = folder.path().to_str().unwrap();
    let arguments = ["--appendonly", "yes", "--save", "3600 1", "--dir", at];
    let Some(redis) = RedisServer::start(&arguments).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let replica = installation.on_redis("one", &redis.url(), "");
    until("it has failed", || async {
        redis.command("BGSAVE").unwrap();
        let told = redis.command("INFO persistence").unwrap();
        told.contains("rdb_last_bgsave_status:err")
    })
    .await;
    let report = live(&replica.folder, 1).await;
    assert_eq!(codes(&report, "store"), ["store_cannot_save"], "{report}");
    let mut process = replica.spawn();
    assert!(!process.ended().await.success());
    assert!(
        process.log().contains("store_cannot_save: "),
        "{}",
        process.log()
    );
}
