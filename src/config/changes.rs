//! What a change of the configuration widens or narrows, and whose approval that needs.
//!
//! In: two configurations. Out: who gains or loses what, as pairs of actions and locations that are
//! compared as the decision compares them, and every other key that decides, one by one. What cannot
//! be told apart counts as wider.

mod agents;
mod missions;
mod others;
mod targets;

use super::settings::Settings;
use crate::agents::Agent;
use crate::agents::Terms;
use crate::authority::Authority;
use crate::policy::{Access, Policy, PolicyError, words};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// Everything that differs, and everybody who has to agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Who can do what that nobody like it could do before, or cannot any more.
    pub reach: Vec<Reach>,
    /// Keys that decide.
    pub keys: Vec<Change>,
    /// Owners of what is widened, or may be.
    pub approvals: Vec<Approval>,
}

/// One agent, by one mission, on one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reach {
    pub agent: String,
    pub mission: String,
    pub target: String,
    #[serde(skip_serializing_if = "Authority::is_empty")]
    pub gains: Authority,
    #[serde(skip_serializing_if = "Authority::is_empty")]
    pub loses: Authority,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub direction: Direction,
    /// `mission.deploy-checkout.require`.
    pub place: String,
    /// `pipeline.environment: "production" -> none`.
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Widens,
    Narrows,
    /// Either, or both: for a person to read.
    Changes,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Approval {
    /// As the table names it; where a table has no owner, whoever reviews its file.
    pub owner: String,
    /// The tables that it answers for.
    pub because_of: Vec<String>,
}

/// Compares two whole configurations.
pub fn changes(before: &Settings, after: &Settings) -> Result<Changes, Vec<PolicyError>> {
    let (old, new) = (before.policy()?, after.policy()?);
    let mut ledger = Ledger::default();
    reach(&mut ledger, (&old, &before.agents), (&new, &after.agents));
    missions::compare(&mut ledger, before, after);
    agents::compare(&mut ledger, before, after);
    targets::compare(&mut ledger, before, after);
    others::compare(&mut ledger, before, after);
    Ok(ledger.finish())
}

/// What was found so far.
#[derive(Debug, Default)]
struct Ledger {
    reach: Vec<Reach>,
    keys: Vec<Change>,
    approvals: BTreeMap<String, BTreeSet<String>>,
}

impl Ledger {
    fn note(&mut self, direction: Direction, place: String, what: impl Into<String>) {
        let what = what.into();
        self.keys.push(Change {
            direction,
            place,
            what,
        });
    }

    fn approve(&mut self, owner: &str, because_of: String) {
        let owner = self.approvals.entry(owner.to_owned()).or_default();
        owner.insert(because_of);
    }

    fn finish(mut self) -> Changes {
        self.keys
            .sort_by(|a, b| (&a.place, &a.what).cmp(&(&b.place, &b.what)));
        Changes {
            reach: self.reach,
            keys: self.keys,
            approvals: self
                .approvals
                .into_iter()
                .map(|(owner, because_of)| Approval {
                    owner,
                    because_of: because_of.into_iter().collect(),
                })
                .collect(),
        }
    }
}

/// The keys of one table, compared one by one.
struct Table<'a> {
    ledger: &'a mut Ledger,
    /// `mission.deploy-checkout`.
    name: String,
    /// Who answers for it, before and after.
    owners: BTreeSet<&'a str>,
}

