//! Every place that takes a signed token, each with one that it accepts.

use crate::support::broker::{Answer, Setup, b64, form, unique, with};
use crate::support::forge;
use crate::support::issuer::Issuer;
use crate::support::world::{ASSERTION, EXCHANGE, JWT, World, assert_refused, inline_keys, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use serde_json::{Value, json};
use std::sync::Arc;

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const OPERATORS: &str = "dayfly-operators";
const ORCHESTRATOR: &str = "https://orchestrator.example";
const WITNESS: &str = "https://changes.example";
const SPIFFE_ID: &str = "spiffe://acme.test/ns/shop/sa/checkout";
const ALLOW: &str = "[{ target = \"deploy-api\", actions = [\"deploy:read\"], locations = [\"https://deploy.example/robot\"] }]";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `subject_token`, by each name that RFC 8693 has for it.
    Subject,
    IdToken,
    AccessToken,
    /// `assertion` of the jwt-bearer grant.
    PlatformsGrant,
    OwnGrant,
    /// `intent`, with the key in its header; with a registered client's key; as a subject token.
    Intent,
    ClientsIntent,
    SelfSigned,
    /// By somebody who may sign for it.
    Orchestrators,
    /// Inside of an intent, by who proves its facts.
    Evidence,
    /// A JWT-SVID as the subject token, and as the client's own.
    Svid,
    ClientsSvid,
    /// `client_assertion`, of an agent and of a resource server.
    Client,
    Server,
    /// The bearer token of the operators' API.
    Operator,
}

impl Door {
    pub const ALL: [Self; 15] = [
        Self::Subject,
        Self::IdToken,
        Self::AccessToken,
        Self::PlatformsGrant,
        Self::OwnGrant,
        Self::Intent,
        Self::ClientsIntent,
        Self::SelfSigned,
        Self::Orchestrators,
        Self::Evidence,
        Self::Svid,
        Self::ClientsSvid,
        Self::Client,
        Self::Server,
        Self::Operator,
    ];

    /// What every bad token is refused with here.
    pub fn reason(self) -> Reason {
        match self {
            Self::Subject | Self::IdToken | Self::AccessToken | Self::Svid => Reason::InvalidToken,
            Self::PlatformsGrant | Self::OwnGrant => Reason::InvalidAssertion,
            Self::Intent
            | Self::ClientsIntent
            | Self::SelfSigned
            | Self::Orchestrators
            | Self::Evidence => Reason::InvalidIntent,
            Self::Client | Self::ClientsSvid | Self::Server => Reason::InvalidClient,
            Self::Operator => Reason::NotAuthenticated,
        }
    }

    /// What a token may call itself here; `None`: nothing at all.
    pub fn typs(self) -> &'static [Option<&'static str>] {
        match self {
            Self::Subject
            | Self::IdToken
            | Self::PlatformsGrant
            | Self::Svid
            | Self::ClientsSvid
            | Self::Operator => &[None, Some("JWT"), Some("JOSE")],
            Self::AccessToken => &[None, Some("JWT"), Some("JOSE"), Some("at+jwt")],
            Self::OwnGrant => &[None, Some("JWT")],
            Self::Intent | Self::ClientsIntent | Self::SelfSigned | Self::Orchestrators => {
                &[Some("intent+jwt")]
            }
            Self::Evidence => &[Some("evidence+jwt")],
            Self::Client | Self::Server => &[None, Some("JWT"), Some("client-authentication+jwt")],
        }
    }

    /// The source file whose validator stands behind it.
    pub fn validator(self) -> &'static str {
        match self {
            Self::Subject | Self::IdToken | Self::AccessToken | Self::Operator => {
                "identity/workload.rs"
            }
            Self::PlatformsGrant => "identity/assertion.rs",
            Self::OwnGrant | Self::Client | Self::Server => "identity/client.rs",
            Self::Intent | Self::ClientsIntent | Self::SelfSigned | Self::Orchestrators => {
                "intent/signer.rs"
            }
            Self::Evidence => "intent/evidence.rs",
            Self::Svid | Self::ClientsSvid => "identity/spiffe/mod.rs",
        }
    }

    /// Evidence is closed, and its facts are no objects.
    pub fn takes_notes(self) -> bool {
        self != Self::Evidence
    }

    /// A header field trims what stands around its value.
    pub fn is_a_parameter(self) -> bool {
        self != Self::Operator
    }
}

