//! The servers that a store is on: one primary, or each primary of a cluster with the shards that
//! it has. A node keeps its connections for as long as it is known.

use super::RedisSettings;
use super::address::{Address, Kind, Place};
use super::cluster::{self, Slots};
use super::connection::{Connector, Door, Pool, Shared, Way};
use super::failure::{Queried, is_suspect};
use super::needed::{Replicas, Word};
use super::sentinel::Sentinels;
use crate::ids::ShardId;
use crate::secret::Secret;
use crate::store::{Fault, StoreError};
use ::redis::{Pipeline, RedisError, Value};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A node that was asked for the slots a moment ago is not asked again.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long a look that nobody waits for may take: every node of a large cluster may hang but one.
const LOOK: Duration = Duration::from_secs(10);

/// One primary, and what this process keeps about it.
pub(super) struct Node {
    pub connector: Connector,
    /// Minting and revoking have connections of their own, so that a flood of one cannot delay
    /// the other; so have readers.
    pub mint: Lane,
    pub revoke: Lane,
    pub readers: Shared,
    pub tails: Pool,
    pub full: AtomicBool,
}

pub(super) struct Lane {
    pub shared: Shared,
    pub replicated: Pool,
}

impl Lane {
    fn of(size: usize) -> Self {
        Self {
            shared: Shared::default(),
            replicated: Pool::of(size),
        }
    }

    async fn forget(&self) {
        self.shared.forget_any().await;
        self.replicated.forget();
    }
}

impl Node {
    fn new(door: &Arc<Door>, way: Way, replicas: Replicas) -> Arc<Self> {
        Arc::new(Self {
            connector: Connector::new(door.clone(), way, replicas),
            mint: Lane::of(64),
            revoke: Lane::of(16),
            readers: Shared::default(),
            tails: Pool::of(16),
            full: AtomicBool::default(),
        })
    }

    /// Leaves a primary that is none any more, whatever its connections still answer.
    async fn leave(&self) {
        self.mint.forget().await;
        self.revoke.forget().await;
        self.readers.forget_any().await;
        self.tails.forget();
    }

    /// After a failure: a server that says it is a replica was the primary once.
    ///
    /// SECURITY: reading needs no right to write, and would go on with what may have been undone since.
    pub(super) async fn heard(&self, error: &RedisError) {
        if error.code() == Some("READONLY") {
            let from = self.name();
            tracing::warn!(from, "this Redis says that it is a replica now: leaving it");
            self.leave().await;
        }
    }

    pub(super) async fn query<T: ::redis::FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> Result<T, Queried> {
        let (number, mut connection) = self.readers.get(&self.connector).await?;
        let answer = pipeline.query_async(&mut connection).await;
        if answer.as_ref().is_err_and(is_suspect) {
            self.readers.forget(number).await;
        }
        Ok(answer?)
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        let place = self.connector.place();
        place.map_or_else(|| "the primary".to_owned(), |place| place.to_string())
    }
}

/// All of them.
pub(super) struct Nodes {
    door: Arc<Door>,
    seeds: Option<Vec<Place>>,
    min_replicas: u32,
    map: ArcSwap<Map>,
    asked: Mutex<Asked>,
}

/// What became of asking for the slots.
#[derive(Default)]
struct Asked {
    /// When the last one was done.
    last: Option<Instant>,
    /// Who was asked and has not answered since: they are asked after the others.
    silent: BTreeSet<Place>,
}

#[derive(Default, Clone)]
struct Map {
    /// Of a cluster by place; otherwise one, under no place.
    nodes: BTreeMap<Option<Place>, Arc<Node>>,
    routes: BTreeMap<ShardId, Place>,
}

impl Nodes {
    /// Connects to nothing yet, but to a cluster: its nodes have to be known.
    pub(super) async fn open(settings: &RedisSettings) -> Result<Self, StoreError> {
        let address = Address::parse(settings.url.expose())?;
        let (tls, min_replicas) = (address.tls, settings.min_replicas);
        let door = |user: Secret<String>, database: &str| Door::new(settings, tls, user, database);
        let (door, seeds, way) = match address.kind {
            Kind::One { place, database } => (
                door(address.user, &database)?,
                None,
                Some(Way::Fixed(place)),
            ),
            Kind::Sentinel {
                sentinels,
                primary,
                user,
            } => {
                if min_replicas == 0 {
                    let message = "sentinels make failovers, which lose what no replica has: set \
                                   `min_replicas` to at least 1";
                    return Err(Fault::NeedsMinReplicas.found(message).into());
                }
                let sentinels = Sentinels {
                    door: door(user, "")?,
                    places: sentinels,
                    primary,
                };
                (
                    door(address.user, "")?,
                    None,
                    Some(Way::Sentinels(sentinels)),
                )
            }
            Kind::Cluster { seeds } => (door(address.user, "")?, Some(seeds), None),
        };
        let door = Arc::new(door);
        let mut map = Map::default();
        if let Some(way) = way {
            let replicas = Replicas::of(min_replicas, matches!(way, Way::Sentinels(_)));
            map.nodes.insert(None, Node::new(&door, way, replicas));
        }
        let nodes = Self {
            door,
            seeds,
            min_replicas,
            map: ArcSwap::from_pointee(map),
            asked: Mutex::default(),
        };
        if nodes.is_cluster() {
            nodes.ask_for_slots().await?;
        }
        Ok(nodes)
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.seeds.is_some()
    }

