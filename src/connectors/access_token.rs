//! An access token as a signed JWT (RFC 9068). Made here and now, so its lease is reserved and
//! activated in one commit; dead at every broker's word when its lease is.
//!
//! In: a grant in scopes and resource URIs. Out: a `at+jwt`, bound to a key where the request
//! proved one (`cnf`: RFC 9449 section 6, RFC 8705 section 3).

use super::{ACCESS_TOKEN_TYPE, Connector, ConnectorError, Ended, Handle, MintContext, Minted};
use super::{Promises, sha256};
use crate::authority::{Authority, AuthorizationDetail};
use crate::identity::Confirmation;
use crate::ids::{AgentId, LeaseId, MissionId, ShardId};
use crate::intent::behalf;
use crate::jose::{Keyring, Purpose};
use crate::policy::Grant;
use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use time::OffsetDateTime;

const TYP: &str = "at+jwt";

#[derive(Debug)]
pub(super) struct AccessToken {
    pub keyring: Arc<Keyring>,
    /// The broker's URL: the issuer.
    pub issuer: String,
    pub promises: Promises,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    /// Whom it is for: the agent, or whom the chain of a delegation began with.
    sub: String,
    /// RFC 8693 section 4.1: who acts, outermost first. Only the outermost decides anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Value>,
    aud: &'a str,
    client_id: &'a AgentId,
    iat: i64,
    exp: i64,
    jti: &'a LeaseId,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    authorization_details: Vec<AuthorizationDetail>,
    mission: MissionClaim<'a>,
    /// The task, joining everything one run of work obtained.
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<&'a Confirmation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

/// draft-ietf-oauth-status-list-21 section 6.1.
#[derive(Serialize)]
struct Status {
    status_list: Reference,
}

#[derive(Serialize)]
struct Reference {
    idx: u32,
    uri: String,
}

/// Where the status list of a shard is read. The list says so of itself, byte for byte (its `sub`).
pub fn status_list_uri(broker_url: &str, shard: ShardId) -> String {
    format!("{broker_url}/status/{}", shard.number())
}

#[derive(Serialize)]
struct MissionClaim<'a> {
    id: &'a MissionId,
}

#[async_trait]
impl Connector for AccessToken {
    fn promises(&self) -> Promises {
        self.promises
    }

    async fn mint(
        &self,
        grant: &Grant,
        context: MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        check_actions(grant.authority())?;
        let issued_at = context.now.unix_timestamp();
        // INVARIANT: whole seconds, rounded down: the token never outlives its lease.
        let expires_at = context.expires_at.unix_timestamp();
        let claims = Claims {
            iss: &self.issuer,
            sub: behalf::subject(grant.chain(), grant.agent()),
            act: behalf::act(grant.chain(), grant.agent(), &self.issuer),
            aud: grant.audience(),
            client_id: grant.agent(),
            iat: issued_at,
            exp: expires_at,
            jti: context.lease,
            scope: grant.scope(),
            authorization_details: grant.to_details(),
            mission: MissionClaim {
                id: grant.mission(),
            },
            txn: grant.task(),
            cnf: grant.bound_key(),
            status: context.status.map(|idx| Status {
                status_list: Reference {
                    idx,
                    uri: status_list_uri(&self.issuer, context.lease.shard()),
                },
            }),
        };
        let (token, signing_key) = self
            .keyring
            .sign(Purpose::AccessToken, TYP, &claims)
            .map_err(|error| ConnectorError::Unavailable(error.to_string()))?;
        Ok(Minted {
            token_sha256: Some(sha256(token.expose())),
            token: Some(token),
            credential: None,
            issued_token_type: ACCESS_TOKEN_TYPE,
            handle: None,
            names: Vec::new(),
            expires_at: OffsetDateTime::from_unix_timestamp(expires_at)
                .map_err(|_| ConnectorError::Inexpressible("its end is no date".to_owned()))?,
            signing_key: Some(signing_key),
        })
    }

    /// The lease is the word that counts, and whoever calls this has ended it.
    async fn end(&self, _: &LeaseId, _: Option<&Handle>) -> Result<Ended, ConnectorError> {
        Ok(Ended::Dead)
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// RFC 6749 section 3.3: what may stand in a scope. A space would be read as two.
pub(super) fn check_actions(granted: &Authority) -> Result<(), ConnectorError> {
    let is_token = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
    };
    let mut permissions = granted.0.iter().peekable();
    if permissions.peek().is_none() {
        return Err(ConnectorError::Inexpressible(
            "it allows nothing".to_owned(),
        ));
    }
    for permission in permissions {
        if permission.actions.is_empty() {
            return Err(ConnectorError::Inexpressible(
                "it allows nothing".to_owned(),
            ));
        }
        if !permission.actions.iter().all(|action| is_token(action)) {
            return Err(ConnectorError::Inexpressible(
                "an action is not a scope token: use printable ASCII without spaces, `\"` and `\\`"
                    .to_owned(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
