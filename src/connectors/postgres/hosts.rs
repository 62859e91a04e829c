//! The servers that may be a target's primary: asked one after the other, until one takes writes.

use super::super::{ConnectorError, PostgresSettings};
use super::link::said;
use std::fmt;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A session, and what carries it.
pub(super) type Opened = (Client, JoinHandle<()>);

pub(super) struct Hosts {
    each: Vec<Host>,
    /// Which one took writes last. It is asked first, so one that hangs before it costs its share once.
    last: AtomicUsize,
    tls: Option<MakeRustlsConnect>,
    /// How long they may take together.
    patience: Duration,
}

struct Host {
    name: String,
    port: u16,
    config: Config,
}

/// Why one of them is not the one.
enum Not {
    /// It does not know us, and will not the next time.
    Refused(String),
    TakesNoWrites,
    /// It may be the one, and cannot be reached or does not answer.
    Silent(String),
}

impl Hosts {
    /// `config`: what is the same for all of them.
    pub fn new(
        settings: &PostgresSettings,
        config: &Config,
        tls: Option<MakeRustlsConnect>,
        patience: Duration,
    ) -> Self {
        let hosts = u32::try_from(settings.hosts().count()).unwrap_or(u32::MAX);
        // Time must be left for what was to be done.
        let patience = patience * 3 / 4;
        let host = |name: &str| {
            let mut config = config.clone();
            // A name may have several addresses: the next one is tried where one cannot be reached.
            let once = patience / hosts.max(1) / 2;
            config.host(name).connect_timeout(once);
            Host {
                name: name.to_owned(),
                port: settings.port,
                config,
            }
        };
        Self {
            each: settings.hosts().map(host).collect(),
            last: AtomicUsize::new(0),
            tls,
            patience,
        }
    }

    /// A session with the one that takes writes. Nothing has been made when this fails.
    pub async fn open(&self) -> Result<Opened, ConnectorError> {
        let until = Instant::now() + self.patience;
        let mut left = u32::try_from(self.each.len()).unwrap_or(u32::MAX);
        let mut others = Vec::new();
        for (number, host) in self.in_turn() {
            // What one of them did not need is the others'.
            let share = until.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            // INVARIANT: the whole of it, not the connection alone: who takes one and then hangs keeps nobody from the
            // next one.
            let why = match tokio::time::timeout(share, host.open(self.tls.as_ref())).await {
                Ok(Ok(opened)) => {
                    if !others.is_empty() {
                        let passed = told(&others);
                        tracing::warn!(host = host.name, passed, "another server takes writes now");
                    }
                    self.last.store(number, Ordering::Relaxed);
                    return Ok(opened);
                }
                Ok(Err(error)) => Not::of(&error),
                Err(_) => Not::Silent(format!("no answer in {:.1} s", share.as_secs_f64())),
            };
            others.push((host, why));
        }
        Err(none(&others))
    }

    fn in_turn(&self) -> impl Iterator<Item = (usize, &Host)> {
        let last = self.last.load(Ordering::Relaxed);
        let numbered = self.each.iter().enumerate();
        let others = numbered.filter(move |(number, _)| *number != last);
        self.each
            .get(last)
            .map(|host| (last, host))
            .into_iter()
            .chain(others)
    }
}

impl Host {
    async fn open(&self, tls: Option<&MakeRustlsConnect>) -> Result<Opened, Error> {
        match tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                Ok((client, tokio::spawn(run(connection))))
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                Ok((client, tokio::spawn(run(connection))))
            }
        }
    }
}

async fn run<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // What goes wrong here is told to whoever waits for an answer.
    drop(connection.await);
}

impl Not {
    fn of(error: &Error) -> Self {
        match error.code() {
            Some(code) if is_refusal(code) => Self::Refused(said(error)),
            _ if takes_no_writes(error) => Self::TakesNoWrites,
            _ => Self::Silent(said(error)),
        }
    }
}

impl fmt::Display for Not {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(said) => write!(f, "the broker's own login: {said}"),
            Self::TakesNoWrites => {
                write!(f, "takes no writes: it is a standby, or set to read only")
            }
            Self::Silent(said) => write!(f, "{said}"),
        }
    }
}

/// None of them is the one: what each of them said.
fn none(all: &[(&Host, Not)]) -> ConnectorError {
    let text = told(all);
    // One that takes no writes may be made the primary the next moment.
    if all.iter().all(|(_, not)| matches!(not, Not::Refused(_))) {
        return ConnectorError::Refused(text);
    }
    if all.iter().any(|(_, not)| matches!(not, Not::Silent(_))) {
        return ConnectorError::Unavailable(text);
    }
    ConnectorError::Unavailable(format!(
        "{text}; name the primary, or in `host` every server that may be it"
    ))
}

fn told(all: &[(&Host, Not)]) -> String {
    let each = all
        .iter()
        .map(|(host, not)| format!("{}:{}: {not}", host.name, host.port));
    each.collect::<Vec<_>>().join("; ")
}

/// What the driver finds where it looks for a primary.
fn takes_no_writes(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &std::io::Error| {
        // A firewall of our own says the same by the system's number.
        cause.kind() == ErrorKind::PermissionDenied && cause.raw_os_error().is_none()
    })
}

fn is_refusal(code: &SqlState) -> bool {
    // Class 28 and "no such database": the next try will be told the same.
    code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told where each of them said this.
    fn where_they_say(all: Vec<Not>) -> ConnectorError {
        let host = Host {
            name: "db.internal".to_owned(),
            port: 5432,
            config: Config::new(),
        };
        none(&all.into_iter().map(|not| (&host, not)).collect::<Vec<_>>())
    }

    fn refused() -> Not {
        Not::Refused("no".to_owned())
    }

    fn silent() -> Not {
        Not::Silent("nothing".to_owned())
    }

    #[test]
    fn it_is_refused_where_all_refuse() {
        for all in [vec![refused()], vec![refused(), refused()]] {
            let error = where_they_say(all);
            assert!(matches!(error, ConnectorError::Refused(_)), "{error}");
        }
        for all in [
            vec![silent()],
            vec![refused(), silent()],
            vec![silent(), Not::TakesNoWrites],
        ] {
            let error = where_they_say(all);
            assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
            assert!(!error.to_string().contains("name the primary"), "{error}");
        }
        for all in [
            vec![Not::TakesNoWrites, Not::TakesNoWrites],
            vec![refused(), Not::TakesNoWrites],
        ] {
            let error = where_they_say(all);
            assert!(matches!(error, ConnectorError::Unavailable(_)), "{error}");
            assert!(error.to_string().contains("name the primary"), "{error}");
        }
    }
}
