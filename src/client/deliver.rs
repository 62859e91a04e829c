//! How a running child gets credentials that change under it: files replaced atomically, and the
//! AWS container-credentials endpoint on loopback, which every AWS SDK reads again by itself.

use super::ClientError;
use crate::ids;
use crate::secret::Secret;
use crate::wire::TokenResponse;
use arc_swap::ArcSwapOption;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// A folder of this process alone, gone with it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn make(parent: &Path) -> Result<Self, ClientError> {
        let path = parent.join(format!("dayfly-{}", hex(&ids::random::<8>())));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| local(&path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing can be done here if it fails; the credentials in it are released all the same.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// One target's credential, where the child finds it.
#[derive(Debug)]
pub enum Delivery {
    /// `DAYFLY_TOKEN_<TARGET>_FILE`.
    File { variable: String, path: PathBuf },
    /// `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    Aws(AwsEndpoint),
    /// `PGSERVICEFILE` and `PGSERVICE`, which libpq reads anew for every connection.
    Postgres { service: String, path: PathBuf },
    /// `--env`: cannot be renewed under a running child.
    Environment(Vec<(String, Secret<String>)>),
}

impl Delivery {
    /// Chooses by what the credential is.
    pub async fn open(
        folder: &Folder,
        target: &str,
        response: &TokenResponse,
        environment: bool,
    ) -> Result<Self, ClientError> {
        let delivery = match (environment, credential_type(response)) {
            (true, _) => Self::Environment(environment_of(target, response)),
            (false, Some("aws_session")) => Self::Aws(AwsEndpoint::open().await?),
            (false, Some("postgres_login")) => Self::Postgres {
                service: target.to_owned(),
                path: folder.0.join(target),
            },
            (false, _) => Self::File {
                variable: format!("DAYFLY_TOKEN_{}_FILE", shouted(target)),
                path: folder.0.join(target),
            },
        };
        delivery.replace(response)?;
        Ok(delivery)
    }

    /// Puts a newer credential in the place of the last one, in one step.
    pub fn replace(&self, response: &TokenResponse) -> Result<(), ClientError> {
        match self {
            Self::File { path, .. } => write_atomically(path, &file_text(response)),
            Self::Aws(endpoint) => endpoint.put(response),
            Self::Postgres { service, path } => {
                write_atomically(path, &service_text(service, response)?)
            }
            Self::Environment(_) => Ok(()),
        }
    }

    /// The credential is dead and there is no newer one: better none than a dead one.
    pub fn withdraw(&self) {
        match self {
            Self::File { path, .. } | Self::Postgres { path, .. } => {
                drop(std::fs::remove_file(path));
            }
            Self::Aws(endpoint) => endpoint.current.store(None),
            Self::Environment(_) => {}
        }
    }

    /// What the child's environment needs.
    pub fn variables(&self) -> Vec<(String, String)> {
        match self {
            Self::File { variable, path } => {
                vec![(variable.clone(), path.display().to_string())]
            }
            Self::Postgres { service, path } => vec![
                ("PGSERVICEFILE".to_owned(), path.display().to_string()),
                ("PGSERVICE".to_owned(), service.clone()),
            ],
            Self::Aws(endpoint) => vec![
                (
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(),
                    endpoint.url.clone(),
                ),
                (
                    "AWS_CONTAINER_AUTHORIZATION_TOKEN".to_owned(),
                    endpoint.authorization.expose().clone(),
                ),
            ],
            Self::Environment(variables) => variables
                .iter()
                .map(|(name, value)| (name.clone(), value.expose().clone()))
                .collect(),
        }
    }
}

/// Variables by which an AWS SDK would find older credentials first: the child must not see them.
pub const SHADOWING_AWS: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
];

/// Serves the newest AWS credentials to whoever holds the endpoint's authorization token.
#[derive(Debug)]
pub struct AwsEndpoint {
    url: String,
    authorization: Arc<Secret<String>>,
    current: Arc<ArcSwapOption<Secret<String>>>,
    server: tokio::task::JoinHandle<()>,
}

