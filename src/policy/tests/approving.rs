//! What people have to say yes to, and what their yes is good for.

use super::*;
use crate::fences::DimensionKind;
use crate::identity::Confirmation;
use std::collections::BTreeSet;

/// One thing that is spoiled.
type Spoil = fn(&mut World);

/// One of whoever may review says yes.
fn asking() -> World {
    let mut world = World::new();
    world.mission().approval = Some(ApprovalTerms::default());
    world
}

fn unapproved(world: &World) -> Unapproved {
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::ApprovalRequired, "{}", denied.detail);
    assert_eq!(denied.mission, world.mission);
    *denied.unapproved.unwrap()
}

/// What these people said to what is asked.
fn said(world: &World, by: &[&str]) -> Approval {
    let unapproved = unapproved(world);
    Approval {
        id: "apr_1".to_owned(),
        of: unapproved.what.hash().unwrap(),
        by: strings(by),
        since: world.now,
        until: world.now + unapproved.terms.lasts,
        max_ttl: unapproved.ttl.as_secs(),
    }
}

fn approved(world: &World) -> World {
    let approval = Some(said(world, &["ann"]));
    World {
        approval,
        ..asking()
    }
}

#[test]
fn nothing_is_issued_before_people_say_yes_and_everything_after() {
    let world = asking();
    let asked = unapproved(&world);
    assert_eq!(asked.what.authority.0[0].actions, ["orders:read"]);
    assert_eq!(asked.ttl.as_secs(), 900);
    let granted = approved(&world).decide().unwrap();
    assert_eq!(granted.ttl, 900);
    let on = approval_dimension("apr_1");
    assert!(
        granted.dimensions.contains(&on),
        "whoever withdraws it ends it"
    );
    assert!(!World::new().decide().unwrap().dimensions.contains(&on));
}

#[test]
fn nobody_is_asked_about_what_is_refused_anyway() {
    let spoils: [Spoil; 4] = [
        |w| w.details[0].actions = strings(&["orders:delete"]),
        |w| drop(w.facts.remove("pipeline.environment")),
        |w| {
            w.forbids = vec![(
                "no.cedar".to_owned(),
                "forbid(principal, action, resource);".to_owned(),
            )];
        },
        |w| w.view = View::of([hold(Dimension::new(DimensionKind::Task, "task-1"))]),
    ];
    for spoil in spoils {
        let mut world = asking();
        spoil(&mut world);
        let denied = world.denied();
        assert_ne!(denied.reason, Denial::ApprovalRequired);
        assert_eq!(denied.unapproved, None);
    }
}

#[test]
fn a_yes_is_good_for_exactly_what_was_asked() {
    let spoils: [(&str, Spoil); 8] = [
        ("another action", |w| {
            w.details[0].actions = strings(&["orders:write"]);
        }),
        ("another place", |w| {
            w.details[0].locations = vec![order("18")];
        }),
        ("more of it", |w| {
            w.details[0].actions.push("orders:write".to_owned());
        }),
        ("another task", |w| w.task = Some("task-2".to_owned())),
        ("no task", |w| w.task = None),
        ("another instance", |w| w.instance = Some("b".to_owned())),
        ("another run", |w| {
            drop(w.facts.insert("pipeline.run_id".to_owned(), "1235".into()));
        }),
        ("bound to a key", |w| {
            w.proved_key = Some(Confirmation::Jkt("key".to_owned()));
            w.key_demanded = true;
        }),
    ];
    let good = approved(&asking());
    assert!(good.decide().is_ok());
    for (what, spoil) in spoils {
        let mut world = approved(&asking());
        spoil(&mut world);
        assert_eq!(world.reason(), Denial::ApprovalRequired, "{what}");
    }
    let mut other = approved(&asking());
    other.issuer = "gitlab".parse().unwrap();
    assert_eq!(
        other.reason(),
        Denial::ApprovalRequired,
        "proved by another"
    );
    let mut other = approved(&asking());
    other.asked.targets = strings(&["https://orders-api.example/"]);
    assert_eq!(
        other.reason(),
        Denial::ApprovalRequired,
        "for another audience"
    );
    let mut other = approved(&asking());
    other.missions[0].id = "other".parse().unwrap();
    other.mission = Some("other".parse().unwrap());
    assert_eq!(other.reason(), Denial::ApprovalRequired, "another mission");
}

