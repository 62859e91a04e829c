use super::change::SPREAD;
use super::*;
use crate::jose::{Compact, LEEWAY, TypRule};
use crate::store::embedded::Embedded;
use crate::store::{Transaction, Write};
use serde_json::json;
use time::macros::datetime;

/// The embedded store judges deadlines by the machine's clock, so tests begin there.
fn start() -> OffsetDateTime {
    use crate::clock::{Clock as _, SystemClock};
    SystemClock::new().now()
}

fn sealer(seeds: &[u8]) -> Sealer {
    let keys: Vec<_> = seeds
        .iter()
        .map(|seed| Secret::new(vec![*seed; 32]))
        .collect();
    Sealer::new(&keys).unwrap()
}

fn store() -> Arc<dyn Store> {
    Arc::new(Embedded::in_memory().unwrap())
}

async fn open(store: &Arc<dyn Store>, now: OffsetDateTime) -> Keyring {
    Keyring::open(Arc::clone(store), sealer(&[1]), now)
        .await
        .unwrap()
}

fn sign(keyring: &Keyring, purpose: &Purpose) -> (String, String) {
    let (token, kid) = keyring.sign(purpose, "at+jwt", &json!({"a": 1})).unwrap();
    (token.expose().clone(), kid)
}

fn holds(keyring: &Keyring, purpose: &Purpose, token: &str) -> bool {
    let set = keyring.verifying(purpose);
    let parsed = Compact::parse(token, 8192, &TypRule::Exactly("at+jwt")).unwrap();
    let keys = set.candidates(parsed.kid(), parsed.alg());
    parsed.verify(&keys, &Algorithm::ALL).is_ok()
}

async fn write(store: &Arc<dyn Store>, key: crate::store::Key, value: Vec<u8>) {
    let put = Write::Put {
        key,
        value,
        expires_at: None,
    };
    let deadline = start() + Duration::from_secs(10);
    let transaction = Transaction::new(crate::ids::ShardId::INSTALLATION, deadline).write(put);
    store.commit(transaction).await.unwrap();
}

async fn read(store: &Arc<dyn Store>, key: crate::store::Key) -> Option<Vec<u8>> {
    let found = store.get(&[key]).await.unwrap();
    found
        .into_iter()
        .next()
        .flatten()
        .map(|record| record.value)
}

const ACCESS: Purpose = Purpose::AccessToken;

#[tokio::test]
async fn a_new_keyring_signs_at_once_with_a_key_per_purpose() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let mut kids = Vec::new();
    for purpose in Purpose::AT_BIRTH {
        let (token, kid) = sign(&keyring, &purpose);
        assert!(holds(&keyring, &purpose, &token));
        assert_eq!(keyring.jwks(&purpose)["keys"][0]["kid"], kid);
        assert!(keyring.jwks(&purpose)["keys"][0].get("d").is_none());
        kids.push(kid);
    }
    kids.sort();
    kids.dedup();
    assert_eq!(kids.len(), 4);
    let (token, _) = sign(&keyring, &ACCESS);
    assert!(!holds(&keyring, &Purpose::Introspection, &token));
}

#[tokio::test]
async fn opening_again_finds_the_same_keys() {
    let (store, now) = (store(), start());
    let (token, kid) = sign(&open(&store, now).await, &ACCESS);
    let again = open(&store, now).await;
    assert!(holds(&again, &ACCESS, &token));
    assert_eq!(sign(&again, &ACCESS).1, kid);
}

#[tokio::test]
async fn two_replicas_that_are_born_at_once_share_one_keyring() {
    let (store, now) = (store(), start());
    let (one, two) = tokio::join!(open(&store, now), open(&store, now));
    one.refresh(now).await.unwrap();
    two.refresh(now).await.unwrap();
    for purpose in Purpose::AT_BIRTH {
        assert_eq!(one.jwks(&purpose), two.jwks(&purpose));
        assert_eq!(one.verifying(&purpose).keys().len(), 1);
    }
}

