//! TLS to a real server: whose certificate is believed, and whether ours is.

use super::support::free_port;
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

    fn serve(&self, names: Vec<SanType>, change: Change<'_>, clients: &str) -> Option<Server> {
        let issued = self.authority.issue(names, change);
        let port = free_port().unwrap();
        let arguments = [
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &self.write("server.pem", &issued.pem),
            "--tls-key-file",
            &self.write("server.key", &issued.key_pem),
            "--tls-ca-cert-file",
            &self.write("ca.pem", &self.authority.root_pem),
            "--tls-auth-clients",
            clients,
        ];
        let redis = RedisServer::start(&arguments).unwrap()?;
        let url = format!("rediss://127.0.0.1:{port}");
        Some(Server { redis, url })
    }
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
