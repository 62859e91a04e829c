//! The JSON Schema says of every key what the decoders say.

use super::*;
use crate::config::schema::{schema, shapes};
use crate::config::shape::Kind;
use serde_json::Value;

const PROBE: &str = include_str!("../schema.toml");

#[test]
fn an_agent_whose_machines_enrol_needs_no_key_set() {
    let schema = schema().unwrap();
    let identity = schema
        .pointer("/properties/agent/additionalProperties/properties/identity")
        .unwrap();
    for (value, accepted) in [
        (serde_json::json!({ "client": { "enrol": true } }), true),
        (serde_json::json!({ "client": { "enrol": "yes" } }), false),
    ] {
        assert_eq!(fits(identity, &value), accepted, "{value}");
    }
}

/// What of JSON Schema is used here, and nothing else.
fn fits(schema: &Value, value: &Value) -> bool {
    let rules = schema.as_object().unwrap();
    rules.iter().all(|(rule, says)| match rule.as_str() {
        "type" => {
            let is = |kind: &Value| match kind.as_str().unwrap() {
                "string" => value.is_string(),
                "integer" => value.is_i64() || value.is_u64(),
                "boolean" => value.is_boolean(),
                "array" => value.is_array(),
                "object" => value.is_object(),
                other => panic!("type {other}"),
            };
            says.as_array()
                .map_or_else(|| is(says), |all| all.iter().any(is))
        }
        "enum" => says.as_array().unwrap().contains(value),
        "const" => says == value,
        "anyOf" => says.as_array().unwrap().iter().any(|one| fits(one, value)),
        "oneOf" => {
            says.as_array()
                .unwrap()
                .iter()
                .filter(|one| fits(one, value))
                .count()
                == 1
        }
        "items" => value
            .as_array()
            .is_none_or(|all| all.iter().all(|one| fits(says, one))),
        "required" => value.as_object().is_none_or(|table| {
            says.as_array()
                .unwrap()
                .iter()
                .all(|key| table.contains_key(key.as_str().unwrap()))
        }),
        "additionalProperties" => value.as_object().is_none_or(|table| {
            let known = rules.get("properties").and_then(Value::as_object);
            let others = table
                .iter()
                .filter(|(key, _)| !known.is_some_and(|known| known.contains_key(*key)));
            others
                .into_iter()
                .all(|(_, value)| says.as_bool().unwrap_or_else(|| fits(says, value)))
        }),
        "properties" => value.as_object().is_none_or(|table| {
            let known = says.as_object().unwrap();
            table
                .iter()
                .all(|(key, value)| known.get(key).is_none_or(|one| fits(one, value)))
        }),
        "minimum" => value
            .as_i64()
            .is_none_or(|number| number >= says.as_i64().unwrap()),
        "maximum" => value
            .as_u64()
            .is_none_or(|number| number <= says.as_u64().unwrap()),
        "pattern" => value.as_str().is_none_or(|text| duration(text).is_some()),
        // Names are checked where they are decoded; a date's form by TOML itself.
        "propertyNames" | "format" | "$schema" | "title" => true,
        other => panic!("the schema uses `{other}`"),
    })
}

fn json_of(text: &str) -> Value {
    let desk = problem::Desk::new(source::Sources::default());
    let table = tree::parse(0, text, &desk);
    let at = source::Place {
        file: 0,
        start: 0,
        end: 0,
    };
    let raw = tree::Raw::Table(table);
    tree::Node { at, raw }.json()
}

#[test]
fn the_probe_holds_every_table_that_the_decoders_know() {
    let shapes = shapes().unwrap_or_else(|problems| panic!("{problems}"));
    for (path, shape) in &shapes {
        for (name, key) in &shape.keys {
            let is_table = key
                .kinds
                .iter()
                .any(|kind| matches!(kind, Kind::Table | Kind::Tables));
            assert!(
                !is_table || key.seen,
                "add `{name}` to {path} in src/config/schema.toml"
            );
        }
    }
    for kind in [
        "agent.identity.client",
        "broker.limits",
        "facts.evidence",
        "operators.roles",
    ] {
        assert!(shapes.contains_key(kind), "{kind}");
    }
}

#[test]
fn every_example_fits_the_schema() {
    let schema = schema().unwrap_or_else(|problems| panic!("{problems}"));
    let example = std::fs::read_to_string(example("example").join("dayfly.toml")).unwrap();
    let bench = include_str!("../../cli/bench.toml").to_owned();
    let development = include_str!("../development.toml").to_owned();
    let [(_, demo)] = <[_; 1]>::try_from(demo()).unwrap();
    for text in [
        example,
        demo,
        bench,
        development,
        GOOD.to_owned(),
        PROBE.to_owned(),
    ] {
        let value = json_of(&text);
        assert!(fits(&schema, &value), "{}", first_unfit(&schema, &value));
    }
}

/// Which top-level table it is.
fn first_unfit(schema: &Value, value: &Value) -> String {
    let unfit = value.as_object().unwrap().iter().find(|(name, table)| {
        schema["properties"]
            .get(*name)
            .is_none_or(|one| !fits(one, table))
    });
    format!("{unfit:?}")
}

