//! A person signs in and runs an agent: `login --person`, then `token --as` and `exec --as`.

use super::{CLIENT, Provider};
use crate::cli::{Done, dayfly};
use crate::support::broker::{Setup, TestBroker};
use crate::support::process::{now, secret_file};
use dayfly::jose::{Algorithm, SigningKey};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A provider, a broker that knows its people, and a machine.
struct Laptop {
    provider: Arc<Provider>,
    broker: TestBroker,
    folder: tempfile::TempDir,
}

impl Laptop {
    async fn open() -> Self {
        let provider = Provider::start("on-call", false, None).await;
        let more = format!(
            r#"
[issuer.corp]
url = "{}"
audience = "{CLIENT}"
algorithms = ["RS256"]
people = true

[people.oncall]
issuer = "corp"
claims = {{ groups = "on-call" }}
ceiling = [{{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }}]

[mission.laptop]
agents = ["deployer"]
on_behalf_of = ["oncall"]
in_person = true
owner = "sre@acme.example"
purpose = "What people on call do by hand"
tether = ["session"]
allow = [{{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }}]

[mission.assist]
agents = ["deployer"]
on_behalf_of = ["oncall"]
owner = "sre@acme.example"
purpose = "Help whoever is on call"
allow = [{{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }}]
"#,
            provider.url
        );
        let setup = Setup {
            more,
            ..Setup::default()
        };
        Self {
            provider,
            broker: TestBroker::with(setup).await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    async fn signed_in() -> Self {
        let laptop = Self::open().await;
        laptop.login().await.is(0);
        laptop
    }

    fn state(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("dayfly/person")
    }

    fn stored(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.file()).unwrap()).unwrap()
    }

    async fn login(&self) -> Done {
        self.provider
            .login_as(&["--person"], self.state(), |to| to)
            .await
    }

    async fn run(&self, arguments: &[&str]) -> Done {
        let environment = [
            ("DAYFLY_URL", self.broker.url.as_str()),
            ("XDG_STATE_HOME", self.state()),
            ("PATH", "/usr/bin:/bin"),
        ];
        dayfly(arguments, &environment, "").await
    }

    async fn token_for(&self, mission: &str) -> Done {
        self.run(&words("token", mission)).await
    }
}

