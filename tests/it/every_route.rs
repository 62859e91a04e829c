//! Every line of the table of routes: nobody, somebody else, and the one it is for.
//!
//! A route that is added to the table and not here fails this test.

use crate::support::broker::{
    Answer, OPERATOR_TOKEN, SERVER_SECRET, Setup, b64, form, sha256, unique, with,
};
use crate::support::issuer::Issuer;
use crate::support::process::until;
use crate::support::world::{ASKS_PEOPLE, World, assert_refused};
use dayfly::broker::Reason;
use dayfly::broker::Role;
use dayfly::http::routes::{Listener, Route, TABLE, Who};
use dayfly::http::{Bound, DoorSettings, ListenSettings, health_router};
use dayfly::telemetry::Metrics;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const ROLES: [Role; 4] = [Role::Viewer, Role::Reviewer, Role::Operator, Role::Admin];

struct House {
    world: World,
    /// Where the platform's probes go.
    health: String,
}

impl House {
    async fn start() -> Self {
        let issuer = Arc::new(Issuer::start().await);
        let rules: Vec<_> = ["viewer", "reviewer", "operator", "admin"]
            .iter()
            .map(|role| format!("{{ role = \"{role}\", claims = {{ groups = \"{role}\" }} }}"))
            .collect();
        let more = format!(
            "[operators]\nissuer = \"{}\"\naudience = \"operators\"\nalgorithms = [\"RS256\"]\n\
             roles = [{}]\n\
             [target.aws-prod]\nkind = \"aws\"\nrole = \"arn:aws:iam::111122223333:role/deploy\"\n\
             ceiling = {{ actions = [\"ecs:*\"], locations = [\"arn:aws:ecs:*:111122223333:*\"] }}\n\
             [agent.machine]\nowner = \"machines@acme.example\"\npurpose = \"Enrols keys\"\nends = 2099-01-01\n\
             identity = {{ client = {{ enrol = true }} }}\n\
             [mission.tidy]\nagents = []\nallow_registered = true\nowner = \"sre@acme.example\"\npurpose = \"Tidy up\"\n\
             allow = [{{ target = \"deploy-api\", actions = [\"deploy:read\"], locations = [\"https://deploy.example/x\"] }}]\n\
             [source.people]\nkind = \"scim\"\nsecret = \"file:server.secret\"\nends = [\"acme.example\"]\n",
            issuer.url,
            rules.join(", ")
        ) + ASKS_PEOPLE;
        let world = World::with(Setup {
            issuer: Some(issuer),
            broker: "config = \"published\"".to_owned(),
            more,
            ..Setup::default()
        })
        .await;
        let bound = Bound::bind(ListenSettings::on("127.0.0.1:0".parse().unwrap()))
            .await
            .unwrap();
        let health = format!("http://{}", bound.address());
        let broker = world.broker.composed.broker.clone();
        let metrics = Metrics::detached().unwrap();
        let app = health_router(broker, metrics, &DoorSettings::default());
        tokio::spawn(bound.serve(app, std::future::pending()));
        Self { world, health }
    }

    fn operator(&self, role: Role) -> String {
        let (broker, now) = (&self.world.broker, self.world.broker.now());
        broker.issuer.sign(&json!({
            "iss": broker.issuer.url, "sub": "octavia", "aud": "operators",
            "email": "octavia@acme.example",
            "iat": now, "exp": now + 300, "jti": unique(), "groups": role,
        }))
    }

    async fn audited(&self) -> usize {
        let page = self
            .world
            .broker
            .admin("GET", "/audit?limit=1000", None)
            .await;
        let items = page.body["items"].as_array().unwrap().iter();
        // Summaries of what was only counted come by themselves.
        items
            .filter(|item| item["event"] != "refused_summary")
            .count()
    }

    fn request(&self, route: &Route, path: &str) -> RequestBuilder {
        let base = match route.listener {
            Listener::Public => &self.world.broker.url,
            Listener::Health => &self.health,
        };
        let method = route.method.parse().unwrap();
        self.world
            .broker
            .http
            .request(method, format!("{base}{path}"))
    }
}

