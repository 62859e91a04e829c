//! `agent register`, `agent remove`, `agent export`: agents that no file has.

use super::OperatorArgs;
use super::operator_side::{client, get};
use super::output::{Failure, Output};
use crate::agents::registered::{Definition, key_sets};
use crate::ids::AgentId;
use crate::jose::KeySet;
use crate::wire::{AgentView, Page, RegistrationReceipt, RegistrationRequest};
use clap::Args;
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// One table, `[agent.NAME]`, as in a configuration, with the missions that it joins.
    file: PathBuf,
    /// Why: it is in the audit.
    #[arg(long)]
    reason: String,
    /// Only if nobody was registered, changed or removed since this number.
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The agent's name.
    id: AgentId,
    /// Why: it is in the audit.
    #[arg(long)]
    reason: String,
    /// Only if nobody was registered, changed or removed since this number.
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// `[agent.NAME]` for each.
#[derive(Debug, Serialize)]
struct Exported {
    agent: BTreeMap<AgentId, Definition>,
}

pub async fn register(args: RegisterArgs, output: &Output) -> Result<u8, Failure> {
    let (id, agent) = read(&args.file)?;
    let request = RegistrationRequest {
        agent,
        reason: args.reason,
        after: args.after,
    };
    let client = client(&args.operator)?;
    let path = format!("/agents/{id}");
    let receipt: RegistrationReceipt = client.admin(Method::PUT, &path, Some(&request)).await?;
    output.show(&receipt, |receipt| told(receipt, "registered"))?;
    Ok(0)
}

pub async fn remove(args: RemoveArgs, output: &Output) -> Result<u8, Failure> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("reason", &args.reason);
    if let Some(after) = args.after {
        query.append_pair("after", &after.to_string());
    }
    let path = format!("/agents/{}?{}", args.id, query.finish());
    let client = client(&args.operator)?;
    let receipt: RegistrationReceipt = client.admin(Method::DELETE, &path, None::<&()>).await?;
    output.show(&receipt, |receipt| told(receipt, "removed"))?;
    Ok(0)
}

/// As tables of a configuration, which `access --registered` and `agent register` read again.
pub async fn export(operator: &OperatorArgs, output: &Output) -> Result<u8, Failure> {
    let agent = registered(operator).await?.into_iter().collect();
    let all = Exported { agent };
    output.show(&all, |all| {
        let tables: Vec<_> = all.agent.iter().map(written).collect();
        tables.join("\n")
    })?;
    Ok(0)
}

/// Who is registered.
pub async fn registered(operator: &OperatorArgs) -> Result<Vec<(AgentId, Definition)>, Failure> {
    let page: Page<AgentView> = get(operator, "/agents").await?;
    let mut own = page.items;
    own.retain(|agent| agent.registered.is_some());
    own.sort_by_key(|agent| agent.registered.as_ref().map(|registered| registered.since));
    let definition = |agent: AgentView| Some((agent.id, agent.registered?.definition));
    Ok(own.into_iter().filter_map(definition).collect())
}

/// What [`export`] wrote.
pub fn exported(path: &Path) -> Result<Vec<(AgentId, Definition)>, Failure> {
    let wanted = || Failure::failed(format!("{}: not `[agent.NAME]` tables", path.display()));
    let mut whole = parsed(path)?;
    let agents = whole.remove("agent");
    if !whole.is_empty() {
        return Err(wanted());
    }
    let Some(agents) = agents else {
        return Ok(Vec::new());
    };
    let Value::Object(agents) = agents else {
        return Err(wanted());
    };
    let each = agents.into_iter().map(|(name, definition)| {
        let id = name.parse().map_err(|_| wanted())?;
        match definition {
            Value::Object(definition) => Ok((id, definition)),
            _ => Err(wanted()),
        }
    });
    each.collect()
}

fn parsed(path: &Path) -> Result<Definition, Failure> {
    let failed =
        |what: &dyn std::fmt::Display| Failure::failed(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| failed(&error))?;
    match json(toml::Value::Table(table)) {
        Some(Value::Object(whole)) => Ok(whole),
        _ => Err(failed(&"not a table")),
    }
}

/// The one table of the file, with what it refers to.
fn read(path: &Path) -> Result<(AgentId, Definition), Failure> {
    let failed =
        |what: &dyn std::fmt::Display| Failure::failed(format!("{}: {what}", path.display()));
    let mut all = exported(path)?;
    let one = all.pop().filter(|_| all.is_empty());
    let (id, mut definition) =
        one.ok_or_else(|| failed(&"write one table, `[agent.NAME]`, and nothing else"))?;
    // Of a name alone the folder is the empty path, which is nowhere.
    let base = path.parent().filter(|base| *base != Path::new(""));
    let base = base.unwrap_or_else(|| Path::new("."));
    inline(&mut definition, base).map_err(|error| failed(&error))?;
    Ok((id, definition))
}

/// Dates become text.
fn json(value: toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(list) => list.into_iter().map(json).collect::<Option<_>>()?,
        toml::Value::Table(table) => {
            let pairs = table.into_iter();
            let pairs = pairs.map(|(key, value)| Some((key, json(value)?)));
            Value::Object(pairs.collect::<Option<_>>()?)
        }
        other => serde_json::to_value(other).ok()?,
    })
}

/// Key sets that it names: the broker reads no file for whoever comes by the interface.
///
/// SECURITY: a definition may be somebody else's. Of the files beside it nothing is sent but public keys.
fn inline(definition: &mut Definition, base: &Path) -> Result<(), String> {
    for keys in key_sets(definition) {
        let Some(name) = keys.as_str() else {
            continue;
        };
        let path = below(name, base)?;
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read(&path).map_err(|error| failed(&error))?;
        let set = KeySet::parse(&text).map_err(|error| failed(&error))?;
        *keys = set.to_jwks();
    }
    Ok(())
}

/// Where `file:keys.json` is.
fn below(name: &str, base: &Path) -> Result<PathBuf, String> {
    let wanted = || format!("`{name}` is not `file:` and a path below the folder of the table");
    let name = name.strip_prefix("file:").ok_or_else(wanted)?;
    let path = base.join(name);
    let real = |path: &Path| {
        let real = path.canonicalize();
        real.map_err(|error| format!("{}: {error}", path.display()))
    };
    match real(&path)?.starts_with(real(base)?) {
        true => Ok(path),
        false => Err(wanted()),
    }
}

/// `[agent.NAME]`.
fn written((id, definition): (&AgentId, &Definition)) -> String {
    let mut table = toml::Table::try_from(definition).unwrap_or_default();
    let ends = table.get("ends").and_then(toml::Value::as_str);
    if let Some(date) = ends.and_then(|ends| ends.parse().ok()) {
        table.insert("ends".to_owned(), toml::Value::Datetime(date));
    }
    let named = toml::Table::from_iter([(id.to_string(), toml::Value::Table(table))]);
    let whole = toml::Table::from_iter([("agent".to_owned(), toml::Value::Table(named))]);
    whole.to_string()
}

fn told(receipt: &RegistrationReceipt, what: &str) -> String {
    let (id, number) = (&receipt.id, receipt.number);
    let ended = match receipt.ended {
        true => "what was given to it before is dead",
        false => "what it holds lives on",
    };
    let state = match receipt.replicated {
        true => "in force at every broker",
        false => "in force here, not yet acknowledged by enough replicas of the store",
    };
    format!("{id}: {what}, change {number}; {ended}; {state}")
}

#[cfg(test)]
mod tests;
