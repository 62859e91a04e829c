use super::proof::{TYP, token_hash, verify};
use super::record::{invitation_key, keys_key};
use super::*;
use crate::clock::{Clock as _, SystemClock};
use crate::identity::tests::{BROKER, NOW, at};
use crate::identity::tokens::Signer;
use crate::jose::JoseError;
use crate::store::embedded::Embedded;
use serde_json::{Value, json};

const TOKEN: &str = "dayflyjoin_0123";

fn token() -> Secret<String> {
    Secret::new(TOKEN.to_owned())
}

fn agent() -> AgentId {
    "backup".parse().unwrap()
}

fn claims() -> Value {
    json!({
        "iss": "backup", "sub": "backup", "aud": BROKER, "iat": NOW, "exp": NOW + 120,
        "join_token_hash": token_hash(&token()),
    })
}

fn header(key: &Signer) -> Value {
    json!({"typ": TYP, "jwk": key.bare_jwk(), "kid": null})
}

fn proved(key: &Signer, claims: &Value) -> Result<Applicant, ProofFault> {
    verify(&key.sign(&header(key), claims), &token(), BROKER, at(0))
}

#[test]
fn a_machine_shows_its_key_for_one_token_agent_and_broker() {
    use ProofFault as F;
    let key = Signer::es256("k");
    let applicant = proved(&key, &claims()).unwrap();
    assert_eq!(applicant.agent(), &agent());
    assert_eq!(applicant.key.thumbprint(), key.thumbprint());
    for (name, value, expected) in [
        ("iss", json!("another"), F::IssuerSubject),
        ("sub", json!("another"), F::IssuerSubject),
        ("aud", json!("https://other.example"), F::Audience),
        ("aud", json!([BROKER, "https://other.example"]), F::Audience),
        ("aud", Value::Null, F::Audience),
        ("iat", Value::Null, F::IssuedAt),
        ("iat", json!(NOW + 61), F::Jose(JoseError::NotYetValid)),
        ("exp", json!(NOW + 301), F::Jose(JoseError::LivesTooLong)),
        ("exp", json!(NOW - 61), F::Jose(JoseError::Expired)),
        ("exp", Value::Null, F::Jose(JoseError::ClaimMissing("exp"))),
        (
            "join_token_hash",
            json!(token_hash(&Secret::new("x".to_owned()))),
            F::OtherToken,
        ),
    ] {
        let mut claims = claims();
        match &value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
        assert_eq!(
            proved(&key, &claims).unwrap_err(),
            expected,
            "{name} = {value}"
        );
    }
    for (name, value) in [
        ("iss", json!("Not A Name")),
        ("sub", json!(7)),
        ("join_token_hash", Value::Null),
        ("nbf", json!(NOW)),
        ("admin", json!(true)),
    ] {
        let mut claims = claims();
        claims[name] = value.clone();
        let fault = proved(&key, &claims).unwrap_err();
        assert!(matches!(fault, F::Shape(_)), "{name} = {value}: {fault}");
    }
}

#[test]
fn a_proof_says_what_it_is_and_brings_the_key_that_signs() {
    let (key, other) = (Signer::es256("k"), Signer::es256("o"));
    let with = |header: Value| {
        let text = key.sign(&header, &claims());
        verify(&text, &token(), BROKER, at(0)).unwrap_err()
    };
    for typ in ["JWT", "intent+jwt", "dpop+jwt", "client-authentication+jwt"] {
        let fault = with(json!({"typ": typ, "jwk": key.bare_jwk()}));
        assert_eq!(fault, ProofFault::Jose(JoseError::Typ), "{typ}");
    }
    let fault = with(json!({"typ": TYP}));
    assert_eq!(fault, ProofFault::Jose(JoseError::HeaderMember("jwk")));
    // Somebody else's public key cannot be enrolled: its private half is not here.
    let fault = with(json!({"typ": TYP, "jwk": other.bare_jwk()}));
    assert_eq!(fault, ProofFault::Jose(JoseError::Signature));
}

struct Desk {
    store: Arc<Embedded>,
    enrolment: Enrolment,
    now: OffsetDateTime,
}

