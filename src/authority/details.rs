//! `authorization_details` from JSON: closed, bounded, no member twice, and an error that says where.

use super::AuthorizationDetail;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Number, Value};
use std::fmt;

const MOST_DETAILS: usize = 16;
const MOST_ENTRIES: usize = 64;
const LONGEST_TEXT: usize = 512;
const ROOT: &str = "authorization_details";

/// Why `authorization_details` was refused, with the place as a JSON path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct DetailsError {
    /// `authorization_details[0].locations[1]`.
    pub at: String,
    pub why: String,
}

impl DetailsError {
    fn new(at: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            why: why.into(),
        }
    }
}

impl AuthorizationDetail {
    /// The `authorization_details` parameter (RFC 9396 section 2).
    pub fn parse_list(text: &str) -> Result<Vec<Self>, DetailsError> {
        let json: Json = serde_json::from_str(text)
            .map_err(|error| DetailsError::new(ROOT, format!("is not JSON: {error}")))?;
        Self::from_value(&json.into_value(ROOT)?)
    }

    /// The same from JSON whose parser refused duplicate members already: an intent's claims.
    pub fn from_value(value: &Value) -> Result<Vec<Self>, DetailsError> {
        let list = value
            .as_array()
            .ok_or_else(|| DetailsError::new(ROOT, "must be an array of objects"))?;
        if list.is_empty() || list.len() > MOST_DETAILS {
            let why = format!("must hold 1 to {MOST_DETAILS} objects");
            return Err(DetailsError::new(ROOT, why));
        }
        list.iter()
            .enumerate()
            .map(|(number, value)| detail(&format!("{ROOT}[{number}]"), value))
            .collect()
    }
}

fn detail(at: &str, value: &Value) -> Result<AuthorizationDetail, DetailsError> {
    let object = value
        .as_object()
        .ok_or_else(|| DetailsError::new(at, "must be an object"))?;
    // RFC 9396 section 5: unknown fields of a known type are refused.
    for name in object.keys() {
        let known = ["type", "identifier", "actions", "locations", "max_ttl"];
        if !known.contains(&name.as_str()) {
            let why = format!("is not a field; use {}", known.join(", "));
            return Err(DetailsError::new(member(at, name), why));
        }
    }
    let required = |name: &str| {
        object
            .get(name)
            .ok_or_else(|| DetailsError::new(format!("{at}.{name}"), "is missing"))
    };
    Ok(AuthorizationDetail {
        kind: text(&format!("{at}.type"), required("type")?)?,
        identifier: text(&format!("{at}.identifier"), required("identifier")?)?,
        actions: texts(&format!("{at}.actions"), required("actions")?)?,
        locations: match object.get("locations") {
            Some(list) => texts(&format!("{at}.locations"), list)?,
            None => Vec::new(),
        },
        max_ttl: object
            .get("max_ttl")
            .map(|number| seconds(&format!("{at}.max_ttl"), number))
            .transpose()?,
    })
}

/// An odd member name is quoted, and cut: it goes into errors and logs.
fn member(at: &str, name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.is_empty() && name.len() <= 40 && name.chars().all(plain) {
        format!("{at}.{name}")
    } else {
        let short: String = name.chars().take(40).collect();
        format!("{at}[\"{}\"]", short.escape_default())
    }
}

fn text(at: &str, value: &Value) -> Result<String, DetailsError> {
    let text = value
        .as_str()
        .ok_or_else(|| DetailsError::new(at, "must be a string"))?;
    if text.is_empty() || text.chars().nth(LONGEST_TEXT).is_some() {
        let why = format!("must be 1 to {LONGEST_TEXT} characters");
        return Err(DetailsError::new(at, why));
    }
    Ok(text.to_owned())
}

fn texts(at: &str, value: &Value) -> Result<Vec<String>, DetailsError> {
    let list = value
        .as_array()
        .ok_or_else(|| DetailsError::new(at, "must be an array of strings"))?;
    if list.is_empty() || list.len() > MOST_ENTRIES {
        let why = format!("must hold 1 to {MOST_ENTRIES} strings");
        return Err(DetailsError::new(at, why));
    }
    list.iter()
        .enumerate()
        .map(|(number, value)| text(&format!("{at}[{number}]"), value))
        .collect()
}

fn seconds(at: &str, value: &Value) -> Result<u32, DetailsError> {
    value
        .as_u64()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| DetailsError::new(at, "must be a whole number of seconds above 0"))
}

/// JSON that still knows of members that came twice.
enum Json {
    Plain(Value),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn into_value(self, at: &str) -> Result<Value, DetailsError> {
        Ok(match self {
            Self::Plain(value) => value,
            Self::Array(list) => Value::Array(
                list.into_iter()
                    .enumerate()
                    .map(|(number, value)| value.into_value(&format!("{at}[{number}]")))
                    .collect::<Result<_, _>>()?,
            ),
            Self::Object(members) => {
                let mut object = Map::new();
                for (name, value) in members {
                    let at = member(at, &name);
                    let value = value.into_value(&at)?;
                    if object.insert(name, value).is_some() {
                        return Err(DetailsError::new(at, "is there twice"));
                    }
                }
                Value::Object(object)
            }
        })
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Plain(Value::Bool(value)))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Plain(Value::from(value)))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Plain(Value::from(value)))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a number"))?;
        Ok(Json::Plain(Value::Number(number)))
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Plain(Value::from(value)))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Plain(Value::Null))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(entry) = map.next_entry()? {
            members.push(entry);
        }
        Ok(Json::Object(members))
    }
}
