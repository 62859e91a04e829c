use super::*;
use axum::Extension;
use axum::routing::get;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

struct Running {
    address: SocketAddr,
    reload: Option<TlsReload>,
    /// Told as often as a slow request reaches its handler.
    entered: Arc<Notify>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn settings() -> ListenSettings {
    ListenSettings {
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(600),
        drain: Duration::from_secs(2),
        ..ListenSettings::on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

async fn run(settings: ListenSettings) -> Running {
    let entered = Arc::new(Notify::new());
    let enters = entered.clone();
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route(
            "/from",
            get(|Extension(from): Extension<ConnectedFrom>| async move { from.0.to_string() }),
        )
        .route(
            "/slow",
            get(move || async move {
                enters.notify_one();
                tokio::time::sleep(Duration::from_millis(400)).await;
                "done"
            }),
        );
    let bound = Bound::bind(settings).await.unwrap();
    let (address, reload) = (bound.address(), bound.tls_reload());
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(bound.serve(router, async move {
        let _ = stopped.await;
    }));
    Running {
        address,
        reload,
        entered,
        stop,
        task,
    }
}

fn plain_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn text(client: &reqwest::Client, url: String) -> String {
    client.get(url).send().await.unwrap().text().await.unwrap()
}

/// Reads until the other side closes; `None` if it does not within two seconds.
async fn until_closed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut bytes))
        .await
        .ok()?
        .ok()?;
    Some(bytes)
}

/// Writes a certificate and its key, and answers a client that trusts it.
fn certificate(folder: &Path) -> (TlsFiles, reqwest::Client, Vec<u8>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
        ask_client: false,
    };
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(cert.pem().as_bytes()).unwrap()])
        .build()
        .unwrap();
    (files, client, cert.der().to_vec())
}

#[tokio::test]
async fn a_handler_sees_who_connected() {
    let running = run(settings()).await;
    let answer = text(&plain_client(), format!("http://{}/from", running.address)).await;
    assert!(answer.starts_with("127.0.0.1:"), "{answer}");
}

#[tokio::test]
async fn requests_under_way_are_finished_and_then_it_ends() {
    let running = run(settings()).await;
    let url = format!("http://{}/slow", running.address);
    let request = tokio::spawn(async move { text(&plain_client(), url).await });
    running.entered.notified().await;
    running.stop.send(()).unwrap();
    assert_eq!(request.await.unwrap(), "done");
    tokio::time::timeout(Duration::from_secs(1), running.task)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let mut settings = settings();
    settings.drain = Duration::from_millis(50);
    let running = run(settings).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    running.entered.notified().await;
    running.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_millis(250), running.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn who_says_nothing_or_half_of_it_is_closed() {
    let running = run(settings()).await;
    for start in ["", "PRI * HT", "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        assert!(until_closed(&mut stream).await.is_some(), "{start:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_answer() {
    let running = run(settings()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let answer = until_closed(&mut stream).await.unwrap();
    assert!(String::from_utf8(answer).unwrap().ends_with("here"));
}

#[tokio::test]
async fn headers_have_a_bound() {
    let running = run(settings()).await;
    let too_long = format!("X: {}\r\n", "a".repeat(MAX_HEADER_BYTES as usize));
    let too_many: String = (0..=MAX_HEADERS).map(|n| format!("X{n}: a\r\n")).collect();
    for headers in [too_long, too_many] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = until_closed(&mut stream).await.unwrap_or_default();
        let answer = String::from_utf8(answer).unwrap();
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}

#[tokio::test]
async fn http_2_is_spoken_without_tls() {
    let running = run(settings()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut frame = [0_u8; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "a SETTINGS frame");
}

#[tokio::test]
async fn tls_is_spoken_and_the_certificate_can_be_swapped() {
    let folder = tempfile::tempdir().unwrap();
    let (files, first, _) = certificate(folder.path());
    let mut settings = settings();
    settings.tls = Some(files);
    let running = run(settings).await;
    let url = format!("https://localhost:{}/", running.address.port());
    assert_eq!(text(&first, url.clone()).await, "here");

    let (files, second, _) = certificate(folder.path());
    let reload = running.reload.unwrap();
    reload.reload().await.unwrap();
    assert_eq!(text(&second, url.clone()).await, "here");

    std::fs::write(&files.key, "not a key").unwrap();
    assert!(matches!(reload.reload().await, Err(TlsError::NoKey(_))));
    assert_eq!(
        text(&second, url).await,
        "here",
        "the old certificate stays"
    );
}

#[tokio::test]
async fn http_2_is_offered_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _, der) = certificate(folder.path());
    let mut settings = settings();
    settings.tls = Some(files);
    let running = run(settings).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der.into()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(running.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_missing_or_foreign_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _, _) = certificate(folder.path());
    let missing = TlsFiles {
        key: folder.path().join("absent.pem"),
        ..files.clone()
    };
    let error = TlsReload::open(missing).await.unwrap_err();
    assert!(error.to_string().contains("absent.pem"), "{error}");
    let swapped = TlsFiles {
        certificate: files.key.clone(),
        key: files.key.clone(),
        ask_client: false,
    };
    assert!(matches!(
        TlsReload::open(swapped).await,
        Err(TlsError::NoCertificate(_))
    ));
    let other = tempfile::tempdir().unwrap();
    let (others, _, _) = certificate(other.path());
    let mixed = TlsFiles {
        key: others.key,
        ..files
    };
    assert!(matches!(
        TlsReload::open(mixed).await,
        Err(TlsError::Unusable(_))
    ));
}
