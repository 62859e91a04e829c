//! Which configuration is in force: the last one that was said on the fence log. A replica that still has
//! another mints nothing after half a minute, or a mission that was narrowed would be wide on it for ever.

use super::standing::OURSELVES;
use super::{Broker, Reason, Refusal};
use crate::fences::{By, Dimension, DimensionKind, FenceKind, Fences, NewFence};
use time::Duration;

/// What replicas have to follow, one after the other.
const BEHIND: Duration = Duration::seconds(30);
const TRIES: usize = 16;

impl Broker {
    /// Says that this configuration is in force. `by_itself`: nobody asked for it, a process has started;
    /// then one that another has replaced already is not said again.
    pub async fn announce(&self, decides: &str, by_itself: bool) -> Result<(), Refusal> {
        // What is published is on the log by itself.
        if self.bundle.load().revision > 0 {
            return Ok(());
        }
        for _ in 0..TRIES {
            let view = self.view()?;
            let last = view
                .configuration()
                .map(|said| said.dimension.value.as_str());
            if last == Some(decides) || (by_itself && view.is_superseded(decides)) {
                return Ok(());
            }
            let on = Dimension::new(DimensionKind::Configuration, decides);
            let why = "it was loaded";
            let said = NewFence::new(FenceKind::Configure, on, OURSELVES, why)
                .by(By::Rule("configuration".to_owned()));
            let now = self.clock.now();
            let unmoved = vec![Fences::unmoved(&view)];
            let raised = self.fences.raise_with(said, unmoved, Vec::new(), now);
            if raised.await?.is_some() {
                return Ok(());
            }
            // Somebody else said something: read on first.
            let next = view.position().sequence + 1;
            self.fences.reach(next).await?;
        }
        Err(Refusal::new(Reason::StoreUnavailable, "too many raise fences at once").after(1))
    }

    /// SECURITY: what was narrowed is narrow everywhere.
    pub(in crate::broker) fn in_force(&self) -> Result<(), Refusal> {
        let view = self.fences.last();
        if self.bundle.load().revision > 0 {
            return Ok(());
        }
        let Some(said) = view.configuration() else {
            return Ok(());
        };
        let now = self.clock.now();
        if said.dimension.value == self.bundle.load().decides || now - said.at <= BEHIND {
            return Ok(());
        }
        let why = format!(
            "another configuration is in force since {}: load that one here, or send this replica SIGHUP to make its own the one in force",
            said.at
        );
        Err(Refusal::new(Reason::ConfigurationSuperseded, why).after(5))
    }
}