/// A path and, for a JSON door, a body with which the right caller succeeds.
async fn good(house: &House, route: &Route) -> (String, Option<Value>) {
    let lease = || async { house.world.broker.issue().await["lease_id"].clone() };
    let reason = "every route";
    let task = json!({ "selector": { "task": unique() }, "reason": reason });
    let path = route.path.to_owned();
    match route.path {
        "/admin/v1/revocations" => (path, Some(task)),
        "/admin/v1/lifts" => {
            let broker = &house.world.broker;
            broker
                .admin("POST", "/revocations", Some(task.clone()))
                .await;
            (path, Some(task))
        }
        "/admin/v1/restrictions" => (path, (route.method != "GET").then(restriction)),
        "/admin/v1/restrictions/{id}/lift" => {
            let path = path.replace("{id}", &standing(house).await);
            (path, Some(json!({ "reason": reason })))
        }
        "/admin/v1/revocations/{id}" => {
            let broker = &house.world.broker;
            let done = broker.admin("POST", "/revocations", Some(task)).await;
            let id = done.body["id"].as_str().unwrap().to_owned();
            (path.replace("{id}", &id), None)
        }
        "/admin/v1/leases/{id}" => {
            let id = lease().await;
            (path.replace("{id}", id.as_str().unwrap()), None)
        }
        "/admin/v1/leases/{id}/give-up" => {
            let store = house.world.broker.composed.store.clone();
            let id = crate::revocations::given_up::damaged(store.as_ref()).await;
            let path = path.replace("{id}", &id.to_string());
            (path, Some(json!({ "reason": reason })))
        }
        "/admin/v1/agents/{id}" => registered(house, route).await,
        "/admin/v1/agents/{id}/invitations" => {
            let body = json!({ "note": "every route" });
            (path.replace("{id}", "machine"), Some(body))
        }
        "/admin/v1/agents/{id}/keys" => (path.replace("{id}", "machine"), None),
        "/admin/v1/find" => (path, Some(json!({ "query": lease().await }))),
        "/admin/v1/explain" => {
            let body = json!({ "agent": "deployer", "authorization_details": [] });
            (path, Some(body))
        }
        "/admin/v1/keys/rotate" => (path, Some(json!({ "purpose": "checkpoint" }))),
        "/admin/v1/contexts/end" => {
            let body = json!({ "issuer": "ci", "kind": "pipeline", "id": unique() });
            (path, Some(body))
        }
        "/admin/v1/config" if route.method == "POST" => {
            (path, Some(house.world.broker.publication()))
        }
        "/admin/v1/config" | "/admin/v1/sightings" => (path, None),
        "/admin/v1/sightings/{id}" => {
            let broker = &house.world.broker;
            let mut claims = broker.platform_claims();
            claims["sub"] = json!("nobody");
            let token = broker.issuer.sign(&claims);
            let form = with(broker.good_form(), "subject_token", &token);
            assert_eq!(broker.exchange(&form).await.status, 400);
            let id = crate::agents::sighted(broker, "nobody").await["id"].clone();
            (path.replace("{id}", id.as_str().unwrap()), None)
        }
        approvals if approvals.starts_with("/admin/v1/approvals") => {
            put_to_people(house, route).await
        }
        "/admin/v1/reviews" if route.method == "POST" => {
            let body = json!({ "subject": { "agent": "machine" }, "decision": "keep" });
            (path, Some(body))
        }
        "/admin/v1/reviews" | "/admin/v1/leases" | "/admin/v1/agents" | "/admin/v1/audit" => {
            (path, None)
        }
        other => panic!("{other} is new: say here how it is used well"),
    }
}

/// Something that waits for them.
async fn put_to_people(house: &House, route: &Route) -> (String, Option<Value>) {
    let path = match route.path.contains("{id}") {
        true => route
            .path
            .replace("{id}", &house.world.put_to_people().await),
        false => route.path.to_owned(),
    };
    let body = (route.method == "POST").then(|| json!({ "reason": "every route" }));
    (path, body)
}

/// An agent of the files, one that is new, and one that is there.
async fn registered(house: &House, route: &Route) -> (String, Option<Value>) {
    let agent = json!({
        "owner": "nights@acme.example", "purpose": "Tidies up", "ends": "2099-01-01",
        "identity": { "issuer": "ci", "subject": unique() }, "missions": ["tidy"],
    });
    let body = json!({ "agent": agent, "reason": "every route" });
    let broker = &house.world.broker;
    match route.method {
        "GET" => (route.path.replace("{id}", "deployer"), None),
        "PUT" => (route.path.replace("{id}", "night-worker"), Some(body)),
        _ => {
            let done = broker.admin("PUT", "/agents/day-worker", Some(body)).await;
            assert_eq!(done.status, 200, "{}", done.body);
            (route.path.replace("{id}", "day-worker"), None)
        }
    }
}

fn restriction() -> Value {
    json!({ "target": "deploy-api", "actions": ["deploy:nothing"], "reason": "every route" })
}

