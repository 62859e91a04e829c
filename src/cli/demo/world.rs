//! The stage: a platform, an API, a broker on the embedded store, all on loopback, in a folder that
//! goes with the process.

use super::api::Api;
use super::platform::Platform;
use crate::cli::compose::Composed;
use crate::cli::output::{Failure, Output};
use crate::cli::serve::bind;
use crate::cli::{OperatorToken, operator_token};
use crate::client::Client;
use crate::client::deliver::{Folder, write_atomically};
use crate::clock::SystemClock;
use crate::config;
use crate::http::{ListenSettings, router};
use crate::ids;
use crate::secret::Secret;
use axum::Router;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const CONFIGURATION: &str = include_str!("../../../config/demo/dayfly.toml");

pub struct World {
    pub url: String,
    pub platform: Platform,
    pub api: Api,
    pub operator: Client,
    pub hook_secret: Secret<String>,
    pub composed: Composed,
    pub folder: Folder,
    pub token: OperatorToken,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

impl World {
    pub async fn start() -> Result<Self, Failure> {
        let folder = Folder::make(&std::env::temp_dir())?;
        let platform = Platform::start().await?;
        let api = Api::start().await?;
        let bound = match bind(ListenSettings::on(([127, 0, 0, 1], 8420).into())).await {
            Ok(bound) => bound,
            // Another one runs: any port will do.
            Err(_) => bind(ListenSettings::on(([127, 0, 0, 1], 0).into())).await?,
        };
        let url = format!("http://{}", bound.address());
        let hook_secret = secret_file(folder.path(), "hook.secret")?;
        let server_secret = secret_file(folder.path(), "server.secret")?;
        secret_file(folder.path(), "sealing.key")?;
        let token = operator_token(folder.path())?;

        let text = CONFIGURATION
            .replace("{{broker}}", &url)
            .replace("{{issuer}}", &platform.url)
            .replace("{{api}}", &api.url);
        let files = vec![("config/demo/dayfly.toml".to_owned(), text)];
        let settings = config::load_with(files, folder.path().to_owned())
            .and_then(|document| document.resolve())
            .map_err(|problems| Failure::failed(problems.to_string()))?;
        let composed =
            Composed::open(&settings, Arc::new(SystemClock::new()), vec![token.sha256]).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let doors = router(composed.broker.clone(), &settings.broker.doors);
        let serving = tokio::spawn(bound.serve(doors, async move { drop(stopped.await) }));
        api.trust(&url, server_secret.expose());
        let operator = Client::new(&url, Some(token.secret.clone()))?;
        let world = Self {
            url,
            platform,
            api,
            operator,
            hook_secret,
            composed,
            folder,
            token,
            stop,
            serving,
        };
        world.until_ready().await?;
        Ok(world)
    }

    async fn until_ready(&self) -> Result<(), Failure> {
        let mut problems = Vec::new();
        for _ in 0..500 {
            match self.composed.broker.ready().await {
                Ok(()) => return Ok(()),
                Err(found) => problems = found,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(Failure::failed(format!(
            "the broker does not get ready: {}",
            problems.join("; ")
        )))
    }

    /// What the person can try now.
    pub fn invite(&self, output: &Output) -> Result<(), Failure> {
        let token = self.token.path.display();
        let url = &self.url;
        output.line(&format!(
            "
The broker goes on serving at {url}. In another terminal, for example:

  export DAYFLY_URL={url} DAYFLY_OPERATOR_TOKEN_FILE={token}
  curl {url}/.well-known/oauth-authorization-server
  dayfly lease list
  dayfly agent show checkout-deployer
  dayfly revoke --agent checkout-deployer --dry-run
  dayfly agent resume checkout-deployer --reason \"I have seen the demo\"
  dayfly audit tail

Ctrl-C ends it and removes everything it made."
        ))
    }

    pub async fn finish(self) {
        let _ = self.stop.send(());
        drop(self.serving.await);
        self.composed.finish().await;
    }
}

pub async fn listen() -> Result<(TcpListener, String), Failure> {
    let problem = |error: std::io::Error| Failure::failed(format!("no loopback port: {error}"));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(problem)?;
    let url = format!("http://{}", listener.local_addr().map_err(problem)?);
    Ok((listener, url))
}

pub fn serve(listener: TcpListener, router: Router) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "a part of the demo ended");
        }
    })
}

fn secret_file(folder: &Path, name: &str) -> Result<Secret<String>, Failure> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(ids::random::<32>());
    let secret = Secret::new(text);
    write_atomically(&folder.join(name), &secret)?;
    Ok(secret)
}
