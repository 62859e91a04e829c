//! `access` and the difference between two of them.

use super::*;
use proptest::prelude::*;

fn access_of(world: &World, allow: Authority, ceiling: Option<Authority>) -> (Policy, Agent) {
    let mut world_mission = world.missions[0].clone();
    world_mission.allow = BTreeMap::from([("orders-api".parse().unwrap(), allow)]);
    let targets = vec![scoped("orders-api", authority(&["*"], &["*"]))];
    let policy = Policy::new(vec![world_mission], targets, &[], "hash".to_owned()).unwrap();
    let mut agent = agent();
    let own = |own| BTreeMap::from([("orders-api".parse().unwrap(), own)]);
    agent.ceiling = ceiling.map(own);
    (policy, agent)
}

#[test]
fn access_is_what_the_agents_ceiling_leaves_of_its_missions() {
    let world = World::new();
    let allow = authority(&["a", "b"], &["https://a/*"]);
    let narrow = authority(&["a"], &["https://a/x"]);
    let (policy, agent) = access_of(&world, allow.clone(), None);
    let found = policy.access([&agent].into_iter());
    assert_eq!(found[0].may, allow);
    assert!(found[0].within.is_none());
    let (policy, agent) = access_of(&world, allow.clone(), Some(narrow.clone()));
    let found = policy.access([&agent].into_iter());
    assert_eq!(found[0].may, authority(&["a"], &["https://a/*"]));
    assert_eq!(found[0].within, Some(narrow));
    let (policy, agent) = access_of(&world, allow, Some(authority(&["c"], &["*"])));
    assert!(policy.access([&agent].into_iter()).is_empty());
}

fn any_authority() -> impl Strategy<Value = Authority> {
    let permission = (
        prop::collection::vec("[ab*]{1,2}", 1..3),
        prop::collection::vec(
            prop_oneof![Just("*".to_owned()), "https://a/[ab*]{0,2}"],
            0..3,
        ),
    )
        .prop_map(|(actions, locations)| Permission { actions, locations });
    prop::collection::vec(permission, 1..3).prop_map(Authority)
}

/// Everything that could be asked over a small alphabet.
fn everything() -> Vec<Authority> {
    let words = ["", "a", "b", "c", "aa", "ab", "ba", "bb", "ac", "ca", "abc"];
    let mut all = Vec::new();
    for action in &words[1..] {
        all.push(authority(&[action], &[]));
        for place in &words {
            all.push(authority(&[action], &[&format!("https://a/{place}")]));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever one configuration grants and the other does not is among what is told as gained.
    #[test]
    fn no_gain_goes_untold(
        allow in (any_authority(), any_authority()),
        ceiling in (prop::option::of(any_authority()), prop::option::of(any_authority())),
    ) {
        let world = World::new();
        let (before, old_agent) = access_of(&world, allow.0.clone(), ceiling.0.clone());
        let (after, new_agent) = access_of(&world, allow.1.clone(), ceiling.1.clone());
        let before = before.access([&old_agent].into_iter());
        let after = after.access([&new_agent].into_iter());
        let covers = |wide: &Authority, asked: &Authority| Vocabulary::Scopes.covers(wide, asked).unwrap();
        let grants = |allow: &Authority, own: &Option<Authority>, asked: &Authority| {
            covers(allow, asked) && own.as_ref().is_none_or(|own| covers(own, asked))
        };
        let gained = after.first().map(|after| after.beyond(before.first())).unwrap_or_default();
        for asked in everything() {
            let is_new = grants(&allow.1, &ceiling.1, &asked) && !grants(&allow.0, &ceiling.0, &asked);
            if is_new {
                prop_assert!(covers(&gained, &asked), "{asked:?} is gained, told: {gained:?}");
            }
        }
        // And what did not change is no gain.
        if allow.0 == allow.1 && ceiling.0 == ceiling.1 {
            prop_assert!(gained.is_empty());
        }
    }
}

#[test]
fn the_same_access_gains_nothing() {
    let world = World::new();
    for ceiling in [None, Some(authority(&["a*"], &["https://a/x*"]))] {
        let allow = authority(&["a", "*"], &["https://a/*", "*"]);
        let (policy, agent) = access_of(&world, allow, ceiling);
        let found = policy.access([&agent].into_iter());
        assert!(found[0].beyond(Some(&found[0])).is_empty());
    }
}

#[test]
fn what_is_not_granted_any_more_is_told_with_the_line_that_it_crosses() {
    let world = World::new();
    let held = authority(&["orders:read"], &[&order("17")]);
    let still = |spoil: fn(&mut World)| {
        let mut world = World::new();
        spoil(&mut world);
        let policy = world.policy().unwrap();
        let (mission, target) = (
            "deploy-checkout".parse().unwrap(),
            "orders-api".parse().unwrap(),
        );
        let outcome = policy.still_grants(&world.agent, (&mission, &target), (&held, &[]), NOW);
        outcome.map_err(|denied| denied.reason)
    };
    assert_eq!(still(|_| {}), Ok(()));
    // What the request proved is not asked again.
    assert_eq!(still(|w| w.facts.clear()), Ok(()));
    assert_eq!(
        still(|w| w.mission().require = facts(&[("a.b", "c")])),
        Ok(())
    );
    type Spoil = fn(&mut World);
    let crosses: [(Spoil, Denial); 5] = [
        (
            |w| w.mission().agents = vec!["other".parse().unwrap()],
            Denial::UnknownMission,
        ),
        (
            |w| w.mission().ends = Some(date!(2026 - 11 - 20)),
            Denial::MissionEnded,
        ),
        (
            |w| {
                let allow = authority(&["orders:write"], &["https://api.example/orders/*"]);
                w.mission().allow = BTreeMap::from([("orders-api".parse().unwrap(), allow)]);
            },
            Denial::ExceedsMission,
        ),
        (
            |w| w.agent.ceiling = Some(BTreeMap::new()),
            Denial::ExceedsAgentCeiling,
        ),
        (
            |w| {
                let allow = authority(&["stock:read"], &["*"]);
                w.mission().allow = BTreeMap::from([("stock-api".parse().unwrap(), allow)]);
                w.targets.remove(0);
            },
            Denial::UnknownTarget,
        ),
    ];
    for (spoil, reason) in crosses {
        assert_eq!(still(spoil), Err(reason));
    }
    drop(world);
}
