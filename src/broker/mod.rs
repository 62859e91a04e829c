//! The corridor: one use case per file, each reads as a paragraph. The only place that knows the
//! order of the rooms.

mod approvals;
mod cards;
mod configured;
pub mod named;
pub mod contexts;
mod drift;
mod delegation;
pub mod enrol;
pub mod events;
pub mod exchange;
pub mod explain;
pub mod facts;
mod faults;
mod give_up;
mod govern;
mod heard;
pub mod introspect;
pub mod keys;
mod leavers;
pub mod operators;
pub mod overdue;
mod possession;
pub mod publish;
pub mod receipts;
pub mod record;
pub mod registered;
pub mod refusal;
pub mod release;
pub mod respond;
mod restrict;
mod review;
pub mod revoke;
pub mod show;
mod scim;
mod sightings;
mod standing;
pub mod status;
mod told;
mod usage;
pub mod watched;

pub use configured::Word;
pub use contexts::{SigningSecret, SourceKind, SourceSettings};
pub use exchange::{ExchangeRequest, GrantType};
pub use govern::{GOVERNED_EVERY, Governed};
pub use operators::{Operator, OperatorSettings, Possession, Role, RoleRule};
pub use refusal::{Reason, Refusal};
pub use release::{ResourceServer, ResourceServerSettings};

use crate::agents::Registry;
use crate::audit::Sealing;
use crate::clock::Clock;
use crate::connectors::Connectors;
use crate::fences::{Fences, View};
use crate::identity::{Enrolment, Identity};
use crate::intent::Intents;
use crate::jose::Keyring;
use crate::leases::{Leases, Sweeper};
use crate::policy::Policy;
use crate::secret::Sealer;
use crate::store::Store;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const NOT_LOOKED: &str = "who has left was not looked up yet";
const NOT_READ: &str = "what targets still have to end was not read of every shard yet";

/// Everything that a reload swaps, as a whole or not at all.
#[derive(Debug)]
pub struct Bundle {
    pub identity: Identity,
    pub intents: Arc<Intents>,
    pub agents: Registry,
    pub policy: Arc<Policy>,
    pub connectors: Arc<Connectors>,
    pub resource_servers: Arc<release::ResourceServers>,
    pub operators: Arc<operators::Operators>,
    pub sources: Arc<Vec<SourceSettings>>,
    pub responses: Arc<respond::Responses>,
    /// Of the configuration files: it is in every decision and lease.
    pub hash: String,
    /// Of what all replicas must have in common.
    pub decides: String,
    /// The number of its publication; 0: it is the replica's own folder.
    pub revision: u64,
    /// Reads who is registered; `None`: the files let nobody be.
    pub reader: Option<registered::Reader>,
    /// Who is, beside the agents of the files.
    pub joined: registered::Joined,
}

/// What outlives a reload.
#[derive(Debug)]
pub struct Broker {
    pub(in crate::broker) url: String,
    pub(in crate::broker) certificates: CertificateDoors,
    pub(in crate::broker) clock: Arc<dyn Clock>,
    pub(in crate::broker) store: Arc<dyn Store>,
    pub(in crate::broker) sealer: Arc<Sealer>,
    pub(in crate::broker) fences: Arc<Fences>,
    pub(in crate::broker) leases: Arc<Leases>,
    pub(in crate::broker) sweeper: Arc<Sweeper>,
    pub(in crate::broker) keyring: Arc<Keyring>,
    pub(in crate::broker) enrolment: Arc<Enrolment>,
    connectors: Arc<ArcSwap<Connectors>>,
    sealing: Arc<Sealing>,
    pub(in crate::broker) status_lists: status::StatusLists,
    pub(in crate::broker) record: record::Recorder,
    pub(in crate::broker) usage: usage::Usage,
    pub(in crate::broker) watched: watched::Watched,
    pub(in crate::broker) sightings: sightings::Sightings,
    pub(in crate::broker) events: events::Events,
    pub(in crate::broker) seen: introspect::Seen,
    pub(in crate::broker) publishing: Option<publish::Publishing>,
    pub(in crate::broker) bundle: ArcSwap<Bundle>,
    /// The same without anybody who is registered.
    pub(in crate::broker) files: ArcSwap<Bundle>,
    /// Held while one is made of the other; what could not be made just now.
    pub(in crate::broker) joining: tokio::sync::Mutex<Option<registered::Failed>>,
    /// Who is registered, as it was read last.
    pub(in crate::broker) held: ArcSwapOption<registered::Held>,
    /// Whoever left before this start is held.
    pub(in crate::broker) leavers_seen: AtomicBool,
    /// Since when how much of the fence log is read.
    pub(in crate::broker) read_to: receipts::ReadTo,
}

/// How clients show certificates, for the metadata: set up when the listeners are.
#[derive(Debug, Clone, Default)]
pub struct CertificateDoors {
    /// Some client can show one, in a handshake or through a proxy.
    pub taken: bool,
    /// Doors of their own for clients that show one (RFC 8705 section 5).
    pub url: Option<String>,
}

