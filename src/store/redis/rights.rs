//! What the user may do on a server, and whether the server takes writes: asked without a trace.
//!
//! In: a connection of one's own, and the shards that lie there. Out: findings. Whatever we send, and our scripts
//! call, is queued behind `MULTI`. A server looks at rights, keys, replicas and its disk when it queues a
//! command, and `DISCARD` has none of them run.

use super::failure::ReadFailure;
use super::script;
use crate::ids::ShardId;
use crate::store::{Fault, Finding, StoreError};
use ::redis::aio::MultiplexedConnection;
use ::redis::{Pipeline, ServerError, Value};

/// A command, and what stands behind it; `@` stands for a key.
const COMMANDS: [(&str, &str); 36] = [
    ("ROLE", ""),
    ("INFO", ""),
    ("TIME", ""),
    ("WAIT", "0 0"),
    ("SCRIPT LOAD", "x"),
    ("EVALSHA", "x 1 @"),
    ("GET", "@"),
    ("SET", "@ x"),
    ("MGET", "@"),
    ("DEL", "@"),
    ("TYPE", "@"),
    ("EXISTS", "@"),
    ("GETRANGE", "@ 0 0"),
    ("INCR", "@"),
    ("DECR", "@"),
    ("PERSIST", "@"),
    ("PTTL", "@"),
    ("PEXPIRE", "@ 1"),
    ("PEXPIREAT", "@ 1"),
    ("HGET", "@ x"),
    ("HSET", "@ x x"),
    ("HDEL", "@ x"),
    ("HLEN", "@"),
    ("HKEYS", "@"),
    ("HGETALL", "@"),
    ("HSCAN", "@ 0"),
    ("HINCRBY", "@ x 1"),
    ("ZADD", "@ 0 x"),
    ("ZREM", "@ x"),
    ("ZCOUNT", "@ 0 0"),
    ("ZRANGE", "@ 0 0"),
    ("XADD", "@ * x x"),
    ("XRANGE", "@ - +"),
    ("XREVRANGE", "@ + -"),
    ("XTRIM", "@ MAXLEN 0"),
    ("XREAD", "STREAMS @ 0-0"),
];

/// Keys that are named where many are locked.
const SHOWN: usize = 12;

/// The letters of a shard's keys.
const LETTERS: &[u8] = b"bchilmnqrtu";

/// What is wrong with this user, or keeps the server from writing.
pub(super) async fn refused(
    connection: &mut MultiplexedConnection,
    shards: &[ShardId],
) -> Result<Vec<Finding>, StoreError> {
    // SECURITY: alone, and heard: where it is refused, all that follows would be run.
    let begun: Result<(), _> = ::redis::cmd("MULTI").query_async(connection).await;
    begun.map_err(failed)?;
    let first = shards.first().copied().unwrap_or(ShardId::INSTALLATION);
    let mut asked = Pipeline::new();
    for (command, rest) in COMMANDS {
        let mut words = command.split(' ').chain(rest.split_whitespace());
        asked.cmd(words.next().unwrap_or_default());
        for word in words {
            if word == "@" {
                asked.arg(script::birth(first));
            } else {
                asked.arg(word);
            }
        }
    }
    let keys = keys(first, shards);
    for key in &keys {
        // It reads and writes.
        asked.cmd("INCR").arg(key.as_slice());
    }
    asked.cmd("DISCARD");
    let count = COMMANDS.len() + keys.len() + 1;
    let answers = connection.send_packed_commands(&asked, 0, count).await;
    Ok(judge(&answers.map_err(failed)?, &keys))
}

fn failed(error: ::redis::RedisError) -> StoreError {
    ReadFailure::from(error).into_error()
}

/// A key of each kind, and one of each shard.
fn keys(first: ShardId, shards: &[ShardId]) -> Vec<Vec<u8>> {
    let kinds = LETTERS.iter().map(|kind| script::name(first, *kind, b""));
    let shards = shards
        .iter()
        .skip(1)
        .map(|shard| script::name(*shard, b'r', b""));
    kinds.chain(shards).collect()
}

fn judge(answers: &[Value], keys: &[Vec<u8>]) -> Vec<Finding> {
    let (of_commands, rest) = answers.split_at(COMMANDS.len().min(answers.len()));
    let (of_keys, of_discard) = rest.split_at(keys.len().min(rest.len()));
    let names = COMMANDS.iter().map(|(name, _)| *name);
    let asked = names.zip(of_commands);
    let (mut commands, mut found) = (Vec::new(), Vec::new());
    let mut unwritten = None;
    for (name, answer) in asked.chain([("DISCARD", of_discard.first().unwrap_or(&Value::Nil))]) {
        let Value::ServerError(error) = answer else {
            continue;
        };
        let said = error.details().unwrap_or_default();
        match error.code() {
            "NOPERM" if is_of_command(said) => commands.push(name),
            "READONLY" => unwritten = Some((Fault::NotPrimary, "point it at the primary", said)),
            "NOREPLICAS" => {
                let words = "connect more, or lower `min-replicas-to-write`";
                unwritten = Some((Fault::TooFewReplicas, words, said));
            }
            "MISCONF" => unwritten = Some((Fault::CannotSave, "see its log and its disk", said)),
            _ => {}
        }
    }
    let locked = keys.iter().zip(of_keys).filter(|(_, answer)| {
        let said = |error: &ServerError| error.details().map(is_of_command);
        matches!(answer, Value::ServerError(error)
            if error.code() == "NOPERM" && said(error) == Some(false))
    });
    let locked: Vec<_> = locked
        .map(|(key, _)| String::from_utf8_lossy(key))
        .collect();
    if !commands.is_empty() {
        found.push(Fault::UserRefused.found(format!(
            "this user of Redis may not run {}; deploy/redis/dayfly.conf has the rights it needs",
            commands.join(", ")
        )));
    }
    if !locked.is_empty() {
        found.push(Fault::UserRefused.found(format!(
            "this user of Redis may not read and write the keys {}; deploy/redis/dayfly.conf has the pattern",
            locked.get(..locked.len().min(SHOWN)).unwrap_or_default().join(", ")
        )));
    }
    if let Some((fault, words, said)) = unwritten {
        found.push(fault.found(format!("Redis takes no writes ({said}); {words}")));
    }
    found
}

/// `NOPERM` has two wordings: for the command, and for the key.
fn is_of_command(said: &str) -> bool {
    said.contains("to run the")
}
