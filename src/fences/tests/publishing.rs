use super::fold::{add, add_by};
use super::{agent, fence};
use crate::fences::entry::Author;
use crate::fences::{
    Configured, Dimension, DimensionKind, Fence, FenceKind, Named, View, snapshot,
};

fn said(number: u64, decides: &str, published: Option<&str>) -> Configured {
    Configured {
        decides: Named {
            number,
            sha256: decides.to_owned(),
        },
        published: published.map(str::to_owned),
    }
}

fn entry(what: &Configured) -> Fence {
    fence(FenceKind::Configure, what.dimension())
}

fn configure(view: &View, what: &Configured) -> View {
    add(view, &entry(what))
}

#[test]
fn the_last_one_decides_from_its_position_on() {
    let before = View::origin();
    let (one, two) = (said(1, "aa", Some("a1")), said(2, "bb", None));
    let first = configure(&before, &one);
    let second = configure(&first, &two);
    let seen = [&before, &first, &second].map(View::configured);
    assert_eq!(seen, [None, Some(one.clone()), Some(two.clone())]);
    assert_eq!(
        [one.record().is_some(), two.record().is_some()],
        [true, false]
    );
    assert_eq!(
        second.published(),
        one.record(),
        "that it was published once, is known"
    );
}

#[test]
fn an_older_one_that_is_written_again_is_no_way_back() {
    let all = [
        said(6, "aa", Some("a1")),
        said(7, "bb", None),
        said(8, "cc", Some("c1")),
    ];
    let entries = all.clone().map(|one| entry(&one));
    let view = entries
        .iter()
        .fold(View::origin(), |view, one| add(&view, one));
    // By whom it was written says nothing: it has a good MAC.
    let again = entries.iter().fold(view, |view, one| add(&view, one));
    assert_eq!(again.configured(), Some(all[2].clone()));
    assert!(again.is_superseded("bb") && !again.is_superseded("cc"));
}

#[test]
fn whoever_writes_to_the_store_puts_nothing_in_force() {
    let good = said(1, "aa", Some("a1"));
    let view = configure(&View::origin(), &good);
    for theirs in [said(2, "bb", Some("b1")), said(u64::MAX, "bb", None)] {
        let after = add_by(&view, &entry(&theirs), Author::Anybody);
        assert_eq!(after.configured(), Some(good.clone()));
        assert_eq!(after.published(), good.record());
    }
    let view = add_by(&view, &entry(&said(2, "bb", None)), Author::OursOnce);
    assert_eq!(view.configured(), Some(said(2, "bb", None)));
}

#[test]
fn of_two_with_one_number_all_replicas_take_the_same_in_any_order() {
    let (mine, theirs) = (said(7, "bb", Some("b1")), said(7, "cc", Some("c1")));
    // One has read its own, which a failover lost and which is on the log once more behind the other's.
    let had = configure(&View::origin(), &mine);
    let mended = configure(&configure(&had, &theirs), &mine);
    let fresh = configure(&configure(&View::origin(), &theirs), &mine);
    for view in [mended, fresh] {
        assert_eq!(view.configured(), Some(theirs.clone()));
        assert_eq!(view.published(), theirs.record());
    }
}

#[test]
fn it_ends_and_holds_nothing_and_a_snapshot_keeps_it() {
    let before = View::origin();
    let view = configure(&before, &said(3, "cc", Some("c1")));
    let view = configure(&view, &said(4, "dd", None));
    let covered = [agent("a").hash(), Dimension::all().hash()];
    assert_eq!(view.ended_by(&covered, before.position()), None);
    assert_eq!(view.held(&covered), None);
    let kept = snapshot::through_the_store(&view);
    assert_eq!(kept.configured(), Some(said(4, "dd", None)));
    assert_eq!(kept.published(), said(3, "cc", Some("c1")).record());
}

#[test]
fn what_says_nothing_of_a_configuration_is_passed_over() {
    let good = said(3, "cc", Some("c1"));
    let view = configure(&View::origin(), &good);
    let on = |kind, text: &str| Dimension::new(kind, text);
    for dimension in [
        on(DimensionKind::Configuration, "four dd"),
        on(DimensionKind::Configuration, "4"),
        on(DimensionKind::Configuration, "4 "),
        on(DimensionKind::Configuration, "dd"),
        on(DimensionKind::Agent, "4 dd"),
    ] {
        let after = add(&view, &fence(FenceKind::Configure, dimension));
        assert_eq!(after.configured(), Some(good.clone()));
    }
    let on = said(9, "dd", None).dimension();
    let held = add(&view, &fence(FenceKind::Hold, on));
    assert_eq!(held.configured(), Some(good));
}
