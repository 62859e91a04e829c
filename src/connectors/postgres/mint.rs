//! The role of one lease, made in one transaction that the server gets in one message.

use super::super::ConnectorError;
use super::link::{Session, is_crowded, said};
use crate::authority::{Authority, Permission, SQL_PRIVILEGES, Vocabulary};
use crate::ids;
use crate::secret::Secret;
use crate::steps::{self, Step};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// More are granted by a role of the database's own, or not at all.
const MAX_TABLES: usize = 1000;

/// (schema, name) of a table, and what may be done with it.
pub(super) type Tables = BTreeMap<(String, String), Granted>;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    privileges: BTreeSet<&'static str>,
    /// (schema, name) of what fills its `serial` columns: without it there is no insert.
    sequences: BTreeSet<(String, String)>,
}

/// Everything that the statement says.
pub(super) struct Making<'a> {
    pub role: String,
    pub password: &'a Secret<String>,
    pub ends: OffsetDateTime,
    pub mint_by: OffsetDateTime,
    pub connections: u16,
    pub comment: String,
    pub tables: Tables,
}

pub(super) fn password() -> Secret<String> {
    Secret::new(URL_SAFE_NO_PAD.encode(ids::random::<32>()))
}

/// The tables that the grant's patterns mean now.
pub(super) async fn tables(
    session: &Session,
    authority: &Authority,
) -> Result<Tables, ConnectorError> {
    let rows = session
        .query(
            "SELECT n.nspname::text, c.relname::text, \
               coalesce((SELECT array_agg(sn.nspname::text || '.' || s.relname::text) \
                 FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
                 JOIN pg_namespace sn ON sn.oid = s.relnamespace \
                 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
                   AND d.refobjid = c.oid AND d.deptype = 'a'), '{}') \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') \
               AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'",
            &[],
        )
        .await
        .map_err(|error| ConnectorError::Unavailable(said(&error)))?;
    let known = rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get::<_, Vec<String>>(2)))
        .collect();
    chosen(authority, &known)
}

/// Table -> the sequences of its columns, as `schema.name`.
type Known = BTreeMap<(String, String), Vec<String>>;

fn chosen(authority: &Authority, known: &Known) -> Result<Tables, ConnectorError> {
    if authority.is_empty() {
        return Err(ConnectorError::Inexpressible(
            "it allows nothing".to_owned(),
        ));
    }
    let mut tables = Tables::new();
    for permission in &authority.0 {
        let privileges = privileges(permission)?;
        for location in &permission.locations {
            let mut found = false;
            for ((schema, name), sequences) in known {
                if !is_meant(location, schema, name) {
                    continue;
                }
                found = true;
                let granted = tables.entry((schema.clone(), name.clone())).or_default();
                granted.privileges.extend(&privileges);
                if privileges.contains("insert") {
                    let pairs = sequences.iter().filter_map(|text| text.split_once('.'));
                    granted
                        .sequences
                        .extend(pairs.map(|(schema, name)| (schema.to_owned(), name.to_owned())));
                }
            }
            if !found && !location.contains('*') {
                return Err(ConnectorError::Refused(format!(
                    "there is no table `{location}`"
                )));
            }
        }
    }
    if tables.is_empty() {
        return Err(ConnectorError::Refused(
            "no table is of these names".to_owned(),
        ));
    }
    if tables.len() > MAX_TABLES {
        return Err(ConnectorError::Inexpressible(format!(
            "it means {} tables; one login gets {MAX_TABLES} at most",
            tables.len()
        )));
    }
    Ok(tables)
}

fn privileges(permission: &Permission) -> Result<BTreeSet<&'static str>, ConnectorError> {
    let mut privileges = BTreeSet::new();
    for action in &permission.actions {
        if action == "*" {
            privileges.extend(SQL_PRIVILEGES);
            continue;
        }
        let known = SQL_PRIVILEGES
            .iter()
            .find(|known| **known == action.as_str());
        privileges.insert(*known.ok_or_else(|| {
            ConnectorError::Inexpressible(format!("`{action}` is no privilege on a table"))
        })?);
    }
    if privileges.is_empty() {
        return Err(ConnectorError::Inexpressible(
            "it allows nothing".to_owned(),
        ));
    }
    Ok(privileges)
}

