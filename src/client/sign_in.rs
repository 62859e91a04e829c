//! A person's sign-in on this machine: the ID token, and the key that it is bound to.
//!
//! One file, readable by its owner alone. What is in it is never an argument, and never printed.

use super::ClientError;
use super::deliver::write_atomically;
use crate::identity::person::NONCE_PREFIX;
use crate::jose::{Algorithm, Compact, SigningKey, TypRule};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// No door takes a longer one.
const MAX_TOKEN: usize = 64 * 1024;

/// Who signed in, and until when.
#[derive(Debug)]
pub struct SignIn {
    pub issuer: String,
    pub client_id: String,
    pub subject: String,
    pub token: Secret<String>,
    pub key: SigningKey,
    pub expires_at: OffsetDateTime,
}

/// As the file has it. No `Debug`: it is all secret.
#[derive(Serialize, Deserialize)]
struct Stored {
    issuer: String,
    client_id: String,
    id_token: String,
    /// A private JWK.
    key: String,
}

impl SignIn {
    /// A key for whoever is about to sign in.
    pub fn new_key() -> Result<SigningKey, ClientError> {
        SigningKey::generate(Algorithm::Es256)
            .map_err(|error| ClientError::Local(format!("no key can be made: {error}")))
    }

    /// The `nonce` that has the provider bind the ID token to this key.
    pub fn nonce(key: &SigningKey) -> String {
        format!("{NONCE_PREFIX}{}", key.thumbprint())
    }

    /// What the provider answered with. OpenID Connect Core section 3.1.3.7: it came from the token
    /// endpoint itself, so TLS stands for the signature, which the broker verifies at each use.
    pub fn new(
        token: Secret<String>,
        key: SigningKey,
        (issuer, client_id): (&str, &str),
    ) -> Result<Self, ClientError> {
        let wrong = |what: &str| ClientError::NotSignedIn(format!("the ID token {what}"));
        let rule = TypRule::AbsentOr(&["JWT"]);
        let parsed = Compact::parse(token.expose(), MAX_TOKEN, &rule);
        let parsed = parsed.map_err(|error| wrong(&format!("is none: {error}")))?;
        let claims = parsed.unverified_claims();
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(issuer) {
            return Err(wrong("is of another issuer"));
        }
        let is_ours = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(client_id)),
            one => one.and_then(Value::as_str) == Some(client_id),
        };
        if !is_ours {
            return Err(wrong("is for another client"));
        }
        // SECURITY: of another sign-in, or of a provider that drops the nonce: nothing binds it.
        if text("nonce") != Some(Self::nonce(&key).as_str()) {
            return Err(wrong(
                "does not have the `nonce` that it was asked for with",
            ));
        }
        let expires_at = claims.get("exp").and_then(Value::as_i64);
        let expires_at = expires_at.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
        let expires_at = expires_at.ok_or_else(|| wrong("says no `exp`"))?;
        let subject = text("sub")
            .ok_or_else(|| wrong("says no `sub`"))?
            .to_owned();
        Ok(Self {
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            subject,
            token,
            key,
            expires_at,
        })
    }

    pub fn save(&self, path: &Path) -> Result<(), ClientError> {
        let stored = Stored {
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            id_token: self.token.expose().clone(),
            key: self.key.to_private_jwk().expose().clone(),
        };
        let text = serde_json::to_string(&stored)
            .map_err(|error| ClientError::Local(format!("the sign-in: {error}")))?;
        write_atomically(path, &Secret::new(text))
    }

    /// What is stored, stale or not; `None`: nobody signed in.
    pub fn load(path: &Path) -> Result<Option<Self>, ClientError> {
        let bad = |why: String| {
            let path = path.display();
            ClientError::NotSignedIn(format!("{path}: {why}; {AGAIN}"))
        };
        let mode = match std::fs::metadata(path) {
            Ok(file) => file.permissions().mode(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(bad(error.to_string())),
        };
        // SECURITY: the key in it may be anybody's by now.
        if mode & 0o077 != 0 {
            return Err(bad("others can read it".to_owned()));
        }
        let text = std::fs::read_to_string(path).map(Secret::new);
        let text = text.map_err(|error| bad(error.to_string()))?;
        let stored: Stored = serde_json::from_str(text.expose())
            .map_err(|_| bad("it is not what `dayfly login --person` writes".to_owned()))?;
        let key = SigningKey::from_private_jwk(&Secret::new(stored.key))
            .map_err(|error| bad(format!("its key: {error}")))?;
        let names = (stored.issuer.as_str(), stored.client_id.as_str());
        Self::new(Secret::new(stored.id_token), key, names).map(Some)
    }

    /// What is stored and still good for something.
    pub fn current(path: &Path, now: OffsetDateTime) -> Result<Self, ClientError> {
        let signed_in = Self::load(path)?
            .ok_or_else(|| ClientError::NotSignedIn(format!("nobody is signed in: {FIRST}")))?;
        if now >= signed_in.expires_at {
            let at = signed_in.until();
            let why = format!(
                "the sign-in of {} ended at {at}; {AGAIN}",
                signed_in.subject
            );
            return Err(ClientError::NotSignedIn(why));
        }
        Ok(signed_in)
    }

    pub fn until(&self) -> String {
        self.expires_at.format(&Rfc3339).unwrap_or_default()
    }
}

