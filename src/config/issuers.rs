//! `[issuer.NAME]`, the platforms that need no table, and from their claims to agents.

use super::decoder::Decoder;
use super::document::Entry;
use super::people;
use super::problem::Code;
use super::questions;
use super::reader::Reader;
use super::source::{At, Place};
use crate::agents::IdentityMatch;
use crate::identity::presets::{self, Preset};
use crate::identity::{IssuerSettings, KeySource};
use crate::ids::IssuerId;
use crate::jose::Algorithm;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Issuers by name, with what the platform they are of means.
#[derive(Debug, Default)]
pub(in crate::config) struct Issuers {
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    settings: IssuerSettings,
    preset: Preset,
    at: Place,
    /// One list of claims for each identity that names this issuer, and where.
    used: Vec<(Place, BTreeMap<String, Value>)>,
    /// An identity of it has problems of its own.
    is_torn: bool,
}

const LONGEST_TOKEN: Duration = Duration::from_secs(24 * 60 * 60);

impl Issuers {
    pub fn decode(decoder: &Decoder<'_>, broker_url: &str) -> Self {
        let mut issuers = Self::default();
        for entry in decoder.doc.of("issuer") {
            if let Some(known) = issuer(decoder, entry, broker_url) {
                issuers.known.insert(entry.name.clone(), known);
            }
        }
        issuers
    }

    /// The issuer of this name: a table of its own, or a platform with one issuer for all.
    fn named(
        &mut self,
        decoder: &Decoder<'_>,
        name: &str,
        at: Place,
        broker_url: &str,
    ) -> Option<&mut Known> {
        if !self.known.contains_key(name) {
            // A table with problems of its own is known, and has been reported.
            if decoder.doc.find("issuer", name).is_some() {
                return None;
            }
            let made = presets::by_name(name).and_then(|preset| {
                let id = name.parse().ok()?;
                let settings = preset
                    .settings(id, None, vec![broker_url.to_owned()])
                    .ok()?;
                Some((settings, preset))
            });
            let Some((settings, preset)) = made else {
                let message = format!("there is no issuer `{name}`");
                let help = format!("add `[issuer.{name}]` with its `url`");
                decoder.desk.report(at, Code::UnknownIssuer, message, &help);
                return None;
            };
            let known = Known {
                settings,
                preset,
                at,
                used: Vec::new(),
                is_torn: false,
            };
            self.known.insert(name.to_owned(), known);
        }
        self.known.get_mut(name)
    }

    /// `{ github = "acme/checkout", repository_id = 1234 }`, `{ issuer = "NAME", ... }`.
    pub fn identity(
        &mut self,
        decoder: &Decoder<'_>,
        reader: &Reader<'_>,
        broker_url: &str,
    ) -> Option<IdentityMatch> {
        let issuer = reader.text("issuer");
        let (fields, places) = reader.rest();
        let platform = presets::all()
            .map(|preset| preset.name)
            .find(|name| fields.contains_key(*name));
        let name = match (&issuer, platform) {
            (Some(issuer), _) => issuer.clone(),
            (None, Some(platform)) => At::new(reader.at, platform.to_owned()),
            (None, None) => {
                let message = format!("`{}` does not say who vouches for it", reader.name);
                let help = "write a platform (`github = \"owner/repository\"`), `issuer = \"NAME\"`, \
                            or `client = { keys = \"file:agent.jwks.json\" }`";
                decoder
                    .desk
                    .report(reader.at, Code::MissingKey, message, help);
                return None;
            }
        };
        let known = self.named(decoder, &name.value, name.at, broker_url)?;
        if known.settings.people {
            known.is_torn = true;
            let message = format!("issuer `{}` vouches for people", name.value);
            let help = "an agent proves itself by its platform, or by a key of its own";
            let code = Code::PeopleAreNoWorkloads;
            decoder
                .desk
                .collision(name.at, code, message, help, known.at);
            return None;
        }
        let Some(fields) = expand(decoder, &known.preset, fields, &places, reader) else {
            known.is_torn = true;
            return None;
        };
        let mut claims = match claims_of(&known.preset, fields) {
            Ok(claims) => claims,
            Err(error) => {
                known.is_torn = true;
                let code = match &error {
                    presets::PresetError::UnknownField { .. } => Code::UnknownKey,
                    presets::PresetError::NoId { .. } => Code::IdentityByName,
                    _ => Code::BadValue,
                };
                let at = field_of(&error)
                    .and_then(|field| places.get(field).copied())
                    .unwrap_or(reader.at);
                let help = "see \"Identities\" in docs/configuration.md";
                decoder.desk.report(at, code, error.to_string(), help);
                return None;
            }
        };
        known.used.push((reader.at, claims.clone()));
        let subject = match claims.remove("sub") {
            None => None,
            Some(Value::String(subject)) => Some(subject),
            // SECURITY: left out, the identity would be wider than what is written.
            Some(_) => {
                known.is_torn = true;
                let help = "write the subject as text: `subject = \"17\"`";
                reader.bad(reader.at, "a subject is text", help);
                return None;
            }
        };
        Some(IdentityMatch {
            issuer: known.settings.id.clone(),
            subject,
            claims,
        })
    }

