//! `--registered FILE`: a folder is asked about with whoever is registered beside it, without a broker.

use super::MISSIONS;
use crate::cli::{Done, dayfly};
use crate::support::process::secret_file;
use crate::support::world::{inline_keys, key};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A folder and, beside it, what `agent export` would have written of one agent.
fn house(mission: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (config, registered) = (folder.path().join("config"), folder.path().join("agents"));
    std::fs::create_dir(&config).unwrap();
    secret_file(&config.join("sealing.key"), "unread");
    let text = format!(
        "[broker]\nurl = \"http://127.0.0.1:1\"\nstore = {{ embedded = \"x.redb\" }}\n\
         keys = {{ sealing = [\"file:sealing.key\"] }}\n{MISSIONS}\n\
         [target.deploy-api]\nkind = \"access_token\"\n\
         ceiling = {{ actions = [\"deploy:*\"], locations = [\"https://deploy.example/*\"] }}\n"
    );
    std::fs::write(config.join("dayfly.toml"), text).unwrap();
    let agent = format!(
        "[agent.night-worker]\nowner = \"nights@acme.example\"\npurpose = \"Tidies up\"\nends = 2099-03-01\n\
         identity = {{ client = {{ keys = {} }} }}\nmissions = [\"{mission}\"]\n",
        inline_keys(&key())
    );
    std::fs::write(&registered, agent).unwrap();
    (folder, config, registered)
}

async fn run(command: &[&str], registered: Option<&Path>) -> Done {
    let mut words = command.to_vec();
    if let Some(registered) = registered {
        words.extend(["--registered", registered.to_str().unwrap()]);
    }
    dayfly(&words, &[], "").await
}

#[tokio::test]
async fn what_somebody_who_is_registered_would_get_is_explained_without_a_broker() {
    let (folder, config, registered) = house("tidy");
    let request = folder.path().join("request.json");
    let asks = |actions: &str| {
        let request = json!({
            "agent": "night-worker",
            "mission": "tidy",
            "authorization_details": [{
                "type": "access_token", "identifier": "deploy-api", "actions": [actions],
                "locations": ["https://deploy.example/a"],
            }],
        });
        request.to_string()
    };
    let words = [
        "explain",
        request.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
    ];
    std::fs::write(&request, asks("deploy:write")).unwrap();
    let told = run(&words, Some(&registered)).await;
    told.is(0);
    assert!(told.out.contains("granted"), "{told:?}");
    let told = run(&words, None).await;
    told.is(5);
    std::fs::write(&request, asks("other:write")).unwrap();
    run(&words, Some(&registered)).await.is(3);
}

#[tokio::test]
async fn whoever_is_registered_and_does_not_stand_beside_the_files_fails_the_check() {
    let (_folder, config, registered) = house("tidy");
    let words = ["check", config.to_str().unwrap()];
    run(&words, Some(&registered)).await.is(0);
    let (_folder, config, registered) = house("another");
    let words = ["check", config.to_str().unwrap()];
    run(&words, None).await.is(0);
    let told = run(&words, Some(&registered)).await;
    told.is(1);
    assert!(told.out.contains("unknown_mission"), "{told:?}");
    assert!(told.out.contains("night-worker"), "{told:?}");
    // Of no mission that lets anybody join, all of them.
    let file = config.join("dayfly.toml");
    let without = std::fs::read_to_string(&file)
        .unwrap()
        .replace(MISSIONS, "");
    std::fs::write(&file, without).unwrap();
    run(&words, None).await.is(0);
    let told = run(&words, Some(&registered)).await;
    told.is(1);
    assert!(told.out.contains("allow_registered"), "{told:?}");
}
