//! A broker with more people in it: an agent with a key of its own, a mission that is content with
//! the platform's token, an issuer whose tokens are single use, somebody else's mission.

use super::broker::{Answer, Setup, TestBroker, form, unique, with};
use super::forge;
use dayfly::broker::Reason;
use dayfly::http::error::face;
use dayfly::jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

pub const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
pub const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A mission of the robot's that asks people: for [`World::put_to_people`].
pub const ASKS_PEOPLE: &str = r#"
[mission.asks-people]
agents = ["robot"]
owner = "sre@acme.example"
purpose = "What somebody looks at first"
allow = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/robot"] }]
approval = {}
"#;

pub struct World {
    pub broker: TestBroker,
    /// The key of the agent `robot`.
    pub robot: SigningKey,
    /// The key of the issuer `once`.
    pub once: SigningKey,
}

impl World {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// What `setup` adds comes after what every world has.
    pub async fn with(setup: Setup) -> Self {
        let robot = key();
        let once = key();
        let more = configuration(&robot, &once) + &setup.more;
        let broker = TestBroker::with(Setup { more, ..setup }).await;
        Self {
            broker,
            robot,
            once,
        }
    }

    pub fn assertion_claims(&self) -> Value {
        let now = self.broker.now();
        json!({
            "iss": "robot", "sub": "robot", "aud": self.broker.url,
            "iat": now, "exp": now + 60, "jti": unique(),
        })
    }

    pub fn sign_assertion(&self, claims: &Value) -> String {
        self.robot
            .sign("JWT", self.robot.verifying().kid(), claims, false)
            .unwrap()
    }

    pub fn robot_intent_claims(&self) -> Value {
        let now = self.broker.now();
        json!({
            "iss": "robot", "sub": "robot", "client_id": "robot", "aud": self.broker.url,
            "iat": now, "exp": now + 120, "jti": unique(), "txn": "task-1",
            "mission": { "id": "robot-work" },
            "authorization_details": [{
                "type": "access_token", "identifier": "deploy-api",
                "actions": ["deploy:read"], "locations": ["https://deploy.example/robot"],
            }],
            "intent": { "goal": "Look after the checkout" },
        })
    }

    pub fn sign_robot_intent(&self, claims: &Value) -> String {
        self.robot
            .sign("intent+jwt", self.robot.verifying().kid(), claims, false)
            .unwrap()
    }

    /// `client_credentials` of the robot, granted as it is.
    pub fn robot_form(&self) -> Vec<(String, String)> {
        form(&[
            ("grant_type", "client_credentials"),
            (
                "client_assertion",
                &self.sign_assertion(&self.assertion_claims()),
            ),
            ("client_assertion_type", ASSERTION),
            ("audience", "deploy-api"),
            (
                "intent",
                &self.sign_robot_intent(&self.robot_intent_claims()),
            ),
        ])
    }

    /// Something that waits for people, by its id; each time another.
    pub async fn put_to_people(&self) -> String {
        let mut claims = self.robot_intent_claims();
        claims["mission"]["id"] = json!("asks-people");
        claims["txn"] = json!(unique());
        let form = with(
            self.robot_form(),
            "intent",
            &self.sign_robot_intent(&claims),
        );
        let waits = self.broker.exchange(&form).await;
        assert_refused(&waits, Reason::ApprovalRequired, "it waits");
        waits.body["deferral_code"].as_str().unwrap().to_owned()
    }

    /// Claims of a token of the issuer `once`, for the agent of the same name.
    pub fn once_claims(&self) -> Value {
        let now = self.broker.now();
        json!({
            "iss": "https://once.example", "sub": "job", "aud": self.broker.url,
            "iat": now, "exp": now + 300, "jti": unique(),
        })
    }

    /// An exchange without an intent, of a token of the issuer `once`.
    pub fn once_form(&self, token: &str) -> Vec<(String, String)> {
        form(&[
            ("grant_type", EXCHANGE),
            ("subject_token", token),
            ("subject_token_type", JWT),
            ("audience", "deploy-api"),
        ])
    }

    pub fn sign_once(&self, claims: &Value) -> String {
        forge::sign(
            &self.once,
            &json!({ "alg": "ES256", "kid": self.once.verifying().kid() }),
            claims,
        )
    }
}

pub fn key() -> SigningKey {
    SigningKey::generate(Algorithm::Es256)
        .unwrap()
        .named_by_thumbprint()
}

/// A key set as TOML has it inline.
pub fn inline_keys(key: &SigningKey) -> String {
    let jwk = key.public_jwk();
    let members = jwk.as_object().unwrap().iter();
    let members: Vec<_> = members
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    format!("{{ keys = [{{ {} }}] }}", members.join(", "))
}

