//! `[agent.NAME]`: who it is, and its bounds. Ceilings are compared target by target.

use super::{Direction, Ledger, Table, text};
use crate::agents::{Agent, IdentityMatch};
use crate::authority::Authority;
use crate::config::Settings;
use crate::identity::{CertificateRule, ClientCertificate, ClientSettings};
use crate::policy::{beyond, words};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn compare(ledger: &mut Ledger, before: &Settings, after: &Settings) {
    let old: BTreeMap<_, _> = before.agents.iter().map(|a| (&a.id, a)).collect();
    let new: BTreeMap<_, _> = after.agents.iter().map(|a| (&a.id, a)).collect();
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (was, is) = (old.get(*name), new.get(*name));
        let owners = was.iter().chain(&is).map(|agent| agent.owner.as_str());
        let mut table = Table {
            ledger,
            name: format!("agent.{name}"),
            owners: owners.collect(),
        };
        match (was, is) {
            (Some(was), Some(is)) => {
                both(&mut table, was, is);
                ceilings(&mut table, (before, was), (after, is));
            }
            (None, Some(is)) => {
                table.note(Direction::Widens, "purpose", format!("new: {}", is.purpose));
            }
            (Some(_), None) => table.note(Direction::Narrows, "purpose", "removed"),
            (None, None) => {}
        }
    }
    let keys = |settings: &Settings| -> BTreeMap<String, BTreeSet<String>> {
        let clients = settings.clients.iter();
        let proofs = |client: &ClientSettings| {
            let keys = client.keys.keys().iter();
            let keys = keys.map(|key| key.thumbprint().to_owned());
            let machines = client
                .enrol
                .then(|| "keys that its machines enrol".to_owned());
            keys.chain(machines).collect()
        };
        let mut all: BTreeMap<String, BTreeSet<String>> = clients
            .map(|client| (client.agent.to_string(), proofs(client)))
            .collect();
        for known in &settings.certificates {
            let own = all.entry(known.agent.to_string()).or_default();
            own.extend(certificates(&known.rule));
        }
        all
    };
    let (was, is) = (keys(before), keys(after));
    for (name, agent) in &new {
        let none = BTreeSet::new();
        let of = |all: &BTreeMap<String, BTreeSet<String>>| {
            all.get(name.as_str()).unwrap_or(&none).clone()
        };
        let mut table = Table {
            ledger,
            name: format!("agent.{name}"),
            owners: BTreeSet::from([agent.owner.as_str()]),
        };
        if old.contains_key(name) {
            table.grown("identity", &of(&was), &of(&is));
        }
    }
}

fn both(table: &mut Table<'_>, was: &Agent, is: &Agent) {
    table.same("owner", (&was.owner, &is.owner), text);
    table.ordered("ends", (was.ends, is.ends), text);
    table.ordered("limits.active", (was.limits.active, is.limits.active), text);
    let per_minute = (was.limits.per_minute, is.limits.per_minute);
    table.ordered("limits.per_minute", per_minute, text);
    let (old, new) = (was.limits.instance, is.limits.instance);
    let most = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let show = |limit: &u64| match *limit {
        u64::MAX => "none".to_owned(),
        some => some.to_string(),
    };
    let active = (most(old.active), most(new.active));
    table.ordered("limits.instance.active", active, show);
    let rate = |limit: Option<u32>| most(limit.map(u64::from));
    let rates = (rate(old.per_minute), rate(new.per_minute));
    table.ordered("limits.instance.per_minute", rates, show);
    super::terms(table, (&was.terms, &is.terms));
    let identities = |agent: &Agent| agent.identities.iter().map(shown).collect::<BTreeSet<_>>();
    table.grown("identity", &identities(was), &identities(is));
    let keys = |agent: &Agent| agent.intent_keys.iter().cloned().collect::<BTreeSet<_>>();
    table.grown("intent_keys", &keys(was), &keys(is));
    // What is bound is worth less to a thief.
    let unbound = (!was.certificate_bound, !is.certificate_bound);
    table.ordered("certificate_bound", unbound, |unbound| text(&!unbound));
    table.labels(&was.labels, &is.labels);
}

/// Which certificates are the agent's, each alternative by itself.
fn certificates(rule: &CertificateRule) -> Vec<String> {
    match rule {
        CertificateRule::Issued { roots, name } => {
            let thumbprint =
                |der: &Vec<u8>| Some(ClientCertificate::new(vec![der.clone()])?.thumbprint());
            let issued = |root| format!("certificate {name:?} of {root}");
            roots.iter().filter_map(thumbprint).map(issued).collect()
        }
        CertificateRule::Registered(thumbprints) => thumbprints.clone(),
    }
}

fn shown(identity: &IdentityMatch) -> String {
    let subject = identity
        .subject
        .iter()
        .map(|subject| format!("subject {subject}"));
    let claims = identity
        .claims
        .iter()
        .map(|(claim, value)| format!("{claim} {value}"));
    let all: Vec<_> = subject.chain(claims).collect();
    format!("{}: {}", identity.issuer, all.join(", "))
}

fn ceilings(
    table: &mut Table<'_>,
    (before, was): (&Settings, &Agent),
    (after, is): (&Settings, &Agent),
) {
    let (old, new) = match (&was.ceiling, &is.ceiling) {
        (None, None) => return,
        (None, Some(_)) => {
            return table.note(Direction::Narrows, "ceiling", "none -> what it lists");
        }
        (Some(_), None) => {
            return table.note(
                Direction::Widens,
                "ceiling",
                "what it lists -> the grants of its missions",
            );
        }
        (Some(old), Some(new)) => (old, new),
    };
    let nothing = Authority::default();
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for name in names {
        let known = after.targets.iter().chain(&before.targets);
        let target = known
            .map(|(target, _)| target)
            .find(|target| target.id == *name);
        let (was, is) = (
            old.get(name).unwrap_or(&nothing),
            new.get(name).unwrap_or(&nothing),
        );
        let Some(target) = target.filter(|_| was != is) else {
            continue;
        };
        let more = beyond(target.vocabulary, is, was);
        let less = beyond(target.vocabulary, was, is);
        for (direction, what) in [(Direction::Widens, more), (Direction::Narrows, less)] {
            if !what.is_empty() {
                table.note(direction, "ceiling", format!("{name}: {}", words(&what)));
            }
        }
    }
}
