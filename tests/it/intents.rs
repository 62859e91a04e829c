//! Who signs an intent, what is proved of it, what joins leases, and once only: over the wire.

mod evidence;
mod issuers;
mod joined;
mod once;
mod platform;

use crate::support::broker::{Setup, TestBroker, with};
use crate::support::issuer::Issuer;
use serde_json::{Value, json};

/// An orchestrator that fetches its keys from discovery, a change system, and missions that need
/// one or the other.
struct Office {
    broker: TestBroker,
    orchestrator: Issuer,
    changes: Issuer,
}

impl Office {
    async fn start() -> Self {
        let (orchestrator, changes) = (Issuer::start().await, Issuer::start().await);
        let more = configuration(&orchestrator.url, &changes.url);
        let broker = TestBroker::with(Setup {
            more,
            ..Setup::default()
        })
        .await;
        Self {
            broker,
            orchestrator,
            changes,
        }
    }

    /// An intent of the deployer for this mission, signed by itself.
    fn intent_for(&self, mission: &str, token: &str) -> Value {
        let mut claims = self.broker.intent_claims(token);
        claims["mission"]["id"] = json!(mission);
        claims
    }

    fn form(&self, token: &str, intent: &str) -> Vec<(String, String)> {
        let form = with(self.broker.good_form(), "subject_token", token);
        with(form, "intent", intent)
    }

    /// The newest entries of the audit, oldest first.
    async fn audited(&self, event: &str) -> Vec<Value> {
        let page = self.broker.admin("GET", "/audit?limit=1000", None).await;
        let items = page.body["items"].as_array().unwrap();
        let found = items.iter().filter(|entry| entry["event"] == event);
        found.cloned().collect()
    }
}

/// Signs as this kind of token, with the issuer's current key.
fn sign(issuer: &Issuer, typ: &str, claims: &Value) -> String {
    let key = issuer.key();
    key.sign(typ, key.verifying().kid(), claims, false).unwrap()
}

/// The setup of a broker whose missions know these two.
pub fn configuration(orchestrator: &str, changes: &str) -> String {
    let allow = "[{ target = \"deploy-api\", actions = [\"deploy:write\"], locations = [\"https://deploy.example/checkout\"] }]";
    format!(
        r#"
[intent_issuer.ci]
issuer = "{orchestrator}"
class = "orchestrator"
algorithms = ["RS256"]
agents = ["deployer"]
missions = ["ordered"]

[facts.changes]
evidence = {{ issuer = "{changes}", algorithms = ["RS256"] }}
proves = ["change.id", "change.state"]

[source.changes]
kind = "generic"
secret = "file:hook.secret"
issuer = "changes"
ends = ["change"]

[agent.neighbour]
owner = "others@acme.example"
purpose = "Is another team's"
ends = 2099-01-01
identity = {{ issuer = "ci", subject = "repo:acme/neighbour" }}

[mission.ordered]
agents = ["deployer", "neighbour"]
owner = "sre@acme.example"
purpose = "What the orchestrator orders"
signer = "orchestrator"
allow = {allow}

[mission.changed]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "An approved change"
require = {{ "change.state" = "approved" }}
when = 'context.verified has change && context.verified.change has id && context.verified.change.id like "CHG*"'
tether = ["change"]
allow = {allow}
"#
    )
}