/// What [`Broker::new`] is built from.
#[derive(Debug)]
pub struct Parts {
    /// The issuer identifier: an absolute URL without a trailing slash.
    pub url: String,
    pub certificates: CertificateDoors,
    pub clock: Arc<dyn Clock>,
    pub store: Arc<dyn Store>,
    pub sealer: Sealer,
    pub fences: Arc<Fences>,
    pub leases: Arc<Leases>,
    pub sweeper: Arc<Sweeper>,
    pub keyring: Arc<Keyring>,
    /// Shared with the identity room of every bundle.
    pub enrolment: Arc<Enrolment>,
    pub sealing: Arc<Sealing>,
    /// Shared with the sweeper, which ends what older configurations minted.
    pub connectors: Arc<ArcSwap<Connectors>>,
    /// Present where the configuration is a published one.
    pub publishing: Option<publish::Publishing>,
}

impl Broker {
    pub fn new(parts: Parts, bundle: Bundle) -> Self {
        let events = events::Events::new(&parts);
        let sealer = Arc::new(parts.sealer);
        let bundle = Arc::new(bundle);
        Self {
            events,
            url: parts.url,
            certificates: parts.certificates,
            watched: watched::Watched::new(parts.clock.clone()),
            clock: parts.clock,
            record: record::Recorder::new(parts.store.clone()),
            usage: usage::Usage::new(parts.store.clone(), sealer.clone()),
            sightings: sightings::Sightings::new(parts.store.clone()),
            store: parts.store,
            sealer,
            fences: parts.fences,
            leases: parts.leases,
            sweeper: parts.sweeper,
            keyring: parts.keyring,
            enrolment: parts.enrolment,
            connectors: parts.connectors,
            sealing: parts.sealing,
            status_lists: status::StatusLists::default(),
            seen: introspect::Seen::default(),
            publishing: parts.publishing,
            files: ArcSwap::new(Arc::clone(&bundle)),
            bundle: ArcSwap::new(bundle),
            joining: tokio::sync::Mutex::default(),
            held: ArcSwapOption::empty(),
            leavers_seen: AtomicBool::new(false),
            read_to: receipts::ReadTo::default(),
        }
    }

    /// The issuer identifier.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The hash of the configuration in force.
    pub fn config_hash(&self) -> String {
        self.bundle.load().hash.clone()
    }

    /// Before anything is issued: whoever left while no broker was there to hear what is theirs, is held.
    /// `alone`: the store is this process's own.
    pub async fn begin(&self, alone: bool) -> Result<(), Refusal> {
        let bundle = self.bundle.load_full();
        let word = if alone { Word::StartAlone } else { Word::Start };
        self.announce(&bundle.decides, word).await?;
        // Who is registered is somebody's, too.
        let (_, bundle) = self.deciding().await?;
        self.hold_leavers(&bundle).await
    }

    /// Swaps everything at once. Requests under way finish on the bundle they began with.
    pub async fn reload(&self, bundle: Bundle) {
        let enders = bundle.connectors.after(&self.connectors.load());
        self.connectors.store(Arc::new(enders));
        self.stand_by(bundle).await;
    }

    /// Ready = this replica would answer: a fresh view, a clock in time, a store fit for use. Otherwise, why not.
    pub async fn ready(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        if let Err(stale) = self.fences.fresh() {
            problems.push(stale.to_string());
        }
        let here = [self.in_force(), self.joined_here()].into_iter();
        problems.extend(here.filter_map(|here| Some(here.err()?.detail)));
        if let Err(skewed) = self.fences.in_time() {
            problems.push(skewed.to_string());
        }
        match self.store.check().await {
            Ok(found) => problems.extend(
                found
                    .iter()
                    .filter(|finding| !finding.fault.is_advice())
                    .map(ToString::to_string),
            ),
            Err(error) => problems.push(error.to_string()),
        }
        if !self.leavers_seen.load(Ordering::Acquire) {
            problems.push(NOT_LOOKED.to_owned());
        }
        // With the shard and the index: somebody may have to see to it.
        problems.extend(self.sweeper.not_looked());
        problems.extend(
            self.publishing
                .as_ref()
                .and_then(publish::Publishing::behind),
        );
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    /// What somebody must look at and what keeps this replica from nothing: an audit that cannot be exported waits
    /// in the store, for all replicas alike, and revocation goes on behind whatever goes by `ready`.
    pub fn warnings(&self) -> Vec<String> {
        let full = self.room_in_the_audit().err().map(|full| full.detail);
        self.sealing.fault().into_iter().chain(full).collect()
    }

    pub fn audit_backlog(&self) -> u64 {
        self.sealing.backlog()
    }

    /// How old what this replica knows of revocations is; `None`: it has not read them yet.
    pub fn view_age(&self) -> Option<std::time::Duration> {
        self.fences.age()
    }

    pub(in crate::broker) fn may_mint(&self) -> Result<(), Refusal> {
        self.fences.in_time()?;
        self.in_force()?;
        if !self.leavers_seen.load(Ordering::Acquire) {
            return Err(Refusal::new(Reason::StoreUnavailable, NOT_LOOKED).after(1));
        }
        self.room_in_the_audit()
    }

    /// The rest of the room for unsealed entries belongs to revocation and its audit.
    fn room_in_the_audit(&self) -> Result<(), Refusal> {
        if self.sealing.may_mint() {
            return Ok(());
        }
        let waiting = self.sealing.backlog();
        let problem = format!("{waiting} audit entries wait to be exported: nothing is minted");
        Err(Refusal::new(Reason::StoreUnavailable, problem).after(5))
    }

    fn view(&self) -> Result<Arc<View>, Refusal> {
        self.fences
            .fresh()
            .map_err(|stale| Refusal::new(Reason::StaleView, stale.to_string()).after(1))
    }
}
