//! Births: every shard is born once, with a generation that each commit names. A shard that came
//! back without it is refused, whoever emptied it.

use super::failure::Queried;
use super::nodes::Nodes;
use super::{script, shards};
use crate::ids::{self, ShardId};
use crate::store::{Fault, Generation, StoreError};
use ::redis::{Cmd, FromRedisValue, Pipeline};
use std::collections::HashMap;

const MAGIC: &[u8] = b"dayfly3";
const BEING_BORN: u8 = b'0';
const BORN: u8 = b'1';

/// What this process knows every shard by, for as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Births(HashMap<ShardId, Generation>);

impl Births {
    fn draw() -> Self {
        Self(shards().map(|s| (s, Generation(ids::random()))).collect())
    }

    pub(super) fn of(&self, shard: ShardId) -> Result<Generation, StoreError> {
        let known = self.0.get(&shard).copied();
        known.ok_or(StoreError::Lost(shard.number()))
    }

    fn encode(&self, state: u8) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(state);
        for shard in shards() {
            let generation = self.0.get(&shard).map_or([0; 16], |known| known.0);
            bytes.extend_from_slice(&generation);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(Self, u8)> {
        let (state, mut rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
        let mut births = HashMap::new();
        for shard in shards() {
            let (generation, after) = rest.split_first_chunk::<16>()?;
            births.insert(shard, Generation(*generation));
            rest = after;
        }
        (rest.is_empty() && matches!(*state, BORN | BEING_BORN)).then_some((Self(births), *state))
    }
}

fn manifest() -> Vec<u8> {
    script::name(ShardId::INSTALLATION, b'm', b"")
}

/// The births of this store; a store in which nothing was ever born is born now.
pub(super) async fn attend(nodes: &Nodes) -> Result<Births, StoreError> {
    if let Some(born) = read(nodes).await? {
        return finish(nodes, born).await;
    }
    let found = present(nodes).await?;
    if !found.is_empty() {
        // Another process may have given birth between the two looks: the manifest comes first.
        return match read(nodes).await? {
            Some(born) => finish(nodes, born).await,
            // Shards without the manifest that lists them: somebody emptied the installation's own.
            None => Err(StoreError::Lost(ShardId::INSTALLATION.number())),
        };
    }
    // Two processes may be here at once: the first manifest stands, both read it back.
    let mut first = ::redis::cmd("SET");
    first
        .arg(manifest())
        .arg(Births::draw().encode(BEING_BORN))
        .arg("NX");
    let () = ask(nodes, ShardId::INSTALLATION, first).await?;
    match read(nodes).await? {
        Some(born) => finish(nodes, born).await,
        None => Err(StoreError::Unavailable(
            "it loses what is written".to_owned(),
        )),
    }
}

/// Writes the births that a manifest announces, then says that it is done. Whoever finds a
/// half-done birth completes it: the generations are in the manifest.
async fn finish(nodes: &Nodes, (births, state): (Births, u8)) -> Result<Births, StoreError> {
    if state == BORN {
        return Ok(births);
    }
    for (shard, generation) in &births.0 {
        let mut birth = ::redis::cmd("SET");
        birth
            .arg(script::birth(*shard))
            .arg(generation.0.as_slice())
            .arg("NX");
        let () = ask(nodes, *shard, birth).await?;
    }
    say_born(nodes, &births).await?;
    Ok(births)
}

async fn say_born(nodes: &Nodes, births: &Births) -> Result<(), StoreError> {
    let mut said = ::redis::cmd("SET");
    said.arg(manifest()).arg(births.encode(BORN));
    ask(nodes, ShardId::INSTALLATION, said).await
}

async fn read(nodes: &Nodes) -> Result<Option<(Births, u8)>, StoreError> {
    let mut call = ::redis::cmd("GET");
    call.arg(manifest());
    let bytes: Option<Vec<u8>> = ask(nodes, ShardId::INSTALLATION, call).await?;
    bytes
        .map(|bytes| {
            Births::decode(&bytes).ok_or_else(|| {
                let message = "its birth manifest is of another version or number of shards";
                Fault::Lost.found(message).into()
            })
        })
        .transpose()
}

/// The birth records that are there.
async fn present(nodes: &Nodes) -> Result<HashMap<ShardId, Generation>, StoreError> {
    let mut found = HashMap::new();
    for shard in shards() {
        let mut call = ::redis::cmd("GET");
        call.arg(script::birth(shard));
        let bytes: Option<Vec<u8>> = ask(nodes, shard, call).await?;
        if let Some(bytes) = bytes.and_then(|bytes| bytes.try_into().ok()) {
            found.insert(shard, Generation(bytes));
        }
    }
    Ok(found)
}

/// One call about one shard, to whoever has it.
async fn ask<T: FromRedisValue>(nodes: &Nodes, shard: ShardId, call: Cmd) -> Result<T, StoreError> {
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.add_command(call);
    let answer: Result<(T,), _> = nodes.of(shard)?.query(&pipeline).await;
    answer.map(|(answer,)| answer).map_err(Queried::into_error)
}

/// Changes nothing: the shards that lost their data, where anything was ever born.
pub(super) async fn look(nodes: &Nodes) -> Result<(), StoreError> {
    let listed = read(nodes).await?;
    let there = present(nodes).await?;
    let Some((births, state)) = listed else {
        if there.is_empty() {
            return Ok(());
        }
        return Err(StoreError::Lost(ShardId::INSTALLATION.number()));
    };
    let lost = shards().find(|shard| there.get(shard) != births.0.get(shard));
    match lost {
        Some(shard) if state == BORN => Err(StoreError::Lost(shard.number())),
        _ => Ok(()),
    }
}

/// Gives lost shards a new birth: an operator's decision, after which what they held is gone for
/// good. Answers the shards that were lost.
pub(super) async fn recover(nodes: &Nodes) -> Result<Vec<ShardId>, StoreError> {
    let listed = read(nodes).await?.map(|(births, _)| births);
    let mut births = present(nodes).await?;
    let mut lost = Vec::new();
    for shard in shards() {
        let known = listed.as_ref().and_then(|listed| listed.0.get(&shard));
        let there = births.get(&shard);
        if there.is_some() && (known.is_none() || known == there) {
            continue;
        }
        let generation = Generation(ids::random());
        let mut birth = ::redis::cmd("SET");
        birth.arg(script::birth(shard)).arg(generation.0.as_slice());
        let () = ask(nodes, shard, birth).await?;
        births.insert(shard, generation);
        lost.push(shard);
    }
    say_born(nodes, &Births(births)).await?;
    Ok(lost)
}
