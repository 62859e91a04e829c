//! Telling others as it happens: the audit, to operators; what becomes of their own tokens, to
//! resource servers.
//!
//! One source: the log of the audit in the store, where an entry stands with the commit of the thing
//! itself, a fence among them, whichever replica wrote it. The fences' follower only says when to look.
//! Who is told what is decided at each entry by who listens, never by the place that a client says it
//! wants to go on from: see [`tell`].

mod hub;
mod place;
mod stream;
mod tell;

pub use hub::OWNERS_KEPT;
pub use tell::Filter;

use super::operators::StillOperator;
use super::release::StillServer;
use super::{Broker, Refusal};
use hub::Hub;
use place::Place;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use stream::Stream;
use tokio::sync::mpsc;

/// How often the audit is read while somebody listens. A fence does not wait for it.
const EVERY: Duration = Duration::from_secs(1);
/// A reader that came no further for so long tells nobody that all is quiet.
const STALE: Duration = Duration::from_secs(5);
/// Events that wait for a listener to take them.
const BUFFER: usize = 64;

/// Who listens, as it proved it.
#[derive(Debug)]
pub enum Listener {
    Operator(StillOperator, Filter),
    ResourceServer(StillServer),
}

/// What a listener is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    Event {
        name: String,
        /// Where to go on after it.
        id: String,
        data: Value,
    },
    /// Nothing happened, and the line is open.
    Alive,
}

/// What the broker holds for all listeners.
#[derive(Debug)]
pub(in crate::broker) struct Events {
    hub: Arc<Hub>,
}

impl Events {
    pub fn new(parts: &super::Parts) -> Self {
        let (store, fences) = (parts.store.clone(), parts.fences.clone());
        let hub = Hub::new(store, fences, parts.leases.clone(), parts.clock.clone());
        Self { hub: Arc::new(hub) }
    }
}

impl Broker {
    /// Everything from now on, or after the event with the id `last`. Ends with an event that says why,
    /// at the latest when `stopped` does. `held` is dropped with it.
    pub async fn listen(
        self: &Arc<Self>,
        listener: Listener,
        last: Option<&str>,
        stopped: impl Future<Output = ()> + Send + 'static,
        held: impl Send + 'static,
    ) -> Result<mpsc::Receiver<Word>, Refusal> {
        let seat = self.events.hub.seat(listener.whose())?;
        if !seat.hub().caught_up().await {
            let problem = "what happens cannot be read now";
            return Err(Refusal::new(super::Reason::StoreUnavailable, problem).after(2));
        }
        // INVARIANT: before the place, or a failover in between would be none.
        let forks = seat.hub().forks();
        let (place, gap) = Place::resume(last, seat.hub(), self.leases.sealer());
        let (words, receiver) = mpsc::channel(BUFFER + 1);
        let stream = Stream::new(Arc::clone(self), seat, listener, (place, forks), words);
        tokio::spawn(async move {
            stream.run(gap, stopped).await;
            drop(held);
        });
        Ok(receiver)
    }
}

impl Listener {
    fn whose(&self) -> String {
        match self {
            Self::Operator(operator, _) => format!("operator/{}", operator.name()),
            Self::ResourceServer(server) => format!("resource server/{}", server.name()),
        }
    }
}
