//! One rule a test, at every door that takes a signed token: exactly one thing of an accepted token is
//! spoiled and nothing else, the answer is that door's own refusal, and the token as it was is still
//! good afterwards.

mod doors;

use crate::support::broker::{TestBroker, b64};
use crate::support::forge;
use crate::support::world::{assert_refused, key};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly::broker::Reason;
use dayfly::jose::{Algorithm, SigningKey};
use doors::{Door, Proof, Town, over_text};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

type Spoiled = (String, String);

/// Each of these is refused, and then the proof as it was is accepted.
async fn refused_at_every_door(spoil: impl Fn(&Proof) -> Vec<Spoiled>) {
    let town = Town::start().await;
    for door in Door::ALL {
        let proof = town.proof(door);
        let all = spoil(&proof);
        assert!(!all.is_empty(), "{door:?} is not tried");
        for (what, token) in all {
            town.refused(&proof, &token, &what).await;
        }
        town.accepted(&proof, &proof.signed(), "as it was").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forger_is_able_to_make_what_is_accepted() {
    let town = Town::start().await;
    for door in Door::ALL {
        if door.takes_notes() {
            let proof = town.proof(door);
            let deep = proof.noted(r#"{"b":[{"c":"\ud83d\ude00 ~~~???>>>"}]}"#);
            let token = proof.raw_claims(deep.as_bytes());
            town.accepted(&proof, &token, "a note").await;
        }
        let proof = town.proof(door);
        let (header, claims) = (format!("{} ", proof.header), format!(" {}", proof.claims));
        let token = over_text(&proof.key, &b64(header.as_bytes()), &b64(claims.as_bytes()));
        town.accepted(&proof, &token, "blanks within the JSON")
            .await;
        let proof = town.proof(door);
        let header = proof
            .header
            .to_string()
            .replacen('{', "{\"x\":[[{\"a\":1}]],", 1);
        let token = proof.raw(&header, proof.claims.to_string().as_bytes());
        town.accepted(&proof, &token, "a member that nobody knows")
            .await;
    }
}

/// Every `typ` that there is in the source, and some of others. A new kind of token without a row
/// here fails the test below.
const KINDS: &[&str] = &[
    "JWT",
    "JOSE",
    "at+jwt",
    "client-authentication+jwt",
    "dayfly-checkpoint+jwt",
    "dpop+jwt",
    "enrolment+jwt",
    "evidence+jwt",
    "intent+jwt",
    "logout+jwt",
    "oauth-authz-req+jwt",
    "secevent+jwt",
    "statuslist+jwt",
    "token-introspection+jwt",
    "txn_token+jwt",
    "vc+jwt",
];

/// Where a signed text is read that no door takes: what is tried instead.
const NO_DOOR: [(&str, &str); 4] = [
    (
        "broker/release.rs",
        "our_own_signature_under_another_typ_is_no_credential",
    ),
    ("cli/audit.rs", "a_checkpoint_is_one_by_its_typ"),
    (
        "client/sign_in.rs",
        "a_token_of_another_sign_in_is_not_kept",
    ),
    ("fuzzing/tokens.rs", "reads anything, believes nothing"),
];

fn source() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            if path.is_dir() && !name.ends_with("tests") {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod").next().unwrap();
                files.push((name.to_owned(), code.to_owned()));
            }
        }
    }
    files
}

