//! `dayfly exec -- command`: the command runs with credentials that stay fresh under it and are
//! released when it ends.

use super::deliver::{Delivery, Folder, SHADOWING_AWS};
use super::proof::Prover;
use super::request::{Wanted, ask, ask_people};
use super::{Client, ClientError};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::wire::TokenResponse;
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Both credentials live this long at a renewal: a request that began with the old one can finish.
const OVERLAP: Duration = Duration::from_secs(10);
/// Between two tries of a renewal that failed.
const RETRY: Duration = Duration::from_secs(5);
/// For so long in all, what a broker cannot take back just now is brought again.
const RELEASE_WITHIN: Duration = Duration::from_secs(15);
/// The same once somebody has told it to end.
const RELEASE_ONCE_TOLD: Duration = Duration::from_secs(3);

/// Everything one run needs.
#[derive(Debug)]
pub struct Run {
    pub client: Client,
    pub prover: Prover,
    pub wanted: Vec<Wanted>,
    pub command: Vec<OsString>,
    /// Deliver by environment variables, which a running child never reads again.
    pub environment: bool,
    pub clock: Arc<dyn Clock>,
    /// How long people are waited for before the command begins; absent: as long as it waits for them.
    pub patience: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("{target}: {error}")]
    Credential { target: String, error: ClientError },
    #[error("the credential cannot be delivered: {0}")]
    Delivery(ClientError),
    #[error("`{command}` cannot be started: {cause}")]
    Command { command: String, cause: String },
}

impl ExecError {
    /// Exit codes of `dayfly exec` itself; every other code is the command's.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Credential {
                error: ClientError::Refused { status, .. },
                ..
            } if *status < 429 => 121,
            Self::Credential {
                error: ClientError::Local(_) | ClientError::NotSignedIn(_),
                ..
            } => 122,
            Self::Credential { .. } => 123,
            Self::Delivery(_) => 124,
            Self::Command { .. } => 125,
        }
    }
}

/// One credential and where it is delivered.
#[derive(Debug)]
struct Held {
    wanted: Wanted,
    delivery: Delivery,
    token: Secret<String>,
    /// Renewed, and released once requests that began with them can be over.
    outgoing: Vec<Outgoing>,
    /// On the boot clock.
    renew_at: Duration,
    dies_at: Duration,
}

/// On the boot clock, as well.
#[derive(Debug)]
struct Outgoing {
    token: Secret<String>,
    release_at: Duration,
    dies_at: Duration,
}

/// A credential that is given back: of which target, and when it dies.
type Returned<'a> = (&'a str, &'a Secret<String>, Duration);

impl Run {
    /// Runs the command to its end. `notice` tells the person at the terminal what they must know.
    pub async fn run(self, notice: &(dyn Fn(&str) + Sync)) -> Result<u8, ExecError> {
        let folder = Folder::make(&std::env::temp_dir()).map_err(ExecError::Delivery)?;
        let mut held = Vec::new();
        let mut told_to_end = false;
        let outcome = match self.collect(&folder, &mut held, notice).await {
            Ok(()) => self.supervise(&mut held, &mut told_to_end, notice).await,
            Err(error) => Err(error),
        };
        // Whatever happened, what was got is given back.
        let mut left = Vec::new();
        for one in &held {
            one.delivery.withdraw();
            let outgoing = one.outgoing.iter().map(|old| (&old.token, old.dies_at));
            let all = outgoing.chain([(&one.token, one.dies_at)]);
            left.extend(all.map(|(token, dies_at)| (one.wanted.target.as_str(), token, dies_at)));
        }
        // Whoever was told to end is not waited for much longer.
        let within = if told_to_end {
            RELEASE_ONCE_TOLD
        } else {
            RELEASE_WITHIN
        };
        for (target, dies_at, why) in self.give_back(left, within).await {
            let left = dies_at.saturating_sub(self.clock.since_boot()).as_secs();
            notice(&format!(
                "{target}: not released ({why}); the lease lives until it expires, {left} s from now"
            ));
        }
        outcome
    }

