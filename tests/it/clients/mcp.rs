//! Both SDKs of the Model Context Protocol: a tool server sends its client away with a 401, the client
//! finds the broker from there, authenticates with its key, and comes back with a token for this
//! server alone.

use super::key_file;
use crate::support::broker::{Setup, TestBroker};
use crate::support::process::free_port;
use crate::support::tools;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::process::{Child, Command};

struct Tools {
    broker: TestBroker,
    /// The URL that clients know the server by.
    resource: String,
    server: Child,
}

impl Tools {
    async fn start(python: &Path) -> Self {
        let port = free_port();
        let resource = format!("http://127.0.0.1:{port}/mcp");
        let more = format!(
            r#"
[agent.assistant]
owner = "platform@acme.example"
purpose = "Uses tools"
ends = 2099-01-01
identity = {{ client = {{ keys = "file:deployer.jwks.json" }} }}

[mission.use-tools]
agents = ["assistant"]
owner = "sre@acme.example"
purpose = "Call the tools of one server"
signer = "platform"
max_active = 5
allow = [{{ target = "tools", actions = ["tools:call"], locations = ["{resource}"] }}]

[target.tools]
kind = "access_token"
resources = ["{resource}"]
ceiling = {{ actions = ["tools:*"], locations = ["{resource}"] }}

[resource_server.tools]
secret = "file:server.secret"
audiences = ["{resource}"]
"#
        );
        let broker = TestBroker::with(Setup {
            more,
            ..Setup::default()
        })
        .await;
        let server = Command::new(python)
            .arg(tools::script("mcp_server.py"))
            .args([&broker.url, &port.to_string()])
            .arg(crate::support::broker::SERVER_SECRET)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let tools = Self {
            broker,
            resource,
            server,
        };
        tools.until_it_answers().await
    }

    async fn until_it_answers(mut self) -> Self {
        for _ in 0..600 {
            let asked = self.broker.http.post(&self.resource).json(&json!({}));
            if let Ok(answer) = asked.send().await {
                assert_eq!(answer.status(), 401, "no token, no tools");
                return self;
            }
            assert_eq!(self.server.try_wait().unwrap(), None, "the server ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not answer");
    }

    fn arguments(&self) -> [String; 4] {
        [
            self.broker.url.clone(),
            "assistant".to_owned(),
            key_file(&self.broker),
            self.resource.clone(),
        ]
    }

    /// The tool was called, with a token for this server, and without the token it cannot be.
    async fn check(&self, said: &Value) {
        assert_eq!(said["answer"], "42");
        let token = said["token"].as_str().unwrap();
        let claims = crate::exchange::claims_of(token);
        assert_eq!(claims["aud"], self.resource.as_str());
        assert_eq!(claims["scope"], "tools:call");
        let call = |token: &str| {
            let request = self.broker.http.post(&self.resource).bearer_auth(token);
            request.json(&json!({})).send()
        };
        let alive = call(token).await.unwrap().status();
        assert_ne!(alive, 401, "a malformed call, but a good token");
        let revoked = self.broker.revoke(json!({ "agent": "assistant" })).await;
        assert_eq!(revoked.status, 200, "{}", revoked.body);
        assert_eq!(call(token).await.unwrap().status(), 401, "dead at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mcp_client_in_python_finds_its_way_to_a_token_for_the_server_that_sent_it_away() {
    let Some(python) = tools::python() else {
        return;
    };
    let tools = Tools::start(&python).await;
    let mut command = Command::new(python);
    command
        .arg(tools::script("mcp_client.py"))
        .args(tools.arguments());
    let said = tools::json_of(command).await;
    tools.check(&said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mcp_client_in_typescript_finds_its_way_to_a_token_for_the_server_that_sent_it_away() {
    let (Some(python), Some(folder)) = (tools::python(), tools::node_folder()) else {
        return;
    };
    let tools = Tools::start(&python).await;
    let arguments = tools.arguments();
    let arguments = arguments.each_ref().map(String::as_str);
    let said = tools::node(&folder, "mcp_client.mjs", &arguments).await;
    tools.check(&said).await;
}