#[test]
fn what_is_issued_dies_with_the_yes_and_with_what_was_shown() {
    let mut world = approved(&asking());
    let approval = world.approval.as_mut().unwrap();
    approval.until = NOW + Duration::from_secs(300);
    assert_eq!(world.decide().unwrap().ttl, 300);
    let approval = world.approval.as_mut().unwrap();
    approval.max_ttl = 200;
    assert_eq!(
        world.decide().unwrap().ttl,
        200,
        "no longer than they were shown"
    );
    for left in [59, 0, -1] {
        let approval = world.approval.as_mut().unwrap();
        approval.until = NOW + time::Duration::seconds(left);
        assert_eq!(
            world.reason(),
            Denial::ApprovalRequired,
            "{left} s are left"
        );
    }
}

#[test]
fn so_many_people_say_yes_as_the_mission_says_and_those_whom_it_names() {
    let mut world = asking();
    world.approval = Some(said(&world, &["ann"]));
    let terms = |world: &mut World, count, by: &[&str]| {
        let by: BTreeSet<String> = by.iter().map(|name| (*name).to_owned()).collect();
        let terms = ApprovalTerms {
            count,
            by,
            ..ApprovalTerms::default()
        };
        world.mission().approval = Some(terms);
    };
    let people = |world: &mut World, by: &[&str]| {
        world.approval.as_mut().unwrap().by = strings(by);
    };
    terms(&mut world, 2, &[]);
    assert_eq!(world.reason(), Denial::ApprovalRequired, "one of two");
    people(&mut world, &["ann", "ann"]);
    assert_eq!(world.reason(), Denial::ApprovalRequired, "one, twice");
    people(&mut world, &["ann", "bob"]);
    assert!(world.decide().is_ok());
    terms(&mut world, 2, &["ann", "cleo"]);
    assert_eq!(world.reason(), Denial::ApprovalRequired, "bob is not named");
    people(&mut world, &["ann", "bob", "cleo"]);
    assert!(world.decide().is_ok());
    people(&mut world, &[]);
    terms(&mut world, 0, &[]);
    assert_eq!(world.reason(), Denial::ApprovalRequired, "never by nobody");
}

#[test]
fn a_yes_that_is_taken_back_holds_what_hangs_on_it() {
    let mut world = approved(&asking());
    world.view = View::of([hold(approval_dimension("apr_2"))]);
    assert!(world.decide().is_ok(), "another one");
    world.view = View::of([hold(approval_dimension("apr_1"))]);
    assert_eq!(world.reason(), Denial::Held);
}

#[test]
fn a_response_asks_people_about_all_that_one_agent_gets() {
    let asks = |agent: &str| Fence {
        restriction: Some(crate::fences::Restriction {
            denied: Authority(Vec::new()),
            ends_leases: false,
            longest: None,
            approval: true,
        }),
        kind: FenceKind::Restrict,
        ..hold(Dimension::new(DimensionKind::Agent, agent))
    };
    let mut world = World::new();
    world.view = View::of([asks("somebody-else")]);
    assert!(world.decide().is_ok());
    world.view = View::of([asks("checkout-deployer")]);
    let asked = unapproved(&world);
    assert_eq!(asked.terms, ApprovalTerms::default());
    world.approval = Some(said(&world, &["ann"]));
    assert!(world.decide().is_ok());
    world.mission().approval = Some(ApprovalTerms {
        count: 2,
        ..ApprovalTerms::default()
    });
    assert_eq!(
        world.reason(),
        Denial::ApprovalRequired,
        "the mission's own terms count"
    );
}

