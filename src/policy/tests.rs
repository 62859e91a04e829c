//! A world in which one request is granted; each test spoils exactly one thing of it.

mod approving;
mod chains;
mod decisions;
mod observing;
mod policies;
mod properties;
mod reaching;
mod settings;
mod tethers;

use super::*;
use crate::agents::{Agent, Limits};
use crate::authority::{Authority, AuthorizationDetail, Permission, Vocabulary};
use crate::fences::{Dimension, Fence, FenceKind};
use crate::identity::{Confirmation, Facts};
use crate::ids::IssuerId;
use crate::intent::{Approval, Asked, Behalf, SignerClass};
use serde_json::Value;
use std::time::Duration;
use time::macros::{date, datetime};

/// A Saturday.
const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
const ORDERS: &str = "https://api.example/orders/";

struct World {
    agent: Agent,
    missions: Vec<Mission>,
    targets: Vec<Target>,
    forbids: Vec<(String, String)>,
    own_facts: Vec<String>,
    facts: Facts,
    provers: BTreeMap<String, (IssuerId, String)>,
    vouchers: Vec<Dimension>,
    issuer: IssuerId,
    proved_key: Option<Confirmation>,
    key_demanded: bool,
    signer: SignerClass,
    signing_key: Option<String>,
    behalf: Behalf,
    mission: Option<MissionId>,
    details: Vec<AuthorizationDetail>,
    asked: Asked,
    task: Option<String>,
    instance: Option<String>,
    goal_ends: Option<OffsetDateTime>,
    approval: Option<Approval>,
    view: View,
    now: OffsetDateTime,
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn authority(actions: &[&str], locations: &[&str]) -> Authority {
    Authority(vec![Permission {
        actions: strings(actions),
        locations: strings(locations),
    }])
}

fn labels(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}

fn facts(pairs: &[(&str, &str)]) -> Facts {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
        .collect()
}

fn agent() -> Agent {
    Agent {
        id: "checkout-deployer".parse().unwrap(),
        owner: "payments@acme.example".to_owned(),
        backup_owner: None,
        purpose: "Deploys the checkout service".to_owned(),
        ends: date!(2027 - 03 - 01),
        identities: Vec::new(),
        intent_keys: Vec::new(),
        ceiling: None,
        limits: Limits {
            active: 10,
            per_minute: 60,
            instance: Default::default(),
        },
        terms: crate::agents::Terms::of_agent(),
        labels: labels("team", "payments"),
        certificate_bound: false,
        registered: false,
    }
}

fn mission(name: &str, target: &str, allow: Authority) -> Mission {
    Mission {
        id: name.parse().unwrap(),
        agents: vec!["checkout-deployer".parse().unwrap()],
        allow_registered: false,
        on_behalf_of: Vec::new(),
        in_person: false,
        delegates_to: Vec::new(),
        owner: "sre@acme.example".to_owned(),
        purpose: "Ship a reviewed checkout release".to_owned(),
        ends: None,
        allow: BTreeMap::from([(target.parse().unwrap(), allow)]),
        require: facts(&[("pipeline.environment", "production")]),
        when: None,
        mode: Mode::Enforce,
        ttl: Duration::from_secs(900),
        tether: strings(&["pipeline"]),
        signer: SignerClass::Agent,
        max_active: None,
        approval: None,
        terms: crate::agents::Terms::default(),
        drift: Drift::default(),
        labels: labels("tier", "1"),
    }
}

fn scoped(name: &str, ceiling: Authority) -> Target {
    Target {
        id: name.parse().unwrap(),
        vocabulary: Vocabulary::Scopes,
        detail_type: "access_token",
        ceiling,
        resources: vec![format!("https://{name}.example/")],
        labels: labels("env", "test"),
        min_ttl: Duration::from_secs(60),
        max_ttl: Duration::from_secs(3600),
        revocation_alarm: Duration::from_secs(60),
        class: "broker",
        binding: Binding::Bound,
        allow_platform_signer: false,
    }
}

fn detail(target: &str, actions: &[&str], locations: &[&str]) -> AuthorizationDetail {
    AuthorizationDetail {
        kind: "access_token".to_owned(),
        identifier: target.to_owned(),
        actions: strings(actions),
        locations: strings(locations),
        max_ttl: None,
    }
}

/// `ORDERS` and the rest of a path.
fn order(rest: &str) -> String {
    format!("{ORDERS}{rest}")
}

impl World {
    fn new() -> Self {
        let all = order("*");
        let allow = authority(&["orders:read", "orders:write"], &[&all]);
        Self {
            agent: agent(),
            missions: vec![mission("deploy-checkout", "orders-api", allow)],
            targets: vec![
                scoped(
                    "orders-api",
                    authority(&["orders:*"], &["https://api.example/*"]),
                ),
                scoped("stock-api", authority(&["*"], &["*"])),
            ],
            forbids: Vec::new(),
            own_facts: Vec::new(),
            facts: facts(&[
                ("pipeline.environment", "production"),
                ("pipeline.run_id", "1234"),
                ("pipeline.run_attempt", "2"),
            ]),
            provers: BTreeMap::new(),
            vouchers: Vec::new(),
            issuer: "github".parse().unwrap(),
            proved_key: None,
            key_demanded: false,
            signer: SignerClass::Agent,
            signing_key: None,
            behalf: Behalf::Nobody,
            mission: Some("deploy-checkout".parse().unwrap()),
            details: vec![detail("orders-api", &["orders:read"], &[&order("17")])],
            asked: Asked::default(),
            task: Some("task-1".to_owned()),
            instance: None,
            goal_ends: None,
            approval: None,
            view: View::empty_for_tests(),
            now: NOW,
        }
    }

