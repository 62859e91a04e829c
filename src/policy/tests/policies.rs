use super::*;

fn with_when(when: &str) -> World {
    let mut world = World::new();
    world.mission().when = Some(when.to_owned());
    world
}

fn with_forbid(text: &str) -> World {
    let mut world = World::new();
    world.forbids = vec![("org.cedar".to_owned(), text.to_owned())];
    world
}

#[test]
fn the_published_schema_is_the_one_that_is_used() {
    let (known, bad) = schema::Known::new(&schema::standard());
    assert!(bad.is_empty());
    assert_eq!(known.schema(), SCHEMA);
    assert!(schema::standard().contains("pipeline.run_id"));
}

#[test]
fn the_published_schema_knows_every_fact_of_the_presets() {
    let standard = schema::standard();
    for preset in crate::identity::presets::all() {
        for (fact, _) in preset.facts {
            assert!(standard.contains(*fact), "{fact} of {}", preset.name);
        }
    }
}

#[test]
fn a_condition_that_holds_grants_and_one_that_does_not_is_named() {
    let guard = "context.verified has pipeline.run_attempt";
    let when =
        format!("{guard} && context.verified.pipeline.run_attempt == \"2\" && context.ttl <= 900");
    let mut world = with_when(&when);
    assert!(world.decide().is_ok());
    world
        .facts
        .insert("pipeline.run_attempt".to_owned(), 3.into());
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::ConditionUnmet);
    assert_eq!(
        denied.detail,
        "deploy-checkout: `context.verified.pipeline.run_attempt == \"2\"` does not hold"
    );
    world.facts.remove("pipeline.run_attempt");
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::ConditionUnmet);
    assert!(denied.detail.contains("has"), "{}", denied.detail);
}

#[test]
fn a_condition_can_look_at_everything_in_the_schema() {
    for when in [
        "principal.name == \"checkout-deployer\" && principal.owner like \"payments@*\"",
        "principal.hasTag(\"team\") && principal.getTag(\"team\") == \"payments\"",
        "resource.hasTag(\"env\") && resource.getTag(\"env\") == \"test\"",
        "resource.name == \"orders-api\" && resource.revocation == \"broker\"",
        "context.mission.name == \"deploy-checkout\" && context.mission.owner == \"sre@acme.example\"",
        "context.mission.hasTag(\"tier\") && context.mission.getTag(\"tier\") == \"1\"",
        "context.issuer == \"github\" && context.signer == \"agent\" && context.delivery == \"bearer\"",
        "context has task && context.task == \"task-1\"",
        "context.now < datetime(\"2026-11-21T12:00:01Z\") && context.weekday == \"saturday\"",
        "context.now.toTime() >= duration(\"12h\")",
        "context.verified has pipeline && context.verified.pipeline has run_id",
    ] {
        assert!(with_when(when).decide().is_ok(), "{when}");
    }
}

#[test]
fn a_proved_key_makes_the_delivery_bound() {
    let mut world = with_when("context.delivery == \"bound\"");
    assert_eq!(world.reason(), Denial::ConditionUnmet);
    world.proved_key = Some(Confirmation::Jkt("thumbprint".to_owned()));
    assert!(world.decide().is_ok());
}

#[test]
fn a_key_that_cannot_be_bound_is_refused_unless_it_had_to_be_shown() {
    let key = || Some(Confirmation::Jkt("0".repeat(43)));
    let certificate = || Some(Confirmation::X5t("0".repeat(43)));
    let refused = Some(Denial::CredentialNotBindable);
    for (binding, proved, demanded, expected) in [
        (Binding::Bound, key(), false, None),
        (Binding::Fields, None, false, None),
        (Binding::Fields, key(), false, refused),
        (Binding::Fields, key(), true, None),
        (Binding::Bound, certificate(), false, None),
        // A certificate is shown to authenticate, or for what is bound to it.
        (Binding::Fields, certificate(), false, None),
        (Binding::Bearer, certificate(), false, refused),
        (Binding::Bearer, None, false, None),
        (Binding::Bearer, key(), false, refused),
        // One string would be taken for a bound token, whoever asked for the proof.
        (Binding::Bearer, key(), true, refused),
    ] {
        let mut world = with_when("context.delivery != \"nothing\"");
        world.target().binding = binding;
        world.proved_key = proved;
        world.key_demanded = demanded;
        let outcome = world.decide().err().map(|denied| denied.reason);
        assert_eq!(outcome, expected, "{binding:?} {demanded}");
    }
    // Who has to be bound is given nothing else.
    for (binding, expected) in [
        (Binding::Bound, None),
        (Binding::Fields, refused),
        (Binding::Bearer, refused),
    ] {
        let mut world = with_when("context.delivery != \"nothing\"");
        world.target().binding = binding;
        world.proved_key = certificate();
        world.agent.certificate_bound = true;
        let outcome = world.decide().err().map(|denied| denied.reason);
        assert_eq!(outcome, expected, "{binding:?}");
    }
    // What is not bound does not pass for bound.
    let mut world = with_when("context.delivery == \"bound\"");
    world.target().binding = Binding::Fields;
    world.proved_key = key();
    world.key_demanded = true;
    assert_eq!(world.reason(), Denial::ConditionUnmet);
}

