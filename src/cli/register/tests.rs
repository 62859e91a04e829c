use super::*;
use serde_json::json;

fn file(text: &str) -> Result<(AgentId, Definition), Failure> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": X, "note": "a diary" }] });
    std::fs::write(folder.path().join("keys.json"), keys.to_string()).unwrap();
    std::fs::write(folder.path().join("diary.json"), "{\"token\":\"x\"}").unwrap();
    let secret = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": X, "d": X }] });
    std::fs::write(folder.path().join("secret.json"), secret.to_string()).unwrap();
    let outside = folder.path().with_extension("keys.json");
    std::fs::write(&outside, keys.to_string()).unwrap();
    std::os::unix::fs::symlink(&outside, folder.path().join("link.json")).unwrap();
    let name = outside.file_name().unwrap().to_str().unwrap();
    let text = text.replace("OUTSIDE", &format!("../{name}"));
    std::fs::write(&path, text).unwrap();
    let read = read(&path);
    std::fs::remove_file(outside).unwrap();
    read
}

const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

const GOOD: &str = "[agent.a]\nends = 2027-03-01\nlimits = { active = 3 }\n\
                    identity = [{ client = { keys = \"file:keys.json\" } }]\n";

#[test]
fn the_table_of_a_file_is_sent_with_what_it_refers_to_and_written_as_it_was() {
    let (id, agent) = file(GOOD).unwrap();
    assert_eq!(id.as_str(), "a");
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": X, "alg": "EdDSA", "use": "sig" });
    let wanted = json!({
        "ends": "2027-03-01", "limits": { "active": 3 },
        "identity": [{ "client": { "keys": { "keys": [key] } } }],
    });
    assert_eq!(Value::Object(agent.clone()), wanted);
    let text = written((&id, &agent));
    assert!(text.contains("ends = 2027-03-01\n"), "{text}");
    assert_eq!(file(&text).unwrap(), (id, agent));
}

#[test]
fn nothing_but_one_agent_is_sent() {
    for text in [
        "",
        "[agent]\n",
        "[mission.a]\nx = 1\n",
        "[agent.a]\nx = 1\n[agent.b]\nx = 1\n",
        "[agent.a]\nx = 1\n[mission.b]\nx = 1\n",
        "[agent.\"not a name\"]\nx = 1\n",
    ] {
        assert!(file(text).is_err(), "{text}");
    }
}

#[test]
fn of_the_files_that_a_table_names_only_public_keys_below_its_folder_are_sent() {
    assert!(file(&GOOD.replace("keys.json", "./keys.json")).is_ok());
    for name in [
        "missing.json",
        "diary.json",
        "secret.json",
        "link.json",
        "OUTSIDE",
        "/etc/hostname",
    ] {
        for key in ["identity", "intent_keys"] {
            let text = match key {
                "identity" => GOOD.replace("keys.json", name),
                _ => format!("{GOOD}intent_keys = \"file:{name}\"\n"),
            };
            assert!(file(&text).is_err(), "{key}: {name}");
        }
    }
    assert!(file(&GOOD.replace("file:keys.json", "keys.json")).is_err());
    // What is no key set is text, wherever it stands.
    let (_, agent) = file("[agent.a]\npurpose = \"file:diary.json\"\n").unwrap();
    assert_eq!(agent["purpose"], "file:diary.json");
}
