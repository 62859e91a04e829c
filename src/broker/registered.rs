//! Agents that are registered through the interface: the same at every replica as fast as a fence, beside
//! the files and never against them.
//!
//! All of them are one record ([`SLOT`]) that the fence log names. A request takes its view first, and is
//! decided by the very set that its view names or by a later one, or not at all: see `Broker::deciding`.

mod change;

use super::named::{Record, Slot};
use super::{Broker, Bundle, Reason, Refusal};
use crate::agents::Agent;
use crate::agents::registered::{Definition, Set};
use crate::fences::{Named, View};
use crate::identity::ClientSettings;
use crate::ids::AgentId;
use crate::policy::Policy;
use crate::wire::RegisteredView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Who is registered, in the store.
pub const SLOT: Slot = Slot {
    key: "registered/agents",
    purpose: "registered agents",
};

/// How long a request waits for the entry behind a record that is new.
const PATIENCE: Duration = Duration::from_millis(500);

/// For so long nobody tries again what could not be made of the same.
const AGAIN: Duration = Duration::from_secs(1);

/// A set that this replica has read: it may be the last copy.
#[derive(Debug)]
pub struct Held {
    named: Named,
    set: Arc<Set>,
}

/// What could not be made of these.
#[derive(Debug)]
pub struct Failed {
    named: Option<Named>,
    files: Arc<Bundle>,
    /// Boot time.
    at: Duration,
    reason: Reason,
    why: String,
}

/// Whom a bundle holds beside the agents of the files.
#[derive(Debug, Clone, Default)]
pub struct Joined {
    /// What the log calls them; `None`: nobody was ever registered, or they are not read yet.
    named: Option<Named>,
    set: Arc<Set>,
    /// Those who get nothing, and what is wrong with their definitions.
    problems: Arc<BTreeMap<AgentId, Vec<Value>>>,
}

/// Definitions, as they are read beside the files.
#[derive(Debug)]
pub struct Read {
    pub agents: Vec<Agent>,
    pub clients: Vec<ClientSettings>,
    /// With the missions that they joined.
    pub policy: Arc<Policy>,
    /// Whose definition does not stand, as `dayfly check` tells it.
    pub problems: BTreeMap<AgentId, Vec<Value>>,
}

type ReadAll = dyn Fn(&[(AgentId, Definition)]) -> Result<Read, String> + Send + Sync;

/// Reads definitions beside the files of a bundle.
#[derive(Clone)]
pub struct Reader(Arc<ReadAll>);

