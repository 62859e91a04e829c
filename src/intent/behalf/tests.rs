use super::*;
use crate::ids::ShardId;

fn agent(name: &str) -> Principal {
    let agent: AgentId = name.parse().unwrap();
    Principal::Agent {
        lease: LeaseId::draw(ShardId::of(&agent, None)),
        agent,
        mission: "m".parse().unwrap(),
    }
}

fn person(subject: &str) -> Principal {
    Principal::Person {
        issuer: "corp".parse().unwrap(),
        issuer_url: "https://login.acme.example".to_owned(),
        subject: subject.to_owned(),
        people: vec!["oncall".to_owned()],
        session: None,
        in_person: false,
    }
}

#[test]
fn an_agent_that_acts_for_itself_has_no_actor() {
    let own = "a".parse().unwrap();
    assert_eq!(subject(&[], &own), "a");
    assert_eq!(act(&[], &own, "https://b"), None);
}

#[test]
fn the_subject_is_whom_it_began_with_and_the_outermost_actor_is_the_agent() {
    let chain = [person("alice"), agent("a"), agent("b")];
    let own = "c".parse().unwrap();
    assert_eq!(subject(&chain, &own), "corp:alice");
    let iss = "https://b";
    assert_eq!(
        act(&chain, &own, iss).unwrap(),
        json!({ "sub": "c", "iss": iss, "act": { "sub": "b", "iss": iss, "act": { "sub": "a", "iss": iss } } })
    );
    assert_eq!(subject(&chain[1..], &own), "a");
    assert_eq!(
        act(&chain[1..], &own, iss).unwrap(),
        json!({ "sub": "c", "iss": iss, "act": { "sub": "b", "iss": iss } })
    );
}

#[test]
fn there_are_as_many_actors_as_links_before_the_agent() {
    let own = "z".parse().unwrap();
    let mut chain = Vec::new();
    for depth in 0..=MAX_ACTORS {
        let mut inner = act(&chain, &own, "https://b");
        let mut found = 0;
        while let Some(actor) = inner {
            found += 1;
            inner = actor.get("act").cloned();
        }
        assert_eq!(found, depth);
        chain.push(agent("a"));
    }
}

#[test]
fn a_persons_name_is_no_agents_and_no_other_issuers() {
    assert!(person("deployer").name().parse::<AgentId>().is_err());
    assert_ne!(person("deployer").name(), agent("deployer").name());
}
