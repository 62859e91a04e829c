//! A whole broker in this process, on loopback, over the embedded store or over a real Redis, with a
//! real issuer beside it. Everything between is what `dayfly serve` runs.

use super::issuer::Issuer;
use super::process::until;
use super::time::InItsTime;
use super::world::inline_keys;
use dayfly::cli::compose::Composed;
use dayfly::clock::{Clock, SystemClock};
use dayfly::config;
use dayfly::http::{Bound, ListenSettings, TlsFiles, router};
use dayfly::jose::{Algorithm, SigningKey};
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The token that operators' tests use; the broker knows its SHA-256.
pub const OPERATOR_TOKEN: &str = "dayflyop_integration-tests";
pub const SERVER_SECRET: &str = "resource-server-secret";

pub struct TestBroker {
    /// Its public URL, from the configuration.
    pub url: String,
    /// Where it listens: the same, unless a test says otherwise.
    pub at: String,
    pub issuer: Arc<Issuer>,
    pub composed: Composed,
    pub http: reqwest::Client,
    /// The deployer's key: registered for its intents.
    pub key: SigningKey,
    pub folder: tempfile::TempDir,
    /// What of its configuration is not its own: all but `[broker]`.
    pub common: String,
    stop: Option<oneshot::Sender<()>>,
}

/// What a test may change before the broker starts.
pub struct Setup {
    pub store: Option<Arc<dyn Store>>,
    pub issuer: Option<Arc<Issuer>>,
    pub key: Option<SigningKey>,
    pub clock: Arc<dyn Clock>,
    /// The store goes by the machine's clock, whatever this broker's says.
    pub own_time: bool,
    /// Where clients find it, if not where it listens.
    pub public_url: Option<String>,
    /// Added to the table `[broker]`.
    pub broker: String,
    /// How old a view may be, if not as old as it may be by default.
    pub view_age: &'static str,
    /// Added to the table of the deployer's mission.
    pub mission: String,
    /// Added to the configuration.
    pub more: String,
    /// `policies/*.cedar`: name and text.
    pub policies: Vec<(String, String)>,
    /// Added to the configuration's folder: name and text.
    pub files: Vec<(String, String)>,
    pub sealing_key: [u8; 32],
    /// What signs access tokens.
    pub access_tokens: &'static str,
    /// Over TLS, with the certificate in `ca.pem` of its folder.
    pub tls: bool,
    /// Asks clients for a certificate in the handshake.
    pub ask_client: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            store: None,
            issuer: None,
            key: None,
            clock: Arc::new(SystemClock::new()),
            own_time: false,
            public_url: None,
            broker: String::new(),
            view_age: "1s",
            mission: String::new(),
            more: String::new(),
            policies: Vec::new(),
            files: Vec::new(),
            sealing_key: [7; 32],
            access_tokens: "ES256",
            tls: false,
            ask_client: false,
        }
    }
}

