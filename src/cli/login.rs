//! `dayfly login`: the operator signs in at the organisation's identity provider (OpenID Connect,
//! authorization code with PKCE, RFC 8252 loopback redirect); the ID token is what operators' doors
//! ask for. A person who runs agents signs in in the same way, with a key that the ID token is bound to.

use super::output::{Failure, Output};
use crate::client::deliver::write_atomically;
use crate::client::sign_in::SignIn;
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

#[derive(Debug, Clone, Args)]
pub struct LoginArgs {
    /// Sign in as somebody who runs agents (`token --as`, `exec --as`), not as an operator. The ID token is
    /// bound to a key that never leaves this machine.
    #[arg(long)]
    person: bool,
    /// The identity provider, as `[operators]` names it or, with --person, `[issuer.NAME]`.
    #[arg(long, env = "DAYFLY_OPERATOR_ISSUER")]
    issuer: String,
    /// This program's client id there. A public client: it has no secret.
    #[arg(long, env = "DAYFLY_OPERATOR_CLIENT_ID")]
    client_id: String,
    /// The loopback port that the provider knows; 0 takes any (RFC 8252 section 7.3).
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// What else to ask the provider for, beside `openid` and `email`; such as `groups`, where it tells of
    /// those only who asks.
    #[arg(long = "scope")]
    scopes: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The sign-in of `dayfly login --person`, with its key.
    #[arg(long)]
    person: bool,
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
    let names = (args.issuer.clone(), args.client_id.clone());
    let names = (names.0.as_str(), names.1.as_str());
    if !args.person {
        let token = sign_in(args.clone(), None, output).await?;
        let path = prepared(OPERATOR)?;
        write_atomically(&path, &token)?;
        output.notice(&format!("signed in; the token is in {}", path.display()));
        return Ok(0);
    }
    let path = prepared(PERSON)?;
    // The same key again, so that commands that run under it go on. `logout` is its end.
    let known = SignIn::load(&path).ok().flatten();
    let known = known.filter(|known| (known.issuer.as_str(), known.client_id.as_str()) == names);
    let key = match known {
        Some(known) => known.key,
        None => SignIn::new_key()?,
    };
    let token = sign_in(args.clone(), Some(SignIn::nonce(&key)), output).await?;
    let signed_in = SignIn::new(token, key, names)?;
    signed_in.save(&path)?;
    let (who, until, path) = (&signed_in.subject, signed_in.until(), path.display());
    output.notice(&format!(
        "signed in as {who}, until {until}; it is in {path}"
    ));
    Ok(0)
}

/// What this machine knows of the sign-in is gone. What was issued with it is not ended by that.
pub fn logout(args: &LogoutArgs, output: &Output) -> Result<u8, Failure> {
    let path = state_file(if args.person { PERSON } else { OPERATOR })?;
    match std::fs::remove_file(&path) {
        Ok(()) => output.notice("signed out on this machine"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            output.notice("nobody was signed in");
        }
        Err(error) => return Err(Failure::failed(format!("{}: {error}", path.display()))),
    }
    Ok(0)
}

/// The ID token. `nonce`: what the provider is to sign into it.
async fn sign_in(
    args: LoginArgs,
    nonce: Option<String>,
    output: &Output,
) -> Result<Secret<String>, Failure> {
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
    let mut asked = provider
        .authorize_url(CsrfToken::new_random)
        .add_scope(Scope::new("openid".to_owned()))
        .add_scope(Scope::new("email".to_owned()))
        .add_scopes(args.scopes.into_iter().map(Scope::new))
        .set_pkce_challenge(challenge);
    if let Some(nonce) = nonce {
        asked = asked.add_extra_param("nonce", nonce);
    }
    let (url, state) = asked.url();
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
    Ok(Secret::new(token))
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
        .with_state((sender, state));
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
    came.code
        .ok_or_else(|| Failure::failed("the provider gave no code"))
}

async fn callback(
    State((sender, state)): State<(mpsc::Sender<Redirected>, CsrfToken)>,
    Query(came): Query<Redirected>,
) -> (StatusCode, &'static str) {
    // SECURITY: a code or an error that comes with another state belongs to somebody else's sign-in, and
    // any page can send a browser here: it neither counts nor ends the wait.
    if came.state.as_deref() != Some(state.secret().as_str()) {
        return (
            StatusCode::BAD_REQUEST,
            "This belongs to another sign-in. The terminal waits for its own.\n",
        );
    }
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

/// Below XDG_STATE_HOME, by what it holds.
const OPERATOR: &str = "operator-token";
pub const PERSON: &str = "person";

/// Where to keep it, in a folder of its owner's alone.
fn prepared(name: &str) -> Result<PathBuf, Failure> {
    let path = state_file(name)?;
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))?;
    }
    Ok(path)
}

/// What `dayfly login` stored, if it did.
pub fn stored_token() -> Option<PathBuf> {
    state_file(OPERATOR).ok().filter(|path| path.exists())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the XDG base directories are environment variables"
)]
pub fn state_file(name: &str) -> Result<PathBuf, Failure> {
    let set = |name: &str| {
        let folder = std::env::var(name).ok().filter(|folder| !folder.is_empty());
        folder.map(PathBuf::from)
    };
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    let state = state.ok_or_else(|| {
        Failure::failed("neither XDG_STATE_HOME nor HOME is set: where is a sign-in kept?")
    })?;
    Ok(state.join("dayfly").join(name))
}
