//! How long a stream lasts.

use super::{PATIENCE, Stream, Told, as_operator, as_server, events, servers, start};
use crate::support::broker::{Answer, Setup, TestBroker, unique};
use crate::support::issuer::Issuer;
use crate::support::world::{assert_refused, key};
use dayfly::broker::Reason;
use dayfly::broker::events::{Filter, Listener, Word};
use dayfly::broker::operators::StillOperator;
use dayfly::broker::{Operator, Role};
use dayfly::config;
use dayfly::secret::Secret;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

async fn last(mut stream: Stream) -> Value {
    let mut bye = None;
    while let Some(told) = stream.event().await {
        assert_eq!(bye, None, "nothing comes after it");
        if told.name == "bye" {
            bye = Some(told.data);
        }
    }
    bye.expect("a last word")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_eight_streams_and_no_ninth() {
    let broker = start().await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(Stream::open(as_server(&broker)).await);
    }
    let ninth = Answer::of(as_server(&broker).send().await.unwrap()).await;
    assert_refused(&ninth, Reason::TooManyRequests, "a ninth");
    assert!(ninth.headers.contains_key("retry-after"));
    // It is the caller that is counted.
    let _operator = Stream::open(as_operator(&broker, "")).await;
    streams.pop();
    let begun = Instant::now();
    loop {
        let answer = as_server(&broker).send().await.unwrap();
        if answer.status() == 200 {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "the place of one that left is free"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_broker_and_says_so() {
    let broker = start().await;
    let stream = Stream::open(as_server(&broker)).await;
    let begun = Instant::now();
    drop(broker);
    assert_eq!(last(stream).await, json!({ "why": "stopping" }));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it does not hold up the stop"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_is_kept_alive_by_comments() {
    let broker = start().await;
    let mut stream = Stream::open(as_server(&broker)).await;
    let chunk = tokio::time::timeout(Duration::from_secs(15), stream.response.chunk());
    assert_eq!(chunk.await.unwrap().unwrap().unwrap(), ":\n");
}

async fn with_operators() -> TestBroker {
    let issuer = Arc::new(Issuer::start().await);
    let more = format!(
        "[operators]\nissuer = \"{}\"\naudience = \"operators\"\nalgorithms = [\"RS256\"]\n\
         roles = [{{ role = \"viewer\", claims = {{ groups = \"staff\" }} }}]\n",
        issuer.url
    );
    TestBroker::with(Setup {
        issuer: Some(issuer),
        more,
        ..Setup::default()
    })
    .await
}

fn token(broker: &TestBroker, lives: i64) -> String {
    let now = broker.now();
    broker.issuer.sign(&json!({
        "iss": broker.issuer.url, "sub": "octavia", "aud": "operators",
        "iat": now - 120, "exp": now + lives, "jti": unique(), "groups": "staff",
    }))
}

/// A minute of leeway, as everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_stream_ends_with_the_token_that_opened_it() {
    let broker = with_operators().await;
    let short = events(&broker, "").bearer_auth(token(&broker, -55));
    let long = events(&broker, "").bearer_auth(token(&broker, 300));
    let (short, mut long) = (Stream::open(short).await, Stream::open(long).await);
    assert_eq!(last(short).await, json!({ "why": "not_allowed" }));
    broker.issue().await;
    assert_eq!(long.next().await.name, "issued");
}

/// The configuration of this broker, changed.
async fn reload(broker: &TestBroker, more: &str) {
    let text = crate::support::broker::configuration(&broker.url, &broker.issuer, "ES256");
    let files = vec![("test.toml".to_owned(), text + more)];
    let settings = config::load_with(files, broker.folder.path().to_owned())
        .and_then(|document| document.resolve())
        .unwrap_or_else(|problems| panic!("{problems}"));
    broker.composed.reload(&settings).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_server_whose_secret_was_replaced_is_told_nothing_more() {
    let broker = start().await;
    let stream = Stream::open(as_server(&broker)).await;
    std::fs::write(broker.folder.path().join("server.secret"), "another").unwrap();
    reload(&broker, &servers(&key())).await;
    broker.issue().await;
    assert_eq!(last(stream).await, json!({ "why": "not_allowed" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_server_that_lost_an_audience_is_told_nothing_more_of_it() {
    let broker = start().await;
    let mut stream = Stream::open(as_server(&broker)).await;
    let narrowed = servers(&key()).replace("deploy-api", "elsewhere");
    reload(&broker, &narrowed).await;
    let issued = broker.issue().await;
    broker.revoke(json!({ "task": unique() })).await;
    // The fence is told to all, and nothing before it.
    let told = stream.next().await;
    assert_eq!(told.name, "fenced", "{told:?} {issued}");
}

/// A change of the configuration may have removed its key: only a new assertion can tell.
#[tokio::test(flavor = "multi_thread")]
async fn who_came_with_an_assertion_comes_again_after_a_reload() {
    let key = key();
    let broker = super::with_gateway(&key).await;
    let stream = Stream::open(super::as_gateway(&broker, &key, &unique())).await;
    reload(&broker, &(servers(&key) + "# changed\n")).await;
    assert_eq!(last(stream).await, json!({ "why": "authenticate_again" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_a_role_any_more_is_told_nothing_more() {
    let broker = with_operators().await;
    let stream = Stream::open(events(&broker, "").bearer_auth(token(&broker, 300))).await;
    reload(&broker, "").await;
    broker.issue().await;
    assert_eq!(last(stream).await, json!({ "why": "not_allowed" }));
}

/// The buffer is full and nobody takes anything: cut off, with a last word that says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_cut_off_and_can_go_on() {
    let broker = start().await;
    let operator = Operator {
        subject: None,
        name: "octavia".to_owned(),
        role: Role::Viewer,
        break_glass: false,
    };
    let bearer = Secret::new(crate::support::broker::OPERATOR_TOKEN.to_owned());
    let still = StillOperator::new(operator, bearer, None, "events");
    let filter = Filter {
        event: Some("issued".to_owned()),
        ..Filter::default()
    };
    let listener = Listener::Operator(still, filter);
    let never = std::future::pending();
    let listening = broker.composed.broker.listen(listener, None, never, ());
    let mut words = listening.await.unwrap();
    let mut leases = Vec::new();
    for _ in 0..80 {
        leases.push(broker.issue().await["lease_id"].clone());
    }
    tokio::time::sleep(Duration::from_secs(7)).await;
    let mut told = Vec::new();
    while let Some(word) = words.recv().await {
        if let Word::Event { name, id, data } = word {
            told.push(Told { name, id, data });
        }
    }
    let bye = told.pop().unwrap();
    assert_eq!(
        (bye.name.as_str(), &bye.data),
        ("bye", &json!({ "why": "too_slow" }))
    );
    // It had taken none: the opening and 63 events wait, and the next one was not told.
    assert_eq!(told.len(), 64);
    let id = &told.last().unwrap().id;
    let rest = as_operator(&broker, "?event=issued").header("last-event-id", id);
    let mut stream = Stream::open(rest).await;
    let mut seen: Vec<_> = told
        .iter()
        .skip(1)
        .map(|told| told.data["lease"].clone())
        .collect();
    while seen.len() < leases.len() {
        seen.push(stream.next().await.data["lease"].clone());
    }
    assert_eq!(seen, leases, "each once, in order");
}
