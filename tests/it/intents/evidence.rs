//! A change that somebody says is approved, and one that its own system says is.

use super::{Office, sign};
use crate::support::broker::unique;
use crate::support::world::assert_refused;
use dayfly::broker::Reason;
use serde_json::{Value, json};

fn piece(office: &Office) -> Value {
    let now = office.broker.now();
    json!({
        "iss": office.changes.url, "client_id": "deployer", "aud": office.broker.url,
        "iat": now, "exp": now + 3600, "jti": unique(),
        "facts": { "change.id": "CHG0031337", "change.state": "approved" },
    })
}

/// The form of an intent for the mission that needs an approved change, with this in `tctx`.
fn changed(office: &Office, tctx: &Value) -> Vec<(String, String)> {
    let token = office.broker.platform_token();
    let mut claims = office.intent_for("changed", &token);
    claims["tctx"] = tctx.clone();
    office.form(&token, &office.broker.sign_intent(&claims))
}

fn proved(office: &Office, piece: &Value) -> Vec<(String, String)> {
    let evidence = sign(&office.changes, "evidence+jwt", piece);
    changed(
        office,
        &json!({ "change": { "id": "CHG0031337" }, "evidence": [evidence] }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_said_decides_nothing_and_what_is_proved_does() {
    let office = Office::start().await;
    let broker = &office.broker;
    let said = json!({ "change": { "id": "CHG0031337", "state": "approved" } });
    let answer = broker.exchange(&changed(&office, &said)).await;
    // The tether comes before what is required, and both miss the same proof.
    assert_refused(&answer, Reason::TetherMissing, "declared");

    let form = proved(&office, &piece(&office));
    let issued = broker.exchange(&form).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    let entries = office.audited("issued").await;
    let detail = &entries.last().unwrap()["detail"];
    assert_eq!(detail["facts"]["change.state"], "approved");
    assert_eq!(
        detail["declared"],
        json!({ "change": { "id": "CHG0031337" } })
    );
    assert_eq!(detail["evidence"][0]["authority"], "changes");
    assert_eq!(detail["evidence"][0]["sha256"].as_str().unwrap().len(), 64);
    let evidence = sign(&office.changes, "evidence+jwt", &piece(&office));
    let whole = json!(entries).to_string();
    assert!(!whole.contains(evidence.split('.').next_back().unwrap()));

    let mut other = piece(&office);
    other["facts"]["change.state"] = json!("draft");
    let answer = broker.exchange(&proved(&office, &other)).await;
    assert_refused(&answer, Reason::RequirementUnmet, "a draft");
    other["facts"] = json!({ "change.id": "INC1", "change.state": "approved" });
    let evidence = sign(&office.changes, "evidence+jwt", &other);
    let answer = broker
        .exchange(&changed(&office, &json!({ "evidence": [evidence] })))
        .await;
    assert_refused(&answer, Reason::ConditionUnmet, "what Cedar reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_with_one_thing_wrong_is_refused_and_burns_nothing() {
    let office = Office::start().await;
    let broker = &office.broker;
    let now = broker.now();
    for (what, name, value) in [
        ("another agent's", "client_id", json!("neighbour")),
        ("for another broker", "aud", json!("https://other.example")),
        ("an endless one", "exp", json!(now + 3700)),
        ("an old one", "exp", json!(now - 70)),
        ("for another mission", "mission", json!("ordered")),
        ("for another task", "txn", json!("another")),
        (
            "a fact of the platform's",
            "facts",
            json!({ "pipeline.run_id": "77" }),
        ),
        ("nobody's", "iss", json!("https://nobody.example")),
    ] {
        let mut bad = piece(&office);
        bad[name] = value;
        let answer = broker.exchange(&proved(&office, &bad)).await;
        assert_refused(&answer, Reason::InvalidIntent, what);
    }
    // As an identity, as an intent, or signed by the agent itself, it is nothing.
    let own = broker
        .key
        .sign("evidence+jwt", None, &piece(&office), false)
        .unwrap();
    let jwt = sign(&office.changes, "JWT", &piece(&office));
    for evidence in [own, jwt] {
        let tctx = json!({ "evidence": [evidence] });
        let answer = broker.exchange(&changed(&office, &tctx)).await;
        assert_refused(&answer, Reason::InvalidIntent, "no evidence");
    }
    let contradiction = json!({
        "change": { "id": "CHG1" },
        "evidence": [sign(&office.changes, "evidence+jwt", &piece(&office))],
    });
    let answer = broker.exchange(&changed(&office, &contradiction)).await;
    assert_refused(&answer, Reason::InvalidIntent, "a contradiction");
    let contradiction = json!({ "pipeline": { "run_id": "1" } });
    let answer = broker.exchange(&changed(&office, &contradiction)).await;
    assert_refused(&answer, Reason::InvalidIntent, "another run");
    let fresh = Office::start().await;
    fresh.changes.down(true);
    let answer = fresh.broker.exchange(&proved(&fresh, &piece(&fresh))).await;
    assert_refused(&answer, Reason::IssuerUnavailable, "no keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_ends_with_the_change_and_with_whoever_vouched_for_it() {
    let office = Office::start().await;
    let broker = &office.broker;
    let issue = || async {
        let answer = broker.exchange(&proved(&office, &piece(&office))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["access_token"].as_str().unwrap().to_owned()
    };
    let first = issue().await;
    // The platform's name does not end what the change system proved.
    let end = |issuer: &str| json!({ "issuer": issuer, "kind": "change", "id": "CHG0031337" });
    let foreign = broker.admin("POST", "/contexts/end", Some(end("ci"))).await;
    assert_eq!(foreign.status, 200, "{}", foreign.body);
    assert!(broker.is_active(&first).await);
    let ended = broker
        .admin("POST", "/contexts/end", Some(end("changes")))
        .await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    assert!(!broker.is_active(&first).await);
    let again = broker.exchange(&proved(&office, &piece(&office))).await;
    assert_refused(&again, Reason::Held, "a change that is over");

    let office = Office::start().await;
    let broker = &office.broker;
    let answer = broker.exchange(&proved(&office, &piece(&office))).await;
    let token = answer.body["access_token"].as_str().unwrap();
    let receipt = broker.revoke(json!({ "issuer": office.changes.url })).await;
    assert_eq!(receipt.status, 200, "{}", receipt.body);
    assert!(!broker.is_active(token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_change_systems_own_webhook_ends_what_hangs_on_a_change() {
    let office = Office::start().await;
    let broker = &office.broker;
    let answer = broker.exchange(&proved(&office, &piece(&office))).await;
    let token = answer.body["access_token"].as_str().unwrap();
    let sent = broker.now().to_string();
    let body = json!({ "kind": "change", "id": "CHG0031337" }).to_string();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"hook-secret");
    let tag = ring::hmac::sign(&key, format!("{sent}.{body}").as_bytes());
    let tag: String = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let answer = broker
        .http
        .post(format!("{}/hooks/changes", broker.url))
        .header("x-dayfly-timestamp", sent)
        .header("x-dayfly-signature", format!("sha256={tag}"))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 204);
    assert!(!broker.is_active(token).await);
}
