//! The end of one role: no login, no privilege, no session, no role. Each step may be done already.

use super::super::{ConnectorError, Ended};
use super::link::{Link, Session, said};
use crate::steps::{self, Step};
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// How often sessions are told to end before we say that they live.
const ROUNDS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn end(
    link: &Link,
    role: &str,
    known: Option<u32>,
) -> Result<Ended, ConnectorError> {
    let session = link.open().await?;
    let found = session
        .query_opt("SELECT oid FROM pg_roles WHERE rolname = $1", &[&role])
        .await
        .map_err(unsure)?
        .map(|row| row.get::<_, u32>(0));
    let Some(oid) = found.or(known) else {
        return Ok(Ended::Dead);
    };
    if found.is_none() {
        no_session(&session, oid).await?;
        return Ok(Ended::Dead);
    }
    no_login(&session, role).await?;
    steps::at(Step::LoginTaken);
    // INVARIANT: before the sessions: what survives a moment longer may do nothing any more.
    let stripped = no_privilege(&session, role, oid).await;
    steps::at(Step::PrivilegesTaken);
    no_session(&session, oid).await?;
    steps::at(Step::SessionsEnded);
    let dropped = match stripped {
        Ok(()) => no_role(&session, role).await,
        Err(error) => {
            tracing::debug!(
                role,
                error = said(&error),
                "its privileges are taken with the role"
            );
            no_role(&session, role).await
        }
    };
    steps::at(Step::RoleDropped);
    // A login that had passed its check before the first step shows up only now.
    no_session(&session, oid).await?;
    match dropped {
        Ok(()) => Ok(Ended::Dead),
        Err(error) => {
            // It cannot log in and no session of it is open: that is dead. What it left behind
            // (an object someone depends on) is collected later and stops nobody.
            tracing::warn!(
                role,
                error = said(&error),
                "a dead login could not be dropped"
            );
            Ok(Ended::DeadUncollected)
        }
    }
}

async fn no_login(session: &Session, role: &str) -> Result<(), ConnectorError> {
    let statement = format!("ALTER ROLE {} NOLOGIN CONNECTION LIMIT 0", name(role));
    match session.batch_execute(&statement).await {
        Err(error) if !is_gone(&error) => Err(unsure(error)),
        _ => Ok(()),
    }
}

/// From every table and sequence that its privileges are on.
async fn no_privilege(
    session: &Session,
    role: &str,
    oid: u32,
) -> Result<(), tokio_postgres::Error> {
    let rows = session
        .query(
            "SELECT DISTINCT format('%I.%I', n.nspname, c.relname), c.relkind = 'S' \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, \
             LATERAL aclexplode(c.relacl) a WHERE a.grantee = $1",
            &[&oid],
        )
        .await?;
    let role = name(role);
    let mut text = String::new();
    for row in &rows {
        let (place, is_sequence): (String, bool) = (row.get(0), row.get(1));
        let kind = if is_sequence { "SEQUENCE" } else { "TABLE" };
        text.push_str(&format!("REVOKE ALL ON {kind} {place} FROM {role};\n"));
    }
    session.batch_execute(&text).await
}

/// Told to end until none is left.
async fn no_session(session: &Session, oid: u32) -> Result<(), ConnectorError> {
    for _ in 0..ROUNDS {
        let left: i64 = session
            .query_one(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = $1",
                &[&oid],
            )
            .await
            .map_err(unsure)?
            .get(0);
        if left == 0 {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(ConnectorError::Unavailable(
        "a session of the login does not end".to_owned(),
    ))
}

async fn no_role(session: &Session, role: &str) -> Result<(), tokio_postgres::Error> {
    let role = name(role);
    // One message is one transaction, and undone whole.
    let statement = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
    match session.batch_execute(&statement).await {
        Err(error) if is_gone(&error) => Ok(()),
        done => done,
    }
}

fn is_gone(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNDEFINED_OBJECT)
}

fn unsure(error: tokio_postgres::Error) -> ConnectorError {
    ConnectorError::Unavailable(said(&error))
}

/// A role named by a lease: letters and digits, so there is nothing to escape.
fn name(role: &str) -> String {
    format!("\"{role}\"")
}
