//! What the broker says of itself (RFC 8414, OIDC discovery, JWKS), and the change of its keys.

use super::{Broker, Operator, Reason, Refusal};
use crate::audit::{Entry, Event};
use crate::fences::{Dimension, DimensionKind, FenceKind, LONGEST_LIFETIME, NewFence};
use crate::ids::{ShardId, TargetId};
use crate::jose::{KeyringError, Purpose};
use crate::wire::{
    ASSERTION_JWT_BEARER, ASSERTION_JWT_SPIFFE, CLIENT_CREDENTIALS, JWT_BEARER, RotateAnswer,
    RotateRequest, Selector, TOKEN_EXCHANGE,
};
use serde_json::{Value, json};

/// Why a fence on a signing key stands whose rotation removed it.
pub const COMPROMISED: &str = "signing key compromised";

const SIGNING_ALGORITHMS: [&str; 5] = ["ES256", "ES384", "EdDSA", "PS256", "RS256"];

impl Broker {
    /// RFC 8414 section 2, OpenID Connect Discovery section 3.
    pub fn metadata(&self) -> Value {
        let url = &self.url;
        let bundle = self.bundle.load();
        let mut types: Vec<_> = bundle
            .policy
            .targets()
            .flat_map(|target| target.vocabulary.detail_types())
            .collect();
        types.sort_unstable();
        types.dedup();
        let methods = bundle.identity.methods(self.certificates.taken);
        let mut assertions = vec![ASSERTION_JWT_BEARER];
        if methods.contains(&"spiffe_jwt") {
            assertions.push(ASSERTION_JWT_SPIFFE);
        }
        let mut metadata = json!({
            "issuer": url,
            // Nothing begins there, and it says so: both MCP SDKs refuse a document without it.
            "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"),
            "jwks_uri": format!("{url}/jwks"),
            "introspection_endpoint": format!("{url}/introspect"),
            "revocation_endpoint": format!("{url}/revoke"),
            // draft-ietf-oauth-status-list-21 section 9.
            "status_list_aggregation_endpoint": format!("{url}/status"),
            "grant_types_supported": [TOKEN_EXCHANGE, CLIENT_CREDENTIALS, JWT_BEARER],
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "token_endpoint_auth_methods_supported": methods,
            "token_endpoint_auth_signing_alg_values_supported": SIGNING_ALGORITHMS,
            "introspection_endpoint_auth_methods_supported":
                bundle.resource_servers.methods(self.certificates.taken),
            "introspection_endpoint_auth_signing_alg_values_supported": SIGNING_ALGORITHMS,
            "introspection_signing_alg_values_supported": ["ES256"],
            "revocation_endpoint_auth_methods_supported": methods,
            "revocation_endpoint_auth_signing_alg_values_supported": SIGNING_ALGORITHMS,
            "authorization_details_types_supported": types,
            "dpop_signing_alg_values_supported": SIGNING_ALGORITHMS,
            "client_assertion_types_supported": assertions,
            "tls_client_certificate_bound_access_tokens": self.certificates.taken,
        });
        // RFC 8705 section 5: so that nobody else is asked for a certificate.
        if let (Some(mtls), Some(members)) = (&self.certificates.url, metadata.as_object_mut()) {
            let aliases = json!({
                "token_endpoint": format!("{mtls}/token"),
                "revocation_endpoint": format!("{mtls}/revoke"),
                "introspection_endpoint": format!("{mtls}/introspect"),
            });
            members.insert("mtls_endpoint_aliases".to_owned(), aliases);
        }
        metadata
    }

    /// RFC 9728, of the doors that operators come to with a token. Their issuer is another's, so its
    /// tokens are what it says they are: an audience of its own, no scopes.
    pub fn protected_resource(&self, resource: &str) -> Value {
        let mut metadata = json!({
            "resource": resource,
            "resource_name": "Dayfly",
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": SIGNING_ALGORITHMS,
            "tls_client_certificate_bound_access_tokens": self.certificates.taken,
        });
        let bundle = self.bundle.load();
        if let (Some(issuer), Some(members)) = (bundle.operators.issuer(), metadata.as_object_mut())
        {
            members.insert("authorization_servers".to_owned(), json!([issuer]));
        }
        metadata
    }

    /// Public keys: access tokens, signed introspection answers, audit checkpoints, status lists.
    pub fn jwks(&self) -> Value {
        let mut keys = Vec::new();
        for purpose in [
            Purpose::AccessToken,
            Purpose::Introspection,
            Purpose::Checkpoint,
            Purpose::StatusList,
        ] {
            if let Some(Value::Array(more)) = self.keyring.jwks(&purpose).get_mut("keys") {
                keys.append(more);
            }
        }
        json!({ "keys": keys })
    }

    /// What a cloud trusts is a separate issuer with its own keys: clouds ignore `typ`, so an
    /// access token must never be a federation token.
    pub fn federation_metadata(&self, target: &str) -> Option<Value> {
        let issuer = format!("{}/federation/{}", self.url, self.federated_target(target)?);
        Some(json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "claims_supported": ["iss", "sub", "aud", "exp", "iat", "jti"],
        }))
    }

    pub fn federation_jwks(&self, target: &str) -> Option<Value> {
        let target = self.federated_target(target)?;
        Some(self.keyring.jwks(Purpose::Federation(target.to_string())))
    }

    fn federated_target(&self, target: &str) -> Option<TargetId> {
        let id: TargetId = target.parse().ok()?;
        self.bundle
            .load()
            .connectors
            .federated()
            .contains(&id)
            .then_some(id)
    }

    /// A new key; with `compromised`, the old one is gone at once and every lease it signed is dead.
    pub async fn rotate(
        &self,
        by: &Operator,
        request: RotateRequest,
    ) -> Result<RotateAnswer, Refusal> {
        if by.break_glass {
            return Err(Refusal::new(
                Reason::NotPermitted,
                "break-glass never rotates keys",
            ));
        }
        let now = self.clock.now();
        let purpose: Purpose = request.purpose.parse().map_err(|_| {
            Refusal::new(
                Reason::NotFound,
                format!("no keys for `{}`", request.purpose),
            )
            .exact()
        })?;
        let report = self
            .keyring
            .rotate(&purpose, now, request.compromised)
            .await
            .map_err(|error| match error {
                KeyringError::NoKey(_) => Refusal::new(Reason::NotFound, error.to_string()).exact(),
                other => Refusal::from(other),
            })?;
        let mut replicated = true;
        let mut ended = Vec::new();
        for kid in &report.removed {
            let dimension = Dimension::new(DimensionKind::SigningKey, kid.clone());
            let fence = NewFence::new(FenceKind::Kill, dimension, &by.name, COMPROMISED)
                .until(now + LONGEST_LIFETIME);
            let raised = self.fences.raise(fence, now).await?;
            replicated &= raised.replicated;
            ended.push((raised, Selector::SigningKey(kid.clone())));
        }
        let mut entry = Entry::new(Event::KeyRotated, now).operator(&by.name);
        entry
            .detail
            .insert("purpose".to_owned(), json!(request.purpose));
        entry
            .detail
            .insert("new_key".to_owned(), json!(report.new_key));
        entry
            .detail
            .insert("removed".to_owned(), json!(report.removed));
        self.record
            .append(entry, ShardId::INSTALLATION, now)
            .await?;
        // Counting what they end takes its time: only once all of them stand, and it is written down.
        for (raised, selector) in ended {
            self.follow_up(&raised, selector).await;
        }
        Ok(RotateAnswer {
            new_key: report.new_key,
            signs_from: report.signs_from,
            removed: report.removed,
            replicated,
        })
    }
}
