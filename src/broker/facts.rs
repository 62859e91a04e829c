//! What is asked for changes: what hung on the answer before ends.

use super::{Broker, Refusal};
use crate::fences::{By, Dimension, FenceKind, LONGEST_LIFETIME, NewFence};
use crate::identity::Facts;
use crate::ids::IssuerId;
use crate::intent::{Changed, group};
use crate::policy::contexts;
use crate::wire::Selector;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_secs(1);

/// Asks in the background for as long as the broker is held.
pub fn start(broker: &Arc<Broker>) {
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        while let Some(broker) = broker.upgrade() {
            let bundle = broker.bundle.load_full();
            if let Some(board) = bundle.intents.board() {
                for polled in bundle.intents.polled() {
                    if !board.is_due(polled) {
                        continue;
                    }
                    let (broker, board, polled) = (broker.clone(), board.clone(), polled.clone());
                    tokio::spawn(async move {
                        if polled.tells() {
                            broker.hear_told(&board, &polled).await;
                            board.done(&polled);
                        } else if let Some(changed) = board.look(&polled).await {
                            broker.end_changed(polled.name(), &changed).await;
                        }
                    });
                }
            }
            drop(broker);
            tokio::time::sleep(TICK).await;
        }
    });
}

/// The contexts that were and are no more.
pub(super) fn ended(before: &Facts, after: &Facts) -> Vec<(String, String)> {
    let tethers = before.keys().flat_map(|fact| [fact.as_str(), group(fact)]);
    let tethers: BTreeSet<_> = tethers.collect();
    let of = |facts: &Facts| -> BTreeSet<(String, String)> {
        let all = tethers
            .iter()
            .flat_map(|tether| contexts(tether, facts).unwrap_or_default());
        all.collect()
    };
    let now = of(after);
    of(before)
        .into_iter()
        .filter(|context| !now.contains(context))
        .collect()
}

impl Broker {
    /// Beside the others: one that is slow delays nobody.
    pub(super) async fn end_changed(&self, name: &IssuerId, changed: &Changed) {
        self.end_all(name, ended(&changed.before, &changed.after))
            .await;
    }

    pub(super) async fn end_all(
        &self,
        name: &IssuerId,
        ends: impl IntoIterator<Item = (String, String)> + Send,
    ) {
        for (kind, id) in ends {
            // INVARIANT: until it is on the log. Without a store nothing is minted either.
            while let Err(refusal) = self.fact_ended(name, &kind, &id).await {
                tracing::error!(
                    fact = kind,
                    why = refusal.detail,
                    "a fact ended and that is not on the log yet"
                );
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// A kill and no hold: whether it holds now is for the next decision to ask, and a freeze that was lifted
    /// lets work go on.
    async fn fact_ended(&self, name: &IssuerId, kind: &str, id: &str) -> Result<(), Refusal> {
        let now = self.clock.now();
        let fence = NewFence::new(
            FenceKind::Kill,
            Dimension::context(name.as_str(), kind, id),
            &format!("facts {name}"),
            &format!("{kind} is no longer {id}"),
        );
        let rule = By::Rule(format!("facts/{name}"));
        let fence = fence.by(rule).until(now + LONGEST_LIFETIME);
        let selector = Selector::Context {
            issuer: name.to_string(),
            kind: kind.to_owned(),
            id: id.to_owned(),
        };
        self.fence(fence, selector, now).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(value: serde_json::Value) -> Facts {
        value.as_object().unwrap().clone().into_iter().collect()
    }

    #[test]
    fn what_is_no_more_has_ended_and_what_stayed_has_not() {
        let before = facts(json!({ "freeze.state": "open", "freeze.id": "7" }));
        let told = |after| ended(&before, &facts(after));
        let own = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
        assert_eq!(
            told(json!({ "freeze.state": "open", "freeze.id": "7" })),
            []
        );
        let frozen = json!({ "freeze.state": "frozen", "freeze.id": "7" });
        assert_eq!(told(frozen), [own("freeze.state", "open")]);
        let next = json!({ "freeze.state": "open", "freeze.id": "8" });
        assert_eq!(told(next), [own("freeze", "7"), own("freeze.id", "7")]);
        assert_eq!(told(json!({})).len(), 3);
    }
}
