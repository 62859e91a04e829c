//! The end of one role: no login, no privilege, no session, no role. Each step may be done already.

use super::super::{ConnectorError, Ended};
use super::Made;
use super::link::{Link, Session, said};
use crate::steps::{self, Step};
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// How often sessions are told to end before we say that they live.
const ROUNDS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);
/// What the logins of leases are called.
const OF_A_LEASE: &str = "^dfl[a-z2-7]{26}$";

pub(super) async fn end(
    link: &Link,
    role: &str,
    made: Option<&Made>,
) -> Result<Ended, ConnectorError> {
    let server = made.and_then(|made| made.server.as_deref());
    let session = link.open().await?;
    // SECURITY: of a server that is gone, whoever took its place is asked all the same: an upgrade in place has another
    // identifier, and the roles came along, under other numbers.
    let is_gone = server.is_some_and(|server| link.is_gone(server));
    if let Some(server) = server.filter(|_| !is_gone) {
        is_there(&session, link, server).await?;
    }
    let known = made.and_then(|made| made.oid).filter(|_| !is_gone);
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
    let dropped = no_role(&session, role, oid).await;
    steps::at(Step::RoleDropped);
    // A login that had passed its check before the first step shows up only now.
    no_session(&session, oid).await?;
    match (dropped, stripped) {
        // Its privileges went with it.
        (Ok(()), _) => Ok(Ended::Dead),
        // SECURITY: what acts as the role (a function that it made) would go on with them.
        (Err(_), Err(error)) => Err(unsure(error)),
        (Err(error), Ok(())) => {
            // It cannot log in, may do nothing, and no session of it is open: that is dead. What it left behind
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

/// SECURITY: "there is nothing of that name" is worth something only from the server on which it was made.
async fn is_there(session: &Session, link: &Link, server: &str) -> Result<(), ConnectorError> {
    let here = link.server_of(session).await?;
    if here == server {
        return Ok(());
    }
    Err(ConnectorError::Unavailable(format!(
        "{}:{} is server {here}, and the login was made on {server}: name that one again, or say `gone = [\"{server}\"]` \
         if it is no more",
        link.host(),
        link.port(),
    )))
}

async fn no_login(session: &Session, role: &str) -> Result<(), ConnectorError> {
    let statement = format!("ALTER ROLE {} NOLOGIN CONNECTION LIMIT 0", name(role));
    match session.change(&statement).await {
        Err(error) if !is_gone(&error) => Err(unsure(error)),
        _ => Ok(()),
    }
}

/// From every table and sequence that its privileges are on, but for what another lease's login made and gave it: we
/// may not take that, and it goes with the role. Asked of where the server keeps what each role has:
/// looked for in the tables' own lists it takes longer with every other login.
async fn no_privilege(
    session: &Session,
    role: &str,
    oid: u32,
) -> Result<(), tokio_postgres::Error> {
    let rows = session
        .query(
            "SELECT DISTINCT format('%I.%I', n.nspname, c.relname), c.relkind = 'S' \
             FROM pg_shdepend d JOIN pg_class c ON c.oid = d.objid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_roles o ON o.oid = c.relowner AND o.rolname !~ $2 \
             WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 AND d.deptype = 'a' \
               AND d.classid = 'pg_class'::regclass \
               AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[&oid, &OF_A_LEASE],
        )
        .await?;
    let role = name(role);
    let mut text = String::new();
    for row in &rows {
        let (place, is_sequence): (String, bool) = (row.get(0), row.get(1));
        let kind = if is_sequence { "SEQUENCE" } else { "TABLE" };
        text.push_str(&format!("REVOKE ALL ON {kind} {place} FROM {role};\n"));
    }
    session.change(&text).await
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

async fn no_role(session: &Session, role: &str, oid: u32) -> Result<(), tokio_postgres::Error> {
    let dropped = drop_it(session, role, &[]).await;
    let Err(Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST)) =
        dropped.as_ref().map_err(|e| e.code())
    else {
        return dropped;
    };
    // SECURITY: what a login grants of its own nobody else can take back. It must not keep another one alive by that.
    let grantors = grantors(session, oid).await?;
    if grantors.is_empty() {
        return dropped;
    }
    drop_it(session, role, &grantors).await
}

/// Logins of other leases that own what this one has privileges on.
async fn grantors(session: &Session, oid: u32) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = session
        .query(
            "SELECT DISTINCT r.rolname::text FROM pg_shdepend d \
             JOIN pg_shdepend o ON (o.dbid, o.classid, o.objid) = (d.dbid, d.classid, d.objid) \
               AND o.refclassid = d.refclassid AND o.deptype = 'o' \
             JOIN pg_roles r ON r.oid = o.refobjid AND r.rolname ~ $2 \
             WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 AND d.deptype = 'a' \
               AND r.oid <> d.refobjid",
            &[&oid, &OF_A_LEASE],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn drop_it(
    session: &Session,
    role: &str,
    grantors: &[String],
) -> Result<(), tokio_postgres::Error> {
    let role = name(role);
    // What it came to own can only be dropped by one who is a member of it. Not before: the server reads the list of all
    // that we are a member of, each with each, wherever it asks what we may grant. One message is one transaction, and
    // undone whole.
    let mut statement = format!("GRANT {role} TO CURRENT_USER; ");
    let (mut join, mut leave) = (String::new(), String::new());
    for grantor in grantors {
        let grantor = name(grantor);
        join.push_str(&format!("GRANT {grantor} TO CURRENT_USER; "));
        leave.push_str(&format!("; REVOKE {grantor} FROM CURRENT_USER"));
    }
    statement.push_str(&join);
    statement.push_str(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"));
    statement.push_str(&leave);
    match session.change(&statement).await {
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
