//! Every place that takes a signed token, each with one that it accepts.

use crate::support::broker::{Answer, Setup, b64, form, sha256, unique, with, without};
use crate::support::dpop;
use crate::support::forge;
use crate::support::issuer::Issuer;
use crate::support::world::{ASSERTION, EXCHANGE, JWT, World, assert_refused, inline_keys, key};
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

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
    /// Where a machine brings a new key.
    Enrolment,
    /// The `DPoP` header of an exchange.
    Dpop,
    /// `client_assertion`, of an agent and of a resource server.
    Client,
    Server,
    /// The bearer token of the operators' API.
    Operator,
}

impl Door {
    pub const ALL: [Self; 17] = [
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
        Self::Enrolment,
        Self::Dpop,
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
            Self::Client | Self::ClientsSvid | Self::Server | Self::Enrolment => {
                Reason::InvalidClient
            }
            Self::Dpop => Reason::InvalidDpopProof,
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
            Self::Enrolment => &[Some("enrolment+jwt")],
            Self::Dpop => &[Some("dpop+jwt")],
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
            Self::Enrolment => "identity/enrolment/proof.rs",
            Self::Dpop => "identity/dpop/mod.rs",
            Self::Svid | Self::ClientsSvid => "identity/spiffe/mod.rs",
        }
    }

    /// Evidence goes inside of an intent.
    fn parameter(self) -> &'static str {
        match self {
            Self::Subject | Self::IdToken | Self::AccessToken | Self::SelfSigned | Self::Svid => {
                "subject_token"
            }
            Self::PlatformsGrant | Self::OwnGrant => "assertion",
            Self::Intent | Self::ClientsIntent | Self::Orchestrators | Self::Evidence => "intent",
            Self::ClientsSvid | Self::Client | Self::Server => "client_assertion",
            Self::Enrolment => "proof",
            Self::Dpop | Self::Operator => "",
        }
    }

    /// The claims of others are closed; those of an intent have a place for it.
    pub fn takes_notes(self) -> bool {
        !matches!(self, Self::Evidence | Self::Enrolment)
    }

    /// The header holds the key that signs.
    fn brings_its_key(self) -> bool {
        matches!(self, Self::Intent | Self::Enrolment | Self::Dpop)
    }

    /// Whoever comes brings a key that nobody knows, and shows that it holds it.
    pub fn takes_any_key(self) -> bool {
        matches!(self, Self::Enrolment | Self::Dpop)
    }

    /// The times that are read here, what decides first.
    pub fn times(self) -> &'static [&'static str] {
        match self {
            Self::Dpop => &["iat"],
            _ => &["exp", "iat", "nbf"],
        }
    }

    /// A header field trims what stands around its value.
    pub fn is_a_parameter(self) -> bool {
        !matches!(self, Self::Dpop | Self::Operator)
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

    /// With the number of one claim written so.
    pub fn number(&self, name: &str, raw: &str) -> String {
        let member = |value: &str| format!("\"{name}\":{value}");
        let own = member(&self.claims[name].to_string());
        let claims = self.claims.to_string();
        assert_eq!(claims.matches(&own).count(), 1, "{name} stands once");
        self.raw_claims(claims.replace(&own, &member(raw)).as_bytes())
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
    machine: SigningKey,
    join_token: String,
    nonce: String,
}

impl Town {
    pub async fn start() -> Self {
        let [gateway, orchestrator, witness, domain] = std::array::from_fn(|_| key());
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

[agent.backup]
owner = "storage@acme.example"
purpose = "Copies the database every night"
ends = 2099-01-01
identity = {{ client = {{ enrol = true }} }}

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
        // One key may come twice with one token: its first answer may have been lost.
        let invited = Some(json!({ "note": "db-7" }));
        let path = "/agents/backup/invitations";
        let invited = world.broker.admin("POST", path, invited).await;
        let join_token = invited.body["join_token"].as_str().unwrap().to_owned();
        let nonce = world.broker.nonce().await;
        Self {
            world,
            gateway,
            orchestrator,
            witness,
            domain,
            machine: key(),
            join_token,
            nonce,
        }
    }

    pub fn proof(&self, door: Door) -> Proof {
        let (key, typ) = self.signer(door);
        let mut header = json!({
            "alg": key.algorithm().name(), "typ": typ, "kid": key.verifying().kid(),
        });
        let (claims, fields) = self.request(door);
        if door.brings_its_key() {
            header["jwk"] = key.public_jwk();
            header.as_object_mut().unwrap().remove("kid");
        }
        Proof {
            door,
            key,
            header,
            claims,
            fields,
            parameter: door.parameter(),
        }
    }

    fn signer(&self, door: Door) -> (SigningKey, &'static str) {
        let key = match door {
            Door::Subject
            | Door::IdToken
            | Door::AccessToken
            | Door::PlatformsGrant
            | Door::Operator => &*self.world.broker.issuer.key(),
            Door::Intent => &self.world.broker.key,
            Door::OwnGrant | Door::ClientsIntent | Door::SelfSigned | Door::Client => {
                &self.world.robot
            }
            Door::Orchestrators => &self.orchestrator,
            Door::Evidence => &self.witness,
            Door::Enrolment | Door::Dpop => &self.machine,
            Door::Svid | Door::ClientsSvid => &self.domain,
            Door::Server => &self.gateway,
        };
        let typ = match door.typs() {
            [Some(only)] => only,
            _ => "JWT",
        };
        (key.clone(), typ)
    }

    /// The claims, and the request without them.
    fn request(&self, door: Door) -> (Value, Vec<(String, String)>) {
        let (world, broker) = (&self.world, &self.world.broker);
        match door {
            Door::Subject | Door::IdToken | Door::AccessToken => self.exchange(door),
            Door::PlatformsGrant => {
                let fields = form(&[
                    ("grant_type", JWT_BEARER),
                    ("audience", "deploy-api"),
                    ("scope", "mission:nightly deploy:read"),
                ]);
                (broker.platform_claims(), fields)
            }
            Door::OwnGrant => {
                let intent = world.sign_robot_intent(&world.robot_intent_claims());
                let fields = form(&[
                    ("grant_type", JWT_BEARER),
                    ("audience", "deploy-api"),
                    ("intent", &intent),
                ]);
                (world.assertion_claims(), fields)
            }
            Door::Intent => {
                let token = broker.platform_token();
                let fields = with(broker.good_form(), "subject_token", &token);
                (broker.intent_claims(&token), fields)
            }
            Door::ClientsIntent => (world.robot_intent_claims(), world.robot_form()),
            Door::SelfSigned => {
                let fields = without(world.robot_form(), "intent");
                let fields = with(fields, "grant_type", EXCHANGE);
                let kind = JWT.replace("jwt", "self_signed");
                let fields = with(fields, "subject_token_type", &kind);
                (world.robot_intent_claims(), fields)
            }
            Door::Orchestrators => {
                let mut claims = world.robot_intent_claims();
                claims["iss"] = json!(ORCHESTRATOR);
                claims["mission"]["id"] = json!("ordered");
                (claims, world.robot_form())
            }
            Door::Evidence => (self.evidence(), world.robot_form()),
            Door::Enrolment => (self.enrolment(), form(&[("join_token", &self.join_token)])),
            Door::Dpop => {
                let url = format!("{}/token", broker.url);
                let claims = dpop::claims("POST", &url, broker.now(), &self.nonce);
                let (_, fields) = self.exchange(door);
                let token = broker.platform_token();
                (claims, with(fields, "subject_token", &token))
            }
            Door::Svid | Door::ClientsSvid => (self.svid(), svid_form(door)),
            Door::Client => (world.assertion_claims(), world.robot_form()),
            Door::Server => {
                let fields = form(&[("token", "x"), ("client_assertion_type", ASSERTION)]);
                (self.servers_claims(), fields)
            }
            Door::Operator => {
                let mut claims = broker.platform_claims();
                claims["aud"] = json!(OPERATORS);
                claims["sub"] = json!("octavia");
                claims["groups"] = json!("staff");
                (claims, Vec::new())
            }
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

    fn evidence(&self) -> Value {
        let broker = &self.world.broker;
        let now = broker.now();
        json!({
            "iss": WITNESS, "client_id": "robot", "aud": broker.url, "iat": now,
            "exp": now + 120, "jti": unique(), "facts": { "change.id": "CHG0031337" },
        })
    }

    fn enrolment(&self) -> Value {
        let broker = &self.world.broker;
        let now = broker.now();
        json!({
            "iss": "backup", "sub": "backup", "aud": broker.url, "iat": now, "exp": now + 120,
            "join_token_hash": b64(&sha256(self.join_token.as_bytes())),
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

    /// All of it comes from one peer, which has to wait now and then.
    pub async fn send(&self, proof: &Proof, token: &str) -> Answer {
        loop {
            let answer = self.send_once(proof, token).await;
            if answer.status != 429 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn send_once(&self, proof: &Proof, token: &str) -> Answer {
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
            Door::Dpop => broker.proved("/token", &proof.fields, &[token]).await,
            door => {
                let path = match door {
                    Door::Server => "/introspect",
                    Door::Enrolment => "/enrol",
                    _ => "/token",
                };
                let fields = with(proof.fields.clone(), proof.parameter, token);
                broker.post(path, &fields).await
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

fn svid_form(door: Door) -> Vec<(String, String)> {
    let (grant, name, kind) = match door {
        Door::Svid => (EXCHANGE, "subject_token_type", JWT.to_owned()),
        _ => (
            "client_credentials",
            "client_assertion_type",
            ASSERTION.replace("jwt-bearer", "jwt-spiffe"),
        ),
    };
    form(&[
        ("grant_type", grant),
        (name, &kind),
        ("audience", "deploy-api"),
        ("scope", "mission:stock deploy:read"),
    ])
}

/// A JWS whose three parts are these texts; the signature is over the first two as they stand.
pub fn over_text(key: &SigningKey, header: &str, claims: &str) -> String {
    let input = format!("{header}.{claims}");
    let signature = forge::signature(key, input.as_bytes());
    format!("{input}.{}", b64(&signature))
}