    /// Whoever has this shard.
    pub(super) fn of(&self, shard: ShardId) -> Result<Arc<Node>, StoreError> {
        let map = self.map.load();
        let place = map.routes.get(&shard).cloned();
        let found = map.nodes.get(&place).cloned();
        found.ok_or_else(|| {
            StoreError::Unavailable(format!(
                "no node of the cluster has the slot of shard {}",
                shard.number()
            ))
        })
    }

    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        self.map.load().nodes.values().cloned().collect()
    }

    /// Shards that no node has.
    pub(super) fn uncovered(&self) -> usize {
        let map = self.map.load();
        if self.is_cluster() {
            super::shards().count() - map.routes.len()
        } else {
            0
        }
    }

    /// A node says that a shard is elsewhere.
    pub(super) fn learn(&self, shard: ShardId, node: &Node, error: &RedisError) {
        let Some(asked) = node.connector.place() else {
            return;
        };
        if !self.is_cluster() {
            return;
        }
        if let Some(place) = cluster::moved(error, &asked) {
            self.map.rcu(|map| {
                let mut map = Map::clone(map);
                self.know(&mut map, &place);
                map.routes.insert(shard, place.clone());
                map
            });
        }
    }

    fn know(&self, map: &mut Map, place: &Place) {
        let replicas = || Replicas::of(self.min_replicas, true);
        let node = || Node::new(&self.door, Way::Fixed(place.clone()), replicas());
        map.nodes.entry(Some(place.clone())).or_insert_with(node);
    }

    /// After a failure, and now and then: is everything still where it was? A node that hangs keeps nobody
    /// longer than `patience`: it is asked after the others the next time.
    pub(super) async fn look_around(&self, patience: Duration) {
        if !self.is_cluster() {
            return;
        }
        match tokio::time::timeout(patience, self.ask_for_slots()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "no node of the cluster told of its slots"),
            Err(_) => tracing::debug!("a node of the cluster is slow to tell of its slots"),
        }
    }

    /// Each second: whoever is no primary any more is left.
    pub(super) async fn look_after(&self) {
        self.look_around(LOOK).await;
        if self.is_cluster() {
            self.count_replicas().await;
        }
        for node in self.all() {
            let from = node.name();
            if node.connector.has_moved().await {
                tracing::warn!(from, "the sentinels name another primary: going there");
                node.leave().await;
            }
        }
    }

    async fn ask_for_slots(&self) -> Result<(), StoreError> {
        let mut asked = self.asked.lock().await;
        if asked.last.is_some_and(|last| last.elapsed() < ASK_EVERY) {
            return Ok(());
        }
        let known = self.map.load_full();
        let known = known.nodes.keys().flatten();
        let mut places: Vec<&Place> = known.chain(self.seeds.iter().flatten()).collect();
        places.sort_by_key(|place| asked.silent.contains(place));
        let mut told = Err(StoreError::Unavailable("no node is known".to_owned()));
        for place in places {
            // Before it is asked: whoever waits may give up meanwhile.
            asked.silent.insert(place.clone());
            told = self.slots_told_by(place).await;
            match &told {
                Ok(slots) => {
                    asked.silent.remove(place);
                    self.map.rcu(|map| self.map_of(map, &slots.routes));
                    if self
                        .all()
                        .iter()
                        .any(|node| node.connector.replicas.are_unknown())
                    {
                        self.count_replicas().await;
                    }
                    break;
                }
                // Whoever is asked is wrong in the same way as everybody else.
                Err(StoreError::Unfit(_)) => break,
                Err(_) => {}
            }
        }
        // When it is done, not when it began: whoever waited for it need not ask once more.
        asked.last = Some(Instant::now());
        told.map(drop)
    }

    /// Asks all of them, each second: one that was paused alone does not know who replaced it.
    async fn count_replicas(&self) {
        let map = self.map.load_full();
        let places = map.nodes.keys().flatten();
        let told = join_all(places.map(|place| self.slots_told_by(place))).await;
        for (place, node) in &map.nodes {
            let words = told.iter().flatten().filter_map(|slots| {
                let up = slots.replicas.get(place.as_ref()?)?.clone();
                Some(Word {
                    up,
                    ..Word::new(true)
                })
            });
            let words: Vec<_> = words.collect();
            node.connector.replicas.listed(&words, map.nodes.len());
        }
    }

    fn map_of(&self, before: &Map, routes: &BTreeMap<ShardId, Place>) -> Map {
        let mut map = Map {
            nodes: before.nodes.clone(),
            routes: routes.clone(),
        };
        map.nodes.retain(|place, _| {
            place
                .as_ref()
                .is_some_and(|p| routes.values().any(|q| q == p))
        });
        for place in routes.values() {
            self.know(&mut map, place);
        }
        map
    }

    async fn slots_told_by(&self, place: &Place) -> Result<Slots, StoreError> {
        let known = self.map.load().nodes.get(&Some(place.clone())).cloned();
        let mut call = Pipeline::with_capacity(1);
        call.cmd("CLUSTER").arg("SLOTS");
        let answer: (Value,) = match known {
            Some(node) => node.query(&call).await.map_err(Queried::into_error)?,
            None => {
                let mut connection = self.door.open(place).await?;
                let answer = call.query_async(&mut connection).await;
                answer.map_err(|error| not_of_a_cluster(&error, place))?
            }
        };
        cluster::read_slots(&answer.0, place)
            .ok_or_else(|| StoreError::Unavailable("CLUSTER SLOTS does not parse".to_owned()))
    }
}

fn not_of_a_cluster(error: &RedisError, place: &Place) -> StoreError {
    if error.to_string().contains("cluster support disabled") {
        let message = "the Redis address leads to a single server; write redis://";
        return Fault::OtherKind.found(message).into();
    }
    super::connection::connecting(error, place)
}
