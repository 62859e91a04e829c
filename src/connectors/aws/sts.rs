//! Talking to STS, and what its silence means.
//!
//! SECURITY: no request is ever repeated by the SDK: a second try is a second session, and only one
//! of them would be on record. And the SDK's own tracing goes nowhere: at its finest level it
//! writes requests and, where an environment variable says so, the keys that come back.

use super::super::{AwsMethod, AwsSettings, ConnectorError, Setup};
use super::federation::Names;
use crate::secret::Secret;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::http::HttpResponse;
use aws_sdk_sts::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::config::{BehaviorVersion, Builder, ConfigBag, Credentials, Intercept};
use aws_sdk_sts::config::{Region, RuntimeComponents, SharedHttpClient};
use aws_sdk_sts::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_sts::types::{AssumedRoleUser, Tag};
use aws_smithy_http_client::tls;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::OnceCell;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

/// A connection that takes longer is not going to be there in time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than any load balancer's, so that a request seldom meets a connection that just closed:
/// its outcome would be unknown.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked of STS, whichever way.
pub(super) struct Ask<'a> {
    pub role: &'a str,
    pub session_name: String,
    pub policy: String,
    pub seconds: i32,
}

/// What STS issued; every field was there.
pub(super) struct Session {
    pub access_key_id: String,
    pub secret_access_key: Secret<String>,
    pub session_token: Secret<String>,
    pub expires_at: OffsetDateTime,
    pub assumed_role: String,
}

pub(super) struct Sts {
    config: Builder,
    region: String,
    http: SharedHttpClient,
    keys: Keys,
    client: OnceCell<Client>,
}

/// What signs our requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// Nothing: a web identity token stands in the request.
    None,
    Configured,
    /// Found where the SDK looks: environment, profile, container, instance.
    Ambient,
}

impl fmt::Debug for Sts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sts")
            .field("region", &self.region)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Sts {
    pub fn new(settings: &AwsSettings, setup: &Setup<'_>) -> Result<Self, String> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(setup.call_timeout))
            .operation_timeout(setup.call_timeout)
            .build();
        let mut config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(settings.region.clone()))
            .http_client(http.clone())
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled());
        config.set_endpoint_url(settings.endpoint.clone());
        let keys = match (
            settings.method,
            &settings.access_key_id,
            &settings.secret_access_key,
        ) {
            (AwsMethod::WebIdentity, ..) => {
                // For `check` alone, which has to sign something to get an answer.
                config = config.credentials_provider(static_keys("none", "none"));
                Keys::None
            }
            (AwsMethod::AssumeRole, Some(id), Some(secret)) => {
                let (id, secret) = ((setup.resolve)(id)?, (setup.resolve)(secret)?);
                config = config.credentials_provider(static_keys(id.expose(), secret.expose()));
                Keys::Configured
            }
            (AwsMethod::AssumeRole, ..) => Keys::Ambient,
        };
        Ok(Self {
            config,
            region: settings.region.clone(),
            http,
            keys,
            client: OnceCell::new(),
        })
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| async {
                let mut config = self.config.clone();
                if self.keys == Keys::Ambient {
                    let found = aws_config::defaults(BehaviorVersion::latest())
                        .region(Region::new(self.region.clone()))
                        .http_client(self.http.clone())
                        .load()
                        .await;
                    config.set_credentials_provider(found.credentials_provider());
                }
                Client::from_conf(config.build())
            })
            .await
    }

    pub async fn assume_role(
        &self,
        ask: Ask<'_>,
        names: &Names<'_>,
        external_id: Option<&str>,
    ) -> Result<Session, ConnectorError> {
        let mut request = self
            .client()
            .await
            .assume_role()
            .role_arn(ask.role)
            .role_session_name(ask.session_name)
            .policy(ask.policy)
            .duration_seconds(ask.seconds)
            .source_identity(&names.source_identity)
            .set_external_id(external_id.map(str::to_owned));
        for (key, value) in names.tags() {
            let tag = Tag::builder()
                .key(key)
                .value(value)
                .build()
                .map_err(|error| ConnectorError::Inexpressible(error.to_string()))?;
            request = request.tags(tag).transitive_tag_keys(key);
        }
        let sent = Sent::default();
        let answer = request
            .customize()
            .interceptor(sent.clone())
            .send()
            .with_subscriber(NoSubscriber::new())
            .await
            .map_err(|error| sent.classified(error))?;
        session(answer.credentials, answer.assumed_role_user)
    }

    pub async fn assume_role_with_web_identity(
        &self,
        ask: Ask<'_>,
        token: &Secret<String>,
    ) -> Result<Session, ConnectorError> {
        let sent = Sent::default();
        let answer = self
            .client()
            .await
            .assume_role_with_web_identity()
            .role_arn(ask.role)
            .role_session_name(ask.session_name)
            .policy(ask.policy)
            .duration_seconds(ask.seconds)
            .web_identity_token(token.expose())
            .customize()
            .interceptor(sent.clone())
            .send()
            .with_subscriber(NoSubscriber::new())
            .await
            .map_err(|error| sent.classified(error))?;
        session(answer.credentials, answer.assumed_role_user)
    }

    /// Whether STS is there and, with a key of ours, knows it. Whether it trusts the broker's
    /// federation issuer shows with the first session: a trial would be a session nobody recorded.
    pub async fn check(&self) -> Result<(), ConnectorError> {
        let answer = self.client().await.get_caller_identity().send().await;
        match answer {
            Ok(_) => Ok(()),
            // It is there and says no to a key that is none.
            Err(error) if self.keys == Keys::None && is_no(&error) => Ok(()),
            Err(error) if is_no(&error) => Err(ConnectorError::Refused(shown(&error))),
            Err(error) => Err(ConnectorError::Unavailable(shown(&error))),
        }
    }
}

