//! An opaque key: `dayfly_...`. The broker keeps its SHA-256 only and answers for it at
//! `/introspect`, so that it dies the moment its lease does.

use super::access_token::check_actions;
use super::{ACCESS_TOKEN_TYPE, Connector, ConnectorError, Ended, Handle, MintContext, Minted};
use super::{Promises, opaque, sha256};
use crate::ids::LeaseId;
use crate::policy::Grant;
use async_trait::async_trait;

const PREFIX: &str = "dayfly_";

/// The lease that a well-formed key names. Whether we made it, the lease's SHA-256 says.
pub fn parse(text: &str) -> Option<LeaseId> {
    opaque::parse(PREFIX, text)
}

#[derive(Debug)]
pub(super) struct ApiKey {
    pub promises: Promises,
}

#[async_trait]
impl Connector for ApiKey {
    fn promises(&self) -> Promises {
        self.promises
    }

    async fn mint(
        &self,
        grant: &Grant,
        context: MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        check_actions(grant.authority())?;
        let token = opaque::draw(PREFIX, context.lease);
        Ok(Minted {
            token_sha256: Some(sha256(token.expose())),
            token: Some(token),
            credential: None,
            issued_token_type: ACCESS_TOKEN_TYPE,
            handle: None,
            names: Vec::new(),
            expires_at: context.expires_at,
            signing_key: None,
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