    /// RFC 7009, 2.2.1: after a 503 the token is taken to exist, and may be brought again. Each is brought at
    /// once, and those that were not taken again. A signal ends it. What is left, and why.
    async fn give_back<'a>(
        &self,
        mut left: Vec<Returned<'a>>,
        within: Duration,
    ) -> Vec<(&'a str, Duration, String)> {
        let until = self.clock.since_boot().saturating_add(within);
        let mut signals = Signals::listen().ok();
        let mut kept: Vec<(&'a str, Duration, String)> = Vec::new();
        while !left.is_empty() {
            let tries = left.iter().map(|(_, token, _)| self.client.release(token));
            let answers = tokio::select! {
                answers = futures_util::future::join_all(tries) => answers,
                _ = over(&mut signals, until.saturating_sub(self.clock.since_boot())) => Vec::new(),
            };
            let mut answers = answers.into_iter();
            let mut pause = Duration::ZERO;
            let mut again = Vec::new();
            for one in left {
                let why = match answers.next() {
                    Some(Ok(())) => continue,
                    None => "no answer in time".to_owned(),
                    Some(Err(error)) => match error.try_again_after() {
                        Some(after) if self.clock.since_boot().saturating_add(after) <= until => {
                            pause = pause.max(after);
                            again.push(one);
                            continue;
                        }
                        _ => error.to_string(),
                    },
                };
                kept.push((one.0, one.2, why));
            }
            left = again;
            if !left.is_empty() && over(&mut signals, pause).await {
                let told = |(target, _, dies_at)| (target, dies_at, "ended by a signal".to_owned());
                kept.extend(left.drain(..).map(told));
            }
        }
        kept
    }

    async fn collect(
        &self,
        folder: &Folder,
        held: &mut Vec<Held>,
        notice: &(dyn Fn(&str) + Sync),
    ) -> Result<(), ExecError> {
        for wanted in &self.wanted {
            let people = (self.clock.as_ref(), self.patience);
            let asked = ask_people(&self.client, &self.prover, wanted, people, notice);
            let response = asked.await.map_err(|error| refused(wanted, error))?;
            let token = Secret::new(response.access_token.clone());
            let opened = Delivery::open(folder, &wanted.target, &response, self.environment).await;
            let delivery = match opened {
                Ok(delivery) => delivery,
                Err(error) => {
                    let one = (wanted.target.as_str(), &token, Duration::ZERO);
                    drop(self.give_back(vec![one], RELEASE_WITHIN).await);
                    return Err(ExecError::Delivery(error));
                }
            };
            if self.environment {
                let seconds = response.expires_in;
                notice(&format!(
                    "{}: in the environment, dies in {seconds} s and cannot be renewed there",
                    wanted.target
                ));
            }
            let (renew_at, dies_at) = self.times(&response);
            held.push(Held {
                wanted: wanted.clone(),
                delivery,
                token,
                outgoing: Vec::new(),
                renew_at,
                dies_at,
            });
        }
        Ok(())
    }

    async fn ask(&self, wanted: &Wanted) -> Result<TokenResponse, ExecError> {
        ask(&self.client, &self.prover, wanted, self.clock.now())
            .await
            .map_err(|error| refused(wanted, error))
    }

    /// Renewal at two thirds of the life.
    fn times(&self, response: &TokenResponse) -> (Duration, Duration) {
        let now = self.clock.since_boot();
        let life = Duration::from_secs(response.expires_in);
        (now + life * 2 / 3, now + life)
    }

    async fn supervise(
        &self,
        held: &mut [Held],
        told_to_end: &mut bool,
        notice: &(dyn Fn(&str) + Sync),
    ) -> Result<u8, ExecError> {
        let mut signals = Signals::listen().map_err(|cause| self.failed_to_start(&cause))?;
        let mut child = self
            .spawn(held)
            .map_err(|cause| self.failed_to_start(&cause))?;
        loop {
            let now = self.clock.since_boot();
            self.release_outgoing(held, now);
            let next = held
                .iter()
                .filter(|_| !self.environment)
                .flat_map(|one| {
                    one.outgoing
                        .iter()
                        .map(|old| old.release_at)
                        .chain([one.renew_at])
                })
                .min();
            let pause = next.map_or(Duration::from_secs(3600), |at| at.saturating_sub(now));
            tokio::select! {
                status = child.wait() => {
                    return status.map(exit_code).map_err(|cause| self.failed_to_start(&cause));
                }
                signal = signals.next() => {
                    *told_to_end |= ![Signal::USR1, Signal::USR2].contains(&signal);
                    pass_on(&child, signal);
                }
                () = tokio::time::sleep(pause) => self.renew(held, notice).await,
            }
        }
    }

    fn spawn(&self, held: &[Held]) -> std::io::Result<Child> {
        let mut words = self.command.iter();
        let program = words
            .next()
            .ok_or_else(|| std::io::Error::other("no command was given"))?;
        let mut command = Command::new(program);
        command.args(words);
        if held
            .iter()
            .any(|one| matches!(one.delivery, Delivery::Aws(_)))
        {
            for name in SHADOWING_AWS {
                command.env_remove(name);
            }
        }
        for one in held {
            command.envs(one.delivery.variables());
        }
        command.spawn()
    }

    async fn renew(&self, held: &mut [Held], notice: &(dyn Fn(&str) + Sync)) {
        let now = self.clock.since_boot();
        for one in held.iter_mut().filter(|one| one.renew_at <= now) {
            match self.ask(&one.wanted).await {
                Ok(response) => {
                    if let Err(error) = one.delivery.replace(&response) {
                        notice(&format!("{}: {error}", one.wanted.target));
                        drop(
                            self.client
                                .release(&Secret::new(response.access_token))
                                .await,
                        );
                        one.renew_at = now + RETRY;
                        continue;
                    }
                    let fresh = Secret::new(response.access_token.clone());
                    one.outgoing.push(Outgoing {
                        token: std::mem::replace(&mut one.token, fresh),
                        release_at: now + OVERLAP,
                        dies_at: one.dies_at,
                    });
                    (one.renew_at, one.dies_at) = self.times(&response);
                }
                Err(error) => {
                    if now >= one.dies_at {
                        one.delivery.withdraw();
                    }
                    notice(&format!("not renewed, trying again: {error}"));
                    one.renew_at = now + RETRY;
                }
            }
        }
    }

    /// If this fails, the old credential ends by itself in the last third of its life.
    fn release_outgoing(&self, held: &mut [Held], now: Duration) {
        for one in held {
            for old in one.outgoing.extract_if(.., |old| old.release_at <= now) {
                let client = self.client.clone();
                tokio::spawn(async move { drop(client.release(&old.token).await) });
            }
        }
    }

    fn failed_to_start(&self, cause: &std::io::Error) -> ExecError {
        let command = self
            .command
            .first()
            .map(|word| word.to_string_lossy().into_owned());
        ExecError::Command {
            command: command.unwrap_or_default(),
            cause: cause.to_string(),
        }
    }
}

