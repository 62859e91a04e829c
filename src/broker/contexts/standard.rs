//! Messages that are signed as "Standard Webhooks" 1.0.0 says, with a shared secret: `webhook-signature` holds
//! `v1,` and the HMAC-SHA-256 of `ID.TIMESTAMP.BODY` in base64, one or more of them, beside others.

use super::TIMESTAMP_WINDOW;
use crate::secret::Secret;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use std::fmt;
use time::OffsetDateTime;

const PREFIX: &str = "whsec_";
/// Of the decoded secret. "At least 24 bytes (192 bits, 512 maximum)".
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;
/// Signatures that are tried: of the key that is used now, and of those before it.
const MOST: usize = 8;

/// A secret that says what it is for: whoever has one signs in this way and in no other.
#[derive(Clone)]
pub struct SigningSecret(hmac::Key);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret")
    }
}

impl SigningSecret {
    /// `None`: it is another kind of secret. `Err`: it begins like one, and is none.
    pub fn of(secret: &Secret<String>) -> Option<Result<Self, &'static str>> {
        let encoded = secret.expose().strip_prefix(PREFIX)?;
        let decoded = STANDARD.decode(encoded).map_err(|_| "is not base64");
        Some(
            decoded.and_then(|bytes| match LENGTHS.contains(&bytes.len()) {
                true => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))),
                false => Err("is not 24 to 64 bytes"),
            }),
        )
    }

    pub(super) fn signed(&self, headers: &HeaderMap, body: &[u8], now: OffsetDateTime) -> bool {
        let (Some(id), Some(timestamp)) = (id(headers), header(headers, "webhook-timestamp"))
        else {
            return false;
        };
        let is_number = timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let sent = timestamp.parse().ok().filter(|_| is_number);
        let sent = sent.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        let is_recent = sent.is_some_and(|sent| (now - sent).abs() <= TIMESTAMP_WINDOW);
        if !is_recent {
            return false;
        }
        let signed = [id.as_bytes(), timestamp.as_bytes(), body].join(&b'.');
        let all = header(headers, "webhook-signature").unwrap_or_default();
        // SECURITY: only those of this kind count: `v1a` is made with another sort of key.
        let ours = all.split(' ').take(MOST);
        ours.filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok())
            .any(|tag| hmac::verify(&self.0, &signed, &tag).is_ok())
    }
}

/// What a message is known by, however often it is delivered. It is signed.
pub fn id(headers: &HeaderMap) -> Option<&str> {
    // SECURITY: a `.` would let it end elsewhere than where it was signed.
    header(headers, "webhook-id").filter(|id| !id.is_empty() && !id.contains('.'))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Option<Result<SigningSecret, &'static str>> {
        SigningSecret::of(&Secret::new(text.to_owned()))
    }

    /// The example in the tests of the standard's own libraries.
    #[test]
    fn what_others_sign_is_signed() {
        let key = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            .unwrap()
            .unwrap();
        let body = br#"{"test": 2432232314}"#;
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            (
                "webhook-signature",
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        for (seconds, good) in [
            (0, true),
            (300, true),
            (-300, true),
            (301, false),
            (-301, false),
        ] {
            let now = at(1_614_265_330 + seconds);
            assert_eq!(key.signed(&headers, body, now), good, "{seconds}");
        }
        assert!(!key.signed(&headers, b"{}", at(1_614_265_330)));
        headers.insert("webhook-timestamp", "+1614265330".parse().unwrap());
        assert!(!key.signed(&headers, body, at(1_614_265_330)));
    }

    #[test]
    fn a_secret_that_only_begins_like_one_is_refused() {
        assert!(secret("hook-secret").is_none());
        let short = STANDARD.encode([7; 23]);
        for (text, why) in [
            ("whsec_no base64", "is not base64"),
            ("whsec_", "is not 24 to 64 bytes"),
            (&*format!("whsec_{short}"), "is not 24 to 64 bytes"),
        ] {
            assert_eq!(secret(text).unwrap().err(), Some(why), "{text}");
        }
        let key = secret(&format!("whsec_{}", STANDARD.encode([7; 32])));
        assert!(!format!("{key:?}").contains("BwcH"));
    }
}