#[test]
fn every_kind_of_token_and_every_validator_of_the_source_is_tried() {
    let doors = Door::ALL.map(Door::validator);
    let mut validators: BTreeSet<_> = doors.into_iter().collect();
    validators.extend(NO_DOOR.map(|(file, _)| file));
    let mut found = BTreeSet::new();
    for (file, text) in source() {
        let kinds = text
            .split('"')
            .filter(|word| word.ends_with("+jwt") && !word.contains([' ', '/']));
        for kind in kinds {
            assert!(KINDS.contains(&kind), "{file}: no row for `{kind}`");
        }
        if text.contains("Compact::parse(") {
            found.insert(file);
        }
    }
    let found: BTreeSet<_> = found.iter().map(String::as_str).collect();
    assert_eq!(
        found, validators,
        "a validator without a door, or the reverse"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_one_kind_is_none_of_another() {
    let town = Town::start().await;
    for door in Door::ALL {
        let odd = ["", " ", "text/JWT", "JWT;v=1", "jwt jwt", "application/"];
        for typ in KINDS.iter().chain(&odd).copied() {
            // A proof of its own: what is accepted is spent.
            let proof = town.proof(door);
            let token = proof.header("typ", json!(typ));
            if door.typs().contains(&Some(typ)) {
                town.accepted(&proof, &token, typ).await;
                let proof = town.proof(door);
                let spelled = format!("application/{}", typ.to_uppercase());
                let token = proof.header("typ", json!(spelled));
                town.accepted(&proof, &token, &spelled).await;
            } else {
                town.refused(&proof, &token, &format!("typ `{typ}`")).await;
            }
        }
        let proof = town.proof(door);
        for typ in [json!(1), json!(["JWT"]), json!({}), json!(true)] {
            let what = format!("typ {typ}");
            let token = proof.header("typ", typ);
            town.refused(&proof, &token, &what).await;
        }
        let untyped = proof.header("typ", Value::Null);
        if door.typs().contains(&None) {
            town.accepted(&proof, &untyped, "no typ").await;
        } else {
            town.refused(&proof, &untyped, "no typ").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_signature_under_another_typ_is_no_credential() {
    use dayfly::jose::Purpose;
    let broker = TestBroker::start().await;
    let issued = broker.issue().await;
    let token = issued["access_token"].as_str().unwrap();
    let claims = crate::exchange::claims_of(token);
    let keyring = &broker.composed.keyring;
    for typ in KINDS.iter().filter(|typ| **typ != "at+jwt") {
        let (other, _) = keyring.sign(Purpose::AccessToken, typ, &claims).unwrap();
        assert!(!broker.is_active(other.expose()).await, "{typ}");
        let fields = crate::support::broker::form(&[("token", other.expose())]);
        let released = broker.post("/revoke", &fields).await;
        assert_eq!(released.status, 200, "{typ}");
        assert!(broker.is_active(token).await, "{typ} has ended the lease");
    }
    // The key of another purpose signs no access token either.
    for purpose in [Purpose::Introspection, Purpose::Checkpoint] {
        if let Ok((other, _)) = keyring.sign(purpose, "at+jwt", &claims) {
            assert!(!broker.is_active(other.expose()).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_algorithm_none_signs_nothing_however_it_is_spelled() {
    refused_at_every_door(|proof| {
        let mut spoiled = Vec::new();
        for name in ["none", "None", "NONE", "nOnE", "none ", "", "null"] {
            let token = proof.header("alg", json!(name));
            let input = token.rsplit_once('.').unwrap().0;
            for (kind, signature) in [
                ("no", ""),
                ("an empty byte as its", "AA"),
                ("a good", token.rsplit_once('.').unwrap().1),
            ] {
                let what = format!("alg `{name}`, {kind} signature");
                spoiled.push((what, format!("{input}.{signature}")));
            }
        }
        spoiled.push(("no alg".to_owned(), proof.header("alg", Value::Null)));
        for alg in [json!(0), json!([proof.header["alg"]]), json!({})] {
            spoiled.push((format!("alg {alg}"), proof.header("alg", alg)));
        }
        spoiled
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_is_nobodys_hmac_secret() {
    refused_at_every_door(|proof| {
        let mut spoiled = Vec::new();
        for (alg, hash) in [
            ("HS256", ring::hmac::HMAC_SHA256),
            ("HS384", ring::hmac::HMAC_SHA384),
            ("HS512", ring::hmac::HMAC_SHA512),
        ] {
            for (kind, secret) in forge::public_key_as_bytes(&proof.key) {
                let header = forge::spoiled(&proof.header, "alg", json!(alg));
                let input = format!(
                    "{}.{}",
                    b64(header.to_string().as_bytes()),
                    b64(proof.claims.to_string().as_bytes())
                );
                let tag = ring::hmac::sign(&ring::hmac::Key::new(hash, &secret), input.as_bytes());
                spoiled.push((
                    format!("{alg} with the {kind}"),
                    format!("{input}.{}", b64(tag.as_ref())),
                ));
            }
        }
        spoiled
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_algorithm_and_a_signature_one_form() {
    let rsa = SigningKey::generate(Algorithm::Rs256).unwrap();
    let ec = key();
    refused_at_every_door(|proof| {
        let own = proof.header["alg"].as_str().unwrap();
        let mut spoiled: Vec<Spoiled> = [
            "ES256", "ES384", "ES512", "ES256K", "RS256", "RS384", "RS512", "PS256", "PS384",
            "EdDSA", "Ed25519", "HS256", "RSA-OAEP", "es256", "rs256", "Es256", " ES256",
        ]
        .iter()
        .filter(|alg| **alg != own)
        .map(|alg| (format!("alg {alg}"), proof.header("alg", json!(alg))))
        .collect();
        // The other family signs, under its own name and under the accepted one.
        let other = if own == "ES256" { &rsa } else { &ec };
        for alg in [own, other.algorithm().name()] {
            let header = forge::spoiled(&proof.header, "alg", json!(alg));
            let token = forge::sign(other, &header, &proof.claims);
            spoiled.push((format!("{alg} by the other family"), token));
        }
        let good = proof.signed();
        let (input, signature) = good.rsplit_once('.').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for (what, changed) in [
            ("a byte less", bytes[1..].to_vec()),
            ("a byte more", [&bytes[..], &[0]].concat()),
            ("a zero in front", [&[0], &bytes[..]].concat()),
            ("all zeros", vec![0; bytes.len()]),
            ("all ones", vec![0xff; bytes.len()]),
            ("DER", der(&bytes)),
        ] {
            spoiled.push((what.to_owned(), format!("{input}.{}", b64(&changed))));
        }
        spoiled
    })
    .await;
}

/// An ECDSA signature as X.509 writes it: not JOSE's form.
fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let digits = [&[0], half].concat();
        [&[2, u8::try_from(digits.len()).unwrap()], &digits[..]].concat()
    };
    let (r, s) = signature[..64].split_at(32);
    let both = [integer(r), integer(s)].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()], &both[..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_change_the_meaning_or_the_key_is_refused_wherever_it_stands() {
    let stranger = key();
    refused_at_every_door(|proof| {
        let mut spoiled: Vec<Spoiled> = [
            ("crit", json!(["exp"])),
            ("crit", json!(["b64"])),
            ("crit", json!(["https://acme.example/unknown"])),
            ("crit", json!([])),
            ("crit", json!("exp")),
            ("b64", json!(false)),
            ("b64", json!(true)),
            ("jku", json!("https://keys.example/jwks")),
            ("x5u", json!("https://keys.example/chain.pem")),
            ("x5c", json!(["MIIB"])),
            ("x5c", json!([])),
            ("zip", json!("DEF")),
        ]
        .into_iter()
        .map(|(name, value)| (format!("{name} {value}"), proof.header(name, value)))
        .collect();
        // With a key of its own inside, whose signature holds.
        let header = forge::spoiled(&proof.header, "alg", json!("ES256"));
        let header = forge::spoiled(&header, "jwk", stranger.public_jwk());
        let token = forge::sign(&stranger, &header, &proof.claims);
        // Where a new key is brought, it is one that nobody knows.
        if !proof.door.takes_any_key() {
            spoiled.push(("a stranger's jwk".to_owned(), token));
        }
        for jwk in [json!({}), json!("x"), json!({ "kty": "oct", "k": "AAAA" })] {
            spoiled.push((format!("jwk {jwk}"), proof.header("jwk", jwk)));
        }
        spoiled
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kid_names_a_key_and_does_nothing_else() {
    refused_at_every_door(|proof| {
        let mut kids = vec![
            json!(0),
            json!(true),
            json!(["a"]),
            json!({}),
            json!("a\u{0}b"),
            json!("a\nb"),
            json!("k".repeat(513)),
        ];
        // Where the key itself is in the header, its name is nobody's concern.
        if proof.header.get("jwk").is_none() {
            let kid = proof.header["kid"].as_str().unwrap();
            kids.extend([
                json!("../../../../etc/passwd"),
                json!("file:///dev/null"),
                json!("/dev/null"),
                json!("' OR '1'='1"),
                json!("x' UNION SELECT 'key"),
                json!("${jndi:ldap://keys.example/a}"),
                json!("$(id)"),
                json!("*"),
                json!("k".repeat(512)),
                json!(""),
                json!(kid.to_uppercase()),
                json!(format!(" {kid}")),
                json!(format!("{kid}.")),
                json!(&kid[1..]),
            ]);
        }
        kids.into_iter()
            .map(|kid| {
                let short: String = kid.to_string().chars().take(40).collect();
                (format!("kid {short}"), proof.header("kid", kid))
            })
            .collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_member_stands_twice_at_any_depth() {
    refused_at_every_door(|proof| {
        let (header, claims) = (proof.header.to_string(), proof.claims.to_string());
        let more = |text: &str, member: &str| format!("{},{member}}}", &text[..text.len() - 1]);
        let less = |text: &str, member: &str| format!("{{{member},{}", &text[1..]);
        let mut spoiled = Vec::new();
        for (name, value) in proof.header.as_object().unwrap() {
            let again = format!("\"{name}\":{value}");
            let token = proof.raw(&more(&header, &again), claims.as_bytes());
            spoiled.push((format!("{name} again in the header"), token));
        }
        for member in [
            r#""\u0061lg":"ES256""#,
            r#""x":{"a":1,"a":1}"#,
            r#""x":[[{"a":{"b":0,"\u0062":0}}]]"#,
        ] {
            let token = proof.raw(&more(&header, member), claims.as_bytes());
            spoiled.push((format!("{member} in the header"), token));
        }
        for name in proof.claims.as_object().unwrap().keys() {
            let again = format!("\"{name}\":{}", proof.claims[name]);
            spoiled.push((
                format!("{name} again"),
                proof.raw_claims(more(&claims, &again).as_bytes()),
            ));
            let other = format!("\"{name}\":\"other\"");
            spoiled.push((
                format!("another {name} in front"),
                proof.raw_claims(less(&claims, &other).as_bytes()),
            ));
        }
        let escaped = more(&claims, r#""\u0069at":1"#);
        spoiled.push((
            "iat in escapes".to_owned(),
            proof.raw_claims(escaped.as_bytes()),
        ));
        for text in [
            r#"1,"a":1"#,
            r#"{"b":1,"b":1}"#,
            r#"[{"b":1,"c":{"d":null,"d":null}}]"#,
        ] {
            let claims = proof.noted(text);
            spoiled.push((text.to_owned(), proof.raw_claims(claims.as_bytes())));
        }
        spoiled
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_one_spelling() {
    refused_at_every_door(|proof| {
        let good = proof.signed();
        let parts: Vec<_> = good.split('.').collect();
        let (head, body, tail) = (parts[0], parts[1], parts[2]);
        let mut spoiled = vec![
            ("a fourth part", format!("{good}.{tail}")),
            ("a part of JWE", format!("{good}.{tail}.{tail}")),
            ("a dot behind", format!("{good}.")),
            ("a dot in front", format!(".{good}")),
            ("two dots between", format!("{head}..{body}.{tail}")),
            ("no claims", format!("{head}..{tail}")),
            ("no header", format!(".{body}.{tail}")),
            ("a blank inside", format!("{head}. {body}.{tail}")),
            ("a line end inside", format!("{head}.{body}%0a.{tail}")),
            ("padding", format!("{good}==")),
            ("padding inside", format!("{head}=.{body}.{tail}")),
            ("twice", format!("{good},{good}")),
        ];
        if proof.door.is_a_parameter() {
            spoiled.extend([
                ("a blank in front", format!(" {good}")),
                ("a blank behind", format!("{good} ")),
                ("a line end behind", format!("{good}\r\n")),
                ("a NUL behind", format!("{good}\0")),
                ("a byte order mark", format!("\u{feff}{good}")),
                ("a wide dot", good.replacen('.', "\u{ff0e}", 1)),
                ("JSON around it", format!("\"{good}\"")),
                ("a scheme", format!("Bearer {good}")),
                (
                    "flattened JSON",
                    json!({
                        "protected": head, "payload": body, "signature": tail,
                    })
                    .to_string(),
                ),
            ]);
        }
        // Signed as they stand: only the spelling is wrong.
        let (header, claims) = (proof.header.to_string(), proof.noted("\"~~~???>>>\""));
        let text = |text: &str| b64(text.as_bytes());
        let other_alphabet = text(&claims).replace('-', "+").replace('_', "/");
        assert_ne!(other_alphabet, text(&claims));
        spoiled.push((
            "the alphabet of plain base64",
            over_text(&proof.key, &text(&header), &other_alphabet),
        ));
        let header = with_stray_bits(&header);
        spoiled.push((
            "stray bits in the header",
            over_text(&proof.key, &header, body),
        ));
        let claims = with_stray_bits(&proof.claims.to_string());
        spoiled.push((
            "stray bits in the claims",
            over_text(&proof.key, head, &claims),
        ));
        // 64 and 256 bytes both leave bits over.
        let stray = format!("{head}.{body}.{}", next_letter(tail));
        spoiled.push(("stray bits in the signature", stray));
        spoiled
            .into_iter()
            .map(|(what, token)| (what.to_owned(), token))
            .collect()
    })
    .await;
}

/// JSON of a length that leaves bits over, and one of them set.
fn with_stray_bits(json: &str) -> String {
    let mut json = json.to_owned();
    while json.len().is_multiple_of(3) {
        json.push(' ');
    }
    next_letter(&b64(json.as_bytes()))
}

/// The last letter's lowest bit set: an eager reader drops it.
fn next_letter(text: &str) -> String {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = LETTERS.find(&text[text.len() - 1..]).unwrap();
    assert_eq!(place % 2, 0, "there is a bit left");
    format!(
        "{}{}",
        &text[..text.len() - 1],
        &LETTERS[place + 1..place + 2]
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_is_a_number_within_reason() {
    let town = Town::start().await;
    for door in Door::ALL {
        let proof = town.proof(door);
        let now = town.world.broker.now();
        let never = [
            json!((now + 30).to_string()),
            json!("2099-01-01T00:00:00Z"),
            json!(""),
            Value::Null,
            json!(true),
            json!([now + 30]),
            json!({ "seconds": now + 30 }),
            json!(-1),
            json!(-1e9),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(1e300),
            // In milliseconds, as JavaScript has it.
            json!((now + 30) * 1000),
        ];
        for name in door.times() {
            for value in &never {
                let what = format!("{name} {value}");
                let token = proof.claim(name, value.clone());
                town.refused(&proof, &token, &what).await;
            }
        }
        let main = door.times()[0];
        // A proof of possession says when it was made, and is of no use after two minutes.
        let past = if main == "iat" { now - 121 } else { now - 61 };
        for value in [json!(0), json!(1e3), json!(past), json!(past as f64 - 0.5)] {
            let what = format!("{main} {value}");
            let token = proof.claim(main, value);
            town.refused(&proof, &token, &what).await;
        }
        let own = proof.claims[main].to_string();
        for raw in [
            "1e400",
            "+1",
            "0x7fffffff",
            "NaN",
            "Infinity",
            "-Infinity",
            "1_000",
            &format!("0{own}"),
        ] {
            let token = proof.number(main, raw);
            town.refused(&proof, &token, &format!("{main} {raw}")).await;
        }
        town.accepted(&proof, &proof.signed(), "as it was").await;

        // RFC 7519: a NumericDate may have a fraction, and JSON may write it with an exponent.
        for more in [".5", "e0", "000e-3"] {
            let proof = town.proof(door);
            let token = proof.number(main, &format!("{}{more}", proof.claims[main]));
            town.accepted(&proof, &token, more).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_ends_somewhere_and_is_utf_8() {
    refused_at_every_door(|proof| {
        let nested = |open: &str, close: &str, levels: usize| {
            format!("{}1{}", open.repeat(levels), close.repeat(levels))
        };
        let mut spoiled = Vec::new();
        let mut claims = |what: &str, bytes: Vec<u8>| {
            spoiled.push((what.to_owned(), proof.raw_claims(&bytes)));
        };
        // The claims and `tctx` are two levels of 16.
        claims("17 lists", proof.noted(&nested("[", "]", 15)).into());
        claims(
            "17 objects",
            proof.noted(&nested("{\"a\":", "}", 15)).into(),
        );
        claims("5000 lists", proof.noted(&nested("[", "]", 2500)).into());
        claims(
            "a list that never ends",
            proof.noted(&"[".repeat(5000)).into(),
        );
        for (what, bytes) in [
            ("a byte of no UTF-8", &b"\"\xff\""[..]),
            ("an overlong slash", b"\"\xc0\xaf\""),
            ("a surrogate in bytes", b"\"\xed\xa0\x80\""),
            ("beyond Unicode", b"\"\xf4\x90\x80\x80\""),
            ("half a letter", b"\"\xe2\x82\""),
            ("a lone surrogate", b"\"\\ud800\""),
            ("surrogates the wrong way round", b"\"\\udc00\\ud800\""),
            ("a raw control character", b"\"\x01\""),
            ("a raw line end", b"\"\n\""),
            ("an escape that is none", b"\"\\x41\""),
            ("single quotes", b"'a'"),
            ("a comment", b"1/**/"),
            ("a comma too many", b"1,"),
        ] {
            let (before, after) = proof.noted("@@").split_once("@@").map_or_else(
                || unreachable!("it was just put there"),
                |(before, after)| (before.to_owned(), after.to_owned()),
            );
            claims(what, [before.as_bytes(), bytes, after.as_bytes()].concat());
        }
        let text = proof.claims.to_string();
        let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        claims("UTF-16", utf_16);
        claims("a byte order mark", format!("\u{feff}{text}").into());
        claims("something behind", format!("{text}{{}}").into());
        claims("a NUL behind", format!("{text}\0").into());
        claims("a list of it", format!("[{text}]").into());
        claims("text of it", json!(text).to_string().into());
        claims("half of it", text.as_bytes()[..text.len() / 2].to_vec());
        claims("a number", b"1".to_vec());
        claims("null", b"null".to_vec());
        let header = proof.header.to_string();
        for (what, header) in [
            (
                "a byte order mark before the header",
                format!("\u{feff}{header}"),
            ),
            ("something behind the header", format!("{header}{{}}")),
            ("a list as the header", format!("[{header}]")),
            (
                "a header that is too deep",
                header.replacen('{', &format!("{{\"x\":{},", nested("[", "]", 16)), 1),
            ),
            (
                "a header of 5 KiB",
                header.replacen('{', &format!("{{\"x\":\"{}\",", "x".repeat(5000)), 1),
            ),
        ] {
            spoiled.push((what.to_owned(), proof.raw(&header, text.as_bytes())));
        }
        spoiled
    })
    .await;
}

/// The order of P-256: with s, its distance to this number holds as well.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

fn other_half(jws: &str) -> String {
    let (input, signature) = jws.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for (own, order) in bytes[32..].iter_mut().zip(ORDER).rev() {
        let left = i16::from(order) - i16::from(*own) - borrow;
        borrow = i16::from(left < 0);
        *own = u8::try_from(left.rem_euclid(256)).unwrap();
    }
    format!("{input}.{}", b64(&bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_signature_of_an_ecdsa_key_spends_the_same_token() {
    let town = Town::start().await;
    for (door, spent) in [
        (Door::Intent, Reason::IntentSpent),
        (Door::Client, Reason::InvalidClient),
        (Door::OwnGrant, Reason::InvalidAssertion),
        (Door::Server, Reason::InvalidClient),
        (Door::Dpop, Reason::DpopProofSpent),
    ] {
        for named in [true, false] {
            let mut proof = town.proof(door);
            // Without a `jti` two doors of one agent would be shown one token.
            proof.claims["tctx"] = json!({ "door": format!("{door:?}") });
            if !named && !matches!(door, Door::Intent | Door::Dpop) {
                proof.claims.as_object_mut().unwrap().remove("jti");
            }
            let first = proof.signed();
            let second = other_half(&first);
            assert_ne!(first, second);
            town.accepted(&proof, &second, "the other half is a signature")
                .await;
            let again = town.send(&proof, &first).await;
            assert_refused(&again, spent, &format!("{door:?} again"));
        }
    }
}
