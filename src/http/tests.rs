use super::*;
use crate::agents::Registry;
use crate::audit::Sealing;
use crate::broker::Bundle;
use crate::broker::CertificateDoors;
use crate::broker::OperatorSettings;
use crate::broker::Parts;
use crate::broker::operators::Operators;
use crate::broker::release::ResourceServers;
use crate::clock::{Clock, SystemClock};
use crate::connectors::{Connectors, Setup};
use crate::fences::Fences;
use crate::identity::{Enrolment, Identity};
use crate::intent::Intents;
use crate::jose::{KeyClient, Keyring, Reach};
use crate::leases::{Leases, Sweeper};
use crate::policy::Policy;
use crate::secret::{Sealer, Secret};
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::wire::ErrorBody;
use arc_swap::ArcSwap;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use routes::TABLE;
use std::net::SocketAddr;
use tower::ServiceExt as _;

/// A whole broker that knows nobody, on a store of its own.
async fn broker(url: &str) -> Arc<Broker> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    // The store keeps its file open; the folder may go.
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&folder.path().join("store")).unwrap());
    let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
    let keyring = Keyring::open(store.clone(), sealer.clone(), clock.now());
    let keyring = Arc::new(keyring.await.unwrap());
    let bound = Duration::from_secs(1);
    let fences = Fences::start(store.clone(), sealer.clone(), clock.clone(), bound);
    let leases = Arc::new(Leases::new(store.clone(), sealer.clone(), clock.clone()));
    let enrolment = Arc::new(Enrolment::new(
        store.clone(),
        sealer.clone(),
        fences.clone(),
    ));
    let sweeper = Sweeper::new(leases.clone(), fences.clone(), Arc::new(|_| None));
    let fetcher = KeyClient::new(Reach::default(), &[]).unwrap();
    let identity = || Identity::new(vec![], vec![], url.to_owned(), &fetcher).unwrap();
    let setup = Setup {
        keyring: keyring.clone(),
        clock: clock.clone(),
        broker_url: url,
        fence_view_max_age: Duration::from_secs(1),
        call_timeout: Duration::from_secs(1),
        resolve: &|text| Err(format!("no secret {text}")),
    };
    let connectors = Arc::new(Connectors::build(&[], &setup).unwrap());
    let bundle = Bundle {
        identity: identity(),
        intents: Intents::new(url.to_owned(), vec![], vec![], &fetcher)
            .unwrap()
            .into(),
        agents: Registry::new(vec![]).unwrap(),
        policy: Policy::new(vec![], vec![], &[], "none".to_owned())
            .unwrap()
            .into(),
        connectors: connectors.clone(),
        resource_servers: ResourceServers::new(identity(), vec![]).into(),
        operators: Operators::new(None, OperatorSettings::default()).into(),
        sources: vec![].into(),
        responses: crate::broker::respond::Responses::default().into(),
        reader: None,
        joined: crate::broker::registered::Joined::default(),
        hash: "none".to_owned(),
        decides: "none".to_owned(),
        revision: 0,
    };
    let export = tempfile::tempdir().unwrap().keep().join("audit.jsonl");
    let sign = Box::new(|_: &[u8]| Ok("unsigned".to_owned()));
    let sealing = Sealing::start(store.clone(), sealer.clone(), clock.clone(), export, sign);
    let parts = Parts {
        publishing: None,
        sealing,
        url: url.to_owned(),
        certificates: CertificateDoors::default(),
        clock,
        store,
        sealer: sealer.clone(),
        fences,
        leases,
        sweeper: Arc::new(sweeper),
        keyring,
        enrolment,
        connectors: Arc::new(ArcSwap::new(connectors)),
    };
    Arc::new(Broker::new(parts, bundle))
}

const ISSUER: &str = "https://broker.example";

async fn public() -> Router {
    router(broker(ISSUER).await, &DoorSettings::default())
}

async fn health() -> Router {
    let metrics = Metrics::detached().unwrap();
    health_router(broker(ISSUER).await, metrics, &DoorSettings::default())
}

fn request(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path)
}

async fn send(router: &Router, request: Request<Body>) -> Response {
    router.clone().oneshot(request).await.unwrap()
}

async fn empty(router: &Router, method: &str, path: &str) -> Response {
    send(router, request(method, path).body(Body::empty()).unwrap()).await
}

async fn form(router: &Router, path: &str, body: impl Into<Body>) -> Response {
    let request = request("POST", path)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(body.into())
        .unwrap();
    send(router, request).await
}

/// Every refusal is one JSON object, not to be stored.
async fn refusal(response: Response) -> (StatusCode, HeaderMap, ErrorBody) {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 16).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(parts.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(parts.headers[header::CACHE_CONTROL], "no-store");
    (parts.status, parts.headers, body)
}

