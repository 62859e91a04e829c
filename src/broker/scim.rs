//! Somebody has left, the standard way: SCIM's PATCH of a user's `active` (RFC 7644 section 3.5.2), and the
//! looks that identity providers take before it.
//!
//! Nothing else of a user is kept here, so nothing else is taken: a message that is only half
//! understood is refused, with the reason, before any of it is done.

use super::{Broker, Bundle, Reason, Refusal, SourceKind, SourceSettings, leavers};
use axum::http::HeaderMap;
use serde_json::Value;
use std::collections::BTreeSet;

const PATCH_OP: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
const ACTIVE: [&str; 2] = [
    "active",
    "urn:ietf:params:scim:schemas:core:2.0:User:active",
];

impl Broker {
    /// `PATCH /scim/v2/Users/{id}`, of whichever source of kind `scim` has this secret. The id is the
    /// user's `userName`.
    pub async fn patch_user(
        &self,
        id: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let bundle = self.bundle.load_full();
        let source = source(&bundle, id, headers)?;
        let active = patched(body)?;
        let names = BTreeSet::from([id.to_owned()]);
        let changed = self.owners_changed(&bundle, source, (names, active));
        changed.await.map_err(Refusal::exact)
    }

    /// `GET /scim/v2/Users/{id}`: whether they are active. Nobody is listed, so whoever may be spoken of is
    /// there; `None`: the source may not speak of them.
    pub async fn is_active_user(
        &self,
        id: &str,
        headers: &HeaderMap,
    ) -> Result<Option<bool>, Refusal> {
        let bundle = self.bundle.load_full();
        let source = source(&bundle, id, headers)?;
        if leavers::allowed(source, BTreeSet::from([id.to_owned()])).is_err() {
            return Ok(None);
        }
        Ok(Some(!self.has_left(id).await?))
    }
}

/// Of several with one secret, the one that may speak of this user.
fn source<'a>(
    bundle: &'a Bundle,
    id: &str,
    headers: &HeaderMap,
) -> Result<&'a SourceSettings, Refusal> {
    let own = |source: &&SourceSettings| {
        source.kind == SourceKind::Scim && leavers::is_authentic(source, headers)
    };
    let mut sources: Vec<_> = bundle.sources.iter().filter(own).collect();
    let names = BTreeSet::from([id.to_owned()]);
    sources.sort_by_key(|source| leavers::allowed(source, names.clone()).is_err());
    let why = "no source of kind scim has this secret";
    let unknown = || Refusal::new(Reason::NotAuthenticated, why);
    sources.first().copied().ok_or_else(unknown)
}

/// What the message says of `active`.
fn patched(body: &[u8]) -> Result<bool, Refusal> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| refuse("body", &format!("no JSON: {error}")))?;
    let [schemas, operations] = members(&body, "body", ["schemas", "Operations"])?;
    let named = schemas.and_then(Value::as_array).map(Vec::as_slice);
    let is_patch =
        matches!(named, Some([Value::String(one)]) if one.eq_ignore_ascii_case(PATCH_OP));
    if !is_patch {
        let why = format!("`schemas` must be [\"{PATCH_OP}\"]");
        return Err(refuse("schemas", &why));
    }
    let operations = operations.and_then(Value::as_array).map(Vec::as_slice);
    let Some([operation]) = operations else {
        let why = "exactly one operation, on `active`: nothing else of a user is kept here, so map no other attribute";
        return Err(refuse("Operations", why));
    };
    let [op, path, value] = members(operation, "Operations", ["op", "path", "value"])?;
    let op = op.and_then(Value::as_str).unwrap_or_default();
    if !op.eq_ignore_ascii_case("replace") {
        return Err(refuse("op", "`op` must be `replace`"));
    }
    let missing = || refuse("value", "`value` is missing");
    let value = value.ok_or_else(missing)?;
    let value = match path {
        None => {
            let [active] = members(value, "value", ["active"])?;
            active.ok_or_else(missing)?
        }
        Some(Value::String(path)) if ACTIVE.iter().any(|own| own.eq_ignore_ascii_case(path)) => {
            value
        }
        Some(_) => return Err(refuse("path", "`path` must be `active`, or absent")),
    };
    leavers::truth(value).ok_or_else(|| refuse("value", "`active` must be true or false"))
}

/// Names are told apart whatever their case (RFC 7643 section 2.1); each at most once, and no others.
fn members<'a, const N: usize>(
    value: &'a Value,
    at: &str,
    known: [&str; N],
) -> Result<[Option<&'a Value>; N], Refusal> {
    let wanted = known.join("`, `");
    let object = value.as_object();
    let object = object.ok_or_else(|| refuse(at, &format!("an object with `{wanted}`")))?;
    let mut found = [None; N];
    for (name, value) in object {
        let place = known.iter().position(|own| own.eq_ignore_ascii_case(name));
        match place.and_then(|place| found.get_mut(place)) {
            Some(slot @ None) => *slot = Some(value),
            _ => {
                let name: String = name.chars().take(64).collect();
                let why = format!("`{name}` is one too many: only `{wanted}` is understood, once");
                return Err(refuse(at, &why));
            }
        }
    }
    Ok(found)
}

fn refuse(at: &str, why: &str) -> Refusal {
    let refusal = Refusal::new(Reason::MalformedRequest, why).exact();
    refusal.at(Some(at.to_owned()))
}

#[cfg(test)]
mod tests;
