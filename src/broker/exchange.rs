//! The main job: a proof and a signed intent in, a narrow credential with a lease out.

use super::delegation::Sorted;
use super::watched::asked_by;
use super::{Broker, Bundle, NOT_READ, Reason, Refusal, sightings};
use crate::agents::{AdmittedAgent, AgentError};
use crate::connectors::{Connector, Minted, handle};
use crate::fences::View;
use crate::identity::{Caller, Confirmation, Facts, Person, Presented};
use crate::ids::{LeaseId, TargetId};
use crate::intent::{Asked, Behalf, Intent};
use crate::leases::{Issued, LeaseError, Sweeper};
use crate::policy::Grant;
use crate::secret::Secret;
use crate::steps::{self, Step};
use crate::wire::{Revocation, TokenResponse};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// How long a credential that must be dead may be alive downstream before its target stops minting.
const OVERDUE: Duration = Duration::minutes(2);

/// Of places in a status list for one token. A list half full has one left in 256 cases.
const MOST_DRAWS: u32 = 8;

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
    /// RFC 7523 section 2.1.
    JwtBearer,
}

impl Broker {
    /// RFC 8693 section 2, RFC 6749 section 4.4, RFC 7523 section 2.1.
    pub async fn exchange(&self, request: ExchangeRequest) -> Result<TokenResponse, Refusal> {
        let now = self.clock.now();
        let mut audited = false;
        let answer = self.decide(request, &mut audited, now).await;
        if let Err(refusal) = &answer
            && !audited
        {
            self.record.count(refusal.reason);
        }
        answer
    }

    async fn decide(
        &self,
        request: ExchangeRequest,
        audited: &mut bool,
        now: OffsetDateTime,
    ) -> Result<TokenResponse, Refusal> {
        // INVARIANT: the view comes first, with the configuration of its position.
        let (view, bundle) = self.deciding().await?;
        self.may_mint()?;
        self.walk(bundle, view, (request, audited), now).await
    }

    async fn walk(
        &self,
        bundle: Arc<Bundle>,
        view: Arc<View>,
        (request, audited): (ExchangeRequest, &mut bool),
        now: OffsetDateTime,
    ) -> Result<TokenResponse, Refusal> {
        let only_assertion =
            request.grant == GrantType::JwtBearer && request.presented.client_assertion.is_none();
        let asked = request.asked.or_self_signed(&request.presented)?;
        let sorted = self.sort(&bundle, request.presented, view, now).await?;
        let Sorted { own, behalf, view } = sorted;
        // SECURITY: a parent that was decided further on brings a newer view, and what decides on that one.
        let bundle = &*self.no_older(bundle, &view).await?;
        let caller = Arc::new(verify(bundle, &own, &behalf, now).await?);
        let nobody = sightings::stranger(bundle, &caller, &asked, now);
        let keys = |thumbprint: &str| bundle.agents.vouches(&caller, thumbprint);
        let verified = bundle.intents.verify(asked, &caller, behalf, &keys, now);
        let verified = verified.await;
        if let Some(nobody) = nobody {
            self.sighted(nobody, now);
        }
        let intent = verified?;
        let agent = match bundle.agents.admit(caller.clone(), &intent, &view, now) {
            Ok(agent) => agent,
            Err(error) => {
                let known = error.agent().cloned();
                let refusal = Refusal::from(error);
                if let Some(agent) = known {
                    *audited = true;
                    self.record
                        .refused(&agent, &caller, &intent, &refusal, (bundle, now))
                        .await;
                }
                return Err(refusal);
            }
        };
        let granted = self.grant(bundle, &agent, &intent, &view, now).await;
        let granted = granted.map_err(|refusal| spent(refusal, only_assertion));
        // Whoever asks again while people decide is counted; what they are asked for is written down once.
        let waits = |refusal: &&Refusal| refusal.pending().is_some_and(|one| !one.is_new);
        if let Some(refusal) = granted.as_ref().err().filter(|refusal| !waits(refusal)) {
            *audited = true;
            let id = &agent.agent().id;
            // A target may have taken as long as an entry may.
            let late = self.clock.now();
            self.record
                .refused(id, &caller, &intent, refusal, (bundle, late))
                .await;
            self.watch_drift(bundle, id, refusal, now).await;
        }
        granted
    }