impl Desk {
    async fn new() -> Self {
        let clock = Arc::new(SystemClock::new());
        let store = Arc::new(Embedded::in_memory().unwrap());
        let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
        let bound = Duration::from_secs(60);
        let fences = Fences::start(store.clone(), sealer.clone(), clock.clone(), bound);
        while fences.fresh().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self {
            enrolment: Enrolment::new(store.clone(), sealer, fences),
            store,
            now: clock.now(),
        }
    }

    async fn invite(&self) -> Secret<String> {
        let new = NewInvitation {
            agent: agent(),
            by: "octavia".to_owned(),
            note: Some("db-7".to_owned()),
            valid_for: Duration::from_secs(900),
        };
        self.enrolment.invite(new, self.now).await.unwrap().0
    }

    async fn enrol(&self, token: &Secret<String>, key: &Signer) -> Result<EnrolledKey, EnrolError> {
        let now = self.now.unix_timestamp();
        let mut claims = claims();
        claims["iat"] = json!(now);
        claims["exp"] = json!(now + 120);
        claims["join_token_hash"] = json!(token_hash(token));
        let text = key.sign(&header(key), &claims);
        let applicant = verify(&text, token, BROKER, self.now).unwrap();
        let ends = self.now + Duration::from_secs(3600);
        self.enrolment
            .enrol(&applicant, token, ends, self.now)
            .await
    }

    async fn put(&self, key: Key, value: Vec<u8>) {
        let write = Write::Put {
            key: key.clone(),
            value,
            expires_at: None,
        };
        let transaction = Transaction::new(key.shard, self.now + DEADLINE).write(write);
        self.store.commit(transaction).await.unwrap();
    }

    async fn read(&self, key: &Key) -> Vec<u8> {
        let found = self.store.get(std::slice::from_ref(key)).await.unwrap();
        found[0].clone().unwrap().value
    }