impl Table<'_> {
    fn note(&mut self, direction: Direction, key: &str, what: impl Into<String>) {
        if direction != Direction::Narrows {
            for owner in &self.owners {
                self.ledger.approve(owner, self.name.clone());
            }
        }
        let place = format!("{}.{key}", self.name);
        self.ledger.note(direction, place, what);
    }

    /// More is wider.
    fn ordered<T: PartialOrd>(
        &mut self,
        key: &str,
        (old, new): (T, T),
        show: impl Fn(&T) -> String,
    ) {
        if old == new {
            return;
        }
        let direction = if new > old {
            Direction::Widens
        } else {
            Direction::Narrows
        };
        self.note(direction, key, format!("{} -> {}", show(&old), show(&new)));
    }

    /// Each one more is wider.
    fn grown<T: Ord + Display>(&mut self, key: &str, old: &BTreeSet<T>, new: &BTreeSet<T>) {
        for added in new.difference(old) {
            self.note(Direction::Widens, key, format!("+ {added}"));
        }
        for removed in old.difference(new) {
            self.note(Direction::Narrows, key, format!("- {removed}"));
        }
    }

    /// Different is all that can be said.
    fn same<T: PartialEq>(&mut self, key: &str, (old, new): (&T, &T), show: impl Fn(&T) -> String) {
        if old != new {
            self.note(
                Direction::Changes,
                key,
                format!("{} -> {}", show(old), show(new)),
            );
        }
    }

    fn labels(&mut self, old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) {
        let show = |labels: &BTreeMap<String, String>| {
            let all: Vec<_> = labels.iter().map(|(k, v)| format!("{k} = {v}")).collect();
            if all.is_empty() {
                "none".to_owned()
            } else {
                all.join(", ")
            }
        };
        // Policies and requirements look at them.
        self.same("labels", (old, new), show);
    }
}

fn text(value: &impl ToString) -> String {
    value.to_string()
}

fn or_none<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "none".to_owned(), ToString::to_string)
}

fn seconds(duration: std::time::Duration) -> String {
    super::values::show_duration(duration)
}

/// Looked at more rarely, it stands for longer.
fn terms(table: &mut Table<'_>, (was, is): (&Terms, &Terms)) {
    let days = |long: &time::Duration| seconds(long.unsigned_abs());
    let every = (was.review_every, is.review_every);
    table.ordered("review_every", every, days);
    table.ordered("overdue", (was.grace, is.grace), |grace| {
        format!("refused after {}", days(grace))
    });
    let dormant = |terms: &Terms| terms.dormant.unwrap_or(time::Duration::MAX);
    if was.dormant != is.dormant {
        table.ordered("dormant", (dormant(was), dormant(is)), days);
    }
}

type Side<'a> = (&'a Policy, &'a [Agent]);

fn reach(ledger: &mut Ledger, (old, old_agents): Side<'_>, (new, new_agents): Side<'_>) {
    let before = by_name(old.access(old_agents.iter()));
    let after = by_name(new.access(new_agents.iter()));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
    for name in names {
        let (was, is) = (before.get(&name), after.get(&name));
        let gains = is.map(|is| is.beyond(was)).unwrap_or_default();
        let loses = was.map(|was| was.beyond(is)).unwrap_or_default();
        if gains.is_empty() && loses.is_empty() {
            continue;
        }
        if let Some(is) = is.filter(|_| !gains.is_empty()) {
            ledger.approve(&is.mission.owner, format!("mission.{}", is.mission.id));
        }
        let (agent, mission, target) = name;
        ledger.reach.push(Reach {
            agent,
            mission,
            target,
            gains,
            loses,
        });
    }
}

type Named<'a> = BTreeMap<(String, String, String), Access<'a>>;

fn by_name(access: Vec<Access<'_>>) -> Named<'_> {
    let name = |access: &Access<'_>| {
        let Access {
            agent,
            mission,
            target,
            ..
        } = access;
        (
            agent.id.to_string(),
            mission.id.to_string(),
            target.id.to_string(),
        )
    };
    access.into_iter().map(|one| (name(&one), one)).collect()
}

/// In the form of a diff: a pull request shows `+` and `-` in their colours.
impl Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::default() {
            return f.write_str("no authority changes");
        }
        for reach in &self.reach {
            let Reach {
                agent,
                mission,
                target,
                ..
            } = reach;
            for (sign, verb, what) in [('+', "gains", &reach.gains), ('-', "loses", &reach.loses)] {
                if !what.is_empty() {
                    let what = words(what);
                    writeln!(f, "{sign} {agent} {verb} on {target}, by {mission}: {what}")?;
                }
            }
        }
        for change in &self.keys {
            let (sign, verb) = match change.direction {
                Direction::Widens => ('+', "wider"),
                Direction::Narrows => ('-', "narrower"),
                Direction::Changes => ('!', "different"),
            };
            writeln!(f, "{sign} {} is {verb}: {}", change.place, change.what)?;
        }
        for approval in &self.approvals {
            let tables = approval.because_of.join(", ");
            writeln!(f, "approval of {} for {tables}", approval.owner)?;
        }
        Ok(())
    }
}
