//! Which configuration is in force: the last one that was said on the fence log. A replica that still has
//! another mints nothing after half a minute, or a mission that was narrowed would be wide on it for ever.

use super::standing::OURSELVES;
use super::{Broker, Reason, Refusal};
use crate::fences::{By, Configured, FenceKind, Fences, Named, NewFence};
use crate::ids::ShardId;
use time::Duration;

/// What replicas have to follow, one after the other.
const BEHIND: Duration = Duration::seconds(30);
const TRIES: usize = 16;

/// Why a configuration is said to be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// A process has started, and nobody asked for it.
    Start,
    /// The same, and no other process has this store.
    StartAlone,
    /// SIGHUP.
    Operator,
}

impl Broker {
    /// Says that a folder is in force.
    ///
    /// SECURITY: by itself a start brings back nothing that another configuration took the place of, and takes
    /// the place of nothing that was published.
    pub async fn announce(&self, decides: &str, word: Word) -> Result<(), Refusal> {
        // What is published is on the log by itself.
        if self.bundle.load().revision > 0 {
            return Ok(());
        }
        for _ in 0..TRIES {
            let view = self.view()?;
            let last = view.configured();
            let stays = match word {
                Word::Operator => false,
                Word::Start => view.published().is_some() || view.is_superseded(decides),
                Word::StartAlone => view.published().is_some(),
            };
            let is_last = |said: &Configured| said.decides.sha256 == decides;
            if stays || last.as_ref().is_some_and(is_last) {
                return Ok(());
            }
            let is_published = |said: &Configured| said.published.is_some();
            if self.publishing.is_some() && last.as_ref().is_some_and(is_published) {
                let why = "a configuration was published: it decides";
                return Err(Refusal::new(Reason::PublishedMeanwhile, why));
            }
            let last = last.map_or(0, |last| last.decides.number);
            let number = last.checked_add(1);
            let said = Configured {
                decides: Named {
                    number: number.ok_or_else(|| Refusal::new(Reason::Internal, "no number"))?,
                    sha256: decides.to_owned(),
                },
                published: None,
            };
            let now = self.clock.now();
            let (why, rule) = ("it was loaded", "configuration");
            let entry = said.told(now).reason(why);
            let entry = entry.with("by", OURSELVES).with("rule", rule);
            let fence = NewFence::new(FenceKind::Configure, said.dimension(), OURSELVES, why)
                .by(By::Rule(rule.to_owned()));
            let unmoved = vec![Fences::unmoved(&view)];
            let writes = vec![entry.append(ShardId::INSTALLATION)];
            let raised = self.fences.raise_with(fence, unmoved, writes, now);
            if raised.await?.is_some() {
                return Ok(());
            }
            // Somebody else said something: read on first.
            let next = view.position().sequence + 1;
            self.fences.reach(next).await?;
        }
        Err(Refusal::new(Reason::StoreUnavailable, "too many raise fences at once").after(1))
    }

    /// Whether what decides here is what is in force, or was until just now.
    pub(in crate::broker) async fn decides_here(&self) -> Result<(), Refusal> {
        self.in_force()?;
        if self.joined_here().is_err() {
            self.settled().await?;
        }
        let publishing = self.publishing.as_ref();
        publishing.map_or(Ok(()), |publishing| {
            publishing.within_grace(self.clock.since_boot())
        })
    }

    /// SECURITY: what was narrowed is narrow everywhere, however each replica comes by its configuration.
    pub(in crate::broker) fn in_force(&self) -> Result<(), Refusal> {
        let view = self.fences.last();
        let (Some(said), Some(fence)) = (view.configured(), view.configuration()) else {
            return Ok(());
        };
        // This replica takes it over, or says why it cannot: see `Broker::bundle_of`.
        if self.publishing.is_some() && said.published.is_some() {
            return Ok(());
        }
        let now = self.clock.now();
        if said.decides.sha256 == self.bundle.load().decides || now - fence.at <= BEHIND {
            return Ok(());
        }
        let own = match said.published {
            Some(_) => "take part with `config = \"published\"`",
            None => "load that one here",
        };
        let why = format!(
            "another configuration is in force since {}: {own}, or send this replica SIGHUP to make its own the one in force",
            fence.at
        );
        Err(Refusal::new(Reason::ConfigurationSuperseded, why).after(5))
    }
}
