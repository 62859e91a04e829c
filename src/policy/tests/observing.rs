//! `mode = "observe"`, requirements of labels, the record of a question, the nearest mission.

use super::*;
use crate::agents::Registry;
use crate::identity::Caller;
use crate::intent::{Intent, Stated};

/// A mission that observes for a week, for an agent with a ceiling.
fn observing() -> World {
    let mut world = World::new();
    let until = date!(2026 - 11 - 28);
    world.mission().mode = Mode::Observe { until };
    let own = authority(&["orders:*"], &["*"]);
    world.agent.ceiling = Some(BTreeMap::from([("orders-api".parse().unwrap(), own)]));
    world
}

fn reasons(passed: &[Denied]) -> Vec<Denial> {
    passed.iter().map(|denied| denied.reason).collect()
}

#[test]
fn what_observing_lets_pass_is_written_down_with_what_enforcing_would_have_said() {
    let mut world = observing();
    assert!(world.decide().unwrap().observed.is_empty());
    world
        .facts
        .insert("pipeline.environment".to_owned(), "staging".into());
    world.mission().when = Some("context.ttl < 60".to_owned());
    let granted = world.decide().unwrap();
    assert_eq!(
        reasons(&granted.observed),
        [Denial::RequirementUnmet, Denial::ConditionUnmet]
    );
    assert_eq!(granted.decided_by, ["deploy-checkout#observe"]);
    world.mission().mode = Mode::Enforce;
    let enforced = world.denied();
    assert_eq!(granted.observed[0], enforced);
}

#[test]
fn observing_relaxes_no_grant_no_ceiling_no_tether_and_no_forbid() {
    let spoil = |spoil: fn(&mut World)| {
        let mut world = observing();
        spoil(&mut world);
        world.reason()
    };
    assert_eq!(
        spoil(|w| w.details[0].actions = strings(&["orders:delete"])),
        Denial::ExceedsMission
    );
    assert_eq!(
        spoil(|w| {
            let own = authority(&["orders:list"], &["*"]);
            w.agent.ceiling = Some(BTreeMap::from([("orders-api".parse().unwrap(), own)]));
        }),
        Denial::ExceedsAgentCeiling
    );
    assert_eq!(
        spoil(|w| {
            w.facts.remove("pipeline.run_id");
        }),
        Denial::TetherMissing
    );
    assert_eq!(
        spoil(|w| {
            // Also where `when` fails as well: the forbid is not hidden by it.
            w.mission().when = Some("context.ttl < 60".to_owned());
            let forbid = "forbid (principal, action, resource) when { context.ttl > 60 };";
            w.forbids = vec![("org.cedar".to_owned(), forbid.to_owned())];
        }),
        Denial::ForbiddenByPolicy
    );
    assert_eq!(
        spoil(|w| {
            // A forbid that cannot be evaluated, beside a `when` that cannot be either.
            let overflow = "context.ttl + 9223372036854775807 > 0";
            w.mission().when = Some(overflow.to_owned());
            let forbid = format!("forbid (principal, action, resource) when {{ {overflow} }};");
            w.forbids = vec![("org.cedar".to_owned(), forbid)];
        }),
        Denial::ForbiddenByPolicy
    );
    assert_eq!(
        spoil(|w| w.mission().ends = Some(date!(2026 - 11 - 20))),
        Denial::MissionEnded
    );
}

#[test]
fn observing_ends_with_its_last_day_and_never_lasts_longer_than_two_weeks() {
    let staging = |until: time::Date| {
        let mut world = observing();
        world.mission().mode = Mode::Observe { until };
        world
            .facts
            .insert("pipeline.environment".to_owned(), "staging".into());
        world.decide().is_ok()
    };
    assert!(staging(date!(2026 - 11 - 21)), "the last day counts");
    assert!(!staging(date!(2026 - 11 - 20)));
    assert!(staging(date!(2026 - 12 - 05)));
    assert!(!staging(date!(2026 - 12 - 06)), "more than 14 days ahead");
}

#[test]
fn an_agent_that_nothing_else_bounds_is_not_observed_but_refused() {
    let mut world = observing();
    world
        .facts
        .insert("pipeline.environment".to_owned(), "staging".into());
    assert!(world.decide().is_ok());
    world.agent.ceiling = None;
    assert_eq!(world.reason(), Denial::RequirementUnmet);
}

#[test]
fn a_requirement_can_be_of_a_label_and_no_fact_stands_in_for_it() {
    let mut world = World::new();
    let require = |world: &mut World, name: &str, value: &str| {
        world.mission().require = facts(&[(name, value)]);
    };
    for (name, value) in [
        ("agent.labels.team", "payments"),
        ("mission.labels.tier", "1"),
        ("target.labels.env", "test"),
    ] {
        require(&mut world, name, value);
        assert!(world.decide().is_ok(), "{name}");
        require(&mut world, name, "other");
        assert_eq!(world.reason(), Denial::RequirementUnmet, "{name}");
    }
    require(&mut world, "target.labels.data", "none");
    world
        .facts
        .insert("target.labels.data".to_owned(), "none".into());
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::RequirementUnmet);
    assert!(denied.detail.contains("no such label"), "{}", denied.detail);
}

