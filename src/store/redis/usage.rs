//! How much memory is used, and for what: for measuring, never for deciding.

use super::connection::Connector;
use super::fitness::Info;
use super::{RedisSettings, unavailable};
use crate::store::StoreError;
use ::redis::aio::MultiplexedConnection;
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
    let mut connection = Connector::new(settings)?.connect().await?;
    Ok(Info::read(&mut connection).await?.used_memory())
}

/// Looks at every key.
pub async fn usage(settings: &RedisSettings) -> Result<Usage, StoreError> {
    let mut connection = Connector::new(settings)?.connect().await?;
    let mut usage = Usage {
        used_memory: Info::read(&mut connection).await?.used_memory(),
        ..Usage::default()
    };
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<Vec<u8>>) = ::redis::cmd("SCAN")
            .arg(cursor)
            .arg("COUNT")
            .arg(1000)
            .query_async(&mut connection)
            .await
            .map_err(|error| unavailable(&error))?;
        for key in keys {
            usage.count(&mut connection, &key).await?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(usage);
        }
    }
}

impl Usage {
    async fn count(
        &mut self,
        connection: &mut MultiplexedConnection,
        key: &[u8],
    ) -> Result<(), StoreError> {
        let Some((kind, what)) = what_for(key) else {
            return Ok(());
        };
        let count = self.keys.entry(what.clone()).or_default();
        *count += 1;
        let whole = matches!(kind, b'i' | b'l');
        if whole || *count % WEIGHED == 1 {
            let bytes: Option<u64> = ::redis::cmd("MEMORY")
                .arg("USAGE")
                .arg(key)
                .query_async(connection)
                .await
                .map_err(|error| unavailable(&error))?;
            let stands_for = if whole { 1 } else { WEIGHED };
            *self.bytes.entry(what.clone()).or_default() += bytes.unwrap_or(0) * stands_for;
        }
        if kind == b'i' {
            let members: u64 = ::redis::cmd("ZCARD")
                .arg(key)
                .query_async(connection)
                .await
                .map_err(|error| unavailable(&error))?;
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
        b'i' | b'l' | b'r' => (*kind, name),
        _ => (*kind, "bookkeeping".to_owned()),
    })
}
