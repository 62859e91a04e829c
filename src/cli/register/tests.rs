use super::*;
use serde_json::json;

fn file(text: &str) -> Result<(AgentId, Definition), Failure> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::write(folder.path().join("keys.json"), "{\"keys\":[]}").unwrap();
    read(&path)
}

const GOOD: &str = "[agent.a]\nends = 2027-03-01\nlimits = { active = 3 }\n\
                    identity = [{ client = { keys = \"file:keys.json\" } }]\n";

#[test]
fn the_table_of_a_file_is_sent_with_what_it_refers_to_and_written_as_it_was() {
    let (id, agent) = file(GOOD).unwrap();
    assert_eq!(id.as_str(), "a");
    let wanted = json!({
        "ends": "2027-03-01", "limits": { "active": 3 },
        "identity": [{ "client": { "keys": { "keys": [] } } }],
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
        "[agent.a]\nkeys = \"file:missing.json\"\n",
    ] {
        assert!(file(text).is_err(), "{text}");
    }
}
