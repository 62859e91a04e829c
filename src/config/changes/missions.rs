//! `[mission.NAME]`: the conditions. What it grants is compared by what its agents reach.

use super::{Direction, Ledger, Table, or_none, seconds, text};
use crate::config::Settings;
use crate::intent::SignerClass;
use crate::policy::{ApprovalTerms, Mission, Mode};
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use time::Date;

pub(super) fn compare(ledger: &mut Ledger, before: &Settings, after: &Settings) {
    let old: BTreeMap<_, _> = before.missions.iter().map(|m| (&m.id, m)).collect();
    let new: BTreeMap<_, _> = after.missions.iter().map(|m| (&m.id, m)).collect();
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (was, is) = (old.get(*name), new.get(*name));
        let owners = was.iter().chain(&is).map(|mission| mission.owner.as_str());
        let mut table = Table {
            ledger,
            name: format!("mission.{name}"),
            owners: owners.collect(),
        };
        match (was, is) {
            (Some(was), Some(is)) => both(&mut table, was, is),
            (None, Some(is)) => {
                table.note(Direction::Widens, "purpose", format!("new: {}", is.purpose));
            }
            (Some(_), None) => table.note(Direction::Narrows, "purpose", "removed"),
            (None, None) => {}
        }
    }
}

fn both(table: &mut Table<'_>, was: &Mission, is: &Mission) {
    table.same("owner", (&was.owner, &is.owner), text);
    let agents = |mission: &Mission| mission.agents.iter().cloned().collect();
    table.grown("agents", &agents(was), &agents(is));
    let joins = (was.allow_registered, is.allow_registered);
    table.ordered("allow_registered", joins, text);
    people(table, was, is);
    table.ordered("in_person", (was.in_person, is.in_person), text);
    let handed = |mission: &Mission| mission.delegates_to.iter().cloned().collect();
    table.grown("delegates_to", &handed(was), &handed(is));
    let last = |ends: Option<Date>| ends.unwrap_or(Date::MAX);
    let day = |day: &Date| match *day {
        Date::MAX => "no end".to_owned(),
        day => day.to_string(),
    };
    table.ordered("ends", (last(was.ends), last(is.ends)), day);
    table.ordered("ttl", (was.ttl, is.ttl), |ttl| seconds(*ttl));
    let most = |mission: &Mission| mission.max_active.unwrap_or(u64::MAX);
    table.ordered("max_active", (most(was), most(is)), |most| match *most {
        u64::MAX => "the agents' own".to_owned(),
        most => most.to_string(),
    });
    approval(table, was.approval.as_ref(), is.approval.as_ref());
    super::terms(table, (&was.terms, &is.terms));
    let drift = |mission: &Mission| {
        let (count, within) = (mission.drift.count, mission.drift.within.as_secs());
        let what = if mission.drift.suspends {
            "suspend"
        } else {
            "alarm"
        };
        format!("{count} within {within} s: {what}")
    };
    table.same("drift", (&drift(was), &drift(is)), text);
    tethers(table, was, is);
    requirements(table, &was.require, &is.require);
    when(table, was, is);
    mode(table, was.mode, is.mode);
    signer(table, was.signer, is.signer);
    table.labels(&was.labels, &is.labels);
}

/// For people instead of for itself is neither wider nor narrower: it is for somebody else.
fn people(table: &mut Table<'_>, was: &Mission, is: &Mission) {
    let names = |mission: &Mission| -> BTreeSet<String> {
        let groups = mission.on_behalf_of.iter();
        groups.map(|group| group.name.clone()).collect()
    };
    let (old, new) = (names(was), names(is));
    if old.is_empty() == new.is_empty() {
        table.grown("on_behalf_of", &old, &new);
    } else {
        let words = |names: &BTreeSet<String>| match names.is_empty() {
            true => "itself".to_owned(),
            false => names.iter().cloned().collect::<Vec<_>>().join(", "),
        };
        let what = format!("{} -> {}", words(&old), words(&new));
        table.note(Direction::Changes, "on_behalf_of", what);
    }
}

