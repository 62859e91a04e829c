//! The key that minting needs. Everything a lease will say of itself is in it.

use super::{Denied, Recorded};
use crate::authority::{Authority, AuthorizationDetail, Vocabulary};
use crate::fences::Dimension;
use crate::identity::Confirmation;
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use crate::intent::evidence::Seen;
use crate::intent::{Principal, SignerClass};
use crate::replay::ReplayMark;
use crate::store::Position;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use time::OffsetDateTime;

/// What the decision allows. Only policy can make one: minting without a decision does not compile.
#[derive(Debug, Clone)]
pub struct Grant {
    pub(in crate::policy) agent: AgentId,
    pub(in crate::policy) instance: Option<String>,
    pub(in crate::policy) owner: String,
    pub(in crate::policy) mission: MissionId,
    pub(in crate::policy) target: TargetId,
    pub(in crate::policy) vocabulary: Vocabulary,
    /// `authorization_details[].type` of the target.
    pub(in crate::policy) detail_type: &'static str,
    pub(in crate::policy) authority: Authority,
    /// What the granted token is for: the `resource` asked, or the target's name.
    pub(in crate::policy) audience: String,
    pub(in crate::policy) ttl: Duration,
    pub(in crate::policy) issuer_url: String,
    pub(in crate::policy) subject: String,
    pub(in crate::policy) task: Option<String>,
    pub(in crate::policy) goal: String,
    pub(in crate::policy) signer: SignerClass,
    /// What the credential is bound to, where the request proved a key.
    pub(in crate::policy) bound_key: Option<Confirmation>,
    /// Whom the agent acts for, from the one it began with; empty: for itself.
    pub(in crate::policy) chain: Vec<Principal>,
    /// The lease that this one is handed on from.
    pub(in crate::policy) parent: Option<LeaseId>,
    /// Everything a fence can stand on that covers this lease (its own id is added by `leases`).
    pub(in crate::policy) dimensions: Vec<Dimension>,
    /// The view that the decision was made on.
    pub(in crate::policy) position: Position,
    /// Spent in the reserving commit.
    pub(in crate::policy) replay: Vec<ReplayMark>,
    /// Live leases that the agent may hold at once.
    pub(in crate::policy) max_active: u64,
    pub(in crate::policy) max_of_instance: Option<u64>,
    pub(in crate::policy) intent_sha256: [u8; 32],
    /// For the audit: what was only said, and which evidence was accepted.
    pub(in crate::policy) declared: Map<String, Value>,
    pub(in crate::policy) evidence: Vec<Seen>,
    pub(in crate::policy) config_hash: String,
    /// What decided: the mission's permit.
    pub(in crate::policy) decided_by: Vec<String>,
    pub(in crate::policy) labels: BTreeMap<String, String>,
    pub(in crate::policy) decided_at: OffsetDateTime,
    /// What would have been refused if the mission enforced.
    pub(in crate::policy) observed: Vec<Denied>,
    pub(in crate::policy) recorded: Recorded,
}

impl Grant {
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }
    pub fn owner(&self) -> &str {
        &self.owner
    }
    pub fn mission(&self) -> &MissionId {
        &self.mission
    }
    pub fn target(&self) -> &TargetId {
        &self.target
    }
    pub fn vocabulary(&self) -> Vocabulary {
        self.vocabulary
    }
    pub fn detail_type(&self) -> &'static str {
        self.detail_type
    }
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
    pub fn audience(&self) -> &str {
        &self.audience
    }
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
    pub fn issuer_url(&self) -> &str {
        &self.issuer_url
    }
    pub fn subject(&self) -> &str {
        &self.subject
    }
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }
    pub fn goal(&self) -> &str {
        &self.goal
    }
    pub fn signer(&self) -> SignerClass {
        self.signer
    }
    pub fn bound_key(&self) -> Option<&Confirmation> {
        self.bound_key.as_ref()
    }
    pub fn chain(&self) -> &[Principal] {
        &self.chain
    }
    pub fn parent(&self) -> Option<LeaseId> {
        self.parent
    }
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }
    pub fn position(&self) -> Position {
        self.position
    }
    pub fn replay(&self) -> &[ReplayMark] {
        &self.replay
    }
    pub fn max_active(&self) -> u64 {
        self.max_active
    }

    /// Live leases at once of the instance that the request names, or of all that name none.
    pub fn max_of_instance(&self) -> Option<u64> {
        self.max_of_instance
    }
    pub fn intent_sha256(&self) -> &[u8; 32] {
        &self.intent_sha256
    }
    /// Declared facts: said, never proved.
    pub fn declared(&self) -> &Map<String, Value> {
        &self.declared
    }
    pub fn evidence(&self) -> &[Seen] {
        &self.evidence
    }
    pub fn config_hash(&self) -> &str {
        &self.config_hash
    }
    pub fn decided_by(&self) -> &[String] {
        &self.decided_by
    }
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
    pub fn decided_at(&self) -> OffsetDateTime {
        self.decided_at
    }
    /// What the mission let pass because it only observes.
    pub fn observed(&self) -> &[Denied] {
        &self.observed
    }
    /// The question, for the audit.
    pub fn recorded(&self) -> &Recorded {
        &self.recorded
    }
    /// RFC 9396 section 7: what was granted, as the answer and the token say it.
    pub fn to_details(&self) -> Vec<AuthorizationDetail> {
        let seconds = u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX);
        self.authority
            .to_details(self.detail_type, &self.target, Some(seconds))
    }
    /// The granted scope, where the target speaks OAuth scopes and one says it all.
    pub fn scope(&self) -> Option<String> {
        (self.vocabulary == Vocabulary::Scopes)
            .then(|| self.authority.scope())
            .flatten()
    }
}

