use super::{NOW, agent, fence, new, sealer};
use crate::fences::entry::{self, Author};
use crate::fences::snapshot;
use crate::fences::{
    Dimension, DimensionHash, DimensionKind, EndedBy, Fence, FenceKind, LONGEST_LIFETIME, Place,
    View, Weight,
};
use crate::store::{self, Link, LogEntry, Position};
use proptest::prelude::*;
use std::time::Duration;

pub(super) fn add(view: &View, fence: &Fence) -> View {
    let lifts = match fence.kind {
        FenceKind::Lift => {
            let lift = new(fence.kind, fence.dimension.clone()).weight(fence.weight);
            view.lifted_by(&lift)
        }
        _ => Vec::new(),
    };
    let fence = Fence {
        lifts,
        ..fence.clone()
    };
    add_by(view, &fence, Author::Ours)
}

pub(super) fn add_by(view: &View, fence: &Fence, author: Author) -> View {
    let value = rmp_serde::to_vec_named(fence).unwrap();
    let position = Position {
        sequence: view.position().sequence + 1,
        link: store::link(&view.position().link, &value),
    };
    let entry = LogEntry { position, value };
    let mut next = view.clone();
    next.fold(&entry, (fence.clone(), author)).unwrap();
    next
}

fn on(name: &str) -> [DimensionHash; 1] {
    [agent(name).hash()]
}

#[test]
fn a_kill_ends_what_was_decided_before_it_and_nothing_after() {
    let before = View::origin();
    let after = add(&before, &fence(FenceKind::Kill, agent("a")));
    assert!(matches!(
        after.ended_by(&on("a"), before.position()),
        Some(EndedBy::Fence(_))
    ));
    assert_eq!(after.ended_by(&on("b"), before.position()), None);
    assert_eq!(after.ended_by(&on("a"), after.position()), None);
    assert_eq!(after.held(&on("a")), None);
}

#[test]
fn a_view_does_not_change_under_who_decides_on_it() {
    let before = View::origin();
    let _after = add(&before, &fence(FenceKind::Hold, agent("a")));
    assert_eq!(before.held(&on("a")), None);
}

#[test]
fn a_hold_refuses_until_it_is_lifted_and_what_it_ended_stays_dead() {
    let before = View::origin();
    let held = add(&before, &fence(FenceKind::Hold, agent("a")));
    assert_eq!(held.held(&on("a")).unwrap().dimension, agent("a"));
    assert_eq!(held.holds().len(), 1);
    let lifted = add(&held, &fence(FenceKind::Lift, agent("a")));
    assert_eq!(lifted.held(&on("a")), None);
    assert!(lifted.ended_by(&on("a"), before.position()).is_some());
    assert_eq!(lifted.ended_by(&on("a"), lifted.position()), None);
}

#[test]
fn a_fence_on_everything_ends_everything_that_names_it() {
    let after = add(&View::origin(), &fence(FenceKind::Kill, Dimension::all()));
    assert!(
        after
            .ended_by(&[Dimension::all().hash()], Position::ORIGIN)
            .is_some()
    );
}

#[test]
fn a_decision_made_on_a_lost_entry_is_dead() {
    let view = add(&View::origin(), &fence(FenceKind::Kill, agent("a")));
    let foreign = Position {
        sequence: 1,
        link: Link([9; 20]),
    };
    assert_eq!(view.place(foreign), Place::Lost);
    assert_eq!(view.ended_by(&on("z"), foreign), Some(EndedBy::Lost));
    assert!(view.knows(Position::ORIGIN));
    assert!(view.knows(view.position()));
}

#[test]
fn a_decision_made_further_on_than_the_view_is_not_called_alive() {
    let behind = View::origin();
    let ahead = add(&behind, &fence(FenceKind::Kill, agent("a")));
    assert_eq!(
        behind.ended_by(&on("z"), ahead.position()),
        Some(EndedBy::Ahead)
    );
}