/// Asked of the one comparison that decided the grant; a name that it cannot read is not meant.
fn is_meant(location: &str, schema: &str, name: &str) -> bool {
    if name.contains('*') || schema.contains('*') {
        return false;
    }
    let on = |location: String| {
        Authority(vec![Permission {
            actions: vec!["select".to_owned()],
            locations: vec![location],
        }])
    };
    Vocabulary::Sql
        .covers(&on(location.to_owned()), &on(format!("{schema}.{name}")))
        .unwrap_or(false)
}

/// The role's number. `Refused` and `Unavailable`: the server has undone it all.
pub(super) async fn make(session: &Session, making: &Making<'_>) -> Result<u32, ConnectorError> {
    let statement = statement(making)?;
    steps::at(Step::RoleMaking);
    let made = session.change(statement.expose()).await;
    steps::at(Step::RoleMade);
    made.map_err(|error| undone(&error))?;
    let lost = |why: String| ConnectorError::Unknown(why);
    let row = session
        .query_one(
            "SELECT oid FROM pg_roles WHERE rolname = $1",
            &[&making.role],
        )
        .await
        .map_err(|error| lost(said(&error)))?;
    row.try_get(0).map_err(|error| lost(said(&error)))
}

/// SECURITY: only an answer from the server says that nothing was made.
fn undone(error: &tokio_postgres::Error) -> ConnectorError {
    let Some(code) = error.code() else {
        return ConnectorError::Unknown(said(error));
    };
    match code.code() {
        // It ended while it told us, perhaps after the commit: one that waits for its standbys then is told so.
        "57P01" | "57P02" => return ConnectorError::Unknown(said(error)),
        _ if is_crowded(error) => return ConnectorError::Unavailable(said(error)),
        _ => {}
    }
    match code.code().get(..2) {
        // The server, or whoever stands between, lost its way: it may have been told to commit.
        Some("08" | "58" | "XX") => ConnectorError::Unknown(said(error)),
        // Too many connections, cancelled, serialization.
        Some("53" | "57" | "40" | "55") => ConnectorError::Unavailable(said(error)),
        _ => ConnectorError::Refused(said(error)),
    }
}

fn statement(making: &Making<'_>) -> Result<Secret<String>, ConnectorError> {
    let moment = |at: OffsetDateTime| {
        at.to_offset(time::UtcOffset::UTC)
            .format(&Rfc3339)
            .map_err(|_| ConnectorError::Inexpressible("its end is no date".to_owned()))
    };
    let role = name(&making.role);
    let verifier = postgres_protocol::password::scram_sha_256(making.password.expose().as_bytes());
    let mut text = String::from("BEGIN;\n");
    let mut say = |line: std::fmt::Arguments<'_>| {
        // Writing to a `String` cannot fail.
        text.write_fmt(line).unwrap_or_default();
        text.push_str(";\n");
    };
    // INVARIANT: a request that was given up and arrives late makes nothing.
    say(format_args!(
        "DO $$BEGIN IF clock_timestamp() >= {} THEN RAISE EXCEPTION 'too late for this lease' USING ERRCODE = '57014'; END IF; END$$",
        literal(&moment(making.mint_by)?)
    ));
    say(format_args!(
        "CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
         CONNECTION LIMIT {} PASSWORD {} VALID UNTIL {}",
        making.connections,
        literal(&verifier),
        literal(&moment(making.ends)?)
    ));
    say(format_args!(
        "COMMENT ON ROLE {role} IS {}",
        literal(&making.comment)
    ));
    let schemas: BTreeSet<&String> = making
        .tables
        .iter()
        .flat_map(|((schema, _), granted)| {
            std::iter::once(schema).chain(granted.sequences.iter().map(|(schema, _)| schema))
        })
        .collect();
    for schema in schemas {
        say(format_args!(
            "GRANT USAGE ON SCHEMA {} TO {role}",
            name(schema)
        ));
        must_have(&mut say, "schema", (&making.role, schema, "usage"));
    }
    for ((schema, table), granted) in &making.tables {
        let privileges: Vec<&str> = granted.privileges.iter().copied().collect();
        let privileges = privileges.join(", ");
        let table = format!("{}.{}", name(schema), name(table));
        say(format_args!(
            "GRANT {privileges} ON TABLE {table} TO {role}"
        ));
        for (schema, sequence) in &granted.sequences {
            let sequence = format!("{}.{}", name(schema), name(sequence));
            say(format_args!("GRANT USAGE ON SEQUENCE {sequence} TO {role}"));
        }
        for privilege in &granted.privileges {
            must_have(&mut say, "table", (&making.role, &table, privilege));
        }
    }
    say(format_args!("COMMIT"));
    Ok(Secret::new(text))
}