    /// The url of an issuer and the names of its facts, for what speaks about them.
    pub fn spoken_of(
        &mut self,
        decoder: &Decoder<'_>,
        name: &At<String>,
        broker_url: &str,
    ) -> Option<(String, BTreeSet<String>)> {
        let known = self.named(decoder, &name.value, name.at, broker_url)?;
        let facts = known.settings.facts.keys().cloned().collect();
        Some((known.settings.url.clone(), facts))
    }

    /// The issuer of a group of people.
    pub fn of_people(
        &mut self,
        decoder: &Decoder<'_>,
        name: &At<String>,
        broker_url: &str,
    ) -> Option<IssuerId> {
        let known = self.named(decoder, &name.value, name.at, broker_url)?;
        if known.settings.people {
            return Some(known.settings.id.clone());
        }
        let message = format!("issuer `{}` vouches for workloads", name.value);
        let help = &format!("add `people = true` to `[issuer.{}]`", name.value);
        let code = Code::PeopleAreNoWorkloads;
        decoder
            .desk
            .collision(name.at, code, message, help, known.at);
        None
    }

    /// The names of every issuer whose facts a policy test can state.
    pub fn finish(self, decoder: &Decoder<'_>) -> Vec<IssuerSettings> {
        let mut urls: BTreeMap<String, (String, Place)> = BTreeMap::new();
        let mut settings = Vec::new();
        for (name, mut known) in self.known {
            pin_tenant(decoder, &mut known);
            let url = known.settings.url.clone();
            if let Some((other, place)) = urls.insert(url.clone(), (name.clone(), known.at)) {
                let message = format!("`issuer.{name}` and `issuer.{other}` have the url `{url}`");
                let help = "keep one, and tell its agents apart by claims";
                decoder
                    .desk
                    .collision(known.at, Code::Duplicate, message, help, place);
            }
            settings.push(known.settings);
        }
        settings
    }
}

/// On an issuer of one's own, of which nothing is known, any claim may be the id: the subject is
/// only the usual one.
fn claims_of(
    preset: &Preset,
    mut fields: BTreeMap<String, Value>,
) -> Result<BTreeMap<String, Value>, presets::PresetError> {
    // SECURITY: the claim `sub` is the subject, wherever it is written. Left out, the identity would be wider.
    let names_subject = ["subject", "claim.sub"]
        .iter()
        .any(|field| fields.contains_key(*field));
    let names_claims = fields.keys().any(|field| field.starts_with("claim."));
    if preset.name != "generic" || names_subject || !names_claims {
        return preset.identity_claims(&fields);
    }
    fields.insert("subject".to_owned(), Value::from(""));
    let mut claims = preset.identity_claims(&fields)?;
    claims.remove("sub");
    Ok(claims)
}

