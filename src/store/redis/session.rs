//! What one process keeps about its Redis, and the calls themselves: each is one round trip.

use super::RedisSettings;
use super::birth::Births;
use super::connection::{Lent, jitter};
use super::failure::{Failure, Queried, ReadFailure, failed, is_suspect, not_connected};
use super::fitness::Info;
use super::nodes::{Node, Nodes};
use super::script;
use super::waiting::{Patience, run_and_wait};
use crate::clock::{Clock, SystemClock};
use crate::ids::ShardId;
use crate::store::{
    self, CommitId, Durability, Generation, Index, Key, Log, Outcome, Position, Priority, Ranked,
    Record, StoreError, Tail, Transaction,
};
use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, Pipeline, RedisError, Script, Value};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

pub(super) struct Inner {
    pub(super) settings: RedisSettings,
    pub(super) nodes: Nodes,
    pub(super) births: Births,
}

/// A node, and the shards that it is asked about with the places of their keys.
pub(super) type Asked = (Arc<Node>, Vec<(ShardId, Vec<usize>)>);

/// Members with their scores.
type Scored = Vec<(Vec<u8>, f64)>;

impl Inner {
    pub(super) async fn look_after(&self) {
        self.nodes.look_after().await;
        for node in self.nodes.all() {
            look_at_memory(&node).await;
        }
    }

