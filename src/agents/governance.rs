//! What is due about an agent or a mission at `now`. Pure: what was written down and the terms of the
//! configuration in, what to tell and what to do out.

use super::lifecycle::{Stage, Turn};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use time::{Date, Duration, OffsetDateTime};

const DAY: Duration = Duration::DAY;
/// How long before its last day it is told.
const ENDS_SOON: Duration = Duration::days(14);
/// How long before it is due a review is announced, at most.
const REVIEW_SOON: Duration = Duration::days(14);
const DORMANT_SOON: Duration = Duration::days(7);
/// Whoever is to be narrowed is looked at again by then.
const NARROWED_WITHIN: Duration = Duration::days(14);
/// Actions that are remembered of one mission on one target.
pub const MAX_ACTIONS: usize = 64;
/// Missions and targets that are remembered of one agent.
const MAX_USES: usize = 256;

/// When somebody must look at it, and when it ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub review_every: Duration,
    /// How long after that it still gets something.
    pub grace: Duration,
    /// Unused for as long, it is suspended.
    pub dormant: Option<Duration>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            review_every: DAY * 90,
            grace: DAY * 14,
            dormant: None,
        }
    }
}

impl Terms {
    /// An agent's, where its table says nothing.
    pub fn of_agent() -> Self {
        Self {
            dormant: Some(DAY * 30),
            ..Self::default()
        }
    }
}

/// What is remembered of one agent or one mission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// From when on the clock counts: first seen, or resumed.
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub since: OffsetDateTime,
    #[serde(default, with = "time::serde::timestamp::milliseconds::option")]
    pub resumed: Option<OffsetDateTime>,
    #[serde(default)]
    pub reviewed: Option<Reviewed>,
    #[serde(default, with = "time::serde::timestamp::milliseconds::option")]
    pub used: Option<OffsetDateTime>,
    /// What was told already, and about which moment (milliseconds).
    #[serde(default)]
    pub told: BTreeMap<String, i64>,
    /// What was asked for and granted, by mission and target.
    #[serde(default)]
    pub uses: BTreeMap<String, Use>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reviewed {
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub at: OffsetDateTime,
    pub by: String,
    pub decision: Decision,
    #[serde(default)]
    pub note: Option<String>,
}

/// What a reviewer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Keep,
    /// Kept, and to be looked at again within two weeks: its file allows too much.
    Narrow,
    Retire,
}

impl Decision {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Narrow => "narrow",
            Self::Retire => "retire",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub last: OffsetDateTime,
    pub actions: BTreeSet<String>,
}

/// What somebody is told beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Notice {
    EndsSoon,
    /// Past its last day: it is retired next.
    Ended,
    ReviewDue,
    ReviewOverdue,
    DormantSoon,
}

impl Notice {
    pub fn code(self) -> &'static str {
        match self {
            Self::EndsSoon => "ends_soon",
            Self::Ended => "ended",
            Self::ReviewDue => "review_due",
            Self::ReviewOverdue => "review_overdue",
            Self::DormantSoon => "dormant_soon",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// About what comes at this moment.
    Tell(Notice, OffsetDateTime),
    /// Because of what this moment means.
    Turn(Turn, OffsetDateTime),
}

impl Record {
    pub fn new(now: OffsetDateTime) -> Self {
        Self {
            since: now,
            resumed: None,
            reviewed: None,
            used: None,
            told: BTreeMap::new(),
            uses: BTreeMap::new(),
        }
    }

    pub fn next_review(&self, terms: &Terms) -> OffsetDateTime {
        match &self.reviewed {
            None => later(self.since, terms.review_every),
            Some(reviewed) if reviewed.decision == Decision::Narrow => {
                later(reviewed.at, terms.review_every.min(NARROWED_WITHIN))
            }
            Some(reviewed) => later(reviewed.at, terms.review_every),
        }
    }

    /// Where the terms say so.
    pub fn dormant_at(&self, terms: &Terms) -> Option<OffsetDateTime> {
        let last = self.used.map_or(self.since, |used| used.max(self.since));
        terms.dormant.map(|dormant| later(last, dormant))
    }

    pub fn tell(&mut self, notice: Notice, of: OffsetDateTime) {
        self.told.insert(notice.code().to_owned(), stamp(of));
    }

