//! Connections: made with a time limit, checked to lead to the primary, never shared where a
//! `WAIT` must mean something.

use super::RedisSettings;
use crate::clock::{Clock, SystemClock};
use crate::ids;
use crate::store::StoreError;
use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ClientTlsConfig, TlsCertificates, Value};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Between tries to connect: the first pause, and the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Makes connections, not faster than a server in trouble can bear.
pub(super) struct Connector {
    client: Client,
    connect_timeout: Duration,
    response_timeout: Duration,
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct Trouble {
    failures: u32,
    not_before: Duration,
    last: String,
}

impl Connector {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, StoreError> {
        let url = settings.url.expose().as_str();
        // SECURITY: the library's own message may quote the URL, which may hold a password.
        let refused = || {
            StoreError::Unfit(
                "the Redis address does not parse; write redis://HOST:PORT or \
                 rediss://USER:PASSWORD@HOST:PORT"
                    .to_owned(),
            )
        };
        let client = if url.starts_with("rediss:") {
            let client_tls = settings.identity.as_ref().map(|identity| ClientTlsConfig {
                client_cert: identity.certificate.clone(),
                client_key: identity.key.expose().clone(),
            });
            let certificates = TlsCertificates {
                client_tls,
                root_cert: settings.ca.clone(),
            };
            Client::build_with_tls(url, certificates).map_err(|_| {
                StoreError::Unfit(
                    "the Redis address or its certificates do not parse; certificates are PEM"
                        .to_owned(),
                )
            })?
        } else {
            Client::open(url).map_err(|_| refused())?
        };
        Ok(Self {
            client,
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
            trouble: Mutex::default(),
        })
    }

    /// A new connection, or at once why there is none while the last failure is recent.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let now = SystemClock::new().since_boot();
        {
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            if now < trouble.not_before {
                return Err(StoreError::Unavailable(trouble.last.clone()));
            }
        }
        let connected = self.try_connect().await;
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match &connected {
            Ok(_) => *trouble = Trouble::default(),
            Err(error) => {
                let pause = PAUSE
                    .saturating_mul(1 << trouble.failures.min(10))
                    .min(LONGEST_PAUSE);
                trouble.failures = trouble.failures.saturating_add(1);
                trouble.not_before = SystemClock::new().since_boot() + jitter(pause);
                trouble.last = match error {
                    StoreError::Unavailable(why) => why.clone(),
                    other => other.to_string(),
                };
            }
        }
        connected
    }

    async fn try_connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout));
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| connecting(&error))?;
        // SECURITY: a server that is not the primary answers with what was true once.
        let role: Vec<Value> = ::redis::cmd("ROLE")
            .query_async(&mut connection)
            .await
            .map_err(|error| connecting(&error))?;
        match role.first() {
            Some(Value::BulkString(name)) if name == b"master" => Ok(connection),
            _ => Err(StoreError::Unavailable(
                "the Redis address leads to a replica; point it at the primary".to_owned(),
            )),
        }
    }
}

fn connecting(error: &::redis::RedisError) -> StoreError {
    use ::redis::ErrorKind;
    let refused = matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
        || error.kind() == ErrorKind::AuthenticationFailed;
    if refused {
        return StoreError::Unfit(
            "Redis refuses this user or password, or lets the user run no ROLE; \
             docs/storage.md lists the commands it needs"
                .to_owned(),
        );
    }
    StoreError::Unavailable(format!("connecting to Redis: {error}"))
}

/// Between half of a pause and the whole.
pub(super) fn jitter(pause: Duration) -> Duration {
    let [byte]: [u8; 1] = ids::random();
    pause / 2 + (pause / 2) * u32::from(byte) / 255
}

/// One connection that many calls share. For calls behind which nobody waits for replicas.
#[derive(Default)]
pub(super) struct Shared {
    current: tokio::sync::Mutex<Option<(u64, MultiplexedConnection)>>,
    counter: std::sync::atomic::AtomicU64,
}

impl Shared {
    /// The connection, and the number to `forget` it by.
    pub(super) async fn get(
        &self,
        connector: &Connector,
    ) -> Result<(u64, MultiplexedConnection), StoreError> {
        let mut current = self.current.lock().await;
        if let Some((number, connection)) = current.as_ref() {
            return Ok((*number, connection.clone()));
        }
        let connection = connector.connect().await?;
        let number = self
            .counter
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        *current = Some((number, connection.clone()));
        Ok((number, connection))
    }

    /// The next call connects anew, unless somebody already has.
    pub(super) async fn forget(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|(known, _)| *known == number) {
            *current = None;
        }
    }
}

/// Connections lent to one call at a time: a `WAIT` on any other kind waits for nothing.
pub(super) struct Pool {
    idle: Mutex<Vec<MultiplexedConnection>>,
    permits: Semaphore,
}

impl Pool {
    pub(super) fn of(size: usize) -> Self {
        Self {
            idle: Mutex::default(),
            permits: Semaphore::new(size),
        }
    }

    pub(super) async fn lend(&self, connector: &Connector) -> Result<Lent<'_>, StoreError> {
        let permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| StoreError::Unavailable("it has been closed".to_owned()))?;
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connector.connect().await?,
        };
        Ok(Lent {
            connection,
            pool: self,
            _permit: permit,
        })
    }

    /// After a failure every idle connection is suspect.
    pub(super) fn forget(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<MultiplexedConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection of one's own. Dropped, it is closed; only a call that went well gives it back.
pub(super) struct Lent<'a> {
    pub(super) connection: MultiplexedConnection,
    pool: &'a Pool,
    _permit: SemaphorePermit<'a>,
}

impl Lent<'_> {
    pub(super) fn give_back(self) {
        let Self {
            connection, pool, ..
        } = self;
        pool.idle().push(connection);
    }
}
