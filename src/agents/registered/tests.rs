use super::*;
use serde_json::json;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

fn definition(purpose: &str) -> Definition {
    let value = json!({ "purpose": purpose, "ends": "2027-03-01", "identity": { "issuer": "ci" } });
    value.as_object().unwrap().clone()
}

fn id(name: &str) -> AgentId {
    name.parse().unwrap()
}

#[test]
fn a_set_is_read_as_it_was_written_and_its_name_is_its_content() {
    let set = Set::default().with(&id("b"), Some(&definition("x")), 1);
    let set = set.with(&id("a"), Some(&definition("y")), 2);
    let read = Set::read(&set.content().unwrap()).unwrap();
    assert_eq!(read, set);
    assert_eq!(read.named(2).unwrap(), set.named(2).unwrap());
    let other = set.with(&id("a"), Some(&definition("z")), 3);
    assert_ne!(other.named(3).unwrap().sha256, set.named(3).unwrap().sha256);
    // As they came, and not by name.
    let names: Vec<_> = set.definitions().into_iter().map(|(id, _)| id).collect();
    assert_eq!(names, [id("b"), id("a")]);
}

#[test]
fn a_name_that_comes_again_is_another_agent_and_a_change_is_the_same_one() {
    let set = Set::default().with(&id("a"), Some(&definition("x")), 1);
    let changed = set.with(&id("a"), Some(&definition("y")), 2);
    assert_eq!(changed.agents[&id("a")].since, 1);
    let gone = changed.with(&id("a"), None, 3);
    assert_eq!(gone, Set::default());
    let again = gone.with(&id("a"), Some(&definition("x")), 4);
    assert_eq!(again.agents[&id("a")].since, 4);
}

#[test]
fn the_audit_tells_each_change_and_of_two_with_one_number_the_one_that_counts() {
    let told = |number, sha256: &str, definition| Told {
        named: Named {
            number,
            sha256: sha256.to_owned(),
        },
        agent: id("a"),
        definition,
    };
    let all = [
        told(2, "bb", None),
        told(1, "aa", Some(definition("x"))),
        told(2, "cc", Some(definition("y"))),
    ];
    let entries: Vec<_> = all.iter().map(|told| told.entry(NOW)).collect();
    let other = Entry::new(Event::ConfigLoaded, NOW).with("number", 9);
    let entries = [entries, vec![other]].concat();
    assert_eq!(Told::in_audit(&entries), [all[1].clone(), all[2].clone()]);
}

#[test]
fn what_only_says_something_or_gives_more_days_takes_nothing_away() {
    let was = definition("x");
    let with = |key: &str, value: Value| {
        let mut is = was.clone();
        is.insert(key.to_owned(), value);
        is
    };
    for is in [
        was.clone(),
        definition("y"),
        with("ends", json!("2027-04-01")),
        with("limits", json!({ "active": 1 })),
        with("review_every", json!("30d")),
    ] {
        assert!(gives_no_less(&was, &is), "{is:?}");
    }
    for is in [
        with("ends", json!("2027-02-28")),
        with("ends", json!("never")),
        with("owner", json!("b@acme.example")),
        with("missions", json!([])),
        with("ceiling", json!([])),
        with("identity", json!({ "issuer": "other" })),
        with("intent_keys", json!({ "keys": [] })),
    ] {
        assert!(!gives_no_less(&was, &is), "{is:?}");
    }
    assert!(!gives_no_less(&with("ceiling", json!([])), &was));
}

#[test]
fn of_a_key_set_only_the_public_keys_are_kept_and_what_is_no_key_set_is_left_to_be_told() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let sent = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x, "note": "a diary" }], "more": 1 });
    let kept = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x, "alg": "EdDSA", "use": "sig" }] });
    let with = |set: &Value| {
        let client = json!({ "client": { "keys": set, "legacy_audience": true } });
        let list = json!({
            "purpose": "x", "intent_keys": set, "identity": [{ "issuer": "ci" }, client],
        });
        let one = json!({ "purpose": "x", "intent_keys": set, "identity": client });
        [list, one].map(|value| value.as_object().unwrap().clone())
    };
    for (sent, kept) in with(&sent).into_iter().zip(with(&kept)) {
        assert_eq!(with_plain_keys(sent), kept);
        assert_eq!(with_plain_keys(kept.clone()), kept);
    }
    let private = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x, "d": x }] });
    for bad in [json!("file:keys.json"), json!(7), private] {
        for sent in with(&bad) {
            assert_eq!(with_plain_keys(sent.clone()), sent);
        }
    }
}
