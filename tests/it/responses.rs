//! What happens reaches a person, or stops something by itself.

use crate::support::broker::{Answer, Setup, TestBroker, configuration, unique, with};
use crate::support::time::Manual;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use dayfly::config;
use dayfly::ids::ShardId;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Index, Key, Store, Transaction, Write};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Whoever is told, strict about who tells.
#[derive(Clone, Default)]
struct Pager {
    taken: Arc<Mutex<Vec<Value>>>,
    /// Deliveries to answer with 503 before one is taken.
    refuse: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    /// It takes a message and never says so.
    holds: Arc<AtomicBool>,
}

impl Pager {
    async fn start() -> (Self, String) {
        let pager = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .route("/hook", axum::routing::post(Self::take))
            .with_state(pager.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (pager, url)
    }

    async fn take(State(pager): State<Self>, headers: HeaderMap, body: String) -> StatusCode {
        pager.asked.fetch_add(1, Ordering::SeqCst);
        if pager.holds.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let sent = header("x-dayfly-timestamp");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"hook-secret");
        let tag = ring::hmac::sign(&key, format!("{sent}.{body}").as_bytes());
        let hex: String = tag
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(header("x-dayfly-signature"), format!("sha256={hex}"));
        if pager
            .refuse
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let message = serde_json::from_str(&body).unwrap();
        pager.taken.lock().unwrap().push(message);
        StatusCode::NO_CONTENT
    }

    fn taken(&self) -> Vec<Value> {
        self.taken.lock().unwrap().clone()
    }

    async fn has(&self, number: usize) -> Vec<Value> {
        until(|| self.taken().len() >= number).await;
        self.taken()
    }
}

