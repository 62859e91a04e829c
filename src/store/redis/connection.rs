//! Connections: made with a time limit, checked to lead to the primary, never shared where a
//! `WAIT` must mean something.

use super::RedisSettings;
use super::address::Place;
use super::needed::{Needed, Replicas};
use super::sentinel::Sentinels;
use crate::clock::{Clock, SystemClock};
use crate::ids;
use crate::secret::Secret;
use crate::store::{Fault, StoreError};
use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, IntoConnectionInfo as _, TlsCertificates, Value,
};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Between tries to connect: the first pause, and the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How a server is entered: over TLS or not, as whom, and how long it may take.
pub(super) struct Door {
    tls: bool,
    user: Secret<String>,
    database: String,
    ca: Option<Vec<u8>>,
    identity: Option<super::TlsIdentity>,
    connect_timeout: Duration,
    response_timeout: Duration,
}

impl Door {
    pub(super) fn new(
        settings: &RedisSettings,
        tls: bool,
        user: Secret<String>,
        database: &str,
    ) -> Result<Self, StoreError> {
        if !tls && (settings.ca.is_some() || settings.identity.is_some()) {
            let message =
                "certificates are named and the Redis address is not of TLS: write rediss";
            return Err(Fault::Tls.found(message).into());
        }
        let door = Self {
            tls,
            user,
            database: database.to_owned(),
            ca: settings.ca.clone(),
            identity: settings.identity.clone(),
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
        };
        // What cannot be used is said at once, not when a server has been found.
        door.client(&Place {
            host: "localhost".to_owned(),
            port: 1,
        })?;
        Ok(door)
    }

    fn client(&self, place: &Place) -> Result<Client, StoreError> {
        let (scheme, user, database) = (
            if self.tls { "rediss" } else { "redis" },
            self.user.expose(),
            &self.database,
        );
        let url = Secret::new(format!("{scheme}://{user}{place}/{database}"));
        // SECURITY: the library's own message may quote the URL, which may hold a password.
        let unparsed = |_| {
            let message = "the Redis address does not parse; percent-encode the password";
            StoreError::from(Fault::Address.found(message))
        };
        let info = url.expose().as_str().into_connection_info();
        let info = info.map_err(unparsed)?;
        // It would tell its own name, for which our user has no right: one line in `ACL LOG` for each connection.
        let silent = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(silent);
        if !self.tls {
            return Client::open(info).map_err(unparsed);
        }
        let client_tls = self.identity.as_ref().map(|identity| ClientTlsConfig {
            client_cert: identity.certificate.clone(),
            client_key: identity.key.expose().clone(),
        });
        let certificates = TlsCertificates {
            client_tls,
            root_cert: self.ca.clone(),
        };
        Client::build_with_tls(info, certificates).map_err(|_| {
            let message = "the Redis address, `ca`, `certificate` or `key` does not parse; \
                           certificates and keys are PEM";
            Fault::Tls.found(message).into()
        })
    }

    /// A connection to whatever is there.
    pub(super) async fn open(&self, place: &Place) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout));
        self.client(place)?
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| connecting(&error, place))
    }
}

/// Where a primary is to be found.
pub(super) enum Way {
    Fixed(Place),
    Sentinels(Sentinels),
}

