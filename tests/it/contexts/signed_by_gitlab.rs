//! GitLab signs its messages where the hook has a signing token: then a signature is wanted, and nothing else will do.

use super::{Answer, issue, refused, send};
use crate::support::broker::{Setup, TestBroker, unique};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::json;

const KEY: [u8; 32] = [7; 32];

fn secret() -> String {
    format!("whsec_{}", STANDARD.encode(KEY))
}

async fn start() -> TestBroker {
    TestBroker::with(Setup {
        more: "[source.gitlab]\nkind = \"gitlab\"\nsecret = \"file:signing.token\"\nissuer = \"ci\"\nends = [\"1234\"]\n"
            .to_owned(),
        files: vec![("signing.token".to_owned(), secret())],
        ..Setup::default()
    })
    .await
}

/// Of run 77.
fn over() -> String {
    json!({
        "object_kind": "pipeline", "object_attributes": { "id": 77, "status": "success" },
        "project": { "id": 1234 },
    })
    .to_string()
}

fn sign(key: &[u8], id: &str, sent: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, format!("{id}.{sent}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag))
}

async fn tell(broker: &TestBroker, (id, sent): (&str, i64), signature: &str, body: &str) -> Answer {
    let headers = [
        ("x-gitlab-event", "Pipeline Hook"),
        ("webhook-id", id),
        ("webhook-timestamp", &*sent.to_string()),
        ("webhook-signature", signature),
    ];
    send(broker, "gitlab", &headers, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_gitlab_is_signed_where_its_hook_has_a_signing_token() {
    let broker = start().await;
    let token = issue(&broker, None).await;
    let (body, now, id) = (over(), broker.now(), unique());
    let good = sign(&KEY, &id, now, &body);
    let secret = secret();
    for (what, value) in [
        ("the secret", &*secret),
        ("its key", &secret["whsec_".len()..]),
    ] {
        let headers = [("x-gitlab-token", value)];
        refused(&send(&broker, "gitlab", &headers, &body).await, what);
    }
    let bare = good.strip_prefix("v1,").unwrap();
    for (what, signature) in [
        ("another key's", &*sign(&[8; 32], &id, now, &body)),
        ("another body's", &*sign(&KEY, &id, now, "{}")),
        ("another id's", &*sign(&KEY, &unique(), now, &body)),
        ("another time's", &*sign(&KEY, &id, now - 1, &body)),
        ("of no version", bare),
        ("of another version", &*format!("v1a,{bare}")),
        ("cut", &good[..good.len() - 4]),
        ("empty", ""),
        (
            "by the text of the secret",
            &*sign(secret.as_bytes(), &id, now, &body),
        ),
    ] {
        refused(&tell(&broker, (&id, now), signature, &body).await, what);
    }
    for (what, sent) in [("stale", now - 301), ("of the future", now + 302)] {
        let signature = sign(&KEY, &id, sent, &body);
        refused(&tell(&broker, (&id, sent), &signature, &body).await, what);
    }
    for (what, id) in [("no id", ""), ("an id that ends elsewhere", "a.b")] {
        let signature = sign(&KEY, id, now, &body);
        refused(&tell(&broker, (id, now), &signature, &body).await, what);
    }
    let alone = [("webhook-signature", &*good)];
    refused(&send(&broker, "gitlab", &alone, &body).await, "no time");
    assert!(broker.is_active(&token).await);
    // While the key is changed there are two.
    let old = sign(&[8; 32], &id, now, &body);
    let done = tell(&broker, (&id, now), &format!("{old} v1a,x {good}"), &body).await;
    assert_eq!(done.status, 204, "{}", done.body);
    assert!(!broker.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_message_of_gitlab_counts_once_by_its_id() {
    let broker = start().await;
    let (body, now, id) = (over(), broker.now(), unique());
    let ended = tell(&broker, (&id, now), &sign(&KEY, &id, now, &body), &body).await;
    assert_eq!(ended.status, 204, "{}", ended.body);
    let lift = async || {
        for issuer in [&*broker.issuer.url, "ci"] {
            let context = json!({ "issuer": issuer, "kind": "pipeline", "id": "1234:77" });
            let body = json!({ "selector": { "context": context }, "reason": "it was a mistake" });
            broker.admin("POST", "/lifts", Some(body)).await;
        }
        issue(&broker, None).await
    };
    let token = lift().await;
    // Delivered again: signed at another time, by the same id.
    for sent in [now, now + 1] {
        let signature = sign(&KEY, &id, sent, &body);
        let again = tell(&broker, (&id, sent), &signature, &body).await;
        assert_eq!(again.status, 204, "{}", again.body);
        assert!(broker.is_active(&token).await);
    }
    // The same words once more are another message.
    let other = unique();
    let signature = sign(&KEY, &other, now, &body);
    let said = tell(&broker, (&other, now), &signature, &body).await;
    assert_eq!(said.status, 204, "{}", said.body);
    assert!(!broker.is_active(&token).await);
}
