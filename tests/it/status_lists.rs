//! Token status lists (draft-ietf-oauth-status-list-21), read as those do who only verify signatures.

use crate::exchange::claims_of;
use crate::support::broker::{Answer, Setup, TestBroker, b64};
use crate::support::issuer::Issuer;
use crate::support::process::until;
use crate::support::tools;
use crate::support::world::{assert_refused, key};
use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use dayfly::broker::Reason;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Guard, Outcome, Store, StoreError, Transaction};
use flate2::read::{GzDecoder, ZlibDecoder};
use reqwest::Response;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The longest that a replica may tell a list that is not true any more.
const BOUND: Duration = Duration::from_secs(6);

/// `status.status_list` of a token: its index, and where its list is at this replica.
fn place(broker: &TestBroker, issued: &Value) -> (usize, String) {
    let claims = claims_of(issued["access_token"].as_str().unwrap());
    let reference = &claims["status"]["status_list"];
    let uri = reference["uri"].as_str().unwrap();
    let path = uri.strip_prefix(&broker.url).unwrap();
    let index = reference["idx"].as_u64().unwrap();
    (
        usize::try_from(index).unwrap(),
        format!("{}{path}", broker.at),
    )
}

async fn get(broker: &TestBroker, url: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = broker.http.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// The list, as soon as the first sweep is through.
async fn list(broker: &TestBroker, url: &str) -> String {
    let begun = Instant::now();
    loop {
        let answer = get(broker, url, &[]).await;
        if answer.status() == 200 {
            return answer.text().await.unwrap();
        }
        assert!(begun.elapsed() < BOUND, "{}", answer.status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn bits(token: &str) -> Vec<u8> {
    let claims = claims_of(token);
    let lst = claims["status_list"]["lst"].as_str().unwrap();
    let compressed = BASE64_URL_SAFE_NO_PAD.decode(lst).unwrap();
    let mut bytes = Vec::new();
    ZlibDecoder::new(compressed.as_slice())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

pub fn is_over(token: &str, index: usize) -> bool {
    bits(token)[index / 8] >> (index % 8) & 1 == 1
}

async fn dies(broker: &TestBroker, (index, url): (usize, String)) {
    let begun = Instant::now();
    while !is_over(&list(broker, &url).await, index) {
        assert!(begun.elapsed() < BOUND, "still told alive");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_library_reads_a_live_token_valid_and_a_revoked_one_invalid() {
    let Some(folder) = tools::node_folder() else {
        return;
    };
    let broker = TestBroker::start().await;
    let (live, dead) = (broker.issue().await, broker.issue().await);
    let revoked = broker.revoke(json!({ "lease": dead["lease_id"] })).await;
    assert_eq!(revoked.status, 200);
    dies(&broker, place(&broker, &dead)).await;
    let token = |issued: &Value| issued["access_token"].as_str().unwrap().to_owned();
    let (live, dead) = (token(&live), token(&dead));
    let arguments = [broker.url.as_str(), &live, &dead];
    let said = tools::node(&folder, "status_list.mjs", &arguments).await;
    assert_eq!(said["status"], json!([0, 1]));
    assert_eq!(said["aggregated"], true);
    assert_eq!(said["typ"], "statuslist+jwt");
}

fn kid(token: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap());
    let header: Value = serde_json::from_slice(&header.unwrap()).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

/// The key ids that the broker publishes.
async fn published(broker: &TestBroker) -> Vec<String> {
    let jwks = get(broker, &format!("{}/jwks", broker.url), &[]).await;
    let jwks: Value = jwks.json().await.unwrap();
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_names_itself_and_is_signed_with_a_key_of_its_own() {
    let broker = TestBroker::start().await;
    let issued = broker.issue().await;
    let (_, url) = place(&broker, &issued);
    let token = list(&broker, &url).await;
    let claims = claims_of(&token);
    assert_eq!(claims["sub"], url.as_str());
    assert_eq!(claims["iss"], broker.url.as_str());
    assert_eq!(claims["ttl"], 30);
    let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64());
    assert_eq!(exp, Some(iat + 60));
    assert_eq!(claims["status_list"]["bits"], 1);
    assert_eq!(bits(&token).len(), 1 << 17);
    assert!(published(&broker).await.contains(&kid(&token)));
    assert_ne!(
        kid(&token),
        kid(issued["access_token"].as_str().unwrap()),
        "a status list could be taken for a token"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_leads_to_every_list() {
    let broker = TestBroker::start().await;
    let (_, url) = place(&broker, &broker.issue().await);
    let metadata = format!("{}/.well-known/oauth-authorization-server", broker.url);
    let metadata: Value = get(&broker, &metadata, &[]).await.json().await.unwrap();
    let all = metadata["status_list_aggregation_endpoint"].as_str();
    let answer = get(&broker, all.unwrap(), &[]).await;
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    let lists: Value = answer.json().await.unwrap();
    let lists = lists["status_lists"].as_array().unwrap();
    assert_eq!(lists.len(), 64);
    assert!(lists.contains(&json!(url)));
    let claims = claims_of(&list(&broker, &url).await);
    assert_eq!(claims["status_list"]["aggregation_uri"], all.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_known_is_not_sent_again() {
    let broker = TestBroker::start().await;
    let (_, url) = place(&broker, &broker.issue().await);
    list(&broker, &url).await;
    let first = get(&broker, &url, &[]).await;
    let told = |headers: &HeaderMap| {
        assert_eq!(headers["cache-control"], "public, max-age=5");
        assert_eq!(headers["vary"], "accept-encoding");
        assert_eq!(headers["access-control-allow-origin"], "*");
        headers["etag"].to_str().unwrap().to_owned()
    };
    assert_eq!(
        first.headers()["content-type"],
        "application/statuslist+jwt"
    );
    let tag = told(first.headers());
    let again = get(&broker, &url, &[("if-none-match", &tag)]).await;
    assert_eq!(again.status(), 304);
    assert_eq!(told(again.headers()), tag);
    assert_eq!(again.bytes().await.unwrap().len(), 0);
    let other = get(&broker, &url, &[("if-none-match", "\"other\"")]).await;
    assert_eq!(other.status(), 200);

    // Revoked: what was known is not true any more.
    let dead = broker.issue().await;
    let revoked = broker.revoke(json!({ "lease": dead["lease_id"] })).await;
    assert_eq!(revoked.status, 200);
    dies(&broker, place(&broker, &dead)).await;
    let changed = get(&broker, &url, &[("if-none-match", &tag)]).await;
    assert_eq!(changed.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_compressed_for_those_who_take_it() {
    let broker = TestBroker::start().await;
    let (_, url) = place(&broker, &broker.issue().await);
    list(&broker, &url).await;
    let plain = get(&broker, &url, &[]).await;
    assert!(!plain.headers().contains_key("content-encoding"));
    let tag = plain.headers()["etag"].clone();
    let plain = plain.text().await.unwrap();
    let small = get(&broker, &url, &[("accept-encoding", "gzip")]).await;
    assert_eq!(small.headers()["content-encoding"], "gzip");
    assert_ne!(small.headers()["etag"], tag);
    let small = small.bytes().await.unwrap();
    assert!(small.len() < plain.len());
    let mut inflated = String::new();
    GzDecoder::new(small.as_ref())
        .read_to_string(&mut inflated)
        .unwrap();
    assert_eq!(claims_of(&inflated)["sub"], claims_of(&plain)["sub"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_not_told_and_there_is_nothing_beside_the_lists() {
    let broker = TestBroker::start().await;
    let (_, url) = place(&broker, &broker.issue().await);
    list(&broker, &url).await;
    let ask = async |url: String| Answer::of(get(&broker, &url, &[]).await).await;
    let past = ask(format!("{url}?time=1700000000")).await;
    assert_refused(&past, Reason::HistoryNotKept, "the past");
    assert_eq!(past.headers["access-control-allow-origin"], "*");
    assert_eq!(ask(format!("{url}?other=1")).await.status, 200);
    for wrong in ["64", "07", "-1", "x", "0x1"] {
        let answer = ask(format!("{}/status/{wrong}", broker.url)).await;
        assert_refused(&answer, Reason::NotFound, wrong);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_at_one_replica_is_in_the_others_list_within_the_bound() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let (issuer, key) = (Arc::new(Issuer::start().await), key());
    let replica = async || {
        TestBroker::with(Setup {
            store: Some(Arc::clone(&store)),
            issuer: Some(Arc::clone(&issuer)),
            key: Some(key.clone()),
            public_url: Some("http://127.0.0.1:9".to_owned()),
            ..Setup::default()
        })
        .await
    };
    let (one, other) = (replica().await, replica().await);
    let (live, dead) = (one.issue().await, one.issue().await);
    let (index, url) = place(&other, &live);
    assert!(!is_over(&list(&other, &url).await, index));
    let revoked = one.revoke(json!({ "lease": dead["lease_id"] })).await;
    assert_eq!(revoked.status, 200);
    dies(&other, place(&other, &dead)).await;
    assert!(!is_over(&list(&other, &url).await, index));

    // One fence for many: every replica's lists follow it.
    let held = one.revoke(json!({ "mission": "deploy-checkout" })).await;
    assert_eq!(held.status, 200);
    for replica in [&one, &other] {
        dies(replica, place(replica, &live)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_no_access_token() {
    let broker = TestBroker::start().await;
    let (_, url) = place(&broker, &broker.issue().await);
    let token = list(&broker, &url).await;
    assert!(!broker.is_active(&token).await);
    let forged = format!("{}.e30.{}", b64(b"{}"), b64(b"x"));
    assert!(!broker.is_active(&forged).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_switched_on_gives_no_index() {
    let target = r#"
[target.quiet]
kind = "access_token"
ceiling = { actions = ["deploy:*"], locations = ["https://quiet.example/*"] }

[mission.quiet]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Goes to an API that introspects"
ttl = "5m"
allow = [{ target = "quiet", actions = ["deploy:read"], locations = ["https://quiet.example/"] }]
"#;
    let broker = TestBroker::with(Setup {
        more: target.to_owned(),
        ..Setup::default()
    })
    .await;
    let subject = broker.platform_token();
    let mut claims = broker.intent_claims(&subject);
    claims["mission"]["id"] = json!("quiet");
    claims["authorization_details"] = json!([{
        "type": "access_token", "identifier": "quiet",
        "actions": ["deploy:read"], "locations": ["https://quiet.example/"],
    }]);
    let form = crate::support::broker::with(broker.good_form(), "subject_token", &subject);
    let form = crate::support::broker::with(form, "intent", &broker.sign_intent(&claims));
    let form = crate::support::broker::with(form, "audience", "quiet");
    let answer = broker.exchange(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let claims = claims_of(answer.body["access_token"].as_str().unwrap());
    assert!(claims.get("status").is_none());
    until("a list", || async {
        let list = get(&broker, &format!("{}/status/0", broker.url), &[]).await;
        list.status() == 200
    })
    .await;
}

async fn rotate(broker: &TestBroker, compromised: bool) {
    let wanted = json!({ "purpose": "status_list", "compromised": compromised });
    let answer = broker.admin("POST", "/keys/rotate", Some(wanted)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_signed_with_a_new_key_says_what_the_old_one_said() {
    let broker = TestBroker::start().await;
    let (live, dead) = (broker.issue().await, broker.issue().await);
    let revoked = broker.revoke(json!({ "lease": dead["lease_id"] })).await;
    assert_eq!(revoked.status, 200);
    dies(&broker, place(&broker, &dead)).await;
    let ((living, url), (over, _)) = (place(&broker, &live), place(&broker, &dead));
    let old = list(&broker, &url).await;

    // As planned: the next key is published, and does not sign before everybody can know it.
    rotate(&broker, false).await;
    let between = list(&broker, &url).await;
    assert_eq!(kid(&between), kid(&old));
    assert!(is_over(&between, over) && !is_over(&between, living));

    // Compromised: nobody is left with a list of the old key for longer than one is told.
    rotate(&broker, true).await;
    let begun = Instant::now();
    let new = loop {
        let told = list(&broker, &url).await;
        if kid(&told) != kid(&old) {
            break told;
        }
        assert!(begun.elapsed() < BOUND, "still signed with the old key");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let keys = published(&broker).await;
    assert!(keys.contains(&kid(&new)) && !keys.contains(&kid(&old)));
    assert!(is_over(&new, over) && !is_over(&new, living));
    // A rotation of the lists' key ends no token.
    assert!(
        broker
            .is_active(live["access_token"].as_str().unwrap())
            .await
    );
}

/// A store in which the first places that are drawn are taken.
#[derive(Debug)]
struct Crowded {
    store: Embedded,
    taken: AtomicU32,
}

#[async_trait]
impl dayfly::store::Over for Crowded {
    fn below(&self) -> &dyn Store {
        &self.store
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let guards = &transaction.guards;
        let place = guards.iter().position(
            |guard| matches!(guard, Guard::Unnoted(key) if key.name.starts_with(b"lease-status/")),
        );
        if let Some(guard) = place
            && self.taken.load(Ordering::SeqCst) > 0
        {
            self.taken.fetch_sub(1, Ordering::SeqCst);
            return Ok(Outcome::Conflict { guard });
        }
        self.store.commit(transaction).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_taken_is_drawn_again_and_eight_are_enough() {
    let store = Arc::new(Crowded {
        store: Embedded::in_memory().unwrap(),
        taken: AtomicU32::new(7),
    });
    let broker = TestBroker::with(Setup {
        store: Some(store.clone()),
        ..Setup::default()
    })
    .await;
    let issued = broker.issue().await;
    assert_eq!(store.taken.load(Ordering::SeqCst), 0);
    // The token that was answered points to the place that its lease took.
    let revoked = broker.revoke(json!({ "lease": issued["lease_id"] })).await;
    assert_eq!(revoked.status, 200);
    dies(&broker, place(&broker, &issued)).await;

    store.taken.store(8, Ordering::SeqCst);
    let form = broker.good_form();
    let crowded = broker.exchange(&form).await;
    assert_refused(&crowded, Reason::StoreUnavailable, "no place");
    // Nothing was written: what was presented is good for another try.
    let again = broker.exchange(&form).await;
    assert_eq!(again.status, 200, "{}", again.body);
    let leases = broker.admin("GET", "/leases?agent=deployer", None).await;
    let live = leases.body["items"].as_array().unwrap().iter();
    assert_eq!(live.filter(|lease| lease["alive"] == true).count(), 1);
}
