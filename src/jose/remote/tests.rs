use super::client::{Kind, kind};
use super::*;
use crate::jose::{Algorithm, SigningKey};
use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex as StdMutex};
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
const LOOPBACK: Reach = Reach {
    loopback: true,
    private: false,
};
const CONFIGURATION: &str = "/.well-known/openid-configuration";

fn client(reach: Reach) -> KeyClient {
    // Another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    KeyClient::new(reach, &[]).unwrap()
}

fn after(seconds: u64) -> OffsetDateTime {
    NOW + Duration::from_secs(seconds)
}

#[derive(Clone)]
enum Answer {
    Json(Value),
    Status(StatusCode),
    Redirect(String),
    /// Headers, then never a body.
    Never,
    Slow(Duration, Value),
    Bytes(usize),
    /// More bytes than announced ones: chunked, without a length.
    Endless,
}

type Answers = Arc<StdMutex<std::collections::HashMap<String, Answer>>>;

/// An issuer on loopback that answers as it is told.
struct Issuer {
    url: String,
    answers: Answers,
    requests: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start() -> Self {
        let answers = Answers::default();
        let requests = Arc::new(AtomicUsize::new(0));
        let (told, count) = (Arc::clone(&answers), Arc::clone(&requests));
        let router = Router::new().fallback(move |uri: axum::http::Uri| {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = told.lock().unwrap().get(uri.path()).cloned();
            respond(answer)
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let issuer = Self {
            url,
            answers,
            requests,
        };
        issuer.says(CONFIGURATION, issuer.configuration());
        issuer
    }

    fn configuration(&self) -> Answer {
        Answer::Json(json!({"issuer": self.url, "jwks_uri": format!("{}/jwks", self.url)}))
    }

    fn says(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn publishes(&self, keys: &[Value]) {
        self.says("/jwks", Answer::Json(json!({ "keys": keys })));
    }

    fn discovered(&self) -> RemoteKeys {
        RemoteKeys::discovery(client(LOOPBACK), &self.url)
    }

    fn fixed(&self) -> RemoteKeys {
        RemoteKeys::jwks(client(LOOPBACK), format!("{}/jwks", self.url))
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn respond(answer: Option<Answer>) -> Response {
    match answer {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(Answer::Json(value)) => axum::Json(value).into_response(),
        Some(Answer::Status(status)) => status.into_response(),
        Some(Answer::Redirect(to)) => (StatusCode::FOUND, [("location", to)]).into_response(),
        Some(Answer::Never) => Body::from_stream(futures_util::stream::pending::<
            Result<Vec<u8>, std::io::Error>,
        >())
        .into_response(),
        Some(Answer::Slow(pause, value)) => {
            tokio::time::sleep(pause).await;
            axum::Json(value).into_response()
        }
        Some(Answer::Bytes(length)) => vec![b' '; length].into_response(),
        Some(Answer::Endless) => Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(vec![b' '; 16 * 1024])
        }))
        .into_response(),
    }
}

static POOL: LazyLock<Vec<SigningKey>> = LazyLock::new(|| {
    (0..3)
        .map(|_| SigningKey::generate(Algorithm::Es256).unwrap())
        .collect()
});

fn key(place: usize) -> Value {
    POOL[place].clone().named_by_thumbprint().public_jwk()
}

fn kid(place: usize) -> &'static str {
    POOL[place].thumbprint()
}

#[tokio::test]
async fn keys_are_found_by_discovery_and_kept() {
    let issuer = Issuer::start().await;
    issuer.publishes(&[key(0)]);
    let remote = issuer.discovered();
    for seconds in [0, 1, 299] {
        let set = remote.keys(Some(kid(0)), after(seconds)).await.unwrap();
        assert_eq!(set.keys().len(), 1);
    }
    assert_eq!(issuer.requests(), 2);
    remote.keys(None, after(300)).await.unwrap();
    assert_eq!(issuer.requests(), 4);
    assert_eq!(remote.generation(), 1);
}

#[tokio::test]
async fn an_issuer_with_a_path_has_its_configuration_below_it() {
    let server = Issuer::start().await;
    for slash in ["", "/"] {
        let issuer = format!("{}/realms/a{slash}", server.url);
        let path = format!("/realms/a{CONFIGURATION}");
        let jwks_uri = format!("{}/jwks", server.url);
        server.says(
            &path,
            Answer::Json(json!({"issuer": issuer, "jwks_uri": jwks_uri})),
        );
        server.publishes(&[key(0)]);
        let remote = RemoteKeys::discovery(client(LOOPBACK), issuer);
        assert!(remote.keys(None, NOW).await.is_ok());
    }
}

#[tokio::test]
async fn a_rotation_is_followed_and_a_withdrawn_key_is_gone() {
    let issuer = Issuer::start().await;
    issuer.publishes(&[key(0)]);
    let remote = issuer.fixed();
    remote.keys(None, NOW).await.unwrap();
    issuer.publishes(&[key(0), key(1)]);
    // A token with the new key comes before the set is due.
    let set = remote.keys(Some(kid(1)), after(31)).await.unwrap();
    assert!(set.knows(kid(0)) && set.knows(kid(1)));
    assert_eq!(remote.generation(), 2);
    issuer.publishes(&[key(1)]);
    let set = remote.keys(Some(kid(1)), after(31 + 300)).await.unwrap();
    assert!(!set.knows(kid(0)));
    assert_eq!(remote.generation(), 3);
    remote.keys(None, after(31 + 600)).await.unwrap();
    assert_eq!(remote.generation(), 3);
}

#[tokio::test]
async fn a_key_that_is_published_just_after_a_fetch_is_known_within_seconds() {
    let issuer = Issuer::start().await;
    issuer.publishes(&[key(0)]);
    let remote = issuer.fixed();
    remote.keys(None, NOW).await.unwrap();
    issuer.publishes(&[key(0), key(1)]);
    let set = remote.keys(Some(kid(1)), after(4)).await.unwrap();
    assert!(!set.knows(kid(1)));
    let set = remote.keys(Some(kid(1)), after(5)).await.unwrap();
    assert!(set.knows(kid(1)));
    // And the next one right after it.
    issuer.publishes(&[key(2)]);
    let set = remote.keys(Some(kid(2)), after(10)).await.unwrap();
    assert!(set.knows(kid(2)) && !set.knows(kid(0)));
    assert_eq!(issuer.requests(), 3);
}

#[tokio::test]
async fn invented_kids_lead_to_three_fetches_and_then_to_one_in_thirty_seconds() {
    let issuer = Issuer::start().await;
    issuer.publishes(&[key(0)]);
    let remote = issuer.fixed();
    let mut fetched = Vec::new();
    for seconds in 0..280 {
        let before = issuer.requests();
        for _ in 0..3 {
            let kid = format!("invented-{seconds}");
            let set = remote.keys(Some(&kid), after(seconds)).await.unwrap();
            assert!(!set.knows(&kid));
        }
        match issuer.requests() - before {
            0 => {}
            1 => fetched.push(seconds),
            more => panic!("{more} fetches at {seconds} s"),
        }
    }
    let expected = [0, 5, 10, 15, 35, 65, 95, 125, 155, 185, 215, 245, 275];
    assert_eq!(fetched, expected);
    // Where nobody invents any, a key may be new three times in a row again; and a clock that was set
    // back owes nothing.
    for seconds in [1000, 1005, 1010] {
        let before = issuer.requests();
        remote.keys(Some("nobody"), after(seconds)).await.unwrap();
        assert_eq!(issuer.requests(), before + 1, "{seconds}");
    }
    remote.keys(None, after(10)).await.unwrap();
    let before = issuer.requests();
    remote.keys(Some("nobody"), after(16)).await.unwrap();
    assert_eq!(issuer.requests(), before + 1);
}

#[tokio::test]
async fn an_unknown_kid_does_not_hurry_what_failed() {
    let issuer = Issuer::start().await;
    issuer.publishes(&[key(0)]);
    let remote = issuer.fixed();
    remote.keys(None, NOW).await.unwrap();
    issuer.says("/jwks", Answer::Status(StatusCode::SERVICE_UNAVAILABLE));
    for seconds in 5..35 {
        remote.keys(Some(kid(1)), after(seconds)).await.unwrap();
    }
    assert_eq!(issuer.requests(), 2);
}

#[tokio::test]
async fn many_who_ask_at_once_cause_one_fetch() {
    let issuer = Issuer::start().await;
    let set = json!({"keys": [key(0)]});
    issuer.says("/jwks", Answer::Slow(Duration::from_millis(200), set));
    let remote = issuer.fixed();
    let asked = (0..50).map(|_| remote.keys(Some(kid(0)), NOW));
    for answer in futures_util::future::join_all(asked).await {
        answer.unwrap();
    }
    assert_eq!(issuer.requests(), 1);
}

#[tokio::test]
async fn whoever_hangs_up_does_not_stop_the_fetch() {
    let issuer = Issuer::start().await;
    let set = json!({"keys": [key(0)]});
    issuer.says("/jwks", Answer::Slow(Duration::from_millis(200), set));
    let remote = issuer.fixed();
    let impatient = tokio::time::timeout(Duration::from_millis(50), remote.keys(None, NOW)).await;
    assert!(impatient.is_err());
    remote.keys(None, NOW).await.unwrap();
    assert_eq!(issuer.requests(), 1);
}

#[tokio::test]
async fn the_last_good_set_outlives_an_outage_for_an_hour() {
    let issuer = Issuer::start().await;
    issuer.publishes(&[key(0)]);
    let remote = issuer.fixed();
    remote.keys(None, NOW).await.unwrap();
    issuer.says("/jwks", Answer::Status(StatusCode::SERVICE_UNAVAILABLE));
    for seconds in [300, 1000, 3599] {
        remote.keys(None, after(seconds)).await.unwrap();
        assert_eq!(remote.health().1, Some(RemoteKeysError::Status(503)));
    }
    let refused = remote.keys(None, after(3600)).await.unwrap_err();
    assert_eq!(refused, RemoteKeysError::Status(503));
    // The set it had is not believed again, only a new one.
    issuer.publishes(&[key(1)]);
    let set = remote.keys(None, after(3700)).await.unwrap();
    assert!(!set.knows(kid(0)));
    assert_eq!(remote.health(), (Some(after(3700)), None));
}

#[tokio::test]
async fn during_an_outage_the_issuer_is_asked_now_and_then() {
    let issuer = Issuer::start().await;
    issuer.publishes(&[key(0)]);
    let remote = issuer.fixed();
    remote.keys(None, NOW).await.unwrap();
    issuer.says("/jwks", Answer::Status(StatusCode::SERVICE_UNAVAILABLE));
    for seconds in 300..330 {
        remote.keys(None, after(seconds)).await.unwrap();
    }
    assert_eq!(issuer.requests(), 2);
    // With nothing in hand, every 5 s.
    let empty = issuer.fixed();
    for seconds in 0..10 {
        assert!(empty.keys(None, after(seconds)).await.is_err());
    }
    assert_eq!(issuer.requests(), 4);
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_keep_a_set_alive() {
    let issuer = Issuer::start().await;
    issuer.publishes(&[key(0)]);
    let remote = issuer.fixed();
    remote.keys(None, after(7200)).await.unwrap();
    remote.keys(None, NOW).await.unwrap();
    assert_eq!(issuer.requests(), 2);
}

#[tokio::test]
async fn a_lying_issuer_is_refused() {
    let issuer = Issuer::start().await;
    issuer.publishes(&[key(0)]);
    let jwks = format!("{}/jwks", issuer.url);
    for other in [
        format!("{}/", issuer.url),
        issuer.url.replace("http", "HTTP"),
        "https://token.actions.githubusercontent.com".to_owned(),
        String::new(),
    ] {
        let lie = json!({"issuer": other, "jwks_uri": jwks});
        issuer.says(CONFIGURATION, Answer::Json(lie));
        let refused = issuer.discovered().keys(None, NOW).await.unwrap_err();
        assert_eq!(refused, RemoteKeysError::OtherIssuer, "{other}");
    }
    for incomplete in [
        json!({}),
        json!([]),
        json!({"issuer": issuer.url}),
        json!({"jwks_uri": jwks}),
    ] {
        issuer.says(CONFIGURATION, Answer::Json(incomplete));
        let refused = issuer.discovered().keys(None, NOW).await.unwrap_err();
        assert_eq!(refused, RemoteKeysError::Discovery);
    }
}

#[tokio::test]
async fn a_discovery_document_does_not_lead_inwards() {
    let issuer = Issuer::start().await;
    for address in [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/",
        "https://10.0.0.1/jwks",
        "https://[fe80::1]/jwks",
        "http://example.com/jwks",
        "file:///etc/passwd",
        "https://user:password@example.com/jwks",
    ] {
        let told = json!({"issuer": issuer.url, "jwks_uri": address});
        issuer.says(CONFIGURATION, Answer::Json(told));
        let refused = issuer.discovered().keys(None, NOW).await.unwrap_err();
        assert!(
            matches!(refused, RemoteKeysError::Address { .. }),
            "{address}: {refused}"
        );
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let issuer = Issuer::start().await;
    issuer.says("/elsewhere", Answer::Json(json!({"keys": [key(0)]})));
    issuer.says(
        "/jwks",
        Answer::Redirect(format!("{}/elsewhere", issuer.url)),
    );
    let refused = issuer.fixed().keys(None, NOW).await.unwrap_err();
    assert_eq!(refused, RemoteKeysError::Status(302));
    assert_eq!(issuer.requests(), 1);
}

#[tokio::test]
async fn a_body_ends_at_256_kib() {
    let issuer = Issuer::start().await;
    let refused = RemoteKeysError::TooLong(256 * 1024);
    for answer in [Answer::Bytes(256 * 1024 + 1), Answer::Endless] {
        issuer.says("/jwks", answer);
        assert_eq!(issuer.fixed().keys(None, NOW).await.unwrap_err(), refused);
    }
    issuer.says("/jwks", Answer::Bytes(256 * 1024));
    let malformed = RemoteKeysError::KeySet(KeySetError::Malformed);
    assert_eq!(issuer.fixed().keys(None, NOW).await.unwrap_err(), malformed);
}

async fn is_given_up(issuer: &Issuer) {
    let remote = issuer.discovered();
    let asked = tokio::time::timeout(Duration::from_secs(8), remote.keys(None, NOW)).await;
    assert_eq!(asked.unwrap().unwrap_err(), RemoteKeysError::Slow);
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_given_up_after_five_seconds() {
    let issuer = Issuer::start().await;
    issuer.says("/jwks", Answer::Never);
    is_given_up(&issuer).await;
}

#[tokio::test]
async fn five_seconds_are_for_discovery_and_keys_together() {
    let issuer = Issuer::start().await;
    let pause = Duration::from_secs(3);
    let found = json!({"issuer": issuer.url, "jwks_uri": format!("{}/jwks", issuer.url)});
    issuer.says(CONFIGURATION, Answer::Slow(pause, found));
    issuer.says("/jwks", Answer::Slow(pause, json!({"keys": [key(0)]})));
    is_given_up(&issuer).await;
}

#[tokio::test]
async fn a_set_with_a_private_key_is_not_used() {
    let issuer = Issuer::start().await;
    let private: Value = serde_json::from_str(POOL[0].to_private_jwk().expose()).unwrap();
    issuer.publishes(&[key(1), private]);
    let refused = issuer.fixed().keys(None, NOW).await.unwrap_err();
    assert!(matches!(
        refused,
        RemoteKeysError::KeySet(KeySetError::Key { place: 1, .. })
    ));
}

#[tokio::test]
async fn nobody_there_is_said_without_the_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let remote = RemoteKeys::jwks(client(LOOPBACK), format!("http://127.0.0.1:{port}/secret"));
    let refused = remote.keys(None, NOW).await.unwrap_err();
    assert!(matches!(&refused, RemoteKeysError::Unreachable(why) if !why.contains("secret")));
}

#[tokio::test]
async fn a_name_that_resolves_inwards_is_not_connected_to() {
    let issuer = Issuer::start().await;
    let address = issuer.url.replace("127.0.0.1", "localhost") + "/jwks";
    issuer.publishes(&[key(0)]);
    // `localhost` is a name, so only the resolver can tell.
    assert!(
        RemoteKeys::jwks(client(LOOPBACK), &address)
            .keys(None, NOW)
            .await
            .is_ok()
    );
    let https = address.replace("http:", "https:");
    let refused = RemoteKeys::jwks(client(Reach::default()), https)
        .keys(None, NOW)
        .await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, RemoteKeysError::Unreachable(why) if why.contains("no public address")),
        "{refused}"
    );
    assert_eq!(issuer.requests(), 1);
}

#[test]
fn plain_http_is_for_loopback_in_development() {
    let strict = client(Reach::default());
    let develop = client(LOOPBACK);
    assert!(strict.check("https://issuer.example/a").is_ok());
    for address in [
        "http://127.0.0.1/",
        "http://[::1]:8080/",
        "http://localhost/",
    ] {
        assert!(develop.check(address).is_ok(), "{address}");
        assert!(strict.check(address).is_err(), "{address}");
    }
    for address in [
        "http://issuer.example/",
        "http://localhost.example/",
        "ftp://127.0.0.1/",
        "https://0.0.0.0/",
        "https://192.168.1.1/",
        "https://0x0a000001/",
        "https://[::ffff:10.0.0.1]/",
        "issuer.example",
        "",
    ] {
        assert!(develop.check(address).is_err(), "{address}");
    }
    let inside = client(Reach {
        loopback: false,
        private: true,
    });
    assert!(inside.check("https://10.0.0.1/").is_ok());
    for address in [
        "http://10.0.0.1/",
        "https://127.0.0.1/",
        "https://169.254.169.254/",
        "https://[fd00:ec2::254]/",
        "https://[::ffff:169.254.169.254]/",
        "https://100.100.100.200/",
    ] {
        assert!(inside.check(address).is_err(), "{address}");
    }
}

#[test]
fn addresses_are_told_apart() {
    for (address, expected) in [
        ("1.1.1.1", Kind::Public),
        ("172.15.0.1", Kind::Public),
        ("172.32.0.1", Kind::Public),
        ("2606:4700::1111", Kind::Public),
        ("10.1.2.3", Kind::Private),
        ("172.16.0.1", Kind::Private),
        ("172.31.255.255", Kind::Private),
        ("192.168.0.1", Kind::Private),
        ("100.64.0.1", Kind::Private),
        ("fd00::1", Kind::Private),
        ("fd00:ec2::253", Kind::Private),
        ("fd00:ec2::254", Kind::Never),
        ("fd20:ce::254", Kind::Never),
        ("100.100.100.200", Kind::Never),
        ("168.63.129.16", Kind::Never),
        ("127.8.8.8", Kind::Loopback),
        ("::1", Kind::Loopback),
        ("::ffff:127.0.0.1", Kind::Loopback),
        ("::ffff:10.0.0.1", Kind::Private),
        ("::ffff:169.254.169.254", Kind::Never),
        ("169.254.169.254", Kind::Never),
        ("0.0.0.0", Kind::Never),
        ("224.0.0.1", Kind::Never),
        ("255.255.255.255", Kind::Never),
        ("192.0.2.1", Kind::Never),
        ("198.18.0.1", Kind::Never),
        ("::", Kind::Never),
        ("::127.0.0.1", Kind::Never),
        ("fe80::1", Kind::Never),
        ("ff02::1", Kind::Never),
        ("64:ff9b::a00:1", Kind::Never),
        ("2002:a00:1::1", Kind::Never),
        ("2001::1", Kind::Never),
        ("2001:db8::1", Kind::Never),
    ] {
        assert_eq!(kind(address.parse().unwrap()), expected, "{address}");
    }
}

/// A bundle with these places of the pool as its JWT-SVID keys.
fn bundle(places: &[usize], more: &Value) -> Value {
    let keys: Vec<_> = places
        .iter()
        .map(|place| {
            let mut jwk = key(*place);
            jwk["use"] = json!("jwt-svid");
            jwk
        })
        .collect();
    let mut bundle = json!({ "keys": keys });
    for (name, value) in more.as_object().unwrap() {
        bundle[name] = value.clone();
    }
    bundle
}

#[tokio::test]
async fn a_bundle_is_fetched_as_often_as_its_publisher_asks_within_bounds() {
    // Asked for, then taken.
    for (hint, every) in [(60, 60), (1, 10), (0, 10), (86_400, 300)] {
        let domain = Issuer::start().await;
        let more = json!({ "spiffe_refresh_hint": hint });
        domain.says("/bundle", Answer::Json(bundle(&[0], &more)));
        let url = format!("{}/bundle", domain.url);
        let settings = RemoteKeysSettings {
            retry_after: Duration::from_secs(1),
            ..RemoteKeysSettings::default()
        };
        let remote = RemoteBundle::endpoint(client(LOOPBACK), url).with_settings(settings);
        remote.current(None, NOW).await.unwrap();
        remote.current(None, after(every - 1)).await.unwrap();
        assert_eq!(domain.requests(), 1, "{hint}");
        remote.current(None, after(every)).await.unwrap();
        assert_eq!(domain.requests(), 2, "{hint}");
    }
}

#[tokio::test]
async fn an_older_bundle_does_not_replace_a_newer_one_while_that_holds() {
    let domain = Issuer::start().await;
    let at = |sequence: u64, place: usize| {
        let more = json!({ "spiffe_sequence": sequence });
        domain.says("/bundle", Answer::Json(bundle(&[place], &more)));
    };
    let remote = RemoteBundle::endpoint(client(LOOPBACK), format!("{}/bundle", domain.url));
    at(7, 0);
    remote.current(None, NOW).await.unwrap();
    at(6, 1);
    let kept = remote.current(None, after(300)).await.unwrap();
    assert!(kept.jwt().knows(kid(0)));
    assert_eq!(remote.health().1, Some(RemoteKeysError::Superseded));
    at(8, 1);
    let newer = remote.current(None, after(600)).await.unwrap();
    assert!(newer.jwt().knows(kid(1)) && !newer.jwt().knows(kid(0)));
    // A trust domain that was set up anew counts from the start again: once nothing holds, it does.
    at(1, 2);
    let refused = remote.current(None, after(600 + 3599)).await.unwrap();
    assert!(refused.jwt().knows(kid(1)));
    let again = remote.current(None, after(600 + 3700)).await.unwrap();
    assert!(again.jwt().knows(kid(2)));
}

#[tokio::test]
async fn an_empty_bundle_is_taken_at_its_word() {
    let domain = Issuer::start().await;
    domain.says("/bundle", Answer::Json(bundle(&[0], &json!({}))));
    let remote = RemoteBundle::endpoint(client(LOOPBACK), format!("{}/bundle", domain.url));
    remote.current(None, NOW).await.unwrap();
    domain.says("/bundle", Answer::Json(bundle(&[], &json!({}))));
    let withdrawn = remote.current(None, after(300)).await.unwrap();
    assert!(withdrawn.jwt().is_empty());
    // What is no bundle at all withdraws nothing, for an hour.
    domain.says("/bundle", Answer::Json(bundle(&[0], &json!({}))));
    remote.current(None, after(600)).await.unwrap();
    domain.says("/bundle", Answer::Json(json!({})));
    let kept = remote.current(None, after(900)).await.unwrap();
    assert!(kept.jwt().knows(kid(0)));
    assert!(remote.current(None, after(600 + 3600)).await.is_err());
}

#[tokio::test]
async fn a_file_is_read_again_and_a_broken_one_changes_nothing_for_an_hour() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.json");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    let remote = RemoteBundle::file(client(LOOPBACK), path.clone());
    let missing = remote.current(None, NOW).await.unwrap_err();
    assert!(matches!(missing, RemoteKeysError::File(_)), "{missing}");
    write(&bundle(&[0], &json!({})).to_string());
    let read = remote.current(None, after(1)).await.unwrap();
    assert!(read.jwt().knows(kid(0)));
    write(&bundle(&[1], &json!({})).to_string());
    let same = remote.current(Some(kid(0)), after(2)).await.unwrap();
    assert!(same.jwt().knows(kid(0)), "within two seconds");
    // A token with a key that it does not know is reason enough to look.
    let new = remote.current(Some(kid(1)), after(2)).await.unwrap();
    assert!(new.jwt().knows(kid(1)) && !new.jwt().knows(kid(0)));
    for broken in ["", "{", &" ".repeat(256 * 1024 + 1)] {
        write(broken);
        let kept = remote.current(None, after(100)).await.unwrap();
        assert!(kept.jwt().knows(kid(1)));
    }
    std::fs::remove_file(&path).unwrap();
    assert!(remote.current(None, after(2 + 3599)).await.is_ok());
    assert!(remote.current(None, after(2 + 3600)).await.is_err());
}

