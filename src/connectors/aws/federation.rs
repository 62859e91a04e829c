//! Who is behind a session, in AWS's words; and the token that says so to STS.
//!
//! The token comes from an issuer of the target's own, `<broker url>/federation/<target>`, with its
//! own keys: a cloud ignores `typ`, so no other token of ours may ever be one. OpenID Connect Core
//! section 2 for the claims, AWS's session tag claims for the rest.

use super::super::{ConnectorError, MintContext};
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use crate::jose::{Keyring, Purpose};
use crate::policy::Grant;
use crate::secret::Secret;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A federation token is used once, at once.
const LONGEST: Duration = Duration::from_secs(60);
const AUDIENCE: &str = "sts.amazonaws.com";

/// The names of one grant as AWS keeps them. All are words of `a-z 0-9 - _ .`, so none needs escaping.
#[derive(Debug)]
pub(super) struct Names<'a> {
    pub agent: &'a AgentId,
    pub mission: &'a MissionId,
    pub lease: &'a LeaseId,
    /// Fixed for the session and every role chained from it; CloudTrail shows it everywhere.
    pub source_identity: String,
}

impl<'a> Names<'a> {
    pub fn of(grant: &'a Grant, lease: &'a LeaseId) -> Self {
        let mut source_identity = grant.agent().to_string();
        if source_identity.len() < 2 {
            // AWS wants two characters; no agent's name has an `@`, so this is nobody else's.
            source_identity.push('@');
        }
        Self {
            agent: grant.agent(),
            mission: grant.mission(),
            lease,
            source_identity,
        }
    }

    /// Session tags; all of them go on to chained roles.
    pub fn tags(&self) -> [(&'static str, String); 3] {
        [
            ("agent", self.agent.to_string()),
            ("lease", self.lease.to_string()),
            ("mission", self.mission.to_string()),
        ]
    }

    /// What a trust policy compares: a name holds no `:`, so each part is where it says.
    fn subject(&self) -> String {
        format!("agent:{}:mission:{}", self.agent, self.mission)
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: String,
    aud: &'static str,
    iat: i64,
    exp: i64,
    jti: &'a LeaseId,
    #[serde(rename = "https://aws.amazon.com/tags")]
    tags: Tags,
    #[serde(rename = "https://aws.amazon.com/source_identity")]
    source_identity: &'a str,
}

#[derive(Serialize)]
struct Tags {
    principal_tags: BTreeMap<&'static str, [String; 1]>,
    transitive_tag_keys: Vec<&'static str>,
}

pub(super) fn token(
    keyring: &Keyring,
    issuer: &str,
    target: &TargetId,
    names: &Names<'_>,
    context: &MintContext<'_>,
) -> Result<Secret<String>, ConnectorError> {
    let claims = Claims {
        iss: issuer,
        sub: names.subject(),
        aud: AUDIENCE,
        iat: context.now.unix_timestamp(),
        // INVARIANT: a request that STS sees after `mint_by` fails by itself.
        exp: (context.now + LONGEST)
            .min(context.mint_by)
            .unix_timestamp(),
        jti: names.lease,
        tags: Tags {
            transitive_tag_keys: names.tags().iter().map(|(key, _)| *key).collect(),
            principal_tags: names
                .tags()
                .into_iter()
                .map(|(key, value)| (key, [value]))
                .collect(),
        },
        source_identity: &names.source_identity,
    };
    keyring
        .sign(Purpose::Federation(target.to_string()), "JWT", &claims)
        .map(|(token, _)| token)
        .map_err(|error| ConnectorError::Unavailable(error.to_string()))
}
