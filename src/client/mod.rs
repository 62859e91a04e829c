//! The typed client: what `dayfly token`, `exec` and the operators' commands speak to a broker with.

mod aws;
pub mod deliver;
pub mod endpoint;
pub mod enrol;
pub mod exec;
pub mod instance;
pub mod proof;
pub mod request;
pub mod sign_in;

use crate::secret::Secret;
use crate::wire::{ErrorBody, TokenResponse};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A broker, as seen from outside.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    broker: String,
    operator_token: Option<Secret<String>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the broker at {broker} cannot be reached: {cause}")]
    Unreachable { broker: String, cause: String },
    #[error("{}", told(.body))]
    Refused {
        status: u16,
        body: Box<ErrorBody>,
        retry_after: Option<u64>,
    },
    #[error("the broker answered {status} with something that is not Dayfly's: {hint}")]
    Foreign { status: u16, hint: String },
    #[error("{0}")]
    Local(String),
    /// The person's sign-in on this machine is no good, or there is none.
    #[error("{0}")]
    NotSignedIn(String),
}

impl ClientError {
    /// Whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } | Self::Foreign { status, .. } => {
                *status == 429 || *status >= 500
            }
            Self::Local(_) | Self::NotSignedIn(_) => false,
        }
    }

    /// When to bring the same once more, where it was answered that this is not the moment.
    fn try_again_after(&self) -> Option<Duration> {
        let seconds = match self {
            Self::Refused {
                status: 429 | 503,
                retry_after,
                ..
            } => retry_after.unwrap_or(1),
            // Of something before the broker.
            Self::Foreign {
                status: 502..=504, ..
            } => 1,
            // A broker that is being replaced.
            Self::Unreachable { .. } => 1,
            _ => return None,
        };
        Some(Duration::from_secs(seconds.max(1)))
    }
}

fn told(body: &ErrorBody) -> String {
    let mut text = body.error_description.clone();
    if let Some(reason) = &body.dayfly_reason {
        text = format!("{text} [{reason}]");
    }
    if let Some(at) = &body.at {
        text = format!("{text} at {at}");
    }
    if let Some(approval) = &body.deferral_code {
        text = format!("{text} as {approval}");
    }
    text = format!("{text} (refusal {})", body.refusal_id);
    for problem in &body.problems {
        let part = |name: &str| {
            problem
                .get(name)
                .and_then(|part| part.as_str())
                .unwrap_or("")
        };
        let line = problem
            .get("line")
            .map_or(String::new(), |line| format!(":{line}"));
        let (file, code, message) = (part("file"), part("code"), part("message"));
        text = format!("{text}\n  {file}{line} [{code}] {message}");
    }
    text
}

/// `http` clients never follow redirects: a redirected secret is a leaked one.
pub fn http_client() -> Result<reqwest::Client, ClientError> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(30))
        .user_agent(concat!("dayfly/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| ClientError::Local(format!("no HTTP client can be built: {error}")))
}

impl Client {
    pub fn new(broker: &str, operator_token: Option<Secret<String>>) -> Result<Self, ClientError> {
        let broker = broker.trim_end_matches('/').to_owned();
        let parsed = url::Url::parse(&broker)
            .map_err(|_| ClientError::Local(format!("`{broker}` is not a URL")))?;
        let loopback = parsed.host_str().is_some_and(is_loopback);
        if parsed.scheme() != "https" && !(parsed.scheme() == "http" && loopback) {
            return Err(ClientError::Local(format!(
                "`{broker}`: a broker is reached over https, or over http on loopback"
            )));
        }
        Ok(Self {
            http: http_client()?,
            broker,
            operator_token,
        })
    }

    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// `POST /token`.
    pub async fn token(&self, form: &[(&str, String)]) -> Result<TokenResponse, ClientError> {
        self.post_form("/token", form).await
    }

    async fn post_form<T: DeserializeOwned>(
        &self,
        path: &str,
        form: &[(&str, String)],
    ) -> Result<T, ClientError> {
        let request = self.http.post(format!("{}{path}", self.broker)).form(form);
        self.answer(request).await
    }

    /// `POST /revoke` (RFC 7009): the holder is done with it.
    pub async fn release(&self, token: &Secret<String>) -> Result<(), ClientError> {
        let form = [("token", token.expose().clone())];
        let request = self
            .http
            .post(format!("{}/revoke", self.broker))
            .form(&form);
        let response = self.send(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(());
        }
        Err(self.failure(response).await)
    }

    /// An operators' call; `path` begins with a slash.
    pub async fn admin<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let token = self.operator_token.as_ref().ok_or_else(|| {
            ClientError::Local(
                "no operator token: run `dayfly login`, or set DAYFLY_OPERATOR_TOKEN_FILE"
                    .to_owned(),
            )
        })?;
        let mut request = self
            .http
            .request(method, format!("{}/admin/v1{path}", self.broker))
            .bearer_auth(token.expose());
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.failure(response).await);
        }
        response.json().await.map_err(|error| ClientError::Foreign {
            status: status.as_u16(),
            hint: error.without_url().to_string(),
        })
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        request
            .send()
            .await
            .map_err(|error| ClientError::Unreachable {
                broker: self.broker.clone(),
                cause: root_cause(&error),
            })
    }

    async fn failure(&self, response: reqwest::Response) -> ClientError {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        let bytes = response.bytes().await.unwrap_or_default();
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => ClientError::Refused {
                status,
                body: Box::new(body),
                retry_after,
            },
            Err(_) => ClientError::Foreign {
                status,
                hint: String::from_utf8_lossy(&bytes).chars().take(200).collect(),
            },
        }
    }
}

/// Whether a URL's host is this machine.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_over_plain_http_must_be_on_loopback() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for good in [
            "https://broker.example",
            "http://127.0.0.1:8080/",
            "http://[::1]:80",
            "http://localhost:1",
        ] {
            assert!(Client::new(good, None).is_ok(), "{good}");
        }
        for bad in [
            "http://broker.example",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "broker",
            "http://127.0.0.1.evil.example",
        ] {
            assert!(Client::new(bad, None).is_err(), "{bad}");
        }
    }
}