    /// From here the caller is a known agent: it is told exactly, and what it is refused is audited.
    async fn grant(
        &self,
        bundle: &Bundle,
        agent: &AdmittedAgent,
        intent: &Intent,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<TokenResponse, Refusal> {
        bundle.is_one(&agent.agent().id)?;
        self.pin(agent, intent, now).await?;
        let decided = self.decide_with_people(bundle, agent, intent, (view, now));
        let grant = decided.await?;
        steps::at(Step::Decided);
        // INVARIANT: before there is a child, its parent says that there may be one.
        if let Some(parent) = grant.parent()
            && !self.leases.hand_on(&parent, now).await?
        {
            return Err(Refusal::new(Reason::ParentNotAlive, "it ended meanwhile").exact());
        }
        let connector = bundle
            .connectors
            .get(grant.target())
            .ok_or_else(|| Refusal::new(Reason::Internal, "a target without a connector"))?;
        let asked_by = asked_by(&bundle.sources, intent.facts(), grant.dimensions());
        let issued = self
            .mint(&grant, connector.as_ref(), (asked_by, now))
            .await
            .map_err(Refusal::exact)?;
        self.record.observed(&grant);
        self.usage.granted(&grant, now);
        let lease = issued.0.lease.clone();
        let answer = self.answer(&grant, connector.as_ref(), issued);
        if answer.is_err() {
            // Nobody was given it, so nobody may have it: ended, not left to live unheld.
            self.leases.withhold(&lease, self.clock.now()).await;
        }
        answer
    }

    /// Local mints reserve and activate in one commit; every other is recorded before it exists.
    async fn mint(
        &self,
        grant: &Grant,
        connector: &dyn Connector,
        (asked_by, now): (Facts, OffsetDateTime),
    ) -> Result<(Issued, Secret<String>), Refusal> {
        let promises = connector.promises();
        may_mint_at(&self.sweeper, grant.target(), promises.local, now)?;
        if promises.local {
            return self.mint_here(grant, connector, (asked_by, now)).await;
        }
        // INVARIANT: before the lease is written, so that it says where to look if no answer comes.
        let beforehand = connector.beforehand().await?;
        let draft = self.leases.draft(grant, &promises, now);
        let draft = draft.asked_by(asked_by).knowing(beforehand);
        let reserved = self.leases.reserve(draft, grant, now).await?;
        steps::at(Step::Minting);
        let mut minted = match connector
            .mint(grant, reserved.context(self.clock.now()))
            .await
        {
            Ok(minted) => minted,
            Err(error) => {
                steps::at(Step::MintFailed);
                self.leases.fail(reserved, &error, self.clock.now()).await?;
                steps::at(Step::Abandoned);
                return Err(Refusal::from(error));
            }
        };
        steps::at(Step::Minted);
        let bearer = bearer(&mut minted, &reserved.lease().id);
        let view = self.fences.last();
        match self
            .leases
            .activate(reserved, minted, &view, self.clock.now())
            .await
        {
            Ok(issued) => Ok((issued, bearer)),
            Err(LeaseError::Fenced(lease)) => {
                // Recorded with its handle and never answered: ended at once, by the sweeper if not here.
                self.sweeper.end_now(&lease.id, self.clock.now()).await?;
                Err(Refusal::new(Reason::RevokedMeanwhile, lease.id.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn mint_here(
        &self,
        grant: &Grant,
        connector: &dyn Connector,
        (asked_by, now): (Facts, OffsetDateTime),
    ) -> Result<(Issued, Secret<String>), Refusal> {
        let promises = connector.promises();
        let mut draws = 1;
        loop {
            let draft = self.leases.draft(grant, &promises, now);
            let draft = draft.asked_by(asked_by.clone());
            let mut minted = connector.mint(grant, draft.context(now)).await?;
            let bearer = bearer(&mut minted, draft.id());
            match self.leases.issue(draft, grant, minted, now).await {
                Ok(issued) => return Ok((issued, bearer)),
                // Nothing was written: another place in the status list, so another token.
                Err(LeaseError::IndexTaken) if draws < MOST_DRAWS => draws += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn answer(
        &self,
        grant: &Grant,
        connector: &dyn Connector,
        (issued, bearer): (Issued, Secret<String>),
    ) -> Result<TokenResponse, Refusal> {
        let Issued { lease, minted } = issued;
        // INVARIANT: the view is checked last, just before the answer is written.
        let view = self.view()?;
        if let Some(ended) = lease.ended_by(&view) {
            return Err(Refusal::new(Reason::RevokedMeanwhile, ended.reason().to_owned()).exact());
        }
        let left = lease.expires_at.min(minted.expires_at) - self.clock.now();
        let expires_in = u64::try_from(left.whole_seconds()).unwrap_or(0);
        let credential = match &minted.credential {
            Some(text) => Some(serde_json::from_str(text.expose()).map_err(|_| {
                Refusal::new(
                    Reason::Internal,
                    "a connector made a credential that is not JSON",
                )
            })?),
            None => None,
        };
        let promises = connector.promises();
        steps::at(Step::Answering);
        Ok(TokenResponse {
            access_token: bearer.expose().clone(),
            issued_token_type: minted.issued_token_type.to_string(),
            token_type: match &credential {
                Some(_) => "N_A",
                None => token_type(lease.bound_key.as_ref()),
            }
            .to_owned(),
            expires_in,
            scope: lease.authority.scope(),
            authorization_details: lease.authority.to_details(
                grant.detail_type(),
                grant.target(),
                None,
            ),
            lease_id: lease.id,
            mission: grant.mission().clone(),
            revocation: Revocation {
                class: promises.class,
                within_seconds: promises
                    .dead_within
                    .map_or(expires_in, |within| within.as_secs().max(1)),
            },
            credential,
        })
    }
}

/// Who the agent is, and what the request shows that it holds.
async fn verify(
    bundle: &Bundle,
    own: &Presented,
    behalf: &Behalf,
    now: OffsetDateTime,
) -> Result<Caller, Refusal> {
    let certificate = own.certificate.as_ref();
    let mut caller = match behalf {
        Behalf::InPerson(person) => {
            let caller = bundle.identity.in_person(person, own, now)?;
            may_run(bundle, person, &caller)?;
            caller
        }
        _ => bundle.identity.verify(own, now).await?,
    };
    if let Behalf::Person(person) = behalf {
        person.on_behalf()?;
    }
    caller.show(behalf.bound_key(), certificate);
    if bundle.agents.binds_certificates(&caller) {
        caller.bind_certificate(certificate)?;
    }
    Ok(caller)
}

/// SECURITY: before anything is asked, counted or written about the agent that a person names. Whoever
/// may not run it learns no more than of an agent that there is not.
fn may_run(bundle: &Bundle, person: &Person, caller: &Caller) -> Result<(), Refusal> {
    match bundle.agents.find(caller) {
        Some(agent) if bundle.policy.runs_in_person(&agent.id, person) => Ok(()),
        _ => Err(AgentError::Unknown.into()),
    }
}

/// A spent proof, where the proof was the grant itself: `invalid_grant` (RFC 7523 section 3.1).
fn spent(mut refusal: Refusal, only_assertion: bool) -> Refusal {
    if only_assertion && matches!(refusal.reason, Reason::TokenSpent | Reason::InvalidClient) {
        refusal.reason = Reason::InvalidAssertion;
    }
    refusal
}

/// RFC 9449 section 5. A token that is bound to a certificate is used as a bearer token over the
/// connection that shows it (RFC 8705 section 3).
pub(in crate::broker) fn token_type(bound: Option<&Confirmation>) -> &'static str {
    match bound {
        Some(Confirmation::Jkt(_)) => "DPoP",
        Some(Confirmation::X5t(_)) | None => "Bearer",
    }
}

/// Whether the target does what it was told to end, as far as it must be known.
fn may_mint_at(
    sweeper: &Sweeper,
    target: &TargetId,
    local: bool,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    // INVARIANT: what is not known yet is refused: others may have stopped this target long ago. What the broker
    // makes itself waits for no target.
    if !local && !sweeper.has_looked() {
        return Err(Refusal::new(Reason::StoreUnavailable, NOT_READ).after(1));
    }
    match sweeper.backlog(target) {
        Some(since) if is_overdue(since, now) => {
            let problem = format!("a credential that must be dead is not, since {since}");
            Err(Refusal::new(Reason::TargetUnavailable, problem).after(30))
        }
        _ => Ok(()),
    }
}

/// A target that was not brought to end what must be dead is given nothing more to end.
pub(in crate::broker) fn is_overdue(since: OffsetDateTime, now: OffsetDateTime) -> bool {
    now - since > OVERDUE
}

/// What the answer carries as `access_token`: the credential where it is one bearer string, else a
/// handle of the lease that opens nothing and ends everything.
fn bearer(minted: &mut Minted, lease: &LeaseId) -> Secret<String> {
    if let Some(token) = &minted.token {
        return token.clone();
    }
    let handle = handle::mint(lease);
    let hash = ring::digest::digest(&ring::digest::SHA256, handle.expose().as_bytes());
    minted.token_sha256 = hash.as_ref().try_into().ok();
    handle
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::fences::Fences;
    use crate::leases::Leases;
    use crate::secret::Sealer;
    use crate::store::Store;
    use crate::store::embedded::Embedded;
    use time::macros::datetime;

    #[test]
    fn a_target_stops_minting_once_an_end_is_overdue() {
        let since = datetime!(2026-11-21 12:00 UTC);
        assert!(!is_overdue(since, since));
        assert!(!is_overdue(since, since + OVERDUE));
        assert!(is_overdue(since, since + OVERDUE + Duration::SECOND));
        assert!(!is_overdue(since, since - Duration::DAY));
    }

    #[tokio::test]
    async fn a_replica_that_has_not_read_what_is_overdue_mints_at_no_target() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
        let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let bound = std::time::Duration::from_secs(60);
        let fences = Fences::idle(store.clone(), sealer.clone(), clock.clone(), bound);
        let fences = Arc::new(fences);
        fences.follow(std::time::Duration::ZERO).await.unwrap();
        let leases = Arc::new(Leases::new(store, sealer, clock.clone()));
        let sweeper = Sweeper::new(leases, fences, Arc::new(|_| None));
        let target = "orders-db".parse().unwrap();
        let asked = |local| may_mint_at(&sweeper, &target, local, clock.now());
        let refused = asked(false).unwrap_err();
        assert_eq!(refused.reason, Reason::StoreUnavailable);
        assert_eq!(refused.retry_after, Some(1));
        asked(true).unwrap();
        sweeper.run_once(clock.now()).await.unwrap();
        asked(false).unwrap();
    }
}