impl AwsEndpoint {
    async fn open() -> Result<Self, ClientError> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .map_err(|error| ClientError::Local(format!("no loopback port: {error}")))?;
        let address = listener
            .local_addr()
            .map_err(|error| ClientError::Local(format!("no loopback port: {error}")))?;
        let authorization = Arc::new(Secret::new(hex(&ids::random::<32>())));
        let current = Arc::new(ArcSwapOption::empty());
        let router = axum::Router::new()
            .route("/credentials", axum::routing::get(aws_credentials))
            .with_state((authorization.clone(), current.clone()));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the AWS credentials endpoint ended");
            }
        });
        let url = format!("http://{address}/credentials");
        Ok(Self {
            url,
            authorization,
            current,
            server,
        })
    }

    fn put(&self, response: &TokenResponse) -> Result<(), ClientError> {
        let field = |name: &str| {
            response
                .credential
                .as_ref()
                .and_then(|all| all.get(name))
                .and_then(Value::as_str)
        };
        let missing = || ClientError::Local("the broker's AWS credential lacks a field".to_owned());
        let body = json!({
            "AccessKeyId": field("access_key_id").ok_or_else(missing)?,
            "SecretAccessKey": field("secret_access_key").ok_or_else(missing)?,
            "Token": field("session_token").ok_or_else(missing)?,
            "Expiration": field("expiration").ok_or_else(missing)?,
        });
        self.current
            .store(Some(Arc::new(Secret::new(body.to_string()))));
        Ok(())
    }
}

impl Drop for AwsEndpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type AwsState = (Arc<Secret<String>>, Arc<ArcSwapOption<Secret<String>>>);

