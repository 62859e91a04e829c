//! One listener's stream: what is new, in its order, for as long as it may listen.

use super::hub::{News, Placed, Seat};
use super::place::Place;
use super::tell::{self, Told};
use super::{Broker, Listener, Refusal, Word};
use crate::audit::Entry;
use crate::ids::ShardId;
use crate::store::Position;
use crate::wire::Retry;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often it is looked at whether a listener still may.
const CHECKED: Duration = Duration::from_secs(5);
/// A listener that was told nothing is told that it still listens.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A listener to whom nothing happens learns this often where it is.
const MARKED: Duration = Duration::from_secs(60);
/// How long an event waits for room where as many as there may be wait already.
const PATIENCE: Duration = Duration::from_secs(5);
/// After that whoever listens says again who it is.
const LONGEST: Duration = Duration::from_secs(3600);
/// Entries of the installation's log that are told at one look; a page more at most.
const MOST_AT_ONCE: usize = 4096;

/// No number of times that the store lost something.
const NEVER: u64 = u64::MAX;

/// Why a stream ends, as its last event says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Events were not taken.
    Slow,
    /// The proof is no good any more, or may not listen any more.
    NotAllowed,
    /// Say again who you are.
    Again,
    /// This replica cannot tell what happens.
    Behind,
    /// This replica stops.
    Stopping,
    /// Whoever listened is gone.
    Gone,
}

impl Over {
    fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "too_slow",
            Self::NotAllowed => "not_allowed",
            Self::Again => "authenticate_again",
            Self::Behind => "not_fresh",
            Self::Stopping => "stopping",
            Self::Gone => "gone",
        }
    }
}

pub(super) struct Stream {
    broker: Arc<Broker>,
    seat: Seat,
    listener: Listener,
    place: Place,
    words: mpsc::Sender<Word>,
    forks: u64,
    /// When the last word was sent, the last id, and when it was last looked at who listens.
    told: Instant,
    marked: Instant,
    checked: Instant,
    config: String,
    /// It begins with a gap, which need not be told of each shard.
    gap: bool,
}

/// Entries of the shards that wait to be told, each in its order.
type Waiting = BTreeMap<u8, (ShardId, VecDeque<Placed>)>;

impl Stream {
    pub fn new(
        broker: Arc<Broker>,
        seat: Seat,
        listener: Listener,
        (place, forks): (Place, u64),
        words: mpsc::Sender<Word>,
    ) -> Self {
        let now = Instant::now();
        Self {
            forks,
            config: broker.config_hash(),
            broker,
            seat,
            listener,
            place,
            words,
            told: now,
            marked: now,
            checked: now,
            gap: false,
        }
    }

    pub async fn run(mut self, gap: Option<&'static str>, stopped: impl Future<Output = ()>) {
        // Kept free for the last word, which a reader that is too slow must not miss.
        let Ok(last) = self.words.clone().try_reserve_owned() else {
            return;
        };
        let over = {
            let gone = self.words.clone();
            tokio::select! {
                over = self.tell(gap) => over,
                () = stopped => Over::Stopping,
                () = gone.closed() => Over::Gone,
                () = tokio::time::sleep(LONGEST) => Over::Again,
            }
        };
        tracing::info!(
            listener = self.listener.whose(),
            why = over.as_str(),
            "a stream of events ends"
        );
        if let Some(id) = self.id() {
            let name = "bye".to_owned();
            let data = json!({ "why": over.as_str() });
            last.send(Word::Event { name, id, data });
        }
    }

    async fn tell(&mut self, gap: Option<&'static str>) -> Over {
        let mut rounds = self.seat.hub().rounds();
        self.gap = gap.is_some();
        let opening = [("ready", json!({}))].into_iter();
        let missed = gap.map(|why| ("gap", json!({ "why": why })));
        for (name, data) in opening.chain(missed) {
            if let Err(over) = self.send(name.to_owned(), data).await {
                return over;
            }
        }
        loop {
            if let Err(over) = self.go_on().await {
                return over;
            }
            let rest = HEARTBEAT.saturating_sub(self.told.elapsed());
            let rest = rest.min(CHECKED.saturating_sub(self.checked.elapsed()));
            let rest = rest.max(Duration::from_millis(1));
            let _ = tokio::time::timeout(rest, rounds.changed()).await;
        }
    }

    /// One look at who listens, at what is new, and at when anything was last said.
    async fn go_on(&mut self) -> Result<(), Over> {
        self.check().await?;
        if self.seat.hub().is_behind() {
            return Err(Over::Behind);
        }
        let forks = self.seat.hub().forks();
        let anew = std::mem::replace(&mut self.forks, forks) != forks;
        let mut waiting = Waiting::new();
        // INVARIANT: fences are read first and told with the rest or after it. What was issued before a
        // fence is then there, and nobody hears of a token only after its end.
        let fences = self.fences_behind(anew, &mut waiting).await?;
        for shard in ShardId::all() {
            self.tell_shard(shard, anew, &mut waiting).await?;
        }
        let fences = fences.into_iter();
        let fences = fences.map(|(position, entry)| (ShardId::INSTALLATION, position, entry));
        self.tell_all(fences.collect()).await?;
        self.tell_all(in_order(waiting)).await?;
        if self.marked.elapsed() >= MARKED {
            self.send("ready".to_owned(), json!({})).await?;
        }
        if self.told.elapsed() >= HEARTBEAT {
            self.put(Word::Alive).await?;
        }
        Ok(())
    }

