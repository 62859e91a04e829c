//! A source that can be asked: `[source.NAME] poll`. Whether what a lease hangs on is over is asked about each
//! context with live leases, so that a message that was lost ends them all the same.
//!
//! What is asked about is read from the leases themselves, by one replica at a time: what was issued before a
//! restart, or by a replica that is no more, is asked about like all else. No answer is no end.

mod read;
mod template;

pub use template::Template;

use super::contexts::allowed;
use super::{Broker, Bundle, SourceKind, SourceSettings};
use crate::clock::Clock;
use crate::fences::Dimension;
use crate::identity::Facts;
use crate::ids;
use crate::jose::{KeyClient, Refused, RemoteKeysError, parse_object};
use crate::policy::{contexts, tethers_by};
use crate::telemetry::metric;
use crate::wire::EndContextRequest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;

const REPOSITORY: &str = "pipeline.repository_id";
const TICK: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_secs(1);
/// Contexts that are asked about; a run of jobs is one.
const MOST: usize = 10_000;
/// Questions under way, of all sources.
const MOST_ASKED: usize = 16;
/// A source that gives no answer is asked more and more seldom, down to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const MINUTE: Duration = Duration::from_secs(60);
/// However long it says that it is not to be asked.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Questions in a row without an answer, until somebody must look.
const ALARMING: u32 = 5;

/// `poll` of `[source.NAME]`.
#[derive(Debug, Clone)]
pub struct Asking {
    pub url: Template,
    /// What leases hang on: `pipeline`, or `pipeline.job_id`.
    pub tether: String,
    /// Where the answer says it (RFC 6901).
    pub pointer: String,
    /// Any of these: it is over.
    pub ended_when: Vec<String>,
    pub every: Duration,
    pub client: KeyClient,
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Over,
    GoesOn,
    /// Nothing that could be read: it is there for nobody, or not for us.
    Nothing,
}

/// It gave no answer.
#[derive(Debug)]
struct Unanswered {
    why: String,
    /// It is not to be asked before.
    wait: Duration,
}

impl Unanswered {
    fn new(why: &dyn std::fmt::Display) -> Self {
        Self {
            why: why.to_string(),
            wait: Duration::ZERO,
        }
    }

    /// "Best practices for using the REST API" (GitHub): as long as it says, else a minute.
    fn refused(refused: Refused, now: OffsetDateTime) -> Self {
        let said = refused.after.or_else(|| {
            let left = refused.at?.saturating_sub(now.unix_timestamp());
            u64::try_from(left).ok()
        });
        let usual = match refused.status {
            403 | 429 => MINUTE,
            _ => Duration::ZERO,
        };
        Self {
            why: RemoteKeysError::Status(refused.status).to_string(),
            wait: said.map_or(usual, Duration::from_secs).min(LONGEST_WAIT),
        }
    }
}

impl Asking {
    async fn ask(&self, url: &str, now: OffsetDateTime) -> Result<Said, Unanswered> {
        let asked = self.client.ask(url).await;
        let body = match asked.map_err(|error| Unanswered::new(&error))? {
            Ok(body) => body,
            // SECURITY: what a token may not see is not there (GitHub), and a run is not over for that.
            Err(refused) if [404, 410].contains(&refused.status) => return Ok(Said::Nothing),
            Err(refused) => return Err(Unanswered::refused(refused, now)),
        };
        let answer = parse_object(&body).map(Value::Object);
        let answer = answer.map_err(|error| Unanswered::new(&error))?;
        let said = match answer.pointer(&self.pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
            _ => return Ok(Said::Nothing),
        };
        match self.ended_when.contains(&said) {
            true => Ok(Said::Over),
            false => Ok(Said::GoesOn),
        }
    }
}

/// Source, kind, id.
type Place = (String, String, String);

#[derive(Debug)]
pub(in crate::broker) struct Watched {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    all: BTreeMap<Place, Entry>,
    /// Sources whose last question was not answered.
    silent: BTreeMap<String, Silence>,
    asked: usize,
    /// Boot time: from then on another replica may be the one that asks.
    ours: Duration,
    /// There was more than is remembered.
    too_many: bool,
}

#[derive(Debug)]
struct Entry {
    /// Those that the URL is made of. The URL is not kept: after a reload, what goes with the source's new
    /// token goes to its new address.
    facts: Facts,
    /// The last of its leases has expired.
    until: OffsetDateTime,
    /// Boot time.
    next: Duration,
    asked: bool,
}

#[derive(Debug)]
struct Silence {
    times: u32,
    /// Boot time.
    until: Duration,
    probed: bool,
}

