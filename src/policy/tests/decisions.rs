use super::*;
use crate::fences::DimensionKind;

#[test]
fn what_the_mission_allows_is_granted_as_it_was_asked() {
    let world = World::new();
    let granted = world.decide().unwrap();
    assert_eq!(
        granted.authority,
        authority(&["orders:read"], &[&order("17")])
    );
    assert_eq!(granted.mission, "deploy-checkout");
    assert_eq!(granted.target, "orders-api");
    assert_eq!(granted.audience, "orders-api");
    assert_eq!(granted.ttl, 900);
    assert_eq!(granted.max_active, 10);
    assert_eq!(granted.decided_by, ["deploy-checkout"]);
}

#[test]
fn an_unknown_and_a_foreign_mission_look_alike() {
    let mut unknown = World::new();
    unknown.mission = Some("no-such".parse().unwrap());
    let mut foreign = World::new();
    foreign.mission().agents = vec!["somebody-else".parse().unwrap()];
    let (unknown, foreign) = (unknown.denied(), foreign.denied());
    assert_eq!(unknown.reason, Denial::UnknownMission);
    assert_eq!(foreign.reason, Denial::UnknownMission);
    assert_eq!((unknown.mission, unknown.at), (None, None));
    assert_eq!((foreign.mission, foreign.at), (None, None));
}

#[test]
fn the_only_mission_that_fits_the_target_needs_no_name() {
    let mut world = World::new();
    world.mission = None;
    world.missions.push(mission(
        "count-stock",
        "stock-api",
        authority(&["stock:read"], &["*"]),
    ));
    assert_eq!(world.decide().unwrap().mission, "deploy-checkout");
}

#[test]
fn of_several_missions_that_fit_one_must_be_named() {
    let mut world = World::new();
    let allow = world.mission().allow.values().next().unwrap().clone();
    world
        .missions
        .push(mission("fix-checkout", "orders-api", allow));
    assert!(world.decide().is_ok());
    world.mission = None;
    assert_eq!(world.reason(), Denial::AmbiguousMission);
    world.asked.mission = Some("fix-checkout".parse().unwrap());
    assert_eq!(world.decide().unwrap().mission, "fix-checkout");
    // One that has ended leaves no doubt.
    world.asked.mission = None;
    world.missions[1].ends = Some(date!(2026 - 11 - 20));
    assert_eq!(world.decide().unwrap().mission, "deploy-checkout");
}

#[test]
fn a_foreign_mission_never_makes_ones_own_ambiguous() {
    let mut world = World::new();
    let mut other = mission(
        "other",
        "orders-api",
        authority(&["orders:read"], &[&order("*")]),
    );
    other.agents = vec!["somebody-else".parse().unwrap()];
    world.missions.push(other);
    world.mission = None;
    assert!(world.decide().is_ok());
}

#[test]
fn the_scope_cannot_name_another_mission_than_the_intent() {
    let mut world = World::new();
    world.asked.mission = Some("fix-checkout".parse().unwrap());
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::ExceedsIntent);
    assert_eq!(denied.at.as_deref(), Some("scope"));
}

#[test]
fn a_mission_is_over_after_its_last_day() {
    let mut world = World::new();
    world.mission().ends = Some(date!(2026 - 11 - 21));
    assert!(world.decide().is_ok());
    world.mission().ends = Some(date!(2026 - 11 - 20));
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::MissionEnded);
    assert_eq!(denied.mission.unwrap().as_str(), "deploy-checkout");
    world.mission = None;
    assert_eq!(world.reason(), Denial::MissionEnded);
}

#[test]
fn a_mission_takes_the_class_of_signer_that_it_asks_for() {
    let classes = [
        SignerClass::Agent,
        SignerClass::Orchestrator,
        SignerClass::Approver,
        SignerClass::Platform,
    ];
    for needs in classes {
        for has in classes {
            let mut world = World::new();
            world.mission().signer = needs;
            world.mission().max_active = Some(1);
            world.signer = has;
            let stronger = needs == SignerClass::Platform && has == SignerClass::Agent;
            let expected = if needs == has || stronger {
                None
            } else {
                Some(Denial::SignerNotAccepted)
            };
            let reason = world.decide().err().map(|denied| denied.reason);
            assert_eq!(reason, expected, "{has:?} for {needs:?}");
        }
    }
}

