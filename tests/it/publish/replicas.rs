//! What each replica does about a publication: one whose folder decides, one that is reloading, one that starts.

use super::{assert_gives_nothing, beside, config, decided, published, setup, start, with_ttl};
use crate::configurations::{is_behind, own};
use crate::support::broker::{Setup, TestBroker};
use crate::support::gate::Gate;
use crate::support::process::{once_it_is_read, slow_file, until};
use crate::support::time::Manual;
use dayfly::broker::Word;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::fences::{Configured, FenceKind, Fences, Named, NewFence};
use dayfly::secret::{Sealer, Secret};
use dayfly::store::Store;
use dayfly::store::embedded::Embedded;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

fn on_one_clock(store: &Arc<dyn Store>, clock: &Arc<Manual>) -> Setup {
    Setup {
        clock: clock.clone(),
        ..setup(store)
    }
}

/// What decides, once the view is fresh after a jump of the clock.
async fn vouching(broker: &TestBroker) -> (String, u64) {
    until("it is ready", || async {
        broker.composed.broker.ready().await.is_ok()
    })
    .await;
    decided(broker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_folder_decides_hears_of_a_publication_too() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let clock = Manual::start();
    let one = TestBroker::with(on_one_clock(&store, &clock)).await;
    let folder = Setup {
        broker: String::new(),
        issuer: Some(one.issuer.clone()),
        key: Some(one.key.clone()),
        public_url: Some(one.url.clone()),
        ..on_one_clock(&store, &clock)
    };
    let two = TestBroker::with(folder).await;
    published(&one, &with_ttl(&one, "4m")).await;
    clock.advance(Duration::from_secs(29));
    assert_eq!(vouching(&two).await.1, 10);
    clock.advance(Duration::from_secs(2));
    assert!(is_behind(&two).await);
    assert_eq!(vouching(&one).await.1, 4);
    let ended = two.revoke(json!({ "task": "a task" })).await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    assert_gives_nothing(&two).await;
    // A start says nothing for its folder, whether it is the only process or not.
    let own = own(&two);
    for word in [Word::Start, Word::StartAlone] {
        let said = two.composed.broker.announce(&own.decides, word);
        said.await.unwrap();
    }
    clock.advance(Duration::from_secs(31));
    assert!(is_behind(&two).await);
    assert_eq!(vouching(&one).await.1, 4);
    // Somebody who says so does.
    two.composed.reload(&own).await.unwrap();
    assert_eq!(vouching(&two).await.1, 10);
    clock.advance(Duration::from_secs(31));
    assert!(is_behind(&one).await);
    // From there on a replica with that folder takes publications again, and whoever was left behind follows.
    let three = TestBroker::with(Setup {
        issuer: Some(one.issuer.clone()),
        key: Some(one.key.clone()),
        public_url: Some(one.url.clone()),
        ..on_one_clock(&store, &clock)
    })
    .await;
    published(&three, &with_ttl(&one, "5m")).await;
    assert_eq!(vouching(&three).await.1, 5);
    assert_eq!(vouching(&one).await.1, 5);
    assert_eq!(config(&one).await["revision"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_with_one_number_a_replica_takes_the_one_that_the_log_names() {
    let (broker, store) = start().await;
    let answer = published(&broker, &with_ttl(&broker, "4m")).await;
    let number = answer["revision"].as_u64().unwrap();
    let hash = "f".repeat(64);
    let other = Configured {
        decides: Named {
            number,
            sha256: hash.clone(),
        },
        published: Some(hash.clone()),
    };
    let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
    let clock = Arc::new(SystemClock::new());
    let fences = Fences::idle(store, sealer, clock.clone(), Duration::from_secs(60));
    fences.follow(Duration::ZERO).await.unwrap();
    let fence = NewFence::new(
        FenceKind::Configure,
        other.dimension(),
        "another",
        "a failover",
    );
    fences.raise(fence, clock.now()).await.unwrap();
    until("it says so", || async {
        config(&broker).await["behind"].is_string()
    })
    .await;
    let view = config(&broker).await;
    assert_eq!(view["published"]["hash"], hash, "{view}");
    assert_eq!(view["hash"], answer["hash"], "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_beside_the_first_publication_brings_no_folder_back() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let gate = Gate::before(&store);
    let broker = TestBroker::with(setup(&(Arc::clone(&gate) as Arc<dyn Store>))).await;
    let other = beside(&broker, &store, Setup::default()).await;
    let folder = own(&broker);
    // The folder is read, and then nobody says whether anybody has left.
    gate.hold_reads("leavers/");
    let reload = broker.composed.reload(&folder);
    let publish = async {
        until("it waits", || async { gate.waiting() > 0 }).await;
        let answer = published(&other, &with_ttl(&broker, "4m")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        gate.open();
        answer
    };
    let (_, answer) = tokio::join!(reload, publish);
    let hash = answer["hash"].clone();
    until("it has it", || async {
        config(&broker).await["hash"] == hash
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(decided(&broker).await.1, 4);
    let view = config(&broker).await;
    assert_eq!(
        (&view["hash"], &view["number"]),
        (&hash, &answer["revision"])
    );
}

const CLOUD: &str = r#"
[target.aws-prod]
kind = "aws"
role = "arn:aws:iam::111122223333:role/deploy"
ceiling = { actions = ["ecs:*"], locations = ["arn:aws:ecs:*:111122223333:*"] }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_slow_to_prepare_keeps_nobody_else_from_publishing() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let gate = Gate::before(&store);
    let broker = TestBroker::with(setup(&(Arc::clone(&gate) as Arc<dyn Store>))).await;
    // The keys that a cloud trusts are made before it is in force, and the store does not answer.
    gate.hold_reads("keyring manifest");
    let text = with_ttl(&broker, "4m") + CLOUD;
    let slow = broker.publish(&text);
    let quick = async {
        until("it waits", || async { gate.waiting() > 0 }).await;
        let text = with_ttl(&broker, "5m");
        let quick = published(&broker, &text);
        let answer = tokio::time::timeout(Duration::from_secs(10), quick).await;
        assert_eq!(decided(&broker).await.1, 5);
        gate.open();
        answer.expect("it waits for the other one")
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert_eq!(slow.status, 200, "{}", slow.body);
    assert_eq!(
        slow.body["before"], quick["hash"],
        "it is looked at once more"
    );
    assert_eq!(decided(&broker).await.1, 4);
}

/// A secret that is read for as long as nobody writes it.
fn slow_secret(broker: &TestBroker) -> std::path::PathBuf {
    let path = broker.folder.path().join("gateway.secret");
    slow_file(&path);
    path
}

async fn write_once_it_is_read(path: &std::path::Path, text: &str) {
    use std::io::Write as _;
    let mut pipe = once_it_is_read(path).await;
    pipe.write_all(text.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reload_that_reads_slowly_keeps_no_publication_waiting_and_brings_none_back() {
    let (one, store) = start().await;
    let two = beside(&one, &store, Setup::default()).await;
    let lies_at = |broker: &TestBroker| broker.folder.path().join("gateway.secret");
    let before = super::with_secret(&one);
    std::fs::copy(lies_at(&one), lies_at(&two)).unwrap();
    let before = published(&one, &before).await;
    until("both have it", || async {
        config(&two).await["hash"] == before["hash"]
    })
    .await;
    let (slow, own) = (slow_secret(&two), own(&two));
    let reload = two.composed.reload(&own);
    let publish = async {
        // By then it reads.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = published(&one, &with_ttl(&one, "5m")).await;
        let taken = until("it has it", || async {
            config(&two).await["hash"] == after["hash"]
        });
        let taken = tokio::time::timeout(Duration::from_secs(5), taken).await;
        let decided = match taken {
            Ok(()) => Some(decided(&two).await.1),
            Err(_) => None,
        };
        write_once_it_is_read(&slow, "the secret, at last").await;
        assert_eq!(decided, Some(5), "it waits for the secret");
        after
    };
    let (reloaded, after) = tokio::join!(reload, publish);
    assert_eq!(reloaded.unwrap(), after["hash"].as_str().unwrap());
    assert_eq!(decided(&two).await.1, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_slow_to_take_over_keeps_no_reload_waiting() {
    let (one, store) = start().await;
    let gate = Gate::before(&store);
    let two = beside(
        &one,
        &(Arc::clone(&gate) as Arc<dyn Store>),
        Setup::default(),
    )
    .await;
    let before = published(&one, &with_ttl(&one, "4m")).await;
    until("both have it", || async {
        config(&two).await["hash"] == before["hash"]
    })
    .await;
    // The keys that a cloud trusts are looked for before it is in force, and the store does not answer.
    gate.hold_reads("keyring manifest");
    let after = published(&one, &(with_ttl(&one, "5m") + CLOUD)).await;
    until("it waits", || async { gate.waiting() > 0 }).await;
    let own = own(&two);
    let reload = tokio::time::timeout(Duration::from_secs(5), two.composed.reload(&own)).await;
    gate.open();
    let reloaded = reload.expect("it waits for the other one").unwrap();
    assert_eq!(reloaded, before["hash"].as_str().unwrap());
    until("it has it", || async {
        config(&two).await["hash"] == after["hash"]
    })
    .await;
    assert_eq!(decided(&two).await.1, 5);
}

const SUSPENDS: &str = "\n[[response]]\nname = \"ended\"\non = \"released\"\ndo = [\"suspend\"]\n";

async fn answered(broker: &TestBroker) -> bool {
    let page = broker.admin("GET", "/audit?limit=1000", None).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let by = |entry: &serde_json::Value| entry["detail"]["by"] == "response ended";
    page.body["items"].as_array().unwrap().iter().any(by)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_behind_answers_nothing_by_itself_until_it_is_not() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let clock = Arc::new(super::Boot::default());
    let responding = || Setup {
        more: SUSPENDS.to_owned(),
        ..setup(&store)
    };
    let behind = TestBroker::with(Setup {
        clock: clock.clone(),
        ..responding()
    })
    .await;
    // It reads the audit from here on, and no other replica does.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let other = beside(&behind, &store, responding()).await;
    let held = behind.issue().await["access_token"].clone();
    let answer = published(&other, &super::with_secret(&other)).await;
    until("it says so", || async {
        config(&behind).await["behind"].is_string()
    })
    .await;
    drop(other);
    clock.0.store(31, super::Ordering::SeqCst);
    until("it mints nothing more", || async {
        behind.exchange(&behind.good_form()).await.status == 503
    })
    .await;
    until("it takes back what it gave", || async {
        let form = [("token", held.as_str().unwrap())];
        let request = behind.http.post(format!("{}/revoke", behind.at));
        request.form(&form).send().await.unwrap().status() == 200
    })
    .await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!answered(&behind).await, "by what is not in force any more");
    std::fs::write(behind.folder.path().join("gateway.secret"), "here it is").unwrap();
    until("it has it", || async {
        config(&behind).await["hash"] == answer["hash"]
    })
    .await;
    until("what it did not answer is answered", || async {
        answered(&behind).await
    })
    .await;
}