fn words<'a>(command: &'a str, mission: &'a str) -> Vec<&'a str> {
    let asked = ["--target", "deploy-api", "--goal", "Look why it is slow"];
    [
        &[command, "--as", "deployer", "--mission", mission][..],
        &asked,
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signed_in_runs_an_agent_where_the_mission_allows_it() {
    let laptop = Laptop::open().await;
    let done = laptop.login().await;
    assert!(done.is(0).err.contains("signed in as olga"), "{done:?}");
    let mode = std::fs::metadata(laptop.file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let stored = laptop.stored();
    for name in ["id_token", "key"] {
        let secret = stored[name].as_str().unwrap();
        assert!(
            !done.err.contains(secret) && !done.out.contains(secret),
            "{name}"
        );
    }

    let done = laptop.token_for("laptop").await;
    let told = laptop.broker.introspect(done.is(0).out.trim()).await.body;
    assert_eq!(told["active"], true, "{told}");
    assert_eq!(
        (&told["sub"], &told["act"]["sub"]),
        (&json!("corp:olga"), &json!("deployer"))
    );

    let mut words = words("exec", "laptop");
    words.extend([
        "--",
        "sh",
        "-c",
        "cat $DAYFLY_TOKEN_DEPLOY_API_FILE; exit 7",
    ]);
    let done = laptop.run(&words).await;
    let token = done.is(7).out.trim();
    let told = laptop.broker.introspect(token).await.body;
    assert_eq!(
        told,
        json!({ "active": false }),
        "it was released at the end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mission_that_is_not_in_person_says_so() {
    let laptop = Laptop::signed_in().await;
    let done = laptop.token_for("assist").await;
    done.is(3);
    for word in ["subject_not_accepted", "in_person = true"] {
        assert!(done.err.contains(word), "{done:?}");
    }
    let mut words = words("exec", "assist");
    words.extend(["--", "true"]);
    let done = laptop.run(&words).await;
    assert!(done.is(121).err.contains("in_person = true"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sign_in_that_is_good_nothing_is_sent() {
    let laptop = Laptop::open().await;
    let done = laptop.token_for("laptop").await;
    assert!(done.is(4).err.contains("dayfly login --person"), "{done:?}");
    let mut exec = words("exec", "laptop");
    exec.extend(["--", "true"]);
    laptop.run(&exec).await.is(120);

    laptop.login().await.is(0);
    let good = laptop.stored();
    let spoiled = async |change: &dyn Fn(&mut Value)| {
        let mut stored = good.clone();
        change(&mut stored);
        std::fs::write(laptop.file(), stored.to_string()).unwrap();
        laptop.token_for("laptop").await
    };
    let key = SigningKey::from_private_jwk(&dayfly::secret::Secret::new(
        good["key"].as_str().unwrap().to_owned(),
    ));
    let nonce = format!("dayfly-jkt:{}", key.unwrap().thumbprint());
    let late = laptop.provider.key.sign(
        "JWT",
        laptop.provider.key.verifying().kid(),
        &json!({
            "iss": laptop.provider.url, "sub": "olga", "aud": CLIENT, "sid": "session-1",
            "iat": now() - 400, "exp": now() - 1, "groups": ["on-call"], "nonce": nonce,
        }),
        false,
    );
    let late = late.unwrap();
    let done = spoiled(&|stored| stored["id_token"] = json!(late)).await;
    assert!(
        done.is(4).err.contains("the sign-in of olga ended at"),
        "{done:?}"
    );
    let other = SigningKey::generate(Algorithm::Es256).unwrap();
    let other = other.to_private_jwk().expose().clone();
    let done = spoiled(&|stored| stored["key"] = json!(other)).await;
    assert!(done.is(4).err.contains("nonce"), "{done:?}");
    spoiled(&|_| {}).await.is(0);
    std::fs::set_permissions(laptop.file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let done = laptop.token_for("laptop").await;
    assert!(done.is(4).err.contains("others can read it"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_out_is_gone_from_this_machine_and_who_is_signed_out_gets_nothing() {
    let laptop = Laptop::signed_in().await;
    let first = laptop.stored();
    laptop.login().await.is(0);
    assert_eq!(laptop.stored()["key"], first["key"], "what runs goes on");

    let ended = json!({ "issuer": "corp", "kind": "session", "id": "session-1" });
    let answer = laptop
        .broker
        .admin("POST", "/contexts/end", Some(ended))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let done = laptop.token_for("laptop").await;
    assert!(done.is(3).err.contains("sign in again"), "{done:?}");

    laptop.run(&["logout", "--person"]).await.is(0);
    assert!(!laptop.file().exists());
    let done = laptop.token_for("laptop").await;
    assert!(done.is(4).err.contains("nobody is signed in"), "{done:?}");
    let done = laptop.run(&["logout", "--person"]).await;
    assert!(done.is(0).err.contains("nobody was signed in"), "{done:?}");
    laptop.login().await.is(0);
    assert_ne!(laptop.stored()["key"], first["key"], "its key went with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_binds_nothing_signs_nobody_in() {
    let laptop = Laptop::open().await;
    laptop.provider.drops_nonces.store(true, Ordering::SeqCst);
    let done = laptop.login().await;
    assert!(done.is(4).err.contains("`nonce`"), "{done:?}");
    assert!(!laptop.file().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_brings_no_other_proof() {
    let laptop = Laptop::signed_in().await;
    for other in [
        &["--key", "agent.key.json"][..],
        &["--subject-token-file", "token"],
        &["--identity-url", "http://127.0.0.1:9"],
        &["--identity", "aws"],
        &["--platform-signed"],
    ] {
        let words = [&words("token", "laptop"), other].concat();
        laptop.run(&words).await.is(2);
    }
    let nobody = [
        "token",
        "--mission",
        "laptop",
        "--target",
        "deploy-api",
        "--goal",
        "x",
    ];
    laptop.run(&nobody).await.is(2);
}

/// The agent proves itself by its platform; the person's token says whom it serves.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_serves_a_person_whose_token_it_was_given() {
    let laptop = Laptop::signed_in().await;
    let in_folder = |name: &str, text: &str| {
        let path = laptop.folder.path().join(name);
        secret_file(&path, text);
        path.to_str().unwrap().to_owned()
    };
    // A sign-in of the command line runs agents on its laptop; whoever hands a token on has another.
    let stored = laptop.stored();
    let sign_in = in_folder("sign-in.jwt", stored["id_token"].as_str().unwrap());
    let key = &laptop.provider.key;
    let claims = json!({
        "iss": laptop.provider.url, "sub": "olga", "aud": CLIENT, "sid": "session-1",
        "iat": now(), "exp": now() + 300, "groups": ["on-call"],
    });
    let handed_on = key.sign("JWT", key.verifying().kid(), &claims, false);
    let person = in_folder("person.jwt", &handed_on.unwrap());
    let own = in_folder("own.jwt", &laptop.broker.platform_token());
    let key = in_folder("key.json", laptop.broker.key.to_private_jwk().expose());
    let words = [
        "token",
        "--agent",
        "deployer",
        "--key",
        &key,
        "--subject-token-file",
        &own,
        "--mission",
        "assist",
        "--target",
        "deploy-api",
        "--goal",
        "x",
    ];
    let done = laptop.run(&words).await;
    assert!(
        done.is(3).err.contains("subject_not_accepted"),
        "for itself: {done:?}"
    );
    let own = in_folder("own.jwt", &laptop.broker.platform_token());
    assert!(words.contains(&own.as_str()), "the same file");
    let bound = [&words[..], &["--on-behalf-of", &sign_in]].concat();
    laptop.run(&bound).await.is(3);
    let _ = in_folder("own.jwt", &laptop.broker.platform_token());
    let served = [&words[..], &["--on-behalf-of", &person]].concat();
    let done = laptop.run(&served).await;
    let told = laptop.broker.introspect(done.is(0).out.trim()).await.body;
    assert_eq!(
        (&told["sub"], &told["act"]["sub"]),
        (&json!("corp:olga"), &json!("deployer"))
    );
    let nothing = [&words[..], &["--on-behalf-of", "/nowhere"]].concat();
    laptop.run(&nothing).await.is(1);
}
