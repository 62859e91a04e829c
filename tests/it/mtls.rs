//! Certificates over real handshakes: X.509-SVIDs, registered clients, what is bound to one, and the
//! header of a proxy that ended the handshake (RFC 8705, RFC 9440).

mod binding;
mod handed_on;
mod introspection;

use crate::support::broker::{Answer, Setup, TestBroker, form, with};
use crate::support::certificates::{AS_IT_IS, Authority, Change, Issued, dns, self_signed, uri};
use crate::support::forge::{sign, spoiled};
use crate::support::time::Manual;
use crate::support::tools;
use crate::support::world::{ASSERTION, assert_refused, inline_keys, key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dayfly::broker::Reason;
use dayfly::jose::SigningKey;
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

const ID: &str = "spiffe://acme.test/ns/shop/sa/checkout";

const ASKING: &str = r#"mtls = { url = "https://mtls.acme.test/" }"#;
const PROXIED: &str = r#"limits = { trusted_proxies = ["127.0.0.1"], client_cert_header = true }"#;

/// Everything but the agents.
const AROUND: &str = r#"
[trust_domain."acme.test"]
bundle = "file:acme.json"

[trust_domain."other.test"]
bundle = "file:other.json"

[mission.work]
agents = ["checkout", "named", "pinned", "bound", "both", "plain", "runners"]
owner = "sre@acme.example"
purpose = "Deploy from the shop"
delegates_to = ["checkout", "named", "pinned", "bound", "plain"]
allow = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }]

[issuer.corp]
url = "https://people.example"
audience = "dayfly-people"
algorithms = ["ES256"]
keys = ROBOT
people = true

[people.oncall]
issuer = "corp"
claims = { groups = "oncall" }
ceiling = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }]

[mission.assist]
agents = ["checkout", "named", "pinned", "bound", "plain"]
on_behalf_of = ["oncall"]
in_person = true
owner = "sre@acme.example"
purpose = "Help whoever is on call"
allow = [{ target = "deploy-api", actions = ["deploy:write"], locations = ["https://deploy.example/checkout"] }]

[target.aws-prod]
kind = "aws"
role = "arn:aws:iam::111122223333:role/deploy"
ceiling = { actions = ["ecs:*"], locations = ["arn:aws:ecs:*:111122223333:*"] }

[mission.cloud]
agents = ["bound"]
owner = "sre@acme.example"
purpose = "Roll out"
allow = [{ target = "aws-prod", actions = ["ecs:UpdateService"], locations = ["arn:aws:ecs:eu-west-1:111122223333:service/prod/checkout"] }]

[resource_server.api]
certificate = { ca = "file:clients.pem", san_dns = "api.acme.test" }
audiences = ["deploy-api"]

[resource_server.pinned-api]
certificate = { self_signed = "file:pinned.pem" }
audiences = ["deploy-api"]

[operators]
issuer = "https://login.example"
audience = "dayfly"
algorithms = ["ES256"]
keys = ROBOT
roles = [{ role = "viewer", claims = { groups = "sre" } }]
"#;

fn configuration(robot: &SigningKey, plain: &SigningKey) -> String {
    let robot = inline_keys(robot);
    let agents = [
        ("checkout", format!("{{ spiffe = \"{ID}\" }}"), ""),
        (
            "runners",
            r#"[{ spiffe = "spiffe://acme.test/runner/a" }, { spiffe = "spiffe://acme.test/runner/b" }]"#
                .to_owned(),
            "",
        ),
        (
            "named",
            r#"{ certificate = { ca = "file:clients.pem", san_dns = "robot.acme.test" } }"#
                .to_owned(),
            "",
        ),
        (
            "pinned",
            r#"{ certificate = { self_signed = "file:pinned.pem" } }"#.to_owned(),
            "",
        ),
        (
            "bound",
            format!("{{ client = {{ keys = {robot} }} }}"),
            "certificate_bound = true",
        ),
        (
            "both",
            r#"[{ issuer = "ci", subject = "both" }, { certificate = { ca = "file:clients.pem", san_dns = "both.acme.test" } }]"#
                .to_owned(),
            "",
        ),
        (
            "plain",
            format!("{{ client = {{ keys = {} }} }}", inline_keys(plain)),
            "",
        ),
    ];
    let mut text = AROUND.replace("ROBOT", &robot);
    for (name, identity, more) in agents {
        text += &format!(
            "
[agent.{name}]
owner = \"payments@acme.example\"
purpose = \"Works in the shop\"
ends = 2099-01-01
identity = {identity}
intent_keys = \"file:deployer.jwks.json\"
limits = {{ active = 100, per_minute = 100000 }}
{more}
"
        );
    }
    text
}

