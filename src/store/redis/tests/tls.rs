//! TLS to a real server: whose certificate is believed, and whether ours is.

use super::support::{Cluster, free_port};
use super::*;
use crate::identity::certificates::{AS_IT_IS, Authority, Change, Issued, dns};
use rcgen::SanType;
use time::OffsetDateTime;

struct Desk {
    authority: Authority,
    folder: tempfile::TempDir,
}

struct Server {
    redis: RedisServer,
    url: String,
}

fn localhost() -> Vec<SanType> {
    vec![dns("localhost"), SanType::IpAddress([127, 0, 0, 1].into())]
}

impl Desk {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            authority: Authority::root("redis"),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What a server is told to speak TLS on this port.
    fn options(
        &self,
        port: u16,
        (names, change): (Vec<SanType>, Change<'_>),
        clients: &str,
    ) -> Vec<(&'static str, String)> {
        let issued = self.authority.issue(names, change);
        vec![
            ("tls-port", port.to_string()),
            (
                "tls-cert-file",
                self.write(&format!("{port}.pem"), &issued.pem),
            ),
            (
                "tls-key-file",
                self.write(&format!("{port}.key"), &issued.key_pem),
            ),
            (
                "tls-ca-cert-file",
                self.write("ca.pem", &self.authority.root_pem),
            ),
            ("tls-auth-clients", clients.to_owned()),
        ]
    }

    fn serve(&self, names: Vec<SanType>, change: Change<'_>, clients: &str) -> Option<Server> {
        let port = free_port().unwrap();
        let options = self.options(port, (names, change), clients);
        let arguments = arguments(&options);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let redis = RedisServer::start(&arguments).unwrap()?;
        let url = format!("rediss://127.0.0.1:{port}");
        Some(Server { redis, url })
    }
}

fn arguments(options: &[(&str, String)]) -> Vec<String> {
    let words = |(name, value): &(&str, String)| {
        let words = value.split(' ').map(str::to_owned);
        std::iter::once(format!("--{name}"))
            .chain(words)
            .collect::<Vec<_>>()
    };
    options.iter().flat_map(words).collect()
}

fn trusting(server: &Server, ca: Option<&str>) -> RedisSettings {
    RedisSettings {
        ca: ca.map(|pem| pem.as_bytes().to_vec()),
        ..RedisSettings::new(Secret::new(server.url.clone()))
    }
}

fn showing(issued: &Issued, settings: RedisSettings) -> RedisSettings {
    RedisSettings {
        identity: Some(TlsIdentity {
            certificate: issued.pem.clone().into_bytes(),
            key: Secret::new(issued.key_pem.clone().into_bytes()),
        }),
        ..settings
    }
}

async fn is_refused(settings: RedisSettings, fault: Fault) {
    let error = Redis::connect(settings).await.unwrap_err();
    assert_eq!(error.as_finding().fault, fault, "{error}");
}

#[tokio::test]
async fn a_server_with_a_certificate_of_the_named_authority_is_believed() {
    let desk = Desk::new();
    let Some(server) = desk.serve(localhost(), AS_IT_IS, "no") else {
        return;
    };
    let root = Some(desk.authority.root_pem.as_str());
    let store = Redis::connect(trusting(&server, root)).await.unwrap();
    assert!(is_applied(&store.commit(write(b"a")).await));
    // The name counts as well as the address.
    let by_name = RedisSettings {
        url: Secret::new(server.url.replace("127.0.0.1", "localhost")),
        ..trusting(&server, root)
    };
    let store = Redis::connect(by_name).await.unwrap();
    assert!(store.get(&[key(b"a")]).await.unwrap()[0].is_some());

    let other = Authority::root("another");
    is_refused(trusting(&server, Some(&other.root_pem)), Fault::Tls).await;
    // The system's authorities know nothing of it.
    is_refused(trusting(&server, None), Fault::Tls).await;
    is_refused(trusting(&server, Some("no PEM at all")), Fault::Tls).await;
    // Without TLS nobody would look at the authority.
    let plain = RedisSettings {
        url: Secret::new(server.redis.url()),
        ..trusting(&server, root)
    };
    is_refused(plain, Fault::Tls).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let desk = Desk::new();
    let names = vec![dns("redis.example")];
    let Some(server) = desk.serve(names, AS_IT_IS, "no") else {
        return;
    };
    let root = Some(desk.authority.root_pem.as_str());
    is_refused(trusting(&server, root), Fault::Tls).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let desk = Desk::new();
    let past: Change<'_> = &|params| {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        params.not_before = now - Duration::from_secs(7200);
        params.not_after = now - Duration::from_secs(3600);
    };
    let Some(server) = desk.serve(localhost(), past, "no") else {
        return;
    };
    let root = Some(desk.authority.root_pem.as_str());
    is_refused(trusting(&server, root), Fault::Tls).await;
}

#[tokio::test]
async fn a_server_that_asks_for_our_certificate_gets_it() {
    let desk = Desk::new();
    let Some(server) = desk.serve(localhost(), AS_IT_IS, "yes") else {
        return;
    };
    let root = Some(desk.authority.root_pem.as_str());
    let own = desk.authority.issue(vec![dns("broker")], AS_IT_IS);
    let store = Redis::connect(showing(&own, trusting(&server, root)))
        .await
        .unwrap();
    assert!(is_applied(&store.commit(write(b"a")).await));
    is_refused(trusting(&server, root), Fault::Tls).await;
    let strange = Authority::root("another").issue(vec![dns("broker")], AS_IT_IS);
    is_refused(showing(&strange, trusting(&server, root)), Fault::Tls).await;
    let mixed = Issued {
        key_pem: strange.key_pem,
        ..own
    };
    is_refused(showing(&mixed, trusting(&server, root)), Fault::Tls).await;
}