async fn until(met: impl Fn() -> bool) {
    for _ in 0..300 {
        if met() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not come");
}

fn notify(url: &str) -> String {
    format!(
        "[[notify]]\nname = \"pager\"\nwebhook = {{ url = \"{url}\", secret = \"file:hook.secret\" }}\n"
    )
}

async fn start(more: String) -> TestBroker {
    let broker = TestBroker::with(Setup {
        more,
        ..Setup::default()
    })
    .await;
    // Only what comes after the first look is answered.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    broker
}

/// Asks for more than the mission allows.
async fn wander(broker: &TestBroker) -> Answer {
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["authorization_details"][0]["actions"] = json!(["deploy:destroy"]);
    let form = with(broker.good_form(), "subject_token", &token);
    let form = with(form, "intent", &broker.sign_intent(&claims));
    broker.exchange(&form).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_wanders_is_suspended_and_somebody_is_told_until_it_is_heard() {
    let (pager, url) = Pager::start().await;
    pager.refuse.store(2, Ordering::SeqCst);
    let response = "[[response]]\nname = \"wanders\"\non = \"exceeds_mission\"\ncount = 2\n\
                    within = \"10m\"\ndo = [\"suspend\", \"notify\"]\n";
    let broker = start(notify(&url) + response).await;
    let token = broker.issue().await["access_token"].clone();
    assert_eq!(wander(&broker).await.reason(), "exceeds_mission");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        broker.is_active(token.as_str().unwrap()).await,
        "once is allowed"
    );
    // Before the last one somebody is told that it is the last but one.
    let told = pager.has(1).await;
    assert_eq!(
        pager.asked.load(Ordering::SeqCst),
        3,
        "twice it was not taken"
    );
    assert_eq!(
        (&told[0]["soon"], &told[0]["count"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(told[0]["actions"], json!([]));
    assert_eq!(told[0]["why"], "once more within the time, and: suspend");
    assert_eq!(told[0]["agent"], "deployer");
    wander(&broker).await;
    let told = pager.has(2).await;
    assert_eq!(told[1]["agent"], "deployer");
    assert_eq!(told[1]["owner"], "payments@acme.example");
    assert_eq!(told[1]["reason"], "exceeds_mission");
    assert_eq!(told[1]["actions"], json!(["suspend"]));
    assert_eq!(
        (&told[1]["soon"], &told[1]["count"]),
        (&json!(false), &json!(2))
    );
    assert!(!broker.is_active(token.as_str().unwrap()).await);
    let agent = broker.admin("GET", "/agents/deployer", None).await.body;
    assert_eq!(agent["state"], "suspended", "{agent}");
    let audit = broker.admin("GET", "/audit", None).await.body;
    let entries = audit["items"].as_array().unwrap().iter();
    let raised: Vec<_> = entries
        .filter(|entry| entry["event"] == "fence_raised")
        .collect();
    assert_eq!(raised.len(), 1);
    // Nobody of that name did it.
    assert_eq!(raised[0]["operator"], Value::Null, "{}", raised[0]);
    assert_eq!(raised[0]["detail"]["by"], "response wanders");
    assert_eq!(raised[0]["detail"]["rule"], "response/wanders");
    assert_eq!(agent["rule"], "response/wanders");
    assert_eq!(raised[0]["reason"], "2 times exceeds_mission");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restriction_by_itself_stands_once() {
    let (pager, url) = Pager::start().await;
    let response = "[[response]]\nname = \"shrink\"\non = \"exceeds_mission\"\ndo = [\"restrict\", \"notify\"]\n\
                    restrict = { target = \"deploy-api\", deny = [\"deploy:write\"], for = \"1h\" }\n";
    let broker = start(notify(&url) + response).await;
    wander(&broker).await;
    wander(&broker).await;
    pager.has(2).await;
    let listed = broker.admin("GET", "/restrictions", None).await.body;
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{listed}");
    assert_eq!(items[0]["by"], "response shrink");
    let refused = broker.exchange(&broker.good_form()).await;
    assert_eq!(refused.reason(), "restricted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restriction_that_says_more_or_soon_ends_is_not_the_one_that_is_wanted() {
    let (pager, url) = Pager::start().await;
    let response = |more: &str| {
        notify(&url)
            + "[[response]]\nname = \"shrink\"\non = \"exceeds_mission\"\ndo = [\"restrict\", \"notify\"]\n\
               restrict = { target = \"deploy-api\", deny = [\"deploy:write\"], for = \"1h\", "
            + more
            + " }\n"
    };
    let narrow = r#"locations = ["https://deploy.example/billing"]"#;
    let wide = r#"locations = ["https://deploy.example/*"]"#;
    let ends = r#"locations = ["https://deploy.example/*"], end_leases = true"#;
    let clock = Manual::start();
    let broker = TestBroker::with(Setup {
        more: response(narrow),
        clock: clock.clone(),
        ..Setup::default()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let reload = async |more: &str| {
        let text = configuration(&broker.url, &broker.issuer, "ES256") + &response(more);
        let files = vec![("test.toml".to_owned(), text)];
        let settings = config::load_with(files, broker.folder.path().to_owned())
            .and_then(|document| document.resolve())
            .unwrap_or_else(|problems| panic!("{problems}"));
        broker.composed.reload(&settings).await.unwrap();
    };
    let mut told = 0;
    // Twice each: the second finds the first.
    for (number, more) in [narrow, wide, ends].into_iter().enumerate() {
        reload(more).await;
        for _ in 0..2 {
            wander(&broker).await;
            told += 1;
            pager.has(told).await;
        }
        let listed = broker.admin("GET", "/restrictions", None).await.body;
        let items = listed["items"].as_array().unwrap();
        assert_eq!(items.len(), number + 1, "{more}: {listed}");
    }
    assert_eq!(
        broker.exchange(&broker.good_form()).await.reason(),
        "restricted"
    );
    // All of them end within the minute.
    clock.advance(Duration::from_secs(3600 - 50));
    wander(&broker).await;
    pager.has(told + 1).await;
    let listed = broker.admin("GET", "/restrictions", None).await.body;
    assert_eq!(listed["items"].as_array().unwrap().len(), 4, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_the_mission_of_others_held() {
    let response = "[[response]]\non = \"refused\"\ndo = [\"hold_mission\", \"notify\"]\n";
    let other = r#"
[agent.other]
owner = "other@acme.example"
purpose = "Does something else"
ends = 2099-01-01
identity = { issuer = "ci", subject = "repo:acme/other" }
[mission.other-work]
agents = ["other"]
owner = "other@acme.example"
purpose = "Something else"
allow = [{ target = "deploy-api", actions = ["deploy:read"], locations = ["https://deploy.example/other"] }]
"#;
    let (pager, url) = Pager::start().await;
    let broker = start(notify(&url) + response + other).await;
    let token = broker.platform_token();
    let mut claims = broker.intent_claims(&token);
    claims["mission"]["id"] = json!("other-work");
    let stolen = with(broker.good_form(), "subject_token", &token);
    let stolen = with(stolen, "intent", &broker.sign_intent(&claims));
    assert_eq!(broker.exchange(&stolen).await.status, 400);
    pager.has(1).await;
    assert_eq!(broker.exchange(&broker.good_form()).await.status, 200);
    let audit = broker.admin("GET", "/audit", None).await.body.to_string();
    assert!(!audit.contains("fence_raised"), "{audit}");
    // Its own mission is held.
    wander(&broker).await;
    pager.has(2).await;
    let held = broker.exchange(&broker.good_form()).await;
    assert_eq!(held.reason(), "held", "{}", held.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_comes_on_standard_input_and_nothing_of_it_in_an_argument() {
    let folder = tempfile::tempdir().unwrap();
    let (mail, words) = (folder.path().join("mail"), folder.path().join("words"));
    let script = folder.path().join("sendmail");
    let text = format!(
        "#!/bin/sh\necho \"$#:$*\" > {}\nenv | cut -d= -f1 | sort | tr '\\n' ' ' >> {}\ncat > {}.part && mv {}.part {}\n",
        words.display(),
        words.display(),
        mail.display(),
        mail.display(),
        mail.display()
    );
    std::fs::write(&script, text).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let more = format!(
        "[[notify]]\nname = \"mail\"\ncommand = [\"{}\", \"-t\"]\nto = [\"security@acme.example\"]\n\
         [[response]]\non = \"fence_raised\"\ndo = [\"notify\"]\n",
        script.display()
    );
    let broker = start(more).await;
    broker.revoke(json!({ "task": "nightly-77" })).await;
    until(|| mail.exists()).await;
    let mail = std::fs::read_to_string(mail).unwrap();
    assert!(
        mail.starts_with("To: security@acme.example\nSubject: dayfly: a test says so: "),
        "{mail}"
    );
    assert!(mail.contains("hold task nightly-77"), "{mail}");
    let words = std::fs::read_to_string(words).unwrap();
    let (arguments, environment) = words.split_once('\n').unwrap();
    assert_eq!(arguments, "1:-t");
    let known = ["PATH", "PWD", "OLDPWD", "SHLVL", "_"];
    assert!(
        environment
            .split_whitespace()
            .all(|name| known.contains(&name)),
        "{environment}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_one_acts() {
    let (pager, url) = Pager::start().await;
    let more = notify(&url) + "[[response]]\non = \"fence_raised\"\ndo = [\"notify\"]\n";
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let setup = |issuer, public_url| Setup {
        store: Some(store.clone()),
        issuer,
        public_url,
        more: more.clone(),
        ..Setup::default()
    };
    let one = TestBroker::with(setup(None, None)).await;
    let two = setup(Some(one.issuer.clone()), Some(one.url.clone()));
    let two = TestBroker::with(two).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for number in 0..5 {
        let task = json!({ "task": format!("{number}-{}", unique()) });
        two.revoke(task).await;
    }
    pager.has(5).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut ids: Vec<_> = pager
        .taken()
        .iter()
        .map(|told| told["id"].clone())
        .collect();
    assert_eq!(ids.len(), 5, "each was told once");
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_its_answer_keeps_nothing_from_being_done_and_nobody_from_being_told() {
    let (slow, slow_url) = Pager::start().await;
    let (quick, quick_url) = Pager::start().await;
    slow.holds.store(true, Ordering::SeqCst);
    let more = notify(&slow_url)
        + &notify(&quick_url).replace("pager", "quick")
        + "[[response]]\non = \"fence_raised\"\ndo = [\"notify\"]\n\
           [[response]]\non = \"exceeds_mission\"\ndo = [\"suspend\"]\n";
    let broker = start(more).await;
    broker.revoke(json!({ "task": "first" })).await;
    until(|| slow.asked.load(Ordering::SeqCst) == 1).await;
    // From here its answer is held, for longer than anybody waits for it.
    let began = tokio::time::Instant::now();
    wander(&broker).await;
    let told = quick.taken().len();
    loop {
        let agent = broker.admin("GET", "/agents/deployer", None).await.body;
        if agent["state"] == "suspended" {
            break;
        }
        assert!(began.elapsed() < Duration::from_millis(3500), "{agent}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until(|| quick.taken().len() > told).await;
    assert!(began.elapsed() < Duration::from_millis(4500));
    assert_eq!(slow.asked.load(Ordering::SeqCst), 1, "still held");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_cannot_be_read_is_moved_aside_once_and_audited() {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    let broker = TestBroker::with(Setup {
        store: Some(store.clone()),
        more: "[[response]]\non = \"exceeds_mission\"\ndo = [\"suspend\"]\n".to_owned(),
        ..Setup::default()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let shard = ShardId::INSTALLATION;
    let place = |name: &str| Key {
        shard,
        name: [name.as_bytes(), b"0123456789abcdef"].concat(),
    };
    let queue = Index {
        shard,
        name: "respond/actions".into(),
    };
    let deadline = broker.composed.clock.now() + Duration::from_secs(10);
    let spoilt = Transaction::new(shard, deadline)
        .write(Write::Put {
            key: place("respond/item/"),
            value: b"spoilt".to_vec(),
            expires_at: None,
        })
        .write(Write::Rank {
            index: queue.clone(),
            member: b"0123456789abcdef".to_vec(),
            rank: 1,
        });
    store.commit(spoilt).await.unwrap();
    wander(&broker).await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if store
            .range(&queue, 0..=i64::MAX, 9)
            .await
            .unwrap()
            .is_empty()
        {
            break;
        }
    }
    let left = store.range(&queue, 0..=i64::MAX, 9).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    let places = [place("respond/item/"), place("respond/aside/")];
    let found = store.get(&places).await.unwrap();
    assert!(found[0].is_none());
    assert_eq!(found[1].as_ref().unwrap().value, b"spoilt");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let audit = broker.admin("GET", "/audit", None).await.body;
    let told: Vec<_> = audit["items"].as_array().unwrap().iter().collect();
    let told = told
        .iter()
        .filter(|one| one["event"] == "record_unreadable");
    assert_eq!(told.count(), 1, "{audit}");
    let agent = broker.admin("GET", "/agents/deployer", None).await.body;
    assert_eq!(agent["state"], "suspended", "the others are done: {agent}");
}

/// The mail that a leaver's backup owner gets: what they answer for from now on.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_for_a_leavers_agents_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mail = folder.path().join("mail");
    let script = folder.path().join("sendmail");
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\ncat > {0}.new && mv {0}.new {0}\n",
            mail.display()
        ),
    )
    .unwrap();
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let more = format!(
        "[source.people]\nkind = \"scim\"\nsecret = \"file:hook.secret\"\nends = [\"acme.example\"]\n\
         [agent.second]\nowner = \"ann@acme.example\"\nbackup_owner = \"bob@acme.example\"\npurpose = \"Waits\"\n\
         ends = 2099-01-01\nidentity = {{ issuer = \"ci\", subject = \"second\" }}\n\
         [[notify]]\nname = \"who-is-left\"\ncommand = [\"{}\"]\nto = [\"backup_owner\"]\n\
         [[response]]\nname = \"left\"\non = \"owner_left\"\ndo = [\"notify\"]\n",
        script.display()
    );
    let broker = start(more).await;
    let left = |name: &str| json!({ "userName": name, "active": false }).to_string();
    let send = async |body: String| {
        let request = broker.http.post(format!("{}/hooks/people", broker.url));
        let request = request
            .header("authorization", "Bearer hook-secret")
            .body(body);
        assert_eq!(request.send().await.unwrap().status().as_u16(), 204);
    };
    // Nobody answers for the deployer when its owner is gone: nobody is told, and nothing waits for it.
    send(left("payments@acme.example")).await;
    send(left("ann@acme.example")).await;
    until(|| mail.exists()).await;
    let text = std::fs::read_to_string(&mail).unwrap();
    assert!(
        text.starts_with("To: bob@acme.example\nSubject: dayfly: owner_left"),
        "{text}"
    );
    assert!(text.contains("owner        ann@acme.example\n"), "{text}");
    assert!(text.contains("backup       bob@acme.example\n"), "{text}");
    let audit = broker.admin("GET", "/audit?limit=1000", None).await.body;
    let entries = audit["items"].as_array().unwrap().iter();
    let of_ann = entries.filter(|entry| entry["detail"]["owner"] == "ann@acme.example");
    let of_ann: Vec<_> = of_ann
        .filter(|entry| entry["event"] == "owner_left")
        .collect();
    assert_eq!(
        of_ann[0]["detail"]["agents"],
        json!(["second"]),
        "{of_ann:?}"
    );
    assert_eq!(
        of_ann[0]["detail"]["backup_owners"],
        json!(["bob@acme.example"])
    );
}