#[tokio::test]
async fn a_successor_is_published_before_it_signs_and_the_old_key_after() {
    let (store, born) = (store(), start());
    let keyring = open(&store, born).await;
    let (old_token, old) = sign(&keyring, &ACCESS);
    let now = start();
    let report = keyring.rotate(&ACCESS, now, false).await.unwrap();
    let settings = KeyringSettings::default();
    let signs_from = now.replace_nanosecond(0).unwrap() + settings.cache_time + SPREAD;
    assert_eq!(report.signs_from, signs_from);
    assert!(report.removed.is_empty());
    assert_eq!(keyring.verifying(&ACCESS).keys().len(), 2);
    assert_eq!(sign(&keyring, &ACCESS).1, old);

    keyring
        .refresh(signs_from - Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(sign(&keyring, &ACCESS).1, old);
    keyring.refresh(signs_from).await.unwrap();
    assert_eq!(sign(&keyring, &ACCESS).1, report.new_key);
    assert!(holds(&keyring, &ACCESS, &old_token));

    // Published until the last token it can have signed is dead, on the most backward clock.
    let dead = signs_from + settings.longest_token + LEEWAY;
    keyring.refresh(dead).await.unwrap();
    assert!(holds(&keyring, &ACCESS, &old_token));
    let gone = dead + settings.cache_time + SPREAD;
    keyring.refresh(gone).await.unwrap();
    assert!(!holds(&keyring, &ACCESS, &old_token));
    assert_eq!(keyring.verifying(&ACCESS).keys().len(), 1);
}

#[tokio::test]
async fn a_rotation_under_way_is_answered_and_not_repeated() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let first = keyring.rotate(&ACCESS, now, false).await.unwrap();
    let second = keyring.rotate(&ACCESS, now, false).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(keyring.verifying(&ACCESS).keys().len(), 2);
}

#[tokio::test]
async fn of_two_replicas_that_rotate_at_once_one_wins() {
    let (store, now) = (store(), start());
    let (one, two) = (open(&store, now).await, open(&store, now).await);
    let (first, second) = tokio::join!(
        one.rotate(&ACCESS, now, false),
        two.rotate(&ACCESS, now, false)
    );
    assert_eq!(first.unwrap(), second.unwrap());
    one.refresh(now).await.unwrap();
    assert_eq!(one.jwks(&ACCESS), two.jwks(&ACCESS));
}

#[tokio::test]
async fn another_replica_follows_by_refreshing() {
    let (store, now) = (store(), start());
    let (one, two) = (open(&store, now).await, open(&store, now).await);
    let report = one.rotate(&ACCESS, now, false).await.unwrap();
    two.refresh(now).await.unwrap();
    assert_eq!(two.verifying(&ACCESS).keys().len(), 2);
    two.refresh(report.signs_from).await.unwrap();
    assert_eq!(sign(&two, &ACCESS).1, report.new_key);
}

#[tokio::test]
async fn a_compromised_key_is_gone_at_once_with_its_siblings() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let (token, old) = sign(&keyring, &ACCESS);
    let upcoming = keyring.rotate(&ACCESS, now, false).await.unwrap().new_key;
    let (other, _) = sign(&keyring, &Purpose::Checkpoint);
    let report = keyring.rotate(&ACCESS, now, true).await.unwrap();
    assert_eq!(report.removed, [old.clone(), upcoming]);
    assert!(report.signs_from <= now);
    assert_eq!(sign(&keyring, &ACCESS).1, report.new_key);
    assert!(!holds(&keyring, &ACCESS, &token));
    assert!(holds(&keyring, &Purpose::Checkpoint, &other));
    assert_eq!(read(&store, private_key(&old)).await, None);
}

#[tokio::test]
async fn the_private_half_goes_when_a_key_has_signed_its_last() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let (_, old) = sign(&keyring, &ACCESS);
    let report = keyring.rotate(&ACCESS, now, false).await.unwrap();
    keyring.refresh(report.signs_from).await.unwrap();
    assert!(read(&store, private_key(&old)).await.is_some());
    keyring.refresh(report.signs_from + SPREAD).await.unwrap();
    assert!(read(&store, private_key(&old)).await.is_none());
    assert_eq!(keyring.verifying(&ACCESS).keys().len(), 2);
    open(&store, report.signs_from + SPREAD).await;
}