/// The id of a restriction that stands.
async fn standing(house: &House) -> String {
    let broker = &house.world.broker;
    let body = Some(restriction());
    let done = broker.admin("POST", "/restrictions", body).await.body;
    done["id"].as_str().unwrap().to_owned()
}

async fn send(request: RequestBuilder, body: Option<&Value>) -> Answer {
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    Answer::of(request.send().await.unwrap()).await
}

async fn operators_door(house: &House, route: &Route, needed: Role) {
    let what = format!("{} {}", route.method, route.path);
    let (path, body) = good(house, route).await;
    let ask = |bearer: Option<String>| {
        let request = house.request(route, &path);
        let request = match bearer {
            Some(bearer) => request.bearer_auth(bearer),
            None => request,
        };
        let body = body.clone();
        async move { send(request, body.as_ref()).await }
    };
    let before = house.audited().await;
    let nobody = ask(None).await;
    assert_eq!(
        (nobody.status, nobody.error()),
        (401, "invalid_client"),
        "{what}"
    );
    let metadata = format!(
        "{}/.well-known/oauth-protected-resource{path}",
        house.world.broker.url
    );
    let asked = format!("Bearer realm=\"dayfly\", resource_metadata=\"{metadata}\"");
    assert_eq!(nobody.headers["www-authenticate"], asked.as_str(), "{what}");
    let told = send(house.world.broker.http.get(&metadata), None).await;
    let url = format!("{}{path}", house.world.broker.url);
    assert_eq!(
        (told.status, &told.body["resource"]),
        (200, &json!(url)),
        "{what}"
    );
    let agent = ask(Some(house.world.broker.platform_token())).await;
    assert_eq!(
        (agent.status, agent.error()),
        (401, "invalid_client"),
        "{what}"
    );
    for role in ROLES.into_iter().filter(|role| *role < needed) {
        let less = ask(Some(house.operator(role))).await;
        assert_eq!(
            (less.status, less.error()),
            (403, "access_denied"),
            "{what} {role:?}"
        );
    }
    assert_eq!(house.audited().await, before, "{what}: nothing was done");
    let right = ask(Some(house.operator(needed))).await;
    assert_eq!(right.status, 200, "{what}: {}", right.body);
    assert_eq!(right.headers["cache-control"], "no-store", "{what}");
    let grown = house.audited().await > before;
    assert_eq!(grown, route.audited, "{what}: in the audit");
}

async fn clients_door(house: &House, route: &Route) {
    let broker = &house.world.broker;
    match route.path {
        "/token" => {
            let before = house.audited().await;
            let grant = form(&[("grant_type", "client_credentials")]);
            assert_eq!(broker.exchange(&grant).await.status, 401);
            let token = house.world.sign_once(&house.world.once_claims());
            let other = with(broker.good_form(), "subject_token", &token);
            let other = broker.exchange(&other);
            assert_eq!(other.await.status, 400, "another agent's token");
            assert_eq!(
                house.audited().await,
                before,
                "who is not known is counted only"
            );
            broker.issue().await;
            assert!(house.audited().await > before);
        }
        "/revoke" => {
            let issued = broker.issue().await;
            let before = house.audited().await;
            let lease = issued["lease_id"].as_str().unwrap();
            let nobody = broker.post("/revoke", &form(&[("token", lease)])).await;
            assert_eq!(nobody.status, 200, "RFC 7009: unknown is ended");
            let token = issued["access_token"].as_str().unwrap();
            assert!(broker.is_active(token).await);
            assert_eq!(house.audited().await, before);
            assert_eq!(
                broker
                    .post("/revoke", &form(&[("token", token)]))
                    .await
                    .status,
                200
            );
            assert!(!broker.is_active(token).await);
            assert!(house.audited().await > before);
        }
        "/enrol" => {
            let invite = "/agents/machine/invitations";
            let invited = broker.admin("POST", invite, Some(json!({}))).await;
            let token = invited.body["join_token"].as_str().unwrap();
            let key = crate::support::world::key();
            let now = broker.now();
            let claims = json!({
                "iss": "machine", "sub": "machine", "aud": broker.url, "iat": now, "exp": now + 60,
                "join_token_hash": b64(&sha256(token.as_bytes())),
            });
            let proof = key.sign("enrolment+jwt", None, &claims, true).unwrap();
            let before = house.audited().await;
            let nobody = form(&[("join_token", "dayflyjoin_0"), ("proof", &proof)]);
            assert_eq!(broker.post("/enrol", &nobody).await.status, 401);
            assert_eq!(house.audited().await, before);
            let invited = form(&[("join_token", token), ("proof", &proof)]);
            assert_eq!(broker.post("/enrol", &invited).await.status, 200);
            assert!(house.audited().await > before);
        }
        other => panic!("{other} is new: say here who may enter"),
    }
}