fn filled(path: &str) -> String {
    path.replace("{target}", "aws-prod")
        .replace("{source}", "github")
        .replace("{*resource}", "events")
        .replace("{id}", "some-name")
}

#[tokio::test]
async fn every_door_of_the_table_is_there_and_answers_its_method_alone() {
    let (public, health) = (public().await, health().await);
    for route in TABLE {
        let router = match route.listener {
            Listener::Public => &public,
            Listener::Health => &health,
        };
        let path = filled(route.path);
        let answer = empty(router, route.method, &path).await;
        assert_ne!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert!(
            !answer.status().is_server_error() || route.who == Who::Platform,
            "{path}"
        );
        assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        // A door that is not there would be a 404.
        let (status, headers, body) = refusal(empty(router, "TRACE", &path).await).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert!(
            headers[header::ALLOW]
                .to_str()
                .unwrap()
                .contains(route.method)
        );
        assert_eq!(body.dayfly_reason.as_deref(), Some("method_not_allowed"));
    }
}

#[tokio::test]
async fn no_listener_has_the_doors_of_the_other() {
    let (public, health) = (public().await, health().await);
    for route in TABLE {
        let other = match route.listener {
            Listener::Public => &health,
            Listener::Health => &public,
        };
        let answer = empty(other, route.method, &filled(route.path)).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{}", route.path);
    }
}

#[tokio::test]
async fn no_operators_door_opens_without_an_operator() {
    let router = public().await;
    let doors = TABLE
        .iter()
        .filter(|route| matches!(route.who, Who::Operator(_)));
    for route in doors {
        for authorization in [
            None,
            Some("Basic YTpi"),
            Some("Bearer"),
            Some("Bearer nobody"),
        ] {
            let mut request = request(route.method, &filled(route.path));
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let response = send(&router, request.body(Body::empty()).unwrap()).await;
            let (status, headers, _) = refusal(response).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{}", route.path);
            let asked = headers[header::WWW_AUTHENTICATE].to_str().unwrap();
            assert!(asked.starts_with("Bearer"), "{asked}");
        }
    }
}

#[tokio::test]
async fn everything_under_admin_is_for_operators() {
    for route in TABLE {
        let operators = matches!(route.who, Who::Operator(_));
        assert_eq!(
            route.path.starts_with("/admin/"),
            operators,
            "{}",
            route.path
        );
        if route.method == "POST" && operators {
            let reads = ["/admin/v1/find", "/admin/v1/explain"].contains(&route.path);
            assert_eq!(route.audited, !reads, "{}", route.path);
        }
    }
}

#[tokio::test]
async fn an_unknown_path_has_the_same_shape() {
    let (status, _, body) = refusal(empty(&public().await, "GET", "/nowhere").await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(body.error, "not_found");
    assert!(!body.refusal_id.is_empty());
}

#[tokio::test]
async fn the_wrong_media_type_and_too_large_a_body_have_the_same_shape() {
    for path in ["/token", "/introspect", "/revoke"] {
        let json = request("POST", path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from("{}"))
            .unwrap();
        let (status, _, _) = refusal(send(&public().await, json).await).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}");
        let (status, _, _) =
            refusal(form(&public().await, path, vec![b'a'; 65 * 1024]).await).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
        let (status, _, body) = refusal(form(&public().await, path, "a=1&a=2").await).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(body.error, "invalid_request");
    }
}

#[tokio::test]
async fn a_bearer_token_at_the_token_endpoint_is_answered_with_a_challenge() {
    let request = request("POST", "/token")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::AUTHORIZATION, "Bearer abc")
        .body(Body::from("grant_type=client_credentials"))
        .unwrap();
    let (status, headers, body) = refusal(send(&public().await, request).await).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(body.error, "invalid_client");
    assert!(headers.contains_key(header::WWW_AUTHENTICATE));
}

