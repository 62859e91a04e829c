//! What one process keeps about its Redis, and the calls themselves: each is one round trip.

use super::RedisSettings;
use super::birth::Births;
use super::connection::{Connector, Pool, Shared, jitter};
use super::failure::{Failure, ReadFailure, failed, is_suspect, not_connected};
use super::fitness::Info;
use super::script;
use crate::clock::{Clock, SystemClock};
use crate::ids::ShardId;
use crate::store::{
    self, CommitId, Durability, Index, Key, Log, Outcome, Position, Priority, Ranked, Record,
    StoreError, Tail, Transaction,
};
use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, Pipeline, RedisError, Script, Value};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) struct Inner {
    pub(super) settings: RedisSettings,
    pub(super) connector: Connector,
    pub(super) births: Births,
    /// Minting and revoking have connections of their own, so that a flood of one cannot delay
    /// the other; so have readers.
    pub(super) mint: Lane,
    pub(super) revoke: Lane,
    pub(super) readers: Shared,
    pub(super) tails: Pool,
    pub(super) full: AtomicBool,
}

pub(super) struct Lane {
    shared: Shared,
    replicated: Pool,
}

impl Lane {
    pub(super) fn of(size: usize) -> Self {
        Self {
            shared: Shared::default(),
            replicated: Pool::of(size),
        }
    }
}

/// Members with their scores.
type Scored = Vec<(Vec<u8>, f64)>;

impl Inner {
    pub(super) async fn look_at_memory(&self) {
        let Ok((number, mut connection)) = self.readers.get(&self.connector).await else {
            return;
        };
        match Info::read(&mut connection).await {
            Ok(info) => self.full.store(info.is_nearly_full(), Ordering::Relaxed),
            Err(_) => self.readers.forget(number).await,
        }
    }

