//! `dayfly intent`: what it signs the broker takes, what it shows it does not vouch for, and what it
//! verifies it verifies as the broker does.

use crate::exec::{dayfly, run};
use crate::support::broker::{TestBroker, form, unique, with};
use crate::support::certificates::{AS_IT_IS, self_signed};
use crate::support::forge::flipped;
use crate::support::world::{inline_keys, key};
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::jose::SigningKey;
use serde_json::{Value, json};
use std::path::Path;

const URL: &str = "http://127.0.0.1:8420";

/// A configuration folder in which an agent, an orchestrator and an authority sign.
struct Desk {
    folder: tempfile::TempDir,
    agent: SigningKey,
    orchestrator: SigningKey,
    changes: SigningKey,
}

impl Desk {
    fn new() -> Self {
        let desk = Self {
            folder: tempfile::tempdir().unwrap(),
            agent: key(),
            orchestrator: key(),
            changes: key(),
        };
        std::fs::create_dir(desk.folder.path().join("config")).unwrap();
        let text = configuration(&desk.agent, &desk.orchestrator, &desk.changes);
        desk.write("config/dayfly.toml", &text);
        desk.write("agent.key.json", desk.agent.to_private_jwk().expose());
        desk.write("ci.key.json", desk.orchestrator.to_private_jwk().expose());
        desk
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        command(self.folder.path(), arguments).await
    }

    /// An intent as `intent sign` makes it, in a file.
    async fn signed(&self, more: &[&str]) -> String {
        let mission: &[&str] = match more.contains(&"--mission") {
            true => &[],
            false => &["--mission", "report"],
        };
        let base = ["intent", "sign", "--agent", "reporter", "--goal", "Week 47"];
        let own = ["--key", "agent.key.json"];
        let key: &[&str] = if more.contains(&"--key") { &[] } else { &own };
        let (code, out, err) = self.run(&[&base, mission, key, more].concat()).await;
        assert_eq!(code, 0, "{err}");
        self.write("intent.jws", &out);
        out
    }

    async fn verified(&self, more: &[&str]) -> (i32, Value) {
        let base = [
            "-o",
            "json",
            "intent",
            "verify",
            "--config",
            "config",
            "intent.jws",
        ];
        let (code, out, err) = self.run(&[&base, more].concat()).await;
        let report = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        (code, report)
    }
}

async fn command(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = dayfly();
    command
        .current_dir(folder)
        .env("DAYFLY_URL", URL)
        .args(arguments);
    run(command).await
}

