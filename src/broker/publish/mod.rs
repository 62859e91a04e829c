//! One configuration for all replicas: stored whole, and in force from one position of the fence log.
//!
//! Publishing is one commit: the record with the files, the entry on the log that names it, the entry
//! in the audit. Before it the old configuration decides everywhere, after it the new one; there is
//! nothing between to be killed in. A request takes its view first and the configuration of that view:
//! see [`Broker::deciding`].

mod follow;
mod record;

pub use follow::start;
pub use record::{Files, SLOT, Stored};

use super::configured::Word;
use super::operators::StillOperator;
use super::refusal::Beside;
use super::{Broker, Bundle, Reason, Refusal};
use crate::fences::{Configured, FenceKind, Fences, Named, NewFence, Raised, View};
use crate::ids::ShardId;
use crate::wire::{ConfigView, PublishAnswer, PublishRequest, PublishedView};
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{MutexGuard, watch};

/// How long a replica that cannot take over what was published goes on with what it has.
pub const GRACE: Duration = Duration::from_secs(30);

/// How long a request waits for a swap that is under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Attempts where somebody else raises something meanwhile.
pub(in crate::broker) const TRIES: usize = 32;

/// What the files are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be published: their policy tests are run, and no secret may stand in them.
    Publishing,
    /// They were published, and this replica takes them over.
    TakingOver,
}

/// Why files are no configuration of this replica.
#[derive(Debug)]
pub enum Unfit {
    /// What is wrong with them, as `dayfly check` tells it.
    Wrong(Vec<serde_json::Value>),
    /// They are well, and something that they refer to is not there.
    Here(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(why) => f.write_str(why),
            Self::Wrong(problems) => {
                let told = |problem: &serde_json::Value| {
                    let part =
                        |name: &str| problem.get(name).map_or("", |v| v.as_str().unwrap_or(""));
                    format!("{}: {}: {}", part("file"), part("code"), part("message"))
                };
                let lines: Vec<_> = problems.iter().map(told).collect();
                f.write_str(&lines.join("; "))
            }
        }
    }
}

/// Makes everything that a reload swaps out of published files and what is this replica's own.
pub type Build =
    dyn Fn(Arc<Files>, Purpose) -> BoxFuture<'static, Result<Bundle, Unfit>> + Send + Sync;

/// This replica's part in publishing. Absent where its folder alone decides.
pub struct Publishing {
    /// With this replica's own part, as it was read last.
    build: Mutex<Arc<Build>>,
    /// Held from before a bundle is looked at once more until it is swapped in.
    turn: tokio::sync::Mutex<()>,
    /// Held while this replica's own part is read again.
    reading: tokio::sync::Mutex<()>,
    /// The record that decides here; `None`: the folder does.
    held: Mutex<Option<Arc<Stored>>>,
    state: watch::Sender<State>,
}

/// Whether this replica has what was published. Sent with each swap.
#[derive(Debug, Clone, Default)]
struct State {
    /// Boot time since when another one should decide here, and why it does not.
    behind: Option<(Duration, String)>,
}