/// Fields of an identity as the preset knows them.
fn expand(
    decoder: &Decoder<'_>,
    preset: &Preset,
    fields: serde_json::Map<String, Value>,
    places: &BTreeMap<String, Place>,
    reader: &Reader<'_>,
) -> Option<BTreeMap<String, Value>> {
    let mut expanded = BTreeMap::new();
    for (field, value) in fields {
        let at = places.get(&field).copied().unwrap_or(reader.at);
        let pair = match (field.as_str(), preset.name) {
            ("kubernetes", "kubernetes") => Some(("namespace", "service_account")),
            ("buildkite", "buildkite") => Some(("organization", "pipeline")),
            ("aws_sts", "aws_sts") => Some(("account", "role")),
            _ => None,
        };
        if let Some((first, second)) = pair {
            let Some((one, other)) = value.as_str().and_then(|text| text.split_once('/')) else {
                let help = format!("write `{field} = \"{first}/{second}\"`");
                reader.bad(at, format!("`{field}` is not two names"), &help);
                return None;
            };
            expanded.insert(first.to_owned(), Value::from(one));
            expanded.insert(second.to_owned(), Value::from(other));
        } else if field == "claims" {
            let Value::Object(claims) = value else {
                reader.bad(
                    at,
                    "`claims` is not a table",
                    "write `{ name = \"value\" }`",
                );
                return None;
            };
            for (claim, value) in claims {
                expanded.insert(format!("claim.{claim}"), value);
            }
        } else if field == preset.name {
            let first = match preset.name {
                "gcp" => "service_account",
                "circleci" => "project_id",
                "aws" => "principal",
                same => same,
            };
            expanded.insert(first.to_owned(), value);
        } else if presets::by_name(&field).is_some() {
            let message = format!(
                "`{field}` does not belong to an issuer of `{}`",
                preset.name
            );
            decoder
                .desk
                .report(at, Code::UnknownKey, message, "remove it");
            return None;
        } else {
            expanded.insert(field, value);
        }
    }
    Some(expanded)
}

fn field_of(error: &presets::PresetError) -> Option<&str> {
    match error {
        presets::PresetError::UnknownField { field, .. }
        | presets::PresetError::NotScalar(field) => Some(field),
        presets::PresetError::Workflow(_) => Some("workflow"),
        _ => None,
    }
}

fn issuer(decoder: &Decoder<'_>, entry: &Entry, broker_url: &str) -> Option<Known> {
    let reader = entry.reader(decoder.desk);
    let preset = preset(&reader, &entry.name)?;
    let url = reader.text("url");
    let audiences = reader.texts("audience");
    let algorithms = algorithms(&reader);
    let keys = decoder.key_source(&reader, "keys");
    let url = match (url, &keys) {
        // Nothing is fetched from it: it may be any string.
        (Some(url), Some(KeySource::Fixed(_))) => Some(url),
        (Some(url), _) => Some(decoder.url(url)?),
        (None, _) => None,
    };
    let id: Option<IssuerId> = entry.name.parse().ok();
    if entry.name == IssuerId::client().as_str() {
        let message = "the name `client` belongs to agents with keys of their own";
        let help = "rename `[issuer.client]`";
        decoder.desk.report(reader.at, Code::BadName, message, help);
        return None;
    }
    let audiences = audiences.map_or_else(
        || vec![broker_url.to_owned()],
        |list| list.into_iter().map(|audience| audience.value).collect(),
    );
    let made = preset.settings(id?, url.map(|url| url.value), audiences);
    let mut settings = match made {
        Ok(settings) => settings,
        Err(error) => {
            let help = "add `url = \"https://...\"`";
            decoder
                .desk
                .report(reader.at, Code::MissingKey, error.to_string(), help);
            return None;
        }
    };
    if let Some(algorithms) = algorithms {
        settings.algorithms = algorithms;
    }
    if let Some(keys) = keys {
        if preset.asks_sts() {
            let help = "remove `keys`: STS itself says whose signature a request has";
            reader.bad(reader.at, "an issuer of `aws_sts` has no keys", help);
        }
        settings.keys = keys;
    }
    if let Some(endpoints) = questions::endpoints(decoder, &reader, &preset) {
        settings.sts = endpoints;
    }
    settings.review = questions::token_review(decoder, &reader, &preset);
    questions::further(decoder, &reader, &mut settings);
    if let Some(single_use) = reader.boolean("single_use") {
        settings.single_use = single_use;
    }
    settings.people = people::of_issuer(&reader, &settings, broker_url);
    questions::pin(&reader, &mut settings);
    if let Some(longest) = reader.duration("max_lifetime", Duration::from_secs(1)..=LONGEST_TOKEN) {
        settings.max_lifetime = longest.value;
    }
    if let Some(facts) = reader.text_map("facts") {
        let facts = facts.into_iter().map(|(fact, claim)| (fact, claim.value));
        settings.facts.extend(facts);
    }
    if let Some(tenant) = values_of(&reader, "tenant") {
        settings.tenant = tenant;
    }
    if let Some(refused) = values_of(&reader, "refused") {
        settings.refused = refused;
    }
    let at = reader.at;
    reader.finish();
    Some(Known {
        settings,
        preset,
        at,
        used: Vec::new(),
        is_torn: false,
    })
}

