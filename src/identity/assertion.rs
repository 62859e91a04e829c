//! The `assertion` of a `jwt-bearer` grant (RFC 7523 section 2.1): a platform's token, or one that
//! the agent signed itself. Each goes to the validator that it would meet in its usual place.

use super::client::TYP_GRANT;
use super::{AssertionFault, Caller, Identity, IdentityError, Presented, PresentedToken};
use crate::jose::{Compact, TypRule};
use serde_json::Value;
use time::OffsetDateTime;

const MAX_BYTES: usize = 16 * 1024;

/// What either kind may call itself; the validator it goes to says so again, for its own kind.
const TYP: TypRule = TypRule::AbsentOr(&["JWT", "JOSE"]);

impl Identity {
    pub(super) async fn granted_by(
        &self,
        token: &PresentedToken,
        presented: &Presented,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let text = token.unverified.expose();
        let platform = Compact::parse(text, MAX_BYTES, &TYP)
            .ok()
            .is_some_and(|compact| {
                let issuer = compact.unverified_claims().get("iss");
                let issuer = issuer.and_then(Value::as_str);
                issuer.is_some_and(|issuer| self.issuers.contains_key(issuer))
                    || self.trust_domain_of(&compact).is_some()
            });
        if platform {
            return self
                .workload(token, now)
                .await
                .map_err(|error| match error {
                    IdentityError::InvalidToken(fault) => {
                        IdentityError::InvalidAssertion(fault.into())
                    }
                    other => other,
                });
        }
        self.assertion(text, &TYP_GRANT, presented.client_id.as_deref(), now)
            .await
            .map_err(|error| match error {
                IdentityError::InvalidClient(fault) => {
                    IdentityError::InvalidAssertion(AssertionFault::Client(fault))
                }
                other => other,
            })
    }
}