#[tokio::test]
async fn checkpoints_are_verified_for_ever() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let (token, _) = sign(&keyring, &Purpose::Checkpoint);
    keyring
        .rotate(&Purpose::Checkpoint, now, false)
        .await
        .unwrap();
    keyring
        .refresh(now + Duration::from_secs(5 * 365 * 86400))
        .await
        .unwrap();
    assert!(holds(&keyring, &Purpose::Checkpoint, &token));
}

#[tokio::test]
async fn a_federation_key_is_made_when_first_asked_for_and_is_rsa() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let purpose = Purpose::Federation("aws-prod".to_owned());
    let refused = keyring.sign(&purpose, "JWT", &json!({})).unwrap_err();
    assert!(matches!(refused, KeyringError::NoKey(_)));
    let refused = keyring.rotate(&purpose, now, false).await.unwrap_err();
    assert!(matches!(refused, KeyringError::NoKey(_)));
    assert_eq!(keyring.jwks(&purpose), json!({"keys": []}));
    keyring.ensure(&purpose, now).await.unwrap();
    keyring.ensure(&purpose, now).await.unwrap();
    let (token, _) = sign(&keyring, &purpose);
    assert!(holds(&keyring, &purpose, &token));
    assert_eq!(keyring.algorithm(&purpose), Some(Algorithm::Rs256));
    assert_eq!(keyring.verifying(&purpose).keys().len(), 1);
    let other = Purpose::Federation("aws-test".to_owned());
    assert!(keyring.verifying(&other).is_empty());
}

#[tokio::test]
async fn keys_that_do_not_open_are_an_error_and_are_never_made_anew() {
    let (store, now) = (store(), start());
    let (_, kid) = sign(&open(&store, now).await, &ACCESS);
    let before = read(&store, manifest_key()).await;
    let refused = Keyring::open(Arc::clone(&store), sealer(&[2]), now)
        .await
        .unwrap_err();
    assert!(matches!(refused, KeyringError::Forged), "{refused}");

    // The manifest is good, one private half is not.
    let mut blob = read(&store, private_key(&kid)).await.unwrap();
    *blob.last_mut().unwrap() ^= 1;
    write(&store, private_key(&kid), blob).await;
    let refused = Keyring::open(Arc::clone(&store), sealer(&[1]), now)
        .await
        .unwrap_err();
    assert!(matches!(refused, KeyringError::Unopenable(_)), "{refused}");
    assert_eq!(read(&store, manifest_key()).await, before);
}

#[tokio::test]
async fn two_private_halves_cannot_be_swapped() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let (one, two) = (
        sign(&keyring, &ACCESS).1,
        sign(&keyring, &Purpose::Checkpoint).1,
    );
    let blob = read(&store, private_key(&two)).await.unwrap();
    write(&store, private_key(&one), blob).await;
    let refused = Keyring::open(Arc::clone(&store), sealer(&[1]), now)
        .await
        .unwrap_err();
    assert!(matches!(refused, KeyringError::Unopenable(_)), "{refused}");
}

#[tokio::test]
async fn a_changed_manifest_is_refused() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let good = read(&store, manifest_key()).await.unwrap();
    for place in [0, 40, good.len() - 1] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        write(&store, manifest_key(), bad).await;
        let refused = keyring.refresh(now).await.unwrap_err();
        assert!(matches!(refused, KeyringError::Forged), "{refused}");
    }
    write(&store, manifest_key(), Vec::new()).await;
    assert!(keyring.refresh(now).await.is_err());
    // What was held before goes on.
    sign(&keyring, &ACCESS);
}

#[tokio::test]
async fn an_old_manifest_does_not_bring_a_retired_key_back() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let (token, old) = sign(&keyring, &ACCESS);
    let (manifest, half) = (
        read(&store, manifest_key()).await.unwrap(),
        read(&store, private_key(&old)).await.unwrap(),
    );
    keyring.rotate(&ACCESS, now, true).await.unwrap();
    write(&store, private_key(&old), half).await;
    write(&store, manifest_key(), manifest).await;
    let refused = keyring.refresh(now).await.unwrap_err();
    assert!(matches!(refused, KeyringError::RolledBack), "{refused}");
    let refused = keyring.rotate(&ACCESS, now, false).await.unwrap_err();
    assert!(matches!(refused, KeyringError::RolledBack), "{refused}");
    assert!(!holds(&keyring, &ACCESS, &token));
}

