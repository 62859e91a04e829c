//! One broker that dies once, with what it made downstream, and what must hold of it afterwards.

use super::hands;
use super::over::Teller;
use crate::crash::Session;
use crate::support::broker::Answer;
use crate::support::moto::Moto;
use crate::support::network::Network;
use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::process::{
    Installation, PATIENCE, Process, Replica, now, secret_file, until_within,
};
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use dayfly::steps::Step;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// So that what is acknowledged is on disk.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// What is shared by all runs.
pub struct Site {
    pub installation: Arc<Installation>,
    /// Where sessions of AWS are made.
    aws: Option<Clouds>,
    pub postgres: Postgres,
}

struct Clouds {
    moto: Moto,
    /// Enforces nothing: the other one knows no web identity.
    open: Moto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Minted here, in the commit of its lease.
    Local,
    /// Known here by its hash alone.
    ApiKey,
    /// With an AWS key of the broker's.
    Aws,
    /// With a token that the broker signs.
    Federated,
    Postgres,
}

impl Kind {
    pub fn is_of_aws(self) -> bool {
        matches!(self, Self::Aws | Self::Federated)
    }

    /// Nobody else makes it, and nobody else can refuse it.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Local | Self::ApiKey)
    }
}

/// Where the broker keeps what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    File,
    /// Of this run alone.
    Redis,
    /// With a second broker, which lives on.
    Two,
}

pub struct Run {
    pub site: Arc<Site>,
    pub step: Step,
    pub kind: Kind,
    pub replica: Replica,
    /// On the same store, and never killed.
    pub other: Option<Replica>,
    /// In front of STS.
    pub proxy: Option<Proxy>,
    /// In front of PostgreSQL.
    pub network: Option<Network>,
    /// Of this run alone: what it made in PostgreSQL is told by it.
    pub mission: String,
    /// Who says that it is over.
    pub teller: Option<Teller>,
    more: String,
    /// Outlives the broker.
    _redis: Option<RedisServer>,
}

/// What was promised to somebody before the broker died.
#[derive(Debug, Default)]
pub struct Promised {
    /// Handed out, and ended by nobody.
    pub alive: Vec<Value>,
    /// Acknowledged dead.
    pub dead: Vec<Value>,
    /// Nobody was told so, and whoever wanted it dead says so again.
    pub again: Option<Again>,
}

#[derive(Debug, Clone, Copy)]
pub enum Again {
    Revoke,
    Release,
    Remove,
    /// Whoever it is that says that something is over.
    Over(Teller),
}

impl Site {
    pub async fn start() -> Option<Arc<Self>> {
        let (moto, open) = tokio::join!(Moto::start(true), Moto::start(false));
        let aws = Clouds {
            moto: moto?,
            open: open?,
        };
        Self::with(Some(aws)).await
    }

    /// Nothing is made at AWS.
    pub async fn without_aws() -> Option<Arc<Self>> {
        Self::with(None).await
    }

    async fn with(aws: Option<Clouds>) -> Option<Arc<Self>> {
        let postgres = Postgres::start().await;
        // Each run that is on one has its own.
        drop(RedisServer::start(&DURABLE).unwrap()?);
        Some(Arc::new(Self {
            installation: Installation::start().await,
            aws,
            postgres: postgres?,
        }))
    }

    fn moto(&self) -> &Moto {
        &self.aws.as_ref().unwrap().moto
    }
}

