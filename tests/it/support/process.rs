//! `dayfly serve` as a child process, over a configuration folder that is made for it. What is
//! killed here is a real broker; what it left behind is what a real crash leaves.

use super::broker::{Answer, SERVER_SECRET, b64, form, sha256, unique};
use super::issuer::Issuer;
use super::world::{ASSERTION, EXCHANGE, JWT};
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::jose::{Algorithm, SigningKey};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Longer than any start, stop or answer takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The configuration of a broker in the tests' own binary, and how many seconds its clock is ahead.
pub const MORTAL_FOLDER: &str = "MORTAL_FOLDER";
pub const MORTAL_AHEAD: &str = "MORTAL_AHEAD";

/// One installation: a platform, an agent, operators, and the folders of its replicas.
pub struct Installation {
    pub issuer: Issuer,
    /// The deployer's key: registered for its intents.
    pub key: SigningKey,
    /// The issuer identifier, which all replicas share.
    pub url: String,
    pub http: reqwest::Client,
    pub folder: tempfile::TempDir,
}

/// What one replica is started with, again and again.
#[derive(Debug, Clone)]
pub struct Replica {
    pub folder: PathBuf,
    pub base: String,
    pub health: String,
}

/// A running `dayfly serve`. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub base: String,
    pub health: String,
    log: PathBuf,
    /// Seconds that its clock is ahead.
    pub ahead: i64,
}

impl Installation {
    pub async fn start() -> Arc<Self> {
        drop(rustls::crypto::ring::default_provider().install_default());
        Arc::new(Self {
            issuer: Issuer::start().await,
            key: SigningKey::generate(Algorithm::Es256)
                .unwrap()
                .named_by_thumbprint(),
            url: format!("http://127.0.0.1:{}", free_port()),
            http: dayfly::client::http_client().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        })
    }

    /// Writes a configuration folder. `store` is the value of that key; `more` is added.
    pub fn replica(&self, name: &str, store: &str, more: &str) -> Replica {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let (listen, health) = (free_port(), free_port());
        let keys = json!({ "keys": [self.key.public_jwk()] }).to_string();
        let sealing = {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode([7; 32])
        };
        for (file, text) in [
            ("sealing.key", sealing.as_str()),
            ("server.secret", SERVER_SECRET),
            ("deployer.jwks.json", &keys),
        ] {
            secret_file(&folder.join(file), text);
        }
        let text = configuration(&self.url, &self.issuer.url)
            .replace("{{listen}}", &listen.to_string())
            .replace("{{health}}", &health.to_string())
            .replace("{{store}}", store);
        std::fs::write(folder.join("dayfly.toml"), text).unwrap();
        std::fs::write(folder.join("more.toml"), more).unwrap();
        Replica {
            folder,
            base: format!("http://127.0.0.1:{listen}"),
            health: format!("http://127.0.0.1:{health}"),
        }
    }