impl fmt::Debug for Publishing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publishing")
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Publishing {
    /// `held`: what the first bundle was built from.
    pub fn new(held: Option<Stored>, build: Arc<Build>) -> Self {
        Self {
            build: Mutex::new(build),
            turn: tokio::sync::Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            held: Mutex::new(held.map(Arc::new)),
            state: watch::Sender::default(),
        }
    }

    fn build(&self) -> Arc<Build> {
        let build = self.build.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&build)
    }

    /// What would be in force, and the turn to put it there. It is made before the turn: nobody waits for a store
    /// or a command that is slow for somebody else's files.
    async fn prepared(&self, files: &Arc<Files>) -> Result<(Bundle, MutexGuard<'_, ()>), Refusal> {
        loop {
            let build = self.build();
            let built = build(Arc::clone(files), Purpose::Publishing).await;
            let bundle = built.map_err(|unfit| match unfit {
                Unfit::Here(why) => refused(&why),
                Unfit::Wrong(problems) => {
                    Refusal::new(Reason::ConfigurationRefused, "it does not check")
                        .with(Beside::Problems(problems))
                        .exact()
                }
            })?;
            let turn = self.turn.lock().await;
            // INVARIANT: with this replica's own part as it is now. It may have been read again meanwhile.
            if Arc::ptr_eq(&build, &self.build()) {
                return Ok((bundle, turn));
            }
        }
    }

    fn held(&self) -> Option<Arc<Stored>> {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A replica that does not take over what was published goes on with what it has for a while only.
    pub(in crate::broker) fn within_grace(&self, now: Duration) -> Result<(), Refusal> {
        match &self.state.borrow().behind {
            Some((since, why)) if now.saturating_sub(*since) > GRACE => {
                Err(Refusal::new(Reason::StaleConfiguration, why.clone()).after(5))
            }
            _ => Ok(()),
        }
    }

    /// Why another configuration should decide here and does not.
    pub(in crate::broker) fn behind(&self) -> Option<String> {
        let state = self.state.borrow();
        let (_, why) = state.behind.as_ref()?;
        Some(format!(
            "this replica does not have the published configuration: {why}"
        ))
    }
}

/// What this replica makes of a record that is in force.
async fn made_of(build: &Build, stored: &Stored) -> Result<Bundle, String> {
    let files = Arc::new(stored.files.clone());
    let built = build(files, Purpose::TakingOver).await;
    let mut bundle = built.map_err(|unfit| unfit.to_string())?;
    bundle.revision = stored.revision;
    Ok(bundle)
}

impl Bundle {
    /// Whether it is older than this publication, or a folder's. Of two with one number the log's is the one.
    pub(in crate::broker) fn is_before(&self, wanted: &Named) -> bool {
        self.revision < wanted.number
            || (self.revision == wanted.number && self.hash != wanted.sha256)
    }
}

impl Broker {
    /// The view to decide on and the configuration that decides at its position.
    ///
    /// INVARIANT: the view comes first; everything below decides on this one view, so that an end that is appended
    /// meanwhile is later than the lease and kills it.
    pub(in crate::broker) async fn deciding(&self) -> Result<(Arc<View>, Arc<Bundle>), Refusal> {
        loop {
            let view = self.view()?;
            let (bundle, waited) = self.bundle_of(&view).await?;
            // Or what was fresh is not any more.
            if !waited {
                return Ok((view, bundle));
            }
        }
    }

    /// The configuration to decide by on this view, and whether it had to be waited for.
    ///
    /// INVARIANT: one bundle for the whole request, never older than its view, but for the time of grace.
    pub(in crate::broker) async fn bundle_of(
        &self,
        view: &View,
    ) -> Result<(Arc<Bundle>, bool), Refusal> {
        let (bundle, waited) = self.files_of(view).await?;
        if !bundle.lacks(view) {
            return Ok((bundle, waited));
        }
        Ok((self.settled().await?, true))
    }

    /// The files of this view, or of a later one.
    async fn files_of(&self, view: &View) -> Result<(Arc<Bundle>, bool), Refusal> {
        let wanted = view.configured().and_then(|said| said.record());
        let (Some(publishing), Some(wanted)) = (&self.publishing, wanted) else {
            return Ok((self.bundle.load_full(), false));
        };
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut state = publishing.state.subscribe();
        let mut waited = false;
        loop {
            let seen = state.borrow_and_update().clone();
            let bundle = self.bundle.load_full();
            if !bundle.is_before(&wanted) {
                return Ok((bundle, waited));
            }
            if seen.behind.is_some() {
                publishing.within_grace(self.clock.since_boot())?;
                return Ok((bundle, waited));
            }
            // The swap is under way.
            waited = true;
            if !matches!(
                tokio::time::timeout_at(until, state.changed()).await,
                Ok(Ok(()))
            ) {
                let why = format!("configuration {wanted} is not loaded yet");
                return Err(Refusal::new(Reason::StaleConfiguration, why).after(1));
            }
        }
    }

