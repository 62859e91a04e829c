//! When an agent and a mission were last used, and for what: an hour's precision in the store, for
//! one write an hour, beside the answer and never in its way.

use super::standing::{TRIES, remembered};
use crate::policy::Grant;
use crate::secret::Sealer;
use crate::store::{Store, StoreError};
use crate::wire::Subject;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use time::{Duration, OffsetDateTime};

const PRECISION: Duration = Duration::HOUR;
/// Mission and target of an agent that this replica remembers having written.
const MOST: usize = 16_384;

#[derive(Debug)]
pub(in crate::broker) struct Usage {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    written: Mutex<HashMap<String, (OffsetDateTime, BTreeSet<String>)>>,
}

impl Usage {
    pub fn new(store: Arc<dyn Store>, sealer: Arc<Sealer>) -> Self {
        Self {
            store,
            sealer,
            written: Mutex::default(),
        }
    }

    /// Returns before anything is written.
    pub fn granted(&self, grant: &Grant, now: OffsetDateTime) {
        let what = format!("{}/{}", grant.mission(), grant.target());
        let actions = grant.authority().0.iter();
        let actions: BTreeSet<String> = actions
            .flat_map(|permission| permission.actions.iter().cloned())
            .take(crate::agents::governance::MAX_ACTIONS)
            .collect();
        if !self.is_news(&format!("{}/{what}", grant.agent()), &actions, now) {
            return;
        }
        let subjects = [
            Subject::Agent(grant.agent().clone()),
            Subject::Mission(grant.mission().clone()),
        ];
        let (store, sealer) = (self.store.clone(), self.sealer.clone());
        tokio::spawn(async move {
            for subject in subjects {
                if let Err(error) =
                    write((store.as_ref(), &sealer), &subject, (&what, &actions), now).await
                {
                    tracing::warn!(%error, %subject, "its use was not written down");
                }
            }
        });
    }

    fn is_news(&self, place: &str, actions: &BTreeSet<String>, now: OffsetDateTime) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, known)) = written.get_mut(place)
            && now - *last < PRECISION
            && actions.is_subset(known)
        {
            return false;
        }
        if written.len() >= MOST {
            written.clear();
        }
        let entry = written
            .entry(place.to_owned())
            .or_insert_with(|| (now, BTreeSet::new()));
        entry.0 = now;
        entry.1.extend(actions.iter().cloned());
        true
    }
}

async fn write(
    (store, sealer): (&dyn Store, &Arc<Sealer>),
    subject: &Subject,
    (what, actions): (&str, &BTreeSet<String>),
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        let found = remembered(store, sealer, std::slice::from_ref(subject), now).await?;
        let Some(mut found) = found.into_iter().next() else {
            return Ok(());
        };
        found.record.note(what, actions, now);
        if found.save(store, None, now).await? {
            return Ok(());
        }
    }
    Err(StoreError::Unavailable(
        "too many write it at once".to_owned(),
    ))
}
