//! What leads to a step.

use super::over::{self, Teller};
use super::run::{Again, Kind, Promised, Run};
use crate::support::held_back::HeldBack;
use crate::support::process::until;
use crate::support::proxy::Point;
use crate::support::world::{inline_keys, key};
use dayfly::audit::{Entry, Event};
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ids::ShardId;
use dayfly::leases::{KEPT, MINT_WITHIN, TOLERANCE};
use dayfly::steps::Step;
use dayfly::store::embedded::Embedded;
use dayfly::store::{Outcome, Store as _, Transaction};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// Seconds after which no mint can be on its way any more.
pub const SETTLED: i64 = (MINT_WITHIN.as_secs() + TOLERANCE.as_secs() + 5).cast_signed();
/// Seconds after which everything issued here has run out.
const RUN_OUT: i64 = 15 * 60 + 5;

#[derive(Debug, Clone, Copy)]
pub enum Scene {
    /// It dies while somebody asks for a credential.
    Exchange,
    /// For a child of a credential.
    HandOn,
    /// The target makes one and its answer is lost.
    LostAnswer,
    RefusedMint,
    /// Its mission was ended while the target made it.
    FencedMeanwhile,
    Revoke,
    Release,
    /// An agent that is registered is removed.
    Remove,
    /// A reservation that nobody came back for is given up.
    GiveUp,
    Expire,
    Lapse,
    Forget,
    /// It dies while it starts.
    Start,
    Seal,
    ManyEntries,
    LargeEntries,
    /// Somebody, or a rule, says that it is over.
    Over(Teller),
}

pub async fn play(run: impl Future<Output = Run>, scene: Scene) {
    let run = run.await;
    match scene {
        Scene::Exchange => exchange(run).await,
        Scene::HandOn => hand_on(run).await,
        Scene::LostAnswer => lost_answer(run).await,
        Scene::RefusedMint => refused_mint(run).await,
        Scene::FencedMeanwhile => fenced_meanwhile(run).await,
        Scene::Revoke => revoke(run).await,
        Scene::Release => release(run).await,
        Scene::Remove => remove(run).await,
        Scene::GiveUp => give_up(run).await,
        Scene::Expire => expire(run).await,
        Scene::Lapse => lapse(run).await,
        Scene::Forget => forget(run).await,
        Scene::Start => start(run).await,
        Scene::Seal => seal(run).await,
        Scene::ManyEntries => entries(run, 600, 1).await,
        Scene::LargeEntries => entries(run, 70, 1 << 20).await,
        Scene::Over(teller) => over::play(run, teller).await,
    }
}

async fn exchange(run: Run) {
    let mut process = run.serve(0).await;
    let alive = vec![run.bystander(&process).await];
    run.arm(run.step);
    let answer = run.ask(&process).await;
    assert!(answer.is_err(), "nobody may be answered: {answer:?}");
    run.died(&mut process).await;
    let promised = Promised {
        alive,
        ..Promised::default()
    };
    let ready = matches!(run.step, Step::Reserving | Step::Reserved | Step::Answering);
    assert!(
        !(run.kind.is_ours() && ready && run.unheard(&promised).is_empty()),
        "it had made one"
    );
    run.holds(SETTLED, &promised).await;
}

async fn hand_on(run: Run) {
    let key = key();
    let agent = ("relay", &key);
    run.configure(&format!(
        "[agent.relay]\nowner = \"relay@acme.example\"\npurpose = \"Hands on\"\nends = 2099-01-01\n\
         identity = {{ client = {{ keys = {} }} }}\n\
         [mission.relay]\nagents = [\"relay\"]\ndelegates_to = [\"relay\"]\n\
         owner = \"sre@acme.example\"\npurpose = \"Work that is handed on\"\nttl = \"15m\"\n\
         allow = [{{ target = \"deploy-api\", actions = [\"deploy:write\"], locations = [\"https://deploy.example/checkout\"] }}]\n",
        inline_keys(&key)
    ));
    let mut process = run.serve(0).await;
    let installation = run.site.installation.clone();
    let form = installation.client_form(agent, "relay", None, &run.detail());
    let parent = installation.exchange(&process, &form).await.unwrap();
    assert_eq!(parent.status, 200, "{}", parent.body);
    let token = parent.body["access_token"].as_str().unwrap();
    run.arm(run.step);
    let form = installation.client_form(agent, "relay", Some(token), &run.detail());
    let answer = installation.exchange(&process, &form).await;
    assert!(answer.is_err(), "nobody may be answered: {answer:?}");
    run.died(&mut process).await;
    let promised = Promised {
        alive: vec![parent.body],
        ..Promised::default()
    };
    run.holds(SETTLED, &promised).await;
}

