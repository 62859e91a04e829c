//! Tokens and keys: whatever is read is the only reading, and nothing unsigned is verified.

use crate::identity::DpopProof;
use crate::identity::aws::principal;
use crate::identity::aws::request::SignedRequest;
use crate::identity::claims::find;
use crate::identity::dpop::verify;
use crate::intent::claims::Signed;
use crate::jose::claims::{audiences, instant, optional_text, sole_audience, text, times};
use crate::jose::{
    Algorithm, Compact, KeySet, LEEWAY, MAX_KEYS, MAX_TRIED_KEYS, SigningKey, TypRule,
    VerifyingKey, parse_object,
};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::sync::LazyLock;
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::datetime;
use url::Url;

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
const BROKER: &str = "https://dayfly.example";
const MAX_TOKEN: usize = 16 * 1024;

const RULES: [TypRule; 4] = [
    TypRule::Exactly("intent+jwt"),
    TypRule::ExactlyWithKey("intent+jwt"),
    TypRule::AbsentOr(&["JWT", "at+jwt"]),
    TypRule::ExactlyWithKey("dpop+jwt"),
];

/// The keys and the signed examples of RFC 7515, appendices A.2 and A.3.
static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    KeySet::parse(include_bytes!("../../fuzz/fixtures/rfc7515.jwks.json")).unwrap_or_default()
});
const SIGNED: [&str; 2] = [
    include_str!("../../fuzz/fixtures/rfc7515-a2.jws"),
    include_str!("../../fuzz/fixtures/rfc7515-a3.jws"),
];

/// A request signed for STS, in the clear; or, where it is no JSON, what STS answers.
pub fn aws(bytes: &[u8]) {
    if bytes.first() != Some(&b'{') {
        let Ok(Ok(claims)) = std::str::from_utf8(bytes).map(principal::claims) else {
            return;
        };
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let account = text("account");
        assert!(account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()));
        assert!(text("arn").contains(account) && text("sub").contains(account));
        assert_ne!(text("role_id").is_empty(), text("user_id").is_empty());
        return;
    }
    let Ok(request) = SignedRequest::parse(&URL_SAFE_NO_PAD.encode(bytes)) else {
        return;
    };
    let url = Url::parse(&request.origin).map(|url| url.origin().ascii_serialization());
    assert_eq!(url.as_deref(), Ok(request.origin.as_str()), "one reading");
    for (name, value) in request.headers() {
        assert!(name == name.to_ascii_lowercase() && !value.is_empty());
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    }
}

/// A compact JWS; or, so that a change reaches beyond base64, its three parts in the clear, one a
/// line, when the first byte is `{`.
pub fn jws(bytes: &[u8]) {
    let text = if bytes.first() == Some(&b'{') {
        let parts: Vec<String> = bytes
            .splitn(3, |byte| *byte == b'\n')
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .collect();
        parts.join(".")
    } else {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return,
        }
    };
    for rule in RULES {
        let Ok(token) = Compact::parse(&text, MAX_TOKEN, &rule) else {
            continue;
        };
        check_reading(&text, &token, rule);
        check_signature(token);
    }
}

fn check_reading(text: &str, token: &Compact, rule: TypRule) {
    let parts: Vec<&str> = text.split('.').collect();
    assert!(parts.len() == 3 && text.len() <= MAX_TOKEN);
    for part in &parts {
        let bytes = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        assert!(
            !bytes.is_empty() && URL_SAFE_NO_PAD.encode(bytes) == *part,
            "a second spelling was let through"
        );
    }
    assert!(
        text.as_bytes().starts_with(token.signing_input()),
        "what is signed is the token's own beginning"
    );
    let with_key = matches!(rule, TypRule::ExactlyWithKey(_));
    assert!(token.embedded_key().is_some() == with_key);
    assert!(
        token
            .embedded_key()
            .is_none_or(|key| key.algorithm() == token.alg())
    );
    let expected = match rule {
        TypRule::Exactly(typ) | TypRule::ExactlyWithKey(typ) => Some(typ),
        TypRule::AbsentOr(_) => None,
    };
    assert!(expected.is_none_or(|typ| {
        let found = token.typ().unwrap_or_default().to_ascii_lowercase();
        found == typ || found.strip_prefix("application/") == Some(typ)
    }));
}