#[tokio::test]
async fn an_endpoint_is_bounded_and_reached_like_any_issuer() {
    let domain = Issuer::start().await;
    domain.says("/bundle", Answer::Bytes(300 * 1024));
    let url = format!("{}/bundle", domain.url);
    let remote = RemoteBundle::endpoint(client(LOOPBACK), url.clone());
    let refused = remote.current(None, NOW).await.unwrap_err();
    assert_eq!(refused, RemoteKeysError::TooLong(256 * 1024));
    let guarded = RemoteBundle::endpoint(client(Reach::default()), url);
    assert!(guarded.check_address().is_err());
    let metadata = "https://169.254.169.254/bundle";
    let remote = RemoteBundle::endpoint(client(LOOPBACK), metadata);
    assert!(remote.check_address().is_err());
}

#[tokio::test]
async fn a_client_that_trusts_one_ca_trusts_no_other() {
    let any = client(LOOPBACK);
    let certified = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (ours, other) = (certified(), certified());
    let url = tls_server(&ours, bundle(&[0], &json!({})).to_string()).await;
    for (pem, expected) in [(ours.cert.pem(), true), (other.cert.pem(), false)] {
        let client = any.trusting_only(pem.as_bytes()).unwrap();
        let remote = RemoteBundle::endpoint(client, url.clone());
        assert_eq!(remote.current(None, NOW).await.is_ok(), expected);
    }
    let remote = RemoteBundle::endpoint(any.clone(), url);
    assert!(remote.current(None, NOW).await.is_err(), "the system's CAs");
    assert!(any.trusting_only(b"no PEM").is_err());
}

