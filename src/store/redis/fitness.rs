//! Is this Redis fit to hold leases? Each answer says what to change.

use super::address::Place;
use super::failure::ReadFailure;
use super::needed::Needed;
use super::nodes::{Node, Nodes};
use super::rights;
use crate::ids::ShardId;
use crate::store::{Fault, Finding, StoreError};
use ::redis::aio::MultiplexedConnection;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The oldest version with every command that the scripts use.
const OLDEST: (u32, u32) = (6, 2);

/// What `INFO` says.
pub(super) struct Info(HashMap<String, String>);

impl Info {
    pub(super) async fn read(connection: &mut MultiplexedConnection) -> Result<Self, StoreError> {
        let text: Vec<u8> = ::redis::cmd("INFO")
            .query_async(connection)
            .await
            .map_err(|error| ReadFailure::from(error).into_error())?;
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
        limit > 0 && self.used_memory() >= limit / 5 * 4
    }

    pub(super) fn used_memory(&self) -> u64 {
        self.number("used_memory")
    }

    fn replicas(&self) -> u64 {
        self.number("connected_slaves")
    }

    /// By where they are, as it says itself.
    fn followers(&self) -> BTreeSet<Place> {
        let lines = self.0.iter().filter(|(name, said)| {
            let number = name.strip_prefix("slave");
            number.is_some_and(|rest| rest.parse::<u32>().is_ok()) && said.contains("state=online")
        });
        let places = lines.filter_map(|(_, said)| {
            let part = |name| said.split(',').find_map(|part| part.strip_prefix(name));
            Some(Place {
                host: part("ip=")?.to_owned(),
                port: part("port=")?.parse().ok()?,
            })
        });
        places.collect()
    }

    /// Fewer than must acknowledge, or others.
    fn too_few(&self, needed: &Needed) -> Option<Finding> {
        let count = needed.count();
        let message = if self.replicas() < count {
            format!(
                "Redis has {} replicas connected, and {count} must acknowledge: `min_replicas` at least, and each that \
                 may be promoted; connect more, or lower `min_replicas`",
                self.replicas()
            )
        } else {
            let missing = needed.missing(&self.followers());
            if missing.is_empty() {
                return None;
            }
            format!(
                "{count} replicas must acknowledge, and Redis has none at {}, which the sentinels may promote; see why it \
                 does not follow, or is known by another address (`replica-announce-ip`)",
                missing.join(", ")
            )
        };
        Some(Fault::TooFewReplicas.found(message))
    }

    /// `None`: the version is new enough.
    fn too_old(&self) -> Option<Finding> {
        let text = self.text("redis_version");
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        (version < OLDEST).then(|| {
            Fault::TooOld.found(format!(
                "Redis is version `{text}`; use 6.2 or newer, or Valkey 7.2 or newer"
            ))
        })
    }

    fn other_kind(&self, in_cluster: bool) -> Option<Finding> {
        let message = match (self.text("redis_mode"), in_cluster) {
            ("cluster", false) => {
                "Redis is a node of a cluster; write redis+cluster:// in the address"
            }
            ("standalone", true) => "Redis is a single server; write redis:// in the address",
            ("sentinel", _) => "Redis is a sentinel; write redis+sentinel:// in the address",
            _ => return None,
        };
        Some(Fault::OtherKind.found(message))
    }

