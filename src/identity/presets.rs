//! The platforms everyone has, as data: naming one is enough. What matters about a platform is
//! which of its claims are ids that cannot be re-registered, what its tokens prove about the run,
//! and whether strangers have tokens of the same issuer.

mod platforms;

use super::settings::{IssuerSettings, KeySource, PinSettings};
use crate::ids::IssuerId;
use crate::jose::{Algorithm, RemoteKeysSettings};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

use platforms::{ALL, AWS_STS, GITHUB};

/// One platform.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    pub name: &'static str,
    /// `None`: every installation has its own; the configuration names it.
    pub url: Option<&'static str>,
    pub algorithms: &'static [Algorithm],
    pub single_use: bool,
    pub max_lifetime: Duration,
    /// The claim that tells its instances apart, and how long a key is held to one, where its tokens'
    /// audience is fixed before there is a key that they could name.
    pub pin: Option<(&'static str, Duration)>,
    /// Fact name, claim path.
    pub facts: &'static [(&'static str, &'static str)],
    /// Claim path, value that is refused unless an agent's identity names it.
    pub refused: &'static [(&'static str, &'static str)],
    /// One of these must be pinned where the issuer is `url`: it serves strangers too.
    pub tenant: &'static [&'static str],
    /// Short names for `identity = { ... }`, and the claim each one is.
    pub identity: &'static [(&'static str, &'static str)],
    /// Claims of which an agent's identity must name at least one: ids, which outlive a rename
    /// and cannot be registered again by someone else.
    pub ids: &'static [&'static str],
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PresetError {
    #[error("`{0}` needs `url`: every installation of it has its own issuer")]
    NoUrl(&'static str),
    #[error("an identity of `{preset}` has no `{field}`: use one of {known}")]
    UnknownField {
        preset: &'static str,
        field: String,
        known: String,
    },
    #[error("an identity of `{preset}` must name one of {ids}: names can be registered again")]
    NoId { preset: &'static str, ids: String },
    #[error(
        "`workflow` needs `{0}` beside it: the file's name alone does not say which file it is"
    )]
    Workflow(&'static str),
    #[error("`{0}` must be a string, a whole number or a boolean")]
    NotScalar(String),
    #[error("claim `{0}` is written twice, with two values")]
    TwoValues(String),
}

pub fn by_name(name: &str) -> Option<Preset> {
    ALL.into_iter().find(|preset| preset.name == name).copied()
}

pub fn all() -> impl Iterator<Item = &'static Preset> {
    ALL.into_iter()
}

/// The claims of which one must be pinned for an issuer that serves strangers too.
pub fn tenant_claims(url: &str) -> Option<&'static [&'static str]> {
    ALL.into_iter()
        .find(|preset| {
            preset
                .url
                .is_some_and(|own| own == url.trim_end_matches('/'))
        })
        .map(|preset| preset.tenant)
}

impl Preset {
    /// The settings of an issuer of this kind, to be overridden where the configuration says so.
    /// `tenant` is left empty.
    pub fn settings(
        &self,
        id: IssuerId,
        url: Option<String>,
        audiences: Vec<String>,
    ) -> Result<IssuerSettings, PresetError> {
        let url = url
            .or_else(|| self.url.map(str::to_owned))
            .ok_or(PresetError::NoUrl(self.name))?;
        Ok(IssuerSettings {
            id,
            url,
            audiences,
            algorithms: self.algorithms.to_vec(),
            keys: KeySource::Discovery,
            private_network: false,
            ca: None,
            keys_max_age: RemoteKeysSettings::default().max_age,
            review: None,
            sts: self
                .url
                .filter(|_| self.asks_sts())
                .map(str::to_owned)
                .into_iter()
                .collect(),
            single_use: self.single_use,
            pin: self.pin.map(|(claim, kept)| PinSettings {
                claim: claim.to_owned(),
                kept,
            }),
            people: false,
            max_lifetime: self.max_lifetime,
            facts: self
                .facts
                .iter()
                .map(|(fact, claim)| ((*fact).to_owned(), (*claim).to_owned()))
                .collect(),
            tenant: BTreeMap::new(),
            refused: self
                .refused
                .iter()
                .map(|(claim, value)| ((*claim).to_owned(), vec![Value::from(*value)]))
                .collect(),
        })
    }

    /// Whether its proofs are signed requests that STS judges, and no tokens.
    pub fn asks_sts(&self) -> bool {
        self.name == AWS_STS.name
    }

    /// From the short names of `identity = { ... }` to the claims that an agent's identity match
    /// names. A field that is a claim path itself (it has a `claim.` before it) is taken as it is.
    pub fn identity_claims(
        &self,
        fields: &BTreeMap<String, Value>,
    ) -> Result<BTreeMap<String, Value>, PresetError> {
        let mut claims = BTreeMap::new();
        for (field, value) in fields {
            super::claims::text(value).ok_or_else(|| PresetError::NotScalar(field.clone()))?;
            let (claim, value) = match field.as_str() {
                "workflow" => self.workflow(fields, value)?,
                field => (self.claim_of(field)?, value.clone()),
            };
            // SECURITY: of two that are written none is left out.
            if let Some(other) = claims.get(&claim)
                && !super::claims::same(other, &value)
            {
                return Err(PresetError::TwoValues(claim));
            }
            claims.insert(claim, value);
        }
        if self.ids.iter().any(|id| claims.contains_key(*id)) {
            Ok(claims)
        } else {
            Err(PresetError::NoId {
                preset: self.name,
                ids: self.fields_of(self.ids),
            })
        }
    }

    fn claim_of(&self, field: &str) -> Result<String, PresetError> {
        if let Some(claim) = field.strip_prefix("claim.") {
            return Ok(claim.to_owned());
        }
        self.identity
            .iter()
            .find(|(name, _)| *name == field)
            .map(|(_, claim)| (*claim).to_owned())
            .ok_or_else(|| PresetError::UnknownField {
                preset: self.name,
                field: field.to_owned(),
                known: self
                    .identity
                    .iter()
                    .map(|(name, _)| *name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// `workflow = "deploy.yml"` means a file at a ref of the repository: `workflow_ref` in full.
    fn workflow(
        &self,
        fields: &BTreeMap<String, Value>,
        file: &Value,
    ) -> Result<(String, Value), PresetError> {
        if self.name != GITHUB.name {
            return Err(PresetError::UnknownField {
                preset: self.name,
                field: "workflow".to_owned(),
                known: self.fields_of(&[]),
            });
        }
        let text = |field: &str| fields.get(field).and_then(Value::as_str);
        let repository = text("github")
            .or_else(|| text("repository"))
            .ok_or(PresetError::Workflow("repository"))?;
        let at = text("ref").ok_or(PresetError::Workflow("ref"))?;
        let file = file
            .as_str()
            .ok_or_else(|| PresetError::NotScalar("workflow".to_owned()))?;
        Ok((
            "workflow_ref".to_owned(),
            Value::from(format!("{repository}/.github/workflows/{file}@{at}")),
        ))
    }

    /// The short names of these claims; of all, where none is given.
    fn fields_of(&self, claims: &[&str]) -> String {
        self.identity
            .iter()
            .filter(|(_, claim)| claims.is_empty() || claims.contains(claim))
            .map(|(name, _)| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

#[cfg(test)]
mod tests;
