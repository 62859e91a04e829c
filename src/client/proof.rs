//! Where an agent's proof of identity comes from: its own key, a file that the platform refreshes,
//! an endpoint that makes one, an environment variable that the platform sets, AWS credentials, or,
//! where a person runs it, the person's sign-in.

use super::ClientError;
use super::endpoint::Endpoint;
use super::sign_in::SignIn;
use crate::jose::{Algorithm, SigningKey};
use crate::secret::Secret;
use crate::wire::ASSERTION_JWT_BEARER;
use serde_json::json;
use std::path::PathBuf;
use time::OffsetDateTime;

const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// What this process can show.
#[derive(Debug)]
pub enum Source {
    /// `private_key_jwt` with the agent's own key.
    Key { agent: String },
    /// A token in a file, read anew each time: platforms rotate it.
    File(PathBuf),
    /// A token that was handed over once.
    Fixed(Secret<String>),
    /// A token made on request, with an audience of our choice where the platform lets us choose.
    Endpoint(Endpoint),
    /// AWS credentials of this environment: a request signed with them, for an endpoint of STS.
    Aws { endpoint: Option<String> },
    /// The sign-in of the person who runs this agent, read anew each time: it may be renewed.
    Person { file: PathBuf, agent: String },
}

/// A proof, with the key that signs intents.
#[derive(Debug)]
pub struct Prover {
    source: Source,
    key: SigningKey,
    http: reqwest::Client,
}

impl Prover {
    /// `key`: the agent's registered key; absent, one is made for this process alone, and the
    /// platform's token must bind it.
    pub fn new(source: Source, key: Option<SigningKey>) -> Result<Self, ClientError> {
        let key = match key {
            Some(key) => key,
            None => SigningKey::generate(Algorithm::Es256)
                .map_err(|error| ClientError::Local(format!("no key can be made: {error}")))?,
        };
        Ok(Self {
            source,
            key,
            http: super::http_client()?,
        })
    }

    /// Whether a person runs the agent.
    pub fn is_person(&self) -> bool {
        matches!(self.source, Source::Person { .. })
    }

    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The form fields that prove who asks, and the subject token if there is one.
    pub async fn fields(
        &self,
        broker: &str,
        now: OffsetDateTime,
    ) -> Result<(Vec<(&'static str, String)>, Option<Secret<String>>), ClientError> {
        let mut kind = "urn:ietf:params:oauth:token-type:jwt";
        let token = match &self.source {
            Source::Key { agent } => {
                let assertion = self.assertion(agent, broker, now)?;
                let fields = vec![
                    ("client_id", agent.clone()),
                    ("client_assertion_type", ASSERTION_JWT_BEARER.to_owned()),
                    ("client_assertion", assertion),
                ];
                return Ok((fields, None));
            }
            Source::File(path) => read_token(path).await?,
            Source::Fixed(token) => token.clone(),
            Source::Endpoint(endpoint) => {
                let audience = format!("{broker}#jkt={}", self.key.thumbprint());
                endpoint.token(&self.http, &audience).await?
            }
            Source::Aws { endpoint } => {
                kind = crate::identity::aws::TOKEN_TYPE;
                let server = format!("{broker}#jkt={}", self.key.thumbprint());
                super::aws::signed_request(endpoint.as_deref(), &server, now).await?
            }
            Source::Person { file, agent } => {
                let signed_in = SignIn::current(file, now)?;
                if signed_in.key.thumbprint() != self.key.thumbprint() {
                    let why = "somebody signed in anew, with another key: start this again";
                    return Err(ClientError::NotSignedIn(why.to_owned()));
                }
                let fields = vec![
                    ("client_id", agent.clone()),
                    ("subject_token", signed_in.token.expose().clone()),
                    ("subject_token_type", ID_TOKEN.to_owned()),
                ];
                return Ok((fields, Some(signed_in.token)));
            }
        };
        let fields = vec![
            ("subject_token", token.expose().clone()),
            ("subject_token_type", kind.to_owned()),
        ];
        Ok((fields, Some(token)))
    }

    fn assertion(
        &self,
        agent: &str,
        broker: &str,
        now: OffsetDateTime,
    ) -> Result<String, ClientError> {
        let issued = now.unix_timestamp();
        let claims = json!({
            "iss": agent, "sub": agent, "aud": broker,
            "iat": issued, "exp": issued + 60, "jti": crate::ids::draw_uuid(),
        });
        let kid = self.key.thumbprint().to_owned();
        self.key
            .sign("client-authentication+jwt", Some(&kid), &claims, false)
            .map_err(|error| ClientError::Local(format!("the assertion cannot be signed: {error}")))
    }
}

pub(super) async fn read_token(path: &PathBuf) -> Result<Secret<String>, ClientError> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| {
        ClientError::Local(format!(
            "the token file {} cannot be read: {error}",
            path.display()
        ))
    })?;
    let token = text.trim();
    if token.is_empty() {
        return Err(ClientError::Local(format!(
            "the token file {} is empty",
            path.display()
        )));
    }
    Ok(Secret::new(token.to_owned()))
}
