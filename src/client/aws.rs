//! The proof of whoever holds AWS credentials: the question "who am I?", signed and not asked. The
//! broker has it answered (see `identity::aws`); the secret key stays here.

use super::ClientError;
use crate::identity::aws::{BODY, NONCE, SERVER_ID};
use crate::secret::Secret;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_http_client::tls;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

/// What signs for the endpoint that is the same everywhere.
const GLOBAL: (&str, &str) = ("https://sts.amazonaws.com", "us-east-1");
const FORM: &str = "application/x-www-form-urlencoded";

/// Credentials found where the SDK looks: environment, profile, container, instance.
/// `endpoint`: of STS; absent, that of the region which is found there too.
/// `server`: the broker, and the key that the proof is bound to.
pub(super) async fn signed_request(
    endpoint: Option<&str>,
    server: &str,
    now: OffsetDateTime,
) -> Result<Secret<String>, ClientError> {
    // For what is found over HTTP: the container's and the instance's own endpoints.
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::Ring,
        ))
        .build_https();
    let found = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .http_client(http)
        .load()
        .with_subscriber(NoSubscriber::new())
        .await;
    let problem = |why: &str| ClientError::Local(format!("no AWS credentials: {why}"));
    let provider = found
        .credentials_provider()
        .ok_or_else(|| problem("none are configured"))?;
    let credentials = provider
        .provide_credentials()
        .with_subscriber(NoSubscriber::new())
        .await
        .map_err(|error| problem(&error.to_string()))?;
    let region = found.region().map(ToString::to_string);
    let (endpoint, region) = match (endpoint, region) {
        (Some(endpoint), region) => (
            endpoint.trim_end_matches('/').to_owned(),
            region.unwrap_or_else(|| GLOBAL.1.to_owned()),
        ),
        (None, Some(region)) => (format!("https://sts.{region}.amazonaws.com"), region),
        (None, None) => (GLOBAL.0.to_owned(), GLOBAL.1.to_owned()),
    };
    sign_for(&credentials, &endpoint, &region, server, now)
        .map_err(|why| ClientError::Local(format!("the request to STS cannot be signed: {why}")))
}

fn sign_for(
    credentials: &Credentials,
    endpoint: &str,
    region: &str,
    server: &str,
    now: OffsetDateTime,
) -> Result<Secret<String>, String> {
    let url = format!("{endpoint}/");
    let nonce = crate::ids::draw_uuid().to_string();
    let host = url
        .split_once("://")
        .map(|(_, rest)| rest.trim_end_matches('/').to_owned())
        .ok_or("the endpoint is not a URL")?;
    let own = [
        ("content-type", FORM),
        ("host", host.as_str()),
        (NONCE, nonce.as_str()),
        (SERVER_ID, server),
    ];
    let identity = credentials.clone().into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(now.into())
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?
        .into();
    let request = SignableRequest::new(
        "POST",
        &url,
        own.iter().copied(),
        SignableBody::Bytes(BODY.as_bytes()),
    )
    .map_err(|error| error.to_string())?;
    let (added, _) = tracing::subscriber::with_default(NoSubscriber::new(), || {
        sign(request, &params).map_err(|error| error.to_string())
    })?
    .into_parts();
    let headers: Map<String, Value> = own
        .into_iter()
        .chain(added.headers())
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect();
    let request = json!({ "method": "POST", "url": url, "headers": headers, "body": BODY });
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(request.to_string())))
}