/// What `protocol.md` says about each of these: status, error, what to do next.
fn wire(reason: Reason) -> (u16, &'static str, &'static str) {
    match reason {
        Reason::MalformedRequest => (400, "invalid_request", "never"),
        Reason::UnsupportedMediaType => (415, "invalid_request", "never"),
        Reason::HistoryNotKept => (501, "invalid_request", "never"),
        Reason::RequestTooLarge => (413, "invalid_request", "never"),
        Reason::MethodNotAllowed => (405, "invalid_request", "never"),
        Reason::UnsupportedGrantType => (400, "unsupported_grant_type", "never"),
        Reason::NoProof | Reason::InvalidClient => (401, "invalid_client", "refresh"),
        Reason::InvalidToken
        | Reason::TokenSpent
        | Reason::InvalidIntent
        | Reason::IntentSpent
        | Reason::TetherMissing => (400, "invalid_request", "refresh"),
        Reason::InvalidAssertion => (400, "invalid_grant", "refresh"),
        Reason::UnsupportedResponseType => (400, "unsupported_response_type", "never"),
        Reason::InvalidDpopProof | Reason::DpopProofSpent => (400, "invalid_dpop_proof", "refresh"),
        Reason::UseDpopNonce => (400, "use_dpop_nonce", "refresh"),
        // One face for all that would tell who exists.
        Reason::UnknownAgent | Reason::AgentNotInStanding | Reason::UnknownMission => {
            (400, "invalid_request", "never")
        }
        Reason::AmbiguousMission => (400, "invalid_request", "narrow"),
        Reason::SignerNotAccepted
        | Reason::RequirementUnmet
        | Reason::ConditionUnmet
        | Reason::CredentialNotBindable
        | Reason::MissionEnded
        | Reason::Held => (400, "invalid_request", "never"),
        Reason::SubjectNotAccepted | Reason::ActorNotAccepted | Reason::ChainTooDeep => {
            (400, "invalid_request", "never")
        }
        Reason::ParentNotAlive | Reason::ParentKeyNotProved => (400, "invalid_request", "refresh"),
        Reason::UnknownTarget | Reason::InvalidTarget => (400, "invalid_target", "never"),
        Reason::InvalidScope => (400, "invalid_scope", "narrow"),
        Reason::InvalidAuthorizationDetails
        | Reason::ExceedsIntent
        | Reason::ExceedsMission
        | Reason::ExceedsAgentCeiling
        | Reason::ExceedsTargetCeiling
        | Reason::ExceedsPeopleCeiling
        | Reason::ExceedsParent
        | Reason::Restricted
        | Reason::Undecidable
        | Reason::LifetimeOutOfRange => (400, "invalid_authorization_details", "narrow"),
        Reason::ForbiddenByPolicy => (400, "invalid_authorization_details", "never"),
        Reason::ApprovalRequired => (400, "authorization_pending", "approve"),
        Reason::ApprovalDenied => (400, "access_denied", "never"),
        Reason::TooManyLeases | Reason::TooManyRequests => {
            (429, "temporarily_unavailable", "after")
        }
        Reason::IssuerUnavailable | Reason::StoreUnavailable => {
            (503, "temporarily_unavailable", "after")
        }
        Reason::NotAuthenticated => (401, "invalid_client", "refresh"),
        Reason::NotPermitted => (403, "access_denied", "never"),
        Reason::NotFound => (404, "not_found", "never"),
        Reason::AgentRefused | Reason::ConfigurationRefused => (422, "invalid_request", "never"),
        Reason::LeaseReadable => (409, "invalid_request", "never"),
        Reason::RegisteredMeanwhile => (409, "invalid_request", "never"),
        other => panic!("what the wire says of {other} is for this table to say"),
    }
}

/// The refusal that a request for this reason gets, whole.
#[track_caller]
pub fn assert_refused(answer: &Answer, reason: Reason, what: &str) {
    let (status, error, retry) = wire(reason);
    let told = &answer.body;
    assert_eq!(answer.status, status, "{what}: {told}");
    assert_eq!(answer.error(), error, "{what}: {told}");
    assert_eq!(told["retry"], retry, "{what}: {told}");
    assert_eq!(
        told["error_description"],
        face(reason).description,
        "{what}: {told}"
    );
    assert_eq!(answer.headers["cache-control"], "no-store", "{what}");
    assert!(told.to_string().is_ascii(), "{what}: {told}");
    let id = told["refusal_id"].as_str().unwrap();
    assert!(id.parse::<uuid::Uuid>().is_ok(), "{what}: {id}");
    assert_eq!(
        answer.headers.contains_key("retry-after"),
        retry == "after",
        "{what}"
    );
    if !answer.reason().is_empty() {
        assert_eq!(answer.reason(), reason.code(), "{what}");
    }
}

fn configuration(robot: &SigningKey, once: &SigningKey) -> String {
    let (robot, once) = (inline_keys(robot), inline_keys(once));
    format!(
        r#"
[issuer.once]
url = "https://once.example"
keys = {once}
algorithms = ["ES256"]
single_use = true

[agent.robot]
owner = "robots@acme.example"
purpose = "Looks after things"
ends = 2099-01-01
identity = {{ client = {{ keys = {robot} }} }}
limits = {{ active = 100, per_minute = 100000 }}
labels = {{ team = "robots" }}

[agent.sleeper]
owner = "nights@acme.example"
purpose = "Is suspended by tests"
ends = 2099-01-01
identity = {{ issuer = "ci", subject = "repo:acme/sleeper" }}

[agent.once]
owner = "once@acme.example"
purpose = "Runs on a platform whose tokens are single use"
ends = 2099-01-01
identity = {{ issuer = "once", subject = "job" }}

[mission.robot-work]
agents = ["robot", "sleeper"]
owner = "sre@acme.example"
purpose = "Look after the checkout"
allow = [
  {{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/robot"] }},
  {{ target = "metrics-key", actions = ["metrics:read"], locations = ["https://metrics.example/*"] }},
]

[mission.nightly]
agents = ["deployer", "once"]
owner = "sre@acme.example"
purpose = "What stock clients do at night"
signer = "platform"
max_active = 50
allow = [{{ target = "deploy-api", actions = ["deploy:read", "deploy:plan"], locations = ["https://deploy.example/nightly"] }}]
"#
    )
}
