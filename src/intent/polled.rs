//! Facts that are asked for, or told: `[facts.NAME] poll` and `webhook`. Each replica asks by itself, or reads
//! what was told from the store, again and again, and it counts for a bounded time only: nobody who
//! cannot be asked, or tells nothing, proves anything.

use super::evidence::Proved;
use super::settings::{Poll, Witness, group};
use super::{IntentError, IntentsError};
use crate::clock::Clock;
use crate::identity::{Facts, claims};
use crate::ids::IssuerId;
use crate::jose::{KeyClient, RemoteKeysError, parse_object};
use arc_swap::ArcSwap;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const MAX_VALUE: usize = 1024;

/// What was answered last, by name. Outlives a reload, so that a change beside one is seen.
#[derive(Debug)]
pub struct Board {
    clock: Arc<dyn Clock>,
    posted: ArcSwap<BTreeMap<IssuerId, Posted>>,
    /// Boot time from which each may be asked again.
    next: Mutex<BTreeMap<IssuerId, Duration>>,
}

#[derive(Debug, Clone)]
struct Posted {
    poll: Poll,
    facts: Facts,
    /// Boot time at which the question was sent, or what was told was signed.
    at: Duration,
    /// Of what was told: when it was signed, in seconds.
    order: i64,
}

/// One that is asked.
#[derive(Debug, Clone)]
pub struct Polled {
    pub(super) witness: Witness,
    pub(super) poll: Poll,
    client: Option<KeyClient>,
}

/// What was answered before, and now.
#[derive(Debug)]
pub struct Changed {
    pub before: Facts,
    pub after: Facts,
}

impl Polled {
    pub(super) fn new(
        witness: Witness,
        poll: Poll,
        fetcher: &KeyClient,
    ) -> Result<Self, IntentsError> {
        let reaching = |url: &String| {
            let client = fetcher.reaching(poll.private, None);
            let client = client.and_then(|client| client.check_address(url).map(|()| client));
            client.map_err(|error| IntentsError::Keys {
                issuer: url.clone(),
                why: error.to_string(),
            })
        };
        let client = poll.url.as_ref().map(reaching).transpose()?;
        Ok(Self {
            witness,
            poll,
            client,
        })
    }

    pub fn name(&self) -> &IssuerId {
        &self.witness.name
    }

    /// Whether it tells by webhook, and is not asked.
    pub fn tells(&self) -> bool {
        self.client.is_none()
    }

    /// Which facts are read where: what was told under another question is not the answer to this one.
    pub fn question(&self) -> String {
        let Poll {
            pointers,
            ended_when,
            ..
        } = &self.poll;
        serde_json::json!([pointers, ended_when]).to_string()
    }

    /// The facts in an answer, or in what was told.
    pub fn facts_in(&self, answer: &Value) -> Facts {
        let facts = self.poll.pointers.iter().filter_map(|(fact, pointer)| {
            let value = answer.pointer(pointer)?;
            let fits = claims::is_fact(value) && value.to_string().len() <= MAX_VALUE;
            fits.then(|| (fact.clone(), value.clone()))
        });
        let facts: Facts = facts.collect();
        let mut ends = self.poll.ended_when.iter();
        let over = !self.poll.ended_when.is_empty()
            && ends.all(|(fact, value)| facts.get(fact).is_some_and(|v| claims::agree(v, value)));
        if over { Facts::default() } else { facts }
    }

    async fn ask(&self) -> Result<Facts, RemoteKeysError> {
        let (Some(client), Some(url)) = (&self.client, &self.poll.url) else {
            return Err(RemoteKeysError::Discovery);
        };
        let body = client.get(url).await?;
        let object = parse_object(&body).map_err(|_| RemoteKeysError::Discovery)?;
        Ok(self.facts_in(&Value::Object(object)))
    }
}

impl Board {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            posted: ArcSwap::default(),
            next: Mutex::default(),
        }
    }

    /// Whether it is time to ask; until [`Self::look`] is done it is asked no second time.
    pub fn is_due(&self, polled: &Polled) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.entry(polled.name().clone()).or_default();
        let due = *at <= self.clock.since_boot();
        if due {
            *at = Duration::MAX;
        }
        due
    }

    /// Asks once. What is answered is posted before it is told here.
    ///
    /// INVARIANT: so a decision on what was posted before took its view of the fences earlier than
    /// whoever ends what hung on it raises one.
    pub async fn look(&self, polled: &Polled) -> Option<Changed> {
        let name = polled.name();
        let at = self.clock.since_boot();
        let answered = polled.ask().await;
        self.done(polled);
        match answered {
            Ok(facts) => self.post(polled, facts, (at, 0)),
            Err(error) => {
                tracing::warn!(%name, %error, "facts were not answered; they count no longer than `max_age`");
                None
            }
        }
    }

    /// From here on it counts until it is asked, or read, again.
    pub fn done(&self, polled: &Polled) {
        let again = self.clock.since_boot() + polled.poll.every;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.insert(polled.name().clone(), again);
    }

    /// What was told, signed so long ago and at this second.
    pub fn told(
        &self,
        polled: &Polled,
        facts: Facts,
        age: Duration,
        order: i64,
    ) -> Option<Changed> {
        let at = self.clock.since_boot().checked_sub(age)?;
        self.post(polled, facts, (at, order))
    }

    fn post(&self, polled: &Polled, facts: Facts, (at, order): (Duration, i64)) -> Option<Changed> {
        let name = polled.name();
        let _alone = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut posted = BTreeMap::clone(&self.posted.load());
        // What was read before, and comes late.
        if posted
            .get(name)
            .is_some_and(|known| known.order > order && polled.tells())
        {
            return None;
        }
        let now = Posted {
            poll: polled.poll.clone(),
            facts: facts.clone(),
            at,
            order,
        };
        let before = posted.insert(name.clone(), now);
        self.posted.store(Arc::new(posted));
        let before = before?;
        // Another question is another answer, not a change.
        let same =
            before.poll.url == polled.poll.url && before.poll.pointers == polled.poll.pointers;
        (same && before.facts != facts).then_some(Changed {
            before: before.facts,
            after: facts,
        })
    }

    /// What counts now.
    fn fresh(&self, polled: &Polled) -> Option<Facts> {
        let all = self.posted.load();
        let posted = all.get(polled.name())?;
        let age = self.clock.since_boot().saturating_sub(posted.at);
        let counts = posted.poll == polled.poll && age <= polled.poll.max_age;
        counts.then(|| posted.facts.clone())
    }

    pub(super) fn add(&self, all: &[Polled], mut proved: Proved) -> Result<Proved, IntentError> {
        for polled in all {
            for (fact, value) in self.fresh(polled).unwrap_or_default() {
                let about = group(&fact).to_owned();
                let prover = (polled.witness.name.clone(), polled.witness.issuer.clone());
                // SECURITY: one thing has one prover.
                if proved
                    .provers
                    .get(&about)
                    .is_some_and(|known| *known != prover)
                {
                    return Err(IntentError::Contradiction(fact));
                }
                proved.provers.insert(about, prover);
                proved.facts.insert(fact, value);
            }
        }
        Ok(proved)
    }
}
