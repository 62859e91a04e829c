//! What policies see of whoever the agent acts for, and what is kept of it to decide again.

use super::*;
use crate::agents::Registry;
use crate::identity::{Caller, Person};
use crate::ids::{AgentId, LeaseId, ShardId};
use crate::intent::{Intent, Parent, Principal, Stated};

fn alice() -> Person {
    let claims = serde_json::json!({
        "sub": "alice", "groups": ["staff", "oncall"], "sid": "s-1", "email": "alice@acme.example",
    });
    let claims = claims.as_object().unwrap().clone();
    Person::stated("corp".parse().unwrap(), claims, NOW)
}

fn oncall() -> People {
    People {
        name: "oncall".to_owned(),
        issuer: "corp".parse().unwrap(),
        claims: facts(&[("groups", "oncall")]),
        ceiling: BTreeMap::from([(
            "orders-api".parse().unwrap(),
            authority(&["orders:*"], &["*"]),
        )]),
    }
}

fn for_alice(in_person: bool) -> World {
    let mut world = World::new();
    world.mission().on_behalf_of = vec![oncall()];
    world.mission().in_person = in_person;
    world.behalf = if in_person {
        Behalf::InPerson(Box::new(alice()))
    } else {
        Behalf::Person(Box::new(alice()))
    };
    world
}

/// Agents that stood before, from the first; `person` before them all.
fn handed_on(person: bool, agents: &[&str]) -> World {
    let mut world = World::new();
    let own = world.agent.id.clone();
    let mut before = world.missions[0].clone();
    before.id = "before".parse().unwrap();
    before.delegates_to = vec![own];
    world.missions.push(before);
    let lease = |agent: &AgentId| LeaseId::draw(ShardId::of(agent, None));
    let mut chain = Vec::new();
    if person {
        chain.push(Principal::Person {
            issuer: "corp".parse().unwrap(),
            issuer_url: "https://corp.example".to_owned(),
            subject: "alice".to_owned(),
            people: strings(&["oncall"]),
            session: None,
            in_person: true,
        });
    }
    for agent in agents {
        let agent: AgentId = agent.parse().unwrap();
        chain.push(Principal::Agent {
            lease: lease(&agent),
            mission: "before".parse().unwrap(),
            agent,
        });
    }
    let Some(Principal::Agent {
        agent,
        lease,
        mission,
    }) = chain.pop()
    else {
        panic!("an agent hands on");
    };
    world.behalf = Behalf::Parent(Box::new(Parent {
        lease,
        agent,
        mission,
        target: "orders-api".parse().unwrap(),
        authority: authority(&["orders:*"], &["https://api.example/*"]),
        expires_at: NOW + Duration::from_secs(600),
        bound_key: None,
        dimensions: Vec::new(),
        chain,
        token_sha256: [0; 32],
        ended: None,
    }));
    world
}

#[test]
fn a_forbid_looks_at_how_deep_the_chain_is() {
    let forbid = |mut world: World| {
        let text =
            "@id(\"short\") forbid (principal, action, resource) when { context.chain.depth > 1 };";
        assert!(world.decide().is_ok(), "without the forbid");
        world.forbids = vec![("org.cedar".to_owned(), text.to_owned())];
        world.decide().err().map(|denied| denied.reason)
    };
    assert_eq!(forbid(World::new()), None, "for itself");
    assert_eq!(forbid(for_alice(false)), None, "for a person");
    assert_eq!(forbid(handed_on(false, &["a"])), None, "for an agent");
    let deeper = Some(Denial::ForbiddenByPolicy);
    assert_eq!(forbid(handed_on(false, &["a", "b"])), deeper, "for two");
    assert_eq!(
        forbid(handed_on(true, &["a"])),
        deeper,
        "for a person's agent"
    );
}

#[test]
fn a_condition_sees_the_person_and_the_agents_that_handed_on() {
    let holds = |mut world: World, when: &str| {
        assert!(world.decide().is_ok(), "without the condition");
        world.mission().when = Some(when.to_owned());
        world.decide().map_err(|denied| denied.reason).is_ok()
    };
    let nobody =
        "!(context has person) && context.chain.depth == 0 && context.chain.agents.isEmpty()";
    assert!(holds(World::new(), nobody));
    assert!(!holds(for_alice(false), "!(context has person)"));
    let alice = "context has person && context.person.issuer == \"corp\" && \
                 context.person.subject == \"alice\" && context.person.groups == [\"oncall\"]";
    assert!(holds(for_alice(false), alice));
    assert!(
        holds(handed_on(true, &["a", "b"]), alice),
        "through others, too"
    );
    let in_person = "context has person && context.person.in_person";
    assert!(holds(for_alice(true), in_person));
    assert!(!holds(for_alice(false), in_person));
    let through = "context.chain.agents.contains(\"b\") && context.chain.depth == 2";
    assert!(holds(handed_on(false, &["a", "b"]), through));
    assert!(!holds(handed_on(false, &["a", "c"]), through));
}

