//! How much memory is used, and for what: for measuring, never for deciding.

use super::RedisSettings;
use super::nodes::{Node, Nodes};
use crate::ids::ShardId;
use crate::store::StoreError;
use ::redis::{Cmd, FromRedisValue};
use std::collections::BTreeMap;

/// Of so many records and commits, one is weighed.
const WEIGHED: u64 = 97;

/// What a Redis holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// What the server says that its data and its own tables take.
    pub used_memory: u64,
    /// Keys by what they are for.
    pub keys: BTreeMap<String, u64>,
    /// Bytes by what they are for: indexes and logs weighed, the rest by samples.
    pub bytes: BTreeMap<String, u64>,
    /// Members of the indexes of that name, all shards together.
    pub members: BTreeMap<String, u64>,
}

/// The bytes alone, which is one question.
pub async fn used_memory(settings: &RedisSettings) -> Result<u64, StoreError> {
    let node = Nodes::open(settings).await?.of(ShardId::INSTALLATION)?;
    used(&node).await
}

async fn ask<T: FromRedisValue>(node: &Node, command: &mut Cmd) -> Result<T, StoreError> {
    let mut pipeline = ::redis::pipe();
    pipeline.add_command(command.clone());
    let answer: Result<(T,), _> = node.query(&pipeline).await;
    let silent = |_| StoreError::Unavailable("it did not say what it holds".to_owned());
    answer.map(|(answer,)| answer).map_err(silent)
}

async fn used(node: &Node) -> Result<u64, StoreError> {
    let text: String = ask(node, ::redis::cmd("INFO").arg("memory")).await?;
    let used = text
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    Ok(used.and_then(|used| used.trim().parse().ok()).unwrap_or(0))
}

/// Looks at every key.
pub async fn usage(settings: &RedisSettings) -> Result<Usage, StoreError> {
    let node = Nodes::open(settings).await?.of(ShardId::INSTALLATION)?;
    let mut usage = Usage {
        used_memory: used(&node).await?,
        ..Usage::default()
    };
    let mut cursor = 0_u64;
    let node = node.as_ref();
    loop {
        let (next, keys): (u64, Vec<Vec<u8>>) = ask(
            node,
            ::redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(1000),
        )
        .await?;
        for key in keys {
            usage.count(node, &key).await?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(usage);
        }
    }
}

impl Usage {
    async fn count(&mut self, node: &Node, key: &[u8]) -> Result<(), StoreError> {
        let Some((kind, what)) = what_for(key) else {
            return Ok(());
        };
        let count = self.keys.entry(what.clone()).or_default();
        *count += 1;
        let whole = matches!(kind, b'i' | b'l');
        if whole || *count % WEIGHED == 1 {
            let bytes: Option<u64> =
                ask(node, ::redis::cmd("MEMORY").arg("USAGE").arg(key)).await?;
            let stands_for = if whole { 1 } else { WEIGHED };
            *self.bytes.entry(what.clone()).or_default() += bytes.unwrap_or(0) * stands_for;
        }
        if kind == b'i' {
            let members: u64 = ask(node, ::redis::cmd("ZCARD").arg(key)).await?;
            *self.members.entry(what).or_default() += members;
        }
        Ok(())
    }
}

/// `{d17}rlease/...`: the letter, and the name up to what tells one from another.
fn what_for(key: &[u8]) -> Option<(u8, String)> {
    let end = key.iter().position(|byte| *byte == b'}')?;
    let (kind, name) = key.get(end + 1..)?.split_first()?;
    let until = name.iter().position(|byte| *byte == b'/');
    let name = String::from_utf8_lossy(name.get(..until.unwrap_or(name.len()))?).into_owned();
    Some(match kind {
        b'c' => (*kind, "commits".to_owned()),
        b'i' | b'l' | b'n' | b'q' | b'r' => (*kind, name),
        // How many share a record is told with it.
        b'u' => (*kind, name),
        _ => (*kind, "bookkeeping".to_owned()),
    })
}