    async fn verifying(&self) -> Result<KeySet, EnrolError> {
        self.enrolment.verifying(&agent(), self.now).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_spent_for_one_key_and_that_key_may_ask_again() {
    let desk = Desk::new().await;
    let (key, thief) = (Signer::es256("k"), Signer::es256("t"));
    let token = desk.invite().await;
    let enrolled = desk.enrol(&token, &key).await.unwrap();
    assert_eq!(enrolled.thumbprint, key.thumbprint());
    assert_eq!(enrolled.invited_by, "octavia");
    // The answer was lost: the same again.
    assert_eq!(desk.enrol(&token, &key).await.unwrap(), enrolled);
    let error = desk.enrol(&token, &thief).await.unwrap_err();
    assert!(matches!(error, EnrolError::Reused { .. }), "{error}");
    let keys = desk.verifying().await.unwrap();
    assert_eq!(keys.keys().len(), 1);
    assert!(keys.by_thumbprint(&key.thumbprint()).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_machines_with_one_token_exactly_one_is_enrolled() {
    let desk = Desk::new().await;
    let token = desk.invite().await;
    let keys: Vec<_> = (0..8).map(|_| Signer::es256("k")).collect();
    let all = keys.iter().map(|key| desk.enrol(&token, key));
    let all = futures_util::future::join_all(all).await;
    assert_eq!(all.iter().filter(|one| one.is_ok()).count(), 1, "{all:?}");
    assert_eq!(desk.verifying().await.unwrap().keys().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_enrol_at_once_all_keep_their_keys_up_to_the_bound() {
    let desk = Desk::new().await;
    let keys: Vec<_> = (0..4).map(|_| Signer::es256("k")).collect();
    let mut tokens = Vec::new();
    for _ in &keys {
        tokens.push(desk.invite().await);
    }
    let all = keys
        .iter()
        .zip(&tokens)
        .map(|(key, token)| desk.enrol(token, key));
    for one in futures_util::future::join_all(all).await {
        one.unwrap();
    }
    assert_eq!(desk.verifying().await.unwrap().keys().len(), 4);
    for _ in 4..MAX_KEYS {
        let token = desk.invite().await;
        desk.enrol(&token, &Signer::es256("k")).await.unwrap();
    }
    let token = desk.invite().await;
    let error = desk.enrol(&token, &Signer::es256("k")).await.unwrap_err();
    assert!(matches!(error, EnrolError::TooMany(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_in_its_time_and_for_its_agent() {
    let mut desk = Desk::new().await;
    let key = Signer::es256("k");
    let token = desk.invite().await;
    let unknown = Secret::new(format!("{TOKEN_PREFIX}{}", "0".repeat(64)));
    let error = desk.enrol(&unknown, &key).await.unwrap_err();
    assert!(matches!(error, EnrolError::UnknownToken), "{error}");
    desk.now += Duration::from_secs(900);
    let error = desk.enrol(&token, &key).await.unwrap_err();
    assert!(matches!(error, EnrolError::Expired(_)), "{error}");
    assert!(desk.verifying().await.unwrap().is_empty());
    // A key goes when the agent's last day is over, whatever the configuration says by then.
    let token = desk.invite().await;
    desk.enrol(&token, &key).await.unwrap();
    assert_eq!(desk.verifying().await.unwrap().keys().len(), 1);
    desk.now += Duration::from_secs(3600);
    assert!(desk.verifying().await.unwrap().is_empty());
}

/// The record with another name of the same length in it: all of it still parses.
fn renamed(record: &[u8]) -> Vec<u8> {
    let (mac, body) = record.split_at(32);
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.contains("octavia"));
    [mac, body.replace("octavia", "mallory").as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_to_the_store_neither_invites_nor_enrols() {
    let desk = Desk::new().await;
    let key = Signer::es256("k");
    let token = desk.invite().await;
    let place = invitation_key(&agent(), token.expose());
    let good = desk.read(&place).await;
    // Well formed, and by somebody else; a good invitation under another token's name.
    desk.put(place.clone(), renamed(&good)).await;
    let error = desk.enrol(&token, &key).await.unwrap_err();
    assert!(matches!(error, EnrolError::Forged(_)), "{error}");
    let other = Secret::new("dayflyjoin_chosen-by-the-thief".to_owned());
    desk.put(invitation_key(&agent(), other.expose()), good.clone())
        .await;
    let error = desk.enrol(&other, &key).await.unwrap_err();
    assert!(matches!(error, EnrolError::Forged(_)), "{error}");

    desk.put(place, good).await;
    desk.enrol(&token, &key).await.unwrap();
    let place = keys_key(&agent());
    let good = desk.read(&place).await;
    let text = String::from_utf8_lossy(&good).replace(&key.thumbprint(), &"A".repeat(43));
    for forged in [
        renamed(&good),
        text.into_bytes(),
        b"{}".to_vec(),
        Vec::new(),
    ] {
        desk.put(place.clone(), forged).await;
        let error = desk.verifying().await.unwrap_err();
        assert!(matches!(error, EnrolError::Forged(_)), "{error}");
    }
    // The whole record of one agent under another one's name.
    let neighbour: AgentId = "neighbour".parse().unwrap();
    desk.put(keys_key(&neighbour), good).await;
    let error = desk
        .enrolment
        .verifying(&neighbour, desk.now)
        .await
        .unwrap_err();
    assert!(matches!(error, EnrolError::Forged(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_held_proves_nothing_even_where_an_old_record_is_put_back() {
    use crate::fences::{FenceKind, NewFence};
    let desk = Desk::new().await;
    let key = Signer::es256("k");
    let token = desk.invite().await;
    desk.enrol(&token, &key).await.unwrap();
    let old = desk.read(&keys_key(&agent())).await;
    let on = Dimension::new(DimensionKind::IssuerKey, key.thumbprint());
    let fence = NewFence::new(FenceKind::Hold, on, "octavia", "stolen");
    desk.enrolment.fences.raise(fence, desk.now).await.unwrap();
    let seen = async {
        while !desk.verifying().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(30), seen).await;
    assert!(seen.is_ok(), "the hold is never seen");
    let listed = desk.enrolment.list(&agent(), desk.now).await.unwrap();
    assert_eq!(listed[0].held.as_ref().unwrap().reason, "stolen");
    desk.put(keys_key(&agent()), old).await;
    assert!(desk.verifying().await.unwrap().is_empty());
}

#[test]
fn a_join_token_is_in_no_record_and_in_no_name() {
    let key = invitation_key(&agent(), TOKEN);
    assert!(
        !key.name
            .windows(4)
            .any(|part| part == &TOKEN.as_bytes()[11..])
    );
    assert_ne!(key, invitation_key(&agent(), "dayflyjoin_4567"));
}
