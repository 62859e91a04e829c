//! A message of a source counts once: what was signed stays signed, and whoever kept a copy could hold again
//! what an operator has lifted.
//!
//! It is known by what was signed: GitHub signs the body and nothing
//! beside it (GitLab an id, where it signs), so `X-GitHub-Delivery` tells no replay from a delivery, and its bodies name a run and a time.

use super::contexts::{SigningSecret, end_of, signed_id};
use super::{Broker, Reason, Refusal, SourceKind, SourceSettings};
use crate::fences::{By, Dimension};
use crate::ids::ShardId;
use crate::replay::{self, ReplayMark};
use crate::store::{Guard, Key, Outcome, Transaction, Write, settle};
use crate::wire::EndContextRequest;
use axum::http::HeaderMap;
use time::{Duration, OffsetDateTime};

/// Longer than any platform delivers a message again by itself or by hand (GitHub: three days).
const KEPT: Duration = Duration::days(7);
const DEADLINE: Duration = Duration::seconds(10);

/// What this message is known by. `None`: one that may well come twice, word by word, and mean it. A user leaves
/// twice; facts have an order of their own.
pub(in crate::broker) fn mark(
    source: &SourceSettings,
    headers: &HeaderMap,
    body: &[u8],
    now: OffsetDateTime,
) -> Option<ReplayMark> {
    // The same machine can end, start and end again: what tells them apart is the time that is signed with it.
    let sent = match source.kind {
        // Signed, and the same however often it is delivered.
        SourceKind::Gitlab if SigningSecret::of(&source.secret).is_some() => {
            let id = signed_id(headers)?;
            return Some(marked(source, id.as_bytes(), now));
        }
        SourceKind::Generic => headers.get("x-dayfly-timestamp")?.as_bytes(),
        SourceKind::Github | SourceKind::Gitlab => b"",
        SourceKind::Scim | SourceKind::Facts => return None,
    };
    Some(marked(source, &[sent, b".", body].concat(), now))
}

fn marked(source: &SourceSettings, known_by: &[u8], now: OffsetDateTime) -> ReplayMark {
    replay::mark("webhook", &source.name, None, known_by, now + KEPT)
}

fn key(mark: &ReplayMark) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: [b"heard/".as_slice(), &mark.hash].concat(),
    }
}

fn note(mark: &ReplayMark) -> Write {
    Write::Note {
        key: key(mark),
        value: Vec::new(),
        until: mark.keep_until,
    }
}

impl Broker {
    /// A source says that a context is over. Without a mark it was asked, and did not tell. `false`: it is in
    /// force, and may not be on enough replicas of the store: see `Broker::acknowledged`. That is also so of what
    /// was heard before: it may come again because the first time was answered with "later".
    ///
    /// INVARIANT: the mark is in the commit of the fence. Before it, a message whose handling failed would be
    /// taken for one that was heard when it is delivered again; behind it, a process that dies in between
    /// would leave it good for a second time.
    pub(in crate::broker) async fn source_ended(
        &self,
        source: &SourceSettings,
        end: EndContextRequest,
        mark: Option<&ReplayMark>,
    ) -> Result<bool, Refusal> {
        let now = self.clock.now();
        let context = Dimension::context(&end.issuer, &end.kind, &end.id);
        // What is held says nothing new, and the log is not for repeating. On a stale view it is said once more.
        let view = self.view();
        if view.is_ok_and(|view| view.held(&[context.hash()]).is_some()) {
            self.heard(mark, now).await?;
            return Ok(false);
        }
        let author = format!("source {}", source.name);
        let (fence, selector) = end_of((&author, By::Source), end, now);
        let guards = mark.map(|mark| Guard::Unnoted(key(mark)));
        let guards = guards.into_iter().collect();
        let writes = mark.map(note).into_iter().collect();
        let Some(raised) = self.fences.raise_with(fence, guards, writes, now).await? else {
            tracing::info!(
                source = source.name,
                "a message that was heard before: it ends nothing again"
            );
            return Ok(false);
        };
        let replicated = raised.replicated;
        self.record.fenced(&raised.fence);
        self.follow_up(&raised, selector).await;
        Ok(replicated)
    }

    /// It changed nothing, as somebody else was first. It must not change anything later either.
    async fn heard(&self, mark: Option<&ReplayMark>, now: OffsetDateTime) -> Result<(), Refusal> {
        let Some(mark) = mark else {
            return Ok(());
        };
        let transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
            .revoking()
            .guard(Guard::Unnoted(key(mark)))
            .write(note(mark));
        match settle(self.store.as_ref(), transaction).await? {
            Outcome::TooLate => Err(Refusal::new(Reason::StoreUnavailable, "too late").after(1)),
            _ => Ok(()),
        }
    }
}
