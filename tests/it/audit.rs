//! The exported audit: it verifies, no change to it goes unseen, and no secret is in it.

use crate::cli::{Done, dayfly};
use crate::support::broker::{SERVER_SECRET, Setup, TestBroker};
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a broker left after it granted, refused and revoked.
struct Export {
    broker: TestBroker,
    issued: Vec<Value>,
    keys: PathBuf,
}

impl Export {
    async fn make() -> Self {
        let broker = TestBroker::start().await;
        let mut issued = Vec::new();
        for _ in 0..4 {
            issued.push(broker.issue().await);
        }
        let spent = broker.good_form();
        assert_eq!(broker.exchange(&spent).await.status, 200);
        assert_ne!(broker.exchange(&spent).await.status, 200);
        let lease = serde_json::json!({ "lease": issued[0]["lease_id"] });
        assert!(broker.revoke(lease).await.status < 300);
        let keys = broker.folder.path().join("jwks.json");
        std::fs::write(&keys, broker.composed.broker.jwks().to_string()).unwrap();
        broker.composed.finish().await;
        Self {
            broker,
            issued,
            keys,
        }
    }

    fn path(&self) -> PathBuf {
        exported(self.broker.folder.path())
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// What `dayfly audit verify` says about these lines in place of the export.
    async fn verify(&self, lines: &[String]) -> Done {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        verify(&path, &["--keys", self.keys.to_str().unwrap()]).await
    }
}

/// The one file of entries below the broker's folder.
fn exported(folder: &Path) -> PathBuf {
    let path = folder.join("audit");
    if path.is_file() {
        return path;
    }
    let mut files: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

async fn verify(path: &Path, more: &[&str]) -> Done {
    let arguments = ["audit", "verify", path.to_str().unwrap()];
    dayfly(&[&arguments[..], more].concat(), &[], "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_verifies_with_saved_keys_and_with_the_brokers() {
    let export = Export::make().await;
    let sound = export.verify(&export.lines()).await;
    assert!(sound.is(0).out.contains("sound"), "{sound:?}");
    let live = verify(&export.path(), &["--url", &export.broker.url]).await;
    live.is(0);
    let entry = |line: &String| serde_json::from_str::<Value>(line).unwrap();
    let of_agent = |line: &Value| line.to_string().contains("\"deployer\"");
    let lines: Vec<_> = export.lines().iter().map(entry).collect();
    let issued: Vec<_> = lines
        .iter()
        .map(Value::to_string)
        .filter(|line| line.contains(export.issued[1]["lease_id"].as_str().unwrap()))
        .collect();
    assert!(!issued.is_empty());
    assert!(lines.iter().any(of_agent));
    let all = issued.concat();
    let hash = export.broker.composed.broker.config_hash();
    for word in ["deployer", "deploy-checkout", &hash] {
        assert!(all.contains(word), "{word}: {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_a_loss_a_swap_and_a_cut_are_found_at_their_line() {
    let export = Export::make().await;
    let lines = export.lines();
    let at = lines
        .iter()
        .position(|line| line.contains("deployer"))
        .unwrap();
    let mut edited = lines.clone();
    edited[at] = edited[at].replace("deployer", "somebody");
    let mut removed = lines.clone();
    removed.remove(at);
    let mut swapped = lines.clone();
    swapped.swap(at, at + 1);
    let mut cut = lines.clone();
    let last = cut.pop().unwrap();
    cut.push(last.chars().take(last.len() / 2).collect());
    for (what, changed) in [
        ("edited", edited),
        ("removed", removed),
        ("swapped", swapped),
        ("cut", cut),
    ] {
        let found = export.verify(&changed).await;
        assert!(
            found.is(1).out.contains("audit.jsonl:"),
            "{what}: {found:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_the_run_is_in_the_export() {
    let export = Export::make().await;
    let text = export.lines().concat();
    let key = export.broker.key.to_private_jwk();
    let private: Value = serde_json::from_str(key.expose()).unwrap();
    let mut secrets = vec![SERVER_SECRET.to_owned(), "hook-secret".to_owned()];
    secrets.push(private["d"].as_str().unwrap().to_owned());
    for issued in &export.issued {
        let token = issued["access_token"].as_str().unwrap();
        secrets.push(token.to_owned());
        secrets.push(token.rsplit('.').next().unwrap().to_owned());
    }
    for secret in secrets {
        assert!(!text.contains(&secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_broker_goes_on_with_the_chain() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let mut before = String::new();
    for _ in 0..2 {
        let mut setup = Setup {
            store: Some(store.clone()),
            ..Setup::default()
        };
        if !before.is_empty() {
            setup.files.push(("audit".to_owned(), before.clone()));
        }
        let broker = TestBroker::with(setup).await;
        broker.issue().await;
        broker.composed.finish().await;
        let file = exported(broker.folder.path());
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.len() > before.len());
        assert!(text.starts_with(&before), "what was exported stays");
        let keys = broker.folder.path().join("jwks.json");
        std::fs::write(&keys, broker.composed.broker.jwks().to_string()).unwrap();
        verify(&file, &["--keys", keys.to_str().unwrap()])
            .await
            .is(0);
        before = text;
    }
}