#[test]
fn a_policy_can_say_that_people_have_to_be_asked() {
    let rule = "@reason(\"production needs two people\") forbid(principal, action == Dayfly::Action::\"issue\", resource) \
                when { context.approvals < 2 };";
    let with = |count: Option<u32>| {
        let mut world = World::new();
        world.forbids = vec![("org.cedar".to_owned(), rule.to_owned())];
        let terms = |count| ApprovalTerms {
            count,
            ..ApprovalTerms::default()
        };
        world.mission().approval = count.map(terms);
        world.reason()
    };
    assert_eq!(with(None), Denial::ForbiddenByPolicy);
    assert_eq!(with(Some(1)), Denial::ForbiddenByPolicy);
    assert_eq!(
        with(Some(2)),
        Denial::ApprovalRequired,
        "then they are asked"
    );
}

#[test]
fn observing_asks_people_all_the_same() {
    let mut world = asking();
    let ceiling = authority(&["orders:*"], &[&order("*")]);
    world.agent.ceiling = Some(BTreeMap::from([("orders-api".parse().unwrap(), ceiling)]));
    world.mission().mode = Mode::Observe {
        until: date!(2026 - 11 - 25),
    };
    assert_eq!(world.reason(), Denial::ApprovalRequired);
}

#[test]
fn another_way_of_writing_it_is_the_same_request() {
    let hash = |actions: &[&str], locations: &[&str]| {
        let mut world = asking();
        let locations: Vec<_> = locations.iter().map(|rest| order(rest)).collect();
        let locations: Vec<_> = locations.iter().map(String::as_str).collect();
        world.details = vec![detail("orders-api", actions, &locations)];
        unapproved(&world).what.hash()
    };
    let known = hash(&["orders:read", "orders:write"], &["17", "18"]);
    assert_eq!(known, hash(&["orders:write", "orders:read"], &["18", "17"]));
    assert_eq!(
        known,
        hash(
            &["orders:read", "orders:write", "orders:read"],
            &["17", "18", "18"]
        )
    );
    assert_ne!(known, hash(&["orders:read", "orders:write"], &["17", "19"]));
    let split = |first: &str, second: &str| {
        let mut world = asking();
        world.details = [first, second]
            .map(|action| detail("orders-api", &[action], &[&order("17")]))
            .to_vec();
        unapproved(&world).what.hash()
    };
    assert_eq!(
        split("orders:read", "orders:write"),
        split("orders:write", "orders:read")
    );
}

#[test]
fn a_shorter_time_of_the_mission_shortens_what_was_said_before() {
    let mut world = approved(&asking());
    let approval = world.approval.as_mut().unwrap();
    approval.since = NOW - time::Duration::minutes(10);
    let lasts = |world: &mut World, seconds| {
        let lasts = Duration::from_secs(seconds);
        let terms = ApprovalTerms {
            lasts,
            ..ApprovalTerms::default()
        };
        world.mission().approval = Some(terms);
    };
    lasts(&mut world, 700);
    assert_eq!(world.decide().unwrap().ttl, 100);
    lasts(&mut world, 600);
    assert_eq!(world.reason(), Denial::ApprovalRequired);
}

#[test]
fn whoever_acts_for_another_needs_a_yes_for_that() {
    let chain = |names: &[&str], in_person| ToApprove {
        chain: strings(names),
        in_person,
        ..unapproved(&asking()).what
    };
    let hashes: BTreeSet<_> = [
        chain(&[], false),
        chain(&["people:ann"], false),
        chain(&["people:ann"], true),
        chain(&["people:bob"], false),
        chain(&["people:ann", "planner"], false),
    ]
    .iter()
    .map(ToApprove::hash)
    .collect();
    assert_eq!(hashes.len(), 5);
}