/// Makes connections to one primary, not faster than a server in trouble can bear.
pub(super) struct Connector {
    door: std::sync::Arc<Door>,
    way: Way,
    /// Of whoever is the primary.
    pub(super) replicas: Replicas,
    at: Mutex<At>,
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct At {
    /// Where the last connection led to.
    last: Option<Place>,
    /// An earlier one led elsewhere, and may still be in use.
    moved: bool,
}

#[derive(Default)]
struct Trouble {
    failures: u32,
    not_before: Duration,
    last: String,
}

impl Connector {
    pub(super) fn new(door: std::sync::Arc<Door>, way: Way, replicas: Replicas) -> Self {
        Self {
            door,
            way,
            replicas,
            at: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// A new connection and where it leads to, or at once why there is none while the last failure is recent.
    pub(super) async fn connect(&self) -> Result<(MultiplexedConnection, Place), StoreError> {
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

    async fn try_connect(&self) -> Result<(MultiplexedConnection, Place), StoreError> {
        let place = match &self.way {
            Way::Fixed(place) => place.clone(),
            Way::Sentinels(sentinels) => self.primary(sentinels).await?,
        };
        let mut connection = self.door.open(&place).await?;
        // SECURITY: a server that is not the primary answers with what was true once.
        let role: Vec<Value> = ::redis::cmd("ROLE")
            .query_async(&mut connection)
            .await
            .map_err(|error| connecting(&error, &place))?;
        match role.first() {
            Some(Value::BulkString(name)) if name == b"master" => {
                let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
                at.moved |= at.last.as_ref().is_some_and(|last| *last != place);
                at.last = Some(place.clone());
                Ok((connection, place))
            }
            Some(Value::BulkString(name)) if name == b"sentinel" => Err(Fault::OtherKind
                .found("the Redis address leads to a sentinel; write redis+sentinel://")
                .into()),
            _ => Err(StoreError::Unavailable(
                Fault::NotPrimary
                    .found("the Redis address leads to a replica; point it at the primary")
                    .to_string(),
            )),
        }
    }

    /// Whom the sentinels name. What they say about its replicas is known from then on.
    async fn primary(&self, sentinels: &Sentinels) -> Result<Place, StoreError> {
        let named = sentinels.primary().await?;
        self.replicas
            .watched(&named.primary, &named.words, named.voices);
        Ok(named.primary)
    }

    /// Whether there may be connections to another primary than the one that the sentinels name.
    ///
    /// SECURITY: not only by where the last connection led to: after a failover that is soon the new
    /// primary, while others that were made before still lead to the old one.
    pub(super) async fn has_moved(&self) -> bool {
        let Way::Sentinels(sentinels) = &self.way else {
            return false;
        };
        let primary = self.primary(sentinels).await.ok();
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at
            .last
            .as_ref()
            .zip(primary)
            .is_some_and(|(last, primary)| *last != primary)
        {
            *at = At::default();
            return true;
        }
        std::mem::take(&mut at.moved)
    }

    /// Where it leads to, as far as anybody knows.
    pub(super) fn place(&self) -> Option<Place> {
        match &self.way {
            Way::Fixed(place) => Some(place.clone()),
            Way::Sentinels(_) => {
                let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
                at.last.clone()
            }
        }
    }
}

pub(super) fn connecting(error: &::redis::RedisError, place: &Place) -> StoreError {
    use ::redis::ErrorKind;
    let text = error.to_string();
    // Of the choice of a database the library keeps the code to itself, and tells the words.
    if error.code() == Some("NOPERM") || text.contains("has no permissions to run") {
        let message = format!(
            "Redis at {place} refuses a command to this user: {text}; \
             deploy/redis/dayfly.conf has the rights it needs"
        );
        return Fault::UserRefused.found(message).into();
    }
    let refused = matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
        || error.kind() == ErrorKind::AuthenticationFailed;
    if refused {
        let message = format!(
            "Redis at {place} refuses this user or password; deploy/redis/dayfly.conf says how they are set"
        );
        return Fault::UserRefused.found(message).into();
    }
    // From rustls; the library has no kind for it.
    let unusable = error.kind() == ErrorKind::InvalidClientConfig;
    if unusable || text.contains("certificate") || text.contains("fatal alert") {
        let message = format!("Redis and Dayfly do not accept each other's certificates: {text}");
        return Fault::Tls.found(message).into();
    }
    StoreError::Unavailable(format!("connecting to Redis: {text}"))
}

/// Between half of a pause and the whole of it.
pub(super) fn jitter(pause: Duration) -> Duration {
    ids::between(pause / 2, pause)
}

/// One connection that many calls share. For calls behind which nobody waits for replicas.
#[derive(Default)]
pub(super) struct Shared {
    current: tokio::sync::Mutex<Option<(u64, MultiplexedConnection)>>,
    counter: AtomicU64,
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
        let (connection, _) = connector.connect().await?;
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
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

    /// The same, whichever it is.
    pub(super) async fn forget_any(&self) {
        *self.current.lock().await = None;
    }
}

/// Connections lent to one call at a time: a `WAIT` on any other kind waits for nothing.
pub(super) struct Pool {
    /// With where each leads to.
    idle: Mutex<Vec<(MultiplexedConnection, Place)>>,
    permits: Semaphore,
    /// How often everything was forgotten: what is older is not taken back.
    era: AtomicU64,
}

impl Pool {
    pub(super) fn of(size: usize) -> Self {
        Self {
            idle: Mutex::default(),
            permits: Semaphore::new(size),
            era: AtomicU64::default(),
        }
    }

    /// Waits at most `patience` for its turn: a store that is slower than what is asked of it would
    /// otherwise be asked by ever more callers who have given up already.
    pub(super) async fn lend<'a>(
        &'a self,
        connector: &'a Connector,
        patience: Duration,
    ) -> Result<Lent<'a>, StoreError> {
        let permit = tokio::time::timeout(patience, self.permits.acquire())
            .await
            .map_err(|_| StoreError::Unavailable("too many calls wait for it already".to_owned()))?
            .map_err(|_| StoreError::Unavailable("it has been closed".to_owned()))?;
        let era = self.era.load(Ordering::SeqCst);
        let idle = self.idle().pop();
        let (connection, primary) = match idle {
            Some(idle) => idle,
            None => connector.connect().await?,
        };
        Ok(Lent {
            connection,
            primary,
            replicas: &connector.replicas,
            pool: self,
            era,
            _permit: permit,
        })
    }

    /// After a failure every connection is suspect.
    pub(super) fn forget(&self) {
        self.era.fetch_add(1, Ordering::SeqCst);
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(MultiplexedConnection, Place)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection of one's own. Dropped, it is closed; only a call that went well gives it back.
pub(super) struct Lent<'a> {
    pub(super) connection: MultiplexedConnection,
    primary: Place,
    replicas: &'a Replicas,
    pool: &'a Pool,
    era: u64,
    _permit: SemaphorePermit<'a>,
}

impl Lent<'_> {
    /// What must acknowledge whatever is written on it now. Whoever is refused does not give it back: it leads to a primary
    /// that was replaced.
    pub(super) fn needed(&self) -> Result<Needed, StoreError> {
        self.replicas.needed(&self.primary)
    }

    pub(super) fn give_back(self) {
        let Self {
            connection,
            primary,
            pool,
            era,
            ..
        } = self;
        let mut idle = pool.idle();
        if pool.era.load(Ordering::SeqCst) == era {
            idle.push((connection, primary));
        }
    }
}

#[cfg(test)]
mod tests;
