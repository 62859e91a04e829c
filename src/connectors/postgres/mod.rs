//! PostgreSQL: a login role for one lease, with the privileges of the grant and nothing else.
//!
//! In: a grant in privileges and tables. Out: a role named by the lease id, with a password that
//! the server never sees in the clear (only its SCRAM verifier is sent), a last moment for logging
//! in, and a bound on its connections. The patterns of the grant are read against the catalog once,
//! when the role is made: a table that comes later is not in it.
//!
//! `VALID UNTIL` stops new logins and nothing else, so a role is ended even when its time is up:
//! no login, no privilege, no session, no role, in this order (class `native`).

mod end;
mod hosts;
mod link;
mod mint;
mod settings;

use super::{Connector, ConnectorError, Ended, Handle, MintContext, Minted};
use super::{POSTGRES_LOGIN_TYPE, PostgresSettings, Promises, SettingProblem, Setup};
use crate::clock::{Clock, SystemClock};
use crate::ids::LeaseId;
use crate::policy::Grant;
use crate::secret::Secret;
use async_trait::async_trait;
use link::Link;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

#[derive(Debug)]
pub(super) struct Postgres {
    link: Link,
    /// `CONNECTION LIMIT` of each role.
    connections: u16,
    promises: Promises,
}

impl PostgresSettings {
    pub(super) fn problems(&self) -> Vec<SettingProblem> {
        settings::problems(self)
    }
}

impl Postgres {
    pub fn new(
        settings: &PostgresSettings,
        promises: Promises,
        setup: &Setup<'_>,
    ) -> Result<Self, Vec<String>> {
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(problems.iter().map(ToString::to_string).collect());
        }
        Ok(Self {
            link: Link::new(settings, setup).map_err(|problem| vec![problem])?,
            connections: settings.connections,
            promises,
        })
    }
}

/// What ending needs beyond the lease id.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    /// Sessions are known by the role's number, also once the role is gone. Nothing before it is made.
    oid: Option<u32>,
    /// SECURITY: another server knows nothing of it, and would be believed. Nothing where an earlier version made it.
    #[serde(default)]
    server: Option<String>,
}

impl Made {
    fn of(handle: Option<&Handle>) -> Option<Self> {
        handle.and_then(|handle| serde_json::from_slice(handle.expose()).ok())
    }

    fn handle(&self) -> Result<Handle, ConnectorError> {
        let unknown = |_| ConnectorError::Unknown("the login cannot be written down".to_owned());
        serde_json::to_vec(self).map(Secret::new).map_err(unknown)
    }
}

#[async_trait]
impl Connector for Postgres {
    fn promises(&self) -> Promises {
        self.promises
    }

    async fn beforehand(&self) -> Result<Option<Handle>, ConnectorError> {
        let server = match self.link.known() {
            Some(server) => server,
            None => self.link.server_of(&self.link.open().await?).await?,
        };
        let made = Made {
            oid: None,
            server: Some(server),
        };
        made.handle().map(Some)
    }

    async fn mint(
        &self,
        grant: &Grant,
        context: MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        let asked = SystemClock::new().since_boot();
        let session = self.link.open().await?;
        let server = self.link.server_of(&session).await?;
        // SECURITY: the lease says on which server to look for it, whatever becomes of our answer.
        if let Some(reserved) = Made::of(context.beforehand).and_then(|made| made.server)
            && reserved != server
        {
            return Err(ConnectorError::Replaced(format!(
                "it is server {server} now, and the lease was reserved for {reserved}: ask again"
            )));
        }
        let tables = mint::tables(&session, grant.authority()).await?;
        let password = mint::password();
        let ends = whole_seconds(context.expires_at);
        let making = mint::Making {
            role: context.lease.to_string(),
            password: &password,
            ends,
            mint_by: by_its_clock(&session, context.mint_by - context.now, asked).await?,
            connections: self.connections,
            comment: format!(
                "Dayfly: agent {}, mission {}",
                grant.agent(),
                grant.mission()
            ),
            tables,
        };
        let oid = mint::make(&session, &making).await?;
        let unknown = |_| ConnectorError::Unknown("the login cannot be written down".to_owned());
        let made = Made {
            oid: Some(oid),
            server: Some(server),
        };
        let credential = serde_json::to_string(&Credential {
            r#type: "postgres_login",
            host: self.link.host(),
            port: self.link.port(),
            database: self.link.database(),
            username: &making.role,
            password: password.expose(),
            expiration: ends,
        });
        Ok(Minted {
            token: None,
            credential: Some(Secret::new(credential.map_err(unknown)?)),
            issued_token_type: POSTGRES_LOGIN_TYPE,
            handle: Some(made.handle()?),
            names: vec![making.role],
            expires_at: ends,
            token_sha256: None,
            signing_key: None,
        })
    }

    async fn end(&self, lease: &LeaseId, handle: Option<&Handle>) -> Result<Ended, ConnectorError> {
        end::end(&self.link, &lease.to_string(), Made::of(handle).as_ref()).await
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        self.link.check().await
    }
}

/// When so much `time` is over, as the server's own clock tells it: that judges whether a request came too late, and may
/// be off.
///
/// INVARIANT: never later than by a clock that is right. What passes until its answer is here counts as passed.
async fn by_its_clock(
    session: &link::Session,
    time: time::Duration,
    asked: std::time::Duration,
) -> Result<OffsetDateTime, ConnectorError> {
    let its = session.clock().await;
    let its = its.map_err(|error| ConnectorError::Unavailable(link::said(&error)))?;
    let left = time - SystemClock::new().since_boot().saturating_sub(asked);
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(its) * 1_000_000)
        .ok()
        .and_then(|its| its.checked_add(left))
        .ok_or_else(|| ConnectorError::Unavailable("its clock tells no date".to_owned()))
}

/// Rounded down: the role's last moment is never later than the lease's.
fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

/// What the holder gets, in the words of the answer.
#[derive(Serialize)]
struct Credential<'a> {
    r#type: &'static str,
    host: &'a str,
    port: u16,
    database: &'a str,
    username: &'a str,
    password: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    expiration: OffsetDateTime,
}

#[cfg(test)]
mod tests;