/// SECURITY: nobody who lacks the key signs anything, whatever else is in the token.
fn check_signature(token: Compact) {
    assert!(!KEYS.is_empty(), "the fixture of RFC 7515 does not parse");
    let keys: Vec<&VerifyingKey> = KEYS.keys().iter().collect();
    let input = token.signing_input().to_vec();
    if token.verify(&keys, &Algorithm::ALL).is_ok() {
        let known = SIGNED.iter().any(|jws| {
            jws.trim()
                .rsplit_once('.')
                .is_some_and(|(signed, _)| signed.as_bytes() == input)
        });
        assert!(known, "a signature that nobody made was accepted");
    }
}

/// Claims as JSON: read without loss, and times that hold what they promise.
pub fn claims(bytes: &[u8]) {
    let Ok(claims) = parse_object(bytes) else {
        return;
    };
    // serde_json is more lenient; where it agrees, it must have read the same.
    let lenient = serde_json::from_slice::<Value>(bytes).ok();
    assert!(
        lenient == Some(Value::Object(claims.clone())),
        "two readers, two tokens"
    );
    check_writing(&claims);
    for seconds in [0, 300, 3600, 86_400] {
        check_times(&claims, Duration::from_secs(seconds));
    }
    for name in ["exp", "iat", "nbf", "iss", "sub", "jti"] {
        if let Ok(Some(moment)) = instant(&claims, name) {
            assert!((0..=100_000_000_000).contains(&moment.unix_timestamp()));
        }
        let found = claims.get(name).and_then(Value::as_str);
        assert!(text(&claims, name).ok() == found.filter(|text| !text.is_empty()));
        assert!(
            optional_text(&claims, name).is_err() || claims.get(name).is_none() == found.is_none()
        );
    }
    if let Ok(sole) = sole_audience(&claims) {
        assert!(audiences(&claims).as_deref() == Ok(&[sole]));
    }
    for path in claims.keys().chain(&["a.b".to_owned(), "...".to_owned()]) {
        let _ = find(&claims, path);
    }
}

