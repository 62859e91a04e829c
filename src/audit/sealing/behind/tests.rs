use super::*;

fn state(checkpoint: u64) -> State {
    let chain = Chain {
        checkpoint,
        ..Chain::default()
    };
    State::new("whoever", &chain, 0, OffsetDateTime::UNIX_EPOCH)
}

fn is_left_to_others(behind: &mut Behind, checkpoint: u64) -> bool {
    let state = state(checkpoint);
    matches!(behind.turn(Some(&state), None), Turn::Theirs)
}

#[test]
fn what_was_seen_is_not_forgotten_over_what_a_failover_left() {
    let mut behind = Behind::default();
    behind.saw(&state(4));
    behind.saw(&state(2));
    assert!(is_left_to_others(&mut behind, 2));
    assert!(matches!(behind.turn(Some(&state(4)), None), Turn::Ours));
}

#[test]
fn each_failover_is_waited_out_from_its_own_beginning() {
    let mut behind = Behind::default();
    behind.saw(&state(4));
    assert!(is_left_to_others(&mut behind, 2));
    let Some(first) = behind.since else {
        panic!("it waits for nobody");
    };
    assert!(is_left_to_others(&mut behind, 2));
    assert_eq!(behind.since, Some(first), "it is one");
    // Whoever sealed it goes on.
    behind.saw(&state(5));
    assert_eq!(behind.since, None);
    assert!(is_left_to_others(&mut behind, 3));
    assert!(behind.since > Some(first));
}
