//! AWS: a session of one role, narrowed to the grant.
//!
//! In: a grant in IAM actions and ARNs. Out: temporary credentials from STS whose session policy
//! allows the grant's pairs until the lease's last second, and nothing else. The session's name is
//! the lease id, so CloudTrail names the lease beside every call.
//!
//! STS has no call that ends a session, so the class is `expiry`. It issues 900 s at least; a
//! shorter lease is kept by the session policy's own clock, not by the session's expiry.

mod federation;
pub(crate) mod pattern;
mod session_policy;
mod settings;
mod sts;

use super::{AWS_SESSION_TYPE, Connector, ConnectorError, Ended, Handle, MintContext, Minted};
use super::{AwsMethod, AwsSettings, Promises, SettingProblem, Setup};
use crate::ids::{LeaseId, TargetId};
use crate::jose::Keyring;
use crate::policy::Grant;
use crate::secret::Secret;
use async_trait::async_trait;
use federation::Names;
use session_policy::session_policy;
use settings::RoleArn;
use std::sync::Arc;
use std::time::Duration;
use sts::{Ask, Session, Sts};
use time::OffsetDateTime;

/// STS issues no shorter session.
const SHORTEST_SESSION: Duration = Duration::from_secs(900);
/// How far STS's clock may be ahead of ours before its answer is not the one asked for.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Aws {
    target: TargetId,
    role: RoleArn,
    method: AwsMethod,
    external_id: Option<String>,
    /// `<broker url>/federation/<target>`: what the role's trust policy names.
    federation_issuer: String,
    keyring: Arc<Keyring>,
    sts: Sts,
    promises: Promises,
}

impl AwsSettings {
    pub(super) fn problems(&self) -> Vec<SettingProblem> {
        settings::problems(self)
    }
}

impl Aws {
    pub fn new(
        target: &TargetId,
        settings: &AwsSettings,
        promises: Promises,
        setup: &Setup<'_>,
    ) -> Result<Self, Vec<String>> {
        let problems = settings.problems();
        let role = match RoleArn::parse(&settings.role) {
            Some(role) if problems.is_empty() => role,
            _ => return Err(problems.iter().map(ToString::to_string).collect()),
        };
        let sts = Sts::new(settings, setup).map_err(|problem| vec![problem])?;
        let broker_url = setup.broker_url.trim_end_matches('/');
        Ok(Self {
            target: target.clone(),
            role,
            method: settings.method,
            external_id: settings.external_id.clone(),
            federation_issuer: format!("{broker_url}/federation/{target}"),
            keyring: setup.keyring.clone(),
            sts,
            promises,
        })
    }

    async fn ask(
        &self,
        grant: &Grant,
        context: &MintContext<'_>,
        policy: String,
    ) -> Result<Session, ConnectorError> {
        let names = Names::of(grant, context.lease);
        let ask = Ask {
            role: self.role.text(),
            session_name: context.lease.to_string(),
            policy,
            seconds: session_seconds(context),
        };
        match self.method {
            AwsMethod::AssumeRole => {
                self.sts
                    .assume_role(ask, &names, self.external_id.as_deref())
                    .await
            }
            AwsMethod::WebIdentity => {
                let token = federation::token(
                    &self.keyring,
                    &self.federation_issuer,
                    &self.target,
                    &names,
                    context,
                )?;
                self.sts.assume_role_with_web_identity(ask, &token).await
            }
        }
    }

    /// SECURITY: STS has issued something by now. What is not exactly what was asked for is not
    /// handed out, and counts as a credential that may exist.
    fn accept(
        &self,
        session: Session,
        context: &MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        let wrong = |what: &str| Err(ConnectorError::Unknown(format!("STS answered {what}")));
        let lease = context.lease.to_string();
        if session.assumed_role != self.role.assumed(&lease) {
            return wrong("with a session of another role or name");
        }
        if session.expires_at <= context.now {
            return wrong("with a session that has already expired");
        }
        let asked = Duration::from_secs(u64::from(session_seconds(context).unsigned_abs()));
        if session.expires_at > context.now + asked + CLOCK_TOLERANCE {
            return wrong("with a session that is longer than was asked for");
        }
        let ends = session.expires_at.min(context.expires_at);
        let expires_at = ends.replace_nanosecond(0).unwrap_or(ends);
        Ok(Minted {
            token: None,
            credential: Some(credential(&session, expires_at)?),
            issued_token_type: AWS_SESSION_TYPE,
            handle: None,
            names: vec![session.access_key_id, lease, session.assumed_role],
            expires_at,
            token_sha256: None,
            signing_key: None,
        })
    }
}

#[async_trait]
impl Connector for Aws {
    fn promises(&self) -> Promises {
        self.promises
    }

    async fn mint(
        &self,
        grant: &Grant,
        context: MintContext<'_>,
    ) -> Result<Minted, ConnectorError> {
        // SECURITY: no session policy, no session: without one STS hands out the whole role.
        let policy = session_policy(grant.authority(), context.expires_at)
            .map_err(|why| ConnectorError::Inexpressible(why.to_string()))?;
        if policy.denials_left_out > 0 {
            tracing::info!(
                lease = %context.lease,
                left_out = policy.denials_left_out,
                "the session policy has no room to deny all that is outside the grant"
            );
        }
        let session = self.ask(grant, &context, policy.text).await?;
        self.accept(session, &context)
    }

    async fn end(&self, _: &LeaseId, _: Option<&Handle>) -> Result<Ended, ConnectorError> {
        Ok(Ended::LivesUntilExpiry)
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        self.sts.check().await
    }
}

/// As long as the lease, within what STS issues.
fn session_seconds(context: &MintContext<'_>) -> i32 {
    let life = (context.expires_at - context.now).unsigned_abs();
    let whole = life.as_secs() + u64::from(life.subsec_nanos() > 0);
    i32::try_from(whole.max(SHORTEST_SESSION.as_secs())).unwrap_or(i32::MAX)
}

/// What the holder gets, in the words of the answer.
#[derive(serde::Serialize)]
struct Credential<'a> {
    r#type: &'static str,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    expiration: OffsetDateTime,
}

fn credential(
    session: &Session,
    expires_at: OffsetDateTime,
) -> Result<Secret<String>, ConnectorError> {
    serde_json::to_string(&Credential {
        r#type: "aws_session",
        access_key_id: &session.access_key_id,
        secret_access_key: session.secret_access_key.expose(),
        session_token: session.session_token.expose(),
        expiration: expires_at,
    })
    .map(Secret::new)
    .map_err(|_| ConnectorError::Unknown("STS answered with what cannot be written".to_owned()))
}

#[cfg(test)]
mod tests;