#[test]
fn an_unknown_target_and_one_without_a_mission_look_alike() {
    let mut unknown = World::new();
    unknown.details[0].identifier = "no-such".to_owned();
    let mut foreign = World::new();
    foreign.details[0].identifier = "stock-api".to_owned();
    for world in [&mut unknown, &mut foreign] {
        assert_eq!(world.reason(), Denial::UnknownTarget);
        world.mission = None;
    }
    let faces = [unknown.denied(), foreign.denied()];
    for face in faces {
        assert_eq!((face.reason, face.mission), (Denial::UnknownTarget, None));
    }
}

#[test]
fn every_name_of_the_target_must_agree() {
    let mut world = World::new();
    world.asked.targets = strings(&["orders-api", "https://orders-api.example/"]);
    assert_eq!(
        world.decide().unwrap().audience,
        "https://orders-api.example/"
    );
    for other in [
        "stock-api",
        "https://stock-api.example/",
        "no-such",
        "https://no.example/",
        "",
    ] {
        world.asked.targets = strings(&["orders-api", other]);
        let denied = world.denied();
        assert_eq!(denied.reason, Denial::UnknownTarget, "{other}");
        assert_eq!(denied.at.as_deref(), Some("resource"));
    }
}

#[test]
fn several_targets_in_the_details_are_refused_whether_they_exist_or_not() {
    for other in ["stock-api", "no-such"] {
        let mut world = World::new();
        world.details.push(detail(other, &["orders:read"], &[]));
        let denied = world.denied();
        assert_eq!(denied.reason, Denial::InvalidAuthorizationDetails);
        assert_eq!(
            denied.at.as_deref(),
            Some("authorization_details[1].identifier")
        );
    }
}

#[test]
fn details_of_another_type_than_the_targets_are_refused() {
    let mut world = World::new();
    world.details[0].kind = "api_key".to_owned();
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::InvalidAuthorizationDetails);
    assert_eq!(denied.at.as_deref(), Some("authorization_details[0].type"));
}

#[test]
fn an_intent_without_details_asks_for_its_whole_mission_and_must_name_it() {
    let mut world = World::new();
    world.details.clear();
    let allowed = authority(&["orders:read", "orders:write"], &[&order("*")]);
    assert_eq!(world.decide().unwrap().authority, allowed);
    world.mission = None;
    assert_eq!(world.reason(), Denial::InvalidAuthorizationDetails);
}

#[test]
fn what_stands_beside_the_intent_only_narrows_it() {
    let mut world = World::new();
    world.details = vec![detail("orders-api", &["orders:read"], &[&order("*")])];
    world.asked.authorization_details =
        vec![detail("orders-api", &["orders:read"], &[&order("17")])];
    let narrow = authority(&["orders:read"], &[&order("17")]);
    assert_eq!(world.decide().unwrap().authority, narrow);
    // The mission would allow it; the intent does not ask for it.
    world.asked.authorization_details[0].actions = strings(&["orders:write"]);
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::ExceedsIntent);
    assert_eq!(
        denied.at.as_deref(),
        Some("authorization_details[0].actions[0]")
    );
}

#[test]
fn a_scope_only_narrows_the_intent() {
    let mut world = World::new();
    world.details[0].actions = strings(&["orders:read", "orders:write"]);
    world.asked.scope = strings(&["orders:read"]);
    let narrow = authority(&["orders:read"], &[&order("17")]);
    assert_eq!(world.decide().unwrap().authority, narrow);
    world.asked.scope = strings(&["orders:read", "orders:delete"]);
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::ExceedsIntent);
    assert_eq!(denied.at.as_deref(), Some("scope"));
}