/// A broker that asks for certificates, and everyone who issues them.
struct House {
    broker: TestBroker,
    acme: Authority,
    other: Authority,
    clients: Authority,
    pinned: Issued,
    /// The key of the agent `bound`, of which operators' issuer has one, too.
    robot: SigningKey,
    /// The key of the agent `plain`.
    plain: SigningKey,
    clock: Arc<Manual>,
}

fn bundle(roots: &[&Authority]) -> String {
    let keys: Vec<_> = roots
        .iter()
        .map(|root| json!({"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(&root.root)]}))
        .collect();
    json!({ "keys": keys }).to_string()
}

impl House {
    async fn start() -> Self {
        Self::with(Setup {
            tls: true,
            ask_client: true,
            broker: ASKING.to_owned(),
            ..Setup::default()
        })
        .await
    }

    /// Behind a proxy on this machine, which speaks plain HTTP to it.
    async fn proxied(broker: &str) -> Self {
        Self::with(Setup {
            broker: broker.to_owned(),
            ..Setup::default()
        })
        .await
    }

    async fn with(setup: Setup) -> Self {
        let (robot, plain) = (key(), key());
        let (acme, other) = (Authority::root("workloads"), Authority::root("workloads"));
        let clients = Authority::root("clients");
        let pinned = self_signed(vec![], AS_IT_IS);
        let clock = Manual::start();
        let files = [
            ("acme.json", bundle(&[&acme])),
            ("other.json", bundle(&[&other])),
            ("clients.pem", clients.root_pem.clone()),
            ("pinned.pem", pinned.pem.clone()),
        ];
        let broker = TestBroker::with(Setup {
            more: configuration(&robot, &plain),
            files: files.map(|(name, text)| (name.to_owned(), text)).into(),
            clock: clock.clone(),
            ..setup
        })
        .await;
        Self {
            broker,
            acme,
            other,
            clients,
            pinned,
            robot,
            plain,
            clock,
        }
    }

    fn svid(&self) -> Issued {
        self.acme.svid(ID, AS_IT_IS)
    }

    fn intent(&self, agent: &str) -> String {
        let mut claims = self.broker.intent_claims("");
        for name in ["iss", "sub", "client_id"] {
            claims[name] = json!(agent);
        }
        claims["mission"]["id"] = json!("work");
        claims.as_object_mut().unwrap().remove("subject_token_hash");
        self.broker.sign_intent(&claims)
    }

    /// `client_credentials`, with nothing in the form that proves anybody.
    fn form(&self, agent: &str, client_id: Option<&str>) -> Vec<(String, String)> {
        let form = form(&[
            ("grant_type", "client_credentials"),
            ("audience", "deploy-api"),
            ("intent", &self.intent(agent)),
        ]);
        match client_id {
            Some(id) => with(form, "client_id", id),
            None => form,
        }
    }

    /// The same with `private_key_jwt` of the agent `bound`.
    fn asserted(&self) -> Vec<(String, String)> {
        self.asserting("bound", &self.robot, self.form("bound", None))
    }

    fn asserting(
        &self,
        agent: &str,
        key: &SigningKey,
        form: Vec<(String, String)>,
    ) -> Vec<(String, String)> {
        let now = self.broker.now();
        let claims = json!({
            "iss": agent, "sub": agent, "aud": self.broker.url, "iat": now, "exp": now + 60,
        });
        let assertion = sign(key, &json!({ "alg": "ES256" }), &claims);
        let form = with(form, "client_assertion", &assertion);
        with(form, "client_assertion_type", ASSERTION)
    }

    fn http(&self, shown: Option<&Issued>) -> reqwest::Client {
        self.client(shown, |builder| builder)
    }

    fn client(
        &self,
        shown: Option<&Issued>,
        change: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> reqwest::Client {
        let ca = std::fs::read(self.broker.folder.path().join("ca.pem")).unwrap();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()]);
        if let Some(shown) = shown {
            let pem = format!("{}{}", shown.key_pem, shown.pem);
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        change(builder).build().unwrap()
    }

    async fn ask(&self, shown: Option<&Issued>, form: &[(String, String)]) -> Answer {
        post(&self.http(shown), &self.broker.at, form).await
    }

    /// Behind the proxy: these headers come with the form.
    async fn forwarded(&self, headers: &[(&str, String)], form: &[(String, String)]) -> Answer {
        let url = format!("{}/token", self.broker.at);
        let mut request = self.broker.http.post(url).form(form);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// A credential, bound to this certificate in the token itself and at introspection.
    async fn granted_to(&self, shown: &Issued, answer: &Answer, what: &str) {
        assert_eq!(answer.status, 200, "{what}: {}", answer.body);
        assert_eq!(answer.body["token_type"], "Bearer", "{what}");
        let token = answer.body["access_token"].as_str().unwrap();
        let cnf = json!({ "x5t#S256": shown.thumbprint() });
        assert_eq!(claims(token)["cnf"], cnf, "{what}");
        let told = self.broker.introspect(token).await;
        assert_eq!(told.body["active"], true, "{what}: {}", told.body);
        assert_eq!(told.body["cnf"], cnf, "{what}");
    }
}

async fn post(http: &reqwest::Client, at: &str, form: &[(String, String)]) -> Answer {
    let request = http.post(format!("{at}/token")).form(form);
    Answer::of(request.send().await.unwrap()).await
}

fn claims(jwt: &str) -> Value {
    let payload = jwt.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload);
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

fn header(issued: &Issued) -> String {
    format!(":{}:", STANDARD.encode(&issued.chain[0]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_gets_a_credential_bound_to_its_certificate() {
    let house = House::start().await;
    let between = house.acme.intermediate("downstream", AS_IT_IS);
    for svid in [house.svid(), between.svid(ID, AS_IT_IS)] {
        for named in [None, Some(ID), Some("checkout")] {
            let answer = house.ask(Some(&svid), &house.form("checkout", named)).await;
            house.granted_to(&svid, &answer, "an SVID").await;
        }
        for version in [
            reqwest::tls::Version::TLS_1_2,
            reqwest::tls::Version::TLS_1_3,
        ] {
            let http = house.client(Some(&svid), |builder| {
                builder.tls_version_min(version).tls_version_max(version)
            });
            let form = house.form("checkout", Some(ID));
            let answer = post(&http, &house.broker.at, &form).await;
            house.granted_to(&svid, &answer, "by TLS version").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_with_one_thing_wrong_opens_nothing() {
    let house = House::start().await;
    let refused = |svid: Issued, named: &'static str, what: &'static str| {
        let house = &house;
        async move {
            let form = house.form("checkout", Some(named));
            let answer = house.ask(Some(&svid), &form).await;
            assert_refused(&answer, Reason::InvalidClient, what);
        }
    };
    let spoilt = |change: Change<'_>| house.acme.svid(ID, change);
    refused(
        house.svid(),
        "spiffe://acme.test/ns/shop/sa/other",
        "another client_id",
    )
    .await;
    refused(
        house.other.svid(ID, AS_IT_IS),
        ID,
        "another trust domain's root",
    )
    .await;
    refused(
        house.clients.svid(ID, AS_IT_IS),
        ID,
        "the CA of registered clients",
    )
    .await;
    refused(self_signed(vec![uri(ID)], AS_IT_IS), ID, "its own word").await;
    let two: Change<'_> = &|params| {
        params
            .subject_alt_names
            .push(uri("spiffe://acme.test/ns/shop/sa/other"));
    };
    refused(spoilt(two), ID, "two URIs").await;
    refused(
        spoilt(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ID,
        "CA = TRUE",
    )
    .await;
    refused(
        spoilt(&|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ID,
        "no digitalSignature",
    )
    .await;
    refused(
        spoilt(&|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ID,
        "keyCertSign",
    )
    .await;
    let yesterday = house.broker.now() - 24 * 3600;
    let yesterday = time::OffsetDateTime::from_unix_timestamp(yesterday).unwrap();
    refused(
        spoilt(&|params| params.not_after = yesterday),
        ID,
        "expired",
    )
    .await;
    let between = house.acme.intermediate("torn", AS_IT_IS);
    let torn = torn(between.svid(ID, AS_IT_IS));
    refused(torn, ID, "without its intermediate").await;
    // Nobody's registered SVID is nobody, and looks like it.
    let stranger = house
        .acme
        .svid("spiffe://acme.test/ns/shop/sa/stranger", AS_IT_IS);
    let answer = house
        .ask(Some(&stranger), &house.form("checkout", None))
        .await;
    assert_refused(&answer, Reason::InvalidIntent, "not registered");
    let answer = house.ask(None, &house.form("checkout", Some(ID))).await;
    assert_refused(&answer, Reason::NoProof, "no certificate");
    let svid = house.svid();
    let answer = house
        .ask(Some(&svid), &house.form("checkout", Some(ID)))
        .await;
    house.granted_to(&svid, &answer, "the good one still").await;
}

/// The leaf alone.
fn torn(mut issued: Issued) -> Issued {
    const END: &str = "-----END CERTIFICATE-----\n";
    issued.chain.truncate(1);
    let end = issued.pem.find(END).unwrap();
    issued.pem.truncate(end + END.len());
    issued
}

#[tokio::test(flavor = "multi_thread")]
async fn registered_clients_authenticate_with_their_certificates() {
    let house = House::start().await;
    let robot = vec![dns("robot.acme.test")];
    let named = house.clients.issue(robot.clone(), AS_IT_IS);
    let answer = house
        .ask(Some(&named), &house.form("named", Some("named")))
        .await;
    house.granted_to(&named, &answer, "tls_client_auth").await;
    let pinned = &house.pinned;
    let answer = house
        .ask(Some(pinned), &house.form("pinned", Some("pinned")))
        .await;
    house
        .granted_to(pinned, &answer, "self_signed_tls_client_auth")
        .await;

    for (shown, agent, client_id, what) in [
        (&named, "named", None, "no client_id"),
        (&named, "pinned", Some("pinned"), "another agent's name"),
        (
            &named,
            "checkout",
            Some("checkout"),
            "an agent without a certificate",
        ),
        (&named, "named", Some("nobody"), "an unknown client"),
        (
            &house.clients.issue(vec![dns("other.acme.test")], AS_IT_IS),
            "named",
            Some("named"),
            "another name",
        ),
        (
            &house.acme.issue(robot.clone(), AS_IT_IS),
            "named",
            Some("named"),
            "another CA",
        ),
        (
            &self_signed(robot.clone(), AS_IT_IS),
            "named",
            Some("named"),
            "its own word",
        ),
        (
            &self_signed(vec![], AS_IT_IS),
            "pinned",
            Some("pinned"),
            "another self-signed one",
        ),
    ] {
        let answer = house.ask(Some(shown), &house.form(agent, client_id)).await;
        assert_refused(&answer, Reason::InvalidClient, what);
    }
    // The client is this one, the intent another's.
    let answer = house
        .ask(Some(&named), &house.form("pinned", Some("named")))
        .await;
    assert_refused(&answer, Reason::UnknownAgent, "another's intent");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_certificate_holds_its_key() {
    let house = House::start().await;
    let (svid, other) = (house.svid(), house.svid());
    let mixed = Issued {
        key_pem: other.key_pem,
        ..house.svid()
    };
    let config = tls_config(&house, &mixed);
    let refused = handshake(&house, config).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(handshake(&house, tls_config(&house, &svid)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_resumed_where_certificates_are_asked_for() {
    let house = House::start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = rustls_config(&house, &house.svid(), &[version]);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        for _ in 0..3 {
            let kind = handshake(&house, config.clone()).await.unwrap();
            assert_eq!(kind, rustls::HandshakeKind::Full, "{version:?}");
        }
    }
}

/// Also where key and certificate do not go together.
fn rustls_config(
    house: &House,
    shown: &Issued,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca = std::fs::read(house.broker.folder.path().join("ca.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&ca).unwrap())
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(shown.key_pem.as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let chain = shown.chain.iter().cloned().map(CertificateDer::from);
    let certified = rustls::sign::CertifiedKey::new(chain.collect(), key);
    rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
}

fn tls_config(house: &House, shown: &Issued) -> Arc<rustls::ClientConfig> {
    Arc::new(rustls_config(house, shown, rustls::ALL_VERSIONS))
}

/// A request over a connection of its own, and what kind of handshake that took.
async fn handshake(
    house: &House,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<rustls::HandshakeKind> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = house.broker.at.strip_prefix("https://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await?;
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await?;
    stream
        .write_all(b"GET /jwks HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    Ok(stream.get_ref().1.handshake_kind().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_beside_private_key_jwt_binds_and_does_not_authenticate() {
    let house = House::start().await;
    // Anybody's: nothing but its key matters.
    let shown = self_signed(vec![dns("mesh.acme.test")], AS_IT_IS);
    let answer = house.ask(Some(&shown), &house.asserted()).await;
    house
        .granted_to(&shown, &answer, "bound beside an assertion")
        .await;
    let answer = house.ask(None, &house.asserted()).await;
    assert_refused(&answer, Reason::InvalidClient, "no certificate to bind to");
    let bad = with(house.asserted(), "client_assertion", "a.b.c");
    let answer = house.ask(Some(&house.pinned), &bad).await;
    assert_refused(
        &answer,
        Reason::InvalidClient,
        "a certificate beside a bad assertion",
    );
    // Who did not ask for it gets a bearer token, whatever the connection shows.
    let token = house.broker.platform_token();
    let intent = house
        .broker
        .sign_intent(&house.broker.intent_claims(&token));
    let form = with(house.broker.good_form(), "subject_token", &token);
    let answer = house
        .ask(Some(&shown), &with(form, "intent", &intent))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().unwrap();
    assert_eq!(claims(token).get("cnf"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_no_second_way_beside_a_certificate_or_an_assertion() {
    let house = House::start().await;
    let http = house.http(Some(&house.pinned));
    let basic = |form: Vec<(String, String)>| {
        let request = http
            .post(format!("{}/token", house.broker.at))
            .basic_auth("pinned", Some("secret"));
        async move { Answer::of(request.form(&form).send().await.unwrap()).await }
    };
    let answer = basic(house.asserted()).await;
    assert_refused(
        &answer,
        Reason::MalformedRequest,
        "certificate, assertion and Basic",
    );
    let answer = basic(house.form("pinned", Some("pinned"))).await;
    assert_refused(&answer, Reason::InvalidClient, "certificate and Basic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_bound_to_a_certificate_is_worth_nothing_without_it() {
    let house = House::start().await;
    let (own, other) = (self_signed(vec![], AS_IT_IS), self_signed(vec![], AS_IT_IS));
    let exchanged = |shown: Option<Issued>| {
        let broker = &house.broker;
        let cnf = json!({ "x5t#S256": own.thumbprint() });
        let claims = spoiled(&broker.platform_claims(), "cnf", cnf);
        let token = broker.issuer.sign(&claims);
        let intent = broker.sign_intent(&broker.intent_claims(&token));
        let form = with(broker.good_form(), "subject_token", &token);
        let form = with(form, "intent", &intent);
        let house = &house;
        async move { house.ask(shown.as_ref(), &form).await }
    };
    for (shown, what) in [(None, "no certificate"), (Some(other), "another one")] {
        let answer = exchanged(shown).await;
        assert_refused(&answer, Reason::InvalidIntent, what);
    }
    let thumbprint = own.thumbprint();
    let answer = exchanged(Some(Issued {
        chain: own.chain.clone(),
        pem: own.pem.clone(),
        key_pem: own.key_pem.clone(),
    }))
    .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().unwrap();
    assert_eq!(claims(token)["cnf"]["x5t#S256"], thumbprint);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_bound_token_needs_its_certificate_too() {
    let house = House::start().await;
    let own = self_signed(vec![], AS_IT_IS);
    let now = house.broker.now();
    let claims = json!({
        "iss": "https://login.example", "sub": "octavia", "aud": "dayfly", "groups": ["sre"],
        "iat": now, "exp": now + 300, "cnf": { "x5t#S256": own.thumbprint() },
    });
    let token = sign(&house.robot, &json!({ "alg": "ES256" }), &claims);
    for (shown, expected) in [(None, 401), (Some(&house.pinned), 401), (Some(&own), 200)] {
        let url = format!("{}/admin/v1/agents", house.broker.at);
        let request = house.http(shown).get(url).bearer_auth(&token);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.status, expected, "{}", answer.body);
        if expected == 401 {
            // No proof in a header would help: the connection has to show it.
            assert_eq!(answer.error(), "invalid_client", "{}", answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_rotate_under_a_connection_that_stays_open() {
    let house = House::start().await;
    let svid = house.svid();
    let http = house.http(Some(&svid));
    let ask = || {
        let form = house.form("checkout", Some(ID));
        let (http, at) = (http.clone(), house.broker.at.clone());
        async move { post(&http, &at, &form).await }
    };
    let publish = |text: String| {
        std::fs::write(house.broker.folder.path().join("acme.json"), text).unwrap();
        house.clock.advance(Duration::from_secs(3));
    };
    house
        .granted_to(&svid, &ask().await, "the first root")
        .await;
    let next = Authority::root("workloads");
    publish(bundle(&[&house.acme, &next]));
    house
        .granted_to(&svid, &ask().await, "beside the next")
        .await;
    publish(bundle(&[&next]));
    assert_refused(&ask().await, Reason::InvalidClient, "withdrawn");
    let by_next = next.svid(ID, AS_IT_IS);
    let answer = house
        .ask(Some(&by_next), &house.form("checkout", Some(ID)))
        .await;
    house.granted_to(&by_next, &answer, "the next root").await;
    publish(bundle(&[]));
    let answer = house
        .ask(Some(&by_next), &house.form("checkout", Some(ID)))
        .await;
    assert_refused(&answer, Reason::InvalidClient, "an empty bundle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_hands_on_the_certificate_it_saw() {
    let house = House::proxied(PROXIED).await;
    let between = house.acme.intermediate("downstream", AS_IT_IS);
    let svid = between.svid(ID, AS_IT_IS);
    let chain = format!(":{}:", STANDARD.encode(&svid.chain[1]));
    let form = || house.form("checkout", Some(ID));
    let leaf = ("Client-Cert", header(&svid));
    let whole = [leaf.clone(), ("Client-Cert-Chain", chain)];
    let answer = house.forwarded(&whole, &form()).await;
    house.granted_to(&svid, &answer, "through the proxy").await;
    let answer = house.forwarded(&[leaf], &form()).await;
    assert_refused(&answer, Reason::InvalidClient, "without the intermediate");
    let answer = house.forwarded(&[], &form()).await;
    assert_refused(&answer, Reason::NoProof, "no client certificate");
    let foreign = house.other.svid(ID, AS_IT_IS);
    let answer = house
        .forwarded(&[("Client-Cert", header(&foreign))], &form())
        .await;
    assert_refused(&answer, Reason::InvalidClient, "another trust domain's");
    for (headers, what) in [
        (vec![("Client-Cert", "nonsense".to_owned())], "malformed"),
        (
            vec![
                ("Client-Cert", header(&svid)),
                ("Client-Cert", header(&svid)),
            ],
            "two",
        ),
        (
            vec![("Client-Cert-Chain", header(&svid))],
            "a chain without its leaf",
        ),
    ] {
        let answer = house.forwarded(&headers, &form()).await;
        assert_refused(&answer, Reason::MalformedRequest, what);
        assert_eq!(answer.body["at"], "Client-Cert", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_anyone_else_the_header_is_refused_at_every_door_that_reads_it() {
    let off = r#"limits = { trusted_proxies = ["127.0.0.1"] }
mtls = { url = "https://mtls.acme.test" }"#;
    let elsewhere = r#"limits = { trusted_proxies = ["10.9.8.7"], client_cert_header = true }"#;
    for (broker, what) in [(off, "switched off"), (elsewhere, "another proxy")] {
        let house = House::proxied(broker).await;
        let svid = house.svid();
        let headers = [
            ("Client-Cert", header(&svid)),
            ("X-Forwarded-For", "10.9.8.7".to_owned()),
        ];
        let form = house.form("checkout", Some(ID));
        let answer = house.forwarded(&headers, &form).await;
        assert_refused(&answer, Reason::MalformedRequest, what);
        assert_eq!(answer.body["at"], "Client-Cert", "{what}");
        for (method, path) in [
            ("POST", "/introspect"),
            ("POST", "/revoke"),
            ("GET", "/admin/v1/agents"),
        ] {
            let url = format!("{}{path}", house.broker.at);
            let request = house.broker.http.request(method.parse().unwrap(), url);
            let request = request.header("Client-Cert", header(&svid));
            let answer = Answer::of(request.send().await.unwrap()).await;
            assert_eq!(answer.status, 400, "{path}: {}", answer.body);
            assert_eq!(answer.body["at"], "Client-Cert", "{path}");
        }
        let public = house.broker.http.get(format!("{}/jwks", house.broker.at));
        let public = public.header("Client-Cert", header(&svid));
        assert_eq!(public.send().await.unwrap().status(), 200);
    }
    // Over a handshake of its own, too.
    let house = House::start().await;
    let svid = house.svid();
    let http = house.http(Some(&svid));
    let request = http
        .post(format!("{}/token", house.broker.at))
        .header("Client-Cert", header(&house.svid()))
        .form(&house.form("checkout", Some(ID)));
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_refused(
        &answer,
        Reason::MalformedRequest,
        "a handshake and a header",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_own_certificate_is_not_its_clients() {
    let house = House::with(Setup {
        tls: true,
        ask_client: true,
        broker: PROXIED.to_owned(),
        ..Setup::default()
    })
    .await;
    // The proxy authenticates itself to the broker with something that would be good for an agent.
    let http = house.http(Some(&house.pinned));
    let form = house.form("pinned", Some("pinned"));
    let answer = post(&http, &house.broker.at, &form).await;
    assert_refused(&answer, Reason::NoProof, "the proxy's own");
    let svid = house.svid();
    let request = http
        .post(format!("{}/token", house.broker.at))
        .header("Client-Cert", header(&svid))
        .form(&house.form("checkout", Some(ID)));
    let answer = Answer::of(request.send().await.unwrap()).await;
    house.granted_to(&svid, &answer, "its client's").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_holder_ends_its_lease_by_certificate_and_nobody_else_does() {
    let house = House::start().await;
    let svid = house.svid();
    let answer = house
        .ask(Some(&svid), &house.form("checkout", Some(ID)))
        .await;
    let token = answer.body["access_token"].as_str().unwrap().to_owned();
    let lease = answer.body["lease_id"].as_str().unwrap().to_owned();
    let release = |shown: &Issued, client_id: &str| {
        let url = format!("{}/revoke", house.broker.at);
        let form = form(&[("token", &lease), ("client_id", client_id)]);
        let request = house.http(Some(shown)).post(url).form(&form);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(release(&house.pinned, "pinned").await, 200, "unknown to it");
    assert_eq!(release(&house.pinned, "named").await, 401, "another's name");
    assert_eq!(
        release(&self_signed(vec![], AS_IT_IS), "pinned").await,
        401,
        "a stranger"
    );
    assert!(house.broker.is_active(&token).await);
    assert_eq!(release(&svid, ID).await, 200);
    assert!(!house.broker.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_says_how_certificates_are_taken() {
    let metadata = async |broker: &TestBroker| {
        let url = format!("{}/.well-known/oauth-authorization-server", broker.at);
        Answer::of(broker.http.get(url).send().await.unwrap())
            .await
            .body
    };
    let house = House::start().await;
    let said = metadata(&house.broker).await;
    let methods = json!([
        "private_key_jwt",
        "tls_client_auth",
        "self_signed_tls_client_auth",
        "spiffe_jwt",
        "spiffe_x509",
        "none"
    ]);
    assert_eq!(said["token_endpoint_auth_methods_supported"], methods);
    let methods = json!([
        "client_secret_basic",
        "private_key_jwt",
        "tls_client_auth",
        "self_signed_tls_client_auth"
    ]);
    assert_eq!(
        said["introspection_endpoint_auth_methods_supported"],
        methods
    );
    assert_eq!(said["tls_client_certificate_bound_access_tokens"], true);
    let aliases = json!({
        "token_endpoint": "https://mtls.acme.test/token",
        "revocation_endpoint": "https://mtls.acme.test/revoke",
        "introspection_endpoint": "https://mtls.acme.test/introspect",
    });
    assert_eq!(said["mtls_endpoint_aliases"], aliases);
    let house = House::proxied(PROXIED).await;
    let said = metadata(&house.broker).await;
    assert_eq!(said["tls_client_certificate_bound_access_tokens"], true);
    assert_eq!(said.get("mtls_endpoint_aliases"), None);
    let said = metadata(&TestBroker::start().await).await;
    assert_eq!(said["tls_client_certificate_bound_access_tokens"], false);
    let methods = json!(["private_key_jwt", "none"]);
    assert_eq!(said["token_endpoint_auth_methods_supported"], methods);
}

#[tokio::test(flavor = "multi_thread")]
async fn py_spiffe_accepts_the_same_svid_and_gets_a_credential_with_it() {
    let Some(python) = tools::python() else {
        return;
    };
    let house = House::start().await;
    let svid = house.svid();
    let folder = house.broker.folder.path();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let intent = house.intent("checkout");
    let mut command = Command::new(python);
    command.arg(tools::script("spiffe_x509.py")).args([
        house.broker.at.as_str(),
        &write("svid.pem", &svid.pem),
        &write("svid.key", &svid.key_pem),
        &write("bundle.pem", &house.acme.root_pem),
        folder.join("ca.pem").to_str().unwrap(),
        &intent,
    ]);
    let said = tools::json_of(command).await;
    assert_eq!(said["status"], 200, "{said}");
    assert_eq!(said["spiffe_id"], ID);
    let token = said["access_token"].as_str().unwrap();
    assert_eq!(claims(token)["cnf"]["x5t#S256"], svid.thumbprint());
}