#[test]
fn a_hold_with_an_end_ends_and_leaves_dead_what_it_ended() {
    let mut hold = fence(FenceKind::Hold, agent("a"));
    hold.until = Some(NOW + Duration::from_secs(60));
    let mut view = add(&View::origin(), &hold);
    view.drop_ended_holds(NOW + Duration::from_secs(60));
    assert!(view.held(&on("a")).is_some());
    view.drop_ended_holds(NOW + Duration::from_secs(61));
    assert_eq!(view.held(&on("a")), None);
    view.forget(NOW + Duration::from_secs(61));
    assert!(view.ended_by(&on("a"), Position::ORIGIN).is_some());
}

#[test]
fn a_kill_is_forgotten_when_nothing_it_covers_can_be_alive() {
    let mut short = fence(FenceKind::Kill, agent("a"));
    short.until = Some(NOW + Duration::from_secs(900));
    let mut view = add(&View::origin(), &short);
    view.forget(NOW + Duration::from_secs(901));
    assert!(
        view.ended_by(&on("a"), Position::ORIGIN).is_some(),
        "clocks differ: not at once"
    );
    view.forget(NOW + Duration::from_secs(900 + 3601));
    assert_eq!(view.kill_count(), 0);
}

#[test]
fn a_later_kill_with_an_earlier_end_does_not_weaken_the_first() {
    let mut long = fence(FenceKind::Kill, agent("a"));
    long.until = Some(NOW + Duration::from_secs(7200));
    let mut short = fence(FenceKind::Kill, agent("a"));
    short.until = Some(NOW + Duration::from_secs(60));
    let mut view = add(&add(&View::origin(), &long), &short);
    view.forget(NOW + Duration::from_secs(7200));
    assert!(view.ended_by(&on("a"), Position::ORIGIN).is_some());
}

#[test]
fn links_older_than_any_lease_are_forgotten_and_newer_ones_kept() {
    let mut view = View::origin();
    for number in 0..3000_u64 {
        let mut old = fence(FenceKind::Kill, agent("a"));
        if number >= 2500 {
            old.at = NOW + LONGEST_LIFETIME * 2;
        }
        view = add(&view, &old);
    }
    let head = view.position();
    view.forget(NOW + LONGEST_LIFETIME * 2);
    assert!(!view.knows(Position::ORIGIN));
    assert!(view.knows(head));
    assert!(view.base.sequence > 0 && view.base.sequence < 2500);
    assert!(view.knows(view.base));
    let more = add(&view, &fence(FenceKind::Kill, agent("b")));
    assert!(more.knows(head) && more.knows(more.position()));
}

#[test]
fn an_entry_that_does_not_follow_is_refused() {
    let entry = fence(FenceKind::Kill, agent("a"));
    let value = rmp_serde::to_vec_named(&entry).unwrap();
    let mut view = View::origin();
    for sequence in [0, 1, 2] {
        let position = Position {
            sequence,
            link: Link([1; 20]),
        };
        let next = LogEntry {
            position,
            value: value.clone(),
        };
        assert!(view.fold(&next, (entry.clone(), Author::Ours)).is_err());
    }
    let not_a_fence = entry::wrap_snapshot(&sealer(), b"not a fence").unwrap();
    assert!(entry::unwrap(&sealer(), &not_a_fence, 1).is_err());
    assert_eq!(view.position(), Position::ORIGIN);
}

/// What happened, in the words of the rules: no fold, no forgetting, no structure.
#[derive(Debug, Clone, Copy)]
struct Said {
    kind: FenceKind,
    on: u8,
}

fn said() -> impl Strategy<Value = Said> {
    let kind = prop_oneof![
        Just(FenceKind::Kill),
        Just(FenceKind::Hold),
        Just(FenceKind::Lift)
    ];
    (kind, 0..4_u8).prop_map(|(kind, on)| Said { kind, on })
}

fn dimension(number: u8) -> Dimension {
    Dimension::new(DimensionKind::Task, number.to_string())
}

