//! The form itself: missing, repeated, oversize, of another kind.

use crate::support::broker::{Answer, SERVER_SECRET, form, with, without};
use crate::support::world::{World, assert_refused};
use dayfly::broker::Reason;

type Fields = Vec<(String, String)>;

/// Sends a spoiled copy of a good form, then the good form itself.
async fn refused(world: &World, reason: Reason, what: &str, spoil: impl FnOnce(Fields) -> Fields) {
    let good = world.broker.good_form();
    let answer = world.broker.exchange(&spoil(good.clone())).await;
    assert_refused(&answer, reason, what);
    let answer = world.broker.exchange(&good).await;
    assert_eq!(answer.status, 200, "after {what}: {}", answer.body);
}

fn also(mut fields: Fields, name: &str, value: &str) -> Fields {
    fields.push((name.to_owned(), value.to_owned()));
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_is_there_and_there_once() {
    let world = World::start().await;
    let bad = Reason::MalformedRequest;
    for name in ["grant_type", "subject_token", "subject_token_type"] {
        refused(&world, bad, name, |form| without(form, name)).await;
        refused(&world, bad, name, |form| with(form, name, "")).await;
    }
    for name in [
        "grant_type",
        "subject_token",
        "subject_token_type",
        "intent",
    ] {
        refused(&world, bad, name, |form| {
            let value = form.iter().find(|(other, _)| other == name).unwrap();
            let value = value.1.clone();
            also(form, name, &value)
        })
        .await;
    }
    for name in ["scope", "unknown", "client_id"] {
        let twice = |fields| also(also(fields, name, "a"), name, "a");
        refused(&world, bad, name, twice).await;
    }
    let many = |fields: Fields| {
        (0..64).fold(fields, |fields, number| {
            also(fields, &format!("x{number}"), "1")
        })
    };
    refused(&world, bad, "too many parameters", many).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_and_not_offered_is_refused_and_not_ignored() {
    let world = World::start().await;
    let bad = Reason::MalformedRequest;
    let other = |value: &'static str| move |fields| with(fields, "grant_type", value);
    let grant = Reason::UnsupportedGrantType;
    refused(&world, grant, "password", other("password")).await;
    refused(
        &world,
        grant,
        "authorization_code",
        other("authorization_code"),
    )
    .await;
    refused(&world, grant, "upper case", other("CLIENT_CREDENTIALS")).await;
    refused(
        &world,
        bad,
        "a subject of client_credentials",
        other("client_credentials"),
    )
    .await;
    for name in ["actor_token", "actor_token_type"] {
        refused(&world, bad, name, |fields| with(fields, name, "x")).await;
    }
    for kind in [
        "jwt",
        "urn:ietf:params:oauth:token-type:saml2",
        "urn:ietf:params:oauth:token-type:refresh_token",
    ] {
        refused(&world, bad, kind, |fields| {
            with(fields, "subject_token_type", kind)
        })
        .await;
    }
    let wanted = |fields| with(fields, "requested_token_type", "a token");
    refused(&world, bad, "a requested type that is no URI", wanted).await;
    let dpop = world.broker.good_form();
    let request = world
        .broker
        .http
        .post(format!("{}/token", world.broker.url));
    let request = request.header("dpop", "x").form(&dpop);
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_refused(&answer, Reason::InvalidDpopProof, "a DPoP header");
    assert_eq!(world.broker.exchange(&dpop).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_target_is_named_and_it_is_the_intents() {
    let world = World::start().await;
    let bad = Reason::InvalidTarget;
    for resource in [
        "deploy",
        "/deploy",
        "https://deploy.example#x",
        "https://deploy.example/ x",
    ] {
        refused(&world, bad, resource, |fields| {
            also(fields, "resource", resource)
        })
        .await;
    }
    let many = |fields: Fields| {
        (0..9).fold(fields, |fields, n| {
            also(fields, "audience", &format!("target-{n}"))
        })
    };
    refused(&world, bad, "nine targets", many).await;
    let long = "a".repeat(2049);
    refused(&world, bad, "an endless target", |fields| {
        also(fields, "audience", &long)
    })
    .await;
    refused(&world, bad, "a control character", |fields| {
        also(fields, "audience", "a\u{1}")
    })
    .await;
    for other in ["metrics-key", "no-such"] {
        let audience = |fields| with(fields, "audience", other);
        refused(&world, Reason::UnknownTarget, other, audience).await;
        let second = |fields| also(fields, "audience", other);
        refused(&world, Reason::UnknownTarget, other, second).await;
    }
    let elsewhere = |fields| also(fields, "resource", "https://deploy.example/other");
    refused(&world, Reason::UnknownTarget, "another resource", elsewhere).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_a_form_of_at_most_64_kib() {
    let world = World::start().await;
    let broker = &world.broker;
    let good = broker.good_form();
    let encoded = encode(&good);
    let send = |kind: &'static str, body: Vec<u8>| async move {
        let request = broker.http.post(format!("{}/token", broker.url));
        let request = request.header("content-type", kind).body(body);
        Answer::of(request.send().await.unwrap()).await
    };
    const FORM: &str = "application/x-www-form-urlencoded";
    let text = || encoded.clone().into_bytes();
    let with_tail = |tail: &[u8]| [encoded.as_bytes(), tail].concat();
    for kind in [
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
        "",
        "application/x-www-form-urlencoded; charset=utf-16",
    ] {
        let answer = send(kind, text()).await;
        assert_refused(&answer, Reason::UnsupportedMediaType, kind);
    }
    let request = broker.http.post(format!("{}/token", broker.url));
    let request = request
        .header("content-type", FORM)
        .header("content-encoding", "gzip");
    let answer = Answer::of(request.body(text()).send().await.unwrap()).await;
    assert_refused(&answer, Reason::UnsupportedMediaType, "compressed");
    for (what, body) in [
        ("nothing", Vec::new()),
        ("half a byte", with_tail(b"&scope=%4")),
        ("no hex", with_tail(b"&scope=%zz")),
        ("no UTF-8", with_tail(b"&scope=%ff%fe")),
        ("raw bytes", with_tail(b"&scope=\xff")),
        ("a raw NUL", with_tail(b"&scope=\0")),
        ("a raw line end", with_tail(b"&scope=a\r\nb")),
        ("JSON", b"{\"grant_type\":\"client_credentials\"}".to_vec()),
    ] {
        let answer = send(FORM, body).await;
        assert_refused(&answer, Reason::MalformedRequest, what);
    }
    let huge = with_tail(format!("&x={}", "x".repeat(64 * 1024)).as_bytes());
    let answer = send(FORM, huge).await;
    assert_refused(&answer, Reason::RequestTooLarge, "65 KiB");
    let get = broker.http.get(format!("{}/token?{encoded}", broker.url));
    let answer = Answer::of(get.send().await.unwrap()).await;
    assert_refused(&answer, Reason::MethodNotAllowed, "GET");
    // In the query string it counts as little.
    let post = broker.http.post(format!("{}/token?{encoded}", broker.url));
    let answer = Answer::of(post.form(&form(&[])).send().await.unwrap()).await;
    assert_refused(&answer, Reason::MalformedRequest, "a query");
    let utf8 = "application/x-www-form-urlencoded; charset=UTF-8";
    let answer = send(utf8, text()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn encode(fields: &Fields) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(fields).finish()
}

/// Every parameter that a form door reads, and one that none does.
const PARAMETERS: &[&str] = &[
    "grant_type",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
    "scope",
    "authorization_details",
    "intent",
    "assertion",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "token",
    "token_type_hint",
    "nobody_reads_it",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_form_door_reads_a_parameter_that_stands_twice() {
    let world = World::start().await;
    let broker = &world.broker;
    let doors = [
        ("/token", broker.good_form()),
        ("/introspect", form(&[("token", "x")])),
        ("/revoke", form(&[("token", "x")])),
    ];
    for (path, good) in &doors {
        for name in PARAMETERS {
            for (first, second) in [("a", "a"), ("a", "b"), ("", "a")] {
                let fields = also(also(without(good.clone(), name), name, first), name, second);
                let request = broker.http.post(format!("{}{path}", broker.url));
                let request = request.basic_auth("deploy-api", Some(SERVER_SECRET));
                let answer = Answer::of(request.form(&fields).send().await.unwrap()).await;
                let what = format!("{path} {name} `{first}` `{second}`");
                assert_refused(&answer, Reason::MalformedRequest, &what);
            }
        }
    }
    // In another spelling of the same name.
    let text = format!("{}&%67rant_type=x", encode(&doors[0].1));
    let request = broker.http.post(format!("{}/token", broker.url));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = Answer::of(request.body(text).send().await.unwrap()).await;
    assert_refused(&answer, Reason::MalformedRequest, "the name in escapes");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_form_door_takes_two_ways_of_authentication() {
    let world = World::start().await;
    let broker = &world.broker;
    let robot = world.robot_form();
    let proof: Fields = robot
        .iter()
        .filter(|(name, _)| name.starts_with("client_assertion"))
        .cloned()
        .collect();
    for (path, own) in [
        ("/token", robot),
        ("/introspect", also(proof.clone(), "token", "x")),
        ("/revoke", also(proof, "token", "x")),
    ] {
        let post = || broker.http.post(format!("{}{path}", broker.url));
        let both = post().basic_auth("deploy-api", Some(SERVER_SECRET));
        let answer = Answer::of(both.form(&own).send().await.unwrap()).await;
        assert_refused(&answer, Reason::MalformedRequest, path);
        let twice = post()
            .basic_auth("deploy-api", Some(SERVER_SECRET))
            .header("authorization", "Basic YTpi");
        let lone = form(&[("token", "x"), ("grant_type", "client_credentials")]);
        let answer = Answer::of(twice.form(&lone).send().await.unwrap()).await;
        assert_refused(&answer, Reason::MalformedRequest, "two headers");
        let secret = also(own, "client_secret", "x");
        let answer = Answer::of(post().form(&secret).send().await.unwrap()).await;
        assert_refused(&answer, Reason::InvalidClient, "a secret in the body");
    }
}