fn preset(reader: &Reader<'_>, name: &str) -> Option<Preset> {
    let Some(text) = reader.text("preset") else {
        return presets::by_name(name).or_else(|| presets::by_name("generic"));
    };
    let preset = presets::by_name(&text.value);
    if preset.is_none() {
        let known: Vec<_> = presets::all().map(|preset| preset.name).collect();
        let message = format!("there is no preset `{}`", text.value);
        reader.bad(
            text.at,
            message,
            &format!("write one of {}", known.join(", ")),
        );
    }
    preset
}

pub(in crate::config) fn algorithms(reader: &Reader<'_>) -> Option<Vec<Algorithm>> {
    let texts = reader.texts("algorithms")?;
    let parsed: Vec<_> = texts
        .iter()
        .filter_map(|text| {
            let algorithm = Algorithm::parse(&text.value);
            if algorithm.is_none() {
                let message = format!("`{}` is not an algorithm that is accepted", text.value);
                reader.bad(
                    text.at,
                    message,
                    "write Ed25519, ES256, ES384, PS256 or RS256",
                );
            }
            algorithm
        })
        .collect();
    (!parsed.is_empty()).then_some(parsed)
}

/// Claims with one value or a list of them.
pub(in crate::config) fn values_of(
    reader: &Reader<'_>,
    key: &'static str,
) -> Option<BTreeMap<String, Vec<Value>>> {
    let claims = reader.value_map(key)?;
    let lists = claims.into_iter().map(|(claim, value)| match value.value {
        Value::Array(values) => (claim, values),
        value => (claim, vec![value]),
    });
    Some(lists.collect())
}

// SECURITY: on a shared issuer anyone in the world has a token with a good signature. Where the
// configuration pins no tenant, the one that every identity names is pinned.
fn pin_tenant(decoder: &Decoder<'_>, known: &mut Known) {
    let Some(wanted) = presets::tenant_claims(&known.settings.url) else {
        return;
    };
    let tenant = &known.settings.tenant;
    if wanted.iter().any(|claim| tenant.contains_key(*claim)) {
        return;
    }
    let shared = wanted.iter().find(|claim| {
        !known.used.is_empty()
            && known
                .used
                .iter()
                .all(|(_, claims)| claims.contains_key(**claim))
    });
    let Some(claim) = shared else {
        if known.is_torn {
            return;
        }
        let name = &known.settings.id;
        let message =
            format!("anyone can get a token of issuer `{name}`: nothing says whose count");
        let help = format!(
            "add `[issuer.{name}]` with `tenant = {{ {} = ... }}`, or name it in every identity",
            wanted.first().unwrap_or(&"claim")
        );
        decoder
            .desk
            .report(known.at, Code::NoTenant, message, &help);
        return;
    };
    let mut values: Vec<Value> = Vec::new();
    for (_, claims) in &known.used {
        if let Some(value) = claims.get(*claim)
            && !values.contains(value)
        {
            values.push(value.clone());
        }
    }
    known.settings.tenant.insert((*claim).to_owned(), values);
}