#[test]
fn what_the_mission_does_not_allow_is_refused_and_named() {
    let mut world = World::new();
    world.details = vec![detail(
        "orders-api",
        &["orders:read", "orders:delete"],
        &[&order("17")],
    )];
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::ExceedsMission);
    assert_eq!(
        denied.at.as_deref(),
        Some("authorization_details[0].actions[1]")
    );
    assert_eq!(
        denied.detail,
        "deploy-checkout does not allow orders:delete on https://api.example/orders/17 \
         (authorization_details[0].actions[1]); it allows: \
         orders:read, orders:write on https://api.example/orders/*"
    );
    world.details = vec![detail(
        "orders-api",
        &["orders:read"],
        &["https://api.example/users/1"],
    )];
    let denied = world.denied();
    assert_eq!(
        denied.at.as_deref(),
        Some("authorization_details[0].locations[0]")
    );
}

#[test]
fn an_agents_own_ceiling_holds_whatever_its_missions_say() {
    let mut world = World::new();
    let mut ceiling = |authority| {
        world.agent.ceiling = Some(BTreeMap::from([("orders-api".parse().unwrap(), authority)]));
        world.decide().err().map(|denied| denied.reason)
    };
    assert_eq!(ceiling(authority(&["orders:read"], &[&order("*")])), None);
    let exceeds = Some(Denial::ExceedsAgentCeiling);
    assert_eq!(
        ceiling(authority(&["orders:list"], &[&order("*")])),
        exceeds
    );
    assert_eq!(ceiling(Authority::default()), exceeds);
    world.agent.ceiling = Some(BTreeMap::new());
    assert_eq!(world.reason(), Denial::ExceedsAgentCeiling);
}

#[test]
fn a_targets_ceiling_holds_whatever_missions_say() {
    // A policy never holds a mission that is wider than its target; the walk checks all the same.
    let world = World::new();
    let mut policy = world.policy().unwrap();
    let target = policy
        .targets
        .get_mut(&"orders-api".parse().unwrap())
        .unwrap();
    target.ceiling = authority(&["orders:list"], &["*"]);
    let denied = policy
        .walk(&world.question(), &world.view, NOW, &mut Trace::Silent)
        .unwrap_err();
    assert_eq!(denied.reason, Denial::ExceedsTargetCeiling);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let mut world = World::new();
    world.details[0].locations = strings(&["https://api.example/orders/../users"]);
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::Undecidable);
    assert_eq!(
        denied.at.as_deref(),
        Some("authorization_details[0].locations[0]")
    );
}

#[test]
fn a_lifetime_is_the_shortest_of_all_that_limit_it() {
    let mut world = World::new();
    world.target().max_ttl = Duration::from_secs(600);
    assert_eq!(world.decide().unwrap().ttl, 600);
    world.mission().ttl = Duration::from_secs(500);
    assert_eq!(world.decide().unwrap().ttl, 500);
    world.details[0].max_ttl = Some(400);
    assert_eq!(world.decide().unwrap().ttl, 400);
    world.asked.authorization_details = vec![world.details[0].clone()];
    world.asked.authorization_details[0].max_ttl = Some(300);
    assert_eq!(world.decide().unwrap().ttl, 300);
    world.now = datetime!(2026-11-21 23:58 UTC);
    world.mission().ends = Some(date!(2026 - 11 - 21));
    assert_eq!(world.decide().unwrap().ttl, 120);
    world.mission().ends = None;
    world.agent.ends = date!(2026 - 11 - 21);
    assert_eq!(world.decide().unwrap().ttl, 120);
    world.goal_ends = Some(datetime!(2026-11-21 23:59 UTC));
    assert_eq!(world.decide().unwrap().ttl, 60);
    world.goal_ends = Some(datetime!(2026-11-21 23:58 UTC));
    assert_eq!(world.reason(), Denial::LifetimeOutOfRange);
}