fn static_keys(id: &str, secret: &str) -> Credentials {
    Credentials::new(id, secret, None, None, "dayfly")
}

fn session(
    credentials: Option<aws_sdk_sts::types::Credentials>,
    user: Option<AssumedRoleUser>,
) -> Result<Session, ConnectorError> {
    let missing = |what: &str| ConnectorError::Unknown(format!("STS answered without {what}"));
    let credentials = credentials.ok_or_else(|| missing("credentials"))?;
    let user = user.ok_or_else(|| missing("the assumed role"))?;
    let filled = [
        credentials.access_key_id(),
        credentials.secret_access_key(),
        credentials.session_token(),
    ];
    if filled.iter().any(|field| field.is_empty()) {
        return Err(missing("a whole key"));
    }
    Ok(Session {
        expires_at: OffsetDateTime::from_unix_timestamp(credentials.expiration().secs())
            .map_err(|_| missing("an expiry that is a date"))?,
        access_key_id: credentials.access_key_id,
        secret_access_key: Secret::new(credentials.secret_access_key),
        session_token: Secret::new(credentials.session_token),
        assumed_role: user.arn,
    })
}

/// Whether a request got as far as the wire.
#[derive(Debug, Clone, Default)]
struct Sent(Arc<AtomicBool>);

impl Intercept for Sent {
    fn name(&self) -> &'static str {
        "Sent"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl Sent {
    /// What a failed request left behind.
    fn classified<E>(&self, error: SdkError<E, HttpResponse>) -> ConnectorError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let text = shown(&error);
        match &error {
            // Could not be built, or nothing was found to sign it with.
            _ if !self.0.load(Ordering::SeqCst) => ConnectorError::Unavailable(text),
            SdkError::DispatchFailure(_) if never_connected(&error) => {
                ConnectorError::Unavailable(text)
            }
            SdkError::ServiceError(answer) => {
                let code = answer.err().code().unwrap_or_default();
                of_answer(answer.raw().status().as_u16(), code, text)
            }
            // Time-outs, answers that cannot be read, and whatever the SDK may add.
            _ => ConnectorError::Unknown(text),
        }
    }
}

/// STS answered with an error.
fn of_answer(status: u16, code: &str, text: String) -> ConnectorError {
    match code {
        "PackedPolicyTooLarge" | "MalformedPolicyDocument" => ConnectorError::Inexpressible(text),
        // STS says of these itself that nothing was done and later may go better.
        "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "ServiceUnavailable"
        | "IDPCommunicationError" => ConnectorError::Unavailable(text),
        _ if (400..500).contains(&status) => ConnectorError::Refused(text),
        // SECURITY: a server that broke may have issued the session first.
        _ => ConnectorError::Unknown(text),
    }
}

/// STS understood and said no.
fn is_no<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let SdkError::ServiceError(answer) = error else {
        return false;
    };
    let code = answer.err().code().unwrap_or_default();
    let said = of_answer(answer.raw().status().as_u16(), code, String::new());
    matches!(said, ConnectorError::Refused(_))
}

/// No connection came about: no name, no route, no listener, no TLS.
fn never_connected(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let client = error.downcast_ref::<hyper_util::client::legacy::Error>();
        if client.is_some_and(hyper_util::client::legacy::Error::is_connect) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The whole chain on one bounded line. STS's messages name principals and actions, never keys.
fn shown(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(600)
        .collect()
}