impl Reader {
    pub fn new(
        read: impl Fn(&[(AgentId, Definition)]) -> Result<Read, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

impl Bundle {
    /// Whether it was made before somebody was registered, changed or removed.
    ///
    /// INVARIANT: of two sets with one number the log's is the one.
    pub(in crate::broker) fn lacks(&self, view: &View) -> bool {
        view.registered() > self.joined.named.as_ref()
    }

    /// How an agent of this name was registered, if it was.
    pub(in crate::broker) fn registered(&self, id: &AgentId) -> Option<RegisteredView> {
        let registered = self.joined.set.agents.get(id)?;
        Some(RegisteredView {
            since: registered.since,
            definition: registered.definition.clone(),
            problems: self.joined.problems.get(id).cloned().unwrap_or_default(),
        })
    }

    /// Those who are registered and get nothing, and whom no file knows either.
    pub(in crate::broker) fn inert(&self) -> impl Iterator<Item = &AgentId> {
        let all = self.joined.problems.keys();
        all.filter(|id| self.agents.get(id).is_none())
    }

    /// SECURITY: a lease says whose it is by name alone. Where the files have the name of somebody who is
    /// registered, neither gets anything until that one is removed, which ends what the name was given.
    pub(in crate::broker) fn is_one(&self, id: &AgentId) -> Result<(), Refusal> {
        // Of two with one name the one of the files was found.
        if !self.joined.problems.contains_key(id) {
            return Ok(());
        }
        let why =
            format!("agent {id} is in the files, and another one is registered: remove that one");
        Err(Refusal::new(Reason::AgentNotInStanding, why))
    }

    /// Why it cannot be in force while these are registered.
    pub(in crate::broker) fn is_apart(&self, set: &Set) -> Result<(), String> {
        let mut registered = set.agents.keys();
        match registered.find(|id| self.agents.get(id).is_some()) {
            Some(id) => Err(format!(
                "`agent.{id}` is registered through the interface: `dayfly agent remove {id}` first"
            )),
            None => Ok(()),
        }
    }

    /// Or nobody would be answered once it is in force.
    pub(in crate::broker) async fn stands_beside(&self, set: &Set) -> Result<(), String> {
        self.is_apart(set)?;
        let read = self.read(set).await;
        read.map(drop).map_err(|refusal| refusal.detail)
    }

    /// What these definitions come to beside its files, where it has no others.
    async fn read(&self, set: &Set) -> Result<Read, Refusal> {
        let definitions = set.definitions();
        let Some(Reader(read)) = self.reader.clone() else {
            let off = json!({
                "severity": "error", "code": "unknown_mission",
                "message": "no mission lets agents be registered",
                "help": "write `allow_registered = true` in a mission",
            });
            let off = |(id, _): (AgentId, Definition)| (id, vec![off.clone()]);
            return Ok(Read {
                agents: Vec::new(),
                clients: Vec::new(),
                policy: Arc::clone(&self.policy),
                problems: definitions.into_iter().map(off).collect(),
            });
        };
        // Files may be many: not where requests are answered.
        let read = tokio::task::spawn_blocking(move || read(&definitions)).await;
        let read = read.map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        read.map_err(|why| behind(&why))
    }

    /// With these beside its files, each with the count that it had before.
    fn joined_by(&self, read: Read, joined: Joined, before: &Self) -> Result<Self, String> {
        let agents = self.agents.with(read.agents, &before.agents);
        let identity = self.identity.with_clients(read.clients);
        Ok(Self {
            identity: identity.map_err(|error| error.to_string())?,
            intents: Arc::clone(&self.intents),
            agents: agents.map_err(|error| error.to_string())?,
            policy: read.policy,
            connectors: Arc::clone(&self.connectors),
            resource_servers: Arc::clone(&self.resource_servers),
            operators: Arc::clone(&self.operators),
            sources: Arc::clone(&self.sources),
            responses: Arc::clone(&self.responses),
            hash: self.hash.clone(),
            decides: self.decides.clone(),
            revision: self.revision,
            reader: self.reader.clone(),
            joined,
        })
    }
}

impl Broker {
    /// The configuration with whoever is registered by now.
    pub(in crate::broker) async fn settled(&self) -> Result<Arc<Bundle>, Refusal> {
        let mut moved = self.fences.moved();
        let first = self.settled_now().await;
        if first.is_ok() {
            return first;
        }
        // Somebody registers just now: a view comes after the record.
        drop(tokio::time::timeout(PATIENCE, moved.changed()).await);
        self.settled_now().await
    }

    async fn settled_now(&self) -> Result<Arc<Bundle>, Refusal> {
        let mut failed = self.joining.lock().await;
        let bundle = self.bundle.load_full();
        let view = self.fences.last();
        if !bundle.lacks(&view) {
            return Ok(bundle);
        }
        let files = self.files.load_full();
        let now = self.clock.since_boot();
        // Everybody waits for this turn: or each would read and compile it all once more, one after the other.
        if let Some(known) = failed.as_ref()
            && known.named.as_ref() == view.registered()
            && Arc::ptr_eq(&known.files, &files)
            && now.saturating_sub(known.at) < AGAIN
        {
            return Err(Refusal::new(known.reason, known.why.clone()).after(1));
        }
        match self.joined(&files).await {
            Ok(bundle) => {
                *failed = None;
                self.bundle.store(Arc::clone(&bundle));
                Ok(bundle)
            }
            Err(refusal) => {
                *failed = Some(Failed {
                    named: view.registered().cloned(),
                    files,
                    at: self.clock.since_boot(),
                    reason: refusal.reason,
                    why: refusal.detail.clone(),
                });
                Err(refusal)
            }
        }
    }

    /// New files, with whoever is registered. Where that cannot be had, nobody is answered until it can.
    pub(in crate::broker) async fn stand_by(&self, files: Bundle) {
        let _turn = self.joining.lock().await;
        let files = Arc::new(files);
        self.files.store(Arc::clone(&files));
        let joined = self.joined(&files).await.unwrap_or_else(|refusal| {
            let why = refusal.detail;
            tracing::error!("the registered agents cannot be read, and nothing is issued: {why}");
            files
        });
        self.bundle.store(joined);
    }

    /// SECURITY: the very set that the log names. An older one has agents in it that were removed.
    ///
    /// INVARIANT: one that is held is not read again: it may be the last copy.
    pub(in crate::broker) async fn set(&self, named: &Named) -> Result<Arc<Set>, Refusal> {
        if let Some(held) = self.held.load_full()
            && held.named == *named
        {
            return Ok(Arc::clone(&held.set));
        }
        let record = SLOT
            .load((self.store.as_ref(), &self.sealer), named)
            .await
            .map_err(|why| behind(&why))?;
        let set = Set::read(&record.content);
        let set =
            Arc::new(set.ok_or_else(|| behind("its record is of another version of dayfly"))?);
        let new = Arc::new(Held {
            named: record.named,
            set: Arc::clone(&set),
        });
        self.held.rcu(|old| match old {
            Some(old) if old.named > new.named => Some(Arc::clone(old)),
            _ => Some(Arc::clone(&new)),
        });
        Ok(set)
    }

    async fn joined(&self, files: &Arc<Bundle>) -> Result<Arc<Bundle>, Refusal> {
        let view = self.fences.last();
        let Some(named) = view.registered() else {
            return Ok(Arc::clone(files));
        };
        let set = self.set(named).await?;
        let mut read = files.read(&set).await?;
        let joined = Joined {
            named: Some(named.clone()),
            set,
            problems: Arc::new(std::mem::take(&mut read.problems)),
        };
        for id in joined.problems.keys() {
            tracing::warn!(agent = %id, "a registered agent does not stand beside the files: it gets nothing");
        }
        let bundle = files.joined_by(read, joined, &self.bundle.load());
        let bundle = bundle.map_err(|why| behind(&why))?;
        // An owner may have left before they had anything.
        self.hold_leavers(&bundle).await?;
        Ok(Arc::new(bundle))
    }

    /// For what is only to be followed: whoever asks is told what is wrong.
    pub(in crate::broker) async fn follow_registered(&self) {
        if self.bundle.load().lacks(&self.fences.last())
            && let Err(refusal) = self.settled().await
        {
            let why = refusal.detail;
            tracing::error!("the registered agents cannot be read, and nothing is issued: {why}");
        }
    }

    /// A failover may lose the record, and the others cannot do without it.
    pub(in crate::broker) async fn keep_registered(&self) {
        let Some(held) = self.held.load_full() else {
            return;
        };
        if self.fences.last().registered() != Some(&held.named) {
            return;
        }
        let Ok(content) = held.set.content() else {
            return;
        };
        let named = held.named.clone();
        let record = Record { named, content };
        let by = (self.store.as_ref(), &*self.sealer);
        if let Err(error) = SLOT.keep(by, &record, self.clock.now()).await {
            tracing::warn!(%error, "the registered agents were not put back; it is tried again");
        }
    }

    /// Why this replica does not know who is registered.
    pub(in crate::broker) fn joined_here(&self) -> Result<(), Refusal> {
        if self.bundle.load().lacks(&self.fences.last()) {
            return Err(behind("they are not read yet"));
        }
        Ok(())
    }
}

fn behind(why: &str) -> Refusal {
    let why = format!("the registered agents cannot be had: {why}");
    Refusal::new(Reason::StaleConfiguration, why).after(1)
}