    /// Never takes longer than the retry budget, whatever the servers do.
    pub(super) async fn commit(&self, transaction: &Transaction) -> Result<Outcome, StoreError> {
        store::well_formed(transaction)?;
        let generation = self.births.of(transaction.shard)?;
        let clock = SystemClock::new();
        let give_up = clock.since_boot() + self.settings.retry_budget;
        let mut pause = FIRST_PAUSE;
        let mut unknown = false;
        loop {
            let call = script::commit(transaction, generation, unknown);
            let left = give_up.saturating_sub(clock.since_boot());
            let sent = tokio::time::timeout(left, self.send(transaction, &call)).await;
            let failure = match sent {
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Unknown,
            };
            let error = match failure {
                Failure::Final(_) if unknown => StoreError::Unknown,
                Failure::Final(error) => return Err(error),
                Failure::Unknown => {
                    unknown = true;
                    StoreError::Unknown
                }
                Failure::NotApplied(_) if unknown => StoreError::Unknown,
                Failure::NotApplied(error) => error,
            };
            if clock.since_boot() + pause > give_up {
                return Err(error);
            }
            let left = give_up.saturating_sub(clock.since_boot());
            self.nodes.look_around(left).await;
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads once more where the first connection turns out to be dead, and for as long as the
    /// retry budget where the shard is only on its way.
    pub(super) async fn read<T, F: Future<Output = Result<T, ReadFailure>>>(
        &self,
        read: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let clock = SystemClock::new();
        let give_up = clock.since_boot() + self.settings.retry_budget;
        let mut pause = FIRST_PAUSE;
        let mut broken = false;
        loop {
            match read().await {
                Ok(answer) => return Ok(answer),
                Err(ReadFailure::Final(error)) => return Err(error),
                Err(ReadFailure::Connection(error)) if broken => return Err(error),
                Err(ReadFailure::Connection(_)) => broken = true,
                Err(ReadFailure::NotNow(error)) => {
                    if clock.since_boot() + pause > give_up {
                        return Err(error);
                    }
                    tokio::time::sleep(jitter(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            let left = give_up.saturating_sub(clock.since_boot());
            self.nodes.look_around(left).await;
        }
    }

    async fn send(&self, transaction: &Transaction, call: &Cmd) -> Result<Outcome, Failure> {
        let shard = transaction.shard;
        let node = self.nodes.of(shard).map_err(not_connected)?;
        let lane = match transaction.priority {
            Priority::Mint if node.full.load(Ordering::Relaxed) => {
                return Err(Failure::Final(StoreError::Full));
            }
            Priority::Mint => &node.mint,
            Priority::Revoke => &node.revoke,
        };
        let alone = match transaction.durability {
            Durability::Replicated => node.connector.replicas.are_none(),
            Durability::Local => true,
        };
        if alone {
            let (number, mut connection) = lane
                .shared
                .get(&node.connector)
                .await
                .map_err(not_connected)?;
            let answer = run(&mut connection, &script::COMMIT, call).await;
            if let Err(error) = &answer
                && is_suspect(error)
            {
                lane.shared.forget(number).await;
                node.heard(error).await;
            }
            let answer = answer.map_err(|error| self.failed(shard, &node, &error))?;
            return script::read_commit(answer, shard).map_err(Failure::Final);
        }
        let mut lent = lane
            .replicated
            .lend(&node.connector, self.settings.response_timeout)
            .await
            .map_err(not_connected)?;
        let needed = lent.needed().map_err(not_connected)?;
        let script = (&*script::COMMIT, call);
        let answer = run_and_wait(&mut lent.connection, &needed, script, self.patience()).await;
        if let Err(error) = &answer
            && is_suspect(error)
        {
            lane.replicated.forget();
            node.heard(error).await;
        }
        let (answer, acknowledged) = answer.map_err(|error| self.failed(shard, &node, &error))?;
        lent.give_back();
        let outcome = script::read_commit(answer, shard).map_err(Failure::Final)?;
        let needed = needed.count();
        Ok(match outcome {
            Outcome::Applied { appended } if acknowledged < needed => {
                tracing::debug!(acknowledged, needed, "a commit is not replicated in time");
                Outcome::Unreplicated { appended }
            }
            other => other,
        })
    }

    fn failed(&self, shard: ShardId, node: &Node, error: &RedisError) -> Failure {
        self.nodes.learn(shard, node, error);
        failed(error)
    }

    fn read_failed(&self, shard: ShardId, node: &Node, error: RedisError) -> ReadFailure {
        self.nodes.learn(shard, node, &error);
        error.into()
    }

    fn patience(&self) -> Patience {
        Patience {
            response: self.settings.response_timeout,
            replicas: self.settings.replica_timeout,
        }
    }

    /// One look at a log, proven fresh by the replicas where there must be some.
    async fn look(
        &self,
        lent: &mut Lent<'_>,
        log: &Log,
        after: Position,
        limit: usize,
    ) -> Result<Tail, Queried> {
        let call = script::tail(log, self.births.of(log.shard)?, after, limit);
        let (needed, connection) = (lent.needed()?, &mut lent.connection);
        let answer = if needed.count() == 0 {
            connection.set_response_timeout(self.settings.response_timeout);
            run(connection, &script::TAIL, &call).await?
        } else {
            let script = (&*script::TAIL, &call);
            let (answer, acknowledged) =
                run_and_wait(connection, &needed, script, self.patience()).await?;
            if acknowledged < needed.count() {
                let why = format!(
                    "{acknowledged} of {} replicas acknowledged in time",
                    needed.count()
                );
                let read = script::read_tail(answer, log.shard).and_then(|read| read.judge(after));
                return Err(Queried::Store(match read {
                    Ok(read) => StoreError::Unproved {
                        why,
                        read: Box::new(read),
                    },
                    // That something is lost is not said by who may be lost itself.
                    Err(_) => StoreError::Unavailable(why),
                }));
            }
            answer
        };
        Ok(script::read_tail(answer, log.shard)?.judge(after)?)
    }

    pub(super) async fn tail(
        &self,
        log: &Log,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Tail, ReadFailure> {
        let node = self.nodes.of(log.shard)?;
        let patience = self.settings.response_timeout;
        let mut lent = node.tails.lend(&node.connector, patience).await?;
        match self.follow(&mut lent, log, after, (limit, wait)).await {
            Ok(tail) => {
                lent.give_back();
                Ok(tail)
            }
            Err(Queried::Redis(error)) => {
                if is_suspect(&error) {
                    node.tails.forget();
                    node.heard(&error).await;
                }
                Err(self.read_failed(log.shard, &node, error))
            }
            Err(Queried::Store(error)) => Err(error.into()),
        }
    }

    async fn follow(
        &self,
        lent: &mut Lent<'_>,
        log: &Log,
        after: Position,
        (limit, wait): (usize, Duration),
    ) -> Result<Tail, Queried> {
        let mut tail = self.look(lent, log, after, limit).await?;
        let empty = matches!(&tail, Tail::Entries { entries, .. } if entries.is_empty());
        if empty && limit > 0 && !wait.is_zero() {
            let connection = &mut lent.connection;
            connection.set_response_timeout(wait + self.settings.response_timeout);
            let woken: Value = ::redis::cmd("XREAD")
                .arg("COUNT")
                .arg(1)
                .arg("BLOCK")
                .arg(u64::try_from(wait.as_millis()).unwrap_or(1).max(1))
                .arg("STREAMS")
                .arg(script::log(log))
                .arg(format!("{}-0", after.sequence))
                .query_async(connection)
                .await?;
            if woken != Value::Nil {
                tail = self.look(lent, log, after, limit).await?;
            }
        }
        if limit == 0
            && let Tail::Entries { entries, .. } = &mut tail
        {
            entries.clear();
        }
        Ok(tail)
    }

    pub(super) async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, ReadFailure> {
        let mut shards: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            shards.entry(key.shard).or_default().push(place);
        }
        let mut found = vec![None; keys.len()];
        for (node, shards) in self.by_node(shards)? {
            let mut pipeline = Pipeline::with_capacity(shards.len());
            for (shard, places) in &shards {
                let mut call = ::redis::cmd("MGET");
                call.arg(script::birth(*shard));
                for key in places.iter().filter_map(|place| keys.get(*place)) {
                    call.arg(script::record(key));
                }
                pipeline.add_command(call);
            }
            let asked = shards
                .first()
                .map_or(ShardId::INSTALLATION, |(shard, _)| *shard);
            let answers: Vec<Vec<Option<Vec<u8>>>> = self.query(asked, &node, &pipeline).await?;
            for ((shard, places), answer) in shards.iter().zip(answers) {
                let mut answer = answer.into_iter();
                self.alive(*shard, answer.next().flatten().as_deref())?;
                for (place, bytes) in places.iter().zip(answer) {
                    if let (Some(slot), Some(bytes)) = (found.get_mut(*place), bytes) {
                        *slot = Some(record(&bytes)?);
                    }
                }
            }
        }
        Ok(found)
    }

    /// What each node is to be asked for.
    pub(super) fn by_node(
        &self,
        shards: BTreeMap<ShardId, Vec<usize>>,
    ) -> Result<Vec<Asked>, StoreError> {
        let mut asked: Vec<Asked> = Vec::new();
        for (shard, places) in shards {
            let node = self.nodes.of(shard)?;
            match asked
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, &node))
            {
                Some((_, shards)) => shards.push((shard, places)),
                None => asked.push((node, vec![(shard, places)])),
            }
        }
        Ok(asked)
    }

    pub(super) async fn range(
        &self,
        index: &Index,
        ranks: &RangeInclusive<i64>,
        limit: usize,
    ) -> Result<Vec<Ranked>, ReadFailure> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("GET").arg(script::birth(index.shard));
        pipeline
            .cmd("ZRANGE")
            .arg(script::index(index))
            .arg(script::lower_bound(*ranks.start(), false))
            .arg(script::upper_bound(*ranks.end()))
            .arg("BYSCORE")
            .arg("LIMIT")
            .arg(0)
            .arg(limit)
            .arg("WITHSCORES");
        let node = self.nodes.of(index.shard)?;
        let (birth, found): (Option<Vec<u8>>, Scored) =
            self.query(index.shard, &node, &pipeline).await?;
        self.alive(index.shard, birth.as_deref())?;
        let ranked = found.into_iter().map(|(member, score)| Ranked {
            member,
            // INVARIANT: every score was written from a whole number of at most 2^53.
            rank: score as i64,
        });
        Ok(ranked.collect())
    }

    pub(super) async fn query<T: ::redis::FromRedisValue>(
        &self,
        shard: ShardId,
        node: &Node,
        pipeline: &Pipeline,
    ) -> Result<T, ReadFailure> {
        let answer = node.query(pipeline).await;
        answer.map_err(|error| match error {
            Queried::Redis(error) => self.read_failed(shard, node, error),
            Queried::Store(error) => error.into(),
        })
    }

    pub(super) async fn generation(
        &self,
        shard: ShardId,
    ) -> Result<Option<Generation>, ReadFailure> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("GET").arg(script::birth(shard));
        let node = self.nodes.of(shard)?;
        let found: (Option<Vec<u8>>,) = self.query(shard, &node, &pipeline).await?;
        let bytes = found.0.and_then(|bytes| bytes.try_into().ok());
        Ok(bytes.map(Generation))
    }

    /// Is this the shard that was born?
    pub(super) fn alive(&self, shard: ShardId, birth: Option<&[u8]>) -> Result<(), StoreError> {
        let known = self.births.of(shard)?;
        if birth == Some(known.0.as_slice()) {
            Ok(())
        } else {
            Err(StoreError::Lost(shard.number()))
        }
    }
}

pub(super) async fn look_at_memory(node: &Node) {
    let Ok((number, mut connection)) = node.readers.get(&node.connector).await else {
        return;
    };
    match Info::read(&mut connection).await {
        Ok(info) => node.full.store(info.is_nearly_full(), Ordering::Relaxed),
        Err(_) => node.readers.forget(number).await,
    }
}

pub(super) async fn run(
    connection: &mut MultiplexedConnection,
    script: &Script,
    call: &Cmd,
) -> Result<Value, RedisError> {
    match connection.send_packed_command(call).await {
        Ok(answer) if !is_no_script(&answer) => answer.extract_error(),
        Err(error) if error.code() != Some("NOSCRIPT") => Err(error),
        _ => {
            // A restart, a failover or SCRIPT FLUSH: the script was not run, so nothing is lost.
            script.load_async(connection).await?;
            connection.send_packed_command(call).await?.extract_error()
        }
    }
}

pub(super) fn is_no_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

fn record(bytes: &[u8]) -> Result<Record, StoreError> {
    let (version, value) = bytes
        .split_first_chunk::<16>()
        .ok_or_else(|| StoreError::Corrupt("a record without its version".to_owned()))?;
    Ok(Record {
        value: value.to_vec(),
        version: CommitId(*version),
    })
}