/// The check that failed, with how many before it passed and how many after it were not reached.
fn failed(report: &Value) -> (String, usize, usize) {
    let checks = report["checks"].as_array().unwrap();
    let at = checks.iter().position(|check| check["passed"] == false);
    let at = at.unwrap_or_else(|| panic!("{report}"));
    assert!(
        checks[..at].iter().all(|check| check["passed"] == true),
        "{report}"
    );
    assert!(
        checks[at + 1..]
            .iter()
            .all(|check| check["passed"].is_null()),
        "{report}"
    );
    assert!(!checks[at]["detail"].as_str().unwrap().is_empty());
    let name = checks[at]["name"].as_str().unwrap().to_owned();
    (name, at, checks.len() - at - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_intent_is_one_that_the_broker_takes() {
    let broker = TestBroker::start().await;
    let folder = tempfile::tempdir().unwrap();
    let private = broker.key.to_private_jwk();
    let token = broker.platform_token();
    std::fs::write(folder.path().join("key.json"), private.expose()).unwrap();
    std::fs::write(folder.path().join("token.jwt"), format!("{token}\n")).unwrap();
    let arguments = [
        "intent",
        "sign",
        "--url",
        &broker.url,
        "--key",
        "key.json",
        "--agent",
        "deployer",
        "--mission",
        "deploy-checkout",
        "--goal",
        "Deploy 1.42",
        "--task",
        "release-1.42",
        "--target",
        "deploy-api",
        "--type",
        "access_token",
        "--action",
        "deploy:write",
        "--location",
        "https://deploy.example/checkout",
        "--subject-token-file",
        "token.jwt",
    ];
    let (code, intent, err) = command(folder.path(), &arguments).await;
    assert_eq!(code, 0, "{err}");
    let private: Value = serde_json::from_str(private.expose()).unwrap();
    assert!(!intent.contains(private["d"].as_str().unwrap()));
    let fields = with(broker.good_form(), "subject_token", &token);
    let answer = broker.exchange(&with(fields, "intent", &intent)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let lease = answer.body["lease_id"].as_str().unwrap();
    let lease = broker
        .admin("GET", &format!("/leases/{lease}"), None)
        .await
        .body;
    assert_eq!(
        (&lease["goal"], &lease["task"]),
        (&json!("Deploy 1.42"), &json!("release-1.42"))
    );
    drop(form(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_would_refuse_for_its_form_is_not_signed() {
    let desk = Desk::new();
    desk.write("bad.json", "{\"client_id\":\"a\",\"client_id\":\"b\"}");
    desk.write("more.json", "{\"admin\":true}");
    let key = ["intent", "sign", "--key", "agent.key.json"];
    let reporter = ["--agent", "reporter"];
    let good = ["--mission", "report", "--goal", "x"];
    for (what, arguments) in [
        ("no agent", [&key[..], &good].concat()),
        (
            "no goal",
            [&key[..], &reporter, &["--mission", "report"]].concat(),
        ),
        (
            "neither mission nor details",
            [&key[..], &reporter, &["--goal", "x"]].concat(),
        ),
        (
            "a long life",
            [&key[..], &reporter, &good, &["--valid", "301"]].concat(),
        ),
        (
            "a turning goal",
            [
                &key[..],
                &reporter,
                &["--mission", "report", "--goal", "a\u{202e}b"],
            ]
            .concat(),
        ),
        (
            "a claim that is none",
            [&key[..], &reporter, &good, &["--claims", "more.json"]].concat(),
        ),
        (
            "a claim twice",
            [&key[..], &good, &["--claims", "bad.json"]].concat(),
        ),
        (
            "no key",
            [&["intent", "sign", "--key", "none"][..], &reporter, &good].concat(),
        ),
    ] {
        let (code, out, err) = desk.run(&arguments).await;
        assert_eq!((code, out.as_str()), (2, ""), "{what}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_is_shown_and_nothing_is_vouched_for() {
    let desk = Desk::new();
    let intent = desk.signed(&[]).await;
    let (code, out, err) = desk.run(&["intent", "show", "intent.jws"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("NOT VERIFIED"), "{out}");
    assert!(out.contains("Week 47"), "{out}");
    desk.write("intent.jws", &flipped(&intent));
    let (code, out, _) = desk
        .run(&["-o", "json", "intent", "show", "intent.jws"])
        .await;
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["verified"]), (0, &json!(false)));
    assert_eq!(shown["header"]["typ"], "intent+jwt");
    desk.write("intent.jws", "not.a.jws");
    assert_eq!(desk.run(&["intent", "show", "intent.jws"]).await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_check_is_told_and_the_first_that_fails_is_the_reason() {
    let desk = Desk::new();
    let intent = desk.signed(&[]).await;
    let (code, report) = desk.verified(&[]).await;
    assert_eq!((code, &report["accepted"]), (0, &json!(true)), "{report}");
    assert_eq!(report["signer"], "agent");
    let names: Vec<_> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].clone())
        .collect();
    let expected = [
        "form",
        "signer",
        "signature",
        "claims",
        "bounds",
        "possession",
        "subject_token",
        "mission",
        "evidence",
        "declared",
        "agent",
        "admitted",
    ];
    assert_eq!(names, expected.map(Value::from));
    let (code, told, _) = desk
        .run(&["intent", "verify", "--config", "config", "intent.jws"])
        .await;
    assert_eq!(code, 0);
    assert!(
        told.contains("accepted, as an intent for reporter"),
        "{told}"
    );

    let (code, report) = desk.verified(&["--at", "2099-01-01T00:00:00Z"]).await;
    assert_eq!((code, failed(&report).0.as_str()), (3, "claims"));
    desk.write("intent.jws", &flipped(&intent));
    let (code, report) = desk.verified(&[]).await;
    assert_eq!((code, failed(&report)), (3, ("signature".to_owned(), 2, 7)));
    desk.write("intent.jws", &intent[..intent.len() - 10]);
    let (code, report) = desk.verified(&[]).await;
    assert_eq!((code, failed(&report).0.as_str()), (3, "signature"));
    desk.write("intent.jws", "x");
    let (code, report) = desk.verified(&[]).await;
    assert_eq!((code, failed(&report).0.as_str()), (3, "form"));

    // Somebody else's key, which nothing vouches for without the token that it is bound to.
    let stranger = key();
    desk.write("stranger.json", stranger.to_private_jwk().expose());
    desk.signed(&["--key", "stranger.json"]).await;
    let (code, report) = desk.verified(&[]).await;
    assert_eq!((code, failed(&report).0.as_str()), (3, "signer"));
    let claims = json!({ "iss": "x", "aud": format!("{URL}#jkt={}", stranger.thumbprint()) });
    let token = stranger.sign("JWT", None, &claims, false).unwrap();
    desk.write("token.jwt", &token);
    let (code, report) = desk.verified(&["--subject-token-file", "token.jwt"]).await;
    assert_eq!(code, 0, "{report}");

    // An intent for one token, with another one.
    desk.signed(&["--subject-token-file", "token.jwt"]).await;
    let (code, report) = desk.verified(&[]).await;
    assert_eq!(code, 0, "{report}");
    let assumed = report["checks"][6]["detail"].as_str().unwrap();
    assert!(assumed.contains("assumed"), "{report}");
    desk.write(
        "other.jwt",
        &stranger
            .sign("JWT", None, &json!({ "iss": "y" }), false)
            .unwrap(),
    );
    let (code, report) = desk.verified(&["--subject-token-file", "other.jwt"]).await;
    assert_eq!((code, failed(&report).0.as_str()), (3, "subject_token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_goes_with_the_certificate_that_it_names() {
    let desk = Desk::new();
    let (own, other) = (self_signed(vec![], AS_IT_IS), self_signed(vec![], AS_IT_IS));
    desk.write("own.pem", &own.pem);
    desk.write("other.pem", &other.pem);
    let intent = desk.signed(&["--certificate", "own.pem"]).await;
    let (_, shown, _) = desk
        .run(&["-o", "json", "intent", "show", "intent.jws"])
        .await;
    assert!(shown.contains(&own.thumbprint()), "{shown}");
    let (code, report) = desk.verified(&["--certificate", "own.pem"]).await;
    assert_eq!(code, 0, "{report}");
    for without in [&[][..], &["--certificate", "other.pem"]] {
        let (code, report) = desk.verified(without).await;
        assert_eq!((code, failed(&report).0.as_str()), (3, "possession"));
    }
    // One that names its own key goes with no certificate.
    desk.signed(&[]).await;
    let (code, report) = desk.verified(&["--certificate", "own.pem"]).await;
    assert_eq!((code, failed(&report).0.as_str()), (3, "possession"));
    desk.write("intent.jws", &intent);
    desk.write("no.pem", "nothing");
    let base = ["intent", "verify", "--config", "config", "intent.jws"];
    let (code, _, err) = desk
        .run(&[&base[..], &["--certificate", "no.pem"]].concat())
        .await;
    assert_eq!(code, 2, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_signs_with_evidence_and_within_its_bounds() {
    let desk = Desk::new();
    let now = SystemClock::new().now().unix_timestamp();
    let evidence = json!({
        "iss": "https://changes.example", "client_id": "reporter", "aud": URL,
        "iat": now, "exp": now + 600, "jti": unique(), "facts": { "change.id": "CHG1" },
    });
    let evidence = desk
        .changes
        .sign("evidence+jwt", None, &evidence, false)
        .unwrap();
    desk.write("change.jws", &evidence);
    desk.write("tctx.json", "{\"change\":{\"id\":\"CHG1\"}}");
    let order = [
        "--key",
        "ci.key.json",
        "--issuer",
        "https://ci.example",
        "--mission",
        "ordered",
        "--evidence",
        "change.jws",
        "--context",
        "tctx.json",
    ];
    desk.signed(&order).await;
    let (code, report) = desk.verified(&[]).await;
    assert_eq!(
        (code, &report["signer"]),
        (0, &json!("orchestrator")),
        "{report}"
    );
    let (_, shown, _) = desk
        .run(&["-o", "json", "intent", "show", "intent.jws"])
        .await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["evidence"][0]["facts"]["change.id"], "CHG1");

    desk.write("tctx.json", "{\"change\":{\"id\":\"CHG2\"}}");
    desk.signed(&order).await;
    let (code, report) = desk.verified(&[]).await;
    assert_eq!((code, failed(&report).0.as_str()), (3, "declared"));
    desk.write("change.jws", &flipped(&evidence));
    desk.signed(&order).await;
    let (code, report) = desk.verified(&[]).await;
    assert_eq!((code, failed(&report).0.as_str()), (3, "evidence"));

    desk.signed(&["--key", "ci.key.json", "--issuer", "https://ci.example"])
        .await;
    let (code, report) = desk.verified(&[]).await;
    assert_eq!(
        (code, failed(&report).0.as_str()),
        (3, "bounds"),
        "another mission"
    );
    // The right signer, and a mission that wants another class.
    desk.signed(&["--mission", "ordered"]).await;
    let (code, report) = desk.verified(&[]).await;
    assert_eq!((code, failed(&report).0.as_str()), (3, "admitted"));

    // Keys that the broker fetches are not fetched here.
    let fetched = [
        "--key",
        "ci.key.json",
        "--issuer",
        "https://fetched.example",
    ];
    desk.signed(&fetched).await;
    let verify = ["intent", "verify", "--config", "config", "intent.jws"];
    let (code, _, err) = desk.run(&verify).await;
    assert_eq!(code, 6, "{err}");
    let keys = json!({ "keys": [desk.orchestrator.public_jwk()] });
    desk.write("keys.json", &keys.to_string());
    let (code, report) = desk.verified(&["--keys", "keys.json"]).await;
    assert_eq!(
        (code, &report["signer"]),
        (3, &json!("approver")),
        "{report}"
    );
}

fn configuration(agent: &SigningKey, ci: &SigningKey, changes: &SigningKey) -> String {
    let [agent, ci, changes] = [agent, ci, changes].map(inline_keys);
    let mission = |name: &str, signer: &str| {
        format!(
            "[mission.{name}]\nagents = [\"reporter\"]\nowner = \"a@b.example\"\npurpose = \"x\"\nsigner = \"{signer}\"\n\
             allow = [{{ target = \"orders\", actions = [\"orders:read\"], locations = [\"https://orders.example/\"] }}]\n"
        )
    };
    format!(
        r#"
[broker]
url = "{URL}"
store = {{ embedded = "store.redb" }}
keys = {{ sealing = ["file:sealing.key"] }}

[agent.reporter]
owner = "a@b.example"
purpose = "x"
ends = 2099-01-01
identity = {{ client = {{ keys = {agent} }} }}

[intent_issuer.ci]
issuer = "https://ci.example"
class = "orchestrator"
keys = {ci}
missions = ["ordered"]

[intent_issuer.fetched]
issuer = "https://fetched.example"
class = "approver"
agents = ["reporter"]

[facts.changes]
evidence = {{ issuer = "https://changes.example", keys = {changes} }}
proves = ["change.id"]

{}{}
[target.orders]
kind = "access_token"
ceiling = {{ actions = ["orders:*"], locations = ["https://orders.example/*"] }}
"#,
        mission("report", "agent"),
        mission("ordered", "orchestrator")
    )
}
