use super::*;

/// The place of the only problem.
fn place(world: &World) -> String {
    let problems = world.policy().unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].place.clone()
}

#[test]
fn a_mission_wider_than_its_target_is_found() {
    let mut world = World::new();
    let allow = authority(&["orders:read", "users:read"], &[&order("*")]);
    world.mission().allow = BTreeMap::from([("orders-api".parse().unwrap(), allow)]);
    assert_eq!(
        place(&world),
        "mission.deploy-checkout.allow.orders-api[0].actions[1]"
    );
}

#[test]
fn patterns_that_cannot_be_compared_are_found() {
    let mut world = World::new();
    let allow = authority(&["orders:read"], &["api.example"]);
    world.mission().allow = BTreeMap::from([("orders-api".parse().unwrap(), allow)]);
    assert_eq!(
        place(&world),
        "mission.deploy-checkout.allow.orders-api[0].locations[0]"
    );
    let mut world = World::new();
    world.targets[1].ceiling = authority(&["a b"], &[]);
    assert_eq!(place(&world), "target.stock-api.ceiling[0].actions[0]");
    world.targets[1].ceiling = Authority::default();
    assert_eq!(place(&world), "target.stock-api.ceiling");
}

#[test]
fn names_that_nobody_has_are_found() {
    let mut world = World::new();
    world
        .mission()
        .allow
        .insert("no-such".parse().unwrap(), authority(&["a"], &[]));
    assert_eq!(place(&world), "mission.deploy-checkout.allow");
}

#[test]
fn missing_and_impossible_settings_are_found() {
    let spoil = |spoil: fn(&mut World)| {
        let mut world = World::new();
        spoil(&mut world);
        place(&world)
    };
    assert_eq!(
        spoil(|w| w.mission().signer = SignerClass::Platform),
        "mission.deploy-checkout.max_active"
    );
    assert_eq!(
        spoil(|w| w.mission().ttl = Duration::from_secs(59)),
        "mission.deploy-checkout.ttl"
    );
    assert_eq!(
        spoil(|w| w.mission().tether = strings(&["a b"])),
        "mission.deploy-checkout.tether"
    );
    assert_eq!(
        spoil(|w| w.target().detail_type = "aws_session"),
        "target.orders-api.kind"
    );
    assert_eq!(
        spoil(|w| w.target().max_ttl = Duration::ZERO),
        "target.orders-api.max_ttl"
    );
    assert_eq!(
        spoil(|w| w.targets[1].resources = strings(&["https://orders-api.example/"])),
        "target.stock-api.resources"
    );
    assert_eq!(
        spoil(|w| w.targets[1].resources = strings(&["orders-api"])),
        "target.stock-api.resources"
    );
    assert_eq!(
        spoil(|w| {
            w.mission()
                .require
                .insert("change.state".to_owned(), Value::Null);
        }),
        "mission.deploy-checkout.require.change.state"
    );
    assert_eq!(
        spoil(|w| {
            w.mission().signer = SignerClass::Platform;
            w.mission().max_active = Some(1);
            w.target().labels = labels("env", "prod");
        }),
        "mission.deploy-checkout.signer"
    );
}

#[test]
fn a_mission_without_agents_or_targets_is_found() {
    let mut world = World::new();
    world.mission().agents.clear();
    let problems = world.policy().unwrap_err();
    assert_eq!(problems[0].place, "mission.deploy-checkout.agents");
    let mut world = World::new();
    world.mission().allow.clear();
    let problems = world.policy().unwrap_err();
    assert_eq!(problems[0].place, "mission.deploy-checkout.allow");
}

#[test]
fn a_name_that_comes_twice_is_found() {
    let mut world = World::new();
    let again = world.missions[0].clone();
    world.missions.push(again);
    assert_eq!(place(&world), "mission.deploy-checkout");
}

#[test]
fn every_problem_is_reported_at_once() {
    let mut world = World::new();
    world.mission().tether = strings(&["a b"]);
    world.mission().when = Some("nonsense nonsense".to_owned());
    world.targets[1].ceiling = Authority::default();
    world.forbids = vec![("org.cedar".to_owned(), "forbid".to_owned())];
    assert_eq!(world.policy().unwrap_err().len(), 4);
}