impl Watched {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A live lease. `is_new`: it was issued just now, and not before anybody here looked.
    fn found(
        &self,
        sources: &[SourceSettings],
        facts: &Facts,
        (dimensions, until, is_new): (&[Dimension], OffsetDateTime, bool),
    ) {
        for source in sources {
            if let Some((place, facts)) = hangs_on(source, facts, dimensions) {
                let every = source.asking.as_ref().map(|asking| asking.every);
                let every = every.unwrap_or(AGAIN);
                let first = match is_new {
                    true => around(every),
                    // Nobody knows when it was last asked about.
                    false => ids::between(Duration::ZERO, every),
                };
                self.add(place, facts, (until, first));
            }
        }
    }

    /// It is for this replica to ask, until then.
    fn ours(&self, until: Duration) {
        self.state().ours = until;
    }

    /// It is for another replica to ask, or nobody is to be asked.
    fn leave(&self) {
        let mut state = self.state();
        state.ours = Duration::ZERO;
        state.all.clear();
        state.too_many = false;
    }

    /// Once, after there was more than is remembered: now there is room for it.
    fn has_room_again(&self) -> bool {
        let mut state = self.state();
        let has_room = state.too_many && state.all.len() <= MOST - MOST / 10;
        state.too_many &= !has_room;
        has_room
    }

    fn add(&self, place: Place, facts: Facts, (until, first): (OffsetDateTime, Duration)) {
        let next = self.clock.since_boot() + first;
        let mut state = self.state();
        if let Some(entry) = state.all.get_mut(&place) {
            entry.until = entry.until.max(until);
            entry.facts = facts;
            return;
        }
        if state.all.len() >= MOST {
            if !std::mem::replace(&mut state.too_many, true) {
                let source = place.0;
                tracing::warn!(
                    source,
                    "too much hangs on it to be asked about at once: the rest waits until others are over"
                );
                metrics::counter!(metric::ALARMS, "kind" => "not_asked_about").increment(1);
            }
            return;
        }
        let entry = Entry {
            facts,
            until,
            next,
            asked: false,
        };
        state.all.insert(place, entry);
    }

    /// What is to be asked now. Each of these is under way until [`Self::answered`].
    fn due(&self, sources: &[SourceSettings]) -> Vec<(Place, String)> {
        let (boot, now) = (self.clock.since_boot(), self.clock.now());
        let mut state = self.state();
        if state.ours <= boot {
            return Vec::new();
        }
        let State {
            all, silent, asked, ..
        } = &mut *state;
        let asking = |place: &Place| {
            let source = sources.iter().find(|one| one.name == place.0)?;
            let asking = source.asking.as_ref()?;
            (asking.tether == place.1).then_some(asking)
        };
        all.retain(|place, entry| entry.asked || (entry.until > now && asking(place).is_some()));
        silent.retain(|name, _| sources.iter().any(|one| one.name == *name));
        let mut due = Vec::new();
        for (place, entry) in all.iter_mut() {
            if *asked >= MOST_ASKED {
                break;
            }
            if entry.asked || entry.next > boot {
                continue;
            }
            // One question finds out whether it answers again.
            let silence = silent.get_mut(&place.0);
            if silence
                .as_ref()
                .is_some_and(|one| one.probed || one.until > boot)
            {
                continue;
            }
            let url = asking(place).and_then(|asking| asking.url.expand(&entry.facts).ok());
            let Some(url) = url else {
                // A reload asks by other facts than were kept.
                entry.until = OffsetDateTime::UNIX_EPOCH;
                continue;
            };
            if let Some(silence) = silence {
                silence.probed = true;
            }
            entry.asked = true;
            *asked += 1;
            due.push((place.clone(), url));
        }
        due
    }

    fn answered(&self, place: &Place, asking: &Asking, said: &Result<Said, Unanswered>) {
        let boot = self.clock.since_boot();
        let mut state = self.state();
        let State {
            all, silent, asked, ..
        } = &mut *state;
        *asked = asked.saturating_sub(1);
        if let Ok(Said::Over) = said {
            all.remove(place);
        } else if let Some(entry) = all.get_mut(place) {
            entry.asked = false;
            entry.next = boot + around(asking.every);
        }
        let source = place.0.as_str();
        let Err(unanswered) = said else {
            silent.remove(source);
            return;
        };
        let silence = silent.entry(source.to_owned()).or_insert(Silence {
            times: 0,
            until: Duration::ZERO,
            probed: false,
        });
        // Questions that were under way with the one that was not answered first.
        if silence.until > boot && !silence.probed {
            silence.until = silence.until.max(boot + unanswered.wait);
            return;
        }
        silence.times = silence.times.saturating_add(1);
        let pause = asking.every * 2_u32.saturating_pow(silence.times.min(16));
        let pause = around(pause.min(LONGEST_PAUSE)).max(unanswered.wait);
        silence.until = silence.until.max(boot + pause);
        silence.probed = false;
        tracing::warn!(
            source,
            why = unanswered.why,
            "a source that is asked gives no answer; what it would end lives until it does, is told, or expires"
        );
        if silence.times == ALARMING {
            metrics::counter!(metric::ALARMS, "kind" => "source_silent").increment(1);
        }
    }