/// serde_json reads a fraction to within its last bit, so those are left out.
fn check_writing(claims: &Map<String, Value>) {
    if !claims.values().any(has_fraction) {
        let written = serde_json::to_vec(claims).unwrap_or_default();
        assert!(
            parse_object(&written).as_ref() == Ok(claims),
            "the claims do not survive being written"
        );
    }
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(has_fraction),
        Value::Object(members) => members.values().any(has_fraction),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

fn check_times(claims: &Map<String, Value>, longest: Duration) {
    if let Ok(times) = times(claims, NOW, longest) {
        assert!(NOW < times.expires_at + LEEWAY, "it has expired");
        assert!(times.issued_at <= NOW + LEEWAY, "it is not valid yet");
        assert!(
            times.expires_at - times.issued_at <= longest,
            "it lives too long"
        );
        assert!(claims.get("exp").is_some_and(Value::is_number));
    }
}

/// The claim set of an intent: closed, about one target, for its signer alone, for minutes.
pub fn intent(bytes: &[u8]) {
    let Ok(claims) = parse_object(bytes) else {
        return;
    };
    let Ok(signed) = Signed::read(&claims, BROKER, NOW) else {
        return;
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    assert!(text(claims.get("sub")).as_ref() == Some(&signed.subject));
    assert!(text(claims.get("act").and_then(|act| act.get("sub"))) == signed.actor);
    assert!(
        signed.expires_at > NOW - LEEWAY
            && signed.expires_at <= NOW + LEEWAY + crate::intent::claims::MAX_LIFETIME
    );
    assert!(sole_audience(&claims) == Ok(BROKER));
    let details = &signed.authorization_details;
    assert!(details.len() <= 16 && (!details.is_empty() || signed.mission.is_some()));
    assert!(details.windows(2).all(|pair| match pair {
        [one, other] => one.identifier == other.identifier && one.kind == other.kind,
        _ => false,
    }));
    assert!(
        !details
            .iter()
            .any(|detail| detail.actions.is_empty() || detail.max_ttl == Some(0))
    );
    assert!(signed.goal_ends.is_none_or(|ends| ends > NOW));
    assert!(!signed.goal.trim().is_empty());
    // What is kept as evidence says the same when it is read again.
    check_writing(&claims);
}

/// A set of keys: bounded, public, each for one algorithm, none that could be taken for another.
pub fn jwks(bytes: &[u8]) {
    let Ok(set) = KeySet::parse(bytes) else {
        return;
    };
    assert!(!set.is_empty() && set.keys().len() <= MAX_KEYS);
    for key in set.keys() {
        let again = VerifyingKey::from_jwk(&key.to_jwk());
        assert!(
            again.as_ref() == Ok(key),
            "a key does not survive being written"
        );
        let members = key.to_jwk();
        assert!(
            ["d", "p", "q", "k"]
                .iter()
                .all(|name| members.get(*name).is_none())
        );
        assert!(key.thumbprint().len() == 43 && set.by_thumbprint(key.thumbprint()).is_some());
        for kid in [key.kid(), Some(key.thumbprint()), Some("another"), None] {
            let candidates = set.candidates(kid, key.algorithm());
            assert!(candidates.len() <= MAX_TRIED_KEYS);
            assert!(
                candidates
                    .iter()
                    .all(|one| one.algorithm() == key.algorithm())
            );
        }
        assert!(key.kid().is_none_or(|kid| set.knows(kid)));
    }
    let published = set.to_jwks().to_string();
    assert!(KeySet::parse(published.as_bytes()).as_ref() == Ok(&set));
}

const DOOR: &str = "https://dayfly.example/token";
static KEY: LazyLock<Option<SigningKey>> =
    LazyLock::new(|| SigningKey::generate(Algorithm::Ed25519).ok());

/// A DPoP proof; or, when it begins with `{`, the claims of one that is signed well.
pub fn dpop(bytes: &[u8]) {
    let text = match (parse_object(bytes), &*KEY) {
        (Ok(claims), Some(key)) => key.sign("dpop+jwt", None, &claims, true).ok(),
        _ => std::str::from_utf8(bytes).ok().map(str::to_owned),
    };
    let Some(text) = text else { return };
    for token in [None, Some("a-token")] {
        let proof = DpopProof {
            unverified: Secret::new(text.clone()),
            method: "POST".to_owned(),
            url: DOOR.to_owned(),
            access_token: token.map(|token| Secret::new(token.to_owned())),
        };
        let Ok(proved) = verify(&proof, None, NOW) else {
            continue;
        };
        let payload = text
            .split('.')
            .nth(1)
            .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims = payload
            .and_then(|bytes| parse_object(&bytes).ok())
            .unwrap_or_default();
        let told = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        assert!(told("htm") == "POST" && (1..=1024).contains(&told("jti").len()));
        let age = instant(&claims, "iat")
            .ok()
            .flatten()
            .map(|made| NOW - made);
        assert!(
            age.is_some_and(|age| age.abs() < 2 * LEEWAY),
            "it is not of now"
        );
        let meant = Url::parse(told("htu")).ok();
        assert!(
            meant.is_some_and(|url| url.origin().ascii_serialization() == "https://dayfly.example")
        );
        assert!(token.is_none() || told("ath").len() == 43);
        assert!(proved.replay().keep_until > NOW, "it could be sent again");
    }
}