const USER: &str = "dayfly:a%40password";

/// Options of a server that speaks TLS with the others, too, and lets nobody in without a password.
fn closed(desk: &Desk, port: u16) -> Vec<(&'static str, String)> {
    let mut options = desk.options(port, (localhost(), AS_IT_IS), "yes");
    let more = [
        ("tls-replication", "yes"),
        ("appendonly", "yes"),
        ("repl-diskless-sync-delay", "0"),
        ("user", "dayfly on >a@password ~* &* +@all"),
        ("masteruser", "dayfly"),
        ("masterauth", "a@password"),
    ];
    options.extend(more.map(|(name, value)| (name, value.to_owned())));
    options
}

fn closed_settings(desk: &Desk, url: String) -> RedisSettings {
    let own = desk.authority.issue(vec![dns("broker")], AS_IT_IS);
    let settings = RedisSettings {
        ca: Some(desk.authority.root_pem.clone().into_bytes()),
        retry_budget: Duration::from_millis(500),
        response_timeout: Duration::from_millis(500),
        ..RedisSettings::new(Secret::new(url))
    };
    showing(&own, settings)
}

/// A stranger may ask whether it is there, and nothing else.
fn close(server: &RedisServer) {
    let line = "ACL SETUSER default reset on nopass +ping +info";
    assert_eq!(server.command(line).unwrap(), "+OK\r\n");
}

async fn each_spoiled_part_is_refused(settings: &RedisSettings, parts: &[(&str, &str)]) {
    let url = settings.url.expose();
    for (part, other) in parts {
        assert!(url.contains(part), "{part}");
        let spoiled = RedisSettings {
            url: Secret::new(url.replace(part, other)),
            ..settings.clone()
        };
        let error = Redis::connect(spoiled).await.unwrap_err();
        assert!(
            error.to_string().contains("store_user_refused: "),
            "{part} -> {other}: {error}"
        );
    }
    let other = Authority::root("another").root_pem.into_bytes();
    let strange = RedisSettings {
        ca: Some(other),
        ..settings.clone()
    };
    let error = Redis::connect(strange).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let nameless = RedisSettings {
        identity: None,
        ..settings.clone()
    };
    assert!(Redis::connect(nameless).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_over_tls_have_a_password_of_their_own_and_a_failover_is_followed() {
    let desk = Desk::new();
    let mut servers = Vec::new();
    let first = free_port().unwrap();
    for port in [first, free_port().unwrap(), free_port().unwrap()] {
        let mut options = closed(&desk, port);
        if port != first {
            options.push(("replicaof", format!("127.0.0.1 {first}")));
        }
        let arguments = arguments(&options);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        match RedisServer::start(&arguments).unwrap() {
            Some(server) => servers.push(server),
            None => return,
        }
    }
    servers[0].until_followed_by(2).unwrap();
    servers.iter().for_each(close);
    let mut sentinels = Vec::new();
    let mut places = Vec::new();
    for _ in 0..3 {
        let port = free_port().unwrap();
        let options = desk.options(port, (localhost(), AS_IT_IS), "yes");
        let mut more: String = options
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"))
            .collect();
        more.push_str(
            "tls-replication yes\nsentinel auth-user main dayfly\nsentinel auth-pass main a@password\n\
             user watcher on >another ~* &* +@all\nsentinel sentinel-user watcher\n\
             sentinel sentinel-pass another\nuser default reset on nopass +ping\n",
        );
        sentinels.push(RedisServer::sentinel_with(first, &more).unwrap());
        places.push(format!("127.0.0.1:{port}"));
    }
    for sentinel in &sentinels {
        let before = "AUTH watcher another\r\n";
        sentinel.until_it_knows_the_others(before).unwrap();
    }
    let url = format!(
        "rediss+sentinel://{USER}@{}/main?sentinel_user=watcher&sentinel_password=another",
        places.join(",")
    );
    let settings = RedisSettings {
        min_replicas: 1,
        ..closed_settings(&desk, url)
    };
    let store = Redis::connect(settings.clone()).await.unwrap();
    assert_eq!(unfit(&store).await, [""; 0]);
    assert!(is_applied(&store.commit(write(b"before")).await));
    let parts = [
        (USER, "dayfly:wrong"),
        ("sentinel_password=another", "sentinel_password=wrong"),
        ("?sentinel_user=watcher&sentinel_password=another", ""),
    ];
    each_spoiled_part_is_refused(&settings, &parts).await;

    servers[0].kill();
    let mut followed = false;
    for number in 0..400 {
        let name = format!("after {number}").into_bytes();
        followed = is_applied(&store.commit(write(&name)).await);
        if followed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(followed, "no failover was followed");
    assert!(store.get(&[key(b"before")]).await.unwrap()[0].is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conformance_suite_holds_on_a_cluster_over_tls_with_a_password() {
    let desk = Desk::new();
    let cluster = Cluster::start_with(3, |port| {
        let mut options = closed(&desk, port);
        options.push(("tls-cluster", "yes".to_owned()));
        arguments(&options)
    });
    let Some(cluster) = cluster.await else {
        return;
    };
    cluster.servers.iter().for_each(close);
    let url = format!("rediss+cluster://{USER}@{}", cluster.seeds());
    let settings = closed_settings(&desk, url);
    let store = Arc::new(Redis::connect(settings.clone()).await.unwrap());
    assert_eq!(unfit(&store).await, [""; 0]);
    conformance::exercise(store).await.unwrap();
    each_spoiled_part_is_refused(&settings, &[(USER, "dayfly:wrong"), (USER, "other:x")]).await;
}
