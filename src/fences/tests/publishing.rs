use super::fold::add;
use super::{agent, fence};
use crate::fences::{Dimension, DimensionKind, FenceKind, Published, View, snapshot};

fn published(revision: u64, hash: &str) -> Published {
    let hash = hash.to_owned();
    Published { revision, hash }
}

fn publish(view: &View, what: &Published) -> View {
    add(view, &fence(FenceKind::Publish, what.dimension()))
}

#[test]
fn the_last_one_decides_from_its_position_on() {
    let before = View::origin();
    let (one, two) = (published(1, "aa"), published(2, "bb"));
    let first = publish(&before, &one);
    let second = publish(&first, &two);
    let seen = [&before, &first, &second].map(View::published);
    assert_eq!(seen, [None, Some(one), Some(two)]);
}

#[test]
fn an_older_one_that_is_written_again_is_no_way_back() {
    let view = publish(&View::origin(), &published(7, "new"));
    let again = publish(&view, &published(6, "old"));
    assert_eq!(again.published(), Some(published(7, "new")));
}

#[test]
fn of_two_with_one_number_the_later_on_the_log_counts_for_all() {
    let (mine, theirs) = (published(7, "mine"), published(7, "theirs"));
    // One has read its own, which a failover lost and which is on the log once more behind the other's.
    let had = publish(&View::origin(), &mine);
    let mended = publish(&publish(&had, &theirs), &mine);
    let fresh = publish(&publish(&View::origin(), &theirs), &mine);
    assert_eq!(mended.published(), Some(mine.clone()));
    assert_eq!(fresh.published(), Some(mine));
}

#[test]
fn it_ends_and_holds_nothing_and_a_snapshot_keeps_it() {
    let before = View::origin();
    let view = publish(&before, &published(3, "cc"));
    let covered = [agent("a").hash(), Dimension::all().hash()];
    assert_eq!(view.ended_by(&covered, before.position()), None);
    assert_eq!(view.held(&covered), None);
    let kept = snapshot::through_the_store(&view);
    assert_eq!(kept.published(), Some(published(3, "cc")));
}

#[test]
fn what_is_no_publication_is_passed_over() {
    let view = publish(&View::origin(), &published(3, "cc"));
    let odd = Dimension::new(DimensionKind::Config, "four dd");
    let foreign = Dimension::new(DimensionKind::Agent, "4 dd");
    for dimension in [odd, foreign] {
        let after = add(&view, &fence(FenceKind::Publish, dimension));
        assert_eq!(after.published(), Some(published(3, "cc")));
    }
    let held = add(
        &view,
        &fence(FenceKind::Hold, published(9, "dd").dimension()),
    );
    assert_eq!(held.published(), Some(published(3, "cc")));
}
