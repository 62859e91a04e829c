//! What can be asked for, and what contains what.
//!
//! An [`Authority`] is a list of [`Permission`]s on one target; `covers` compares two of them in
//! the target's own [`Vocabulary`]. Exact and total: what cannot be decided is [`Undecidable`],
//! and undecidable means refused. In: `authorization_details` (RFC 9396 section 2) and the
//! configuration. Out: yes, or the first (action, location) pair that lies outside.

mod aws;
mod compare;
mod details;
mod github;
mod kubernetes;
pub(crate) mod glob;
mod scopes;
mod sql;

pub use compare::Outside;
pub use details::DetailsError;
pub use sql::PRIVILEGES as SQL_PRIVILEGES;

use crate::ids::TargetId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One member of `authorization_details` (RFC 9396 section 2), closed: unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationDetail {
    /// The vocabulary: `aws_session`, `access_token`, `api_key`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The target.
    pub identifier: String,
    pub actions: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<u32>,
}

/// Every action on every location. `*` matches any run of characters within the bounds that the
/// vocabulary sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    pub actions: Vec<String>,
    #[serde(default)]
    pub locations: Vec<String>,
}

/// What may be done on one target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Authority(pub Vec<Permission>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Undecidable {
    /// `place` is a JSON path within what was asked, e.g. `[0].locations[1]`, or within the
    /// ceiling, e.g. `ceiling[0].actions[2]`.
    #[error("`{pattern}` ({place}) cannot be compared: {why}")]
    Pattern {
        place: String,
        pattern: String,
        why: &'static str,
    },
}

/// Whose semantics authority is compared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vocabulary {
    /// IAM actions and ARNs.
    Aws,
    /// OAuth scopes and resource URIs.
    Scopes,
    /// SQL privileges and `schema.table`.
    Sql,
    /// `permission:level` and `owner/repository`.
    Github,
    /// Verbs and `namespace/resource`.
    Kubernetes,
}

impl Vocabulary {
    /// The one that a type of `authorization_details` is written in.
    pub fn of_detail_type(kind: &str) -> Option<Self> {
        let all = [
            Self::Aws,
            Self::Scopes,
            Self::Sql,
            Self::Github,
            Self::Kubernetes,
        ];
        all.into_iter()
            .find(|one| one.detail_types().contains(&kind))
    }

