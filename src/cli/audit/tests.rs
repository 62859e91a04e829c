use super::*;
use crate::jose::SigningKey;

#[test]
fn a_checkpoint_is_one_by_its_typ() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let keys = KeySet::new(vec![key.verifying().clone()]).unwrap();
    let claims = json!({ "checkpoint": 1, "sha256": "00" });
    let signed = |typ: &str| key.sign(typ, None, &claims, false).unwrap();
    assert!(checkpoint_holds(&signed(CHECKPOINT_TYP), &keys));
    for typ in ["JWT", "at+jwt", "intent+jwt", "token-introspection+jwt", ""] {
        assert!(!checkpoint_holds(&signed(typ), &keys), "{typ}");
    }
    let stranger = SigningKey::generate(Algorithm::Es256).unwrap();
    let other = KeySet::new(vec![stranger.verifying().clone()]).unwrap();
    assert!(!checkpoint_holds(&signed(CHECKPOINT_TYP), &other));
    let with_key = key.sign(CHECKPOINT_TYP, None, &claims, true).unwrap();
    assert!(!checkpoint_holds(&with_key, &keys), "its own key in it");
}

#[test]
fn an_entry_is_a_line_that_says_who_what_and_why() {
    let shown = entries(&[
        json!({"at": "2026-11-21T14:56:20.62289Z", "event": "refused", "agent": "reporter",
            "reason": "exceeds_mission", "detail": {"why": "no orders:write"}}),
        json!({"at": "2026-11-21T14:56:21.1Z", "event": "issued", "agent": "reporter",
            "lease": "dfl1", "detail": {"goal": "The \u{1b}[2Jreport"}}),
        json!({"at": "2026-11-21T14:56:22Z", "event": "fence_raised", "operator": "me",
            "reason": "trying", "detail": {"kind": "kill", "dimension": "agent", "value": "reporter"}}),
        json!({}),
    ]);
    let lines: Vec<_> = shown.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        [
            "AT                    EVENT         AGENT     BY  LEASE  WHY",
            "2026-11-21T14:56:20Z  refused       reporter             exceeds_mission: no orders:write",
            "2026-11-21T14:56:21Z  issued        reporter      dfl1   The ?[2Jreport",
            "2026-11-21T14:56:22Z  fence_raised            me         kill agent reporter: trying",
            "Z",
        ]
    );
}