#[test]
fn an_agent_that_is_kept_short_gets_no_longer_lifetimes_and_no_other_agent_is() {
    let mut world = World::new();
    let short = |agent: &str, longest: u32| Fence {
        kind: FenceKind::Restrict,
        restriction: Some(crate::fences::Restriction {
            denied: Authority(Vec::new()),
            ends_leases: false,
            longest: Some(longest),
            approval: false,
        }),
        ..hold(Dimension::new(DimensionKind::Agent, agent))
    };
    let own = world.agent.id.to_string();
    world.view = View::of([short("another", 1), short(&own, 1800)]);
    assert_eq!(world.decide().unwrap().ttl, 900);
    world.view = View::of([short(&own, 300), short(&own, 120), short(&own, 200)]);
    assert_eq!(world.decide().unwrap().ttl, 120);
    world.target().min_ttl = Duration::from_secs(120);
    assert_eq!(world.decide().unwrap().ttl, 120);
    world.target().min_ttl = Duration::from_secs(121);
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::LifetimeOutOfRange);
    assert!(
        denied.detail.contains("leaves it 120 s"),
        "{}",
        denied.detail
    );
}

#[test]
fn a_lifetime_that_the_target_cannot_give_is_refused() {
    let mut world = World::new();
    world.target().min_ttl = Duration::from_secs(900);
    assert_eq!(world.decide().unwrap().ttl, 900);
    world.details[0].max_ttl = Some(899);
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::LifetimeOutOfRange);
    assert_eq!(
        denied.at.as_deref(),
        Some("authorization_details[0].max_ttl")
    );
}

#[test]
fn a_required_fact_must_be_proved_and_have_the_value() {
    let mut world = World::new();
    world
        .facts
        .insert("pipeline.environment".to_owned(), "staging".into());
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::RequirementUnmet);
    assert_eq!(
        denied.detail,
        "pipeline.environment must be `production`, and is `staging`"
    );
    world.facts.remove("pipeline.environment");
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::RequirementUnmet);
    assert_eq!(
        denied.detail,
        "pipeline.environment must be `production`, and is not proved"
    );
}

#[test]
fn a_requirement_compares_scalars_as_text_and_lists_as_choices() {
    let met = |required: Value, proved: Value| {
        let proved = Facts::from([("f".to_owned(), proved)]);
        requirement::check("f", &required, &requirement::Sight::of_facts(&proved)).is_ok()
    };
    assert!(met(17.into(), "17".into()));
    assert!(met("true".into(), true.into()));
    assert!(met(serde_json::json!(["a", "b"]), "b".into()));
    assert!(!met(serde_json::json!(["a", "b"]), "c".into()));
    assert!(!met("a".into(), serde_json::json!(["a"])));
    assert!(!met("null".into(), Value::Null));
    assert!(!met("{}".into(), serde_json::json!({})));
    assert!(!met(serde_json::json!(["a"]), serde_json::json!(["a"])));
}

#[test]
fn a_platforms_token_asks_for_all_that_its_mission_allows() {
    let mut world = World::new();
    world.signer = SignerClass::Platform;
    world.mission().signer = SignerClass::Platform;
    world.mission().max_active = Some(3);
    world.details.clear();
    world.asked.targets = strings(&["orders-api"]);
    let granted = world.decide().unwrap();
    assert_eq!(
        &granted.authority,
        world.missions[0].allow.values().next().unwrap()
    );
    assert_eq!(granted.max_active, 3);
    world.asked.scope = strings(&["orders:read"]);
    let narrow = authority(&["orders:read"], &[&order("*")]);
    assert_eq!(world.decide().unwrap().authority, narrow);
    world.asked.scope = strings(&["orders:delete"]);
    assert_eq!(world.reason(), Denial::ExceedsMission);
    world.asked.scope.clear();
    world.asked.authorization_details =
        vec![detail("orders-api", &["orders:delete"], &[&order("1")])];
    assert_eq!(world.reason(), Denial::ExceedsMission);
    // A mission with one target leaves no doubt which one is meant.
    world.asked = Asked::default();
    assert_eq!(world.decide().unwrap().target, "orders-api");
}

#[test]
fn a_platforms_token_gets_nothing_in_production_unless_the_target_says_so() {
    let mut world = World::new();
    world.signer = SignerClass::Platform;
    world.mission().signer = SignerClass::Platform;
    world.mission().max_active = Some(3);
    world.target().labels = labels("env", "Production");
    world.target().allow_platform_signer = true;
    assert!(world.decide().is_ok());
    let mut policy = world.policy().unwrap();
    let target = policy
        .targets
        .get_mut(&"orders-api".parse().unwrap())
        .unwrap();
    target.allow_platform_signer = false;
    let decide = |world: &World| {
        policy
            .walk(&world.question(), &world.view, NOW, &mut Trace::Silent)
            .err()
            .map(|denied| denied.reason)
    };
    assert_eq!(decide(&world), Some(Denial::SignerNotAccepted));
    world.signer = SignerClass::Agent;
    assert_eq!(decide(&world), None);
}

