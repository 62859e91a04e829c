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