/// Every table of the probe, as the keys and places that lead to it.
fn tables(value: &toml::Value, path: Vec<String>, found: &mut Vec<Vec<String>>) {
    match value {
        toml::Value::Table(table) => {
            found.push(path.clone());
            for (key, inner) in table {
                tables(inner, [path.clone(), vec![key.clone()]].concat(), found);
            }
        }
        toml::Value::Array(all) => {
            for (number, inner) in all.iter().enumerate() {
                tables(
                    inner,
                    [path.clone(), vec![number.to_string()]].concat(),
                    found,
                );
            }
        }
        _ => {}
    }
}

fn with(path: &[String], key: &str, value: &toml::Value) -> String {
    let mut whole: toml::Value = toml::from_str(PROBE).unwrap();
    let mut at = &mut whole;
    for part in path {
        at = match at {
            toml::Value::Table(table) => table.get_mut(part).unwrap(),
            toml::Value::Array(all) => &mut all[part.parse::<usize>().unwrap()],
            _ => unreachable!(),
        };
    }
    at.as_table_mut()
        .unwrap()
        .entry(key)
        .or_insert(value.clone());
    toml::to_string(&whole).unwrap()
}

#[test]
fn a_key_that_the_decoders_do_not_know_is_in_no_schema() {
    let schema = schema().unwrap();
    let mut all = Vec::new();
    tables(&toml::from_str(PROBE).unwrap(), Vec::new(), &mut all);
    assert!(all.len() > 30);
    let mut closed = 0;
    for path in &all {
        // Of a key's own members (RFC 7517) nothing is said.
        if path.iter().any(|part| part == "keys") && path.len() > 2 {
            continue;
        }
        let text = with(path, "no-such-key", &toml::Value::Integer(1));
        let report = checked(&text);
        let is_fit = fits(&schema, &json_of(&text));
        let unknown = |problem: &Problem| {
            matches!(
                problem.code,
                Code::UnknownKey | Code::UnknownTable | Code::WrongType
            )
        };
        let is_refused = report.problems.0.iter().any(unknown);
        assert_eq!(!is_fit, is_refused, "{path:?}\n{report}");
        closed += usize::from(is_refused);
    }
    assert!(closed > 25, "{closed}");
}

#[test]
fn a_key_of_the_schema_is_unknown_to_no_decoder() {
    let shapes = shapes().unwrap();
    let mut all = Vec::new();
    tables(&toml::from_str(PROBE).unwrap(), Vec::new(), &mut all);
    for path in &all {
        let own: Vec<_> = path
            .iter()
            .filter(|part| part.parse::<usize>().is_err())
            .collect();
        // `[agent.NAME]` is `agent`; `[broker]` has no name.
        let is_single = own.first().is_some_and(|kind| {
            ["broker", "operators", "case", "notify", "response"].contains(&kind.as_str())
        });
        let names = own.iter().enumerate();
        let names: Vec<_> = names
            .filter(|(at, _)| is_single || *at != 1)
            .map(|(_, part)| part.as_str())
            .collect();
        let Some(shape) = shapes.get(&names.join(".")) else {
            continue;
        };
        for key in shape.keys.keys() {
            let report = checked(&with(path, key, &toml::Value::Integer(1)));
            let unknown = report.problems.0.iter().any(|problem| {
                problem.code == Code::UnknownKey
                    && problem.message.contains(&format!("no key `{key}`"))
            });
            // An identity is by one issuer, a key or a SPIFFE ID.
            assert!(
                !unknown || names == ["agent", "identity"],
                "{path:?} {key}\n{report}"
            );
        }
    }
}

#[test]
fn each_kind_of_target_has_its_connectors_own_keys() {
    let schema = schema().unwrap();
    let variants = schema["properties"]["target"]["additionalProperties"]["oneOf"]
        .as_array()
        .unwrap();
    let of = |kind: &str| {
        let variant = variants
            .iter()
            .find(|one| one["properties"]["kind"]["const"] == kind);
        variant.unwrap_or_else(|| panic!("{kind}"))
    };
    let aws = of("aws");
    assert_eq!(aws["properties"]["role"]["type"], "string");
    assert_eq!(
        aws["properties"]["method"]["enum"],
        json!(["web_identity", "assume_role"])
    );
    assert!(aws["required"].as_array().unwrap().contains(&json!("role")));
    assert!(of("api_key")["properties"].get("role").is_none());
    for variant in variants {
        let kind = variant["properties"]["kind"]["const"].as_str().unwrap();
        for key in variant["properties"].as_object().unwrap().keys() {
            let text = format!(
                "[target.t]\n{key} = 1\n{}",
                if key == "kind" {
                    ""
                } else {
                    "kind = \"KIND\"\n"
                }
            );
            let report = checked(&text.replace("KIND", kind)).to_string();
            assert!(
                !report.contains(&format!("no key `{key}`")),
                "{kind} {key}\n{report}"
            );
        }
    }
}
