//! Whatever a broker made before it died, heard of or not, can be ended, and then works nowhere.

use super::hands;
use super::run::{Kind, Promised, Run};
use crate::exchange::claims_of;
use crate::status_lists::is_over;
use crate::support::process::{Process, now, until};
use serde_json::Value;
use std::collections::BTreeSet;

/// Seconds after which no session of AWS lives.
const LONGEST: i64 = 2 * 3600;

impl Run {
    /// What the dead one may have been about to hand out, and nobody has.
    pub fn unheard(&self, promised: &Promised) -> BTreeSet<String> {
        if !self.kind.is_ours() {
            return BTreeSet::new();
        }
        let mut unheard = hands::of_the_dead(&self.replica.folder);
        for issued in promised.alive.iter().chain(&promised.dead) {
            unheard.remove(issued["access_token"].as_str().unwrap_or_default());
        }
        unheard
    }

    /// It works exactly where it is on record as alive.
    pub async fn is_on_record(&self, at: &Process, credential: &str) {
        let installation = &self.site.installation;
        let lease = self.lease_behind(at, credential).await;
        let active = installation.is_active(at, credential).await;
        assert_eq!(active, lease["alive"] == true, "{lease}\n{}", at.log());
    }

    async fn lease_behind(&self, at: &Process, credential: &str) -> Value {
        let id = hands::lease_of(credential).unwrap();
        self.site.installation.lease(at, &id).await
    }

    /// At the target itself.
    pub async fn logins_work(&self, of: &[Value], wanted: bool) {
        for issued in of {
            let field = |name: &str| issued["credential"][name].as_str();
            let (Some(user), Some(password)) = (field("username"), field("password")) else {
                continue;
            };
            let works = self.site.postgres.login(user, password).await.is_ok();
            assert_eq!(works, wanted, "{}", issued["lease_id"]);
        }
    }

    /// All of its mission is ended once more, by whoever came after the dead one.
    pub async fn ends_all(
        &self,
        process: Process,
        promised: &Promised,
        unheard: &BTreeSet<String>,
    ) -> Process {
        let receipt = self.revoke(&process).await.unwrap();
        assert_eq!(receipt.status, 200, "{}", receipt.body);
        let all = promised.alive.iter().chain(&promised.dead);
        let told = all.filter_map(|issued| issued["access_token"].as_str());
        let told = told.filter(|text| hands::lease_of(text).is_some());
        for credential in told.chain(unheard.iter().map(String::as_str)) {
            self.is_refused(&process, credential).await;
        }
        if self.kind.is_of_aws() {
            return self.outlives_none(process).await;
        }
        self.until("everything of its mission is closed", || async {
            self.open_of_its_mission(&process).await.is_empty()
        })
        .await;
        if self.kind == Kind::Postgres {
            assert_eq!(self.made().await, BTreeSet::new());
            self.logins_work(&promised.alive, false).await;
            self.logins_work(&promised.dead, false).await;
        }
        process
    }

    async fn open_of_its_mission(&self, at: &Process) -> BTreeSet<String> {
        let leases = self.site.installation.open_leases(at, self.target()).await;
        let mut ours = leases.iter().filter(|lease| {
            assert!(lease["mission"] != self.mission.as_str() || lease["alive"] == false);
            lease["mission"] == self.mission.as_str()
        });
        let ids = ours.by_ref().map(|lease| lease["id"].as_str().unwrap());
        ids.map(str::to_owned).collect()
    }

    /// By introspection at once, by the status list after the sweep.
    async fn is_refused(&self, at: &Process, credential: &str) {
        let lease = self.lease_behind(at, credential).await;
        if !lease.is_null() && lease["mission"] != self.mission.as_str() {
            return;
        }
        let installation = &self.site.installation;
        assert_ne!(lease["alive"], true, "{lease}");
        let active = installation.is_active(at, credential).await;
        assert!(!active, "{lease}\n{}", at.log());
        if credential.starts_with("dayfly_") {
            return;
        }
        let claims = claims_of(credential);
        // Of what was never written, or has run out, a list says nothing.
        if lease.is_null() || claims["exp"].as_i64().unwrap() <= now() + at.ahead + 60 {
            return;
        }
        let reference = &claims["status"]["status_list"];
        let index = usize::try_from(reference["idx"].as_u64().unwrap()).unwrap();
        let uri = reference["uri"].as_str().unwrap();
        let path = uri.strip_prefix(installation.url.as_str()).unwrap();
        let url = format!("{}{path}", at.base);
        self.until("the status list says so", || async {
            let answer = installation.http.get(&url).send().await.unwrap();
            answer.status() == 200 && is_over(&answer.text().await.unwrap(), index)
        })
        .await;
    }

    /// Nobody can end a session of AWS: it is on record as long as it can live, and closed after it.
    async fn outlives_none(&self, process: Process) -> Process {
        let sessions = self.sessions();
        let open = self.open_of_its_mission(&process).await;
        let by_now = now() + process.ahead;
        for session in &sessions {
            let lives = session.expires_at.unix_timestamp() > by_now;
            assert!(!lives || open.contains(&session.name), "{}", session.name);
        }
        let ahead = process.ahead + LONGEST;
        process.kill();
        let process = self.serve(ahead).await;
        until(
            "what nobody could end has run out and is closed",
            || async { self.open_of_its_mission(&process).await.is_empty() },
        )
        .await;
        for session in &sessions {
            let lease = self.site.installation.lease(&process, &session.name).await;
            assert_eq!(lease["alive"], false, "{lease}");
            assert!(session.expires_at.unix_timestamp() < now() + process.ahead);
        }
        process
    }
}
