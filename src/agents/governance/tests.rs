//! What is due, rule by rule: each line moves one date.

use super::{Decision, Due, Notice, Record, Reviewed, Terms, end_of};
use crate::agents::{Stage, Turn};
use time::macros::{date, datetime};
use time::{Date, Duration, OffsetDateTime};

const START: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
const FAR: Date = date!(2099 - 12 - 31);

fn day(number: i64) -> OffsetDateTime {
    START + Duration::days(number)
}

fn due(record: &Record, ends: Date, stage: Stage, now: OffsetDateTime) -> Vec<Due> {
    record.due(&Terms::of_agent(), Some(ends), stage, now)
}

/// Used every day, so that dormancy is out of the way.
fn busy(now: OffsetDateTime) -> Record {
    let mut record = Record::new(START);
    record.used = Some(now);
    record
}

/// Looks every hour, as the clock does, and writes down what it is told.
fn lived(record: &mut Record, ends: Date, until: OffsetDateTime) -> Vec<(OffsetDateTime, Due)> {
    let mut seen = Vec::new();
    let (mut now, mut stage) = (START, Stage::Active);
    while now < until {
        for one in due(record, ends, stage, now) {
            match one {
                Due::Tell(notice, of) => record.tell(notice, of),
                Due::Turn(turn, at) => {
                    record.done(turn, at);
                    stage = stage.after(turn).unwrap();
                }
            }
            seen.push((now, one));
        }
        now += Duration::HOUR;
    }
    seen
}

#[test]
fn an_agent_that_nobody_uses_is_told_of_and_suspended_after_its_time() {
    let mut record = Record::new(START);
    let seen = lived(&mut record, FAR, day(60));
    let dormant = day(30);
    assert_eq!(
        seen,
        [
            (day(23), Due::Tell(Notice::DormantSoon, dormant)),
            (dormant, Due::Turn(Turn::Dormant, dormant)),
        ]
    );
}

#[test]
fn a_use_puts_dormancy_off() {
    let mut record = Record::new(START);
    record.used = Some(day(29));
    assert!(due(&record, FAR, Stage::Active, day(31)).is_empty());
    // A use from before it was resumed says nothing.
    record.used = Some(day(1));
    record.resume(day(29));
    assert!(due(&record, FAR, Stage::Active, day(40)).is_empty());
}

#[test]
fn a_review_is_announced_then_warned_of_then_nothing_is_new() {
    let mut record = busy(day(100_000));
    let seen = lived(&mut record, FAR, day(200));
    assert_eq!(
        seen,
        [
            (day(76), Due::Tell(Notice::ReviewDue, day(90))),
            (day(90), Due::Tell(Notice::ReviewOverdue, day(104))),
            (day(104), Due::Turn(Turn::Overdue, day(104))),
        ]
    );
}

#[test]
fn a_review_moves_the_next_one_and_a_narrowing_moves_it_less() {
    let review = |decision| {
        let mut record = busy(day(100_000));
        record.reviewed = Some(Reviewed {
            at: day(80),
            by: "octavia".to_owned(),
            decision,
            note: None,
        });
        record.next_review(&Terms::of_agent())
    };
    assert_eq!(review(Decision::Keep), day(170));
    assert_eq!(review(Decision::Narrow), day(94));
}

#[test]
fn past_its_last_day_it_is_retired_and_was_told_before() {
    let ends = date!(2026 - 12 - 31);
    let over = end_of(ends);
    let mut record = busy(day(100_000));
    let seen = lived(&mut record, ends, day(60));
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert_eq!(seen[0].1, Due::Tell(Notice::EndsSoon, over));
    assert!(over - seen[0].0 > Duration::days(13));
    assert_eq!(seen[1].1, Due::Tell(Notice::Ended, over));
    assert_eq!(seen[2].1, Due::Turn(Turn::Ended, over));
    assert!(seen[1].0 >= over && seen[2].0 > seen[1].0);
}

/// The broker was down all the while: the first round tells, the second one acts.
#[test]
fn nothing_happens_that_was_not_told_before() {
    let record = Record::new(START);
    let late = day(400);
    let all = due(&record, date!(2026 - 12 - 31), Stage::Active, late);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(
        all.iter().all(|one| matches!(one, Due::Tell(..))),
        "{all:?}"
    );
}

#[test]
fn what_was_done_is_not_done_again_by_a_replica_whose_view_is_behind() {
    let mut record = Record::new(START);
    let at = day(30);
    record.tell(Notice::DormantSoon, at);
    assert_eq!(
        due(&record, FAR, Stage::Active, at),
        [Due::Turn(Turn::Dormant, at)]
    );
    record.done(Turn::Dormant, at);
    assert!(due(&record, FAR, Stage::Active, at).is_empty());
}

#[test]
fn nothing_more_is_said_of_what_is_retired() {
    let record = Record::new(START);
    assert!(due(&record, date!(2026 - 12 - 31), Stage::Retired, day(400)).is_empty());
}

#[test]
fn what_is_remembered_of_uses_is_bounded() {
    let mut record = Record::new(START);
    for number in 0..1000 {
        let actions = (0..10).map(|one| format!("act{number}:{one}")).collect();
        record.note(&format!("mission{number}/target"), &actions, day(1));
        record.note("mission0/target", &actions, day(2));
    }
    assert_eq!(record.uses.len(), super::MAX_USES);
    assert_eq!(
        record.uses["mission0/target"].actions.len(),
        super::MAX_ACTIONS
    );
    assert_eq!(record.used, Some(day(2)));
}
