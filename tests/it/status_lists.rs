//! Token status lists (draft-ietf-oauth-status-list-21), read as those do who only verify signatures.

use crate::exchange::claims_of;
use crate::support::broker::{Answer, Setup, TestBroker, b64};
use crate::support::issuer::Issuer;
use crate::support::process::until;
use crate::support::tools;
use crate::support::world::{assert_refused, key};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use dayfly::broker::Reason;
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use flate2::read::{GzDecoder, ZlibDecoder};
use reqwest::Response;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use std::io::Read as _;
use std::sync::Arc;
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

fn is_over(token: &str, index: usize) -> bool {
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
    let kid = |token: &str| {
        let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap());
        let header: Value = serde_json::from_slice(&header.unwrap()).unwrap();
        header["kid"].as_str().unwrap().to_owned()
    };
    let jwks = get(&broker, &format!("{}/jwks", broker.url), &[]).await;
    let jwks: Value = jwks.json().await.unwrap();
    let keys = jwks["keys"].as_array().unwrap();
    assert!(keys.iter().any(|key| key["kid"] == kid(&token).as_str()));
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