impl Run {
    pub async fn new(
        site: Arc<Site>,
        number: usize,
        step: Step,
        (kind, over): (Kind, Over),
    ) -> Self {
        let mission = format!("run-{number}");
        let proxy = match kind {
            Kind::Aws => Some(Proxy::before(&site.moto().url).await),
            Kind::Federated => {
                let open = &site.aws.as_ref().unwrap().open;
                Some(Proxy::before(&open.url).await)
            }
            _ => None,
        };
        let network = match kind {
            Kind::Postgres => Some(Network::to(site.postgres.port).await),
            _ => None,
        };
        let redis = (over != Over::File).then(|| RedisServer::start(&DURABLE).unwrap().unwrap());
        let (allow, target) = match (&proxy, &network, kind) {
            (Some(proxy), ..) => aws(site.moto(), proxy, kind),
            (None, Some(network), _) => postgres(&site.postgres, network),
            (None, None, Kind::ApiKey) => api_key(),
            (None, None, _) => (
                r#"target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"]"#.to_owned(),
                String::new(),
            ),
        };
        let more = format!(
            "[mission.{mission}]\nagents = [\"deployer\"]\nowner = \"leaver@acme.example\"\n\
             purpose = \"What is interrupted\"\nttl = \"15m\"\nallow = [{{ {allow} }}]\n{target}"
        );
        // How fresh the view is, is for others to show: many run at once here.
        let store = match &redis {
            Some(_) => r#"{ redis = "file:redis.url", fence_view_max_age = "20s" }"#,
            None => r#"{ embedded = "dayfly.redb", fence_view_max_age = "20s" }"#,
        };
        let one = |name: &str| site.installation.replica(name, store, &more);
        let run = Self {
            replica: one(&mission),
            other: (over == Over::Two).then(|| one(&format!("{mission}-other"))),
            step,
            kind,
            proxy,
            network,
            mission,
            teller: None,
            more,
            _redis: redis,
            site,
        };
        run.lay_out();
        run
    }

    /// The files that its configuration names.
    fn lay_out(&self) {
        if let Some(redis) = &self._redis {
            self.secret("redis.url", &redis.url());
        }
        if self.kind.is_ours() {
            hands::tell(&self.replica.folder);
        }
        if self.kind == Kind::Local {
            let token = "kind = \"access_token\"";
            self.edit(token, &format!("{token}\nstatus_list = true"));
        }
        if self.kind == Kind::ApiKey {
            let asked = "audiences = [\"deploy-api\"";
            self.edit(asked, &format!("{asked}, \"metrics-key\""));
        }
        if self.kind == Kind::Aws {
            self.secret("aws.id", &self.site.moto().access_key_id);
            self.secret("aws.secret", &self.site.moto().secret_access_key);
        }
        if self.kind == Kind::Postgres {
            self.secret("orders-db.password", PASSWORD);
        }
    }

    fn replicas(&self) -> impl Iterator<Item = &Replica> {
        std::iter::once(&self.replica).chain(&self.other)
    }

    pub fn secret(&self, name: &str, text: &str) {
        for replica in self.replicas() {
            secret_file(&replica.folder.join(name), text);
        }
    }

    pub fn edit(&self, from: &str, to: &str) {
        for replica in self.replicas() {
            replica.edit(from, to);
        }
    }

    /// Adds to its configuration.
    pub fn configure(&self, text: &str) {
        for replica in self.replicas() {
            let path = replica.folder.join("more.toml");
            std::fs::write(path, format!("{}{text}", self.more)).unwrap();
        }
    }

    /// The same, where its mission hangs on a run of a pipeline and on a job of it.
    pub fn tether(&mut self) {
        let lives = "ttl = \"15m\"";
        let tethered = format!("{lives}\ntether = [\"pipeline\", \"pipeline.job_id\"]");
        self.more = self.more.replace(lives, &tethered);
    }

    fn die_at(&self) -> PathBuf {
        self.replica.folder.join("die-at")
    }

    /// From here on it dies at this step.
    pub fn arm(&self, step: Step) {
        std::fs::write(self.die_at(), step.name()).unwrap();
    }

    pub fn spawn(&self, ahead: i64) -> Process {
        self.replica.spawn_mortal(ahead)
    }

    pub async fn serve(&self, ahead: i64) -> Process {
        let mut process = self.spawn(ahead);
        process.until_ready().await;
        process
    }

    /// Waits until it has died of what it was told to die of, and of nothing else.
    pub async fn died(&self, process: &mut Process) {
        // A build for development is slow at reading what is large.
        let status = process.ended_within(4 * PATIENCE).await;
        assert_eq!(status.signal(), Some(9), "{status}\n{}", process.log());
        std::fs::remove_file(self.die_at()).unwrap();
    }