    /// The same one, or the one that this view names, if it is later.
    pub(in crate::broker) async fn no_older(
        &self,
        bundle: Arc<Bundle>,
        view: &View,
    ) -> Result<Arc<Bundle>, Refusal> {
        let wanted = view.configured().and_then(|said| said.record());
        let wanted = wanted.filter(|_| self.publishing.is_some());
        if wanted.is_some_and(|wanted| bundle.is_before(&wanted)) || bundle.lacks(view) {
            return Ok(self.bundle_of(view).await?.0);
        }
        Ok(bundle)
    }

    /// What decides at this replica.
    pub fn configuration(&self) -> ConfigView {
        let bundle = self.bundle.load();
        let view = self.fences.last();
        let number = view.configured().map(|said| said.decides.number);
        let published = view.published();
        ConfigView {
            hash: bundle.hash.clone(),
            revision: bundle.revision,
            number: number.unwrap_or(0),
            published: published.map(|published| PublishedView {
                revision: published.number,
                hash: published.sha256,
            }),
            behind: self.publishing.as_ref().and_then(Publishing::behind),
        }
    }

    /// Stores a configuration and puts it in force at one position of the log, for every replica.
    pub async fn publish(
        &self,
        by: &StillOperator,
        request: PublishRequest,
    ) -> Result<PublishAnswer, Refusal> {
        let forbidden = |why: &str| Refusal::new(Reason::NotPermitted, why).exact();
        if by.is_break_glass() {
            return Err(forbidden("break-glass never publishes a configuration"));
        }
        let Some(publishing) = &self.publishing else {
            let why = "this broker's own folder is its configuration: `[broker]` has no `config = \"published\"`";
            return Err(refused(why));
        };
        let (reason, after) = (request.reason.clone(), request.after);
        let even_without = request.even_without_me;
        let files = Arc::new(Files::of(request).map_err(|why| refused(&why))?);
        let (mut bundle, _turn) = publishing.prepared(&files).await?;
        // INVARIANT: or nobody could put it right.
        if !even_without && let Err(refusal) = self.admin_by(&bundle, by).await {
            let why = format!(
                "whoever publishes it could not publish the next one: {}",
                refusal.detail
            );
            return Err(refused(&why));
        }
        self.hold_leavers(&bundle).await?;
        let before = self.bundle.load().hash.clone();
        let new = Stored {
            revision: 0,
            hash: bundle.hash.clone(),
            url: self.url.clone(),
            by: by.name().to_owned(),
            at: self.clock.now(),
            files: Files::clone(&files),
        };
        let (raised, stored) = self
            .put_in_force(new, &bundle, (&reason, after, even_without))
            .await?;
        bundle.revision = stored.revision;
        let answer = PublishAnswer {
            revision: stored.revision,
            hash: stored.hash.clone(),
            before,
            position: raised.position.sequence,
            replicated: raised.replicated,
        };
        self.record.fenced(&raised.fence);
        self.swap(publishing, bundle, stored).await;
        Ok(answer)
    }

    /// One commit: the record, the entry on the log that names it, the entry in the audit.
    async fn put_in_force(
        &self,
        mut new: Stored,
        bundle: &Bundle,
        (reason, mut after, even_without): (&str, Option<u64>, bool),
    ) -> Result<(Raised, Stored), Refusal> {
        let mut beside = None;
        for _ in 0..TRIES {
            let now = self.clock.now();
            let view = self.view()?;
            // INVARIANT: with whoever is registered when it is in force. The log does not move meanwhile.
            if let Some(named) = view.registered()
                && beside.as_ref() != Some(named)
            {
                let set = self.set(named).await?;
                let stands = bundle.stands_beside(&set).await;
                stands.map_err(|why| refused(&why))?;
                beside = Some(named.clone());
            }
            let last = view.configured().map(|last| last.decides.number);
            let in_force = last.unwrap_or(0);
            if *after.get_or_insert(in_force) != in_force {
                let why = format!("{in_force} is the number of what is in force");
                return Err(Refusal::new(Reason::PublishedMeanwhile, why).exact());
            }
            let found = SLOT.find(self.store.as_ref(), &self.sealer).await?;
            let number = found.next(last);
            new.revision = number
                .ok_or_else(|| Refusal::new(Reason::Internal, "there is no number after this"))?;
            let said = Configured {
                decides: Named {
                    number: new.revision,
                    sha256: bundle.decides.clone(),
                },
                published: Some(new.hash.clone()),
            };
            let put = SLOT.put(&self.sealer, &new.record()?);
            let put = put.map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
            let entry = said
                .told(now)
                .operator(&new.by)
                .reason(reason)
                .config_hash(&new.hash)
                .with("even_without_me", even_without)
                .with("before", self.bundle.load().hash.as_str())
                .with("files", new.files.texts.len());
            let fence = NewFence::new(FenceKind::Configure, said.dimension(), &new.by, reason);
            let guards = vec![found.guard(), Fences::unmoved(&view)];
            let writes = vec![put, entry.append(ShardId::INSTALLATION)];
            let raised = self.fences.raise_with(fence, guards, writes, now).await?;
            if let Some(raised) = raised {
                return Ok((raised, new));
            }
            // Somebody said something else, or published: read on first.
            let next = view.position().sequence + 1;
            self.fences.reach(next).await?;
        }
        Err(Refusal::new(Reason::StoreUnavailable, "too many raise fences at once").after(1))
    }

