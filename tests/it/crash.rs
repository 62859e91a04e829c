//! The broker is killed with SIGKILL at the worst moments. What was promised to somebody still
//! holds afterwards, and no credential exists that is not on record.

use crate::support::cloud;
use crate::support::moto::{AwsKeys, Moto};
use crate::support::process::{Installation, Process, Replica, until};
use crate::support::proxy::{Passed, Point, Proxy};
use dayfly::clock::{Clock as _, SystemClock};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A broker that mints AWS sessions at a moto which enforces IAM, through a proxy.
struct Cloud {
    installation: Arc<Installation>,
    replica: Replica,
    proxy: Proxy,
    moto: Moto,
}

impl Cloud {
    async fn start(active: u32) -> Option<Self> {
        let moto = Moto::start(true).await?;
        let proxy = Proxy::before(&moto.url).await;
        let installation = Installation::start().await;
        let replica = installation.embedded(&cloud::mission(&moto, &proxy.url));
        cloud::secrets(&moto, &replica.folder);
        replica.edit("active = 5000", &format!("active = {active}"));
        Some(Self {
            installation,
            replica,
            proxy,
            moto,
        })
    }

    fn form(&self) -> Vec<(String, String)> {
        let detail = json!({
            "type": "aws_session", "identifier": "aws-prod",
            "actions": ["s3:ListAllMyBuckets"], "locations": ["*"],
        });
        self.installation.form_with_mission("look-around", &detail)
    }

    /// Asks, and kills the broker once the proxy has stopped the exchange. Nobody is answered.
    async fn kill_at(&self, point: Point, process: Process) {
        self.proxy.stop_at(point);
        let form = self.form();
        let asking = self.installation.exchange(&process, &form);
        let killing = async {
            self.proxy.until_stopped(1).await;
            // `process` is borrowed by the one who asks.
            process.signal(Signal::KILL);
        };
        let (answer, ()) = tokio::join!(asking, killing);
        assert!(answer.is_err(), "nobody may be answered: {answer:?}");
    }

    /// The one open lease.
    async fn open_lease(&self, process: &Process) -> Value {
        let leases = self.installation.open_leases(process, "aws-prod").await;
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases[0].clone()
    }

    /// Whether AWS does what these credentials ask.
    async fn works(&self, session: &Session) -> bool {
        let now = SystemClock::new().now();
        let (status, _) = self.moto.call(&session.keys, "s3", "", now).await.unwrap();
        status == 200
    }
}

/// A session that STS has issued, whoever has heard of it.
pub struct Session {
    pub name: String,
    pub expires_at: OffsetDateTime,
    keys: AwsKeys,
}