fn refused(wanted: &Wanted, error: ClientError) -> ExecError {
    ExecError::Credential {
        target: wanted.target.clone(),
        error,
    }
}

/// Waits for so long, or until a signal: `true`.
async fn over(signals: &mut Option<Signals>, pause: Duration) -> bool {
    let Some(signals) = signals else {
        tokio::time::sleep(pause).await;
        return false;
    };
    tokio::select! {
        () = tokio::time::sleep(pause) => false,
        _ = signals.next() => true,
    }
}

/// The signals that the command gets in our place.
struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let mut all = Vec::new();
        for (kind, number) in [
            (SignalKind::terminate(), Signal::TERM),
            (SignalKind::hangup(), Signal::HUP),
            (SignalKind::interrupt(), Signal::INT),
            (SignalKind::quit(), Signal::QUIT),
            (SignalKind::user_defined1(), Signal::USR1),
            (SignalKind::user_defined2(), Signal::USR2),
        ] {
            all.push((number, signal(kind)?));
        }
        Ok(Self(all))
    }

    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (number, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

fn pass_on(child: &Child, signal: Signal) {
    // A terminal sends its own interrupts to the whole group: the command has this one already.
    let from_terminal = matches!(signal, Signal::INT | Signal::QUIT)
        && std::io::IsTerminal::is_terminal(&std::io::stdin());
    if from_terminal {
        return;
    }
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // The child may have ended in between, which the loop sees next.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// As a shell tells it: the code, or 128 + the signal that ended it.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125)
}
