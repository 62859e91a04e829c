//! Filled room by room below.
use super::*;

#[test]
fn every_algorithm_signs_and_verifies() {
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).unwrap();
        let token = key
            .sign("JWT", None, &serde_json::json!({"iss": "me"}), false)
            .unwrap();
        let parsed = Compact::parse(&token, 8192, &TypRule::Exactly("JWT")).unwrap();
        let verified = parsed.verify(&[key.verifying()], &[algorithm]).unwrap();
        assert_eq!(verified.claims()["iss"], "me");
    }
}