async fn resource_servers_door(house: &House, route: &Route) {
    let token = [("token", "x")];
    let ask = || house.request(route, route.path).form(&token);
    for (what, request) in [
        ("nobody", ask()),
        ("an operator", ask().bearer_auth(OPERATOR_TOKEN)),
        ("another", ask().basic_auth("deployer", Some(SERVER_SECRET))),
    ] {
        let answer = send(request, None).await;
        assert_eq!(
            (answer.status, answer.error()),
            (401, "invalid_client"),
            "{what}"
        );
    }
    let right = ask().basic_auth("deploy-api", Some(SERVER_SECRET));
    if route.path == "/events" {
        // It goes on and on.
        assert_eq!(right.send().await.unwrap().status(), 200);
        return;
    }
    let right = send(right, None).await;
    assert_eq!((right.status, &right.body["active"]), (200, &json!(false)));
}

async fn watchers_door(house: &House, route: &Route) {
    let ask = || house.request(route, route.path);
    for (what, request) in [
        ("nobody", ask()),
        (
            "an agent",
            ask().bearer_auth(house.world.broker.platform_token()),
        ),
        ("another", ask().basic_auth("deployer", Some(SERVER_SECRET))),
    ] {
        let answer = send(request, None).await;
        assert_eq!(
            (answer.status, answer.error()),
            (401, "invalid_client"),
            "{what}"
        );
    }
    for request in [
        ask().bearer_auth(house.operator(Role::Viewer)),
        ask().basic_auth("deploy-api", Some(SERVER_SECRET)),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
}

async fn anyones_door(house: &House, route: &Route) {
    let path = route.path.replace("{target}", "aws-prod");
    let path = path.replace("{list}", "0").replace("{*resource}", "events");
    if path == "/status/0" {
        // Nothing is told before the first sweep.
        let ask = || async { send(house.request(route, &path), None).await.status == 200 };
        until("a status list", ask).await;
    }
    let answer = send(house.request(route, &path), None).await;
    if route.path == "/authorize" {
        assert_refused(&answer, Reason::UnsupportedResponseType, "anyone");
        return;
    }
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    let cached = match route.path {
        "/status/{list}" => "public, max-age=5",
        _ => "public, max-age=240",
    };
    assert_eq!(answer.headers["cache-control"], cached, "{path}");
    // Who asks makes no difference.
    let request = house.request(route, &path).bearer_auth("x");
    assert_eq!(send(request, None).await.body, answer.body, "{path}");
}

async fn platforms_door(house: &House, route: &Route) {
    let path = route.path.replace("{source}", "ci");
    if route.listener == Listener::Health {
        let answer = send(house.request(route, &path), None).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let outside = format!("{}{path}", house.world.broker.url);
        let outside = house
            .world
            .broker
            .http
            .get(outside)
            .bearer_auth(OPERATOR_TOKEN);
        assert_eq!(send(outside, None).await.status, 404, "{path} in public");
        return;
    }
    if route.path.starts_with("/scim/") {
        return users_door(house, route).await;
    }
    let body = json!({ "kind": "pipeline", "id": unique() }).to_string();
    let sent = house.world.broker.now().to_string();
    let sign = |secret: &[u8]| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let tag = ring::hmac::sign(&key, format!("{sent}.{body}").as_bytes());
        let hex: String = tag
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let request = house
            .request(route, &path)
            .header("x-dayfly-timestamp", &sent);
        request
            .header("x-dayfly-signature", format!("sha256={hex}"))
            .body(body.clone())
    };
    let before = house.audited().await;
    let nobody = house.request(route, &path).body(body.clone());
    for (what, request) in [
        ("nobody", nobody),
        (
            "an operator",
            house.request(route, &path).bearer_auth(OPERATOR_TOKEN),
        ),
        ("another secret", sign(b"other")),
    ] {
        let answer = send(request, None).await;
        assert_eq!(
            (answer.status, answer.error()),
            (401, "invalid_client"),
            "{what}"
        );
    }
    assert_eq!(house.audited().await, before);
    assert_eq!(send(sign(b"hook-secret"), None).await.status, 204);
    assert!(house.audited().await > before);
}