    fn forget(&self, place: &Place) {
        let mut state = self.state();
        state.asked = state.asked.saturating_sub(1);
        state.all.remove(place);
    }
}

/// Of the facts that were proved for a lease, those that it is asked about by, if its platform is asked.
pub(in crate::broker) fn asked_by(
    sources: &[SourceSettings],
    facts: &Facts,
    dimensions: &[Dimension],
) -> Facts {
    let mut kept = Facts::new();
    for source in sources {
        let Some((_, needed)) = hangs_on(source, facts, dimensions) else {
            continue;
        };
        let asking = source.asking.as_ref();
        let tethers = asking.map_or_else(Vec::new, |asking| tethers_by(&asking.tether));
        let owner = REPOSITORY.to_owned();
        for name in tethers.into_iter().chain([owner]) {
            if let Some(value) = facts.get(&name) {
                kept.insert(name, value.clone());
            }
        }
        kept.extend(needed);
    }
    kept
}

/// The narrowest context of this source that a lease hangs on, and the facts that it is asked about by.
fn hangs_on(
    source: &SourceSettings,
    facts: &Facts,
    dimensions: &[Dimension],
) -> Option<(Place, Facts)> {
    let asking = source.asking.as_ref()?;
    let (kind, id) = contexts(&asking.tether, facts).ok()?.pop()?;
    // The lease says itself what it hangs on, and by whose word.
    let context = Dimension::context(&source.issuer_url, &kind, &id);
    if !dimensions.contains(&context) {
        return None;
    }
    // SECURITY: asked, it may end what it may end by a message, and nothing else.
    let owner = facts.get(REPOSITORY);
    let owner = match (source.kind, owner) {
        (SourceKind::Generic, _) => kind.clone(),
        (_, Some(Value::String(text))) => text.clone(),
        (_, Some(other)) => other.to_string(),
        (_, None) => return None,
    };
    allowed(source, &owner).ok()?;
    let mut needed = Facts::default();
    for name in asking.url.facts() {
        needed.insert(name.to_owned(), facts.get(name)?.clone());
    }
    asking.url.expand(&needed).ok()?;
    Some(((source.name.clone(), kind, id), needed))
}

/// Within a fifth of it, so that not all are asked about at once.
fn around(pause: Duration) -> Duration {
    ids::between(pause * 4 / 5, pause * 6 / 5)
}

/// Asks in the background for as long as the broker is held. `alone`: no other replica has its store.
pub fn start(broker: &Arc<Broker>, alone: bool) {
    read::start(broker, alone);
    let broker = Arc::downgrade(broker);
    tokio::spawn(async move {
        while let Some(broker) = broker.upgrade() {
            let bundle = broker.bundle.load_full();
            for (place, url) in broker.watched.due(&bundle.sources) {
                let (broker, bundle) = (broker.clone(), bundle.clone());
                tokio::spawn(async move { broker.ask_about(&bundle, &place, &url).await });
            }
            drop(broker);
            tokio::time::sleep(TICK).await;
        }
    });
}

impl Broker {
    async fn ask_about(&self, bundle: &Bundle, place: &Place, url: &str) {
        let (name, kind, id) = place;
        let source = bundle.sources.iter().find(|one| one.name == *name);
        let asking = source.and_then(|source| Some((source, source.asking.as_ref()?)));
        let Some((source, asking)) = asking else {
            return self.watched.forget(place);
        };
        let context = Dimension::context(&source.issuer_url, kind, id);
        // Nothing is alive that would be ended.
        let view = self.view();
        if view.is_ok_and(|view| view.held(&[context.hash()]).is_some()) {
            return self.watched.forget(place);
        }
        let said = asking.ask(url, self.clock.now()).await;
        if matches!(said, Ok(Said::Over)) {
            let end = || EndContextRequest {
                issuer: source.issuer_url.clone(),
                kind: kind.clone(),
                id: id.clone(),
                reason: Some(format!("{kind} ended, as {name} answered")),
            };
            // INVARIANT: until it is on the log. Without a store nothing is minted either.
            while let Err(refusal) = self.source_ended(source, end(), None).await {
                tracing::error!(
                    source = name,
                    why = refusal.detail,
                    "a source answered that a context is over, and that is not on the log yet"
                );
                tokio::time::sleep(AGAIN).await;
            }
        }
        self.watched.answered(place, asking, &said);
    }
}

#[cfg(test)]
mod tests;
