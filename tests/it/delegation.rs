//! Agents that act for others: for people, and for agents that hand on what they hold.

mod agents;
mod cascade;
mod in_person;
mod people;
mod processes;
mod published;
mod sign_ins;

use crate::support::broker::{Setup, TestBroker, b64, form, sha256, unique};
use crate::support::issuer::Issuer;
use crate::support::world::{ASSERTION, EXCHANGE, JWT, inline_keys, key};
use dayfly::jose::SigningKey;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const AGENTS: [&str; 5] = ["fixer", "helper", "third", "fourth", "stranger"];
pub const CHECKOUT: &str = "https://deploy.example/checkout";

/// A broker with an issuer of people, and agents that each have a key of their own.
pub struct Cast {
    pub broker: TestBroker,
    pub corp: Issuer,
    keys: BTreeMap<&'static str, SigningKey>,
}

impl Cast {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// What `setup` adds comes after what every cast has.
    pub async fn with(setup: Setup) -> Self {
        let corp = Issuer::start().await;
        let keys = keys();
        let more = configuration(&corp.url, &keys) + &setup.more;
        let broker = TestBroker::with(Setup { more, ..setup }).await;
        Self { broker, corp, keys }
    }

    /// What its broker has beside what every broker has.
    pub fn configuration(&self) -> String {
        configuration(&self.corp.url, &self.keys)
    }

    pub fn key(&self, name: &str) -> &SigningKey {
        &self.keys[name]
    }

    /// What proves this agent.
    pub fn assertion(&self, name: &str) -> String {
        let now = self.broker.now();
        let claims = json!({
            "iss": name, "sub": name, "aud": self.broker.url,
            "iat": now, "exp": now + 60, "jti": unique(),
        });
        let key = &self.keys[name];
        key.sign("JWT", key.verifying().kid(), &claims, false)
            .unwrap()
    }

    /// For this subject token, if there is one.
    pub fn intent_claims(&self, name: &str, mission: &str, subject: Option<&str>) -> Value {
        let now = self.broker.now();
        let mut claims = json!({
            "iss": name, "sub": name, "client_id": name, "aud": self.broker.url,
            "iat": now, "exp": now + 120, "jti": unique(),
            "mission": { "id": mission },
            "authorization_details": [{
                "type": "access_token", "identifier": "deploy-api",
                "actions": ["deploy:read"], "locations": [CHECKOUT],
            }],
            "intent": { "goal": "Find out why the checkout is slow" },
        });
        if let Some(token) = subject {
            claims["subject_token_hash"] = json!(b64(&sha256(token.as_bytes())));
        }
        claims
    }

    pub fn sign_intent(&self, name: &str, claims: &Value) -> String {
        let key = &self.keys[name];
        key.sign("intent+jwt", key.verifying().kid(), claims, false)
            .unwrap()
    }

    /// An agent asks for itself.
    pub fn root_form(&self, name: &str, mission: &str) -> Vec<(String, String)> {
        let claims = self.intent_claims(name, mission, None);
        form(&[
            ("grant_type", "client_credentials"),
            ("client_assertion", &self.assertion(name)),
            ("client_assertion_type", ASSERTION),
            ("intent", &self.sign_intent(name, &claims)),
        ])
    }

    /// An agent asks for whoever the subject token is of.
    pub fn form_for(
        &self,
        subject: &str,
        name: &str,
        mission: &str,
        change: impl FnOnce(&mut Value),
    ) -> Vec<(String, String)> {
        let mut claims = self.intent_claims(name, mission, Some(subject));
        change(&mut claims);
        form(&[
            ("grant_type", EXCHANGE),
            ("subject_token", subject),
            ("subject_token_type", JWT),
            ("client_assertion", &self.assertion(name)),
            ("client_assertion_type", ASSERTION),
            ("intent", &self.sign_intent(name, &claims)),
        ])
    }

    pub async fn granted(&self, form: &[(String, String)]) -> Value {
        let answer = self.broker.exchange(form).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// The credential of an agent that asks for itself.
    pub async fn root(&self, name: &str, mission: &str) -> String {
        token(&self.granted(&self.root_form(name, mission)).await)
    }

    /// The credential of what is handed on.
    pub async fn child(&self, parent: &str, name: &str, mission: &str) -> String {
        let form = self.form_for(parent, name, mission, |_| {});
        token(&self.granted(&form).await)
    }

    /// Claims of a person on call, signed in.
    pub fn person_claims(&self) -> Value {
        let now = self.broker.now();
        json!({
            "iss": self.corp.url, "sub": "00u1", "aud": "dayfly-people",
            "iat": now, "exp": now + 600, "nonce": "n-0S6", "sid": "session-1",
            "email": "alice@acme.example", "email_verified": true,
            "groups": ["staff", "oncall"],
        })
    }

    pub fn person(&self) -> String {
        self.corp.sign(&self.person_claims())
    }

    /// The person's token with one claim changed; `null` takes it out.
    pub fn person_with(&self, name: &str, value: Value) -> String {
        let mut claims = self.person_claims();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value;
        }
        self.corp.sign(&claims)
    }