#[tokio::test]
async fn a_manifest_that_vanished_is_not_replaced() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    let deadline = start() + Duration::from_secs(10);
    let delete = Transaction::new(crate::ids::ShardId::INSTALLATION, deadline)
        .write(Write::Delete(manifest_key()));
    store.commit(delete).await.unwrap();
    for refused in [
        keyring.refresh(now).await.unwrap_err(),
        keyring.rotate(&ACCESS, now, true).await.unwrap_err(),
    ] {
        assert!(matches!(refused, KeyringError::Vanished), "{refused}");
    }
}

#[tokio::test]
async fn a_sealing_key_can_be_changed() {
    let (store, now) = (store(), start());
    let (token, kid) = sign(&open(&store, now).await, &ACCESS);
    let both = Keyring::open(Arc::clone(&store), sealer(&[2, 1]), now)
        .await
        .unwrap();
    both.reseal(now).await.unwrap();
    let new = Keyring::open(Arc::clone(&store), sealer(&[2]), now)
        .await
        .unwrap();
    assert!(holds(&new, &ACCESS, &token));
    assert_eq!(sign(&new, &ACCESS).1, kid);
}

#[tokio::test]
async fn what_is_due_is_named_once() {
    let (store, now) = (store(), start());
    let keyring = open(&store, now).await;
    assert!(keyring.due(now).is_empty());
    let later = now + KeyringSettings::default().rotate_after;
    assert_eq!(keyring.due(later), Purpose::AT_BIRTH);
    keyring.rotate(&ACCESS, now, false).await.unwrap();
    assert_eq!(keyring.due(now).len(), 0);
    let states: Vec<_> = keyring
        .status(now)
        .unwrap()
        .into_iter()
        .map(|key| key.state)
        .collect();
    assert_eq!(
        states.iter().filter(|s| **s == KeyState::Upcoming).count(),
        1
    );
    assert_eq!(states.iter().filter(|s| **s == KeyState::Active).count(), 4);
}

#[tokio::test]
async fn access_tokens_can_be_signed_with_ed25519() {
    let settings = KeyringSettings {
        access_tokens: Algorithm::Ed25519,
        ..KeyringSettings::default()
    };
    let keyring = Keyring::open_with(store(), sealer(&[1]), settings, start())
        .await
        .unwrap();
    assert_eq!(keyring.algorithm(&ACCESS), Some(Algorithm::Ed25519));
    let (token, _) = sign(&keyring, &ACCESS);
    assert!(holds(&keyring, &ACCESS, &token));
}

#[test]
fn a_purpose_survives_the_trip_through_text() {
    for purpose in [
        ACCESS,
        Purpose::Checkpoint,
        Purpose::Federation("a/b".to_owned()),
    ] {
        assert_eq!(purpose.to_string().parse::<Purpose>().unwrap(), purpose);
    }
    for bad in [
        "",
        "federation/",
        "federation",
        "Access_token",
        "access_token/x",
    ] {
        assert!(bad.parse::<Purpose>().is_err(), "{bad}");
    }
}

#[test]
fn a_key_is_in_one_state_at_a_time() {
    let now = datetime!(2026-11-21 12:00 UTC);
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let second = now.unix_timestamp();
    let mut entry = Entry::new(key.verifying(), &ACCESS, second, second + 10);
    let at = |entry: &Entry, seconds: u64| entry.state(now + Duration::from_secs(seconds));
    assert_eq!(
        [0, 9, 10, 1000].map(|s| at(&entry, s)),
        [
            KeyState::Upcoming,
            KeyState::Upcoming,
            KeyState::Active,
            KeyState::Active
        ]
    );
    entry.signs_until = Some(second + 20);
    entry.gone_at = Some(second + 30);
    assert_eq!(
        [9, 10, 20, 29, 30].map(|s| at(&entry, s)),
        [
            KeyState::Upcoming,
            KeyState::Active,
            KeyState::Retiring,
            KeyState::Retiring,
            KeyState::Gone
        ]
    );
}