/// PostgreSQL only warns when a grant gave nothing.
fn must_have(
    say: &mut impl FnMut(std::fmt::Arguments<'_>),
    kind: &str,
    (role, object, privilege): (&str, &str, &str),
) {
    let (role, object) = (literal(role), literal(object));
    say(format_args!(
        "DO $$BEGIN IF NOT has_{kind}_privilege({role}, {object}, '{privilege}') THEN \
         RAISE EXCEPTION 'the broker may not grant {privilege} on %', {object} USING ERRCODE = '42501'; \
         END IF; END$$"
    ));
}

/// A quoted identifier.
fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A quoted string; `standard_conforming_strings` is on unless someone turned it off, and none of
/// what is said here has a backslash.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''").replace('\\', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let table = |schema: &str, name: &str, sequences: &[&str]| {
            let sequences = sequences.iter().map(|text| (*text).to_owned()).collect();
            ((schema.to_owned(), name.to_owned()), sequences)
        };
        [
            table("public", "orders", &["public.orders_id_seq"]),
            table("public", "order_lines", &[]),
            table("billing", "invoices", &[]),
            table("public", "Odd name", &[]),
        ]
        .into_iter()
        .collect()
    }

    fn asked(actions: &[&str], locations: &[&str]) -> Authority {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Authority(vec![Permission {
            actions: owned(actions),
            locations: owned(locations),
        }])
    }

    fn tables(actions: &[&str], locations: &[&str]) -> Vec<String> {
        chosen(&asked(actions, locations), &known())
            .unwrap()
            .into_iter()
            .map(|((schema, name), granted)| {
                let privileges: Vec<_> = granted.privileges.into_iter().collect();
                format!(
                    "{schema}.{name} {} {}",
                    privileges.join(","),
                    granted.sequences.len()
                )
            })
            .collect()
    }

    #[test]
    fn a_pattern_means_the_tables_that_are_there_and_no_name_that_must_be_quoted() {
        assert_eq!(
            tables(&["select"], &["public.orders"]),
            ["public.orders select 0"]
        );
        assert_eq!(
            tables(&["select"], &["public.*"]),
            ["public.order_lines select 0", "public.orders select 0"]
        );
        assert_eq!(tables(&["select"], &["*"]).len(), 3);
    }

    #[test]
    fn inserting_comes_with_the_sequences_of_its_columns() {
        assert_eq!(
            tables(&["insert"], &["public.orders"]),
            ["public.orders insert 1"]
        );
    }

    #[test]
    fn a_table_that_is_not_there_is_named() {
        let error = chosen(&asked(&["select"], &["public.nothing"]), &known()).unwrap_err();
        assert!(error.to_string().contains("`public.nothing`"), "{error}");
        assert!(chosen(&asked(&["select"], &["empty.*"]), &known()).is_err());
    }

    #[test]
    fn permissions_on_different_tables_do_not_add_up() {
        let mut both = asked(&["select"], &["public.orders"]);
        both.0.extend(asked(&["delete"], &["billing.invoices"]).0);
        let tables = chosen(&both, &known()).unwrap();
        let of = |schema: &str, name: &str| {
            let granted = &tables[&(schema.to_owned(), name.to_owned())];
            granted.privileges.iter().copied().collect::<Vec<_>>()
        };
        assert_eq!(of("public", "orders"), ["select"]);
        assert_eq!(of("billing", "invoices"), ["delete"]);
    }

    #[test]
    fn what_is_quoted_cannot_end_its_quotes() {
        assert_eq!(name("a\"; DROP"), "\"a\"\"; DROP\"");
        assert_eq!(literal("it's\\"), "'it''s'");
    }

    #[test]
    fn the_password_is_not_in_the_statement() {
        let password = password();
        let making = Making {
            role: "dflaaaa".to_owned(),
            password: &password,
            ends: OffsetDateTime::UNIX_EPOCH,
            mint_by: OffsetDateTime::UNIX_EPOCH,
            connections: 2,
            comment: "why".to_owned(),
            tables: chosen(&asked(&["select"], &["public.orders"]), &known()).unwrap(),
        };
        let text = statement(&making).unwrap();
        assert!(!text.expose().contains(password.expose()));
        assert!(text.expose().contains("SCRAM-SHA-256$"));
        assert!(text.expose().contains("VALID UNTIL '1970-01-01T00:00:00Z'"));
    }
}