fn is_dead(log: &[Said], decided_at: usize, names: &[u8]) -> bool {
    log.iter()
        .skip(decided_at)
        .any(|said| said.kind != FenceKind::Lift && names.contains(&said.on))
}

fn is_held(log: &[Said], name: u8) -> bool {
    log.iter()
        .rev()
        .find(|said| said.on == name && said.kind != FenceKind::Kill)
        .is_some_and(|said| said.kind == FenceKind::Hold)
}

proptest! {
    #[test]
    fn the_fold_says_what_the_log_says(
        log in prop::collection::vec(said(), 0..40),
        cut in 0..40_usize,
        names in prop::collection::vec(0..4_u8, 0..3),
    ) {
        let mut view = View::origin();
        let mut positions = vec![view.position()];
        for (place, said) in log.iter().enumerate() {
            if place == cut {
                // A start in between: snapshot and tail must come to the same.
                view = snapshot::through_the_store(&view);
            }
            view = add(&view, &fence(said.kind, dimension(said.on)));
            positions.push(view.position());
        }
        let hashes: Vec<_> = names.iter().map(|name| dimension(*name).hash()).collect();
        for (decided_at, position) in positions.iter().enumerate() {
            prop_assert_eq!(
                view.ended_by(&hashes, *position).is_some(),
                is_dead(&log, decided_at, &names)
            );
        }
        let held = names.iter().any(|name| is_held(&log, *name));
        prop_assert_eq!(view.held(&hashes).is_some(), held);
    }
}

fn weighed(kind: FenceKind, weight: Weight) -> Fence {
    Fence {
        weight,
        ..fence(kind, agent("a"))
    }
}

/// What stands after these fences, and whether what was decided before them lives.
fn after(fences: &[(FenceKind, Weight)]) -> (Option<Weight>, bool) {
    let before = View::origin().position();
    let view = View::of(fences.iter().map(|(kind, weight)| weighed(*kind, *weight)));
    let own = [agent("a").hash()];
    (
        view.held(&own).map(|held| held.weight),
        view.ended_by(&own, before).is_none(),
    )
}

#[test]
fn a_review_that_is_overdue_ends_nothing_and_refuses_what_is_new() {
    use FenceKind::{Hold, Lift};
    assert_eq!(
        after(&[(Hold, Weight::Review)]),
        (Some(Weight::Review), true)
    );
    let lifted = [(Hold, Weight::Review), (Lift, Weight::Review)];
    assert_eq!(after(&lifted), (None, true));
    assert_eq!(
        after(&[(Hold, Weight::Suspension)]),
        (Some(Weight::Suspension), false)
    );
}

#[test]
fn a_weaker_hold_takes_no_stronger_ones_place_and_a_weaker_lift_ends_none() {
    use FenceKind::{Hold, Lift};
    let all = [Weight::Review, Weight::Suspension, Weight::Retirement];
    for first in all {
        for second in all {
            let (held, _) = after(&[(Hold, first), (Hold, second)]);
            assert_eq!(held, Some(first.max(second)), "{first:?} {second:?}");
            let (left, _) = after(&[(Hold, first), (Lift, second)]);
            assert_eq!(
                left,
                (second < first).then_some(first),
                "{first:?} {second:?}"
            );
        }
    }
}

#[test]
fn of_several_holds_the_strongest_is_told() {
    let owner = Dimension::new(DimensionKind::Owner, "o");
    let retired = Fence {
        weight: Weight::Retirement,
        ..fence(FenceKind::Hold, owner.clone())
    };
    let view = View::of([fence(FenceKind::Hold, agent("a")), retired]);
    let held = view.held(&[agent("a").hash(), owner.hash()]).unwrap();
    assert_eq!(held.dimension, owner);
}

#[test]
fn a_hold_that_says_no_weight_is_a_suspension() {
    let mut old = serde_json::to_value(fence(FenceKind::Hold, agent("a"))).unwrap();
    old.as_object_mut().unwrap().remove("weight").unwrap();
    let read: Fence = serde_json::from_value(old).unwrap();
    assert_eq!(read.weight, Weight::Suspension);
}
