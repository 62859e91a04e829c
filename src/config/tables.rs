//! The smaller tables: resource servers, operators and policy tests.

use super::agents_table::Targets;
use super::agents_table::suggestion;
use super::certificates;
use super::check::{NOT_IN_STANDING, UNKNOWN};
use super::decoder::Decoder;
use super::document::Entry;
use super::issuers;
use super::missions;
use super::people;
use super::problem::Code;
use super::reader::Reader;
use super::settings::{
    Case, Expectation, OperatorsTable, ResourceServerProof, ResourceServerTable, RoleTable,
};
use super::source::{At, Place};
use crate::authority::AuthorizationDetail;
use crate::identity::presets;
use crate::ids::{AgentId, MissionId};
use crate::intent::SignerClass;
use crate::policy::StatedRequest;

pub(in crate::config) fn resource_server(
    decoder: &Decoder<'_>,
    entry: &Entry,
) -> Option<ResourceServerTable> {
    let reader = entry.reader(decoder.desk);
    let secret = reader.text("secret");
    let has_keys = reader.node("keys").is_some();
    let keys = decoder.key_set(&reader, "keys");
    let certificate = reader.node("certificate").and(reader.table("certificate"));
    let audiences = reader.required("audiences", reader.texts("audiences"), "[\"TARGET\"]");
    let help = "one of `secret = \"file:...\"` (HTTP Basic), `keys = \"file:...\"` and \
                `certificate = { ca = \"file:...\", san_dns = \"...\" }`";
    let proof = match (secret, has_keys, certificate) {
        (Some(secret), false, None) => decoder
            .reference(secret)
            .map(|secret| ResourceServerProof::Secret(secret.value)),
        (None, true, None) => keys.map(ResourceServerProof::Keys),
        (None, false, Some(table)) => {
            certificates::rule(decoder, table).map(ResourceServerProof::Certificate)
        }
        (None, false, None) => {
            let message = format!("nothing says how `{}` authenticates", reader.name);
            decoder
                .desk
                .report(reader.at, Code::MissingKey, message, help);
            None
        }
        _ => {
            reader.bad(reader.at, "it authenticates in several ways", help);
            None
        }
    };
    reader.finish();
    Some(ResourceServerTable {
        name: entry.name.clone(),
        proof: proof?,
        audiences: audiences?.into_iter().map(|one| one.value).collect(),
    })
}

const ROLES: [&str; 4] = ["viewer", "reviewer", "operator", "admin"];

pub(in crate::config) fn operators(decoder: &Decoder<'_>, entry: &Entry) -> Option<OperatorsTable> {
    let reader = entry.reader(decoder.desk);
    let issuer = reader.required_text("issuer", "\"https://login.example\"");
    let audience = reader.required_text("audience", "\"dayfly\"");
    let client_id = reader.text("client_id").map(|id| id.value);
    let keys = decoder.key_source(&reader, "keys");
    let algorithms = issuers::algorithms(&reader);
    let tenant = issuers::values_of(&reader, "tenant").unwrap_or_default();
    let example = "[{ role = \"operator\", claims = { groups = \"sre\" } }]";
    let roles = reader.required("roles", reader.tables("roles"), example);
    let roles: Vec<_> = roles.unwrap_or_default().iter().filter_map(role).collect();
    let issuer_at = issuer.as_ref().map_or(reader.at, |issuer| issuer.at);
    let issuer = issuer.and_then(|issuer| decoder.url(issuer));
    reader.finish();
    let url = issuer?.value;
    if let Some(wanted) = presets::tenant_claims(&url)
        && !wanted.iter().any(|claim| tenant.contains_key(*claim))
    {
        let message = format!("anyone can get a token of `{url}`: nothing says whose count");
        let claim = wanted.first().unwrap_or(&"claim");
        let help = format!("add `tenant = {{ {claim} = \"...\" }}`");
        decoder
            .desk
            .report(issuer_at, Code::NoTenant, message, &help);
    }
    let generic = presets::by_name("generic")?;
    let id = "operators".parse().ok()?;
    let mut settings = generic
        .settings(id, Some(url), vec![audience?.value])
        .ok()?;
    settings.tenant = tenant;
    if let Some(keys) = keys {
        settings.keys = keys;
    }
    if let Some(algorithms) = algorithms {
        settings.algorithms = algorithms;
    }
    Some(OperatorsTable {
        issuer: settings,
        client_id,
        roles,
    })
}