    pub fn embedded(&self, more: &str) -> Replica {
        self.replica("one", r#"{ embedded = "dayfly.redb" }"#, more)
    }

    /// A replica of the Redis at this URL.
    pub fn on_redis(&self, name: &str, url: &str, more: &str) -> Replica {
        secret_file(&self.folder.path().join("redis.url"), url);
        self.replica(name, r#"{ redis = "file:../redis.url" }"#, more)
    }

    /// A token of the platform, good in every way.
    pub fn platform_token(&self) -> String {
        self.platform_token_at(now())
    }

    fn platform_token_at(&self, now: i64) -> String {
        self.issuer.sign(&self.platform_claims(now))
    }

    pub fn platform_claims(&self, now: i64) -> Value {
        json!({
            "iss": self.issuer.url, "sub": "repo:acme/checkout:ref:refs/heads/main",
            "aud": self.url, "iat": now, "nbf": now, "exp": now + 300, "jti": unique(),
            "repository": "acme/checkout", "repository_id": "1234", "environment": "production",
            "run_id": "77", "run_attempt": "1", "check_run_id": "555",
        })
    }

    /// A form that asks for this, signed afresh.
    pub fn form_for(&self, detail: &Value) -> Vec<(String, String)> {
        self.form_with_mission("deploy-checkout", detail)
    }

    pub fn form_with_mission(&self, mission: &str, detail: &Value) -> Vec<(String, String)> {
        self.form_at(now(), mission, detail)
    }

    /// The same for a broker whose clock says this.
    pub fn form_at(&self, now: i64, mission: &str, detail: &Value) -> Vec<(String, String)> {
        self.form_of(&self.platform_token_at(now), now, mission, detail)
    }

    /// The same with this token of the platform.
    pub fn form_of(
        &self,
        token: &str,
        now: i64,
        mission: &str,
        detail: &Value,
    ) -> Vec<(String, String)> {
        let claims = json!({
            "iss": "deployer", "sub": "deployer", "client_id": "deployer", "aud": self.url,
            "iat": now, "nbf": now, "exp": now + 120, "jti": unique(),
            "mission": { "id": mission },
            "authorization_details": [detail],
            "intent": { "goal": "Deploy checkout 1.42" },
            "subject_token_hash": b64(&sha256(token.as_bytes())),
        });
        let intent = self
            .key
            .sign("intent+jwt", self.key.verifying().kid(), &claims, true)
            .unwrap();
        form(&[
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            ("subject_token", token),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("audience", detail["identifier"].as_str().unwrap()),
            ("intent", &intent),
        ])
    }

    /// A form of an agent with a key of its own. `parent`: the credential that is handed on.
    pub fn client_form(
        &self,
        (name, key): (&str, &SigningKey),
        mission: &str,
        parent: Option<&str>,
        detail: &Value,
    ) -> Vec<(String, String)> {
        let (url, now) = (&self.url, now());
        let sign = |typ, claims| key.sign(typ, key.verifying().kid(), claims, false).unwrap();
        let assertion = json!({
            "iss": name, "sub": name, "aud": url, "iat": now, "exp": now + 60, "jti": unique(),
        });
        let mut intent = json!({
            "iss": name, "sub": name, "client_id": name, "aud": url,
            "iat": now, "exp": now + 120, "jti": unique(),
            "mission": { "id": mission },
            "authorization_details": [detail],
            "intent": { "goal": "Look why the checkout is slow" },
        });
        let assertion = sign("JWT", &assertion);
        let mut fields = vec![
            ("client_assertion", assertion.as_str()),
            ("client_assertion_type", ASSERTION),
        ];
        match parent {
            None => fields.push(("grant_type", "client_credentials")),
            Some(token) => {
                intent["subject_token_hash"] = json!(b64(&sha256(token.as_bytes())));
                fields.extend([
                    ("grant_type", EXCHANGE),
                    ("subject_token", token),
                    ("subject_token_type", JWT),
                ]);
            }
        }
        let intent = sign("intent+jwt", &intent);
        fields.push(("intent", &intent));
        form(&fields)
    }

    /// A form that is granted as it is.
    pub fn good_form(&self) -> Vec<(String, String)> {
        self.form_for(&json!({
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:write"], "locations": ["https://deploy.example/checkout"],
        }))
    }

    /// The token of an operator who may do everything.
    pub fn operator_token(&self, now: i64) -> String {
        self.issuer.sign(&json!({
            "iss": self.issuer.url, "sub": "olga", "aud": "dayfly-operators", "jti": unique(),
            "iat": now, "exp": now + 300, "groups": ["security"],
        }))
    }

    pub async fn exchange(
        &self,
        at: &Process,
        form: &[(String, String)],
    ) -> reqwest::Result<Answer> {
        let request = self.http.post(format!("{}/token", at.base)).form(form);
        Answer::read(request.send().await?).await
    }

    /// A good exchange, granted.
    pub async fn issue(&self, at: &Process) -> Value {
        let answer = self.exchange(at, &self.good_form()).await.unwrap();
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, at.log());
        answer.body
    }

    pub async fn introspect(&self, at: &Process, token: &str) -> Answer {
        let request = self
            .http
            .post(format!("{}/introspect", at.base))
            .basic_auth("deploy-api", Some(SERVER_SECRET))
            .form(&[("token", token)]);
        Answer::of(request.send().await.unwrap()).await
    }

    /// What introspection says; a refusal to say anything fails the test.
    pub async fn is_active(&self, at: &Process, token: &str) -> bool {
        let answer = self.introspect(at, token).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, at.log());
        answer.body["active"].as_bool().unwrap()
    }

