//! SQL privileges on tables: `select` on `public.orders`.
//!
//! Names are compared as the server's catalog has them: an unquoted `Orders` is `orders` there.
//! `*` stands for any run of characters within a schema's or a table's name, never across the dot.

use super::compare::Terms;
use super::glob;

pub(super) enum Sql {}

/// The table privileges that the SQL standard and PostgreSQL share (PostgreSQL 15, "5.7.
/// Privileges"). `trigger` and `maintain` are left out: they run code or commands of their own.
pub const PRIVILEGES: [&str; 6] = [
    "select",
    "insert",
    "update",
    "delete",
    "truncate",
    "references",
];

pub(super) struct Table {
    schema: String,
    name: String,
}

impl Terms for Sql {
    /// `None`: every privilege.
    type Action = Option<&'static str>;
    type Location = Table;
    const NEEDS_LOCATION: bool = true;

    fn action(text: &str) -> Result<Self::Action, &'static str> {
        if text == "*" {
            return Ok(None);
        }
        PRIVILEGES
            .iter()
            .find(|known| **known == text)
            .map(|known| Some(*known))
            .ok_or(
                "a privilege is `select`, `insert`, `update`, `delete`, `truncate`, `references` or `*`",
            )
    }

    fn location(text: &str) -> Result<Table, &'static str> {
        let (schema, name) = text
            .split_once('.')
            .ok_or("a table is written with its schema, e.g. `public.orders`")?;
        // SECURITY: what would have to be quoted is refused, so a name means one thing only.
        let fits = |part: &str| {
            let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '*');
            !part.is_empty() && part.chars().all(letter)
        };
        if !fits(schema) || !fits(name) {
            return Err("names of schemas and tables are letters, digits, `_` and `*`");
        }
        Ok(Table {
            schema: glob::without_double_stars(schema),
            name: glob::without_double_stars(name),
        })
    }

    fn action_covers(ceiling: &Self::Action, asked: &Self::Action) -> bool {
        ceiling.is_none() || ceiling == asked
    }

    fn location_covers(ceiling: &Table, asked: &Table) -> bool {
        glob::covers(&ceiling.schema, &asked.schema) && glob::covers(&ceiling.name, &asked.name)
    }

    fn actions_overlap(one: &Self::Action, other: &Self::Action) -> bool {
        one.is_none() || other.is_none() || one == other
    }

    fn locations_overlap(one: &Table, other: &Table) -> bool {
        glob::overlap(&one.schema, &other.schema) && glob::overlap(&one.name, &other.name)
    }
}
