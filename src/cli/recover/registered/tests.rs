use super::super::RecoverArgs;
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::fences::tests::fixture::{Death, Line};
use crate::fences::tests::{agent, sealer, store};
use crate::fences::{Fences, View};
use crate::store::{Position, Store};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

async fn fences(line: &Arc<Line>) -> Fences {
    let store: Arc<dyn Store> = Arc::<Line>::clone(line);
    let fences = Fences::idle(store, sealer(), clock(), Duration::from_secs(3600));
    fences.follow(Duration::ZERO).await.unwrap();
    fences
}

async fn recovered(
    line: &Arc<Line>,
    told: &[Told],
    without_registered: bool,
) -> Result<Option<u64>, Failure> {
    let args = RecoverArgs {
        config: "unused".into(),
        export: None,
        incomplete: false,
        i_understand: true,
        without_published: false,
        without_unreadable: false,
        without_registered,
    };
    let (store, clock): (Arc<dyn Store>, _) = (Arc::<Line>::clone(line), clock());
    let made = Made {
        args: &args,
        export: Path::new("no-such-export"),
        store: &store,
        sealer: &sealer(),
        fences: &fences(line).await,
        clock: &clock,
    };
    let now = clock.now();
    let entries: Vec<_> = told.iter().map(|told| told.entry(now)).collect();
    made.registered(&entries, now).await
}

fn is_ended(view: &View, on: &Dimension) -> bool {
    let ended = view.ended_by(&[on.hash()], Position::ORIGIN);
    ended.is_some()
}

#[tokio::test]
async fn wherever_a_recovery_is_interrupted_the_next_one_ends_what_all_of_them_hold() {
    let (told, _) = history();
    let last = &told.last().unwrap().named;
    for death in [Death::Before, Death::After] {
        // Two ends, the record, the entry that names it.
        for commit in 1..=4 {
            let line = Line::to(store());
            line.die_at(commit, death);
            assert!(recovered(&line, &told, false).await.is_err());
            line.mend();
            let again = recovered(&line, &told, false).await;
            assert_eq!(again.map_err(|failure| failure.message), Ok(Some(4)));
            let last_view = fences(&line).await.last();
            assert_eq!(last_view.registered(), Some(last));
            for name in ["a", "b"] {
                let is_dead = is_ended(&last_view, &agent(name));
                assert!(is_dead, "{name}, died at {commit}: {death:?}");
            }
            assert!(!is_ended(&last_view, &agent("c")));
        }
    }
}

#[tokio::test]
async fn where_nobody_can_tell_who_was_registered_whatever_anybody_holds_is_given_up_with_them() {
    let (told, _) = history();
    let last = told.last().unwrap().named.clone();
    let line = Line::to(store());
    // The log is whole, and nothing else is.
    let fence = NewFence::registering(last, None, ("a test", "a test"));
    fences(&line)
        .await
        .raise(fence, clock().now())
        .await
        .unwrap();
    let refused = recovered(&line, &[], false).await.unwrap_err();
    assert!(refused.message.contains("--without-registered"));
    assert!(!is_ended(&fences(&line).await.last(), &Dimension::all()));
    for death in [Death::Before, Death::After] {
        line.die_at(2, death);
        assert!(recovered(&line, &[], true).await.is_err());
        line.mend();
        let view = fences(&line).await.last();
        assert!(is_ended(&view, &Dimension::all()), "ends come first");
    }
    let given_up = recovered(&line, &[], true).await;
    let number = given_up.map_err(|failure| failure.message).unwrap();
    let view = fences(&line).await.last();
    assert_eq!(view.registered().map(|named| named.number), number);
    let nobody = Set::default().named(number.unwrap()).unwrap();
    assert_eq!(view.registered(), Some(&nobody));
}