impl Session {
    pub fn of(passed: &Passed) -> Self {
        let element = |name: &str| {
            let (_, rest) = passed.response.split_once(&format!("<{name}>")).unwrap();
            rest.split_once("</").unwrap().0.to_owned()
        };
        let (_, form) = passed.request.split_once("\r\n\r\n").unwrap();
        let name = url::form_urlencoded::parse(form.as_bytes())
            .find(|(name, _)| name == "RoleSessionName")
            .unwrap()
            .1
            .into_owned();
        Self {
            name,
            expires_at: OffsetDateTime::parse(&element("Expiration"), &Rfc3339).unwrap(),
            keys: AwsKeys {
                access_key_id: element("AccessKeyId"),
                secret_access_key: element("SecretAccessKey"),
                session_token: Some(element("SessionToken")),
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_reserve_and_mint_it_knows_what_it_may_have_made() {
    let Some(cloud) = Cloud::start(1).await else {
        return;
    };
    cloud
        .kill_at(Point::BeforeTheServer, cloud.replica.serve().await)
        .await;
    assert_eq!(cloud.proxy.passed().len(), 0, "STS was never asked");
    cloud.proxy.stop_at(Point::Nowhere);

    let again = cloud.replica.serve().await;
    let lease = cloud.open_lease(&again).await;
    assert_eq!(lease["state"], "reserved");
    // It counts: the agent may have one lease, and this is it.
    let answer = cloud
        .installation
        .exchange(&again, &cloud.form())
        .await
        .unwrap();
    assert_eq!(answer.reason(), "too_many_leases", "{}", answer.body);
    // And whoever wants to know what could be ended is told of it.
    let wanted = json!({ "selector": { "agent": "deployer" }, "reason": "a look" });
    let told = cloud
        .installation
        .admin(&again, "POST", "/revocations?dry_run=true", Some(wanted))
        .await
        .unwrap();
    assert_eq!(told.body["leases"], json!({ "expiry": 1 }), "{}", told.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_mint_and_activate_it_has_the_session_on_record() {
    let Some(cloud) = Cloud::start(1).await else {
        return;
    };
    cloud
        .kill_at(Point::AfterTheServer, cloud.replica.serve().await)
        .await;
    let passed = cloud.proxy.passed();
    assert_eq!(passed.len(), 1);
    let session = Session::of(&passed[0]);
    assert!(cloud.works(&session).await, "STS did issue a session");
    cloud.proxy.stop_at(Point::Nowhere);

    let again = cloud.replica.serve().await;
    let lease = cloud.open_lease(&again).await;
    assert_eq!(lease["state"], "reserved");
    // The session bears the lease's name: whoever sees it in AWS finds the lease.
    assert_eq!(lease["id"], session.name.as_str());
    let found = cloud
        .installation
        .admin(
            &again,
            "POST",
            "/find",
            Some(json!({ "query": session.name })),
        )
        .await
        .unwrap();
    assert_eq!(found.body["agent"], "deployer", "{}", found.body);
    again.kill();
    // Nobody comes back for it. Once no answer can be on its way any more it is what it is.
    let mut again = cloud.replica.spawn_mortal(75);
    again.until_ready().await;
    until("it is given up", || async {
        cloud.open_lease(&again).await["state"] != "reserved"
    })
    .await;
    let given_up = cloud.open_lease(&again).await;
    assert_eq!(given_up["state"], "revoking", "{given_up}");
    assert_eq!(given_up["alive"], false);
    assert_eq!(given_up["id"], session.name.as_str());
    // It cannot be ended in AWS: it stays open for as long as the session could work.
    assert!(cloud.works(&session).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_answer_was_cut_off_is_on_record_before_and_after_a_crash() {
    let Some(cloud) = Cloud::start(5).await else {
        return;
    };
    let process = cloud.replica.serve().await;
    cloud.proxy.stop_at(Point::Cut);
    let answer = cloud
        .installation
        .exchange(&process, &cloud.form())
        .await
        .unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.reason(), "target_unavailable");
    let session = Session::of(&cloud.proxy.passed()[0]);
    assert!(cloud.works(&session).await, "STS did issue a session");
    assert_eq!(cloud.open_lease(&process).await["state"], "revoking");
    process.kill();

    let again = cloud.replica.serve().await;
    let lease = cloud.open_lease(&again).await;
    assert_eq!(lease["state"], "revoking");
    assert_eq!(lease["id"], session.name.as_str());
    cloud.proxy.stop_at(Point::Nowhere);
    let answer = cloud
        .installation
        .exchange(&again, &cloud.form())
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "it goes on: {}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_a_storm_of_mints_it_has_every_session_that_was_issued_on_record() {
    let Some(cloud) = Cloud::start(1000).await else {
        return;
    };
    let process = cloud.replica.serve().await;
    let asking = futures_util::future::join_all((0..6).map(|_| async {
        while let Ok(answer) = cloud.installation.exchange(&process, &cloud.form()).await {
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }));
    let killing = async {
        until("twenty sessions", || async {
            cloud.proxy.passed().len() >= 20
        })
        .await;
        process.signal(Signal::KILL);
    };
    tokio::join!(asking, killing);
    drop(process);

    let again = cloud.replica.serve().await;
    let leases = cloud.installation.open_leases(&again, "aws-prod").await;
    for passed in cloud.proxy.passed() {
        let session = Session::of(&passed);
        assert!(
            leases
                .iter()
                .any(|lease| lease["id"] == session.name.as_str()),
            "session {} is on no record",
            session.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_that_was_answered_is_active_after_a_crash() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let process = replica.serve().await;
    let answered = std::sync::Mutex::new(Vec::new());
    let asking = futures_util::future::join_all((0..8).map(|_| async {
        while let Ok(answer) = installation
            .exchange(&process, &installation.good_form())
            .await
        {
            // A loaded machine may have a stale view for a moment: who is told so has no token.
            if answer.status == 503 {
                continue;
            }
            assert_eq!(answer.status, 200, "{}", answer.body);
            answered.lock().unwrap().push(answer.body);
        }
    }));
    let killing = async {
        until("a hundred tokens", || async {
            answered.lock().unwrap().len() >= 100
        })
        .await;
        process.signal(Signal::KILL);
    };
    tokio::join!(asking, killing);
    drop(process);

    let again = replica.serve().await;
    let leases = installation.open_leases(&again, "deploy-api").await;
    for issued in answered.into_inner().unwrap() {
        let token = issued["access_token"].as_str().unwrap();
        let answer = installation.introspect(&again, token).await;
        assert_eq!(answer.body["active"], true, "{}", answer.body);
        assert_eq!(answer.body["jti"], issued["lease_id"]);
        let lease = leases
            .iter()
            .find(|lease| lease["id"] == issued["lease_id"]);
        assert_eq!(lease.unwrap()["state"], "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_revocation_that_was_acknowledged_holds_after_a_crash() {
    let installation = Installation::start().await;
    let replica = installation.embedded("");
    let process = replica.serve().await;
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(installation.issue(&process).await);
    }
    let (revoked, kept) = held.split_at(50);
    let acknowledged = std::sync::Mutex::new(Vec::new());
    let (broker, at, heard) = (&installation, &process, &acknowledged);
    let revoking = futures_util::future::join_all(revoked.chunks(10).map(|part| async move {
        for issued in part {
            let selector = json!({ "lease": issued["lease_id"] });
            let Ok(answer) = broker.revoke(at, selector).await else {
                return;
            };
            assert_eq!(answer.status, 200, "{}", answer.body);
            heard.lock().unwrap().push(issued.clone());
        }
    }));
    let killing = async {
        until("twenty revocations", || async {
            acknowledged.lock().unwrap().len() >= 20
        })
        .await;
        process.signal(Signal::KILL);
    };
    tokio::join!(revoking, killing);
    drop(process);

    let again = replica.serve().await;
    for issued in acknowledged.into_inner().unwrap() {
        let token = issued["access_token"].as_str().unwrap();
        assert!(!installation.is_active(&again, token).await, "{issued}");
    }
    for issued in kept {
        let token = issued["access_token"].as_str().unwrap();
        assert!(installation.is_active(&again, token).await, "{issued}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_is_not_called_dead_everywhere_while_it_works_in_the_cloud() {
    let Some(cloud) = Cloud::start(5).await else {
        return;
    };
    let process = cloud.replica.serve().await;
    let issued = cloud
        .installation
        .exchange(&process, &cloud.form())
        .await
        .unwrap();
    assert_eq!(issued.status, 200, "{}", issued.body);
    let session = Session::of(&cloud.proxy.passed()[0]);
    let selector = json!({ "lease": issued.body["lease_id"] });
    let receipt = cloud.installation.revoke(&process, selector).await.unwrap();
    assert!(cloud.works(&session).await);
    assert_eq!(receipt.body["state"], "revoking");
    assert_eq!(receipt.body["leases"], json!({ "expiry": 1 }));
    let path = format!("/revocations/{}", receipt.body["id"].as_str().unwrap());
    until("nothing more comes of it", || async {
        let asked = cloud.installation.admin(&process, "GET", &path, None);
        asked.await.unwrap().body["state"] == "confirmed_except_expiry"
    })
    .await;
    assert!(cloud.works(&session).await);

    // And so it stays: in every later receipt, and across a crash.
    process.kill();
    let again = cloud.replica.serve().await;
    let later = cloud
        .installation
        .admin(&again, "GET", &path, None)
        .await
        .unwrap();
    assert_eq!(
        later.body["state"], "confirmed_except_expiry",
        "{}",
        later.body
    );
}