/// Answers every request on `https://localhost` with this body.
async fn tls_server(certified: &rcgen::CertifiedKey<rcgen::KeyPair>, body: String) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der());
    let chain = vec![certified.cert.der().clone()];
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key.unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let length = body.len();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all((head + &body).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("https://localhost:{port}/bundle")
}

#[tokio::test]
async fn a_set_that_nobody_should_publish_does_not_replace_a_good_one() {
    let issuer = Issuer::start().await;
    let other_with_the_same_name = {
        let mut jwk = key(1);
        jwk["kid"] = json!(kid(0));
        jwk
    };
    let symmetric = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "hs"});
    let short = json!({
        "kty": "RSA", "kid": "short", "e": "AQAB",
        "n": crate::jose::encode(&[0xc5; 128]),
    });
    for (what, keys, error) in [
        (
            "a name twice",
            vec![key(0), other_with_the_same_name],
            KeySetError::DuplicateKid,
        ),
        ("33 keys", vec![key(0); 33], KeySetError::TooMany),
        (
            "a symmetric key",
            vec![key(0), symmetric],
            KeySetError::Key {
                place: 1,
                error: crate::jose::KeyError::Private,
            },
        ),
        (
            "nothing but RSA of 1024 bits",
            vec![short.clone()],
            KeySetError::Empty,
        ),
        ("no keys", vec![], KeySetError::Empty),
    ] {
        issuer.publishes(&[key(0)]);
        let remote = issuer.fixed();
        remote.keys(None, NOW).await.unwrap();
        issuer.publishes(&keys);
        let kept = remote.keys(None, after(300)).await.unwrap();
        assert!(kept.knows(kid(0)), "{what}");
        assert_eq!(
            remote.health().1,
            Some(RemoteKeysError::KeySet(error)),
            "{what}"
        );
        // And not for ever.
        assert!(remote.keys(None, after(3600)).await.is_err(), "{what}");
    }
    // Among good keys a short one is passed over: it verifies nothing.
    issuer.publishes(&[key(0), short]);
    let set = issuer.fixed().keys(None, NOW).await.unwrap();
    assert!(set.knows(kid(0)) && !set.knows("short"));
}