    fn problems(&self, needed: &Needed, in_cluster: bool) -> Vec<Finding> {
        let mut problems: Vec<_> = self.too_old().into_iter().collect();
        problems.extend(self.other_kind(in_cluster));
        if self.text("role") != "master" {
            let message = "Redis is a replica; point `store.redis` at the primary";
            problems.push(Fault::NotPrimary.found(message));
        }
        let policy = self.text("maxmemory_policy");
        if policy != "noeviction" {
            problems.push(Fault::MayEvict.found(format!(
                "Redis may evict leases (`maxmemory-policy {policy}`); set `maxmemory-policy noeviction`"
            )));
        }
        problems.extend(self.too_few(needed));
        if in_cluster && needed.floor == 0 && self.replicas() > 0 {
            let message = "a cluster promotes replicas, which lose what they do not have yet: set \
                           `min_replicas` to at least 1";
            problems.push(Fault::NeedsMinReplicas.found(message));
        }
        for (name, what) in [
            ("aof_last_write_status", "append-only file"),
            ("rdb_last_bgsave_status", "snapshot"),
        ] {
            if self.text(name) == "err" {
                problems.push(Fault::CannotSave.found(format!(
                    "Redis could not write its last {what}; see its log and its disk"
                )));
            }
        }
        problems.extend(self.advice(needed));
        problems
    }

    fn advice(&self, needed: &Needed) -> Vec<Finding> {
        let mut advice = Vec::new();
        if needed.promotable.is_none() && self.replicas() > needed.count() {
            advice.push(Fault::MinReplicasLow.found(format!(
                "a failover may lose acknowledged commits: `min_replicas` is {}, and {} replicas are connected; set it \
                 to the number that may be promoted, or name the sentinels in the address",
                needed.floor,
                self.replicas()
            )));
        }
        // Only told where `min-replicas-to-write` is set: no right to CONFIG is needed to see it.
        if needed.count() > 0 && !self.0.contains_key("min_slaves_good_slaves") {
            advice.push(Fault::MayRunAlone.found(
                "a primary that lost its replicas goes on writing what a failover throws away; \
                 `min-replicas-to-write 1` in Redis stops it, and revocation with it",
            ));
        }
        if self.number("maxmemory") == 0 {
            advice
                .push(Fault::NoMemoryLimit.found(
                    "Redis has no `maxmemory`: nothing is kept free for revocation; set it",
                ));
        }
        advice
    }
}

/// What no start may pass, before anything is written: another kind of server, an old one, a user without
/// a right, a server that takes no writes.
pub(super) async fn before_use(nodes: &Nodes) -> Result<(), StoreError> {
    for node in nodes.all() {
        let (mut connection, _) = node.connector.connect().await?;
        let info = Info::read(&mut connection).await?;
        let mut problem = info.too_old().or(info.other_kind(nodes.is_cluster()));
        if problem.is_none() {
            let refused = rights::refused(&mut connection, &shards_of(nodes, &node)).await?;
            problem = refused.into_iter().next();
        }
        if let Some(problem) = problem {
            return Err(of_node(problem, nodes, &node).into());
        }
    }
    Ok(())
}

fn shards_of(nodes: &Nodes, node: &Arc<Node>) -> Vec<ShardId> {
    let has = |shard: &ShardId| nodes.of(*shard).is_ok_and(|has| Arc::ptr_eq(&has, node));
    super::shards().filter(has).collect()
}

/// Which of several it is about.
fn of_node(mut finding: Finding, nodes: &Nodes, node: &Node) -> Finding {
    if nodes.is_cluster() {
        finding.message = format!("{}: {}", node.name(), finding.message);
    }
    finding
}

/// Everything that makes these servers unfit, and advice, in words that say what to change.
pub(super) async fn problems(nodes: &Nodes) -> Result<Vec<Finding>, StoreError> {
    let mut found = Vec::new();
    if nodes.uncovered() > 0 {
        found.push(Fault::SlotsUncovered.found(format!(
            "{} of 65 shards lie in slots that no node of the cluster has; see CLUSTER INFO",
            nodes.uncovered()
        )));
    }
    for node in nodes.all() {
        let (mut connection, primary) = node.connector.connect().await?;
        let needed = node.connector.replicas.needed(&primary)?;
        let mut own = of_one(&mut connection, &needed, nodes.is_cluster()).await?;
        for refused in rights::refused(&mut connection, &shards_of(nodes, &node)).await? {
            // `INFO` may have told of the disk already.
            let known = own.iter().any(|finding| finding.fault == refused.fault);
            if !known || refused.fault != Fault::CannotSave {
                own.push(refused);
            }
        }
        found.extend(
            own.into_iter()
                .map(|finding| of_node(finding, nodes, &node)),
        );
    }
    Ok(found)
}

