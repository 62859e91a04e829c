//! `PATCH /scim/v2/Users/{id}`: what identity providers send when somebody has left.

use crate::support::broker::{Answer, Setup, TestBroker};
use serde_json::{Value, json};

const PEOPLE: &str = "[source.people]\nkind = \"scim\"\nsecret = \"file:hook.secret\"\nends = [\"acme.example\"]\n\
                      [source.others]\nkind = \"scim\"\nsecret = \"file:hook.secret\"\nends = [\"other.example\"]\n";

async fn start() -> TestBroker {
    TestBroker::with(Setup {
        more: PEOPLE.to_owned(),
        ..Setup::default()
    })
    .await
}

async fn patch(broker: &TestBroker, user: &str, bearer: &str, body: String) -> Answer {
    let request = broker
        .http
        .patch(format!("{}/scim/v2/Users/{user}", broker.url))
        .header("content-type", "application/scim+json")
        .bearer_auth(bearer)
        .body(body);
    Answer::of(request.send().await.unwrap()).await
}

fn message(operation: Value) -> String {
    json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [operation],
    })
    .to_string()
}

async fn state(broker: &TestBroker) -> Value {
    let card = broker.admin("GET", "/agents/deployer", None).await.body;
    json!([card["state"], card["why"], card["rule"]])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_saying_it_suspends_what_the_leaver_owned_and_brings_it_back() {
    let broker = start().await;
    for (left, back) in [
        // RFC 7644, Okta, Entra ID.
        (
            json!({ "op": "replace", "path": "active", "value": false }),
            json!({ "op": "replace", "path": "active", "value": true }),
        ),
        (
            json!({ "op": "replace", "value": { "active": false } }),
            json!({ "op": "replace", "value": { "active": true } }),
        ),
        (
            json!({ "op": "Replace", "path": "active", "value": "False" }),
            json!({ "op": "Replace", "path": "active", "value": "True" }),
        ),
    ] {
        let token = broker.issue().await["access_token"].clone();
        // Whatever the case of the name, and as often as it is said.
        for user in ["payments@acme.example", "Payments%40acme.example"] {
            let told = patch(&broker, user, "hook-secret", message(left.clone())).await;
            assert_eq!(told.status, 204, "{}", told.body);
        }
        assert_eq!(
            state(&broker).await,
            json!(["suspended", "its owner has left", "source/people"])
        );
        assert!(!broker.is_active(token.as_str().unwrap()).await);
        let refused = broker.exchange(&broker.good_form()).await;
        assert_eq!((refused.status, refused.reason()), (400, ""));
        let user = "payments@acme.example";
        let told = patch(&broker, user, "hook-secret", message(back)).await;
        assert_eq!(told.status, 204, "{}", told.body);
        assert_eq!(state(&broker).await[0], "active");
    }
    let audit = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let all = audit["items"].as_array().unwrap().iter();
    let left = all.filter(|entry| entry["event"] == "owner_left").count();
    assert_eq!(left, 3, "once each");
    broker
        .is_confirmed("owner", "payments@acme.example", 3)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_refused_as_scim_says_it_and_changes_nothing() {
    let broker = start().await;
    let good = json!({ "op": "replace", "path": "active", "value": false });
    let with = |name: &str, value: Value| {
        let mut operation = good.clone();
        operation[name] = value;
        message(operation)
    };
    let user = "payments@acme.example";
    for (user, bearer, body, status, kind, words) in [
        (
            user,
            "other",
            message(good.clone()),
            401,
            Value::Null,
            "Authentication",
        ),
        (
            "p@home.example",
            "hook-secret",
            message(good.clone()),
            403,
            Value::Null,
            "may not deactivate",
        ),
        (
            user,
            "hook-secret",
            with("op", json!("remove")),
            400,
            json!("invalidSyntax"),
            "`op` must be",
        ),
        (
            user,
            "hook-secret",
            with("path", json!("title")),
            400,
            json!("invalidPath"),
            "`path` must be",
        ),
        (
            user,
            "hook-secret",
            with("value", json!("no")),
            400,
            json!("invalidValue"),
            "true or false",
        ),
        (
            user,
            "hook-secret",
            "{".to_owned(),
            400,
            json!("invalidSyntax"),
            "no JSON",
        ),
        (
            user,
            "hook-secret",
            " ".repeat(64 * 1024 + 1),
            413,
            Value::Null,
            "larger than",
        ),
    ] {
        let told = patch(&broker, user, bearer, body).await;
        assert_eq!(told.status, status, "{}", told.body);
        assert_eq!(told.headers["content-type"], "application/scim+json");
        assert_eq!(told.headers["cache-control"], "no-store");
        let schemas = json!(["urn:ietf:params:scim:api:messages:2.0:Error"]);
        assert_eq!(told.body["schemas"], schemas);
        assert_eq!(told.body["status"], json!(status.to_string()));
        assert_eq!(told.body["scimType"], kind, "{}", told.body);
        let detail = told.body["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{detail}");
    }
    assert_eq!(state(&broker).await[0], "active");
    broker.issue().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_finds_whoever_it_may_speak_of_and_nobody_else() {
    let broker = start().await;
    let get = async |path: &str, bearer: &str| {
        let url = format!("{}/scim/v2/Users{path}", broker.url);
        let request = broker.http.get(url).bearer_auth(bearer);
        Answer::of(request.send().await.unwrap()).await
    };
    let filter =
        |name: &str| format!("?filter=userName%20eq%20%22{name}%22&startIndex=1&count=100");
    let user = "payments@acme.example";
    for active in [true, false, true] {
        let said = message(json!({ "op": "replace", "path": "active", "value": active }));
        assert_eq!(patch(&broker, user, "hook-secret", said).await.status, 204);
        let one = get(&format!("/{user}"), "hook-secret").await;
        assert_eq!((one.status, &one.body["active"]), (200, &json!(active)));
        assert_eq!(one.headers["content-type"], "application/scim+json");
        let list = get(&filter(user), "hook-secret").await.body;
        assert_eq!(list["totalResults"], 1, "{list}");
        assert_eq!(list["Resources"], json!([one.body]));
        assert_eq!(list["Resources"][0]["id"], user);
    }
    // Of the other source's domain, of nobody's, and whatever else could be asked.
    assert_eq!(get("/o@other.example", "hook-secret").await.status, 200);
    let foreign = get("/p@home.example", "hook-secret").await;
    assert_eq!(
        (foreign.status, &foreign.body["status"]),
        (404, &json!("404"))
    );
    let list = get(&filter("p@home.example"), "hook-secret").await.body;
    assert_eq!(
        (&list["totalResults"], &list["Resources"]),
        (&json!(0), &json!([]))
    );
    for query in [
        "",
        "?filter=userName%20sw%20%22p%22",
        "?filter=displayName%20eq%20%22p@acme.example%22",
        "?filter=userName%20eq%20%22p@acme.example%22%20or%20active%20eq%20true",
        "?filter=userName%20eq%20%22%22",
        "?filter=userName%20eq%20p@acme.example",
    ] {
        let refused = get(query, "hook-secret").await;
        assert_eq!(refused.status, 400, "{query}: {}", refused.body);
        assert_eq!(refused.body["scimType"], "invalidFilter", "{query}");
        assert_eq!(get(query, "other").await.status, 401, "{query}");
    }
    assert_eq!(get(&format!("/{user}"), "other").await.status, 401);
}