async fn lost_answer(run: Run) {
    let mut process = run.serve(0).await;
    run.arm(run.step);
    let answer = match &run.network {
        Some(network) => {
            let held = HeldBack::on(&run.site.postgres, &run.mission).await;
            let losing = async {
                held.until_it_waits().await;
                network.swallow_answers(true);
                held.let_go().await;
                network.hang_up();
            };
            tokio::join!(run.ask(&process), losing).0
        }
        None => {
            run.proxy.as_ref().unwrap().stop_at(Point::Cut);
            run.ask(&process).await
        }
    };
    assert!(answer.is_err(), "nobody may be answered: {answer:?}");
    run.died(&mut process).await;
    assert_eq!(run.made().await.len(), 1, "it was made");
    match &run.network {
        Some(network) => network.swallow_answers(false),
        None => run.proxy.as_ref().unwrap().stop_at(Point::Nowhere),
    }
    run.holds(SETTLED, &Promised::default()).await;
}

async fn refused_mint(run: Run) {
    let mut detail = run.detail();
    if run.kind == Kind::Postgres {
        detail["locations"] = json!(["public.nothing"]);
    } else {
        run.secret("aws.secret", "no key of this user");
    }
    let mut process = run.serve(0).await;
    run.arm(run.step);
    let form = run.form(&process, &detail);
    let answer = run.site.installation.exchange(&process, &form).await;
    assert!(answer.is_err(), "nobody may be answered: {answer:?}");
    run.died(&mut process).await;
    assert_eq!(run.made().await, BTreeSet::new());
    run.holds(SETTLED, &Promised::default()).await;
}

async fn fenced_meanwhile(run: Run) {
    let mut process = run.serve(0).await;
    let held = match &run.proxy {
        Some(proxy) => {
            proxy.stop_at(Point::AfterTheServer);
            None
        }
        None => Some(HeldBack::on(&run.site.postgres, &run.mission).await),
    };
    let ending = async {
        match (&run.proxy, &held) {
            (Some(proxy), _) => proxy.until_stopped(1).await,
            (None, held) => held.as_ref().unwrap().until_it_waits().await,
        }
        let receipt = run.revoke(&process).await.unwrap();
        assert_eq!(receipt.status, 200, "{}", receipt.body);
        run.arm(run.step);
        match (&run.proxy, &held) {
            (Some(proxy), _) => proxy.stop_at(Point::Nowhere),
            (None, held) => held.as_ref().unwrap().let_go().await,
        }
    };
    let (answer, ()) = tokio::join!(run.ask(&process), ending);
    assert!(answer.is_err(), "nobody may be answered: {answer:?}");
    run.died(&mut process).await;
    run.holds(SETTLED, &Promised::default()).await;
}

async fn revoke(run: Run) {
    let mut process = run.serve(0).await;
    let mut promised = Promised {
        alive: vec![run.bystander(&process).await],
        dead: vec![run.issued(&process).await],
        again: None,
    };
    run.arm(run.step);
    let heard = matches!(run.revoke(&process).await, Ok(receipt) if receipt.status == 200);
    run.died(&mut process).await;
    promised.again = (!heard).then_some(Again::Revoke);
    run.holds(SETTLED, &promised).await;
}

async fn release(run: Run) {
    let mut process = run.serve(0).await;
    let mut promised = Promised {
        alive: vec![run.issued(&process).await],
        dead: vec![run.issued(&process).await],
        again: None,
    };
    run.arm(run.step);
    let heard = matches!(run.release(&process, &promised.dead[0]).await, Ok(200));
    run.died(&mut process).await;
    promised.again = (!heard).then_some(Again::Release);
    run.holds(SETTLED, &promised).await;
}

async fn remove(run: Run) {
    let key = key();
    run.configure(
        "[mission.joined]\nagents = []\nallow_registered = true\nowner = \"sre@acme.example\"\n\
         purpose = \"Work of who is registered\"\nttl = \"15m\"\n\
         allow = [{ target = \"deploy-api\", actions = [\"deploy:write\"], locations = [\"https://deploy.example/checkout\"] }]\n",
    );
    let mut process = run.serve(0).await;
    let installation = run.site.installation.clone();
    let agent = json!({
        "owner": "nights@acme.example", "purpose": "Is removed", "ends": "2099-01-01",
        "identity": { "client": { "keys": { "keys": [key.public_jwk()] } } }, "missions": ["joined"],
    });
    let body = json!({ "agent": agent, "reason": "a test says so" });
    let registered = installation.admin(&process, "PUT", "/agents/joins", Some(body));
    assert_eq!(registered.await.unwrap().status, 200);
    let form = installation.client_form(("joins", &key), "joined", None, &run.detail());
    let held = installation.exchange(&process, &form).await.unwrap();
    assert_eq!(held.status, 200, "{}", held.body);
    let mut promised = Promised {
        alive: vec![run.bystander(&process).await],
        dead: vec![held.body],
        again: None,
    };
    run.arm(run.step);
    let heard = matches!(run.remove(&process).await, Ok(receipt) if receipt.status == 200);
    run.died(&mut process).await;
    promised.again = (!heard).then_some(Again::Remove);
    run.holds(SETTLED, &promised).await;
}