fn role(reader: &Reader<'_>) -> Option<RoleTable> {
    let role = reader.required_text("role", "\"operator\"")?;
    let claims = reader.required("claims", reader.value_map("claims"), "{ groups = \"sre\" }")?;
    if !ROLES.contains(&role.value.as_str()) {
        let help = format!("write one of {}", ROLES.join(", "));
        reader.bad(role.at, format!("there is no role `{}`", role.value), &help);
        return None;
    }
    if claims.is_empty() {
        let help = "name at least one claim";
        reader.bad(
            reader.at,
            "a role without claims would be everybody's",
            help,
        );
        return None;
    }
    unknown_keys(reader, &["role", "claims"]);
    let claims = claims.into_iter().map(|(name, value)| (name, value.value));
    Some(RoleTable {
        role: role.value,
        claims: claims.collect(),
    })
}

pub(in crate::config) fn unknown_keys(reader: &Reader<'_>, known: &[&str]) {
    let (rest, places) = reader.rest();
    for name in rest.keys() {
        let at = places.get(name).copied().unwrap_or(reader.at);
        let message = format!("`{}` has no key `{name}`", reader.name);
        let help = format!("known keys: {}", known.join(", "));
        reader.desk.report(at, Code::UnknownKey, message, &help);
    }
}

pub(in crate::config) fn case(
    decoder: &Decoder<'_>,
    entry: &Entry,
    number: usize,
    targets: &Targets,
) -> Option<Case> {
    let reader = entry.reader(decoder.desk);
    let name = reader.text("name").map(|name| name.value);
    let agent = reader.required_text("agent", "\"NAME\"");
    let mission = reader.text("mission");
    let example = "[{ target = \"NAME\", actions = [\"...\"], locations = [\"...\"] }]";
    let asked = reader.required("asked", reader.tables("asked"), example);
    let facts = reader.value_map("facts").unwrap_or_default();
    let signer = missions::signer(&reader, "signer");
    let on_behalf_of = reader.table("on_behalf_of").and_then(people::stated);
    let issuer = reader.text("issuer");
    let issuer = issuer.map(|issuer| people::named(&reader, &issuer));
    let bound = reader.boolean("bound").unwrap_or(false);
    let task = reader.text("task").map(|task| task.value);
    let instance = reader.text("instance").map(|instance| instance.value);
    let scope = reader.texts("scope").unwrap_or_default();
    let now = reader.moment("now");
    let expected = reader.table("expect");
    let expected = reader.required("expect", expected, "{ granted = true }");
    let expect = expected.and_then(expectation);
    reader.finish();
    let agent = agent.and_then(|agent| named(decoder, "agent", agent));
    let mission = match mission {
        Some(mission) => Some(named(decoder, "mission", mission)?),
        None => None,
    };
    let asked: Option<Vec<_>> = asked?
        .into_iter()
        .map(|table| detail(decoder, &table, targets))
        .collect();
    let spot = decoder.doc.sources.spot(entry.at);
    Some(Case {
        name: name.unwrap_or_else(|| format!("case {number}")),
        at: spot.map_or_else(String::new, |spot| format!("{}:{}", spot.file, spot.line)),
        request: StatedRequest {
            agent: agent?.parse::<AgentId>().ok()?,
            mission: mission.and_then(|mission| mission.parse::<MissionId>().ok()),
            asked: asked?,
            scope: scope.into_iter().map(|one| one.value).collect(),
            facts: facts
                .into_iter()
                .map(|(fact, value)| (fact, value.value))
                .collect(),
            signer: signer.unwrap_or(SignerClass::Agent),
            issuer: match issuer {
                Some(issuer) => Some(issuer?),
                None => None,
            },
            bound,
            task,
            instance,
            person: on_behalf_of,
        },
        now,
        expect: expect?,
        place: entry.at,
    })
}

