//! Births: every shard is born once, with a generation that each commit names. A shard that came
//! back without it is refused, whoever emptied it.

use super::script;
use crate::ids::{self, ShardId};
use crate::store::{Generation, StoreError};
use ::redis::aio::MultiplexedConnection;
use std::collections::HashMap;

const MAGIC: &[u8] = b"dayfly1";
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

fn shards() -> impl Iterator<Item = ShardId> {
    ShardId::all().chain([ShardId::INSTALLATION])
}

fn manifest() -> Vec<u8> {
    script::name(ShardId::INSTALLATION, b'm', b"")
}

/// The births of this store; a store in which nothing was ever born is born now.
pub(super) async fn attend(connection: &mut MultiplexedConnection) -> Result<Births, StoreError> {
    if let Some(born) = read(connection).await? {
        return finish(connection, born).await;
    }
    let found = present(connection).await?;
    if !found.is_empty() {
        // Shards without the manifest that lists them: somebody emptied the installation's own.
        return Err(StoreError::Lost(ShardId::INSTALLATION.number()));
    }
    // Two processes may be here at once: the first manifest stands, both read it back.
    let () = ::redis::cmd("SET")
        .arg(manifest())
        .arg(Births::draw().encode(BEING_BORN))
        .arg("NX")
        .query_async(connection)
        .await
        .map_err(|error| super::unavailable(&error))?;
    match read(connection).await? {
        Some(born) => finish(connection, born).await,
        None => Err(StoreError::Unavailable(
            "it loses what is written".to_owned(),
        )),
    }
}

/// Writes the births that a manifest announces, then says that it is done. Whoever finds a
/// half-done birth completes it: the generations are in the manifest.
async fn finish(
    connection: &mut MultiplexedConnection,
    (births, state): (Births, u8),
) -> Result<Births, StoreError> {
    if state == BORN {
        return Ok(births);
    }
    let mut pipeline = ::redis::pipe();
    for (shard, generation) in &births.0 {
        pipeline
            .cmd("SET")
            .arg(script::birth(*shard))
            .arg(generation.0.as_slice())
            .arg("NX")
            .ignore();
    }
    let () = pipeline
        .query_async(connection)
        .await
        .map_err(|error| super::unavailable(&error))?;
    say_born(connection, &births).await?;
    Ok(births)
}

async fn say_born(
    connection: &mut MultiplexedConnection,
    births: &Births,
) -> Result<(), StoreError> {
    ::redis::cmd("SET")
        .arg(manifest())
        .arg(births.encode(BORN))
        .query_async(connection)
        .await
        .map_err(|error| super::unavailable(&error))
}

async fn read(connection: &mut MultiplexedConnection) -> Result<Option<(Births, u8)>, StoreError> {
    let bytes: Option<Vec<u8>> = ::redis::cmd("GET")
        .arg(manifest())
        .query_async(connection)
        .await
        .map_err(|error| super::unavailable(&error))?;
    bytes
        .map(|bytes| {
            Births::decode(&bytes).ok_or_else(|| {
                StoreError::Unfit(
                    "its birth manifest is of another version or number of shards".to_owned(),
                )
            })
        })
        .transpose()
}

/// The birth records that are there.
async fn present(
    connection: &mut MultiplexedConnection,
) -> Result<HashMap<ShardId, Generation>, StoreError> {
    let mut pipeline = ::redis::pipe();
    for shard in shards() {
        pipeline.cmd("GET").arg(script::birth(shard));
    }
    let found: Vec<Option<Vec<u8>>> = pipeline
        .query_async(connection)
        .await
        .map_err(|error| super::unavailable(&error))?;
    Ok(shards()
        .zip(found)
        .filter_map(|(shard, bytes)| Some((shard, Generation(bytes?.try_into().ok()?))))
        .collect())
}

/// Gives lost shards a new birth: an operator's decision, after which what they held is gone for
/// good. Answers the shards that were lost.
pub(super) async fn recover(
    connection: &mut MultiplexedConnection,
) -> Result<Vec<ShardId>, StoreError> {
    let listed = read(connection).await?.map(|(births, _)| births);
    let mut births = present(connection).await?;
    let mut lost = Vec::new();
    for shard in shards() {
        let known = listed.as_ref().and_then(|listed| listed.0.get(&shard));
        let there = births.get(&shard);
        if there.is_some() && (known.is_none() || known == there) {
            continue;
        }
        let generation = Generation(ids::random());
        let () = ::redis::cmd("SET")
            .arg(script::birth(shard))
            .arg(generation.0.as_slice())
            .query_async(connection)
            .await
            .map_err(|error| super::unavailable(&error))?;
        births.insert(shard, generation);
        lost.push(shard);
    }
    say_born(connection, &Births(births)).await?;
    Ok(lost)
}