#[test]
fn no_exception_for_a_name_or_an_owner_is_met_by_whoever_is_registered() {
    for exception in [
        "principal.owner == \"payments@acme.example\"",
        "principal.name like \"checkout-*\"",
        "principal.name == \"checkout-deployer\"",
    ] {
        let mut world = with_forbid(&format!(
            "forbid (principal, action, resource) unless {{ {exception} }};"
        ));
        assert!(world.decide().is_ok(), "{exception}");
        world.agent.registered = true;
        assert_eq!(world.reason(), Denial::ForbiddenByPolicy, "{exception}");
    }
}

#[test]
fn every_agent_that_a_policy_about_issuing_speaks_of_is_known() {
    let forbids = [
        "forbid (principal == Dayfly::Agent::\"in-scope\", action, resource);",
        "forbid (principal, action, resource) unless { principal == Dayfly::Agent::\"in-body\" };",
        "forbid (principal, action, resource) when { context.chain.agents.containsAny([\"in-\\u{73}et\"]) };",
        "forbid (principal, action, resource) unless { principal.name == \"as-text\" };",
        "forbid (principal, action in [Dayfly::Action::\"write\"], resource) when { principal.name == \"operator\" };",
    ];
    let forbids: Vec<_> = (1..)
        .zip(forbids)
        .map(|(number, text)| (format!("policies/{number}.cedar"), text.to_owned()))
        .collect();
    let mut world = with_when("principal == Dayfly::Agent::\"in-when\"");
    world.forbids.clone_from(&forbids);
    assert!(world.policy().is_ok(), "{:?}", world.policy().err());
    let found = spoken_of(&world.missions, &forbids).unwrap();
    for name in ["in-scope", "in-body", "in-set", "as-text", "in-when"] {
        assert!(found.contains(name), "{name}: {found:?}");
    }
    for name in ["operator", "deploy-checkout", "orders-api", "issue"] {
        assert!(!found.contains(name), "{name}: {found:?}");
    }
}

#[test]
fn a_condition_cannot_break_out_of_its_braces() {
    for when in [
        "true }; permit (principal, action, resource) when { true",
        "true } when { true",
        "true //",
        "true; true",
        "",
    ] {
        let outcome = with_when(when).policy();
        if let Ok(policy) = outcome {
            // A comment is harmless: it ends with its line.
            assert_eq!(when, "true //");
            assert_eq!(policy.missions.len(), 1);
        }
    }
}

#[test]
fn a_condition_is_validated_strictly() {
    for when in [
        "context.verified.pipeline.environment == \"production\"",
        "context.verified has pipeline.enviroment && context.verified.pipeline.enviroment == \"p\"",
        "context.ttl == \"900\"",
        "context.nothing",
        "principal.getTag(\"team\") == \"payments\"",
        "1 + 1",
        "false",
        "this is no expression",
    ] {
        let problems = with_when(when).policy().unwrap_err();
        assert_eq!(problems[0].place, "mission.deploy-checkout.when", "{when}");
    }
}

#[test]
fn facts_of_the_configurations_own_can_be_named() {
    let when = "context.verified has ticket.state && context.verified.ticket.state == \"open\"";
    let mut world = with_when(when);
    assert!(world.policy().is_err());
    world.own_facts = strings(&["ticket.state"]);
    assert_eq!(world.reason(), Denial::ConditionUnmet);
    world.facts.insert("ticket.state".to_owned(), "open".into());
    assert!(world.decide().is_ok());
    // A requirement names a fact as well.
    let mut world = with_when(when);
    world
        .mission()
        .require
        .insert("ticket.state".to_owned(), "open".into());
    world.facts.insert("ticket.state".to_owned(), "open".into());
    assert!(world.decide().is_ok());
}

#[test]
fn a_fact_that_is_also_a_group_is_a_problem() {
    for bad in [
        "pipeline",
        "pipeline.run_id.x",
        "a..b",
        "",
        "a b",
        "__cedar.x",
    ] {
        let mut world = World::new();
        world.own_facts = strings(&[bad]);
        assert!(world.policy().is_err(), "{bad}");
    }
}

#[test]
fn a_forbid_refuses_what_a_mission_permits_and_is_named() {
    let forbid = "@id(\"no-weekend\") @reason(\"nobody is there\")
        forbid (principal, action, resource) when { context.weekday == \"saturday\" };";
    let mut world = with_forbid(forbid);
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::ForbiddenByPolicy);
    assert_eq!(
        denied.detail,
        "forbidden by org.cedar#no-weekend (nobody is there)"
    );
    world.now = datetime!(2026-11-23 12:00 UTC);
    assert!(world.decide().is_ok());
}

