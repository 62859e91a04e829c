//! Everything else that decides: policies, issuers, operators, and who may end or introspect.

use super::{Direction, Ledger};
use crate::config::Settings;
use crate::identity::IssuerSettings;
use std::collections::{BTreeMap, BTreeSet};

const FILE: &str = "whoever reviews the file";

pub(super) fn compare(ledger: &mut Ledger, before: &Settings, after: &Settings) {
    let policies = |settings: &Settings| settings.forbids.iter().cloned().collect();
    named(ledger, (&policies(before), &policies(after)), true);
    let others = |settings: &Settings| {
        let mut all = BTreeMap::new();
        for issuer in &settings.issuers {
            // Mostly made from the identities that name it, and those are compared by themselves.
            let issuer = IssuerSettings {
                tenant: BTreeMap::new(),
                ..issuer.clone()
            };
            all.insert(format!("issuer.{}", issuer.id), format!("{issuer:?}"));
        }
        for issuer in &settings.intent_issuers {
            all.insert(
                format!("intent_issuer {}", issuer.issuer),
                format!("{issuer:?}"),
            );
        }
        for witness in &settings.witnesses {
            all.insert(format!("facts.{}", witness.name), format!("{witness:?}"));
        }
        for domain in &settings.trust_domains {
            let said = format!("{domain:?}");
            all.entry("trust domains".to_owned())
                .or_insert_with(String::new)
                .push_str(&said);
        }
        for server in &settings.resource_servers {
            all.insert(
                format!("resource_server.{}", server.name),
                format!("{server:?}"),
            );
        }
        for source in &settings.sources {
            all.insert(format!("source.{}", source.name), format!("{source:?}"));
        }
        let doors = &settings.broker.doors;
        if doors.client_cert_header {
            // Who may say whose certificate was shown may be anybody who has one.
            let place = "broker.limits.client_cert_header".to_owned();
            all.insert(place, format!("{:?}", doors.trusted_proxies));
        }
        for group in settings.missions.iter().flat_map(|one| &one.on_behalf_of) {
            all.insert(format!("people.{}", group.name), format!("{group:?}"));
        }
        for notify in &settings.notify {
            all.insert(format!("notify {}", notify.name), format!("{notify:?}"));
        }
        if let Some(operators) = &settings.operators {
            all.insert("operators".to_owned(), format!("{operators:?}"));
        }
        all
    };
    named(ledger, (&others(before), &others(after)), false);
    // What stops something by itself is like a forbid: one less is wider.
    let responses = |settings: &Settings| {
        let all = settings.responses.iter();
        all.map(|one| (format!("response {}", one.name), format!("{one:?}")))
            .collect()
    };
    named(ledger, (&responses(before), &responses(after)), true);
}

/// By name, with what it says: only whether that differs is told. A forbid more is narrower.
fn named(
    ledger: &mut Ledger,
    (was, is): (&BTreeMap<String, String>, &BTreeMap<String, String>),
    forbids: bool,
) {
    let names: BTreeSet<_> = was.keys().chain(is.keys()).collect();
    for name in names {
        let (direction, what) = match (was.get(name), is.get(name)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(_), Some(_)) => (Direction::Changes, "says something else"),
            (None, _) if forbids => (Direction::Narrows, "new"),
            (None, _) => (Direction::Widens, "new"),
            (Some(_), None) if forbids => (Direction::Widens, "removed"),
            (Some(_), None) => (Direction::Narrows, "removed"),
        };
        if direction != Direction::Narrows {
            ledger.approve(&format!("{FILE} of {name}"), name.clone());
        }
        ledger.note(direction, name.clone(), what);
    }
}