    /// The values of `authorization_details[].type` that speak it.
    pub fn detail_types(self) -> &'static [&'static str] {
        match self {
            Self::Aws => &["aws_session"],
            Self::Scopes => &["access_token", "api_key"],
            Self::Sql => &["postgres_login"],
            Self::Github => &["github_token"],
            Self::Kubernetes => &["kubernetes_token"],
        }
    }

    /// Whether everything asked lies within the ceiling. Exact for patterns, too: an asked pattern
    /// is covered if everything it could ever match is.
    pub fn covers(self, ceiling: &Authority, asked: &Authority) -> Result<bool, Undecidable> {
        Ok(self.outside(ceiling, asked)?.is_none())
    }

    /// The first thing asked that the ceiling does not cover.
    pub fn outside(
        self,
        ceiling: &Authority,
        asked: &Authority,
    ) -> Result<Option<Outside>, Undecidable> {
        match self {
            Self::Aws => compare::outside::<aws::Aws>(ceiling, asked),
            Self::Scopes => compare::outside::<scopes::Scopes>(ceiling, asked),
            Self::Sql => compare::outside::<sql::Sql>(ceiling, asked),
            Self::Github => compare::outside::<github::Github>(ceiling, asked),
            Self::Kubernetes => compare::outside::<kubernetes::Kubernetes>(ceiling, asked),
        }
    }

    /// Whether anything at all lies within both. A mission whose `allow` does not overlap its
    /// agent's ceiling is unreachable.
    pub fn overlap(self, one: &Authority, other: &Authority) -> Result<bool, Undecidable> {
        match self {
            Self::Aws => compare::overlap::<aws::Aws>(one, other),
            Self::Scopes => compare::overlap::<scopes::Scopes>(one, other),
            Self::Sql => compare::overlap::<sql::Sql>(one, other),
            Self::Github => compare::overlap::<github::Github>(one, other),
            Self::Kubernetes => compare::overlap::<kubernetes::Kubernetes>(one, other),
        }
    }

    /// What is left of the authority without every pair of an action and a location that shares
    /// anything with what is denied, and the first such pair.
    pub fn without(
        self,
        authority: &Authority,
        denied: &Authority,
    ) -> Result<(Authority, Option<Outside>), Undecidable> {
        match self {
            Self::Aws => compare::without::<aws::Aws>(authority, denied),
            Self::Scopes => compare::without::<scopes::Scopes>(authority, denied),
            Self::Sql => compare::without::<sql::Sql>(authority, denied),
            Self::Github => compare::without::<github::Github>(authority, denied),
            Self::Kubernetes => compare::without::<kubernetes::Kubernetes>(authority, denied),
        }
    }

    /// Whether every pattern of the authority can be compared.
    pub fn check(self, authority: &Authority) -> Result<(), Undecidable> {
        match self {
            Self::Aws => compare::check::<aws::Aws>(authority),
            Self::Scopes => compare::check::<scopes::Scopes>(authority),
            Self::Sql => compare::check::<sql::Sql>(authority),
            Self::Github => compare::check::<github::Github>(authority),
            Self::Kubernetes => compare::check::<kubernetes::Kubernetes>(authority),
        }
    }

    /// The first pattern that can be compared and that nothing real ever fits, and why.
    pub fn fits_nothing(self, permission: &Permission) -> Option<(&str, &'static str)> {
        match self {
            Self::Aws => compare::fits_nothing::<aws::Aws>(permission),
            Self::Scopes => compare::fits_nothing::<scopes::Scopes>(permission),
            Self::Sql => compare::fits_nothing::<sql::Sql>(permission),
            Self::Github => compare::fits_nothing::<github::Github>(permission),
            Self::Kubernetes => compare::fits_nothing::<kubernetes::Kubernetes>(permission),
        }
    }

    /// What is left of the authority when only these actions are wanted, or the first of them that
    /// no permission covers. Each action keeps the locations it had, so nothing is added.
    pub fn narrow(
        self,
        authority: &Authority,
        actions: &[String],
    ) -> Result<Result<Authority, Outside>, Undecidable> {
        match self {
            Self::Aws => compare::narrow::<aws::Aws>(authority, actions),
            Self::Scopes => compare::narrow::<scopes::Scopes>(authority, actions),
            Self::Sql => compare::narrow::<sql::Sql>(authority, actions),
            Self::Github => compare::narrow::<github::Github>(authority, actions),
            Self::Kubernetes => compare::narrow::<kubernetes::Kubernetes>(authority, actions),
        }
    }
}

impl Authority {
    /// One permission for each detail, in order.
    pub fn from_details(details: &[AuthorizationDetail]) -> Self {
        Self(
            details
                .iter()
                .map(|detail| Permission {
                    actions: detail.actions.clone(),
                    locations: detail.locations.clone(),
                })
                .collect(),
        )
    }

    pub fn to_details(
        &self,
        kind: &str,
        target: &TargetId,
        max_ttl: Option<u32>,
    ) -> Vec<AuthorizationDetail> {
        self.0
            .iter()
            .map(|permission| AuthorizationDetail {
                kind: kind.to_owned(),
                identifier: target.to_string(),
                actions: permission.actions.clone(),
                locations: permission.locations.clone(),
                max_ttl,
            })
            .collect()
    }

    /// Every action once, in order, separated by spaces (RFC 6749 section 3.3), where that says no
    /// more than this authority does.
    ///
    /// SECURITY: a scope has no location. {A on x} and {B on y} joined would read as A on y, so
    /// there is no scope for them and `authorization_details` alone speaks.
    pub fn scope(&self) -> Option<String> {
        let (first, rest) = self.0.split_first()?;
        if rest.iter().any(|other| other.locations != first.locations) {
            return None;
        }
        let mut seen = Vec::new();
        for action in self.0.iter().flat_map(|permission| &permission.actions) {
            if !seen.contains(&action.as_str()) {
                seen.push(action.as_str());
            }
        }
        Some(seen.join(" "))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
