//! A machine enrols its own key: it proves that it holds it, and spends its join token.

use super::{Client, ClientError};
use crate::identity::enrolment::proof;
use crate::ids::AgentId;
use crate::jose::SigningKey;
use crate::secret::Secret;
use crate::wire::EnrolAnswer;
use serde_json::json;
use time::OffsetDateTime;

const LIFETIME_SECONDS: i64 = 120;

impl Client {
    /// `POST /enrol`. With the same key and token it may be asked again: a lost answer is answered.
    pub async fn enrol(
        &self,
        agent: &AgentId,
        key: &SigningKey,
        token: &Secret<String>,
        now: OffsetDateTime,
    ) -> Result<EnrolAnswer, ClientError> {
        let issued = now.unix_timestamp();
        let claims = json!({
            "iss": agent, "sub": agent, "aud": self.broker(),
            "iat": issued, "exp": issued + LIFETIME_SECONDS,
            "join_token_hash": proof::token_hash(token),
        });
        let proof = key.sign(proof::TYP, None, &claims, true);
        let proof = proof
            .map_err(|error| ClientError::Local(format!("the proof cannot be signed: {error}")))?;
        let form = [("join_token", token.expose().clone()), ("proof", proof)];
        self.post_form("/enrol", &form).await
    }
}