#[test]
fn production_without_an_early_end_is_one_line_of_policy() {
    let mut world = World::new();
    let forbid = "@id(\"no-expiry-in-production\") forbid (principal, action, resource) when \
        { resource.hasTag(\"env\") && resource.getTag(\"env\") == \"prod\" && resource.revocation == \"expiry\" };";
    world.forbids = vec![("org.cedar".to_owned(), forbid.to_owned())];
    world.target().labels = labels("env", "prod");
    assert!(world.decide().is_ok());
    world.target().class = "expiry";
    assert_eq!(world.reason(), Denial::ForbiddenByPolicy);
    world.target().labels = labels("env", "test");
    assert!(world.decide().is_ok());
}

#[test]
fn a_recorded_question_gets_the_same_answer_again() {
    let mut world = World::new();
    world.mission().when = Some(
        "context.issuer == \"github\" && context has task && context.delivery == \"bearer\""
            .to_owned(),
    );
    world.asked.scope = strings(&["orders:read"]);
    let policy = world.policy().unwrap();
    let registry = Registry::new(vec![world.agent.clone()]).unwrap();
    let put = |scope: &str, environment: &str| {
        let caller = Caller::stated(
            world.issuer.clone(),
            "https://issuer.example".to_owned(),
            "repo:acme/checkout".to_owned(),
            serde_json::Map::new(),
            facts(&[
                ("pipeline.environment", environment),
                ("pipeline.run_id", "7"),
            ]),
            NOW,
        );
        let stated = Stated {
            signer: SignerClass::Agent,
            mission: None,
            authorization_details: vec![detail("orders-api", &["orders:*"], &[&order("17")])],
            asked: Asked {
                scope: strings(&[scope]),
                ..Asked::default()
            },
            task: Some("task-1".to_owned()),
            instance: None,
            goal_ends: None,
            facts: caller.facts().clone(),
            behalf: Behalf::Nobody,
            approval: None,
        };
        let intent = Intent::restated(stated, NOW);
        let recorded = Recorded::of(&policy, &caller, &intent);
        let agent = registry
            .stated_caller(&world.agent.id, caller, &world.view, NOW)
            .unwrap();
        let first = policy.decide(&agent, &intent, &world.view, NOW);
        let detail = Value::Object(recorded.to_detail());
        let read = Recorded::from_detail(&detail).unwrap();
        assert_eq!(read, recorded);
        let again = policy
            .again(&registry, &world.agent.id, &read, &world.view, NOW)
            .unwrap();
        assert_eq!(first.as_ref().err(), again.denied.as_ref());
        again.denied.map(|denied| denied.reason)
    };
    assert_eq!(put("orders:read", "production"), None);
    assert_eq!(
        put("orders:read", "staging"),
        Some(Denial::RequirementUnmet)
    );
    assert_eq!(put("stock:read", "production"), Some(Denial::ExceedsIntent));
    assert_eq!(
        Recorded::from_detail(&serde_json::json!({ "said": 1 })),
        None
    );
}

#[test]
fn the_nearest_mission_is_the_one_that_fails_last() {
    let mut world = World::new();
    let allow = authority(
        &["orders:read", "orders:delete"],
        &["https://api.example/*"],
    );
    let mut cleanup = mission("clean-up", "orders-api", allow);
    cleanup.require = facts(&[("pipeline.environment", "nightly")]);
    world.missions.push(cleanup);
    let nearest = |world: &World| {
        let policy = world.policy().unwrap();
        let told = policy.explain_question(&world.question(), &world.view, world.now);
        assert!(told.denied.is_some());
        told.nearest
    };
    world.details[0].actions = strings(&["orders:delete"]);
    let found = nearest(&world).unwrap();
    assert_eq!(found.mission.as_str(), "clean-up");
    assert!(found.lists_agent);
    assert_eq!(found.missing.unwrap().name, "require");
    // It would do, if it were named.
    world.missions[1].require.clear();
    assert_eq!(nearest(&world).unwrap().missing, None);
    // Somebody else's allows it.
    world.missions[1].agents = vec!["janitor".parse().unwrap()];
    let found = nearest(&world).unwrap();
    assert_eq!(found.mission.as_str(), "clean-up");
    assert!(!found.lists_agent);
    // The mission that was refused is told anyway, and nothing else comes near.
    world.missions.truncate(1);
    assert_eq!(nearest(&world), None);
}

#[test]
fn a_mission_that_fails_before_it_was_looked_at_is_not_the_nearest() {
    let mut world = World::new();
    world.proved_key = Some(Confirmation::Jkt("key".to_owned()));
    world.target().binding = Binding::Bearer;
    // Of its own: refused for the key, and it would not allow this either.
    let little = authority(&["orders:list"], &[ORDERS]);
    world.missions.push(mission("own", "orders-api", little));
    let mut foreign = mission(
        "foreign",
        "orders-api",
        world.missions[0].allow.values().next().unwrap().clone(),
    );
    foreign.agents = vec!["other-agent".parse().unwrap()];
    world.missions.push(foreign);
    assert_eq!(world.reason(), Denial::CredentialNotBindable);
    let policy = world.policy().unwrap();
    let told = policy.explain_question(&world.question(), &world.view, world.now);
    let nearest = told.nearest.unwrap();
    assert_eq!(nearest.mission.as_str(), "foreign");
    assert!(!nearest.lists_agent);
}
