//! One configuration for all replicas: stored whole, and in force from one position of the fence log.
//!
//! Publishing is one commit: the record with the files, the entry on the log that names it, the entry
//! in the audit. Before it the old configuration decides everywhere, after it the new one; there is
//! nothing between to be killed in. A request takes its view first and the configuration of that view:
//! see [`Broker::deciding`].

mod follow;
mod record;

pub use follow::start;
pub use record::{Files, Stored};

use super::{Broker, Bundle, Operator, Reason, Refusal};
use crate::audit::{Entry, Event};
use crate::fences::{FenceKind, NewFence, Published, View};
use crate::ids::ShardId;
use crate::secret::Sealer;
use crate::store::{Guard, Write};
use crate::wire::{ConfigView, PublishAnswer, PublishRequest, PublishedView};
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a replica that cannot take over what was published goes on with what it has.
pub const GRACE: Duration = Duration::from_secs(30);

/// How long a request waits for a swap that is under way.
const PATIENCE: Duration = Duration::from_secs(2);

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
    sealer: Sealer,
    build: Box<Build>,
    /// Held from before a bundle is built until it is swapped in.
    turn: tokio::sync::Mutex<()>,
    /// The record that decides here; `None`: the folder does.
    held: Mutex<Option<Arc<Stored>>>,
    state: watch::Sender<State>,
}

/// Whether this replica has what was published.
#[derive(Debug, Clone, Default)]
struct State {
    /// What decides here.
    revision: u64,
    /// Boot time since when another one should, and why it does not.
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
    pub fn new(sealer: Sealer, held: Option<Stored>, build: Box<Build>) -> Self {
        let revision = held.as_ref().map_or(0, |held| held.revision);
        Self {
            sealer,
            build,
            turn: tokio::sync::Mutex::default(),
            held: Mutex::new(held.map(Arc::new)),
            state: watch::Sender::new(State {
                revision,
                behind: None,
            }),
        }
    }

