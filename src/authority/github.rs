//! GitHub App permissions on repositories: `contents:write` on `acme/checkout`.
//!
//! A level holds the ones below it: read < write < admin. Owners and repositories are compared
//! without case, as GitHub does. `*` alone stands for every permission; within the name of a repository it
//! stands for any run of characters; an owner is named.

use super::compare::Terms;
use super::glob;

pub(super) enum Github {}

pub(super) struct Action {
    /// `None`: every permission.
    permission: Option<String>,
    level: Level,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Read,
    Write,
    Admin,
}

/// Lower case.
pub(super) struct Repository {
    owner: String,
    name: String,
}

impl Terms for Github {
    type Action = Action;
    type Location = Repository;
    const NEEDS_LOCATION: bool = true;

    fn action(text: &str) -> Result<Action, &'static str> {
        let (permission, level) = text
            .split_once(':')
            .ok_or("a permission is written with its level, e.g. `contents:read`")?;
        let level = match level {
            "read" => Level::Read,
            "write" => Level::Write,
            "admin" => Level::Admin,
            _ => return Err("a level is `read`, `write` or `admin`"),
        };
        let fits = |c: char| c.is_ascii_lowercase() || c == '_';
        let permission = match permission {
            "*" => None,
            name if !name.is_empty() && name.chars().all(fits) => Some(name.to_owned()),
            _ => return Err("a permission is small letters and `_`, or `*`"),
        };
        Ok(Action { permission, level })
    }

    fn location(text: &str) -> Result<Repository, &'static str> {
        let (owner, name) = text
            .split_once('/')
            .ok_or("a repository is written with its owner, e.g. `acme/checkout`")?;
        let in_owner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if owner.is_empty() || !owner.chars().all(in_owner) {
            return Err("an owner is letters, digits and `-`, without `*`");
        }
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
        // SECURITY: `.` and `..` are paths to whoever puts the name into a URL.
        if name.is_empty() || !name.chars().all(in_name) || name.chars().all(|c| c == '.') {
            return Err("a repository's name is letters, digits, `-`, `_`, `.` and `*`");
        }
        Ok(Repository {
            owner: owner.to_ascii_lowercase(),
            name: glob::without_double_stars(&name.to_ascii_lowercase()),
        })
    }

    fn action_covers(ceiling: &Action, asked: &Action) -> bool {
        let same = ceiling.permission.is_none() || ceiling.permission == asked.permission;
        same && ceiling.level >= asked.level
    }

    fn location_covers(ceiling: &Repository, asked: &Repository) -> bool {
        ceiling.owner == asked.owner && glob::covers(&ceiling.name, &asked.name)
    }

    /// Whatever the levels are, both hold `read`.
    fn actions_overlap(one: &Action, other: &Action) -> bool {
        one.permission.is_none() || other.permission.is_none() || one.permission == other.permission
    }

    fn locations_overlap(one: &Repository, other: &Repository) -> bool {
        one.owner == other.owner && glob::overlap(&one.name, &other.name)
    }
}