    pub fn target(&self) -> &'static str {
        match self.kind {
            Kind::Local => "deploy-api",
            Kind::ApiKey => "metrics-key",
            Kind::Aws | Kind::Federated => "aws-prod",
            Kind::Postgres => "orders-db",
        }
    }

    pub fn detail(&self) -> Value {
        let (kind, action, location) = match self.kind {
            Kind::Local => (
                "access_token",
                "deploy:write",
                "https://deploy.example/checkout",
            ),
            Kind::ApiKey => ("api_key", "metrics:read", "https://metrics.example/"),
            Kind::Aws | Kind::Federated => ("aws_session", "s3:ListAllMyBuckets", "*"),
            Kind::Postgres => ("postgres_login", "select", "public.orders"),
        };
        json!({
            "type": kind, "identifier": self.target(),
            "actions": [action], "locations": [location],
        })
    }

    pub fn form(&self, at: &Process, detail: &Value) -> Vec<(String, String)> {
        let installation = &self.site.installation;
        installation.form_at(now() + at.ahead, &self.mission, detail)
    }

    pub async fn ask(&self, at: &Process) -> reqwest::Result<Answer> {
        let form = self.form(at, &self.detail());
        self.site.installation.exchange(at, &form).await
    }

    pub async fn issued(&self, at: &Process) -> Value {
        let answer = self.ask(at).await.unwrap();
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, at.log());
        answer.body
    }

    /// One of another mission, which nothing that happens here may end.
    pub async fn bystander(&self, at: &Process) -> Value {
        let installation = &self.site.installation;
        let detail = json!({
            "type": "access_token", "identifier": "deploy-api",
            "actions": ["deploy:write"], "locations": ["https://deploy.example/checkout"],
        });
        let form = installation.form_at(now() + at.ahead, "deploy-checkout", &detail);
        let answer = installation.exchange(at, &form).await.unwrap();
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, at.log());
        answer.body
    }

    /// Ends all of this run's mission.
    pub async fn revoke(&self, at: &Process) -> reqwest::Result<Answer> {
        let selector = json!({ "mission": self.mission });
        self.site.installation.revoke(at, selector).await
    }

    /// The agent that is registered.
    pub async fn remove(&self, at: &Process) -> reqwest::Result<Answer> {
        let installation = &self.site.installation;
        installation
            .admin(at, "DELETE", "/agents/joins", None)
            .await
    }

    /// As its holder.
    pub async fn release(&self, at: &Process, issued: &Value) -> reqwest::Result<u16> {
        let token = issued["access_token"].as_str().unwrap();
        let http = &self.site.installation.http;
        let request = http.post(format!("{}/revoke", at.base));
        let answer = request.form(&[("token", token)]).send().await?;
        Ok(answer.status().as_u16())
    }

    /// What STS has issued, and not what it refused.
    pub fn sessions(&self) -> Vec<Session> {
        let passed = self.proxy.as_ref().unwrap().passed();
        let issued = passed
            .iter()
            .filter(|passed| passed.response.contains("<SessionToken>"));
        issued.map(Session::of).collect()
    }

    /// Leases whose credentials exist downstream, whoever has heard of them.
    pub async fn made(&self) -> BTreeSet<String> {
        match (&self.proxy, self.kind) {
            (Some(_), _) => {
                let sessions = self.sessions();
                sessions.into_iter().map(|session| session.name).collect()
            }
            (None, Kind::Postgres) => {
                let postgres = &self.site.postgres;
                let client = postgres.login("postgres", PASSWORD).await.unwrap();
                let comment = format!("Dayfly: agent deployer, mission {}", self.mission);
                let roles = "SELECT rolname::text FROM pg_roles r JOIN pg_shdescription d \
                             ON d.objoid = r.oid AND d.classoid = 'pg_authid'::regclass \
                             WHERE d.description = $1";
                let rows = client.query(roles, &[&comment]).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
            (None, _) => BTreeSet::new(),
        }
    }

    pub async fn open(&self, at: &Process, alive: bool) -> BTreeSet<String> {
        let leases = self.site.installation.open_leases(at, self.target()).await;
        let wanted = leases
            .iter()
            .filter(|lease| !alive || lease["alive"] == true);
        wanted
            .map(|lease| lease["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// It is started again, and everything must hold.
    pub async fn holds(self, ahead: i64, promised: &Promised) {
        let process = self.serve(ahead).await;
        self.holds_at(process, promised).await;
    }

    /// Everything holds at whoever lives.
    pub async fn holds_at(self, process: Process, promised: &Promised) {
        let (made, open) = (self.made().await, self.open(&process, false).await);
        let lapsed = self.lapsed(&process, &made).await;
        let on_record = open.union(&lapsed).cloned().collect();
        let suspects: BTreeSet<_> = made.difference(&on_record).cloned().collect();
        // What was ended between the two looks is no orphan.
        let still = self.made().await;
        let orphans: Vec<_> = suspects.intersection(&still).collect();
        assert!(orphans.is_empty(), "{orphans:?}\n{}", process.log());
        self.say_again(&process, promised).await;
        self.promises_hold(&process, promised).await;
        self.stays_over(&process).await;
        let unheard = self.unheard(promised);
        for credential in &unheard {
            self.is_on_record(&process, credential).await;
        }
        // What nobody was given, or was told is dead, is ended where it can be.
        if self.kind == Kind::Postgres {
            self.until("no login works that nobody holds", || async {
                let alive = self.open(&process, true).await;
                self.made().await.is_subset(&alive)
            })
            .await;
            self.logins_work(&promised.alive, true).await;
            self.logins_work(&promised.dead, false).await;
        }
        self.bystander(&process).await;
        let process = self.ends_all(process, promised, &unheard).await;
        self.audit_is_sound(process).await;
    }

    async fn say_again(&self, at: &Process, promised: &Promised) {
        let status = match (promised.again, promised.dead.first()) {
            (Some(Again::Revoke), _) => self.revoke(at).await.unwrap().status,
            // Whoever is nobody already cannot be removed.
            (Some(Again::Remove), _) => match self.remove(at).await.unwrap().status {
                404 => 200,
                status => status,
            },
            (Some(Again::Release), Some(issued)) => self.release(at, issued).await.unwrap(),
            (Some(Again::Over(teller)), _) => {
                return self.is_told_again(at, teller, promised).await;
            }
            _ => return,
        };
        assert_eq!(status, 200, "{}", at.log());
    }

    async fn promises_hold(&self, at: &Process, promised: &Promised) {
        let installation = &self.site.installation;
        for (issued, alive) in promised
            .alive
            .iter()
            .map(|issued| (issued, true))
            .chain(promised.dead.iter().map(|issued| (issued, false)))
        {
            let id = issued["lease_id"].as_str().unwrap();
            let lease = installation.lease(at, id).await;
            assert_eq!(lease["alive"], alive, "{lease}\n{}", at.log());
            if issued["issued_token_type"]
                .as_str()
                .is_some_and(|kind| kind.ends_with(":access_token"))
            {
                let token = issued["access_token"].as_str().unwrap();
                assert_eq!(installation.is_active(at, token).await, alive, "{lease}");
            }
        }
    }

    /// Those that are past the longest life that they could have had.
    async fn lapsed(&self, at: &Process, made: &BTreeSet<String>) -> BTreeSet<String> {
        let mut lapsed = BTreeSet::new();
        for id in made.iter().filter(|_| self.kind.is_of_aws()) {
            let lease = self.site.installation.lease(at, id).await;
            if matches!(lease["state"].as_str(), Some("lapsed" | "expired")) {
                lapsed.insert(id.clone());
            }
        }
        lapsed
    }

    /// Stopped in order, the whole export verifies, and each thing stands in it once.
    async fn audit_is_sound(&self, mut process: Process) {
        let open = self.open(&process, false).await;
        if self.other.is_some() {
            // Whoever died may have the sealing in its hands for a while.
            self.until("all of it is exported and sealed", || async {
                let report = dayfly::audit::verify(&self.gathered(), &|_| true).unwrap();
                let all = self.exported();
                let told: BTreeSet<_> =
                    all.iter().filter_map(|one| one["lease"].as_str()).collect();
                // The last that was done.
                let mission = self.mission.as_str();
                let ended = all
                    .iter()
                    .any(|one| one["operator"].is_string() && one["detail"]["value"] == mission);
                report.unsealed == 0
                    && ended
                    && open.iter().all(|lease| told.contains(lease.as_str()))
            })
            .await;
        }
        process.signal(Signal::TERM);
        let status = process.ended().await;
        assert!(status.success(), "{status}\n{}", process.log());
        let report = dayfly::audit::verify(&self.gathered(), &|_| true).unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_eq!((report.unsealed, report.breaks.len()), (0, 0), "{report:?}");
        let (mut seen, mut issued) = (BTreeSet::new(), BTreeSet::new());
        for entry in self.exported() {
            let (Some(lease), Some(event)) = (entry["lease"].as_str(), entry["event"].as_str())
            else {
                continue;
            };
            assert!(
                seen.insert((lease.to_owned(), event.to_owned())),
                "{event} of {lease} stands there twice"
            );
            if event == "issued" {
                issued.insert(lease.to_owned());
            }
        }
        assert!(open.is_subset(&issued), "{open:?}");
        self.is_ended_once();
    }

    /// The export; of two, both of them in one folder.
    fn gathered(&self) -> PathBuf {
        let Some(other) = &self.other else {
            return self.replica.folder.join("audit.jsonl");
        };
        let folder = self.replica.folder.join("exports");
        std::fs::create_dir_all(&folder).unwrap();
        for (replica, name) in [(&self.replica, "one.jsonl"), (other, "other.jsonl")] {
            let export = replica.folder.join("audit.jsonl");
            if export.exists() {
                std::fs::copy(export, folder.join(name)).unwrap();
            }
        }
        folder
    }

    /// Every entry once, with what was turned over and lies beside. What the dead one had exported and not
    /// sealed, whoever came after it exported again.
    pub fn exported(&self) -> Vec<Value> {
        let folders = self.replicas().map(|replica| &replica.folder);
        let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap());
        let exports = files.map(|file| file.unwrap().path()).filter(|file| {
            let name = file.file_name().unwrap().to_string_lossy();
            name.starts_with("audit") && name.ends_with(".jsonl")
        });
        let mut known = BTreeMap::new();
        let mut all = Vec::new();
        for export in exports {
            for line in std::fs::read_to_string(&export).unwrap().lines() {
                let mut line: Value = serde_json::from_str(line).unwrap();
                let entry = line["entry"].take();
                if entry.is_null() {
                    continue;
                }
                let id = entry["id"].as_str().unwrap().to_owned();
                let folder = export.parent().unwrap().to_owned();
                let by = known.entry(id).or_insert_with(|| folder.clone());
                // Twice at one broker is twice.
                if *by == folder {
                    all.push(entry);
                }
            }
        }
        all
    }

    /// Waits for whatever the dead one had claimed, too.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, holds: impl Fn() -> F) {
        let patience = match self.other {
            Some(_) => 3 * PATIENCE,
            None => PATIENCE,
        };
        until_within(patience, what, holds).await;
    }
}

fn api_key() -> (String, String) {
    let target = r#"
[target.metrics-key]
kind = "api_key"
ceiling = { actions = ["metrics:*"], locations = ["https://metrics.example/*"] }
"#;
    let allow = r#"target = "metrics-key", actions = ["metrics:read"], locations = ["https://metrics.example/"]"#;
    (allow.to_owned(), target.to_owned())
}

fn aws(moto: &Moto, proxy: &Proxy, kind: Kind) -> (String, String) {
    let method = match kind {
        Kind::Federated => "method = \"web_identity\"",
        _ => {
            "method = \"assume_role\"\naccess_key_id = \"file:aws.id\"\n\
             secret_access_key = \"file:aws.secret\""
        }
    };
    let target = format!(
        r#"
[target.aws-prod]
kind = "aws"
role = "{}"
{method}
endpoint = "{}"
ceiling = {{ actions = ["s3:*"], locations = ["*"] }}
"#,
        moto.role_arn, proxy.url
    );
    let allow = r#"target = "aws-prod", actions = ["s3:ListAllMyBuckets"], locations = ["*"]"#;
    (allow.to_owned(), target)
}

fn postgres(server: &Postgres, network: &Network) -> (String, String) {
    let (_, port) = network.url.rsplit_once(':').unwrap();
    let target = format!(
        r#"
[target.orders-db]
kind = "postgres"
host = "127.0.0.1"
port = {port}
database = "orders"
username = "dayfly"
password = "file:orders-db.password"
ca = "file:{}"
ceiling = {{ actions = ["select"], locations = ["public.*"] }}
"#,
        server.ca.display()
    );
    let allow = r#"target = "orders-db", actions = ["select"], locations = ["public.*"]"#;
    (allow.to_owned(), target)
}