pub(in crate::config) fn named(
    decoder: &Decoder<'_>,
    kind: &'static str,
    name: At<String>,
) -> Option<String> {
    if decoder.doc.find(kind, &name.value).is_some() {
        return Some(name.value);
    }
    let known: Vec<_> = decoder.doc.of(kind).map(|e| e.name.as_str()).collect();
    let message = format!("there is no {kind} `{}`", name.value);
    let help = suggestion(&name.value, &known, kind);
    let code = if kind == "agent" {
        Code::UnknownAgent
    } else {
        Code::UnknownMission
    };
    decoder.desk.report(name.at, code, message, &help);
    None
}

/// As an agent would ask: sets are the configuration's, so there is no `@name` here.
fn detail(
    decoder: &Decoder<'_>,
    reader: &Reader<'_>,
    targets: &Targets,
) -> Option<AuthorizationDetail> {
    let target = reader.required_text("target", "\"NAME\"");
    let actions = reader.required("actions", reader.texts("actions"), "[\"...\"]");
    let locations = reader.texts("locations").unwrap_or_default();
    unknown_keys(reader, &["target", "actions", "locations"]);
    let target = target?;
    let Some(known) = targets.get(&target.value) else {
        let names: Vec<_> = targets.keys().map(String::as_str).collect();
        let message = format!("there is no target `{}`", target.value);
        let help = suggestion(&target.value, &names, "target");
        decoder
            .desk
            .report(target.at, Code::UnknownTarget, message, &help);
        return None;
    };
    let texts = |list: Vec<At<String>>| list.into_iter().map(|one| one.value).collect();
    Some(AuthorizationDetail {
        kind: known.as_ref()?.target.detail_type.to_owned(),
        identifier: target.value,
        actions: texts(actions?),
        locations: texts(locations),
        max_ttl: None,
    })
}

fn expectation(reader: Reader<'_>) -> Option<Expectation> {
    let granted_at = reader.node("granted").map(|node| (node.at, node.json()));
    let refused = reader.text("refused");
    let at: Place = reader.at;
    let wrong = |at| {
        let help = "write `{ granted = true }`, `{ granted = \"MISSION\" }` or \
                    `{ refused = \"exceeds_mission\" }`";
        reader.bad(at, "this is no expectation", help);
        None
    };
    let expectation = match (granted_at, refused) {
        (Some((_, serde_json::Value::Bool(true))), None) => Some(Expectation::Granted(None)),
        (Some((at, serde_json::Value::String(name))), None) => match name.parse() {
            Ok(mission) => Some(Expectation::Granted(Some(mission))),
            Err(_) => wrong(at),
        },
        (None, Some(reason)) => known_reason(&reader, reason),
        _ => wrong(at),
    };
    reader.finish();
    expectation
}

fn known_reason(reader: &Reader<'_>, reason: At<String>) -> Option<Expectation> {
    let codes: Vec<_> = crate::policy::Denial::ALL
        .iter()
        .map(|denial| denial.code())
        .chain([NOT_IN_STANDING, UNKNOWN])
        .collect();
    if codes.contains(&reason.value.as_str()) {
        return Some(Expectation::Refused(reason.value));
    }
    let message = format!("no decision is refused as `{}`", reason.value);
    let help = match super::values::nearest(&reason.value, &codes) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write one of {}", codes.join(", ")),
    };
    reader.bad(reason.at, message, &help);
    None
}