    fn was_told(&self, notice: Notice, of: OffsetDateTime) -> bool {
        self.told.get(notice.code()) == Some(&stamp(of))
    }

    /// INVARIANT: written in the commit of the hold, so that a replica whose view is behind does not
    /// raise it again.
    pub fn done(&mut self, turn: Turn, at: OffsetDateTime) {
        self.told.insert(done(turn), stamp(at));
    }

    fn was_done(&self, turn: Turn, at: OffsetDateTime) -> bool {
        self.told.get(&done(turn)) == Some(&stamp(at))
    }

    /// Somebody lets it ask again: the clock counts from here.
    pub fn resume(&mut self, now: OffsetDateTime) {
        self.since = now;
        self.resumed = Some(now);
        self.told.clear();
    }

    /// Remembers a use; bounded.
    pub fn note(&mut self, what: &str, actions: &BTreeSet<String>, now: OffsetDateTime) {
        self.used = Some(self.used.map_or(now, |used| used.max(now)));
        if self.uses.len() >= MAX_USES && !self.uses.contains_key(what) {
            return;
        }
        let known = self.uses.entry(what.to_owned()).or_insert_with(|| Use {
            last: now,
            actions: BTreeSet::new(),
        });
        known.last = known.last.max(now);
        for action in actions {
            if known.actions.len() < MAX_ACTIONS {
                known.actions.insert(action.clone());
            }
        }
    }

    /// What is due, notices first.
    // INVARIANT: nothing happens that was not told before, in a round of its own.
    pub fn due(
        &self,
        terms: &Terms,
        ends: Option<Date>,
        stage: Stage,
        now: OffsetDateTime,
    ) -> Vec<Due> {
        let mut plan = Plan {
            record: self,
            stage,
            now,
            due: Vec::new(),
        };
        if let Some(over) = ends.map(end_of) {
            plan.notice(Notice::EndsSoon, over - ENDS_SOON..over, over);
            plan.turn(Turn::Ended, Notice::Ended, over, over);
        }
        let review = self.next_review(terms);
        let soon = review - REVIEW_SOON.min(terms.review_every / 4);
        plan.notice(Notice::ReviewDue, soon..review, review);
        let refused = later(review, terms.grace);
        plan.turn(Turn::Overdue, Notice::ReviewOverdue, review, refused);
        if let (Some(at), Some(dormant)) = (self.dormant_at(terms), terms.dormant) {
            let soon = at - DORMANT_SOON.min(dormant / 4);
            plan.turn(Turn::Dormant, Notice::DormantSoon, soon, at);
        }
        plan.due
    }
}

struct Plan<'a> {
    record: &'a Record,
    stage: Stage,
    now: OffsetDateTime,
    due: Vec<Due>,
}

impl Plan<'_> {
    /// Only for what is not decided already.
    fn notice(
        &mut self,
        what: Notice,
        within: std::ops::Range<OffsetDateTime>,
        of: OffsetDateTime,
    ) {
        let wanted = self.stage != Stage::Retired && within.contains(&self.now);
        if wanted && !self.record.was_told(what, of) {
            self.due.push(Due::Tell(what, of));
        }
    }

    /// Told from `soon` on, done at `at`.
    fn turn(&mut self, turn: Turn, notice: Notice, soon: OffsetDateTime, at: OffsetDateTime) {
        let leads = self
            .stage
            .after(turn)
            .is_some_and(|next| next != self.stage);
        if !leads || self.now < soon {
            return;
        }
        if !self.record.was_told(notice, at) {
            self.due.push(Due::Tell(notice, at));
        } else if self.now >= at && !self.record.was_done(turn, at) {
            self.due.push(Due::Turn(turn, at));
        }
    }
}

/// The last day counts in full, in UTC.
pub fn end_of(last_day: Date) -> OffsetDateTime {
    let after = last_day.next_day().unwrap_or(last_day);
    after.midnight().assume_utc()
}

fn later(moment: OffsetDateTime, by: Duration) -> OffsetDateTime {
    moment.checked_add(by).unwrap_or(moment)
}

fn done(turn: Turn) -> String {
    format!("done/{}", turn.code())
}

fn stamp(moment: OffsetDateTime) -> i64 {
    moment.unix_timestamp()
}

#[cfg(test)]
mod tests;
