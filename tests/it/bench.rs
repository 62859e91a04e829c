//! What `dayfly bench` prints is what scripts read.

use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::process::secret_file;
use crate::support::redis::RedisServer;
use serde_json::Value;
use std::process::Command;

fn measured(arguments: &[&str]) -> Value {
    let done = Command::new(env!("CARGO_BIN_EXE_dayfly"))
        .arg("bench")
        .args(arguments)
        .args(["-o", "json"])
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn a_revocation_is_measured_until_every_other_replica_refuses() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]).unwrap() else {
        return;
    };
    // On a server of its own, and on one that it is given.
    for (replicas, report) in [
        (
            2,
            measured(&["revoke", "--samples", "5", "--replicas", "2"]),
        ),
        (
            3,
            measured(&[
                "revoke",
                "--samples",
                "5",
                "--replicas",
                "3",
                "--redis",
                &redis.url(),
            ]),
        ),
    ] {
        assert_eq!(report["replicas"], replicas, "{report}");
        assert_eq!(report["samples"], 5);
        let figure = |name: &str| report[name].as_f64().unwrap();
        assert!(figure("p50_ms") > 0.0, "{report}");
        assert!(figure("p50_ms") <= figure("p99_ms"), "{report}");
        assert!(figure("p99_ms") <= figure("max_ms"), "{report}");
        // The promise that a broker makes, whatever the machine: a second.
        assert!(figure("max_ms") <= 1000.0, "{report}");
    }
}

#[test]
fn a_decision_is_measured_among_few_and_among_many_missions() {
    let report = measured(&["decide", "--samples", "5", "--missions", "10,100"]);
    assert_eq!(report["missions"], serde_json::json!([10, 100]));
    let few = report["decide_us"]["10"].as_f64().unwrap();
    let many = report["decide_us"]["100"].as_f64().unwrap();
    assert!(few > 0.0 && many > 0.0, "{report}");
    let ratio = report["ratio"].as_f64().unwrap();
    assert!((ratio - many / few).abs() < 1e-9, "{report}");
}

/// What holds of a full store of any kind. Few leases carry all that a store has once: what a million cost each,
/// they do not tell.
fn holds_of_a_full_store(store: &str, report: &Value) {
    let figure = |name: &str| report[name].as_f64().unwrap_or_default();
    assert_eq!(report["store"], store);
    // Under load an answer may come too late for whoever asked: asked again, it is another lease.
    let (leases, again) = (figure("leases"), figure("asked_again"));
    assert!((300.0..=300.0 + again).contains(&leases), "{report}");
    assert_eq!(report["keys"]["lease"], report["leases"], "{report}");
    assert!(
        report["bytes_per_lease"]["lease"].as_f64() > Some(100.0),
        "{report}"
    );
    assert!(figure("broker_rss_mib") > 1.0, "{report}");
    assert!(figure("ready_after_sigkill_ms") > 0.0, "{report}");
    assert_eq!(report["kill_all_entries"], 1, "{report}");
    let dead = figure("kill_all_dead_ms");
    assert!(dead > 0.0 && dead <= 1000.0, "{report}");
    assert!(figure("kill_all_closed_seconds") > 0.0, "{report}");
    assert!(figure("native_ended_seconds") > 0.0, "{report}");
}

#[test]
fn a_store_full_of_leases_is_weighed_killed_over_and_emptied() {
    if RedisServer::start(&[]).unwrap().is_none() {
        return;
    }
    let report = measured(&["memory", "--leases", "300", "--native", "40"]);
    holds_of_a_full_store("redis", &report);
    assert!(
        report["redis_bytes_per_lease"].as_f64() > Some(300.0),
        "{report}"
    );
    assert_eq!(report["embedded_bytes_per_lease"], Value::Null);
}

#[test]
fn a_file_full_of_leases_is_weighed_killed_over_and_emptied() {
    let arguments = [
        "memory", "--store", "embedded", "--leases", "300", "--native", "40",
    ];
    let report = measured(&arguments);
    holds_of_a_full_store("embedded", &report);
    // With each lease in it and with all that goes with one, and nothing counted twice.
    let file = report["embedded_bytes_per_lease"].as_f64().unwrap();
    let rows = report["bytes_per_lease"].as_object().unwrap().values();
    let rows: f64 = rows.filter_map(Value::as_f64).sum();
    assert!(rows > 500.0 && file > rows, "{report}");
    assert_eq!(report["redis_bytes_per_lease"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lives_at_a_real_downstream_is_measured_until_the_last_of_it_is_dead() {
    if RedisServer::start(&[]).unwrap().is_none() {
        return;
    }
    let Some(server) = Postgres::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (password, target) = (folder.path().join("password"), folder.path().join("target"));
    secret_file(&password, PASSWORD);
    let text = format!(
        "[target.orders-db]\nkind = \"postgres\"\nhost = \"127.0.0.1\"\nport = {}\ndatabase = \"orders\"\n\
         username = \"dayfly\"\npassword = \"file:{}\"\nca = \"file:{}\"\n\
         ceiling = {{ actions = [\"select\"], locations = [\"public.orders\", \"public.order_lines\"] }}\n",
        server.port,
        password.display(),
        server.ca.display(),
    );
    std::fs::write(&target, text).unwrap();
    // What each login was made with is told by the server.
    let told = "CREATE TABLE public.told (text text); \
         CREATE FUNCTION public.tell() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN \
         INSERT INTO public.told VALUES (pg_catalog.current_query()); END$$; \
         CREATE EVENT TRIGGER tell ON ddl_command_end WHEN TAG IN ('GRANT') EXECUTE FUNCTION public.tell()";
    let postgres = server.login("postgres", PASSWORD).await.unwrap();
    postgres.batch_execute(told).await.unwrap();
    let arguments = [
        "end",
        "--leases",
        "12",
        "--target",
        target.to_str().unwrap(),
    ];
    for (more, over, logins_for_both) in [(&["--spread"][..], 2, false), (&[], 1, true)] {
        let report = measured(&[&arguments, more].concat());
        assert_eq!(report["target"], "orders-db");
        assert_eq!(report["spread_over"], over, "{report}");
        let figure = |name: &str| report[name].as_f64().unwrap();
        let (leases, again) = (figure("leases"), figure("asked_again"));
        assert!((12.0..=12.0 + again).contains(&leases), "{report}");
        assert!(figure("half_ended_seconds") <= figure("ended_seconds"));
        let left = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dfl%'";
        assert_eq!(server.ask(left).await, 0);
        for (tables, expected) in [
            (
                "text LIKE '%\"orders\"%' AND text LIKE '%\"order_lines\"%'",
                logins_for_both,
            ),
            (
                "text LIKE '%\"orders\"%' AND text NOT LIKE '%\"order_lines\"%'",
                !logins_for_both,
            ),
            (
                "text NOT LIKE '%\"orders\"%' AND text LIKE '%\"order_lines\"%'",
                !logins_for_both,
            ),
        ] {
            let made = format!("SELECT count(*) FROM public.told WHERE {tables}");
            assert_eq!(server.ask(&made).await > 0, expected, "{tables}: {report}");
        }
        postgres
            .batch_execute("TRUNCATE public.told")
            .await
            .unwrap();
    }
}