    pub(super) async fn commit(&self, transaction: &Transaction) -> Result<Outcome, StoreError> {
        store::well_formed(transaction)?;
        if transaction.priority == Priority::Mint && self.full.load(Ordering::Relaxed) {
            return Err(StoreError::Full);
        }
        let generation = self.births.of(transaction.shard)?;
        let clock = SystemClock::new();
        let give_up = clock.since_boot() + self.settings.retry_budget;
        let mut pause = Duration::from_millis(10);
        let mut unknown = false;
        loop {
            let call = script::commit(transaction, generation, unknown);
            let failure = match self.send(transaction, &call).await {
                Ok(outcome) => return Ok(outcome),
                Err(failure) => failure,
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
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }

    async fn send(&self, transaction: &Transaction, call: &Cmd) -> Result<Outcome, Failure> {
        let lane = match transaction.priority {
            Priority::Mint => &self.mint,
            Priority::Revoke => &self.revoke,
        };
        let wanted = match transaction.durability {
            Durability::Replicated => self.settings.min_replicas,
            Durability::Local => 0,
        };
        let shard = transaction.shard;
        if wanted == 0 {
            let (number, mut connection) = lane
                .shared
                .get(&self.connector)
                .await
                .map_err(not_connected)?;
            let answer = run(&mut connection, &script::COMMIT, call).await;
            if answer.as_ref().is_err_and(is_suspect) {
                lane.shared.forget(number).await;
            }
            let answer = answer.map_err(|error| failed(&error))?;
            return script::read_commit(answer, shard).map_err(Failure::Final);
        }
        let mut lent = lane
            .replicated
            .lend(&self.connector)
            .await
            .map_err(not_connected)?;
        let answer = self
            .run_and_wait(&mut lent.connection, &script::COMMIT, call)
            .await;
        if answer.as_ref().is_err_and(is_suspect) {
            lane.replicated.forget();
        }
        let (answer, acknowledged) = answer.map_err(|error| failed(&error))?;
        lent.give_back();
        let outcome = script::read_commit(answer, shard).map_err(Failure::Final)?;
        Ok(match outcome {
            Outcome::Applied { appended } if acknowledged < u64::from(wanted) => {
                Outcome::Unreplicated { appended }
            }
            other => other,
        })
    }

    /// A script and a `WAIT` behind it, in one write to a connection that nobody else uses.
    async fn run_and_wait(
        &self,
        connection: &mut MultiplexedConnection,
        script: &Script,
        call: &Cmd,
    ) -> Result<(Value, u64), RedisError> {
        let patience = self.settings.replica_timeout;
        connection.set_response_timeout(self.settings.response_timeout + patience);
        let mut wait = ::redis::cmd("WAIT");
        wait.arg(self.settings.min_replicas)
            .arg(u64::try_from(patience.as_millis()).unwrap_or(1).max(1));
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(call.clone()).add_command(wait);
        let mut answers = connection.send_packed_commands(&pipeline, 0, 2).await?;
        if answers.first().is_some_and(is_no_script) {
            script.load_async(connection).await?;
            answers = connection.send_packed_commands(&pipeline, 0, 2).await?;
        }
        let mut answers = answers.into_iter();
        let answer = answers.next().unwrap_or(Value::Nil).extract_error()?;
        let acknowledged = match answers.next() {
            Some(Value::Int(count)) => u64::try_from(count).unwrap_or(0),
            _ => 0,
        };
        Ok((answer, acknowledged))
    }

    /// One look at a log, proven fresh by the replicas where there must be some.
    async fn look(
        &self,
        connection: &mut MultiplexedConnection,
        log: &Log,
        after: Position,
        limit: usize,
    ) -> Result<Tail, ReadFailure> {
        let call = script::tail(log, self.births.of(log.shard)?, after, limit);
        let answer = if self.settings.min_replicas == 0 {
            connection.set_response_timeout(self.settings.response_timeout);
            run(connection, &script::TAIL, &call).await?
        } else {
            let (answer, acknowledged) =
                self.run_and_wait(connection, &script::TAIL, &call).await?;
            if acknowledged < u64::from(self.settings.min_replicas) {
                return Err(ReadFailure::Final(StoreError::Unavailable(format!(
                    "{acknowledged} of {} replicas acknowledged in time",
                    self.settings.min_replicas
                ))));
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
        let mut lent = self.tails.lend(&self.connector).await?;
        let connection = &mut lent.connection;
        let mut tail = self.look(connection, log, after, limit).await?;
        let empty = matches!(&tail, Tail::Entries { entries, .. } if entries.is_empty());
        if empty && limit > 0 && !wait.is_zero() {
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
                tail = self.look(connection, log, after, limit).await?;
            }
        }
        lent.give_back();
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
        let mut pipeline = Pipeline::with_capacity(shards.len());
        for (shard, places) in &shards {
            let mut call = ::redis::cmd("MGET");
            call.arg(script::birth(*shard));
            for key in places.iter().filter_map(|place| keys.get(*place)) {
                call.arg(script::record(key));
            }
            pipeline.add_command(call);
        }
        let answers: Vec<Vec<Option<Vec<u8>>>> = self.query(&pipeline).await?;
        let mut found = vec![None; keys.len()];
        for ((shard, places), answer) in shards.iter().zip(answers) {
            let mut answer = answer.into_iter();
            self.alive(*shard, answer.next().flatten().as_deref())?;
            for (place, bytes) in places.iter().zip(answer) {
                if let (Some(slot), Some(bytes)) = (found.get_mut(*place), bytes) {
                    *slot = Some(record(&bytes)?);
                }
            }
        }
        Ok(found)
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
        let (birth, found): (Option<Vec<u8>>, Scored) = self.query(&pipeline).await?;
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
        pipeline: &Pipeline,
    ) -> Result<T, ReadFailure> {
        let (number, mut connection) = self.readers.get(&self.connector).await?;
        let answer = pipeline.query_async(&mut connection).await;
        if answer.as_ref().is_err_and(is_suspect) {
            self.readers.forget(number).await;
        }
        Ok(answer?)
    }

    /// Is this the shard that was born?
    fn alive(&self, shard: ShardId, birth: Option<&[u8]>) -> Result<(), StoreError> {
        let known = self.births.of(shard)?;
        if birth == Some(known.0.as_slice()) {
            Ok(())
        } else {
            Err(StoreError::Lost(shard.number()))
        }
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

fn is_no_script(answer: &Value) -> bool {
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
