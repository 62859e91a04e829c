//! A PostgreSQL server that stops in the middle of making a login.

use super::postgres::{PASSWORD, Postgres};
use std::time::Duration;
use tokio_postgres::Client;

/// Logins of one mission are made when we say so.
pub struct HeldBack {
    client: Client,
    mission: String,
}

impl HeldBack {
    /// From here on whoever makes a login of this mission waits for us, in the middle of its transaction.
    pub async fn on(server: &Postgres, mission: &str) -> Self {
        let client = server.login("postgres", PASSWORD).await.unwrap();
        let name = mission.replace('-', "_");
        let statements = format!(
            "CREATE FUNCTION public.late_{name}() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN \
             IF pg_catalog.current_query() LIKE '%mission {mission}''%' THEN \
             PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('{mission}')); END IF; END$$; \
             CREATE EVENT TRIGGER late_{name} ON ddl_command_start WHEN TAG IN ('GRANT') \
             EXECUTE FUNCTION public.late_{name}(); \
             SELECT pg_advisory_lock(hashtext('{mission}'))"
        );
        client.batch_execute(&statements).await.unwrap();
        let mission = mission.to_owned();
        Self { client, mission }
    }

    pub async fn until_it_waits(&self) {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE wait_event_type = 'Lock' AND query LIKE $1";
        self.until(waiting, &format!("%mission {}'%", self.mission))
            .await;
    }

    /// It is made, and there for everybody.
    pub async fn let_go(&self) {
        let free = format!("SELECT pg_advisory_unlock(hashtext('{}'))", self.mission);
        self.client.batch_execute(&free).await.unwrap();
        let made = "SELECT count(*) FROM pg_shdescription WHERE description LIKE $1";
        self.until(made, &format!("%mission {}", self.mission))
            .await;
    }

    async fn until(&self, query: &str, what: &str) {
        let count = async || {
            let row = self.client.query_one(query, &[&what]).await.unwrap();
            row.get::<_, i64>(0)
        };
        for _ in 0..3000 {
            if count().await > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody makes a login: {what}");
    }
}