async fn aws_credentials(
    State((authorization, current)): State<AwsState>,
    headers: HeaderMap,
) -> Response {
    let given = headers
        .get(header::AUTHORIZATION)
        .map_or(b"".as_slice(), |value| value.as_bytes());
    if !bool::from(given.ct_eq(authorization.expose().as_bytes())) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match current.load_full() {
        Some(body) => (
            [(header::CONTENT_TYPE, "application/json")],
            body.expose().clone(),
        )
            .into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// The bearer string itself, or the structured credential as JSON.
fn file_text(response: &TokenResponse) -> Secret<String> {
    Secret::new(match &response.credential {
        Some(credential) => credential.to_string(),
        None => response.access_token.clone(),
    })
}

/// A field of a login, and what libpq calls it in the environment and in a service file.
const LOGIN: [(&str, &str, &str); 5] = [
    ("host", "PGHOST", "host"),
    ("port", "PGPORT", "port"),
    ("database", "PGDATABASE", "dbname"),
    ("username", "PGUSER", "user"),
    ("password", "PGPASSWORD", "password"),
];

/// libpq's connection service file (PostgreSQL 15, "34.17. The Connection Service File").
fn service_text(service: &str, response: &TokenResponse) -> Result<Secret<String>, ClientError> {
    let unfit = || {
        ClientError::Local("the broker's PostgreSQL login is not one that libpq reads".to_owned())
    };
    let mut text = format!("[{service}]\n");
    for (name, _, key) in LOGIN {
        let value = field(response, name).ok_or_else(unfit)?;
        if value.expose().chars().any(char::is_control) {
            return Err(unfit());
        }
        text.push_str(&format!("{key}={}\n", value.expose()));
    }
    if is_one_of_several(response) {
        text.push_str("target_session_attrs=read-write\n");
    }
    Ok(Secret::new(text))
}

/// Of several servers libpq takes the first one that answers, be it a standby, unless it is told which.
fn is_one_of_several(response: &TokenResponse) -> bool {
    credential_type(response) == Some("postgres_login")
        && field(response, "host").is_some_and(|host| host.expose().contains(','))
}

/// A text or a number of the structured credential.
fn field(response: &TokenResponse, name: &str) -> Option<Secret<String>> {
    let text = match response.credential.as_ref()?.get(name)? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(Secret::new(text))
}

fn environment_of(target: &str, response: &TokenResponse) -> Vec<(String, Secret<String>)> {
    let known = match credential_type(response) {
        Some("aws_session") => vec![
            ("AWS_ACCESS_KEY_ID", "access_key_id"),
            ("AWS_SECRET_ACCESS_KEY", "secret_access_key"),
            ("AWS_SESSION_TOKEN", "session_token"),
        ],
        Some("postgres_login") => LOGIN.map(|(name, variable, _)| (variable, name)).to_vec(),
        _ => {
            let variable = format!("DAYFLY_TOKEN_{}", shouted(target));
            return vec![(variable, file_text(response))];
        }
    };
    let which = is_one_of_several(response).then(|| {
        let primary = Secret::new("read-write".to_owned());
        ("PGTARGETSESSIONATTRS".to_owned(), primary)
    });
    known
        .into_iter()
        .filter_map(|(variable, name)| Some((variable.to_owned(), field(response, name)?)))
        .chain(which)
        .collect()
}

fn credential_type(response: &TokenResponse) -> Option<&str> {
    response.credential.as_ref()?.get("type")?.as_str()
}

/// `aws-prod` -> `AWS_PROD`.
pub fn shouted(target: &str) -> String {
    target
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect()
}

/// A reader sees the old text or the new one, never a part.
pub fn write_atomically(path: &Path, text: &Secret<String>) -> Result<(), ClientError> {
    use std::io::Write as _;
    let fresh = path.with_extension(format!("new-{}", hex(&ids::random::<4>())));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| file.write_all(text.expose().as_bytes()))
        .and_then(|()| std::fs::rename(&fresh, path));
    written.map_err(|error| {
        drop(std::fs::remove_file(&fresh));
        local(path, &error)
    })
}

fn local(path: &Path, error: &std::io::Error) -> ClientError {
    ClientError::Local(format!("{} cannot be written: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for text in ["first", "second"] {
            write_atomically(&path, &Secret::new(text.to_owned())).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn a_folder_goes_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::make(parent.path()).unwrap();
        let path = folder.0.clone();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_login_is_delivered_as_libpq_reads_it_and_a_broken_one_is_not() {
        let answer = |credential: Value| -> TokenResponse {
            let text = json!({
                "access_token": "dayflyh_", "issued_token_type": "urn:x", "token_type": "N_A",
                "expires_in": 60, "authorization_details": [], "mission": "read-orders",
                "lease_id": format!("dfl{}", "a".repeat(26)), "credential": credential,
                "revocation": { "class": "native", "within_seconds": 10 },
            });
            serde_json::from_value(text).unwrap()
        };
        let login = json!({
            "type": "postgres_login", "host": "db", "port": 5433, "database": "orders",
            "username": "dfla", "password": "secret",
        });
        assert_eq!(
            service_text("orders-db", &answer(login.clone()))
                .unwrap()
                .expose(),
            "[orders-db]\nhost=db\nport=5433\ndbname=orders\nuser=dfla\npassword=secret\n"
        );
        let variables = environment_of("orders-db", &answer(login.clone()));
        assert_eq!(variables.len(), 5);
        assert_eq!(variables[4].0, "PGPASSWORD");
        let mut several = login.clone();
        several["host"] = json!("one,other");
        assert_eq!(
            service_text("orders-db", &answer(several.clone()))
                .unwrap()
                .expose(),
            "[orders-db]\nhost=one,other\nport=5433\ndbname=orders\nuser=dfla\npassword=secret\n\
             target_session_attrs=read-write\n"
        );
        let environment = environment_of("orders-db", &answer(several));
        assert!(environment.iter().any(|(name, value)| {
            name == "PGTARGETSESSIONATTRS" && value.expose() == "read-write"
        }));
        let mut torn = login.clone();
        torn["password"] = json!("a\nhost=elsewhere");
        assert!(service_text("orders-db", &answer(torn)).is_err());
        let mut short = login;
        short.as_object_mut().unwrap().remove("host");
        assert!(service_text("orders-db", &answer(short)).is_err());
    }

    #[test]
    fn a_target_becomes_a_variable_name() {
        assert_eq!(shouted("aws-prod.eu"), "AWS_PROD_EU");
    }

    #[tokio::test]
    async fn the_aws_endpoint_answers_its_child_alone_and_never_with_a_dead_credential() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = AwsEndpoint::open().await.unwrap();
        let http = super::super::http_client().unwrap();
        let ask = |authorization: String| {
            http.get(&endpoint.url)
                .header("authorization", authorization)
                .send()
        };
        let right = endpoint.authorization.expose().clone();
        assert_eq!(
            ask(right.clone()).await.unwrap().status(),
            503,
            "nothing was delivered yet"
        );
        endpoint
            .current
            .store(Some(Arc::new(Secret::new("{}".to_owned()))));
        assert_eq!(ask("wrong".to_owned()).await.unwrap().status(), 401);
        assert_eq!(ask(right).await.unwrap().status(), 200);
    }
}
