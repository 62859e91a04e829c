//! A PostgreSQL server that follows another one by streaming, and can take its place.

use super::postgres::{Failure, PASSWORD, Postgres, as_nobody, own, programs, run};
use super::process::until;
use rustix::process::{Pid, Signal, kill_process};

impl Postgres {
    /// A copy of this one that follows it, at this place.
    pub async fn standby(&self, place: (&str, u16)) -> Self {
        self.try_standby(place).await.unwrap()
    }

    async fn try_standby(&self, place: (&str, u16)) -> Result<Self, Failure> {
        let programs = programs().ok_or("no programs")?;
        let folder = tempfile::tempdir()?;
        own(folder.path())?;
        run(as_nobody(&programs.join("pg_basebackup"))
            .env("PGPASSWORD", PASSWORD)
            .args(["--host=127.0.0.1", "--username=postgres", "--no-sync"])
            .args(["--write-recovery-conf", "--checkpoint=fast"])
            .arg(format!("--port={}", self.port))
            .arg("--pgdata")
            .arg(folder.path().join("data")))?;
        let ca = folder.path().join("data/ca.crt");
        let standby = Self::over(&programs, folder, place, ca)?;
        standby.ready().await?;
        Ok(standby)
    }

    /// Until as many logins are there as on the other one.
    pub async fn until_it_has_heard(&self, of: &Self) {
        let made = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dfl%'";
        let wanted = of.ask(made).await;
        until("it is replicated", || async {
            self.ask(made).await == wanted
        })
        .await;
    }

    /// From here on it hears nothing any more.
    pub async fn cut_off(&self) {
        let session = self.login("postgres", PASSWORD).await.unwrap();
        let alone = "ALTER SYSTEM SET primary_conninfo = ''";
        session.batch_execute(alone).await.unwrap();
        let read = "SELECT pg_reload_conf()";
        session.batch_execute(read).await.unwrap();
        until("it is cut off", || async {
            let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
            self.ask(receivers).await == 0
        })
        .await;
    }

    /// It takes the place of the one that it followed.
    pub async fn promote(&self) {
        let promote = "SELECT pg_promote()::int::bigint";
        assert_eq!(self.ask(promote).await, 1);
        until("it takes writes", || async {
            let standby = "SELECT pg_is_in_recovery()::int::bigint";
            self.ask(standby).await == 0
        })
        .await;
    }

    /// It takes connections and says nothing on them, until it is dropped.
    pub fn hang(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// Without a word to anybody.
    pub fn stop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap();
    }
}