    fn mission(&mut self) -> &mut Mission {
        &mut self.missions[0]
    }

    fn target(&mut self) -> &mut Target {
        &mut self.targets[0]
    }

    fn policy(&self) -> Result<Policy, Vec<PolicyError>> {
        Policy::with_facts(
            self.missions.clone(),
            self.targets.clone(),
            &self.forbids,
            "hash".to_owned(),
            &self.own_facts,
        )
    }

    fn question(&self) -> Question<'_> {
        Question {
            agent: &self.agent,
            issuer: &self.issuer,
            issuer_url: "https://issuer.example",
            issuer_key: "key-1",
            subject: "repo:acme/checkout",
            facts: &self.facts,
            provers: &self.provers,
            vouchers: &self.vouchers,
            proved_key: self.proved_key.as_ref(),
            key_demanded: self.key_demanded,
            claims: None,
            signer: self.signer,
            signing_key: self.signing_key.as_deref(),
            behalf: &self.behalf,
            mission: self.mission.as_ref(),
            details: &self.details,
            asked: &self.asked,
            task: self.task.as_deref(),
            instance: self.instance.as_deref(),
            goal_ends: self.goal_ends,
            approval: self.approval.as_ref(),
        }
    }

    /// What the walk says; `explain` must say the same, always.
    fn decide(&self) -> Result<Decided, Denied> {
        let policy = self.policy().unwrap();
        let question = self.question();
        let told = policy.explain_question(&question, &self.view, self.now);
        let walked = policy.walk(&question, &self.view, self.now, &mut Trace::Silent);
        assert_eq!(told.denied.as_ref(), walked.as_ref().err());
        let failed: Vec<_> = told.checks.iter().filter(|check| !check.passed).collect();
        match &walked {
            Ok(_) => assert!(failed.is_empty(), "{failed:?}"),
            Err(denied) => {
                assert_eq!(failed.len(), 1);
                assert_eq!(failed[0].detail, denied.detail);
                assert!(!told.checks.last().unwrap().passed);
            }
        }
        walked.map(|decision| Decided {
            mission: decision.mission.id.to_string(),
            target: decision.target.id.to_string(),
            authority: decision.authority,
            audience: decision.audience,
            ttl: decision.ttl.as_secs(),
            dimensions: decision.dimensions,
            max_active: decision.max_active,
            decided_by: decision.decided_by,
            observed: decision.observed,
        })
    }

    fn denied(&self) -> Denied {
        self.decide().unwrap_err()
    }

    fn reason(&self) -> Denial {
        self.denied().reason
    }
}

fn restriction(target: &str, denied: Authority) -> Fence {
    let restriction = crate::fences::Restriction {
        denied,
        ends_leases: false,
        longest: None,
        approval: false,
    };
    Fence {
        kind: FenceKind::Restrict,
        restriction: Some(restriction),
        ..hold(Dimension::new(crate::fences::DimensionKind::Target, target))
    }
}

/// A decision that outlives its policy.
#[derive(Debug)]
struct Decided {
    mission: String,
    target: String,
    authority: Authority,
    audience: String,
    ttl: u64,
    dimensions: Vec<Dimension>,
    max_active: u64,
    decided_by: Vec<String>,
    observed: Vec<Denied>,
}

fn hold(dimension: Dimension) -> Fence {
    Fence {
        id: crate::ids::draw_uuid(),
        kind: FenceKind::Hold,
        dimension,
        reason: "incident 7".to_owned(),
        author: "sre".to_owned(),
        at: NOW,
        until: None,
        weight: crate::fences::Weight::default(),
        restriction: None,
        rule: None,
        lifts: Vec::new(),
        names: None,
    }
}