#[test]
fn a_mission_caps_live_leases_and_never_raises_the_agents_limit() {
    let mut world = World::new();
    world.mission().max_active = Some(3);
    assert_eq!(world.decide().unwrap().max_active, 3);
    world.mission().max_active = Some(50);
    assert_eq!(world.decide().unwrap().max_active, 10);
}

#[test]
fn a_hold_on_anything_that_covers_the_lease_refuses_it() {
    let mut world = World::new();
    world.instance = Some("runner-1".to_owned());
    let granted = world.decide().unwrap();
    for dimension in granted.dimensions {
        world.view = View::of([hold(dimension.clone())]);
        let denied = world.denied();
        assert_eq!(denied.reason, Denial::Held, "{dimension:?}");
        assert!(denied.detail.contains("incident 7"));
    }
    world.view = View::of([hold(Dimension::new(DimensionKind::Agent, "somebody-else"))]);
    assert!(world.decide().is_ok());
}

#[test]
fn a_lease_is_covered_by_all_that_it_comes_from() {
    let mut world = World::new();
    world.instance = Some("runner-1".to_owned());
    let dimensions = world.decide().unwrap().dimensions;
    let expected = [
        Dimension::new(DimensionKind::Agent, "checkout-deployer"),
        Dimension::new(DimensionKind::Instance, "checkout-deployer/runner-1"),
        Dimension::new(DimensionKind::Mission, "deploy-checkout"),
        Dimension::new(DimensionKind::Target, "orders-api"),
        Dimension::new(DimensionKind::Owner, "payments@acme.example"),
        Dimension::new(DimensionKind::Owner, "sre@acme.example"),
        Dimension::new(DimensionKind::Issuer, "github"),
        Dimension::new(DimensionKind::Issuer, "https://issuer.example"),
        Dimension::new(DimensionKind::IssuerKey, "key-1"),
        Dimension::subject("https://issuer.example", "repo:acme/checkout"),
        Dimension::subject("github", "repo:acme/checkout"),
        Dimension::new(DimensionKind::Task, "task-1"),
        Dimension::context("https://issuer.example", "pipeline", "1234"),
        Dimension::context("https://issuer.example", "pipeline", "1234/2"),
        Dimension::context("github", "pipeline", "1234"),
        Dimension::context("github", "pipeline", "1234/2"),
        Dimension::label("team", "payments"),
        Dimension::label("tier", "1"),
        Dimension::label("env", "test"),
        Dimension::all(),
    ];
    assert_eq!(dimensions.len(), expected.len());
    for dimension in expected {
        assert!(dimensions.contains(&dimension), "{dimension:?}");
    }
}

#[test]
fn an_explanation_tells_every_check_in_order() {
    let world = World::new();
    let policy = world.policy().unwrap();
    let told = policy.explain_question(&world.question(), &world.view, NOW);
    let names: Vec<_> = told.checks.iter().map(|check| check.name).collect();
    assert_eq!(
        names,
        [
            "mission",
            "mission_ends",
            "signer",
            "on_behalf_of",
            "target",
            "platform_signer",
            "binding",
            "tether",
            "holds",
            "request",
            "within_mission",
            "within_agent_ceiling",
            "within_target_ceiling",
            "restrictions",
            "lifetime",
            "require",
            "policies"
        ]
    );
    assert_eq!(told.denied, None);
    assert_eq!(
        told.summary,
        "deploy-checkout grants checkout-deployer on orders-api, for 900 s: \
         orders:read on https://api.example/orders/17"
    );
}

#[test]
fn denials_have_distinct_codes() {
    let mut codes: Vec<_> = Denial::ALL.iter().map(|denial| denial.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), Denial::ALL.len());
}