    fn held(&self) -> Option<Arc<Stored>> {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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

impl Broker {
    /// The view to decide on and the configuration that decides at its position.
    ///
    /// INVARIANT: one bundle for the whole request, never older than its view, but for the time of grace.
    pub(in crate::broker) async fn deciding(&self) -> Result<(Arc<View>, Arc<Bundle>), Refusal> {
        let Some(publishing) = &self.publishing else {
            // INVARIANT: the view comes first; everything below decides on this one view, so that an
            // end that is appended meanwhile is later than the lease and kills it.
            let view = self.view()?;
            return Ok((view, self.bundle.load_full()));
        };
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut state = publishing.state.subscribe();
        loop {
            let seen = state.borrow_and_update().clone();
            let view = self.view()?;
            let bundle = self.bundle.load_full();
            let wanted = view.published().map_or(0, |published| published.revision);
            if bundle.revision == wanted {
                return Ok((view, bundle));
            }
            if let (true, Some((since, why))) = (bundle.revision < wanted, seen.behind) {
                if self.clock.since_boot().saturating_sub(since) <= GRACE {
                    return Ok((view, bundle));
                }
                return Err(Refusal::new(Reason::StaleConfiguration, why).after(5));
            }
            // The swap is under way, or the view was read just before it.
            if !matches!(
                tokio::time::timeout_at(until, state.changed()).await,
                Ok(Ok(()))
            ) {
                let why = format!("configuration {wanted} is not loaded yet");
                return Err(Refusal::new(Reason::StaleConfiguration, why).after(1));
            }
        }
    }

    /// What decides at this replica.
    pub fn configuration(&self) -> ConfigView {
        let bundle = self.bundle.load();
        let published = self.fences.last().published();
        ConfigView {
            hash: bundle.hash.clone(),
            revision: bundle.revision,
            published: published.map(|published| PublishedView {
                revision: published.revision,
                hash: published.hash,
            }),
            behind: self.publishing.as_ref().and_then(Publishing::behind),
        }
    }

    /// Stores a configuration and puts it in force at one position of the log, for every replica.
    pub async fn publish(
        &self,
        by: &Operator,
        request: PublishRequest,
    ) -> Result<PublishAnswer, Refusal> {
        let forbidden = |why: &str| Refusal::new(Reason::NotPermitted, why).exact();
        if by.break_glass {
            return Err(forbidden("break-glass never publishes a configuration"));
        }
        let Some(publishing) = &self.publishing else {
            let why = "this broker's own folder is its configuration: `[broker]` has no `config = \"published\"`";
            return Err(refused(why));
        };
        let reason = request.reason.clone();
        let files = Arc::new(Files::of(request).map_err(|why| refused(&why))?);
        let _turn = publishing.turn.lock().await;
        let built = (publishing.build)(files.clone(), Purpose::Publishing).await;
        let mut bundle = built.map_err(|unfit| match unfit {
            Unfit::Here(why) => refused(&why),
            Unfit::Wrong(problems) => {
                let mut refusal = Refusal::new(Reason::ConfigurationRefused, "it does not check");
                refusal.problems = Some(problems.into());
                refusal.exact()
            }
        })?;
        self.hold_leavers(&bundle).await?;
        let now = self.clock.now();
        let view = self.view()?;
        let found = record::read(self.store.as_ref()).await?;
        let known = view.published().map_or(0, |published| published.revision);
        let stored = found.as_ref().and_then(|found| {
            // One that does not open is in the way of nobody: it is replaced.
            Stored::open(&publishing.sealer, &found.value).ok()
        });
        let revision = known.max(stored.map_or(0, |stored| stored.revision)) + 1;
        let stored = Stored {
            revision,
            hash: bundle.hash.clone(),
            url: self.url.clone(),
            by: by.name.clone(),
            at: now,
            files: Files::clone(&files),
        };
        let value = stored.seal(&publishing.sealer)?;
        let before = self.bundle.load().hash.clone();
        let published = Published {
            revision,
            hash: bundle.hash.clone(),
        };
        let fence = NewFence::new(FenceKind::Publish, published.dimension(), &by.name, &reason);
        let entry = Entry::new(Event::ConfigLoaded, now)
            .operator(&by.name)
            .reason(reason.as_str())
            .config_hash(&bundle.hash)
            .with("before", before.as_str())
            .with("revision", revision)
            .with("files", files.texts.len());
        let guard = match &found {
            Some(found) => Guard::Unchanged(record::key(), found.version),
            None => Guard::Absent(record::key()),
        };
        let put = Write::Put {
            key: record::key(),
            value,
            expires_at: None,
        };
        let writes = vec![put, entry.append(ShardId::INSTALLATION)];
        let raised = self
            .fences
            .raise_with(fence, vec![guard], writes, now)
            .await?;
        let meanwhile = || Refusal::new(Reason::PublishedMeanwhile, "the record changed").exact();
        let raised = raised.ok_or_else(meanwhile)?;
        bundle.revision = revision;
        let hash = bundle.hash.clone();
        self.record.fenced(&raised.fence);
        self.swap(publishing, bundle, stored);
        Ok(PublishAnswer {
            revision,
            hash,
            before,
            position: raised.position.sequence,
            replicated: raised.replicated,
        })
    }

    /// What decides here is read again, with the secrets that it refers to. `Ok(None)`: the folder decides.
    pub async fn reload_published(&self) -> Result<Option<String>, String> {
        let Some(publishing) = &self.publishing else {
            return Ok(None);
        };
        let _turn = publishing.turn.lock().await;
        let Some(held) = publishing.held() else {
            return Ok(None);
        };
        let files = Arc::new(held.files.clone());
        let built = (publishing.build)(files, Purpose::TakingOver).await;
        let mut bundle = built.map_err(|unfit| unfit.to_string())?;
        let leavers = self.hold_leavers(&bundle).await;
        leavers.map_err(|refusal| refusal.detail)?;
        bundle.revision = held.revision;
        let hash = bundle.hash.clone();
        self.reload(bundle);
        Ok(Some(hash))
    }

    fn swap(&self, publishing: &Publishing, bundle: Bundle, stored: Stored) {
        let (revision, hash) = (bundle.revision, bundle.hash.clone());
        self.reload(bundle);
        *publishing
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(stored));
        publishing.state.send_replace(State {
            revision,
            behind: None,
        });
        follow::count(revision, false);
        tracing::info!(
            config = hash,
            revision,
            "the published configuration decides here"
        );
    }
}

fn refused(why: &str) -> Refusal {
    let mut refusal = Refusal::new(Reason::ConfigurationRefused, why).exact();
    let problem =
        serde_json::json!({ "severity": "error", "code": "unpublishable", "message": why });
    refusal.problems = Some(Box::new([problem]));
    refusal
}
