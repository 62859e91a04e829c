use super::fold::{add, add_by};
use super::{agent, fence};
use crate::fences::entry::Author;
use crate::fences::{Dimension, EndedBy, Fence, FenceKind, Named, NewFence, View, snapshot};

fn named(number: u64, sha256: &str) -> Named {
    Named {
        number,
        sha256: sha256.to_owned(),
    }
}

fn said(named: &Named, ends: Option<&str>) -> Fence {
    let new = NewFence::registering(named.clone(), ends, ("ops@acme.example", "a test"));
    Fence {
        names: new.names,
        ..fence(FenceKind::Register, new.dimension)
    }
}

#[test]
fn the_last_set_counts_and_an_older_one_that_is_written_again_brings_nobody_back() {
    let all = [named(6, "aa"), named(7, "bb"), named(8, "cc")];
    let entries = all.clone().map(|one| said(&one, None));
    let mut view = View::origin();
    for _ in 0..2 {
        for entry in &entries {
            view = add(&view, entry);
        }
        assert_eq!(view.registered(), Some(&all[2]));
    }
    assert_eq!(
        snapshot::through_the_store(&view).registered(),
        Some(&all[2])
    );
}

#[test]
fn of_two_with_one_number_all_replicas_take_the_same_in_any_order() {
    let (mine, theirs) = (said(&named(7, "bb"), None), said(&named(7, "cc"), None));
    for (first, second) in [(&mine, &theirs), (&theirs, &mine)] {
        let view = add(&add(&View::origin(), first), second);
        assert_eq!(view.registered(), Some(&named(7, "cc")));
    }
}

#[test]
fn two_changes_of_one_number_are_an_alarm_and_one_that_is_put_back_is_none() {
    let mine = said(&named(7, "bb"), None);
    let view = add(&View::origin(), &mine);
    assert!(view.contradicts(&said(&named(7, "cc"), Some("a"))));
    for fine in [(7, "bb"), (6, "cc"), (8, "cc")] {
        let fine = said(&named(fine.0, fine.1), None);
        assert!(!view.contradicts(&fine), "{:?}", fine.names);
    }
    assert!(!View::origin().contradicts(&mine));
}

#[test]
fn whoever_writes_to_the_store_registers_nobody_and_ends_what_they_say() {
    let before = add(&View::origin(), &said(&named(1, "aa"), None));
    let theirs = said(&named(2, "bb"), Some("a"));
    let after = add_by(&before, &theirs, Author::Anybody);
    assert_eq!(after.registered(), Some(&named(1, "aa")));
    let ended = after.ended_by(&[agent("a").hash()], before.position());
    assert!(matches!(ended, Some(EndedBy::Fence(_))));
}

#[test]
fn it_ends_the_agent_that_it_stands_on_and_holds_nobody() {
    let before = View::origin();
    let on = |view: &View, name: &str| view.ended_by(&[agent(name).hash()], before.position());
    let quiet = add(&before, &said(&named(1, "aa"), None));
    let all = [agent("a").hash(), Dimension::all().hash()];
    assert_eq!(quiet.ended_by(&all, before.position()), None);
    let loud = add(&before, &said(&named(1, "aa"), Some("a")));
    assert!(on(&loud, "a").is_some());
    assert_eq!(on(&loud, "b"), None);
    assert_eq!(loud.held(&all), None);
}

#[test]
fn what_names_no_set_changes_none() {
    let good = add(&View::origin(), &said(&named(3, "cc"), None));
    let torn = Fence {
        names: None,
        ..said(&named(9, "dd"), Some("a"))
    };
    assert_eq!(add(&good, &torn).registered(), Some(&named(3, "cc")));
    let held = Fence {
        names: Some(named(9, "dd")),
        ..fence(FenceKind::Hold, agent("a"))
    };
    assert_eq!(add(&good, &held).registered(), Some(&named(3, "cc")));
}