const FIRST: &str = "run `dayfly login --person`";
const AGAIN: &str = "run `dayfly login --person` again";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use time::Duration;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
    const NAMES: (&str, &str) = ("https://login.example", "dayfly-people");

    fn claims(key: &SigningKey) -> Value {
        json!({
            "iss": NAMES.0, "aud": NAMES.1, "sub": "00u1", "nonce": SignIn::nonce(key),
            "exp": (NOW + Duration::minutes(5)).unix_timestamp(),
        })
    }

    fn signed_in(change: impl FnOnce(&mut Value)) -> Result<SignIn, ClientError> {
        let key = SignIn::new_key().unwrap();
        let mut claims = claims(&key);
        change(&mut claims);
        let provider = SignIn::new_key().unwrap();
        let token = provider.sign("JWT", None, &claims, false).unwrap();
        SignIn::new(Secret::new(token), key, NAMES)
    }

    #[test]
    fn a_token_of_another_sign_in_is_not_kept() {
        let good = signed_in(|_| {}).unwrap();
        assert_eq!(good.subject, "00u1");
        assert!(signed_in(|c| c["aud"] = json!(["other", NAMES.1])).is_ok());
        for (name, value) in [
            ("iss", json!("https://else.example")),
            ("aud", json!("other")),
            ("aud", json!(["other"])),
            ("nonce", json!("dayfly-jkt:another")),
            ("nonce", Value::Null),
            ("exp", Value::Null),
            ("sub", Value::Null),
        ] {
            let kept = signed_in(|claims| claims[name] = value.clone());
            assert!(matches!(kept, Err(ClientError::NotSignedIn(_))), "{name}");
        }
    }

    #[test]
    fn what_is_stored_is_its_owners_alone_and_good_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("person");
        let told = |path: &Path, now| SignIn::current(path, now).unwrap_err().to_string();
        assert!(told(&path, NOW).contains("nobody is signed in"));
        let stored = signed_in(|_| {}).unwrap();
        stored.save(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path) & 0o777, 0o600);
        let read = SignIn::current(&path, NOW).unwrap();
        assert_eq!(read.key.thumbprint(), stored.key.thumbprint());
        assert_eq!(read.token.expose(), stored.token.expose());
        let late = NOW + Duration::minutes(5);
        assert!(SignIn::current(&path, late - Duration::SECOND).is_ok());
        assert!(told(&path, late).contains("ended at 2026-11-21T12:05:00Z"));
        let debug = format!("{read:?}");
        assert!(!debug.contains(stored.token.expose().as_str()), "{debug}");

        let open = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(&path, open).unwrap();
        assert!(told(&path, NOW).contains("others can read it"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "{}").unwrap();
        assert!(told(&path, NOW).contains("not what"));
    }
}
