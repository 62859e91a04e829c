//! `[people.NAME]`: groups of people that agents may serve.

use super::agents_table::{Targets, authorities, suggestion};
use super::decoder::Decoder;
use super::document::Entry;
use super::issuers::Issuers;
use super::problem::Code;
use super::reader::Reader;
use super::source::At;
use crate::authority::Authority;
use crate::identity::{IssuerSettings, is_brokers_own};
use crate::ids::IssuerId;
use crate::policy;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Groups by name; `None` for those with problems of their own.
#[derive(Debug, Default)]
pub(in crate::config) struct People(BTreeMap<String, Option<policy::People>>);

impl People {
    pub fn decode(
        decoder: &Decoder<'_>,
        issuers: &mut Issuers,
        targets: &Targets,
        broker_url: &str,
    ) -> Self {
        let groups = decoder.doc.of("people");
        Self(
            groups
                .map(|entry| {
                    let group = group(decoder, entry, issuers, targets, broker_url);
                    (entry.name.clone(), group)
                })
                .collect(),
        )
    }

    /// `on_behalf_of = ["NAME"]` and `in_person`.
    pub fn of_mission(
        &self,
        decoder: &Decoder<'_>,
        reader: &Reader<'_>,
    ) -> (Vec<policy::People>, bool) {
        let found = self.served(decoder, reader);
        let in_person = reader.boolean("in_person").unwrap_or(false);
        if in_person && found.is_empty() {
            let at = reader.node("in_person").map_or(reader.at, |node| node.at);
            let help = "name them: `on_behalf_of = [\"NAME\"]`";
            reader.bad(at, "nobody may run this mission in person", help);
        }
        (found, in_person)
    }

    fn served(&self, decoder: &Decoder<'_>, reader: &Reader<'_>) -> Vec<policy::People> {
        let mut found = Vec::new();
        for name in reader.texts("on_behalf_of").unwrap_or_default() {
            let Some(known) = self.0.get(&name.value) else {
                let known: Vec<_> = self.0.keys().map(String::as_str).collect();
                let message = format!("there are no people `{}`", name.value);
                let help = suggestion(&name.value, &known, "people");
                decoder
                    .desk
                    .report(name.at, Code::UnknownPeople, message, &help);
                continue;
            };
            found.extend(known.clone());
        }
        found
    }
}

/// `people = true` of an issuer.
pub(in crate::config) fn of_issuer(
    reader: &Reader<'_>,
    settings: &IssuerSettings,
    broker_url: &str,
) -> bool {
    if is_brokers_own(&settings.url, broker_url) {
        let help = "what the broker issues proves nobody: remove the table";
        reader.bad(reader.at, "this is the broker itself", help);
    }
    let people = reader.boolean("people").unwrap_or(false);
    if people && settings.single_use {
        let help = "remove `single_use`: a person's token serves several agents";
        reader.bad(reader.at, "people's tokens are not single use", help);
    }
    people
}

fn group(
    decoder: &Decoder<'_>,
    entry: &Entry,
    issuers: &mut Issuers,
    targets: &Targets,
    broker_url: &str,
) -> Option<policy::People> {
    let reader = entry.reader(decoder.desk);
    let issuer = reader.required_text("issuer", "\"NAME\"");
    let claims = reader.value_map("claims");
    let claims = reader.required("claims", claims, "{ groups = \"oncall\" }");
    let example = "[{ target = \"NAME\", actions = [\"...\"], locations = [\"...\"] }]";
    let ceiling = reader.required("ceiling", reader.tables("ceiling"), example);
    let ceiling = ceiling.map(|tables| authorities(decoder, tables, targets));
    let at = reader.at;
    let claims = claims.map(|claims| {
        if claims.is_empty() {
            let help = "name what its people have in common: `{ groups = \"oncall\" }`";
            reader.bad(at, "this would be everybody on the issuer", help);
        }
        for (name, value) in &claims {
            if crate::identity::claims::text(&value.value).is_none() {
                let help = "write one string, whole number or boolean";
                reader.bad(value.at, format!("`{name}` is no single value"), help);
            }
        }
        claims
            .into_iter()
            .map(|(name, value)| (name, value.value))
            .collect()
    });
    reader.finish();
    let issuer = issuer?;
    let id = issuers.of_people(decoder, &issuer, broker_url)?;
    Some(policy::People {
        name: entry.name.clone(),
        issuer: id,
        claims: claims?,
        ceiling: ceiling?
            .into_iter()
            .map(|(target, list)| {
                let permissions = list.into_iter().map(|(_, permission)| permission);
                (target, Authority(permissions.collect()))
            })
            .collect(),
    })
}

/// `{ issuer = "corp", claims = { groups = "oncall" } }`: a person in a policy test; issuer, claims, in person.
pub(in crate::config) fn stated(
    reader: Reader<'_>,
) -> Option<(IssuerId, Map<String, Value>, bool)> {
    let issuer = reader.required_text("issuer", "\"NAME\"");
    let claims = reader.value_map("claims");
    let claims = reader.required("claims", claims, "{ groups = \"oncall\" }");
    let in_person = reader.boolean("in_person").unwrap_or(false);
    let id = issuer.and_then(|issuer| named(&reader, &issuer));
    reader.finish();
    let claims = claims?.into_iter();
    let claims = claims.map(|(name, value)| (name, value.value)).collect();
    Some((id?, claims, in_person))
}

/// An issuer in a policy test, by its name in the configuration.
pub(in crate::config) fn named(reader: &Reader<'_>, issuer: &At<String>) -> Option<IssuerId> {
    let id = issuer.value.parse().ok();
    if id.is_none() {
        let help = "write the name of an `[issuer.NAME]`";
        reader.bad(issuer.at, "this is no name", help);
    }
    id
}