async fn give_up(run: Run) {
    let mut process = run.serve(0).await;
    run.arm(Step::Minted);
    assert!(run.ask(&process).await.is_err());
    run.died(&mut process).await;
    run.arm(run.step);
    let mut process = run.spawn(SETTLED);
    run.died(&mut process).await;
    run.holds(SETTLED + 15, &Promised::default()).await;
}

async fn expire(run: Run) {
    let process = run.serve(0).await;
    let promised = Promised {
        dead: vec![run.issued(&process).await],
        ..Promised::default()
    };
    process.kill();
    run.arm(run.step);
    let mut process = run.spawn(RUN_OUT);
    run.died(&mut process).await;
    run.holds(RUN_OUT + 15, &promised).await;
}

async fn lapse(run: Run) {
    let process = run.serve(0).await;
    let promised = Promised {
        dead: vec![run.issued(&process).await],
        ..Promised::default()
    };
    let receipt = run.revoke(&process).await.unwrap();
    assert_eq!(receipt.status, 200, "{}", receipt.body);
    // It is AWS's by then: what was not marked yet would expire like any other.
    let id = promised.dead[0]["lease_id"].as_str().unwrap().to_owned();
    until("the record follows", || async {
        run.site.installation.lease(&process, &id).await["state"] == "revoking"
    })
    .await;
    process.kill();
    run.arm(run.step);
    let mut process = run.spawn(RUN_OUT + SETTLED);
    run.died(&mut process).await;
    run.holds(RUN_OUT + SETTLED + 15, &promised).await;
}

async fn forget(run: Run) {
    let process = run.serve(0).await;
    let issued = run.issued(&process).await;
    assert_eq!(run.release(&process, &issued).await.unwrap(), 200);
    let process = if run.kind.is_of_aws() {
        process.kill();
        run.serve(RUN_OUT + SETTLED).await
    } else {
        process
    };
    let id = issued["lease_id"].as_str().unwrap();
    until("it is closed", || async {
        let lease = run.site.installation.lease(&process, id).await;
        matches!(lease["state"].as_str(), Some("released" | "lapsed"))
    })
    .await;
    let ahead = process.ahead;
    process.kill();
    run.arm(run.step);
    let late = ahead + i64::try_from(KEPT.as_secs()).unwrap() + 60;
    let mut process = run.spawn(late);
    run.died(&mut process).await;
    run.holds(late + 15, &Promised::default()).await;
}

async fn start(run: Run) {
    run.arm(run.step);
    let mut process = run.spawn(0);
    run.died(&mut process).await;
    run.holds(15, &Promised::default()).await;
}

async fn seal(run: Run) {
    assert_eq!(run.kind, Kind::Local);
    let mut process = run.serve(0).await;
    let mut alive = vec![run.issued(&process).await];
    run.arm(run.step);
    while let Ok(answer) = run.ask(&process).await {
        assert_eq!(answer.status, 200, "{}", answer.body);
        alive.push(answer.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    run.died(&mut process).await;
    let promised = Promised {
        alive,
        ..Promised::default()
    };
    run.holds(15, &promised).await;
}

/// There are this many entries, of this size, before it starts.
async fn entries(run: Run, count: usize, size: usize) {
    let clock = SystemClock::new();
    let shard = ShardId::INSTALLATION;
    {
        let store = Embedded::open(&run.replica.folder.join("dayfly.redb")).unwrap();
        for _ in 0..10 {
            // Of each: what is large takes its time on a busy machine.
            let now = clock.now();
            let transaction = Transaction::new(shard, now + Duration::from_secs(60)).local();
            let transaction = (0..count / 10).fold(transaction, |transaction, _| {
                let text = "x".repeat(size);
                let entry = Entry::new(Event::OperatorAction, now).with("text", text);
                transaction.write(entry.append(shard))
            });
            let outcome = store.commit(transaction).await.unwrap();
            assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
        }
    }
    run.arm(run.step);
    let mut process = run.spawn(0);
    run.died(&mut process).await;
    run.holds(15, &Promised::default()).await;
}
