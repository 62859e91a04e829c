//! The whole table.

use super::{Stage, Turn};
use crate::fences::Weight;

#[test]
fn every_stage_and_every_turn_lead_where_the_table_says() {
    const TURNS: [Turn; 10] = [
        Turn::Suspend,
        Turn::Resume,
        Turn::Retire,
        Turn::Reinstate,
        Turn::Reviewed,
        Turn::Overdue,
        Turn::Dormant,
        Turn::Drifted,
        Turn::Ended,
        Turn::Unreadable,
    ];
    // a: active, u: under review, s: suspended, r: retired, -: cannot happen to it.
    let table = [
        //                    suspend resume retire reinstate reviewed overdue dormant drifted ended unreadable
        (Stage::Active, "s - r - a u s s r s"),
        (Stage::UnderReview, "s - r - a - s s r s"),
        (Stage::Suspended, "s a r - s - - - r -"),
        (Stage::Retired, "r - r a - - - - - -"),
    ];
    assert_eq!(table.map(|(stage, _)| stage), Stage::ALL);
    for (stage, row) in table {
        for (turn, cell) in TURNS.into_iter().zip(row.split(' ')) {
            let wanted = match cell {
                "a" => Some(Stage::Active),
                "u" => Some(Stage::UnderReview),
                "s" => Some(Stage::Suspended),
                "r" => Some(Stage::Retired),
                _ => None,
            };
            assert_eq!(stage.after(turn), wanted, "{stage:?} {turn:?}");
        }
    }
}

/// What a turn leads to is what the hold that it raises, on top of what stands, amounts to.
#[test]
fn a_turn_raises_the_hold_of_the_stage_that_it_leads_to() {
    let holds = [
        Turn::Suspend,
        Turn::Retire,
        Turn::Overdue,
        Turn::Dormant,
        Turn::Drifted,
        Turn::Ended,
        Turn::Unreadable,
    ];
    let weights = [
        None,
        Some(Weight::Review),
        Some(Weight::Suspension),
        Some(Weight::Retirement),
    ];
    for standing in weights {
        for turn in holds {
            let stage = Stage::of(standing);
            let strongest = standing.max(Some(turn.weight()));
            if let Some(next) = stage.after(turn) {
                assert_eq!(next, Stage::of(strongest), "{stage:?} {turn:?}");
            }
        }
    }
}
