use super::super::conformance::{Subject, built, context, draw, grant, holds, keyring};
use super::super::{ConnectorSettings, api_key};
use super::*;
use crate::authority::Permission;
use crate::jose::{Algorithm, Compact, KeySet, TypRule};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

fn scopes(permissions: &[(&[&str], &[&str])]) -> Authority {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let permissions = permissions.iter().map(|(actions, locations)| Permission {
        actions: owned(actions),
        locations: owned(locations),
    });
    Authority(permissions.collect())
}

fn part(token: &str, place: usize) -> Value {
    let part = token.split('.').nth(place).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// As a resource server would.
fn verifies(token: &str, set: &KeySet) -> bool {
    let compact = Compact::parse(token, 8192, &TypRule::Exactly("at+jwt")).unwrap();
    let keys = set.candidates(compact.kid(), compact.alg());
    let allowed = [Algorithm::Es256, Algorithm::Ed25519];
    compact.verify(&keys, &allowed).is_ok()
}

async fn claims_of(grant: &Grant, context: MintContext<'_>) -> Value {
    let keyring = keyring().await;
    let connector = built(
        &keyring,
        "orders",
        ConnectorSettings::AccessToken { status_list: false },
        TIMEOUT,
    )
    .await;
    let minted = connector.mint(grant, context).await.unwrap();
    assert_eq!(minted.issued_token_type, ACCESS_TOKEN_TYPE);
    assert!(minted.signing_key.is_some());
    part(minted.token.unwrap().expose(), 1)
}

#[tokio::test]
async fn an_access_token_keeps_what_connectors_promise() {
    let keyring = keyring().await;
    let connector = built(
        &keyring,
        "orders",
        ConnectorSettings::AccessToken { status_list: false },
        TIMEOUT,
    )
    .await;
    let subject = Subject {
        connector: connector.as_ref(),
        grant: grant("orders", "access_token"),
        inexpressible: grant("orders", "access_token").authority(scopes(&[(&["a b"], &[])])),
    };
    let set = keyring.verifying(Purpose::AccessToken);
    holds(&subject, async |minted| {
        verifies(minted.token.as_ref().unwrap().expose(), &set)
    })
    .await;
}

#[tokio::test]
async fn an_api_key_keeps_what_connectors_promise() {
    let connector = built(
        &keyring().await,
        "orders",
        ConnectorSettings::ApiKey {},
        TIMEOUT,
    )
    .await;
    let subject = Subject {
        connector: connector.as_ref(),
        grant: grant("orders", "api_key"),
        inexpressible: grant("orders", "api_key").authority(scopes(&[(&[], &["https://a"])])),
    };
    holds(&subject, async |minted| {
        api_key::parse(minted.token.as_ref().unwrap().expose()).is_some()
    })
    .await;
}

#[tokio::test]
async fn the_claims_are_those_of_the_grant() {
    let lease = draw();
    let asked = context(&lease, Duration::from_secs(300));
    let grant = grant("orders", "access_token")
        .authority(scopes(&[
            (
                &["orders:read", "orders:list"],
                &["https://orders.example/eu"],
            ),
            (
                &["orders:read", "orders:write"],
                &["https://orders.example/eu"],
            ),
        ]))
        .audience("https://orders.example")
        .ttl(Duration::from_secs(300))
        .bound_key(Confirmation::Jkt("thumbprint".to_owned()))
        .task("task-1")
        .build();
    let mut claims = claims_of(&grant, asked).await;
    let details = claims["authorization_details"].take();
    assert_eq!(
        claims,
        json!({
            "iss": "https://broker.example",
            "sub": "checkout-deployer",
            "client_id": "checkout-deployer",
            "aud": "https://orders.example",
            "iat": asked.now.unix_timestamp(),
            "exp": asked.expires_at.unix_timestamp(),
            "jti": lease.to_string(),
            "scope": "orders:read orders:list orders:write",
            "authorization_details": null,
            "mission": { "id": "deploy-checkout" },
            "txn": "task-1",
            "cnf": { "jkt": "thumbprint" },
        })
    );
    assert_eq!(details[0]["type"], "access_token");
    assert_eq!(details[0]["identifier"], "orders");
    assert_eq!(
        details[1]["actions"],
        json!(["orders:read", "orders:write"])
    );
    assert_eq!(
        details[1]["locations"],
        json!(["https://orders.example/eu"])
    );
}

#[tokio::test]
async fn a_token_says_where_its_status_is() {
    let lease = draw();
    let mut asked = context(&lease, Duration::from_secs(60));
    asked.status = Some(77);
    let claims = claims_of(&grant("orders", "access_token").build(), asked).await;
    assert_eq!(
        claims["status"],
        json!({ "status_list": { "idx": 77, "uri": "https://broker.example/status/0" } })
    );
}

#[test]
fn only_a_target_that_is_switched_on_promises_a_place_in_a_list() {
    for status_list in [false, true] {
        let promises = ConnectorSettings::AccessToken { status_list }.promises(TIMEOUT);
        assert_eq!(promises.status_list, status_list);
    }
}

#[tokio::test]
async fn what_the_grant_does_not_say_is_absent() {
    let lease = draw();
    let grant = grant("orders", "access_token").build();
    let claims = claims_of(&grant, context(&lease, Duration::from_secs(60))).await;
    for name in ["cnf", "txn", "act", "status"] {
        assert!(claims.get(name).is_none(), "{name}");
    }
}

#[tokio::test]
async fn a_scope_never_joins_what_was_granted_apart() {
    let lease = draw();
    let grant = grant("orders", "access_token")
        .authority(scopes(&[
            (&["read"], &["https://orders.example/eu"]),
            (&["write"], &["https://orders.example/us"]),
        ]))
        .build();
    let claims = claims_of(&grant, context(&lease, Duration::from_secs(60))).await;
    assert!(claims.get("scope").is_none(), "{claims}");
    assert_eq!(claims["authorization_details"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_token_never_outlives_its_lease_by_a_fraction() {
    let lease = draw();
    let mut asked = context(&lease, Duration::from_secs(60));
    asked.expires_at = asked.expires_at.replace_nanosecond(999_000_000).unwrap();
    let keyring = keyring().await;
    let connector = built(
        &keyring,
        "orders",
        ConnectorSettings::AccessToken { status_list: false },
        TIMEOUT,
    )
    .await;
    let asked = MintContext {
        now: asked.now.replace_nanosecond(999_000_000).unwrap(),
        ..asked
    };
    let grant = grant("orders", "access_token").build();
    let minted = connector.mint(&grant, asked).await.unwrap();
    assert!(minted.expires_at <= asked.expires_at);
    let claims = part(minted.token.unwrap().expose(), 1);
    assert_eq!(claims["exp"], minted.expires_at.unix_timestamp());
}

#[tokio::test]
async fn the_header_says_what_kind_of_token_it_is() {
    let lease = draw();
    let keyring = keyring().await;
    let connector = built(
        &keyring,
        "orders",
        ConnectorSettings::AccessToken { status_list: false },
        TIMEOUT,
    )
    .await;
    let grant = grant("orders", "access_token").build();
    let asked = context(&lease, Duration::from_secs(60));
    let minted = connector.mint(&grant, asked).await.unwrap();
    let header = part(minted.token.as_ref().unwrap().expose(), 0);
    assert_eq!(header["typ"], "at+jwt");
    assert_eq!(header["kid"], minted.signing_key.unwrap());
}

#[test]
fn what_is_no_scope_token_is_refused() {
    for bad in ["", "a b", "a\"", "a\\", "a\n", "é", "\u{7f}"] {
        let asked = scopes(&[(&["good", bad], &[])]);
        assert!(check_actions(&asked).is_err(), "{bad:?}");
    }
    for good in ["orders:read", "a", "!#[]^~", "orders:*"] {
        assert!(check_actions(&scopes(&[(&[good], &[])])).is_ok(), "{good}");
    }
}