/// Recorded, written, read and decided again: as it was, and under another configuration.
fn again(world: &World, change: impl FnOnce(&mut World)) -> (Option<Denial>, Option<Denial>) {
    let registry = Registry::new(vec![world.agent.clone()]).unwrap();
    let caller = Caller::stated(
        "github".parse().unwrap(),
        "https://issuer.example".to_owned(),
        "repo:acme/checkout".to_owned(),
        serde_json::Map::new(),
        world.facts.clone(),
        NOW,
    );
    let stated = Stated {
        signer: SignerClass::Agent,
        mission: world.mission.clone(),
        authorization_details: world.details.clone(),
        asked: Asked::default(),
        task: None,
        instance: None,
        goal_ends: None,
        facts: world.facts.clone(),
        behalf: world.behalf.clone(),
        approval: None,
    };
    let intent = Intent::restated(stated, NOW);
    let policy = world.policy().unwrap();
    let recorded = Recorded::of(&policy, &caller, &intent);
    let read = Recorded::from_detail(&Value::Object(recorded.to_detail())).unwrap();
    assert_eq!(read, recorded);
    let decide = |policy: &Policy| {
        let told = policy.again(&registry, &world.agent.id, &read, &world.view, NOW);
        told.unwrap().denied.map(|denied| denied.reason)
    };
    let first = registry
        .stated_caller(&world.agent.id, caller, &world.view, NOW)
        .unwrap();
    let first = policy.decide(&first, &intent, &world.view, NOW).err();
    let same = decide(&policy);
    assert_eq!(first.map(|denied| denied.reason), same, "as it was");
    let mut changed = World {
        missions: world.missions.clone(),
        ..World::new()
    };
    change(&mut changed);
    (same, decide(&changed.policy().unwrap()))
}

#[test]
fn what_was_asked_for_a_person_is_decided_again() {
    let subject = Some(Denial::SubjectNotAccepted);
    for in_person in [false, true] {
        let world = for_alice(in_person);
        let other = again(&world, |w| {
            let group = &mut w.mission().on_behalf_of[0];
            group.claims = facts(&[("groups", "admins")]);
        });
        assert_eq!(other, (None, subject), "another group");
        let staff = again(&world, |w| {
            let group = &mut w.mission().on_behalf_of[0];
            group.claims = facts(&[("groups", "staff")]);
        });
        assert_eq!(staff, (None, None), "a group that the person is of, too");
        let narrower = again(&world, |w| {
            let group = &mut w.mission().on_behalf_of[0];
            group.ceiling.clear();
        });
        assert_eq!(narrower, (None, Some(Denial::ExceedsPeopleCeiling)));
        let tethered = again(&world, |w| w.mission().tether = strings(&["session"]));
        assert_eq!(tethered, (None, None), "the sign-in was named");
    }
    let not_in_person = again(&for_alice(true), |w| w.mission().in_person = false);
    assert_eq!(not_in_person, (None, subject));
}

#[test]
fn of_a_person_nothing_is_kept_that_no_group_asks_for() {
    let world = for_alice(false);
    let stated = Stated {
        signer: SignerClass::Agent,
        mission: None,
        authorization_details: Vec::new(),
        asked: Asked::default(),
        task: None,
        instance: None,
        goal_ends: None,
        facts: Facts::new(),
        behalf: world.behalf.clone(),
        approval: None,
    };
    let intent = Intent::restated(stated, NOW);
    let caller = Caller::stated_with_token([0; 32], NOW);
    let recorded = Recorded::of(&world.policy().unwrap(), &caller, &intent);
    let text = Value::Object(recorded.to_detail()).to_string();
    assert!(
        text.contains("oncall") && !text.contains("acme.example"),
        "{text}"
    );
}

#[test]
fn what_was_asked_for_a_parent_is_decided_again() {
    let world = handed_on(true, &["a"]);
    let actor = Some(Denial::ActorNotAccepted);
    let stopped = again(&world, |w| w.missions[1].delegates_to.clear());
    assert_eq!(stopped, (None, actor));
    let staff = again(&world, |w| {
        let staff = People {
            name: "staff".to_owned(),
            ..oncall()
        };
        w.mission().on_behalf_of = vec![staff];
    });
    assert_eq!(staff, (None, Some(Denial::SubjectNotAccepted)));
    let parent = |change: fn(&mut Parent)| {
        let mut world = handed_on(false, &["a"]);
        let Behalf::Parent(parent) = &mut world.behalf else {
            panic!("it is one");
        };
        change(parent);
        again(&world, |_| {}).1
    };
    let over = parent(|parent| parent.ended = Some("revoked".to_owned()));
    assert_eq!(over, Some(Denial::ParentNotAlive));
    let bound = parent(|parent| parent.bound_key = Some(Confirmation::Jkt("0".repeat(43))));
    assert_eq!(bound, Some(Denial::ParentKeyNotProved));
    let wide = parent(|parent| parent.authority = authority(&["orders:list"], &["*"]));
    assert_eq!(wide, Some(Denial::ExceedsParent));
    let short = parent(|parent| parent.expires_at = NOW + Duration::from_secs(1));
    assert_eq!(short, Some(Denial::LifetimeOutOfRange));
}

#[test]
fn a_token_that_lets_another_act_still_does() {
    let mut world = for_alice(false);
    let mut claims = alice().claims().clone();
    let another = serde_json::json!({ "sub": "somebody-else" });
    claims.insert("may_act".to_owned(), another);
    let person = Person::stated("corp".parse().unwrap(), claims, NOW);
    world.behalf = Behalf::Person(Box::new(person));
    let refused = Some(Denial::ActorNotAccepted);
    assert_eq!(again(&world, |_| {}), (refused, refused));
}

#[test]
fn an_older_brokers_word_of_a_delegation_is_not_decided_again() {
    let detail = serde_json::json!({
        "asked": [], "on_behalf_of": { "issuer": "https://corp.example", "subject": "alice" },
    });
    assert_eq!(Recorded::from_detail(&detail), None);
}
