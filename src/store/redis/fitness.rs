//! Is this Redis fit to hold leases? Each answer says what to change.

use crate::store::StoreError;
use ::redis::aio::MultiplexedConnection;
use std::collections::HashMap;

/// The oldest version with every command that the scripts use.
const OLDEST: (u32, u32) = (6, 2);

/// What `INFO` says.
pub(super) struct Info(HashMap<String, String>);

impl Info {
    pub(super) async fn read(connection: &mut MultiplexedConnection) -> Result<Self, StoreError> {
        let text: Vec<u8> = ::redis::cmd("INFO")
            .query_async(connection)
            .await
            .map_err(|error| super::unavailable(&error))?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Self(
            lines
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// Four fifths of the memory are used: what is left belongs to revocation and its audit.
    pub(super) fn is_nearly_full(&self) -> bool {
        let limit = self.number("maxmemory");
        limit > 0 && self.number("used_memory") >= limit / 5 * 4
    }

    pub(super) fn replicas(&self) -> u64 {
        self.number("connected_slaves")
    }

    /// `None`: the version is new enough.
    pub(super) fn too_old(&self) -> Option<String> {
        let text = self.text("redis_version");
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        (version < OLDEST)
            .then(|| format!("Redis is version `{text}`; use 6.2 or newer, or Valkey 7.2 or newer"))
    }

    fn problems(&self, min_replicas: u32) -> Vec<String> {
        let mut problems: Vec<_> = self.too_old().into_iter().collect();
        if self.text("role") != "master" {
            problems.push("Redis is a replica; point `store.redis` at the primary".to_owned());
        }
        let policy = self.text("maxmemory_policy");
        if policy != "noeviction" {
            problems.push(format!(
                "Redis may evict leases (`maxmemory-policy {policy}`); set `maxmemory-policy noeviction`"
            ));
        }
        if self.replicas() < u64::from(min_replicas) {
            problems.push(format!(
                "Redis has {} replicas connected, `min_replicas` is {min_replicas}; connect more \
                 or lower `min_replicas`",
                self.replicas()
            ));
        }
        for (name, what) in [
            ("aof_last_write_status", "append-only file"),
            ("rdb_last_bgsave_status", "snapshot"),
        ] {
            if self.text(name) == "err" {
                problems.push(format!(
                    "Redis could not write its last {what}; see its log and its disk"
                ));
            }
        }
        problems
    }
}

/// Everything that makes this server unfit, in words that say what to change.
pub(super) async fn problems(
    connection: &mut MultiplexedConnection,
    min_replicas: u32,
) -> Result<Vec<String>, StoreError> {
    let info = Info::read(connection).await?;
    let mut problems = info.problems(min_replicas);
    if info.text("aof_enabled") != "1" {
        // A user may be kept from CONFIG; then nobody has said that snapshots are taken.
        let save: Result<HashMap<String, String>, _> = ::redis::cmd("CONFIG")
            .arg("GET")
            .arg("save")
            .query_async(connection)
            .await;
        let saved = save.is_ok_and(|save| save.get("save").is_some_and(|when| !when.is_empty()));
        if !saved {
            problems.push(
                "Redis keeps nothing over a restart, as far as this user may see; set \
                 `appendonly yes`"
                    .to_owned(),
            );
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIT: &str = "redis_version:7.0.15\r\nrole:master\r\nconnected_slaves:2\r\n\
        maxmemory:1000\r\nused_memory:10\r\nmaxmemory_policy:noeviction\r\n";

    fn spoilt(from: &str, to: &str) -> Vec<String> {
        assert!(FIT.contains(from));
        Info::parse(&FIT.replace(from, to)).problems(2)
    }

    #[test]
    fn a_fit_server_has_no_problem() {
        assert_eq!(Info::parse(FIT).problems(2), Vec::<String>::new());
    }

    #[test]
    fn each_problem_says_what_to_change() {
        for (from, to, words) in [
            ("7.0.15", "6.0.9", "use 6.2"),
            (
                "role:master",
                "role:slave",
                "point `store.redis` at the primary",
            ),
            (
                "noeviction",
                "allkeys-lru",
                "set `maxmemory-policy noeviction`",
            ),
            (
                "connected_slaves:2",
                "connected_slaves:1",
                "lower `min_replicas`",
            ),
            (
                "used_memory",
                "aof_last_write_status:err\r\nused_memory",
                "disk",
            ),
        ] {
            let problems = spoilt(from, to);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(words), "{problems:?}");
        }
    }

    #[test]
    fn the_last_fifth_is_kept_free() {
        let used =
            |used| Info::parse(&format!("maxmemory:1000\r\nused_memory:{used}")).is_nearly_full();
        assert!(!used(799));
        assert!(used(800));
        assert!(!Info::parse("maxmemory:0\r\nused_memory:5").is_nearly_full());
    }
}
