//! `[target.NAME]`: the ceiling, and what is behind the name.

use super::{Direction, Ledger, Table, seconds, text};
use crate::config::Settings;
use crate::connectors::ConnectorSettings;
use crate::policy::{Target, beyond, words};
use std::collections::{BTreeMap, BTreeSet};

/// A target has no owner of its own: its file has.
fn owner(name: &str) -> String {
    format!("whoever reviews the file of target.{name}")
}

pub(super) fn compare(ledger: &mut Ledger, before: &Settings, after: &Settings) {
    let by_name = |settings: &Settings| -> BTreeMap<String, (Target, ConnectorSettings)> {
        let all = settings.targets.iter();
        all.map(|(target, connector)| (target.id.to_string(), (target.clone(), connector.clone())))
            .collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).cloned().collect();
    for name in names {
        let owner = owner(&name);
        let mut table = Table {
            ledger,
            name: format!("target.{name}"),
            owners: BTreeSet::from([owner.as_str()]),
        };
        match (old.get(&name), new.get(&name)) {
            (Some((was, old)), Some((is, new))) => {
                both(&mut table, was, is);
                if old != new {
                    // SECURITY: not shown: what stands there is for whoever may read the file.
                    table.note(Direction::Changes, "kind", "another connection");
                }
            }
            (None, Some((is, _))) => {
                table.note(
                    Direction::Widens,
                    "ceiling",
                    format!("new: {}", words(&is.ceiling)),
                );
            }
            (Some(_), None) => table.note(Direction::Narrows, "ceiling", "removed"),
            (None, None) => {}
        }
    }
}

fn both(table: &mut Table<'_>, was: &Target, is: &Target) {
    if was.vocabulary == is.vocabulary {
        let more = beyond(is.vocabulary, &is.ceiling, &was.ceiling);
        let less = beyond(is.vocabulary, &was.ceiling, &is.ceiling);
        for (direction, what) in [(Direction::Widens, more), (Direction::Narrows, less)] {
            if !what.is_empty() {
                table.note(direction, "ceiling", words(&what));
            }
        }
    } else {
        let what = format!("{} -> {}", words(&was.ceiling), words(&is.ceiling));
        table.note(Direction::Changes, "ceiling", what);
    }
    table.ordered("max_ttl", (was.max_ttl, is.max_ttl), |ttl| seconds(*ttl));
    let alarm = (was.revocation_alarm, is.revocation_alarm);
    table.same("revocation_alarm", (&alarm.0, &alarm.1), |alarm| {
        seconds(*alarm)
    });
    let platform = (was.allow_platform_signer, is.allow_platform_signer);
    table.ordered("allow_platform_signer", platform, text);
    let urls = |target: &Target| target.resources.iter().cloned().collect::<BTreeSet<_>>();
    table.grown("resources", &urls(was), &urls(is));
    let class = (&was.class.to_owned(), &is.class.to_owned());
    table.same("revocation", class, text);
    table.labels(&was.labels, &is.labels);
}
