//! A script, and the replicas that must have what it wrote.
//!
//! In: a connection that nobody else uses. Out: what the script answered, and how many of those that must acknowledge
//! have done so in time.

use super::needed::{Followers, Needed};
use super::script;
use crate::clock::{Clock, SystemClock};
use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, Pipeline, RedisError, Script, Value};
use std::time::Duration;

/// Between two looks at who has acknowledged, once somebody has who does not count.
const LOOK: Duration = Duration::from_millis(25);

/// How long an answer may take, and how long replicas may take behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub response: Duration,
    pub replicas: Duration,
}

/// All of it in one write, unless somebody acknowledges who does not count.
///
/// `WAIT` says how many have acknowledged. Who they are is said by `ROLE`: how far the primary is right behind the
/// script, and how far each of them is behind the `WAIT`.
pub(super) async fn run_and_wait(
    connection: &mut MultiplexedConnection,
    needed: &Needed,
    (script, call): (&Script, &Cmd),
    patience: Patience,
) -> Result<(Value, u64), RedisError> {
    let clock = SystemClock::new();
    let give_up = clock.since_boot() + patience.replicas;
    connection.set_response_timeout(patience.response + patience.replicas);
    let mut first = Pipeline::with_capacity(4);
    first.add_command(call.clone());
    if by_name(needed) {
        first.cmd("ROLE");
    }
    wait(&mut first, needed, needed.count(), patience.replicas);
    let sent = connection.send_packed_commands(&first, 0, first.len());
    let mut answers = sent.await?;
    if answers.first().is_some_and(super::session::is_no_script) {
        script.load_async(connection).await?;
        let sent = connection.send_packed_commands(&first, 0, first.len());
        answers = sent.await?;
    }
    let mut answers = answers.into_iter();
    let answer = answers.next().unwrap_or(Value::Nil).extract_error()?;
    let written = by_name(needed).then(|| answers.next().and_then(|role| Followers::read(&role)));
    let mut acknowledged = count(answers.next());
    let Some(written) = written else {
        return Ok((answer, acknowledged));
    };
    let mut followers = answers.next();
    loop {
        let now = followers.and_then(|role| Followers::read(&role));
        let there = written.as_ref().zip(now.as_ref());
        let there = there.map_or(0, |(written, now)| needed.of(&now.at(written.offset)));
        let left = give_up.saturating_sub(clock.since_boot());
        if there >= needed.count() || left.is_zero() || !script::has_written(&answer) {
            return Ok((answer, there));
        }
        let mut again = Pipeline::with_capacity(2);
        wait(&mut again, needed, acknowledged + 1, left.min(LOOK));
        let sent = connection.send_packed_commands(&again, 0, again.len());
        let mut answers = sent.await?.into_iter();
        acknowledged = count(answers.next());
        followers = answers.next();
    }
}

fn by_name(needed: &Needed) -> bool {
    !needed.each.is_empty()
}

fn wait(pipeline: &mut Pipeline, needed: &Needed, count: u64, patience: Duration) {
    let patience = u64::try_from(patience.as_millis()).unwrap_or(1).max(1);
    pipeline.cmd("WAIT").arg(count).arg(patience);
    if by_name(needed) {
        pipeline.cmd("ROLE");
    }
}

fn count(answer: Option<Value>) -> u64 {
    match answer {
        Some(Value::Int(count)) => u64::try_from(count).unwrap_or(0),
        _ => 0,
    }
}
