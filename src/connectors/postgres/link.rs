//! One session with the server, as the broker's own role: opened for one mint or one end.

use super::super::{ConnectorError, PostgresSettings, Setup};
use super::hosts::Hosts;
use super::settings::is_loopback;
use crate::ids;
use crate::secret::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

/// PostgreSQL 14 is the first whose `pg_terminate_backend` may be believed for members of a role
/// that is not a superuser's, and the oldest that is still maintained.
const OLDEST: i32 = 140_000;

/// Of a statement that met another one on the same table.
const MOST_TRIES: u32 = 10;
const LEAST_PAUSE: Duration = Duration::from_millis(5);
const MOST_PAUSE: Duration = Duration::from_millis(100);

/// Where the server is and who we are there.
pub(super) struct Link {
    hosts: Hosts,
    host: String,
    port: u16,
    database: String,
    /// System identifiers of servers that are no more.
    gone: Vec<String>,
    /// Which server was reached last.
    known: Mutex<Option<String>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        write!(f, "Link({host}:{port})")
    }
}

/// Ends with its owner, and whatever was not committed with it.
pub(super) struct Session {
    client: Client,
    connection: tokio::task::JoinHandle<()>,
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Session {
    /// Which server it is, wherever it is reached: its standbys that took over are the same one, and whatever else
    /// gets its name is not.
    pub async fn server(&self) -> Result<String, tokio_postgres::Error> {
        let statement = "SELECT system_identifier::text FROM pg_control_system()";
        Ok(self.client.query_one(statement, &[]).await?.get(0))
    }

    /// What its clock says, in milliseconds since 1970.
    pub async fn clock(&self) -> Result<i64, tokio_postgres::Error> {
        let statement = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
        Ok(self.client.query_one(statement, &[]).await?.get(0))
    }

    /// A statement that changes what others may change in the same moment: the server undoes one of the two, and it
    /// is sent again. Whatever fails is undone.
    pub async fn change(&self, statement: &str) -> Result<(), tokio_postgres::Error> {
        let mut tries = 1;
        loop {
            match self.client.batch_execute(statement).await {
                Err(error) if tries < MOST_TRIES && is_crowded(&error) => {
                    tries += 1;
                    self.client.batch_execute("ROLLBACK").await?;
                    tokio::time::sleep(ids::between(LEAST_PAUSE, MOST_PAUSE)).await;
                }
                done => return done,
            }
        }
    }
}

/// Somebody changed the privileges of the same table in the same moment: an internal error that has no code of its
/// own.
pub(super) fn is_crowded(error: &tokio_postgres::Error) -> bool {
    let told = error.as_db_error();
    told.is_some_and(|told| {
        *told.code() == SqlState::INTERNAL_ERROR && told.message() == "tuple concurrently updated"
    })
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Link {
    pub fn new(settings: &PostgresSettings, setup: &Setup<'_>) -> Result<Self, String> {
        let password =
            (setup.resolve)(&settings.password).map_err(|why| format!("`password`: {why}"))?;
        let tls = match &settings.ca {
            Some(reference) => {
                let pem = (setup.resolve)(reference).map_err(|why| format!("`ca`: {why}"))?;
                Some(MakeRustlsConnect::new(client_config(&pem)?))
            }
            None if settings.hosts().all(is_loopback) => None,
            None => return Err("`ca` is missing".to_owned()),
        };
        let patience = setup.call_timeout.max(Duration::from_secs(1));
        let mut config = Config::new();
        config
            .port(settings.port)
            .dbname(&settings.database)
            .user(&settings.username)
            .password(password.expose())
            .application_name("dayfly")
            // SECURITY: a standby may not have heard yet of a login that lives on its primary.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            // Names in statements mean the catalog's own functions, whatever a database defines.
            .options(format!(
                "-c search_path=pg_catalog -c statement_timeout={0} -c lock_timeout={0} -c idle_in_transaction_session_timeout={0}",
                (patience / 2).as_millis()
            ))
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        Ok(Self {
            hosts: Hosts::new(settings, &config, tls, patience),
            host: settings.host.clone(),
            port: settings.port,
            database: settings.database.clone(),
            gone: settings.gone.clone(),
            known: Mutex::default(),
        })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// Somebody has said that this server is no more.
    pub fn is_gone(&self, server: &str) -> bool {
        self.gone.iter().any(|gone| gone == server)
    }

    /// Nothing has been made when this fails.
    pub async fn open(&self) -> Result<Session, ConnectorError> {
        let (client, connection) = self.hosts.open().await?;
        Ok(Session { client, connection })
    }

    /// Which server was reached last, if any was.
    pub fn known(&self) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// Which server this session is with. Nothing is changed by asking.
    pub async fn server_of(&self, session: &Session) -> Result<String, ConnectorError> {
        let server = session.server().await;
        let server = server.map_err(|error| ConnectorError::Unavailable(said(&error)))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(server.clone());
        Ok(server)
    }

    /// Whether our own role may do what minting and ending need.
    pub async fn check(&self) -> Result<(), ConnectorError> {
        let session = self.open().await?;
        let row = session
            .query_one(
                "SELECT current_setting('server_version_num')::int4, r.rolsuper, \
                 r.rolsuper OR r.rolcreaterole, \
                 r.rolsuper OR pg_has_role(r.oid, 'pg_signal_backend', 'USAGE') \
                 FROM pg_roles r WHERE r.rolname = current_user",
                &[],
            )
            .await
            .map_err(|error| ConnectorError::Unavailable(said(&error)))?;
        let wrong = |what: &str| Err(ConnectorError::Refused(what.to_owned()));
        if row.get::<_, i32>(0) < OLDEST {
            return wrong("PostgreSQL 14 or newer is needed");
        }
        if let Err(error) = session.server().await {
            return wrong(&format!(
                "the broker's role may not ask which server it is, so no end could be believed: GRANT EXECUTE ON FUNCTION pg_control_system() TO ...; {}",
                said(&error)
            ));
        }
        if row.get(1) {
            tracing::warn!(
                host = self.host,
                "the broker is a superuser there: CREATEROLE and pg_signal_backend are enough"
            );
        }
        if !row.get::<_, bool>(2) {
            return wrong("the broker's role may not create roles: ALTER ROLE ... CREATEROLE");
        }
        if !row.get::<_, bool>(3) {
            return wrong("the broker's role may not end sessions: GRANT pg_signal_backend TO ...");
        }
        Ok(())
    }
}

fn client_config(pem: &Secret<String>) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.expose().as_bytes()) {
        let certificate = certificate.map_err(|_| "`ca` is not PEM".to_owned())?;
        roots
            .add(certificate)
            .map_err(|_| "`ca` holds what is no certificate".to_owned())?;
    }
    if roots.is_empty() {
        return Err("`ca` holds no certificate".to_owned());
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// What the server said, without what was sent to it.
pub(super) fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            text
        }
    }
}