    /// Reads again what this replica has of its own: what was published with the secrets that it refers to,
    /// or its folder, which is in force then. Swaps everything or keeps everything; the hash of what decides then.
    pub async fn read_again(
        &self,
        build: Arc<Build>,
        folder: impl Future<Output = Result<Bundle, String>> + Send,
    ) -> Result<String, String> {
        let Some(publishing) = &self.publishing else {
            return self.stand_on(folder.await?).await;
        };
        // One after the other: what is read last is what stays.
        let _reading = publishing.reading.lock().await;
        let mut own = match publishing.held() {
            None => Some(folder.await?),
            Some(_) => None,
        };
        loop {
            let held = publishing.held();
            // Before the turn: secrets may be slow to read, and what is published meanwhile is taken over.
            let made = match &held {
                Some(held) => Some(made_of(&*build, held).await),
                None => None,
            };
            let _turn = publishing.turn.lock().await;
            // INVARIANT: or what was published meanwhile would be overwritten.
            let is_same = match (&held, &publishing.held()) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (before, now) => before.is_none() && now.is_none(),
            };
            if !is_same {
                continue;
            }
            let hash = match (made, own.take()) {
                (Some(bundle), _) => {
                    let bundle = bundle?;
                    let leavers = self.hold_leavers(&bundle).await;
                    leavers.map_err(|refusal| refusal.detail)?;
                    let hash = bundle.hash.clone();
                    self.reload(bundle).await;
                    hash
                }
                (None, Some(folder)) => self.stand_on(folder).await?,
                (None, None) => return Err("what was published is gone".to_owned()),
            };
            *publishing
                .build
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = build;
            return Ok(hash);
        }
    }

    /// A folder is in force from here on.
    async fn stand_on(&self, folder: Bundle) -> Result<String, String> {
        // Where they cannot be had nothing is issued, and these files may be the mended ones.
        if let Some(named) = self.fences.last().registered()
            && let Ok(set) = self.set(named).await
        {
            folder.is_apart(&set)?;
        }
        let leavers = self.hold_leavers(&folder).await;
        leavers.map_err(|refusal| refusal.detail)?;
        let said = self.announce(&folder.decides, Word::Operator).await;
        said.map_err(|refusal| refusal.detail)?;
        let hash = folder.hash.clone();
        self.reload(folder).await;
        Ok(hash)
    }

    async fn swap(&self, publishing: &Publishing, bundle: Bundle, stored: Stored) {
        let (revision, hash) = (bundle.revision, bundle.hash.clone());
        self.reload(bundle).await;
        *publishing
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(stored));
        publishing.state.send_replace(State::default());
        follow::count(revision, false);
        tracing::info!(
            config = hash,
            revision,
            "the published configuration decides here"
        );
    }
}

fn refused(why: &str) -> Refusal {
    let problem =
        serde_json::json!({ "severity": "error", "code": "unpublishable", "message": why });
    Refusal::new(Reason::ConfigurationRefused, why)
        .with(Beside::Problems(vec![problem]))
        .exact()
}
