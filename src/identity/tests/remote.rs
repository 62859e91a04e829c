//! Keys that are fetched: a real issuer on loopback, whose keys change or which goes away.

use super::*;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const HOUR: i64 = 3600;

/// Answers discovery and keys, or nothing but 500 where there are no keys.
struct Platform {
    url: String,
    keys: Arc<Mutex<Option<Value>>>,
}

impl Platform {
    async fn start(keys: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(Some(keys)));
        let (base, served) = (url.clone(), Arc::clone(&keys));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let keys = served.lock().unwrap().clone();
                let (status, body) = match keys {
                    None => ("500 Internal Server Error", json!({})),
                    Some(_) if request.starts_with("GET /.well-known/openid-configuration ") => (
                        "200 OK",
                        json!({"issuer": base, "jwks_uri": format!("{base}/jwks")}),
                    ),
                    Some(keys) => ("200 OK", keys),
                };
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, keys }
    }

    fn set(&self, keys: Option<Value>) {
        *self.keys.lock().unwrap() = keys;
    }

    fn identity(&self) -> Identity {
        self.identity_kept_for(Duration::from_secs(HOUR.unsigned_abs()))
    }

    fn identity_kept_for(&self, keys_max_age: Duration) -> Identity {
        let signer = Signer::es256("unused");
        let mut settings = issuer("kubernetes", &self.url, &signer);
        settings.keys = KeySource::Discovery;
        settings.keys_max_age = keys_max_age;
        Identity::new(vec![settings], vec![], BROKER.to_owned(), &fetcher()).unwrap()
    }

    /// A token that is good for twenty hours.
    fn token(&self, signer: &Signer) -> Presented {
        let mut claims = tokens::kubernetes(NOW, &self.url, BROKER);
        claims["exp"] = json!(NOW + 20 * HOUR);
        subject(&signer.sign(&json!({}), &claims))
    }
}

#[tokio::test]
async fn keys_are_found_by_discovery() {
    let signer = Signer::es256("k-1");
    let platform = Platform::start(signer.jwks()).await;
    let identity = platform.identity();
    let caller = identity
        .verify(&platform.token(&signer), at(0))
        .await
        .unwrap();
    assert_eq!(caller.issuer_url(), platform.url);
    let stranger = Signer::es256("k-2");
    let result = identity.verify(&platform.token(&stranger), at(1)).await;
    assert_eq!(token_fault(result), TokenFault::UnknownKey);
}

#[tokio::test]
async fn a_remembered_token_is_out_with_its_key() {
    let (old, new) = (Signer::es256("k-1"), Signer::es256("k-2"));
    let platform = Platform::start(old.jwks()).await;
    let identity = platform.identity();
    let token = platform.token(&old);
    assert!(identity.verify(&token, at(0)).await.is_ok());
    assert!(identity.verify(&token, at(60)).await.is_ok());
    platform.set(Some(new.jwks()));
    let result = identity.verify(&token, at(2 * HOUR)).await;
    assert_eq!(token_fault(result), TokenFault::UnknownKey);
    assert!(
        identity
            .verify(&platform.token(&new), at(2 * HOUR))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn another_key_of_the_same_kid_does_not_keep_a_remembered_token() {
    let (old, new) = (Signer::es256("k-1"), Signer::es256("k-1"));
    let platform = Platform::start(old.jwks()).await;
    let identity = platform.identity();
    let token = platform.token(&old);
    assert!(identity.verify(&token, at(0)).await.is_ok());
    platform.set(Some(new.jwks()));
    let result = identity.verify(&token, at(2 * HOUR)).await;
    assert!(matches!(token_fault(result), TokenFault::Jose(_)));
}

#[tokio::test]
async fn an_issuer_that_is_away_is_unavailable_and_nobody_gets_in_on_old_keys() {
    let signer = Signer::es256("k-1");
    let platform = Platform::start(signer.jwks()).await;
    platform.set(None);
    let identity = platform.identity();
    let token = platform.token(&signer);
    let result = identity.verify(&token, at(0)).await;
    assert!(matches!(result, Err(IdentityError::Unavailable { .. })));

    platform.set(Some(signer.jwks()));
    assert!(identity.verify(&token, at(HOUR)).await.is_ok());
    platform.set(None);
    assert!(identity.verify(&token, at(HOUR + 60)).await.is_ok());
    let result = identity.verify(&token, at(3 * HOUR)).await;
    assert!(matches!(result, Err(IdentityError::Unavailable { .. })));
}

#[tokio::test]
async fn how_long_the_last_keys_serve_an_outage_is_the_issuers_setting() {
    let signer = Signer::es256("k-1");
    let platform = Platform::start(signer.jwks()).await;
    let (short, long) = (Duration::from_secs(600), Duration::from_secs(10_800));
    let [short, long] = [short, long].map(|kept| platform.identity_kept_for(kept));
    let token = platform.token(&signer);
    for identity in [&short, &long] {
        assert!(identity.verify(&token, at(0)).await.is_ok());
    }
    platform.set(None);
    assert!(short.verify(&token, at(599)).await.is_ok());
    let result = short.verify(&token, at(601)).await;
    assert!(matches!(result, Err(IdentityError::Unavailable { .. })));
    assert!(long.verify(&token, at(2 * HOUR)).await.is_ok());
    let result = long.verify(&token, at(3 * HOUR + 1)).await;
    assert!(matches!(result, Err(IdentityError::Unavailable { .. })));
}