#[cfg(test)]
pub use builder::GrantBuilder;

#[cfg(test)]
mod builder {
    use super::{Denied, Grant};
    use crate::authority::{Authority, Permission, Vocabulary};
    use crate::fences::{Dimension, DimensionKind};
    use crate::identity::Confirmation;
    use crate::intent::{Parent, SignerClass};
    use crate::replay::ReplayMark;
    use crate::store::Position;
    use std::collections::BTreeMap;
    use std::time::Duration;
    use time::OffsetDateTime;

    /// A grant for the tests of the rooms behind policy. Outside tests only a decision makes one.
    #[derive(Debug, Clone)]
    pub struct GrantBuilder {
        grant: Grant,
    }

    impl Grant {
        pub fn for_tests() -> GrantBuilder {
            GrantBuilder {
                grant: Grant {
                    agent: "checkout-deployer".parse().unwrap(),
                    instance: None,
                    owner: "payments@acme.example".to_owned(),
                    mission: "deploy-checkout".parse().unwrap(),
                    target: "orders-api".parse().unwrap(),
                    vocabulary: Vocabulary::Scopes,
                    detail_type: "access_token",
                    authority: Authority(vec![Permission {
                        actions: vec!["orders:read".to_owned()],
                        locations: Vec::new(),
                    }]),
                    audience: "orders-api".to_owned(),
                    ttl: Duration::from_secs(900),
                    issuer_url: "https://issuer.example".to_owned(),
                    subject: "repo:acme/checkout".to_owned(),
                    task: None,
                    goal: "Ship checkout".to_owned(),
                    signer: SignerClass::Agent,
                    bound_key: None,
                    chain: Vec::new(),
                    parent: None,
                    dimensions: Vec::new(),
                    position: Position::ORIGIN,
                    replay: Vec::new(),
                    max_active: 10,
                    max_of_instance: None,
                    intent_sha256: [7; 32],
                    declared: serde_json::Map::new(),
                    evidence: Vec::new(),
                    config_hash: "config".to_owned(),
                    decided_by: vec!["deploy-checkout".to_owned()],
                    labels: BTreeMap::new(),
                    decided_at: OffsetDateTime::UNIX_EPOCH,
                    observed: Vec::new(),
                    recorded: serde_json::from_str("{}").unwrap(),
                },
            }
        }
    }

    impl GrantBuilder {
        pub fn agent(mut self, name: &str) -> Self {
            self.grant.agent = name.parse().unwrap();
            self
        }
        pub fn instance(mut self, name: &str) -> Self {
            self.grant.instance = Some(name.to_owned());
            self
        }
        pub fn mission(mut self, name: &str) -> Self {
            self.grant.mission = name.parse().unwrap();
            self
        }
        pub fn target(mut self, name: &str) -> Self {
            self.grant.target = name.parse().unwrap();
            self
        }
        pub fn authority(mut self, authority: Authority) -> Self {
            self.grant.authority = authority;
            self
        }
        pub fn ttl(mut self, ttl: Duration) -> Self {
            self.grant.ttl = ttl;
            self
        }
        pub fn detail_type(mut self, kind: &'static str) -> Self {
            self.grant.detail_type = kind;
            for vocabulary in [Vocabulary::Aws, Vocabulary::Sql] {
                if vocabulary.detail_types().contains(&kind) {
                    self.grant.vocabulary = vocabulary;
                }
            }
            self
        }
        pub fn audience(mut self, audience: &str) -> Self {
            self.grant.audience = audience.to_owned();
            self
        }
        pub fn now(mut self, now: OffsetDateTime) -> Self {
            self.grant.decided_at = now;
            self
        }
        pub fn position(mut self, position: Position) -> Self {
            self.grant.position = position;
            self
        }
        pub fn replay(mut self, marks: Vec<ReplayMark>) -> Self {
            self.grant.replay = marks;
            self
        }
        /// What the mission let pass because it only observes, on these facts.
        pub fn observed(mut self, passed: Denied, facts: &[(&str, &str)]) -> Self {
            self.grant.observed.push(passed);
            let facts = facts.iter().map(|(k, v)| ((*k).to_owned(), (*v).into()));
            self.grant.recorded.facts = facts.collect();
            self
        }
        pub fn max_active(mut self, leases: u64) -> Self {
            self.grant.max_active = leases;
            self
        }
        pub fn max_of_instance(mut self, leases: Option<u64>) -> Self {
            self.grant.max_of_instance = leases;
            self
        }
        pub fn bound_key(mut self, key: Confirmation) -> Self {
            self.grant.bound_key = Some(key);
            self
        }
        /// Handed on: all that ends the lease before ends this one.
        pub fn child_of(mut self, parent: &Parent) -> Self {
            self.grant.chain = parent.extended();
            self.grant.parent = Some(parent.lease());
            self.grant.dimensions.extend_from_slice(parent.dimensions());
            self
        }
        pub fn task(mut self, task: &str) -> Self {
            self.grant.task = Some(task.to_owned());
            self
        }
        /// Beside the agent, the mission and the target, which are always there.
        pub fn dimension(mut self, dimension: Dimension) -> Self {
            self.grant.dimensions.push(dimension);
            self
        }
        pub fn build(self) -> Grant {
            let mut grant = self.grant;
            grant.dimensions.extend([
                Dimension::new(DimensionKind::Agent, grant.agent.as_str()),
                Dimension::new(DimensionKind::Mission, grant.mission.as_str()),
                Dimension::new(DimensionKind::Target, grant.target.as_str()),
                Dimension::all(),
            ]);
            grant
        }
    }
}
