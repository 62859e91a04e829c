//! The JSON Schema (draft 7, which TOML editors speak) of a configuration's files.
//!
//! Made by decoding a configuration in which every table stands ([`PROBE`]) and writing down what the
//! decoders ask for ([`super::shape`]); the keys of connectors and identities come from their own rooms.

use super::document::{Document, LISTED, NAMED, SINGLE};
use super::problem::{Desk, Problems};
use super::shape::{Key, Kind, Shape, Shapes};
use crate::connectors::ConnectorSettings;
use crate::identity::presets;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Every table and every table within, at least once.
const PROBE: &str = include_str!("schema.toml");

/// For a name: as `ids` takes it.
const NAME: &str = "^[a-z0-9][a-z0-9_.-]{0,62}$";

/// The schema, or what is wrong with the probe: then it is behind the decoders.
pub fn schema() -> Result<Value, Problems> {
    let shapes = shapes()?;
    let mut properties = Map::new();
    for kind in SINGLE {
        properties.insert((*kind).to_owned(), table(&shapes, kind));
    }
    for kind in NAMED {
        let all = json!({
            "type": "object",
            "propertyNames": { "pattern": NAME },
            "additionalProperties": table(&shapes, kind),
        });
        properties.insert((*kind).to_owned(), all);
    }
    for kind in LISTED {
        let all = json!({ "type": "array", "items": table(&shapes, kind) });
        properties.insert((*kind).to_owned(), all);
    }
    Ok(json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Dayfly configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    }))
}

/// What was asked of each table while the probe was decoded.
pub(in crate::config) fn shapes() -> Result<BTreeMap<String, Shape>, Problems> {
    let files = vec![("schema.toml".to_owned(), PROBE.to_owned())];
    let document = Document::gather(files, PathBuf::from("/"), &[]);
    let desk = Desk::recording(document.sources.clone(), Shapes::default());
    let settings = document.settings(&desk, None);
    let shapes = desk.shapes.take().map(Shapes::into_inner);
    let mut problems = document.early;
    problems.0.extend(desk.finish().0);
    match (settings, shapes) {
        (Some(_), Some(shapes)) if !problems.has_errors() => Ok(shapes),
        _ => Err(problems),
    }
}

/// One table, closed: a key that nobody decodes is an error.
fn table(shapes: &BTreeMap<String, Shape>, path: &str) -> Value {
    let nothing = Shape::default();
    let shape = shapes.get(path).unwrap_or(&nothing);
    let mut properties = Map::new();
    for (name, key) in &shape.keys {
        let within = format!("{path}.{name}");
        properties.insert((*name).to_owned(), value(shapes, &within, key));
    }
    let needed = shape.keys.iter().filter(|(_, key)| key.required);
    let required: Vec<&str> = needed.map(|(name, _)| *name).collect();
    if shape.takes_rest && path == "target" {
        return target(&properties, &required);
    }
    if shape.takes_rest && path == "agent.identity" {
        for (name, kind) in identity_fields() {
            properties.entry(name).or_insert(kind);
        }
    }
    closed(properties, &required)
}