    pub async fn told(&self, token: &str) -> Value {
        self.broker.introspect(token).await.body
    }

    pub async fn lease(&self, id: &str) -> Value {
        let answer = self
            .broker
            .admin("GET", &format!("/leases/{id}"), None)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }
}

pub fn token(answer: &Value) -> String {
    answer["access_token"].as_str().unwrap().to_owned()
}

pub fn claims(jwt: &str) -> Value {
    use base64::Engine as _;
    let payload = jwt.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload)
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// An opaque key, which every replica knows whatever it calls itself.
pub fn a_key(claims: &mut Value) {
    claims["authorization_details"] = json!([{
        "type": "api_key", "identifier": "metrics-key",
        "actions": ["metrics:read"], "locations": ["https://metrics.example/a"],
    }]);
}

pub fn asking(
    actions: &'static [&'static str],
    locations: &'static [&'static str],
) -> impl FnOnce(&mut Value) {
    move |claims| {
        claims["authorization_details"][0]["actions"] = json!(actions);
        claims["authorization_details"][0]["locations"] = json!(locations);
    }
}

fn keys() -> BTreeMap<&'static str, SigningKey> {
    AGENTS.into_iter().map(|name| (name, key())).collect()
}

fn configuration(corp: &str, keys: &BTreeMap<&'static str, SigningKey>) -> String {
    let agents: String = keys
        .iter()
        .map(|(name, key)| {
            format!(
                r#"
[agent.{name}]
owner = "{name}@acme.example"
purpose = "Acts for others"
ends = 2099-01-01
identity = {{ client = {{ keys = {} }} }}
limits = {{ active = 100, per_minute = 100000 }}
"#,
                inline_keys(key)
            )
        })
        .collect();
    format!(
        r#"{agents}
[issuer.corp]
url = "{corp}"
audience = "dayfly-people"
algorithms = ["RS256"]
people = true

[people.oncall]
issuer = "corp"
claims = {{ groups = "oncall" }}
ceiling = [
  {{ target = "deploy-api", actions = ["deploy:read", "deploy:write"], locations = ["{CHECKOUT}"] }},
  {{ target = "metrics-key", actions = ["metrics:read"], locations = ["https://metrics.example/*"] }},
]

[people.staff]
issuer = "corp"
claims = {{ groups = "staff" }}
ceiling = [{{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }}]

[mission.assist]
agents = ["fixer", "deployer"]
on_behalf_of = ["oncall"]
delegates_to = ["helper"]
owner = "sre@acme.example"
purpose = "Help whoever is on call"
allow = [{{ target = "deploy-api", actions = ["deploy:*"], locations = ["https://deploy.example/*"] }}]

[mission.laptop]
agents = ["fixer"]
on_behalf_of = ["oncall"]
in_person = true
owner = "sre@acme.example"
purpose = "What people on call do by hand"
tether = ["session"]
allow = [{{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/*"] }}]

[mission.for-staff]
agents = ["helper"]
on_behalf_of = ["staff"]
owner = "sre@acme.example"
purpose = "For staff, through others, too"
allow = [{{ target = "deploy-api", actions = ["deploy:*"], locations = ["https://deploy.example/*"] }}]

[mission.relay]
agents = ["fixer", "helper", "third", "fourth"]
delegates_to = ["fixer", "helper", "third", "fourth"]
owner = "relay@acme.example"
purpose = "Work that is handed on"
ttl = "10m"
allow = [
  {{ target = "deploy-api", actions = ["deploy:*"], locations = ["https://deploy.example/*"] }},
  {{ target = "metrics-key", actions = ["metrics:read"], locations = ["https://metrics.example/*"] }},
]

[mission.alone]
agents = ["fixer", "stranger"]
owner = "sre@acme.example"
purpose = "Work that is not handed on"
allow = [{{ target = "deploy-api", actions = ["deploy:*"], locations = ["https://deploy.example/*"] }}]
"#
    )
}
