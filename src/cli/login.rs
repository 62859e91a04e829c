//! `dayfly login`: the operator signs in at the organisation's identity provider (OpenID Connect,
//! authorization code with PKCE, RFC 8252 loopback redirect); the ID token is what operators' doors
//! ask for.

use super::output::{Failure, Output};
use crate::client::deliver::write_atomically;
use crate::client::{http_client, is_loopback};
use crate::secret::Secret;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use clap::Args;
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
    BasicTokenType,
};
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, CsrfToken, ExtraTokenFields, HttpRequest, HttpResponse,
    PkceCodeChallenge, RedirectUrl, Scope, StandardRevocableToken, StandardTokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the person has.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The identity provider, as `[operators]` names it.
    #[arg(long, env = "DAYFLY_OPERATOR_ISSUER")]
    issuer: String,
    /// This program's client id there. A public client: it has no secret.
    #[arg(long, env = "DAYFLY_OPERATOR_CLIENT_ID")]
    client_id: String,
    /// The loopback port that the provider knows; 0 takes any (RFC 8252 section 7.3).
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct OpenIdFields {
    id_token: Option<String>,
}

impl ExtraTokenFields for OpenIdFields {}

type Answer = StandardTokenResponse<OpenIdFields, BasicTokenType>;
type Provider = oauth2::Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

/// What of the discovery document matters here.
#[derive(Debug, Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
}

#[derive(Debug, Deserialize)]
struct Redirected {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

pub async fn login(args: LoginArgs, output: &Output) -> Result<u8, Failure> {
    let http = http_client()?;
    let discovery = discover(&http, &args.issuer).await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", args.port))
        .await
        .map_err(|error| Failure::failed(format!("port {}: {error}", args.port)))?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::failed(error.to_string()))?;

    let bad = |error: url::ParseError| Failure::failed(format!("the provider's metadata: {error}"));
    let redirect = RedirectUrl::new(format!("http://{address}/callback")).map_err(bad)?;
    let provider = Provider::new(ClientId::new(args.client_id))
        .set_auth_uri(AuthUrl::new(discovery.authorization_endpoint).map_err(bad)?)
        .set_token_uri(TokenUrl::new(discovery.token_endpoint).map_err(bad)?)
        .set_redirect_uri(redirect);
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (url, state) = provider
        .authorize_url(CsrfToken::new_random)
        .add_scope(Scope::new("openid".to_owned()))
        .add_scope(Scope::new("email".to_owned()))
        .set_pkce_challenge(challenge)
        .url();
    output.notice(&format!("open this in a browser to sign in:\n\n  {url}\n"));

    let code = wait_for_code(listener, state).await?;
    let send = |request: HttpRequest| carry(http.clone(), request);
    let answer = provider
        .exchange_code(AuthorizationCode::new(code))
        .set_pkce_verifier(verifier)
        .request_async(&send)
        .await
        .map_err(|error| Failure {
            code: 4,
            ..Failure::failed(format!("sign-in failed: {error}"))
        })?;
    let token = answer.extra_fields().id_token.clone().ok_or_else(|| {
        Failure::failed(
            "the provider gave no ID token: is this client registered for OpenID Connect?",
        )
    })?;
    let path = store(&Secret::new(token))?;
    output.notice(&format!("signed in; the token is in {}", path.display()));
    Ok(0)
}

async fn discover(http: &reqwest::Client, issuer: &str) -> Result<Discovery, Failure> {
    let parsed = url::Url::parse(issuer)
        .map_err(|error| Failure::usage(format!("--issuer `{issuer}`: {error}")))?;
    if parsed.scheme() != "https" && !parsed.host_str().is_some_and(is_loopback) {
        return Err(Failure::usage("--issuer must be an https URL"));
    }
    let place = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let problem = |error: reqwest::Error| Failure {
        code: 6,
        ..Failure::failed(format!("{place}: {error}"))
    };
    let answer = http
        .get(&place)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(problem)?;
    let discovery: Discovery = answer.json().await.map_err(problem)?;
    // SECURITY: OpenID Connect Discovery section 4.3; otherwise one provider could stand in for another.
    if discovery.issuer != issuer {
        return Err(Failure::failed(format!(
            "{place} is about `{}`, not `{issuer}`: give --issuer exactly as the provider does",
            discovery.issuer
        )));
    }
    Ok(discovery)
}

/// The browser comes back with a code, or with an error, within the time.
async fn wait_for_code(
    listener: tokio::net::TcpListener,
    state: CsrfToken,
) -> Result<String, Failure> {
    let (sender, mut receiver) = mpsc::channel::<Redirected>(1);
    let router = axum::Router::new()
        .route("/callback", axum::routing::get(callback))
        .with_state(sender);
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let came = tokio::time::timeout(PATIENCE, receiver.recv()).await;
    // The page that tells the person so is still on its way.
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.abort();
    let came = came
        .map_err(|_| Failure::failed("nobody signed in within five minutes"))?
        .ok_or_else(|| Failure::failed("the sign-in was cut off"))?;
    if let Some(error) = came.error {
        return Err(Failure {
            code: 4,
            ..Failure::failed(format!("the provider refused: {error}"))
        });
    }
    // SECURITY: a code that comes with another state belongs to somebody else's sign-in.
    if came.state.as_deref() != Some(state.secret().as_str()) {
        return Err(Failure {
            code: 4,
            ..Failure::failed("the answer belongs to another sign-in")
        });
    }
    came.code
        .ok_or_else(|| Failure::failed("the provider gave no code"))
}

async fn callback(
    State(sender): State<mpsc::Sender<Redirected>>,
    Query(came): Query<Redirected>,
) -> (StatusCode, &'static str) {
    // A second visit changes nothing: the first one is being handled.
    drop(sender.try_send(came));
    (
        StatusCode::OK,
        "Dayfly has your answer. You can close this page and return to the terminal.\n",
    )
}

async fn carry(
    http: reqwest::Client,
    request: HttpRequest,
) -> Result<HttpResponse, reqwest::Error> {
    let answer = http.execute(request.try_into()?).await?;
    let mut response = HttpResponse::new(Vec::new());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    *response.body_mut() = answer.bytes().await?.to_vec();
    Ok(response)
}

fn store(token: &Secret<String>) -> Result<PathBuf, Failure> {
    let path = token_path().ok_or_else(|| {
        Failure::failed("neither XDG_STATE_HOME nor HOME is set: where to keep the token?")
    })?;
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))?;
    }
    write_atomically(&path, token)?;
    Ok(path)
}

/// What `dayfly login` stored, if it did.
pub fn stored_token() -> Option<PathBuf> {
    token_path().filter(|path| path.exists())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the XDG base directories are environment variables"
)]
fn token_path() -> Option<PathBuf> {
    let state = std::env::var("XDG_STATE_HOME")
        .ok()
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .or_else(|| {
            std::env::var("HOME")
                .ok()
                .map(|home| PathBuf::from(home).join(".local/state"))
        })?;
    Some(state.join("dayfly").join("operator-token"))
}