fn closed(properties: Map<String, Value>, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn value(shapes: &BTreeMap<String, Shape>, within: &str, key: &Key) -> Value {
    let specific = key.kinds.iter().filter(|kind| **kind != Kind::Any);
    let mut all: Vec<Value> = specific.map(|kind| of_kind(shapes, within, kind)).collect();
    match all.len() {
        0 => json!({}),
        1 => all.remove(0),
        _ => json!({ "anyOf": all }),
    }
}

fn of_kind(shapes: &BTreeMap<String, Shape>, within: &str, kind: &Kind) -> Value {
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "array", "items": text });
    match kind {
        Kind::Any => json!({}),
        Kind::Text => text,
        Kind::Texts => json!({ "anyOf": [text, texts] }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Number(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        // A TOML date is text to a JSON Schema.
        Kind::Date => json!({ "type": "string", "format": "date" }),
        Kind::Moment => text,
        Kind::Duration => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        Kind::Keys => json!({ "anyOf": [text, { "type": "object" }] }),
        Kind::Table => table(shapes, within),
        Kind::Tables => {
            let one = table(shapes, within);
            json!({ "anyOf": [one, { "type": "array", "items": one }] })
        }
        Kind::TextMap => json!({ "type": "object", "additionalProperties": text }),
        Kind::ValueMap => json!({ "type": "object" }),
        Kind::ListMap => json!({ "type": "object", "additionalProperties": texts }),
    }
}

/// Each platform's name and the short names of its claims; which of them go together, `check` says.
fn identity_fields() -> impl Iterator<Item = (String, Value)> {
    let scalar = || json!({ "type": ["string", "integer", "boolean"] });
    let short = presets::all().flat_map(|preset| {
        let fields = preset.identity.iter().map(|(name, _)| *name);
        fields.chain([preset.name])
    });
    short
        .chain(["subject", "workflow"])
        .map(move |name| (name.to_owned(), scalar()))
        .chain([("claims".to_owned(), json!({ "type": "object" }))])
}

/// A variant for each kind: the keys of every target, and the connector's own.
fn target(common: &Map<String, Value>, required: &[&str]) -> Value {
    let variants = kinds().into_iter().map(|kind| {
        let own = own_keys(&kind);
        let mut properties = common.clone();
        let mut needed: Vec<&str> = required.to_vec();
        for (name, (kinds, is_required)) in &own {
            properties.entry(name.clone()).or_insert(kinds.clone());
            if *is_required {
                needed.push(name);
            }
        }
        properties.insert("kind".to_owned(), json!({ "const": kind }));
        closed(properties, &needed)
    });
    json!({ "oneOf": variants.collect::<Vec<_>>() })
}

/// In no configuration, so that whoever is asked for it says what there is instead.
const NO_NAME: &str = "?";

fn kinds() -> Vec<String> {
    words_of(&refused(&json!({ "kind": NO_NAME })))
}

fn refused(settings: &Value) -> String {
    match ConnectorSettings::deserialize(settings.clone()) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

/// What is expected instead, of serde's message: each in backticks behind the one that was wrong.
fn words_of(message: &str) -> Vec<String> {
    let quoted = message.split('`').skip(1).step_by(2);
    quoted.skip(1).map(str::to_owned).collect()
}

/// The keys that a connector has beside those of every target: what fits, and whether it is needed.
fn own_keys(kind: &str) -> BTreeMap<String, (Value, bool)> {
    let names = words_of(&refused(&json!({ "kind": kind, NO_NAME: 1 })));
    let mut needed = Map::from_iter([("kind".to_owned(), json!(kind))]);
    let mut found = BTreeMap::new();
    // What is needed first: the others are tried beside it.
    for _ in 0..names.len() {
        let message = refused(&Value::Object(needed.clone()));
        let Some(rest) = message.strip_prefix("missing field `") else {
            break;
        };
        let Some((name, _)) = rest
            .split_once('`')
            .filter(|(name, _)| !needed.contains_key(*name))
        else {
            break;
        };
        let (fits, sample) = tried(&needed, name);
        needed.insert(name.to_owned(), sample);
        found.insert(name.to_owned(), (fits, true));
    }
    for name in names {
        found.entry(name).or_insert_with_key(|name| {
            let (fits, _) = tried(&needed, name);
            (fits, false)
        });
    }
    found
}

/// Which types a key takes, and a value of the first of them.
fn tried(beside: &Map<String, Value>, name: &str) -> (Value, Value) {
    let samples = [json!("x"), json!(1), json!(true), json!(["x"]), json!({})];
    let mut types = Vec::new();
    let mut first = None;
    for sample in samples {
        let mut settings = beside.clone();
        settings.insert(name.to_owned(), sample.clone());
        let message = refused(&Value::Object(settings));
        if message.starts_with("unknown variant `x`") {
            let words = words_of(&message);
            let sample = words.first().map_or(Value::Null, |word| json!(word));
            return (json!({ "enum": words }), sample);
        }
        if message.starts_with("invalid type") || message.starts_with("data did not match") {
            continue;
        }
        types.push(match &sample {
            Value::String(_) => "string",
            Value::Number(_) => "integer",
            Value::Bool(_) => "boolean",
            Value::Array(_) => "array",
            _ => "object",
        });
        first.get_or_insert(sample);
    }
    let fits = match types.as_slice() {
        [] => json!({}),
        [one] => json!({ "type": one }),
        several => json!({ "type": several }),
    };
    (fits, first.unwrap_or(json!("x")))
}
