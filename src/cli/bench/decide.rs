//! `bench decide`: whether a decision among ten thousand missions costs what it costs among ten.
//! The same walk as the broker's, on policies that are built here; no store and no network.

use crate::agents::{AdmittedAgent, Agent, Limits, Registry};
use crate::authority::{Authority, AuthorizationDetail, Permission, Vocabulary};
use crate::cli::output::{Failure, Output, columns};
use crate::clock::{Clock, SystemClock};
use crate::fences::View;
use crate::identity::Facts;
use crate::ids::{AgentId, MissionId, TargetId};
use crate::intent::{Intent, SignerClass};
use crate::policy::{Binding, Grant, Mission, Mode, Policy, Target};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::hint::black_box;
use std::str::FromStr;
use std::time::Duration;
use time::OffsetDateTime;

#[derive(Debug, Args)]
pub struct DecideBench {
    /// How many missions there are, for each measurement; the ratio is that of the last to the first.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1000, 10_000],
          value_parser = clap::value_parser!(u32).range(10..=100_000))]
    missions: Vec<u32>,
    /// How many batches of decisions are measured.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    samples: u32,
}

/// Microseconds for one decision.
#[derive(Debug, Serialize)]
struct Report {
    missions: Vec<u32>,
    samples: u32,
    /// By the number of missions: the median of the batches.
    decide_us: BTreeMap<u32, f64>,
    p99_us: BTreeMap<u32, f64>,
    /// The last number of missions over the first.
    ratio: f64,
    /// `release` or `debug`: figures of the latter mean nothing.
    build: &'static str,
}

/// Decisions in one batch: one for each of the missions that are asked for.
const ASKED_FOR: u32 = 10;
/// Batches that do not count.
const WARM_UP: u32 = 20;

pub fn run(args: &DecideBench, output: &Output) -> Result<u8, Failure> {
    let now = SystemClock::new().now();
    let mut stages = Vec::new();
    for count in &args.missions {
        stages.push(Stage::set(*count, now)?);
    }
    // By turns, so that a busy machine slows all of them down alike.
    for round in 0..WARM_UP + args.samples {
        for stage in &mut stages {
            let took = stage.batch(now)?;
            if round >= WARM_UP {
                stage.took.push(took);
            }
        }
    }
    let report = report(args, &mut stages);
    output.show(&report, table)?;
    Ok(0)
}

fn report(args: &DecideBench, stages: &mut [Stage]) -> Report {
    let (mut decide_us, mut p99_us) = (BTreeMap::new(), BTreeMap::new());
    for stage in stages.iter_mut() {
        stage.took.sort();
        let at = |percent| super::percentile(&stage.took, percent) * 1000.0 / f64::from(ASKED_FOR);
        decide_us.insert(stage.count, at(50));
        p99_us.insert(stage.count, at(99));
    }
    let of = |stage: Option<&Stage>| {
        stage
            .and_then(|stage| decide_us.get(&stage.count))
            .copied()
            .unwrap_or(f64::NAN)
    };
    Report {
        missions: args.missions.clone(),
        samples: args.samples,
        ratio: of(stages.last()) / of(stages.first()),
        decide_us,
        p99_us,
        build: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
    }
}

fn table(report: &Report) -> String {
    let rows: Vec<_> = report
        .decide_us
        .iter()
        .map(|(count, median)| {
            let p99 = report.p99_us.get(count).copied().unwrap_or(f64::NAN);
            vec![
                count.to_string(),
                format!("{median:.1} us"),
                format!("{p99:.1} us"),
            ]
        })
        .collect();
    let build = report.build.to_uppercase();
    let head = format!("MISSIONS ({build} BUILD)");
    format!(
        "{}\nratio {:.2}",
        columns(&[&head, "DECIDE, P50", "P99"], &rows),
        report.ratio
    )
}

/// One policy, and what is asked of it.
pub(super) struct Stage {
    count: u32,
    policy: Policy,
    asked: Vec<(AdmittedAgent, Intent)>,
    took: Vec<Duration>,
}

impl Stage {
    pub(super) fn set(count: u32, now: OffsetDateTime) -> Result<Self, Failure> {
        let mut missions = Vec::new();
        let mut agents = BTreeMap::new();
        let mut targets = BTreeMap::new();
        for number in 0..count {
            let (agent, target) = (
                name("agent", agent_of(number, count))?,
                name("target", number / 2)?,
            );
            missions.push(mission(name("mission", number)?, &agent, &target));
            agents
                .entry(agent.clone())
                .or_insert_with(|| new_agent(agent, now));
            targets
                .entry(target.clone())
                .or_insert_with(|| new_target(target));
        }
        let mut asked = Vec::new();
        let registry = Registry::new(agents.into_values().collect()).map_err(failed)?;
        let view = View::origin();
        for one in 0..ASKED_FOR {
            let number = one * (count / ASKED_FOR);
            let facts = Facts::from([("pipeline.environment".to_owned(), "production".into())]);
            let agent: AgentId = name("agent", agent_of(number, count))?;
            let admitted = registry.stated(&agent, (None, None), facts, &view, now);
            let admitted = admitted.map_err(failed)?;
            // Every other one leaves it to the broker which of the agent's missions is meant.
            let named = (one % 2 == 0)
                .then(|| name("mission", number))
                .transpose()?;
            let details = vec![detail(&name("target", number / 2)?, number)];
            let facts = admitted.caller().facts().clone();
            let intent = Intent::stated(SignerClass::Agent, named, details, facts, now);
            asked.push((admitted, intent));
        }
        let forbids = [("policies/bench.cedar".to_owned(), FORBIDS.to_owned())];
        let targets = targets.into_values().collect();
        let policy = Policy::new(missions, targets, &forbids, "bench".to_owned())
            .map_err(|wrong| failed(wrong.iter().map(ToString::to_string).collect::<String>()))?;
        Ok(Self {
            count,
            policy,
            asked,
            took: Vec::new(),
        })
    }