    /// Told page by page: a listener that comes late takes no more memory than one that is there.
    async fn tell_shard(
        &mut self,
        shard: ShardId,
        anew: bool,
        waiting: &mut Waiting,
    ) -> Result<(), Over> {
        let mut next = Some((self.place.of(shard), anew));
        while let Some(from) = next {
            let stored;
            (stored, next) = self.page(shard, from, waiting).await?;
            for (position, entry) in stored {
                self.tell_all(vec![(shard, position, entry)]).await?;
            }
        }
        Ok(())
    }

    /// As many as one look takes; the next one goes on.
    async fn fences_behind(
        &mut self,
        anew: bool,
        waiting: &mut Waiting,
    ) -> Result<Vec<Placed>, Over> {
        let shard = ShardId::INSTALLATION;
        let mut next = Some((self.place.of(shard), anew));
        let mut all = Vec::new();
        while let Some(from) = next.filter(|_| all.len() < MOST_AT_ONCE) {
            let stored;
            (stored, next) = self.page(shard, from, waiting).await?;
            all.extend(stored);
        }
        Ok(all)
    }

    /// What is new in a shard: what is in memory joins what waits, the rest is for now; and where more of that
    /// is.
    async fn page(
        &mut self,
        shard: ShardId,
        (from, anew): (Position, bool),
        waiting: &mut Waiting,
    ) -> Result<(Vec<Placed>, Option<(Position, bool)>), Over> {
        // Tried again until the reader of all is behind, too.
        let Ok(news) = self.seat.hub().news(shard, from, anew).await else {
            if anew {
                // What may be lost is asked for again.
                self.forks = NEVER;
            }
            return Ok((Vec::new(), None));
        };
        let News {
            entries,
            after,
            more,
            gap,
            kept,
        } = news;
        if gap && !(self.gap && from == Position::ORIGIN) {
            let data = json!({ "why": "lost" });
            self.send("gap".to_owned(), data).await?;
        }
        if kept {
            waiting.insert(shard.number(), (shard, entries.into()));
            return Ok((Vec::new(), None));
        }
        let mut stored = entries;
        // Also over what is nobody's to be told.
        stored.push((after, None));
        Ok((stored, more.then_some((after, true))))
    }

    async fn tell_all(
        &mut self,
        entries: Vec<(ShardId, Position, Option<Arc<Entry>>)>,
    ) -> Result<(), Over> {
        let mut all = Vec::with_capacity(entries.len());
        for (shard, position, entry) in entries {
            let told = match entry {
                Some(entry) => self.told(&entry).await?,
                None => None,
            };
            all.push((shard, position, told));
        }
        // One word for many: whoever looks at everything after the last has looked after the first.
        let is_general = |told: &Option<Told>| told.as_ref().is_some_and(Told::is_general);
        let last = all.iter().rposition(|(_, _, told)| is_general(told));
        for (place, (shard, position, told)) in all.into_iter().enumerate() {
            let again = is_general(&told) && last != Some(place);
            self.place.put(shard, position);
            if let Some(told) = told.filter(|_| !again) {
                self.send(told.name, told.data).await?;
            }
        }
        Ok(())
    }

    async fn told(&mut self, entry: &Entry) -> Result<Option<Told>, Over> {
        // The configuration may say otherwise by now.
        self.check().await?;
        Ok(match &self.listener {
            Listener::Operator(_, filter) => filter.tells(entry),
            Listener::ResourceServer(server) => {
                tell::to_server(entry, &server.known, &self.broker, self.seat.hub()).await
            }
        })
    }

    /// Whether it may still listen: at once after a change of the configuration, else now and then.
    async fn check(&mut self) -> Result<(), Over> {
        let config = self.broker.config_hash();
        let changed = config != self.config;
        if !changed && self.checked.elapsed() < CHECKED {
            return Ok(());
        }
        self.checked = Instant::now();
        self.config = config;
        match &mut self.listener {
            Listener::Operator(operator, _) => self
                .broker
                .still_operator(operator)
                .await
                .map_err(|refusal| over(&refusal)),
            Listener::ResourceServer(server) => match self.broker.still_server(server) {
                Some(known) => {
                    server.known = known;
                    Ok(())
                }
                None if server.proves_a_moment() => Err(Over::Again),
                None => Err(Over::NotAllowed),
            },
        }
    }

    fn id(&self) -> Option<String> {
        self.place.id(self.broker.leases.sealer())
    }

    async fn send(&mut self, name: String, data: Value) -> Result<(), Over> {
        let id = self.id().ok_or(Over::Behind)?;
        self.marked = Instant::now();
        self.put(Word::Event { name, id, data }).await
    }

    async fn put(&mut self, word: Word) -> Result<(), Over> {
        match self.words.send_timeout(word, PATIENCE).await {
            Ok(()) => {
                self.told = Instant::now();
                Ok(())
            }
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Over::Slow),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(Over::Gone),
        }
    }
}

fn over(refusal: &Refusal) -> Over {
    if refusal.reason.retry() == Retry::After {
        Over::Behind
    } else {
        Over::NotAllowed
    }
}

/// By their time, but those of one shard in their order, whatever their clocks said.
fn in_order(mut waiting: Waiting) -> Vec<(ShardId, Position, Option<Arc<Entry>>)> {
    let mut all = Vec::new();
    loop {
        let at = |(_, entry): &Placed| entry.as_ref().map(|entry| entry.at);
        let fronts = waiting.iter();
        let oldest = fronts
            .filter_map(|(shard, (_, entries))| Some((at(entries.front()?), *shard)))
            .min();
        let Some((_, shard)) = oldest else {
            return all;
        };
        if let Some((shard, entries)) = waiting.get_mut(&shard)
            && let Some((position, entry)) = entries.pop_front()
        {
            all.push((*shard, position, entry));
        }
    }
}
