use super::{RECENT, Window};
use crate::audit::Page;
use crate::store::Position;

/// A log of so many entries of this kind behind a place.
fn log(behind: Position, many: usize, kind: &[u8]) -> Vec<Position> {
    let next = |place: &Position| Some(place.next(kind));
    std::iter::successors(Some(behind), next)
        .skip(1)
        .take(many)
        .collect()
}

fn page(places: &[Position], forked: bool) -> Page {
    Page {
        entries: places.iter().map(|place| (*place, None)).collect(),
        after: *places.last().unwrap(),
        more: false,
        missed: 0,
        forked,
    }
}

fn told(window: &Window, from: Position) -> Option<Vec<Position>> {
    let placed = window.after(from)?;
    Some(placed.into_iter().map(|(place, _)| place).collect())
}

#[test]
fn what_follows_a_place_is_told_from_memory_as_far_back_as_it_goes() {
    let mut window = Window::default();
    let all = log(Position::ORIGIN, RECENT + 10, b"one");
    window.take(page(&all, false));
    assert_eq!(told(&window, all[RECENT + 9]), Some(vec![]));
    assert_eq!(
        told(&window, all[RECENT + 7]),
        Some(all[RECENT + 8..].to_vec())
    );
    assert_eq!(told(&window, all[9]), Some(all[10..].to_vec()));
    assert_eq!(told(&window, all[8]), None);
}

#[test]
fn a_place_that_a_failover_lost_is_never_gone_on_from() {
    let mut window = Window::default();
    let old = log(Position::ORIGIN, 20, b"one");
    window.take(page(&old, false));
    // The store has other entries behind the tenth; of them those are kept that were not read by their number.
    let new = log(old[9], 15, b"other");
    window.take(page(&new[10..], true));
    assert_eq!(new[10].sequence, old[19].sequence + 1);
    assert_eq!(told(&window, old[19]), None);
    assert_eq!(told(&window, new[10]), Some(new[11..].to_vec()));
}