    pub async fn admin(
        &self,
        at: &Process,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::Result<Answer> {
        let mut request = self
            .http
            .request(
                method.parse().unwrap(),
                format!("{}/admin/v1{path}", at.base),
            )
            .bearer_auth(self.operator_token(now() + at.ahead));
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::read(request.send().await?).await
    }

    pub async fn revoke(&self, at: &Process, selector: Value) -> reqwest::Result<Answer> {
        let body = json!({ "selector": selector, "reason": "a test says so" });
        self.admin(at, "POST", "/revocations", Some(body)).await
    }

    /// The lease as operators see it; `null` where there is none.
    pub async fn lease(&self, at: &Process, id: &str) -> Value {
        let answer = self
            .admin(at, "GET", &format!("/leases/{id}"), None)
            .await
            .unwrap();
        match answer.status {
            200 => answer.body,
            404 => Value::Null,
            _ => panic!("{}\n{}", answer.body, at.log()),
        }
    }

    /// Every open lease of this target.
    pub async fn open_leases(&self, at: &Process, target: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/leases?limit=1000&target={target}{after}");
            let answer = self.admin(at, "GET", &path, None).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
            items.extend(answer.body["items"].as_array().unwrap().clone());
            match answer.body["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return items,
            }
        }
    }
}

impl Replica {
    /// Starts it and waits until it is ready.
    pub async fn serve(&self) -> Process {
        let mut process = self.spawn();
        process.until_ready().await;
        process
    }

    /// Starts it, whatever comes of it.
    pub fn spawn(&self) -> Process {
        spawn(
            &["serve", "--config", self.folder.to_str().unwrap()],
            &self.folder,
            self,
        )
    }

    /// The same broker in a process of the tests' own binary, by a clock that is ahead. It dies where
    /// the file `die-at` of its folder says: see [`crate::every_step`].
    pub fn spawn_mortal(&self, ahead: i64) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "every_step::a_broker_for_the_others",
                "--nocapture",
            ])
            .env(MORTAL_FOLDER, &self.folder)
            .env(MORTAL_AHEAD, ahead.to_string());
        let mut process = spawned(command, &self.folder, self);
        process.ahead = ahead;
        process
    }

    /// What its file says, changed.
    pub fn edit(&self, from: &str, to: &str) {
        let path = self.folder.join("dayfly.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in the configuration");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }
}

/// `dayfly` with these arguments, in this folder, with the log beside it.
pub fn spawn(arguments: &[&str], folder: &Path, at: &Replica) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
    command.args(arguments);
    spawned(command, folder, at)
}

fn spawned(mut command: Command, folder: &Path, at: &Replica) -> Process {
    let log = folder.join(format!("{}.log", unique()));
    let file = File::create(&log).unwrap();
    let child = command
        .current_dir(folder)
        .env_remove("DAYFLY_CONFIG")
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    Process {
        child,
        base: at.base.clone(),
        health: at.health.clone(),
        log,
        ahead: 0,
    }
}