    /// One for each that asks.
    pub(super) fn grants(&self, view: &View, now: OffsetDateTime) -> Result<Vec<Grant>, Failure> {
        let decided = self.asked.iter().map(|(agent, intent)| {
            let decided = self.policy.decide(agent, intent, view, now);
            decided.map_err(|denied| Failure::failed(denied.detail))
        });
        decided.collect()
    }

    fn batch(&self, now: OffsetDateTime) -> Result<Duration, Failure> {
        let view = View::origin();
        let clock = SystemClock::new();
        let begun = clock.since_boot();
        for (agent, intent) in &self.asked {
            let decided = self
                .policy
                .decide(black_box(agent), black_box(intent), &view, now);
            black_box(decided).map_err(|denied| Failure::failed(denied.detail))?;
        }
        Ok(clock.since_boot().saturating_sub(begun))
    }
}

/// An agent has two missions, on two targets; a target is two missions'.
fn agent_of(number: u32, count: u32) -> u32 {
    number.div_ceil(2) % (count / 2)
}

/// One that concerns every target, and one that concerns none of those asked for.
const FORBIDS: &str = r#"
    forbid (principal, action, resource) when { context.ttl > 3600 };
    forbid (principal, action, resource == Dayfly::Target::"elsewhere");
"#;

fn mission(id: MissionId, agent: &AgentId, target: &TargetId) -> Mission {
    let scope = format!("{id}:call");
    let allow = authority(&scope, "https://api.example/*");
    Mission {
        id,
        agents: vec![agent.clone()],
        allow_registered: false,
        on_behalf_of: Vec::new(),
        in_person: false,
        delegates_to: Vec::new(),
        owner: "bench@localhost".to_owned(),
        purpose: "To be decided about".to_owned(),
        ends: None,
        allow: BTreeMap::from([(target.clone(), allow)]),
        require: BTreeMap::from([("pipeline.environment".to_owned(), "production".into())]),
        when: Some("context.ttl <= 900".to_owned()),
        mode: Mode::Enforce,
        ttl: Duration::from_secs(600),
        tether: Vec::new(),
        signer: SignerClass::Agent,
        max_active: None,
        approval: None,
        terms: crate::agents::Terms::default(),
        drift: crate::policy::Drift::default(),
        labels: BTreeMap::from([("tier".to_owned(), "1".to_owned())]),
    }
}

fn new_agent(id: AgentId, now: OffsetDateTime) -> Agent {
    Agent {
        id,
        owner: "bench@localhost".to_owned(),
        backup_owner: None,
        purpose: "Asks".to_owned(),
        ends: now.date().next_day().unwrap_or(time::Date::MAX),
        identities: Vec::new(),
        intent_keys: Vec::new(),
        ceiling: None,
        limits: Limits {
            active: 1_000_000,
            per_minute: 60,
            instance: Default::default(),
        },
        terms: crate::agents::Terms::of_agent(),
        labels: BTreeMap::from([("team".to_owned(), "bench".to_owned())]),
        certificate_bound: false,
        registered: false,
    }
}

fn new_target(id: TargetId) -> Target {
    Target {
        id,
        vocabulary: Vocabulary::Scopes,
        detail_type: "access_token",
        ceiling: authority("*", "https://api.example/*"),
        resources: Vec::new(),
        labels: BTreeMap::from([("env".to_owned(), "test".to_owned())]),
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(3600),
        revocation_alarm: Duration::from_secs(60),
        class: "broker",
        binding: Binding::Bound,
        allow_platform_signer: false,
    }
}

fn detail(target: &TargetId, number: u32) -> AuthorizationDetail {
    AuthorizationDetail {
        kind: "access_token".to_owned(),
        identifier: target.to_string(),
        actions: vec![format!("mission-{number}:call")],
        locations: vec!["https://api.example/orders/17".to_owned()],
        max_ttl: None,
    }
}

fn authority(action: &str, location: &str) -> Authority {
    Authority(vec![Permission {
        actions: vec![action.to_owned()],
        locations: vec![location.to_owned()],
    }])
}

fn name<T: FromStr<Err: Display>>(kind: &str, number: u32) -> Result<T, Failure> {
    format!("{kind}-{number}").parse().map_err(failed)
}

fn failed(error: impl Display) -> Failure {
    Failure::failed(error.to_string())
}
