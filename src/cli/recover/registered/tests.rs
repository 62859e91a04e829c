use super::*;
use serde_json::json;

fn definition(purpose: &str) -> crate::agents::registered::Definition {
    let value = json!({ "purpose": purpose });
    value.as_object().unwrap().clone()
}

/// Changes as they were made, and the sets that they came to.
fn history() -> (Vec<Told>, Vec<Set>) {
    let changes = [
        ("a", Some(definition("x"))),
        ("b", Some(definition("y"))),
        ("a", None),
        ("b", Some(definition("z"))),
    ];
    let (mut told, mut sets) = (Vec::new(), vec![Set::default()]);
    for (number, (name, definition)) in (1..).zip(changes) {
        let agent: AgentId = name.parse().unwrap();
        let before = sets.last().unwrap();
        let set = before.with(&agent, definition.as_ref(), number);
        told.push(Told {
            named: set.named(number).unwrap(),
            agent,
            definition,
        });
        sets.push(set);
    }
    (told, sets)
}

#[test]
fn from_wherever_the_store_stands_the_changes_behind_it_come_to_the_last_set() {
    let (told, sets) = history();
    for (number, set) in (0..).zip(&sets) {
        let made = again(set.clone(), number, &told).unwrap();
        assert_eq!(&made, sets.last().unwrap(), "from {number}");
    }
}

#[test]
fn a_change_that_is_missing_is_not_passed_over() {
    let (mut told, sets) = history();
    // That `a` was removed.
    told.remove(2);
    let made = again(Set::default(), 0, &told).unwrap();
    assert_eq!(made, sets[2], "and nothing behind it counts");
    assert_ne!(made.named(4).unwrap(), told.last().unwrap().named);
}