/// An identity provider's, by the secret of its source.
async fn users_door(house: &House, route: &Route) {
    let path = route.path.replace("{id}", "machines@acme.example");
    let path = match route.path {
        "/scim/v2/Users" => format!("{path}?filter=userName%20eq%20%22machines@acme.example%22"),
        _ => path,
    };
    let body = json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [{ "op": "replace", "path": "active", "value": false }],
    });
    let ask = || house.request(route, &path);
    let before = house.audited().await;
    for (what, request) in [
        ("nobody", ask()),
        ("an operator", ask().bearer_auth(OPERATOR_TOKEN)),
        ("a source of another kind", ask().bearer_auth("hook-secret")),
    ] {
        let answer = send(request, Some(&body)).await;
        assert_refused(&answer, Reason::NotAuthenticated, what);
        assert_eq!(answer.headers["content-type"], "application/scim+json");
    }
    assert_eq!(house.audited().await, before);
    if route.method == "GET" {
        let right = send(ask().bearer_auth(SERVER_SECRET), None).await;
        assert_eq!(right.status, 200, "{}", right.body);
        assert_eq!(right.headers["cache-control"], "no-store");
        assert_eq!(house.audited().await, before);
        return;
    }
    let right = send(ask().bearer_auth(SERVER_SECRET), Some(&body)).await;
    assert_eq!(right.status, 204, "{}", right.body);
    assert!(house.audited().await > before);
    // Back: the doors after this one are for whom they are.
    let mut body = body;
    body["Operations"][0]["value"] = json!(true);
    let right = send(ask().bearer_auth(SERVER_SECRET), Some(&body)).await;
    assert_eq!(right.status, 204, "{}", right.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_door_opens_for_whom_it_is_and_for_nobody_else() {
    let house = House::start().await;
    for route in TABLE {
        match route.who {
            Who::Anyone => anyones_door(&house, route).await,
            Who::Client => clients_door(&house, route).await,
            Who::ResourceServer => resource_servers_door(&house, route).await,
            Who::Operator(needed) => operators_door(&house, route, needed).await,
            Who::Watcher => watchers_door(&house, route).await,
            Who::Platform => platforms_door(&house, route).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_door_answers_another_method_or_a_path_beside_it() {
    let house = House::start().await;
    for route in TABLE
        .iter()
        .filter(|route| route.listener == Listener::Public)
    {
        let is_own = |method: &str| {
            let mut all = TABLE.iter();
            all.any(|route_of| route_of.path == route.path && route_of.method == method)
        };
        let mut others = ["DELETE", "PUT", "PATCH"].into_iter();
        let other = others.rfind(|method| !is_own(method)).unwrap();
        let url = format!("{}{}", house.world.broker.url, route.path);
        let request = house
            .world
            .broker
            .http
            .request(other.parse().unwrap(), &url);
        let answer = send(request.bearer_auth(OPERATOR_TOKEN), None).await;
        assert_refused(&answer, Reason::MethodNotAllowed, &url);
        let allowed = answer.headers["allow"].to_str().unwrap();
        let allowed: BTreeSet<_> = allowed.split(',').map(str::trim).collect();
        let own = TABLE.iter().filter(|other| other.path == route.path);
        let mut expected: BTreeSet<_> = own.map(|route| route.method).collect();
        if expected.contains("GET") {
            expected.insert("HEAD");
        }
        assert_eq!(allowed, expected, "{url}");
        let beside = house.world.broker.http.get(format!("{url}/x/y/z"));
        assert_refused(&send(beside, None).await, Reason::NotFound, &url);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_or_of_another_type_has_the_same_face_at_every_door() {
    let house = House::start().await;
    for route in TABLE.iter().filter(|route| route.method == "POST") {
        let signed = route.path.starts_with("/hooks/");
        let long = match route.path {
            _ if signed => 1024 * 1024 + 1,
            "/admin/v1/config" => 2 * 1024 * 1024 + 1,
            _ => 64 * 1024 + 1,
        };
        let path = route.path.replace("{source}", "ci");
        let ask = |kind: &str, body: String| {
            let request = house.request(route, &path).header("content-type", kind);
            let request = match route.who {
                Who::Operator(needed) => request.bearer_auth(house.operator(needed)),
                _ => request,
            };
            send(request.body(body), None)
        };
        let kind = match route.who {
            Who::Operator(_) => "application/json",
            _ => "application/x-www-form-urlencoded",
        };
        let answer = ask(kind, "a".repeat(long)).await;
        assert_refused(&answer, Reason::RequestTooLarge, &path);
        if signed {
            continue;
        }
        for kind in ["text/plain", "multipart/form-data; boundary=x", ""] {
            let answer = ask(kind, "a=b".to_owned()).await;
            assert_refused(&answer, Reason::UnsupportedMediaType, &path);
        }
    }
}