#[tokio::test]
async fn a_panic_has_the_same_shape_and_says_nothing() {
    let router: Router = Router::new()
        .route(
            "/",
            get(|| async { panic!("with a secret") as &'static str }),
        )
        .layer(CatchPanicLayer::custom(observe::panicked));
    let (status, _, body) = refusal(empty(&router, "GET", "/").await).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(body.error, "server_error");
    assert!(!format!("{body:?}").contains("secret"));
}

#[tokio::test]
async fn metadata_may_be_cached_and_stands_where_clients_look() {
    for (issuer, paths) in [
        (
            ISSUER,
            &[
                "/.well-known/oauth-authorization-server",
                "/.well-known/openid-configuration",
                "/jwks",
            ][..],
        ),
        (
            "https://host.example/teams/dayfly",
            &[
                "/.well-known/oauth-authorization-server/teams/dayfly",
                "/.well-known/openid-configuration/teams/dayfly",
                "/teams/dayfly/.well-known/openid-configuration",
                "/teams/dayfly/jwks",
                "/jwks",
            ],
        ),
    ] {
        let router = router(broker(issuer).await, &DoorSettings::default());
        for path in paths {
            let answer = empty(&router, "GET", path).await;
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            let cache = answer.headers()[header::CACHE_CONTROL].to_str().unwrap();
            assert!(cache.contains("max-age"), "{path}");
        }
    }
    let unknown = empty(&public().await, "GET", "/federation/nowhere/jwks").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

fn from(address: &str, path: &str) -> Request<Body> {
    let address: SocketAddr = address.parse().unwrap();
    request("GET", path)
        .extension(ConnectedFrom(address))
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn who_knocks_too_often_is_told_to_wait() {
    let settings = DoorSettings {
        rate: Rate {
            per_second: NonZeroU32::MIN,
            burst: NonZeroU32::MIN,
        },
        ..DoorSettings::default()
    };
    let router = router(broker(ISSUER).await, &settings);
    let first = send(&router, from("192.0.2.1:1", "/jwks")).await;
    assert_eq!(first.status(), StatusCode::OK);
    let second = send(&router, from("192.0.2.1:2", "/jwks")).await;
    let (status, headers, body) = refusal(second).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert!(headers.contains_key(header::RETRY_AFTER));
    assert_eq!(body.dayfly_reason.as_deref(), Some("too_many_requests"));
    let other = send(&router, from("192.0.2.2:1", "/jwks")).await;
    assert_eq!(other.status(), StatusCode::OK);
}

#[tokio::test]
async fn without_room_the_answer_is_later() {
    let settings = DoorSettings {
        concurrency: 0,
        ..DoorSettings::default()
    };
    let router = router(broker(ISSUER).await, &settings);
    let (status, headers, body) = refusal(empty(&router, "GET", "/jwks").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body.error, "temporarily_unavailable");
    assert!(headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn a_flood_of_exchanges_leaves_room_for_everything_else() {
    let limits = Limits::new(&DoorSettings {
        concurrency: 1,
        ..DoorSettings::default()
    });
    let route = |path: &str| TABLE.iter().find(|route| route.path == path).unwrap();
    let _exchange = limits.room(route("/token")).try_acquire().unwrap();
    assert!(limits.room(route("/token")).try_acquire().is_err());
    assert!(
        limits
            .room(route("/admin/v1/revocations"))
            .try_acquire()
            .is_ok()
    );
}

#[test]
fn the_interface_page_has_every_door() {
    let page = include_str!("../../docs/api.md");
    for route in TABLE {
        let door = format!("`{} {}`", route.method, route.path);
        assert!(page.contains(&door), "docs/api.md lacks {door}");
        if route.listener == Listener::Public {
            let audited = if route.audited { "yes" } else { "no" };
            let row = page
                .lines()
                .find(|line| line.starts_with(&format!("| {door} |")));
            assert!(row.unwrap().ends_with(&format!("| {audited} |")), "{door}");
        }
    }
}

#[tokio::test]
async fn work_goes_on_when_nobody_waits_for_it() {
    let (done, finished) = tokio::sync::oneshot::channel();
    let work = to_its_end(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = done.send(());
        Ok(())
    });
    let waiting = tokio::time::timeout(Duration::from_millis(1), work).await;
    assert!(waiting.is_err(), "the client has hung up");
    finished.await.unwrap();
}

#[tokio::test]
async fn work_that_panics_is_a_refusal() {
    let refusal = to_its_end::<()>(async { panic!("with a secret") })
        .await
        .unwrap_err();
    assert_eq!(refusal.reason, Reason::Internal);
    assert!(!refusal.detail.contains("secret"));
}

#[tokio::test]
async fn a_flood_at_the_open_doors_leaves_room_for_revocations() {
    let limits = Limits::new(&DoorSettings {
        concurrency: 1,
        ..DoorSettings::default()
    });
    let route = |path: &str| TABLE.iter().find(|route| route.path == path).unwrap();
    let _stranger = limits.room(route("/introspect")).try_acquire().unwrap();
    let _agent = limits.room(route("/token")).try_acquire().unwrap();
    assert!(limits.room(route("/hooks/{source}")).try_acquire().is_err());
    let operator = limits.room(route("/admin/v1/revocations"));
    assert!(operator.try_acquire().is_ok());
}