/// All that goes into one accepted token, to be changed in one place.
pub struct Proof {
    pub door: Door,
    pub key: SigningKey,
    pub header: Value,
    pub claims: Value,
    /// The rest of the request, and the name of the parameter that the token is.
    fields: Vec<(String, String)>,
    parameter: &'static str,
}

impl Proof {
    /// As it is accepted.
    pub fn signed(&self) -> String {
        forge::sign(&self.key, &self.header, &self.claims)
    }

    /// With one member of the header changed; `null` takes it out.
    pub fn header(&self, name: &str, value: Value) -> String {
        let header = forge::spoiled(&self.header, name, value);
        forge::sign(&self.key, &header, &self.claims)
    }

    /// With one claim changed.
    pub fn claim(&self, name: &str, value: Value) -> String {
        forge::sign(
            &self.key,
            &self.header,
            &with_claim(&self.claims, name, value),
        )
    }

    /// With a good signature over exactly these bytes.
    pub fn raw(&self, header: &str, claims: &[u8]) -> String {
        forge::sign_raw(&self.key, header, claims)
    }

    pub fn raw_claims(&self, claims: &[u8]) -> String {
        self.raw(&self.header.to_string(), claims)
    }

    /// The claims with one more, `tctx`, which an intent may have and nobody else reads.
    pub fn noted(&self, text: &str) -> String {
        let claims = self.claims.to_string();
        format!(
            "{},\"tctx\":{{\"a\":{text}}}}}",
            &claims[..claims.len() - 1]
        )
    }
}

