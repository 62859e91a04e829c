//! The main job: a proof and a signed intent in, a narrow credential with a lease out.

use super::{Broker, Bundle, Reason, Refusal};
use crate::agents::AdmittedAgent;
use crate::connectors::{Connector, MintContext, Minted};
use crate::fences::View;
use crate::identity::Presented;
use crate::intent::Asked;
use crate::leases::{Draft, Issued};
use crate::policy::Grant;
use crate::wire::{Revocation, TokenResponse};
use std::sync::Arc;
use time::OffsetDateTime;

/// A token request, parsed and bounded by the door, nothing in it verified.
#[derive(Debug)]
pub struct ExchangeRequest {
    pub grant: GrantType,
    pub presented: Presented,
    pub asked: Asked,
    pub requested_token_type: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantType {
    TokenExchange,
    ClientCredentials,
}

impl Broker {
    /// RFC 8693 section 2, RFC 6749 section 4.4.
    pub async fn exchange(&self, request: ExchangeRequest) -> Result<TokenResponse, Refusal> {
        let now = self.clock.now();
        let bundle = self.bundle.load_full();
        // INVARIANT: the view comes first; everything below decides on this one view, so that an
        // end that is appended meanwhile is later than the lease and kills it.
        let view = self.view()?;
        let answer = self.walk(&bundle, &view, request, now).await;
        match &answer {
            Ok(issued) => self.record.issued(issued),
            Err(refusal) => self.record.refused(refusal),
        }
        answer
    }

    async fn walk(
        &self,
        bundle: &Bundle,
        view: &View,
        request: ExchangeRequest,
        now: OffsetDateTime,
    ) -> Result<TokenResponse, Refusal> {
        let caller = bundle.identity.verify(&request.presented, now).await?;
        let keys = |thumbprint: &str| bundle.agents.signs_with(&caller, thumbprint);
        let intent = bundle.intents.verify(request.asked, &caller, &keys, now)?;
        let agent = bundle.agents.admit(caller, &intent, view, now)?;
        let decided = bundle.policy.decide(&agent, &intent, view, now).map_err(Refusal::from);
        let grant = match decided {
            Ok(grant) => grant,
            Err(refusal) => return Err(self.refuse(&agent, &intent, refusal, bundle, now).await),
        };
        let connector = bundle
            .connectors
            .get(grant.target())
            .ok_or_else(|| Refusal::new(Reason::Internal, "a target without a connector"))?;
        let issued = self.mint(&grant, connector.as_ref(), now).await.map_err(Refusal::exact)?;
        self.answer(&grant, connector.as_ref(), issued, now)
    }

    /// Local mints reserve and activate in one commit; every other is recorded before it exists.
    async fn mint(
        &self,
        grant: &Grant,
        connector: &dyn Connector,
        now: OffsetDateTime,
    ) -> Result<Issued, Refusal> {
        let promises = connector.promises();
        let draft = self.leases.draft(grant, &promises, now)?;
        if promises.local {
            let minted = connector.mint(grant, context(&draft, now)).await?;
            return Ok(self.leases.issue_local(grant, draft, minted, now).await?);
        }
        let reserved = self.leases.reserve(grant, draft, now).await?;
        let minted = match connector.mint(grant, context(reserved.draft(), now)).await {
            Ok(minted) => minted,
            Err(error) => {
                let refusal = Refusal::from(&error);
                self.leases.fail(reserved, &error, self.clock.now()).await?;
                return Err(refusal);
            }
        };
        let activated = self.leases.activate(reserved, minted, self.clock.now()).await?;
        Ok(activated)
    }

    fn answer(
        &self,
        grant: &Grant,
        connector: &dyn Connector,
        issued: Issued,
        now: OffsetDateTime,
    ) -> Result<TokenResponse, Refusal> {
        // INVARIANT: the view is checked last, just before the answer is written.
        let view = self.view()?;
        if let Some(ended) = view.ended_by(issued.dimensions(), grant.position()) {
            return Err(Refusal::new(Reason::RevokedMeanwhile, format!("{ended:?}")).exact());
        }
        let promises = connector.promises();
        let Minted { token, credential, issued_token_type, expires_at, .. } = issued.minted();
        let expires_in = u64::try_from((*expires_at - now).whole_seconds()).unwrap_or(0);
        let credential = match credential {
            Some(text) => Some(serde_json::from_str(text.expose()).map_err(|_| {
                Refusal::new(Reason::Internal, "a connector made a credential that is not JSON")
            })?),
            None => None,
        };
        Ok(TokenResponse {
            access_token: token
                .as_ref()
                .map_or_else(|| issued.handle().expose().clone(), |token| token.expose().clone()),
            issued_token_type: (*issued_token_type).to_string(),
            token_type: if token.is_some() { "Bearer" } else { "N_A" }.to_owned(),
            expires_in,
            scope: grant.scope(),
            authorization_details: grant.to_details(),
            lease_id: *issued.lease_id(),
            mission: grant.mission().clone(),
            revocation: Revocation {
                class: promises.class,
                within_seconds: promises.dead_within.map_or(expires_in, |within| within.as_secs().max(1)),
            },
            credential,
        })
    }

    /// A verified caller's refusal is told exactly and audited up to a quota.
    async fn refuse(
        &self,
        agent: &AdmittedAgent,
        intent: &crate::intent::Intent,
        refusal: Refusal,
        bundle: &Bundle,
        now: OffsetDateTime,
    ) -> Refusal {
        self.record.audit_refusal(agent, intent, &refusal, &bundle.hash, now).await;
        refusal
    }
}

fn context(draft: &Draft, now: OffsetDateTime) -> MintContext<'_> {
    MintContext {
        lease: draft.lease_id(),
        expires_at: draft.expires_at(),
        mint_by: draft.mint_by(),
        now,
    }
}