#[tokio::test]
async fn a_text_that_is_no_set_does_not_replace_a_good_one() {
    let issuer = Issuer::start().await;
    for told in [
        json!([]),
        json!({}),
        json!({"keys": {}}),
        json!({"keys": [1]}),
    ] {
        issuer.publishes(&[key(0)]);
        let remote = issuer.fixed();
        remote.keys(None, NOW).await.unwrap();
        issuer.says("/jwks", Answer::Json(told.clone()));
        assert!(
            remote.keys(None, after(300)).await.unwrap().knows(kid(0)),
            "{told}"
        );
        assert!(
            matches!(remote.health().1, Some(RemoteKeysError::KeySet(_))),
            "{told}"
        );
    }
}

/// A name that answers with a public address first and with a private one when it is connected to:
/// there is one look-up, and what it found inwards is dropped before anybody connects.
#[test]
fn of_what_a_name_resolves_to_only_what_is_reached_is_connected_to() {
    let found = || {
        ["1.1.1.1:0", "10.0.0.1:0", "[fe80::1]:0", "127.0.0.1:0"]
            .into_iter()
            .map(|address| address.parse().unwrap())
    };
    let outside: Vec<std::net::SocketAddr> = vec!["1.1.1.1:0".parse().unwrap()];
    assert_eq!(client::reached(found(), Reach::default()), outside);
    let inside = Reach {
        loopback: false,
        private: true,
    };
    assert_eq!(client::reached(found(), inside).len(), 2);
}