#[test]
fn a_forbid_about_another_agent_or_target_does_not_concern_this_one() {
    let rule = |scope: &str| with_forbid(&format!("forbid ({scope});")).decide().is_err();
    assert!(rule("principal, action, resource"));
    assert!(rule(
        "principal, action, resource == Dayfly::Target::\"orders-api\""
    ));
    assert!(rule(
        "principal == Dayfly::Agent::\"checkout-deployer\", action, resource"
    ));
    assert!(rule(
        "principal, action, resource in Dayfly::Target::\"orders-api\""
    ));
    assert!(rule("principal is Dayfly::Agent, action, resource"));
    assert!(!rule(
        "principal, action, resource == Dayfly::Target::\"stock-api\""
    ));
    assert!(!rule(
        "principal == Dayfly::Agent::\"other\", action, resource"
    ));
}

#[test]
fn what_a_policy_cannot_evaluate_denies() {
    // Strict validation cannot foresee an overflow. Cedar would skip the forbid; here it denies.
    let overflow = "context.ttl + 9223372036854775807 > 0";
    let forbid = format!("forbid (principal, action, resource) when {{ {overflow} }};");
    assert_eq!(with_forbid(&forbid).reason(), Denial::ForbiddenByPolicy);
    let unless = format!("forbid (principal, action, resource) unless {{ {overflow} }};");
    assert_eq!(with_forbid(&unless).reason(), Denial::ForbiddenByPolicy);
    assert_eq!(with_when(overflow).reason(), Denial::ConditionUnmet);
}

#[test]
fn only_missions_permit() {
    for text in [
        "permit (principal, action, resource);",
        "forbid (principal == ?principal, action, resource);",
        "forbid (principal, action, resource) when { context.nothing };",
        "forbid (principal, action, resource) when { false };",
        "forbid (principal, action == Dayfly::Action::\"other\", resource);",
        "forbid (principal, action, resource) when { context.verified.pipeline.ref == \"x\" };",
        "@id(\"a\") forbid (principal, action, resource); @id(\"a\") forbid (principal, action, resource);",
        "forbid",
    ] {
        let problems = with_forbid(text).policy().unwrap_err();
        assert_eq!(problems[0].place, "org.cedar", "{text}");
    }
}

#[test]
fn a_mission_grants_only_its_own_agents_and_targets() {
    // The walk has checked both before; the permit says it again.
    let world = World::new();
    let policy = world.policy().unwrap();
    let mission = &policy.missions[&"deploy-checkout".parse().unwrap()];
    let target = &policy.targets[&"orders-api".parse().unwrap()];
    let ask = |agent: &Agent, target: &Target| {
        let ask = rules::Ask {
            agent,
            mission,
            target,
            facts: &world.facts,
            issuer: "github",
            signer: SignerClass::Agent,
            bound: false,
            task: None,
            chain: &[],
            approvals: 0,
            ttl: Duration::from_secs(60),
            now: NOW,
        };
        policy.rules.evaluate(&ask).is_ok()
    };
    assert!(ask(&world.agent, target));
    let mut other = agent();
    other.id = "somebody-else".parse().unwrap();
    assert!(!ask(&other, target));
    assert!(!ask(
        &world.agent,
        &policy.targets[&"stock-api".parse().unwrap()]
    ));
}

#[test]
fn facts_of_every_shape_become_text() {
    let when = "context.verified has change.state && context.verified.change.state == ";
    for (fact, text) in [
        (Value::from(17), "17"),
        (true.into(), "true"),
        ("a\"b".into(), "a\\\"b"),
        (serde_json::json!(["a", 1]), "[\\\"a\\\",1]"),
        (Value::Null, "null"),
    ] {
        let mut world = with_when(&format!("{when}\"{text}\""));
        world.facts.insert("change.state".to_owned(), fact);
        assert!(world.decide().is_ok(), "{text}");
    }
}

#[test]
fn what_a_decision_costs_does_not_grow_with_the_number_of_missions() {
    let mut world = World::new();
    for number in 0..50 {
        let allow = authority(&["stock:read"], &["*"]);
        world
            .missions
            .push(mission(&format!("m{number}"), "stock-api", allow));
    }
    world.forbids = vec![(
        "org.cedar".to_owned(),
        "forbid (principal, action, resource == Dayfly::Target::\"stock-api\");".to_owned(),
    )];
    let policy = world.policy().unwrap();
    let size = |mission: &str, target: &str| policy.rules.slice_size(mission, target);
    assert_eq!(size("deploy-checkout", "orders-api"), 1);
    assert_eq!(size("m7", "stock-api"), 2);
}

#[test]
fn what_cedar_finds_is_told_with_its_place() {
    let told = |world: World| world.policy().unwrap_err().remove(0).problem;
    let problem = told(with_when("context.ttl > 1 &&\n  context.nothing == 2"));
    assert!(problem.starts_with("line 2, column 3: "), "{problem}");
    let problem = told(with_when("context.ttl >\n  > 1"));
    assert!(problem.starts_with("line 2, column 3: "), "{problem}");
    let first = "forbid (principal, action, resource) when { context.ttl == 7 };\n";
    let wrong = "forbid (principal, action, resource) when { context.nothing };";
    let problem = told(with_forbid(&format!("{first}{wrong}")));
    assert!(problem.starts_with("line 2, column 45: "), "{problem}");
    let problem = told(with_forbid(&format!("{first}forbid;")));
    assert!(problem.starts_with("line 2, column 7: "), "{problem}");
}
