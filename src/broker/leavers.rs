//! An owner has left: everything of theirs is suspended, agents and missions, by one append each.
//!
//! What comes is a SCIM user (RFC 7643 section 4.1) with `active: false`, as identity providers send
//! it, with the source's secret as a bearer token (RFC 7644 section 2).

use super::{Broker, Bundle, Reason, Refusal, SourceSettings};
use crate::audit::{Entry, Event};
use crate::fences::{By, Dimension, DimensionKind, FenceKind, NewFence};
use crate::ids::ShardId;
use axum::http::HeaderMap;
use serde_json::Value;
use std::collections::BTreeSet;
use subtle::ConstantTimeEq;

pub(in crate::broker) fn is_authentic(source: &SourceSettings, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all("authorization").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let token = value.to_str().ok().and_then(|text| text.split_once(' '));
    token.is_some_and(|(scheme, token)| {
        let secret = source.secret.expose().as_bytes();
        scheme.eq_ignore_ascii_case("bearer") && bool::from(token.as_bytes().ct_eq(secret))
    })
}

impl Broker {
    pub(in crate::broker) async fn owner_left(
        &self,
        bundle: &Bundle,
        source: &SourceSettings,
        body: &Value,
    ) -> Result<(), Refusal> {
        let Some(names) = left(body)? else {
            return Ok(());
        };
        let names = allowed(source, names)?;
        let now = self.clock.now();
        let view = self.view()?;
        for owner in owners(bundle, &names) {
            let dimension = Dimension::new(DimensionKind::Owner, owner);
            // What comes again says nothing new.
            if view.held(&[dimension.hash()]).is_some() {
                continue;
            }
            let (by, why) = (format!("source {}", source.name), "its owner has left");
            let entry = Entry::new(Event::OwnerLeft, now)
                .operator(by.as_str())
                .reason("owner_left")
                .with("owner", owner);
            let fence = NewFence::new(FenceKind::Hold, dimension, &by, why).by(By::Source);
            let writes = vec![entry.append(ShardId::INSTALLATION)];
            let raised = self.fences.raise_with(fence, Vec::new(), writes, now);
            if let Some(raised) = raised.await? {
                self.record.fenced(&raised.fence);
                tracing::warn!(owner, "an owner has left: what was theirs is suspended");
            }
        }
        Ok(())
    }
}

/// The names of a user who is not active any more. `None`: the user is.
fn left(body: &Value) -> Result<Option<BTreeSet<String>>, Refusal> {
    let malformed = || {
        let problem = "expected a SCIM user: `userName` and `active`";
        Refusal::new(Reason::MalformedRequest, problem).exact()
    };
    // Some providers write `"False"`.
    let active = match body.get("active") {
        Some(Value::Bool(active)) => *active,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => true,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => false,
        _ => return Err(malformed()),
    };
    let name = body.get("userName").and_then(Value::as_str);
    let name = name.filter(|name| !name.trim().is_empty());
    let mut names = BTreeSet::from([name.ok_or_else(malformed)?.to_owned()]);
    let emails = body.get("emails").and_then(Value::as_array);
    let emails = emails.into_iter().flatten();
    names.extend(emails.filter_map(|one| Some(one.get("value")?.as_str()?.to_owned())));
    Ok((!active).then_some(names))
}

/// SECURITY: a source deactivates the people of its own domains, by default nobody. Providers also tell
/// the private addresses of people: those say nothing, and do not keep the others from being heard.
fn allowed(source: &SourceSettings, names: BTreeSet<String>) -> Result<BTreeSet<String>, Refusal> {
    let is_own = |name: &String| {
        let domain = name.rsplit_once('@').map(|(_, domain)| domain);
        source.may_end.iter().any(|allowed| {
            allowed.eq_ignore_ascii_case(name)
                || domain.is_some_and(|domain| domain.eq_ignore_ascii_case(allowed))
        })
    };
    let (own, foreign): (BTreeSet<_>, BTreeSet<_>) = names.into_iter().partition(is_own);
    if own.is_empty() {
        let foreign = Vec::from_iter(foreign).join("`, `");
        let problem = format!("source {} may not deactivate `{foreign}`", source.name);
        return Err(Refusal::new(Reason::NotPermitted, problem));
    }
    Ok(own)
}

/// As the configuration writes them.
fn owners<'a>(bundle: &'a Bundle, names: &BTreeSet<String>) -> BTreeSet<&'a str> {
    let agents = bundle.agents.iter().map(|agent| agent.owner.as_str());
    let missions = bundle
        .policy
        .missions()
        .map(|mission| mission.owner.as_str());
    agents
        .chain(missions)
        .filter(|owner| names.iter().any(|name| name.eq_ignore_ascii_case(owner)))
        .collect()
}
