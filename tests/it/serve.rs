//! `dayfly serve` as a process: how it starts, changes and stops.

use crate::support::process::{
    Installation, Process, Replica, free_port, once_it_is_read, slow_file, spawn, until,
};
use crate::support::proxy::{Point, Proxy};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

fn token(issued: &Value) -> &str {
    issued["access_token"].as_str().unwrap()
}

fn port(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

async fn listens(url: &str) -> bool {
    TcpStream::connect(("127.0.0.1", port(url))).await.is_ok()
}

/// A broker whose first exchange has to fetch the platform's keys through a proxy.
async fn with_slow_platform(drain: &str) -> (Arc<Installation>, Replica, Proxy) {
    let installation = Installation::start().await;
    let proxy = Proxy::before(&installation.issuer.url).await;
    let replica = installation.embedded("");
    let keys = format!(
        "algorithms = [\"RS256\"]\nkeys = \"{}/jwks\"\nfacts",
        proxy.url
    );
    replica.edit("algorithms = [\"RS256\"]\nfacts", &keys);
    replica.edit(
        "[operators]",
        &format!("drain = \"{drain}\"\n\n[operators]"),
    );
    proxy.stop_at(Point::AfterTheServer);
    (installation, replica, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_finishes_what_is_under_way() {
    let (installation, replica, proxy) = with_slow_platform("30s").await;
    let mut process = replica.serve().await;
    let base = process.base.clone();
    let asking = {
        let installation = installation.clone();
        let form = installation.good_form();
        tokio::spawn(async move {
            let request = installation.http.post(format!("{base}/token")).form(&form);
            crate::support::broker::Answer::of(request.send().await.unwrap()).await
        })
    };
    proxy.until_stopped(1).await;
    process.signal(Signal::TERM);
    until("no listener", || async { !listens(&process.base).await }).await;
    assert!(!asking.is_finished());

    proxy.stop_at(Point::Nowhere);
    let answer = asking.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let status = process.ended().await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    // What was answered last is on record like the rest.
    let again = replica.serve().await;
    assert!(installation.is_active(&again, token(&answer.body)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_hangs_keeps_nobody_from_stopping() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let mut process = replica.serve().await;
    let secret = replica.folder.join("server.secret");
    slow_file(&secret);
    process.signal(Signal::HUP);
    let pipe = once_it_is_read(&secret).await;
    process.signal(Signal::TERM);
    let status = process.ended_within(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    drop(pipe);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_longer_than_the_drain_is_cut_off() {
    let (installation, replica, proxy) = with_slow_platform("1s").await;
    let mut process = replica.serve().await;
    let form = installation.good_form();
    let stopping = async {
        proxy.until_stopped(1).await;
        process.signal(Signal::TERM);
    };
    let (answer, ()) = tokio::join!(installation.exchange(&process, &form), stopping);
    assert!(answer.is_err() || answer.unwrap().status != 200);
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_reload_it_swaps_everything_or_keeps_everything() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let process = replica.serve().await;
    let issued = installation.issue(&process).await;
    let form_for = |action: &str| {
        installation.form_for(&json!({
            "type": "access_token", "identifier": "deploy-api",
            "actions": [action], "locations": ["https://deploy.example/checkout"],
        }))
    };
    let refused = installation
        .exchange(&process, &form_for("deploy:read"))
        .await
        .unwrap();
    assert_eq!(refused.reason(), "exceeds_mission", "{}", refused.body);

    // Half of it is good, a line of it is not: all of it is left.
    let good = std::fs::read_to_string(replica.folder.join("dayfly.toml")).unwrap();
    replica.edit(
        "actions = [\"deploy:write\"]",
        "actions = [\"deploy:write\", \"deploy:read\"]",
    );
    replica.edit("ttl = \"10m\"", "ttl = \"ten minutes\"");
    process.signal(Signal::HUP);
    process.until_log_says("the configuration was kept").await;
    let log = process.log();
    let line = 1 + good
        .lines()
        .position(|line| line.contains("ttl ="))
        .unwrap();
    assert!(log.contains(&format!("dayfly.toml:{line}:")), "{log}");
    let refused = installation
        .exchange(&process, &form_for("deploy:read"))
        .await
        .unwrap();
    assert_eq!(refused.reason(), "exceeds_mission", "{}", refused.body);
    assert!(installation.is_active(&process, token(&issued)).await);
    installation.issue(&process).await;

    // Mended, it is swapped, and what was issued before lives on.
    replica.edit("ttl = \"ten minutes\"", "ttl = \"2m\"");
    process.signal(Signal::HUP);
    process
        .until_log_says("the configuration was swapped")
        .await;
    let granted = installation
        .exchange(&process, &form_for("deploy:read"))
        .await
        .unwrap();
    assert_eq!(granted.status, 200, "{}", granted.body);
    assert!(granted.body["expires_in"].as_u64().unwrap() <= 120);
    assert!(installation.is_active(&process, token(&issued)).await);

    // An agent whose last day is over gets nothing more.
    replica.edit("ends = 2099-01-01", "ends = 2020-01-01");
    process.signal(Signal::HUP);
    until("the swap", || async {
        let answer = installation
            .exchange(&process, &installation.good_form())
            .await
            .unwrap();
        answer.status == 400
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_starts_nothing_and_says_where() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    replica.edit("agents = [\"deployer\"]", "agents = [\"deploier\"]");
    let text = std::fs::read_to_string(replica.folder.join("dayfly.toml")).unwrap();
    let line = 1 + text
        .lines()
        .position(|line| line.contains("deploier"))
        .unwrap();
    let mut process = replica.spawn();
    assert!(!process.ended().await.success());
    let log = process.log();
    assert!(log.contains(&format!("dayfly.toml:{line}:")), "{log}");
    assert!(log.contains("deploier"), "{log}");
    assert!(!listens(&process.base).await);
    assert!(!listens(&process.health).await);
    // Nothing was made, either.
    assert!(!replica.folder.join("dayfly.redb").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_other_keys_sealed_is_not_opened() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    replica.serve().await.kill();
    crate::support::process::secret_file(
        &replica.folder.join("sealing.key"),
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    );
    let mut process = replica.spawn();
    assert!(!process.ended().await.success());
    assert!(process.log().contains("seal"), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let taken = std::net::TcpListener::bind(("127.0.0.1", port(&replica.base))).unwrap();
    let mut process = replica.spawn();
    assert!(!process.ended().await.success());
    let address = taken.local_addr().unwrap().to_string();
    assert!(process.log().contains(&address), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_it_is_a_development_broker_on_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let at = Replica {
        folder: folder.path().to_owned(),
        base: "http://127.0.0.1:8420".to_owned(),
        health: "http://127.0.0.1:8421".to_owned(),
    };
    let mut process = spawn(&["serve", "--state", "state"], folder.path(), &at);
    process.until_log_says("DEVELOPMENT BROKER").await;
    drop(rustls::crypto::ring::default_provider().install_default());
    if let Some(busy) = occupied(&mut process).await {
        // Another broker runs on this machine: this one says so and leaves it alone.
        assert!(busy.contains("127.0.0.1:842"), "{busy}");
        return;
    }
    process.until_ready().await;
    let http = dayfly::client::http_client().unwrap();
    let url = "http://127.0.0.1:8420/.well-known/oauth-authorization-server";
    let metadata: Value = http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(metadata["issuer"], "http://127.0.0.1:8420");
    // Its operator's token is where it says, and for this user alone.
    let file = folder.path().join("state/operator.token");
    let mode = {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(&file).unwrap().permissions().mode()
    };
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let token = std::fs::read_to_string(&file).unwrap();
    let agents: Value = http
        .get("http://127.0.0.1:8420/admin/v1/agents")
        .bearer_auth(token.trim())
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(agents["items"], json!([]));
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
}

/// What it said, if it ended because its fixed ports are taken.
async fn occupied(process: &mut Process) -> Option<String> {
    for _ in 0..600 {
        if process.log().contains("dayfly serves") {
            return None;
        }
        if process.log().contains("cannot listen") {
            process.ended().await;
            return Some(process.log());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it neither serves nor ends:\n{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_it_shows_the_configured_certificate_and_swaps_it_on_reload() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    replica.edit(
        "[operators]",
        "tls = { certificate = \"certificate.pem\", key = \"key.pem\" }\n\n[operators]",
    );
    let certificate = write_certificate(&replica);
    let process = replica.serve().await;
    let url = format!("https://localhost:{}/jwks", port(&process.base));
    let answer = trusting(&certificate).get(&url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let jwks: Value = answer.json().await.unwrap();
    assert!(!jwks["keys"].as_array().unwrap().is_empty());
    // Plain HTTP is not answered on that port, and the health listener stays plain.
    let plain = format!("{}/jwks", process.base);
    assert!(installation.http.get(&plain).send().await.is_err());

    let renewed = write_certificate(&replica);
    assert!(trusting(&renewed).get(&url).send().await.is_err());
    process.signal(Signal::HUP);
    until("the new certificate", || async {
        trusting(&renewed).get(&url).send().await.is_ok()
    })
    .await;
    assert!(trusting(&certificate).get(&url).send().await.is_err());

    // A certificate that does not go with its key leaves the one that does.
    std::fs::write(replica.folder.join("certificate.pem"), &certificate).unwrap();
    process.signal(Signal::HUP);
    process
        .until_log_says("a certificate was not swapped")
        .await;
    assert!(trusting(&renewed).get(&url).send().await.is_ok());
}

fn write_certificate(replica: &Replica) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(replica.folder.join("certificate.pem"), made.cert.pem()).unwrap();
    crate::support::process::secret_file(
        &replica.folder.join("key.pem"),
        &made.signing_key.serialize_pem(),
    );
    made.cert.pem()
}

fn trusting(certificate: &str) -> reqwest::Client {
    let certificate = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
    reqwest::Client::builder()
        .tls_certs_only([certificate])
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

#[test]
fn ports_are_not_given_out_twice() {
    assert_ne!(free_port(), free_port());
}
