//! Gateways that exist already, in front of a page: a live token opens it, a revoked one does not.

use crate::support::broker::{SERVER_SECRET, Setup, TestBroker};
use crate::support::process::{free_port, until};
use crate::support::tools;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// One that is running, told to stop when it is dropped: killed, it would leave its workers behind.
struct Gateway {
    child: Child,
    http: reqwest::Client,
}

impl Gateway {
    async fn start(mut command: Command, page: &str) -> Self {
        let child = command.spawn().unwrap();
        let http = dayfly::client::http_client().unwrap();
        until("a gateway that answers", || async {
            http.get(page).send().await.is_ok()
        })
        .await;
        Self { child, http }
    }

    async fn status(&self, page: &str, token: Option<&str>) -> u16 {
        let request = self.http.get(page);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// Over TLS: some speak to nothing else.
async fn broker() -> TestBroker {
    let broker = TestBroker::with(Setup {
        tls: true,
        ..Setup::default()
    })
    .await;
    // Whoever the gateway runs as reads its files.
    open(broker.folder.path());
    open(&broker.folder.path().join("ca.pem"));
    broker
}

fn open(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A file of `tests/clients` with what is another here, in the broker's folder.
fn adapted(broker: &TestBroker, name: &str, changes: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(tools::script(name)).unwrap();
    let own = [
        ("https://broker.example", broker.url.as_str()),
        ("resource-server-secret", SERVER_SECRET),
    ];
    for (from, to) in own.iter().chain(changes) {
        text = text.replace(from, to);
    }
    let path = broker.folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    open(&path);
    path.to_str().unwrap().to_owned()
}

fn token(issued: &Value) -> &str {
    issued["access_token"].as_str().unwrap()
}

/// Live, dead, changed and none, at a page that asks the broker.
async fn opens_to_live_tokens_alone(gateway: &Gateway, page: &str, broker: &TestBroker) {
    let (live, dead) = (broker.issue().await, broker.issue().await);
    assert_eq!(gateway.status(page, Some(token(&dead))).await, 200);
    let revoked = broker.revoke(json!({ "lease": dead["lease_id"] })).await;
    assert_eq!(revoked.status, 200);
    assert_eq!(
        gateway.status(page, Some(token(&dead))).await,
        401,
        "revoked"
    );
    assert_eq!(gateway.status(page, Some(token(&live))).await, 200);
    let other = broker.platform_token();
    for (what, token) in [
        ("changed", crate::support::forge::flipped(token(&live))),
        ("a platform's", other),
        ("nonsense", "x".to_owned()),
        ("two parameters", format!("{}&token=x", token(&live))),
    ] {
        assert_eq!(gateway.status(page, Some(&token)).await, 401, "{what}");
    }
    assert_eq!(gateway.status(page, None).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn mod_auth_openidc_opens_to_live_tokens_alone() {
    if !tools::program("apache2", "/usr/lib/apache2/modules/mod_auth_openidc.so") {
        return;
    }
    let broker = broker().await;
    let folder = broker.folder.path().to_str().unwrap();
    std::fs::create_dir(broker.folder.path().join("www")).unwrap();
    let page = broker.folder.path().join("www/deploy");
    std::fs::write(&page, "deployed").unwrap();
    open(&broker.folder.path().join("www"));
    open(&page);
    let port = free_port().to_string();
    let file = adapted(
        &broker,
        "apache.conf",
        &[
            ("127.0.0.1:8082", &format!("127.0.0.1:{port}")),
            ("/srv", folder),
            ("/run/", &format!("{folder}/")),
            ("Dir /run", &format!("Dir {folder}")),
            ("/etc/apache2", folder),
        ],
    );
    let mut command = Command::new("apache2");
    command.args(["-f", &file, "-DFOREGROUND"]);
    let page = format!("http://127.0.0.1:{port}/deploy");
    let gateway = Gateway::start(command, &page).await;
    opens_to_live_tokens_alone(&gateway, &page, &broker).await;
    // The end of everything, too.
    let live = broker.issue().await;
    assert_eq!(gateway.status(&page, Some(token(&live))).await, 200);
    broker.revoke(json!("all")).await;
    assert_eq!(gateway.status(&page, Some(token(&live))).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_opens_to_live_tokens_alone_where_it_asks_and_to_unexpired_ones_where_it_does_not()
{
    let (true, Some(python)) = (
        tools::program("haproxy", "/usr/sbin/haproxy"),
        tools::python(),
    ) else {
        return;
    };
    let broker = broker().await;
    let folder = broker.folder.path().to_str().unwrap();
    let issued = broker.issue().await;
    let pem = public_key(&broker, &python, token(&issued)).await;
    std::fs::write(broker.folder.path().join("dayfly.pem"), pem).unwrap();
    adapted(&broker, "haproxy.lua", &[]);
    let (asking, verifying) = (free_port().to_string(), free_port().to_string());
    let file = adapted(
        &broker,
        "haproxy.cfg",
        &[
            ("/etc/haproxy/dayfly.lua", &format!("{folder}/haproxy.lua")),
            ("/etc/haproxy", folder),
            ("127.0.0.1:8080", &format!("127.0.0.1:{asking}")),
            ("127.0.0.1:8081", &format!("127.0.0.1:{verifying}")),
        ],
    );
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-f", &file]);
    let page = format!("http://127.0.0.1:{asking}/");
    let gateway = Gateway::start(command, &page).await;
    opens_to_live_tokens_alone(&gateway, &page, &broker).await;

    // By the key alone it cannot know, and does not say that it can.
    let page = format!("http://127.0.0.1:{verifying}/");
    broker.revoke(json!({ "lease": issued["lease_id"] })).await;
    assert_eq!(
        gateway.status(&page, Some(token(&issued))).await,
        200,
        "until it expires"
    );
    let expired = signed(&broker, &json!({ "exp": broker.now() - 1 }));
    let foreign = signed(&broker, &json!({ "aud": "elsewhere" }));
    let changed = crate::support::forge::flipped(token(&issued));
    for token in [&expired, &foreign, &changed, "x", "a.b.c"] {
        assert_eq!(gateway.status(&page, Some(token)).await, 401, "{token}");
    }
    assert_eq!(gateway.status(&page, None).await, 401);
}

/// A token of this broker with claims that are another.
fn signed(broker: &TestBroker, claims: &Value) -> String {
    let mut all = json!({
        "iss": broker.url, "aud": "deploy-api", "sub": "deployer", "exp": broker.now() + 60,
    });
    let members = claims.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(members);
    let keyring = &broker.composed.keyring;
    let signed = keyring.sign(&dayfly::jose::Purpose::AccessToken, "at+jwt", &all);
    signed.unwrap().0.expose().clone()
}

async fn public_key(broker: &TestBroker, python: &Path, token: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD
        .decode(token.split('.').next().unwrap())
        .unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    let jwks = broker
        .http
        .get(format!("{}/jwks", broker.url))
        .send()
        .await
        .unwrap();
    let jwks = jwks.bytes().await.unwrap();
    let mut child = Command::new(python)
        .arg(tools::script("jwks_to_pem.py"))
        .arg(header["kid"].as_str().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&jwks).await.unwrap();
    let said = child.wait_with_output().await.unwrap();
    assert!(said.status.success());
    serde_json::from_slice(&said.stdout).unwrap()
}