/// Unlike a spoiled claim, `null` stays `null`.
fn with_claim(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

pub struct Town {
    pub world: World,
    gateway: SigningKey,
    orchestrator: SigningKey,
    witness: SigningKey,
    domain: SigningKey,
}

impl Town {
    pub async fn start() -> Self {
        let [gateway, orchestrator, witness, domain] = [key(), key(), key(), key()];
        let issuer = Arc::new(Issuer::start().await);
        let more = format!(
            r#"
[resource_server.gateway]
keys = {}
audiences = ["metrics-key"]

[operators]
issuer = "{}"
audience = "{OPERATORS}"
algorithms = ["RS256"]
roles = [{{ role = "viewer", claims = {{ groups = "staff" }} }}]

[intent_issuer.ops]
issuer = "{ORCHESTRATOR}"
class = "orchestrator"
keys = {}
agents = ["robot"]

[facts.changes]
evidence = {{ issuer = "{WITNESS}", keys = {} }}
proves = ["change.id"]

[trust_domain."acme.test"]
bundle = "file:bundle.json"

[agent.checkout]
owner = "payments@acme.example"
purpose = "Runs in the shop"
ends = 2099-01-01
identity = {{ spiffe = "{SPIFFE_ID}" }}

[mission.ordered]
agents = ["robot"]
owner = "sre@acme.example"
purpose = "What the orchestrator orders"
signer = "orchestrator"
allow = {ALLOW}

[mission.stock]
agents = ["checkout"]
owner = "sre@acme.example"
purpose = "Read what is deployed"
signer = "platform"
max_active = 50
allow = {ALLOW}
"#,
            inline_keys(&gateway),
            issuer.url,
            inline_keys(&orchestrator),
            inline_keys(&witness),
        );
        let mut jwk = domain.public_jwk();
        jwk["use"] = json!("jwt-svid");
        jwk.as_object_mut().unwrap().remove("alg");
        let bundle = json!({ "keys": [jwk], "spiffe_sequence": 1 }).to_string();
        let world = World::with(Setup {
            issuer: Some(issuer),
            more,
            files: vec![("bundle.json".to_owned(), bundle)],
            ..Setup::default()
        })
        .await;
        Self {
            world,
            gateway,
            orchestrator,
            witness,
            domain,
        }
    }

    pub fn proof(&self, door: Door) -> Proof {
        let (world, broker) = (&self.world, &self.world.broker);
        let platform = (*broker.issuer.key()).clone();
        let platforms = jws(&platform, "JWT");
        let robots = jws(&world.robot, "JWT");
        let (key, header, claims, fields, parameter) = match door {
            Door::Subject | Door::IdToken | Door::AccessToken => {
                let (claims, fields) = self.exchange(door);
                (platform, platforms, claims, fields, "subject_token")
            }
            Door::PlatformsGrant => {
                let fields = form(&[
                    ("grant_type", JWT_BEARER),
                    ("audience", "deploy-api"),
                    ("scope", "mission:nightly deploy:read"),
                ]);
                let claims = broker.platform_claims();
                (platform, platforms, claims, fields, "assertion")
            }
            Door::OwnGrant => {
                let fields = form(&[
                    ("grant_type", JWT_BEARER),
                    ("audience", "deploy-api"),
                    ("intent", &self.clients_intent()),
                ]);
                let claims = world.assertion_claims();
                (world.robot.clone(), robots, claims, fields, "assertion")
            }
            Door::Intent => {
                let token = broker.platform_token();
                let fields = with(broker.good_form(), "subject_token", &token);
                let header = json!({
                    "alg": "ES256", "typ": "intent+jwt", "jwk": broker.key.public_jwk(),
                });
                let claims = broker.intent_claims(&token);
                (broker.key.clone(), header, claims, fields, "intent")
            }
            Door::ClientsIntent | Door::SelfSigned => {
                let header = jws(&world.robot, "intent+jwt");
                let (fields, parameter) = self.clients_form(door);
                let claims = world.robot_intent_claims();
                (world.robot.clone(), header, claims, fields, parameter)
            }
            Door::Orchestrators => {
                let mut claims = world.robot_intent_claims();
                claims["iss"] = json!(ORCHESTRATOR);
                claims["mission"]["id"] = json!("ordered");
                let header = jws(&self.orchestrator, "intent+jwt");
                let fields = world.robot_form();
                (self.orchestrator.clone(), header, claims, fields, "intent")
            }
            Door::Evidence => {
                let header = jws(&self.witness, "evidence+jwt");
                let fields = world.robot_form();
                (
                    self.witness.clone(),
                    header,
                    self.evidence(),
                    fields,
                    "intent",
                )
            }
            Door::Svid | Door::ClientsSvid => {
                let header = jws(&self.domain, "JWT");
                let (fields, parameter) = svid_form(door);
                (self.domain.clone(), header, self.svid(), fields, parameter)
            }
            Door::Client => {
                let fields = world.robot_form();
                let claims = world.assertion_claims();
                (
                    world.robot.clone(),
                    robots,
                    claims,
                    fields,
                    "client_assertion",
                )
            }
            Door::Server => {
                let fields = form(&[("token", "x"), ("client_assertion_type", ASSERTION)]);
                let claims = self.servers_claims();
                let header = jws(&self.gateway, "JWT");
                (
                    self.gateway.clone(),
                    header,
                    claims,
                    fields,
                    "client_assertion",
                )
            }
            Door::Operator => {
                let mut claims = broker.platform_claims();
                claims["aud"] = json!(OPERATORS);
                claims["sub"] = json!("octavia");
                claims["groups"] = json!("staff");
                (platform, platforms, claims, Vec::new(), "")
            }
        };
        Proof {
            door,
            key,
            header,
            claims,
            fields,
            parameter,
        }
    }

    /// For a mission that takes the platform's word, so that no intent depends on the token.
    fn exchange(&self, door: Door) -> (Value, Vec<(String, String)>) {
        let kind = match door {
            Door::IdToken => JWT.replace("jwt", "id_token"),
            Door::AccessToken => JWT.replace("jwt", "access_token"),
            _ => JWT.to_owned(),
        };
        let fields = form(&[
            ("grant_type", EXCHANGE),
            ("subject_token_type", &kind),
            ("audience", "deploy-api"),
            ("scope", "mission:nightly deploy:read"),
        ]);
        (self.world.broker.platform_claims(), fields)
    }

    fn clients_intent(&self) -> String {
        self.world
            .sign_robot_intent(&self.world.robot_intent_claims())
    }

    fn clients_form(&self, door: Door) -> (Vec<(String, String)>, &'static str) {
        let fields = self.world.robot_form();
        if door == Door::ClientsIntent {
            return (fields, "intent");
        }
        let fields: Vec<_> = fields
            .into_iter()
            .filter(|(name, _)| name != "intent")
            .collect();
        let fields = with(fields, "grant_type", EXCHANGE);
        let kind = JWT.replace("jwt", "self_signed");
        (with(fields, "subject_token_type", &kind), "subject_token")
    }

    fn evidence(&self) -> Value {
        let broker = &self.world.broker;
        let now = broker.now();
        json!({
            "iss": WITNESS, "client_id": "robot", "aud": broker.url, "iat": now,
            "exp": now + 120, "jti": unique(), "facts": { "change.id": "CHG0031337" },
        })
    }

    fn svid(&self) -> Value {
        let broker = &self.world.broker;
        let now = broker.now();
        json!({
            "sub": SPIFFE_ID, "aud": broker.url, "iat": now, "exp": now + 120, "jti": unique(),
            "iss": "https://spire.acme.test",
        })
    }

    fn servers_claims(&self) -> Value {
        let now = self.world.broker.now();
        json!({
            "iss": "gateway", "sub": "gateway", "aud": self.world.broker.url,
            "iat": now, "exp": now + 60, "jti": unique(),
        })
    }

    pub async fn send(&self, proof: &Proof, token: &str) -> Answer {
        let broker = &self.world.broker;
        match proof.door {
            Door::Evidence => {
                let mut claims = self.world.robot_intent_claims();
                claims["tctx"] = json!({ "evidence": [token] });
                let intent = self.world.sign_robot_intent(&claims);
                let fields = with(proof.fields.clone(), proof.parameter, &intent);
                broker.exchange(&fields).await
            }
            Door::Operator => {
                let request = broker.http.get(format!("{}/admin/v1/leases", broker.url));
                Answer::of(request.bearer_auth(token).send().await.unwrap()).await
            }
            Door::Server => {
                let fields = with(proof.fields.clone(), proof.parameter, token);
                broker.post("/introspect", &fields).await
            }
            _ => {
                let fields = with(proof.fields.clone(), proof.parameter, token);
                broker.exchange(&fields).await
            }
        }
    }

    pub async fn accepted(&self, proof: &Proof, token: &str, what: &str) {
        let answer = self.send(proof, token).await;
        let door = proof.door;
        assert_eq!(answer.status, 200, "{door:?}: {what}: {}", answer.body);
    }

    pub async fn refused(&self, proof: &Proof, token: &str, what: &str) {
        let answer = self.send(proof, token).await;
        let door = proof.door;
        assert_refused(&answer, door.reason(), &format!("{door:?}: {what}"));
    }
}

fn svid_form(door: Door) -> (Vec<(String, String)>, &'static str) {
    let fields = form(&[
        ("audience", "deploy-api"),
        ("scope", "mission:stock deploy:read"),
    ]);
    if door == Door::Svid {
        let fields = with(fields, "grant_type", EXCHANGE);
        return (with(fields, "subject_token_type", JWT), "subject_token");
    }
    let fields = with(fields, "grant_type", "client_credentials");
    let kind = ASSERTION.replace("jwt-bearer", "jwt-spiffe");
    (
        with(fields, "client_assertion_type", &kind),
        "client_assertion",
    )
}

fn jws(key: &SigningKey, typ: &str) -> Value {
    json!({
        "alg": key.algorithm().name(), "typ": typ, "kid": key.verifying().kid(),
    })
}

/// A JWS whose three parts are these texts; the signature is over the first two as they stand.
pub fn over_text(key: &SigningKey, header: &str, claims: &str) -> String {
    let input = format!("{header}.{claims}");
    let signature = forge::signature(key, input.as_bytes());
    format!("{input}.{}", b64(&signature))
}