impl Process {
    pub async fn until_ready(&mut self) {
        let http = dayfly::client::http_client().unwrap();
        let url = format!("{}/readyz", self.health);
        let until = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < until {
            if let Ok(answer) = http.get(&url).send().await
                && answer.status().is_success()
            {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not get ready:\n{}", self.log());
    }

    /// Whether it would answer now.
    pub async fn is_ready(&self) -> bool {
        let http = dayfly::client::http_client().unwrap();
        let answer = http.get(format!("{}/readyz", self.health)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL: no line of its code runs any more.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// No file of its may grow beyond this any more: a disk that is full for it alone. `None`: no limit.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit).unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        self.ended_within(PATIENCE).await
    }

    pub async fn ended_within(&mut self, patience: Duration) -> ExitStatus {
        let until = tokio::time::Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                tokio::time::Instant::now() < until,
                "it does not end:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it has written this.
    pub async fn until_log_says(&self, words: &str) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while !self.log().contains(words) {
            assert!(
                tokio::time::Instant::now() < until,
                "it never said `{words}`:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All that it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn now() -> i64 {
    SystemClock::new().now().unix_timestamp()
}

/// A file that only its owner can read.
pub fn secret_file(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A pipe in place of a file: whoever reads it waits for whoever writes.
pub fn slow_file(path: &Path) {
    let _ = std::fs::remove_file(path);
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// The end of such a pipe to write to. Opening one that nobody reads would wait for ever.
pub async fn once_it_is_read(path: &Path) -> File {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    // The very end that was opened: one that is closed again says that all was written.
    let pipe = std::cell::RefCell::new(None);
    until("somebody reads it", async || {
        let opened = options.open(path).ok();
        let is_open = opened.is_some();
        pipe.replace(opened);
        is_open
    })
    .await;
    pipe.take().unwrap()
}

/// A port that nobody listens on, below those that the kernel gives to connections: a replica that
/// is started again finds it free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..10_000 {
        // Processes that run side by side have neighbouring ids, and begin far from each other.
        let own = u16::try_from(std::process::id() % 160 * 100).unwrap();
        let port = 16_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on loopback");
}

/// Waits until this holds.
pub async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    until_within(PATIENCE, what, holds).await;
}

pub async fn until_within<F: Future<Output = bool>>(
    patience: Duration,
    what: &str,
    holds: impl Fn() -> F,
) {
    let until = tokio::time::Instant::now() + patience;
    while !holds().await {
        assert!(
            tokio::time::Instant::now() < until,
            "it never came to: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn configuration(url: &str, issuer: &str) -> String {
    format!(
        r#"
[broker]
url = "{url}"
listen = "127.0.0.1:{{{{listen}}}}"
health_listen = "127.0.0.1:{{{{health}}}}"
store = {{{{store}}}}
keys = {{ sealing = ["file:sealing.key"] }}
audit = {{ path = "audit.jsonl" }}
limits = {{ requests_per_second = 100000, requests_burst = 100000 }}

[operators]
issuer = "{issuer}"
audience = "dayfly-operators"
algorithms = ["RS256"]
roles = [{{ role = "admin", claims = {{ groups = "security" }} }}]

[issuer.ci]
url = "{issuer}"
audience = "{url}"
algorithms = ["RS256"]
facts = {{ "pipeline.run_id" = "run_id", "pipeline.run_attempt" = "run_attempt", "pipeline.repository_id" = "repository_id", "pipeline.environment" = "environment" }}

[agent.deployer]
owner = "payments@acme.example"
purpose = "Deploys the checkout service"
ends = 2099-01-01
identity = {{ issuer = "ci", subject = "repo:acme/checkout:ref:refs/heads/main", claims = {{ repository_id = "1234" }} }}
intent_keys = "file:deployer.jwks.json"
limits = {{ active = 5000, per_minute = 100000 }}

[mission.deploy-checkout]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "Ship a reviewed checkout release"
require = {{ "pipeline.environment" = "production" }}
ttl = "10m"
allow = [{{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }}]

[target.deploy-api]
kind = "access_token"
resources = ["https://deploy.example"]
ceiling = {{ actions = ["deploy:*"], locations = ["https://deploy.example/*"] }}

[resource_server.deploy-api]
secret = "file:server.secret"
audiences = ["deploy-api", "https://deploy.example"]
"#
    )
}