/// Fewer who say yes, others, or one yes that is good for longer.
fn approval(table: &mut Table<'_>, was: Option<&ApprovalTerms>, is: Option<&ApprovalTerms>) {
    let count = |terms: Option<&ApprovalTerms>| Reverse(terms.map_or(0, |terms| terms.count));
    table.ordered(
        "approval.count",
        (count(was), count(is)),
        |count| match count.0 {
            0 => "nobody is asked".to_owned(),
            count => count.to_string(),
        },
    );
    if let (Some(was), Some(is)) = (was, is) {
        // Whom nobody names, everybody may be who reviews.
        match (was.by.is_empty(), is.by.is_empty()) {
            (true, false) => table.note(Direction::Narrows, "approval.by", "named"),
            (false, true) => table.note(Direction::Widens, "approval.by", "whoever may review"),
            _ => table.grown("approval.by", &was.by, &is.by),
        }
        table.ordered("approval.for", (was.lasts, is.lasts), |lasts| {
            seconds(*lasts)
        });
        table.ordered("approval.within", (was.within, is.within), |within| {
            seconds(*within)
        });
    }
}

/// What hangs on less is ended by less.
fn tethers(table: &mut Table<'_>, was: &Mission, is: &Mission) {
    for removed in was.tether.iter().filter(|one| !is.tether.contains(one)) {
        table.note(Direction::Widens, "tether", format!("- {removed}"));
    }
    for added in is.tether.iter().filter(|one| !was.tether.contains(one)) {
        table.note(Direction::Narrows, "tether", format!("+ {added}"));
    }
}

fn requirements(
    table: &mut Table<'_>,
    was: &BTreeMap<String, Value>,
    is: &BTreeMap<String, Value>,
) {
    let names: BTreeSet<_> = was.keys().chain(is.keys()).collect();
    for name in names {
        let (old, new) = (was.get(name), is.get(name));
        let direction = match (old, new) {
            (Some(old), Some(new)) => {
                let (old, new) = (choice(old), choice(new));
                if old == new {
                    continue;
                }
                match (new.is_superset(&old), new.is_subset(&old)) {
                    (true, _) => Direction::Widens,
                    (_, true) => Direction::Narrows,
                    _ => Direction::Changes,
                }
            }
            (Some(_), None) => Direction::Widens,
            (None, _) => Direction::Narrows,
        };
        let what = format!("{name}: {} -> {}", or_none(old), or_none(new));
        table.note(direction, "require", what);
    }
}

/// The values of which one must hold, as they are compared: as text.
fn choice(value: &Value) -> BTreeSet<String> {
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    match value {
        Value::Array(all) => all.iter().map(text).collect(),
        one => BTreeSet::from([text(one)]),
    }
}

fn when(table: &mut Table<'_>, was: &Mission, is: &Mission) {
    let direction = match (&was.when, &is.when) {
        (old, new) if old == new => return,
        (None, _) => Direction::Narrows,
        (_, None) => Direction::Widens,
        _ => Direction::Changes,
    };
    let what = format!(
        "{} -> {}",
        or_none(was.when.as_ref()),
        or_none(is.when.as_ref())
    );
    table.note(direction, "when", what);
}

fn mode(table: &mut Table<'_>, was: Mode, is: Mode) {
    let until = |mode| match mode {
        Mode::Enforce => Date::MIN,
        Mode::Observe { until } => until,
    };
    table.ordered("mode", (until(was), until(is)), |until| match *until {
        Date::MIN => "enforce".to_owned(),
        until => format!("observe until {until}"),
    });
}

fn signer(table: &mut Table<'_>, was: SignerClass, is: SignerClass) {
    let direction = match (was, is) {
        (was, is) if was == is => return,
        // It also accepts what the agent signed.
        (SignerClass::Agent, SignerClass::Platform) => Direction::Widens,
        (SignerClass::Platform, SignerClass::Agent) => Direction::Narrows,
        _ => Direction::Changes,
    };
    table.note(
        direction,
        "signer",
        format!("{} -> {}", was.as_str(), is.as_str()),
    );
}