async fn of_one(
    connection: &mut MultiplexedConnection,
    needed: &Needed,
    in_cluster: bool,
) -> Result<Vec<Finding>, StoreError> {
    let info = Info::read(connection).await?;
    let mut problems = info.problems(needed, in_cluster);
    if info.text("aof_enabled") != "1" {
        // A user may be kept from CONFIG; then nobody has said that snapshots are taken.
        let save: Result<HashMap<String, String>, _> = ::redis::cmd("CONFIG")
            .arg("GET")
            .arg("save")
            .query_async(connection)
            .await;
        let saved = save.is_ok_and(|save| save.get("save").is_some_and(|when| !when.is_empty()));
        if !saved {
            problems.push(Fault::Forgets.found(
                "Redis keeps nothing over a restart, as far as this user may see; set \
                 `appendonly yes`",
            ));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIT: &str = "redis_version:7.0.15\r\nrole:master\r\nconnected_slaves:2\r\n\
        maxmemory:1000\r\nused_memory:10\r\nmaxmemory_policy:noeviction\r\n\
        redis_mode:standalone\r\nmin_slaves_good_slaves:2\r\n";

    fn spoilt(from: &str, to: &str) -> Vec<Finding> {
        assert!(FIT.contains(from));
        Info::parse(&FIT.replace(from, to)).problems(&at_least(2), false)
    }

    fn at_least(floor: u32) -> Needed {
        Needed {
            floor,
            ..Needed::default()
        }
    }

    #[test]
    fn a_fit_server_has_no_problem() {
        assert_eq!(
            Info::parse(FIT).problems(&at_least(2), false),
            Vec::<Finding>::new()
        );
    }

    #[test]
    fn a_cluster_that_promotes_replicas_needs_min_replicas() {
        let info = Info::parse(&FIT.replace("standalone", "cluster"));
        let faults = |min| {
            let found = info.problems(&at_least(min), true);
            found.into_iter().map(|one| one.fault)
        };
        assert!(faults(0).any(|fault| fault == Fault::NeedsMinReplicas));
        assert!(!faults(2).any(|fault| fault == Fault::NeedsMinReplicas));
    }

    #[test]
    fn each_problem_says_what_to_change() {
        for (from, to, fault, words) in [
            ("7.0.15", "6.0.9", Fault::TooOld, "use 6.2"),
            (
                "mode:standalone",
                "mode:cluster",
                Fault::OtherKind,
                "write redis+cluster://",
            ),
            (
                "mode:standalone",
                "mode:sentinel",
                Fault::OtherKind,
                "write redis+sentinel://",
            ),
            (
                "connected_slaves:2",
                "connected_slaves:3",
                Fault::MinReplicasLow,
                "may be promoted",
            ),
            (
                "min_slaves_good_slaves:2",
                "",
                Fault::MayRunAlone,
                "min-replicas-to-write",
            ),
            (
                "maxmemory:1000",
                "maxmemory:0",
                Fault::NoMemoryLimit,
                "set it",
            ),
            (
                "role:master",
                "role:slave",
                Fault::NotPrimary,
                "point `store.redis` at the primary",
            ),
            (
                "noeviction",
                "allkeys-lru",
                Fault::MayEvict,
                "set `maxmemory-policy noeviction`",
            ),
            (
                "connected_slaves:2",
                "connected_slaves:1",
                Fault::TooFewReplicas,
                "lower `min_replicas`",
            ),
            (
                "used_memory",
                "aof_last_write_status:err\r\nused_memory",
                Fault::CannotSave,
                "disk",
            ),
        ] {
            let problems = spoilt(from, to);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].fault, fault);
            assert!(problems[0].message.contains(words), "{problems:?}");
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