impl TestBroker {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let issuer = match setup.issuer {
            Some(issuer) => issuer,
            None if setup.tls => Arc::new(Issuer::named("https://ci.example").await),
            None => Arc::new(Issuer::start().await),
        };
        let key = setup.key.unwrap_or_else(|| {
            SigningKey::generate(Algorithm::Es256)
                .unwrap()
                .named_by_thumbprint()
        });
        let folder = tempfile::tempdir().unwrap();
        let mut listen = ListenSettings::on("127.0.0.1:0".parse().unwrap());
        listen.tls = setup.tls.then(|| TlsFiles {
            ask_client: setup.ask_client,
            ..certificate(folder.path())
        });
        let bound = Bound::bind(listen).await.unwrap();
        let scheme = if setup.tls { "https" } else { "http" };
        let at = format!("{scheme}://{}", bound.address());
        let url = setup.public_url.unwrap_or_else(|| at.clone());
        let http = match setup.tls {
            true => trusting(folder.path()),
            false => dayfly::client::http_client().unwrap(),
        };
        write_files(folder.path(), &key, &setup.sealing_key);
        for (name, text) in &setup.files {
            write_secret(&folder.path().join(name), text);
        }
        let text = configuration(&url, &issuer, setup.access_tokens)
            .replace("[broker]\n", &format!("[broker]\n{}\n", setup.broker))
            + &setup.more;
        let text = text.replace(
            "[mission.deploy-checkout]\n",
            &format!("[mission.deploy-checkout]\n{}\n", setup.mission),
        );
        let text = aged(&text, setup.view_age);
        let decides = decides(&text, &url);
        let common = without_broker(&text);
        let mut files = vec![("test.toml".to_owned(), text)];
        files.extend(setup.policies);
        let mut settings = config::load_with(files, folder.path().to_owned())
            .and_then(|document| document.resolve())
            .unwrap_or_else(|problems| panic!("{problems}"));
        settings.decides = decides;
        let store = setup
            .store
            .unwrap_or_else(|| Arc::new(Embedded::in_memory().unwrap()));
        let store: Arc<dyn Store> = match setup.own_time {
            true => store,
            false => Arc::new(InItsTime::of(store, setup.clock.clone())),
        };
        let tokens = vec![sha256(OPERATOR_TOKEN.as_bytes())];
        let composed = Composed::over(store, &settings, setup.clock, tokens)
            .await
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let app = router(composed.broker.clone(), &settings.broker.doors);
        tokio::spawn(bound.serve(app, async move { drop(stopped.await) }));
        let broker = Self {
            url,
            at,
            issuer,
            composed,
            http,
            key,
            folder,
            common,
            stop: Some(stop),
        };
        broker.until_fresh().await;
        broker
    }

    /// The fence view of a broker that has just started is not there yet.
    async fn until_fresh(&self) {
        for _ in 0..200 {
            if self.composed.broker.ready().await.is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("not ready: {:?}", self.composed.broker.ready().await);
    }

    pub fn now(&self) -> i64 {
        self.composed.clock.now().unix_timestamp()
    }

    /// Claims of the deployer's platform token, good in every way.
    pub fn platform_claims(&self) -> Value {
        let now = self.now();
        json!({
            "iss": self.issuer.url, "sub": "repo:acme/checkout:ref:refs/heads/main",
            "aud": self.url, "iat": now, "nbf": now, "exp": now + 300, "jti": unique(),
            "repository": "acme/checkout", "repository_id": "1234", "environment": "production",
            "run_id": "77", "run_attempt": "1", "sha": "c0ffee",
        })
    }

    pub fn platform_token(&self) -> String {
        self.issuer.sign(&self.platform_claims())
    }

    /// Claims of an intent that the mission allows, bound to this subject token.
    pub fn intent_claims(&self, subject_token: &str) -> Value {
        let now = self.now();
        json!({
            "iss": "deployer", "sub": "deployer", "client_id": "deployer", "aud": self.url,
            "iat": now, "nbf": now, "exp": now + 120, "jti": unique(),
            "mission": { "id": "deploy-checkout" },
            "authorization_details": [{
                "type": "access_token", "identifier": "deploy-api",
                "actions": ["deploy:write"], "locations": ["https://deploy.example/checkout"],
            }],
            "intent": { "goal": "Deploy checkout 1.42" },
            "subject_token_hash": b64(&sha256(subject_token.as_bytes())),
        })
    }

    pub fn sign_intent(&self, claims: &Value) -> String {
        self.key
            .sign("intent+jwt", self.key.verifying().kid(), claims, true)
            .unwrap()
    }

    /// A form that is granted as it is.
    pub fn good_form(&self) -> Vec<(String, String)> {
        let token = self.platform_token();
        let intent = self.sign_intent(&self.intent_claims(&token));
        form(&[
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            ("subject_token", &token),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("audience", "deploy-api"),
            ("intent", &intent),
        ])
    }

    pub async fn post(&self, path: &str, form: &[(String, String)]) -> Answer {
        let request = self.http.post(format!("{}{path}", self.at)).form(form);
        Answer::of(request.send().await.unwrap()).await
    }

    pub async fn exchange(&self, form: &[(String, String)]) -> Answer {
        self.post("/token", form).await
    }

    /// A good exchange, granted.
    pub async fn issue(&self) -> Value {
        let answer = self.exchange(&self.good_form()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    pub async fn introspect(&self, token: &str) -> Answer {
        let request = self
            .http
            .post(format!("{}/introspect", self.at))
            .basic_auth("deploy-api", Some(SERVER_SECRET))
            .form(&[("token", token)]);
        Answer::of(request.send().await.unwrap()).await
    }

    pub async fn is_active(&self, token: &str) -> bool {
        let answer = self.introspect(token).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["active"].as_bool().unwrap()
    }

    pub async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = self
            .http
            .request(
                method.parse().unwrap(),
                format!("{}/admin/v1{path}", self.at),
            )
            .bearer_auth(OPERATOR_TOKEN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// Publishes this text, with the deployer's keys beside it.
    pub async fn publish(&self, text: &str) -> Answer {
        let body = publication(text, &[("deployer.jwks.json", &self.deployer_keys())]);
        self.admin("POST", "/config", Some(body)).await
    }

    /// What publishes the configuration that it has.
    pub fn publication(&self) -> Value {
        publication(
            &self.common,
            &[("deployer.jwks.json", &self.deployer_keys())],
        )
    }

    pub fn deployer_keys(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("deployer.jwks.json")).unwrap()
    }

    /// Entries of the audit with this event.
    pub async fn audited(&self, event: &str) -> Vec<Value> {
        let page = self.admin("GET", "/audit?limit=1000", None).await.body;
        let all = page["items"].as_array().unwrap().iter();
        let own = all.filter(|entry| entry["event"] == event);
        own.cloned().collect()
    }

    /// Told that all of this is dead, once, though nobody had asked for it by a receipt.
    pub async fn is_confirmed(&self, dimension: &str, value: &str, times: usize) {
        let told = async || {
            let all = self.audited("revocation_confirmed").await;
            let own = all.into_iter().filter(|entry| {
                let detail = &entry["detail"];
                detail["dimension"] == dimension && detail["value"] == value
            });
            own.collect::<Vec<_>>()
        };
        until("all of it is confirmed to be dead", || async {
            told().await.len() >= times
        })
        .await;
        let told = told().await;
        assert_eq!(told.len(), times, "{told:?}");
        assert!(
            told.iter().all(|entry| entry["reason"] == "confirmed"),
            "{told:?}"
        );
    }

    pub async fn revoke(&self, selector: Value) -> Answer {
        let body = json!({ "selector": selector, "reason": "a test says so" });
        self.admin("POST", "/revocations", Some(body)).await
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

/// An answer of a door, whatever it was.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        Self::read(response).await.unwrap()
    }

    /// The same where the connection may break before the answer is whole.
    pub async fn read(response: reqwest::Response) -> reqwest::Result<Self> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.bytes().await?;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    pub fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or("")
    }

    pub fn reason(&self) -> &str {
        self.body["dayfly_reason"].as_str().unwrap_or("")
    }
}

pub fn form(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// The form with one field changed.
pub fn with(mut fields: Vec<(String, String)>, name: &str, value: &str) -> Vec<(String, String)> {
    fields.retain(|(known, _)| known != name);
    fields.push((name.to_owned(), value.to_owned()));
    fields
}

/// The form without one field.
pub fn without(mut fields: Vec<(String, String)>, name: &str) -> Vec<(String, String)> {
    fields.retain(|(known, _)| known != name);
    fields
}

/// A configuration without its table `[broker]`.
pub fn without_broker(text: &str) -> String {
    let (before, rest) = text.split_once("[broker]\n").unwrap();
    let (_, after) = rest.split_once("\n[").unwrap();
    format!("{before}\n[{after}")
}

/// The body of a publication of this configuration and these files beside it.
pub fn publication(text: &str, attached: &[(&str, &str)]) -> Value {
    let files = |list: &[(&str, &str)]| -> Vec<Value> {
        let each = list.iter();
        each.map(|(name, text)| json!({ "name": name, "text": text }))
            .collect()
    };
    json!({ "files": files(&[("common.toml", text)]), "attached": files(attached), "reason": "CHG-17" })
}

pub fn unique() -> String {
    dayfly::ids::draw_uuid().to_string()
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    ring::digest::digest(&ring::digest::SHA256, bytes)
        .as_ref()
        .try_into()
        .unwrap()
}

pub fn b64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// A certificate for 127.0.0.1 that is its own authority.
fn certificate(folder: &std::path::Path) -> TlsFiles {
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    // HAProxy looks for an address in the common name alone.
    let name = &mut params.distinguished_name;
    name.push(rcgen::DnType::CommonName, "127.0.0.1");
    let own = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&own).unwrap();
    let [certificate, key] = ["ca.pem", "tls.key"].map(|name| folder.join(name));
    write_secret(&certificate, &made.pem());
    write_secret(&key, &own.serialize_pem());
    TlsFiles {
        certificate,
        key,
        ask_client: false,
    }
}

fn trusting(folder: &std::path::Path) -> reqwest::Client {
    let pem = std::fs::read(folder.join("ca.pem")).unwrap();
    reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

fn write_files(folder: &std::path::Path, key: &SigningKey, sealing: &[u8; 32]) {
    use base64::Engine as _;
    let sealing = base64::engine::general_purpose::STANDARD.encode(sealing);
    let keys = json!({ "keys": [key.public_jwk()] }).to_string();
    for (name, text) in [
        ("sealing.key", sealing.as_str()),
        ("server.secret", SERVER_SECRET),
        ("hook.secret", "hook-secret"),
        ("deployer.jwks.json", &keys),
    ] {
        write_secret(&folder.join(name), text);
    }
}

fn write_secret(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Replicas have one URL, and here each has its own.
pub fn decides(text: &str, url: &str) -> String {
    let text = without_broker(text);
    let text: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    let text = text.join("\n").replace(url, "https://broker.example");
    b64(&sha256(text.as_bytes()))
}

/// With views that may be so old.
fn aged(text: &str, age: &str) -> String {
    let store = "embedded = \"unused.redb\"";
    text.replace(store, &format!("{store}, fence_view_max_age = \"{age}\""))
}

pub fn configuration(url: &str, issuer: &Issuer, access_tokens: &str) -> String {
    // A broker on https has no keys fetched over http.
    let keys = match url.starts_with("https:") {
        true => format!("keys = {}", inline_keys(&issuer.key())),
        false => String::new(),
    };
    let issuer = &issuer.url;
    format!(
        r#"
[broker]
url = "{url}"
store = {{ embedded = "unused.redb" }}
keys = {{ sealing = ["file:sealing.key"], access_tokens = "{access_tokens}" }}
audit = {{ path = "audit" }}

[issuer.ci]
url = "{issuer}"
{keys}
audience = "{url}"
algorithms = ["RS256"]
facts = {{ "pipeline.run_id" = "run_id", "pipeline.run_attempt" = "run_attempt", "pipeline.repository_id" = "repository_id", "pipeline.environment" = "environment", "pipeline.sha" = "sha" }}

[agent.deployer]
owner = "payments@acme.example"
purpose = "Deploys the checkout service"
ends = 2099-01-01
identity = {{ issuer = "ci", subject = "repo:acme/checkout:ref:refs/heads/main", claims = {{ repository_id = "1234" }} }}
intent_keys = "file:deployer.jwks.json"
limits = {{ active = 100, per_minute = 100000 }}

[mission.deploy-checkout]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Ship a reviewed checkout release"
require = {{ "pipeline.environment" = "production" }}
ttl = "10m"
tether = ["pipeline"]
allow = [
  {{ target = "deploy-api", actions = ["deploy:write", "deploy:read"], locations = ["https://deploy.example/checkout"] }},
  {{ target = "metrics-key", actions = ["metrics:read"], locations = ["https://metrics.example/*"] }},
]

[target.deploy-api]
kind = "access_token"
status_list = true
resources = ["https://deploy.example"]
ceiling = {{ actions = ["deploy:*"], locations = ["https://deploy.example/*"] }}

[target.metrics-key]
kind = "api_key"
ceiling = {{ actions = ["metrics:read"], locations = ["https://metrics.example/*"] }}

[resource_server.deploy-api]
secret = "file:server.secret"
audiences = ["deploy-api", "https://deploy.example", "metrics-key"]

[source.ci]
kind = "generic"
secret = "file:hook.secret"
issuer = "ci"
ends = ["pipeline"]
"#
    )
}
