//! Who knocks and is nobody: a valid proof of a known issuer, and no agent. The first face of agents
//! that nobody registered. To the caller it makes no difference, neither in the answer nor in time.

use super::show::not_found;
use super::{Broker, Bundle, Refusal};
use crate::audit::{Entry, Event};
use crate::identity::{Caller, Proof, claims, presets};
use crate::ids::ShardId;
use crate::intent::Asked;
use crate::store::{
    Guard, Index, Key, MAX_RANK, Outcome, Store, StoreError, Transaction, Write, settle,
};
use crate::wire::{Page, SightedAsk, SightingView};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use time::{Duration, OffsetDateTime};

/// Strangers that are remembered; more are only counted.
const MOST: u64 = 1000;
const KEPT: Duration = Duration::days(30);
/// One stranger is written down once in as long by one replica.
const AGAIN: Duration = Duration::minutes(1);
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();
const MAX_ASKS: usize = 8;
const MAX_CLAIMS: usize = 40;
const MAX_TEXT: usize = 200;
const MAX_INTENT: usize = 16 * 1024;

#[derive(Debug)]
pub(in crate::broker) struct Sightings {
    store: Arc<dyn Store>,
    recent: Mutex<HashMap<String, OffsetDateTime>>,
    quota: DefaultDirectRateLimiter,
}

impl Sightings {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            recent: Mutex::default(),
            quota: RateLimiter::direct(Quota::per_minute(PER_MINUTE)),
        }
    }

    fn is_wanted(&self, id: &str, now: OffsetDateTime) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.get(id).is_some_and(|last| now - *last < AGAIN) || self.quota.check().is_err() {
            return false;
        }
        if recent.len() as u64 >= MOST {
            recent.clear();
        }
        recent.insert(id.to_owned(), now);
        true
    }
}

/// Of a caller that may be nobody; taken before what was asked is used up.
pub(in crate::broker) fn stranger(
    bundle: &Bundle,
    caller: &Caller,
    asked: &Asked,
    now: OffsetDateTime,
) -> Option<SightingView> {
    // A person is nobody's agent, and whoever has a key of its own is registered with it.
    let platform = matches!(
        caller.proof(),
        Proof::WorkloadToken | Proof::SignedRequest | Proof::Svid
    );
    if !platform || bundle.agents.find(caller).is_some() {
        return None;
    }
    // What its platform's agents go by comes first, by its path: it may lie within another claim.
    let preset = presets::by_name(caller.issuer().as_str());
    let named = preset.iter().flat_map(|preset| preset.identity);
    let named = named.filter_map(|(_, path)| Some((*path, claims::find(caller.claims(), path)?)));
    let own = caller.claims().iter();
    let own = own.map(|(name, value)| (name.as_str(), value));
    let kept = named.chain(own).filter(|(name, value)| {
        let passing = ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "nonce"];
        let scalar = value.is_string() || value.is_number() || value.is_boolean();
        scalar && !passing.contains(name) && value.to_string().len() <= MAX_TEXT
    });
    let kept: Map<String, Value> = kept
        .take(MAX_CLAIMS)
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    Some(SightingView {
        id: id(caller),
        issuer: caller.issuer().clone(),
        issuer_url: caller.issuer_url().to_owned(),
        subject: short(caller.subject()),
        claims: kept,
        asked: vec![ask(asked)],
        first_seen: now,
        last_seen: now,
        count: 1,
    })
}

/// What an intent says that nobody verified: for people to read, bounded, never for deciding.
fn claimed(asked: &Asked) -> Value {
    let payload = asked.unverified_intent.as_deref();
    let payload = payload.filter(|text| text.len() <= MAX_INTENT);
    let payload = payload.and_then(|text| text.split('.').nth(1));
    let bytes = payload.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let value = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    value.unwrap_or_default()
}

fn texts(claimed: &Value, of: &str) -> Vec<String> {
    let details = claimed
        .get("authorization_details")
        .and_then(Value::as_array);
    let details = details.into_iter().flatten();
    details
        .filter_map(|one| one.get(of))
        .flat_map(|found| match found {
            Value::Array(all) => all.clone(),
            one => vec![one.clone()],
        })
        .filter_map(|one| one.as_str().map(str::to_owned))
        .collect()
}

/// As it stands in the request, signed by nobody that counts.
fn ask(asked: &Asked) -> SightedAsk {
    let claimed = claimed(asked);
    let details = &asked.authorization_details;
    let both = |own: Vec<String>, of: &str| {
        let mut all = own;
        if !of.is_empty() {
            all.extend(texts(&claimed, of));
        }
        all.sort();
        all.dedup();
        let all = all.into_iter().take(MAX_ASKS);
        all.map(|one| short(&one)).collect()
    };
    let actions = details.iter().flat_map(|one| one.actions.clone()).collect();
    let locations = details.iter().flat_map(|one| one.locations.clone());
    let mission = claimed.pointer("/mission/id").and_then(Value::as_str);
    let mission = mission.and_then(|id| id.parse().ok());
    SightedAsk {
        targets: both(asked.targets.clone(), "identifier"),
        mission: mission.or_else(|| asked.mission.clone()),
        actions: both(actions, "actions"),
        locations: both(locations.collect(), "locations"),
        scope: both(asked.scope.clone(), ""),
    }
}

impl Broker {
    /// Beside the answer, never in its way.
    pub(in crate::broker) fn sighted(&self, seen: SightingView, now: OffsetDateTime) {
        if !self.sightings.is_wanted(&seen.id, now) {
            return;
        }
        let store = self.sightings.store.clone();
        tokio::spawn(async move {
            if let Err(error) = write(store.as_ref(), seen, now).await {
                tracing::warn!(%error, "a sighting was not written down");
            }
        });
    }

    /// `GET /admin/v1/sightings`: the latest first.
    pub async fn sightings(&self) -> Result<Page<SightingView>, Refusal> {
        let now = self.clock.now();
        let most = usize::try_from(MOST).unwrap_or(usize::MAX);
        let ranks = rank(now - KEPT)..=MAX_RANK;
        let ranked = self.store.range(&index(), ranks, most).await?;
        let keys: Vec<_> = ranked
            .iter()
            .filter_map(|one| std::str::from_utf8(&one.member).ok())
            .map(key)
            .collect();
        let mut items: Vec<SightingView> = Vec::new();
        for record in self.store.get(&keys).await?.into_iter().flatten() {
            items.push(read(&record.value)?);
        }
        items.sort_by_key(|seen| std::cmp::Reverse(seen.last_seen));
        Ok(Page { items, next: None })
    }

    /// `GET /admin/v1/sightings/{id}`.
    pub async fn sighting(&self, id: &str) -> Result<SightingView, Refusal> {
        let found = self.store.get(&[key(id)]).await?;
        let record = found.into_iter().next().flatten();
        let record = record.ok_or_else(|| not_found("this sighting"))?;
        let seen = read(&record.value)?;
        if seen.last_seen + KEPT < self.clock.now() {
            return Err(not_found("this sighting"));
        }
        Ok(seen)
    }
}

async fn write(
    store: &dyn Store,
    mut seen: SightingView,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let key = key(&seen.id);
    let found = store.get(std::slice::from_ref(&key)).await?;
    let known = found.into_iter().next().flatten();
    let shard = ShardId::INSTALLATION;
    let mut transaction = Transaction::new(shard, now + Duration::seconds(10)).local();
    match &known {
        Some(record) => {
            let old = read(&record.value)?;
            seen.first_seen = old.first_seen;
            seen.count = old.count.saturating_add(1);
            for ask in old.asked {
                if !seen.asked.contains(&ask) && seen.asked.len() < MAX_ASKS {
                    seen.asked.push(ask);
                }
            }
            transaction = transaction.guard(Guard::Unchanged(key.clone(), record.version));
        }
        None => {
            let entry = Entry::new(Event::Sighted, now)
                .caller(&seen.issuer_url, &seen.subject)
                .with("sighting", seen.id.as_str());
            transaction = transaction
                .guard(Guard::Absent(key.clone()))
                .guard(Guard::Fewer {
                    index: index(),
                    above_rank: rank(now - KEPT),
                    than: MOST,
                })
                .write(entry.append(shard));
            for old in store
                .range(&index(), -MAX_RANK..=rank(now - KEPT), 64)
                .await?
            {
                transaction = transaction.write(Write::Unrank {
                    index: index(),
                    member: old.member,
                });
            }
        }
    }
    let value =
        serde_json::to_vec(&seen).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    transaction = transaction
        .write(Write::Put {
            key,
            value,
            expires_at: Some(now + KEPT),
        })
        .write(Write::Rank {
            index: index(),
            member: seen.id.into_bytes(),
            rank: rank(now),
        });
    // Whoever was faster has written it down, and what is full is full.
    if let Outcome::Conflict { guard: 1 } = settle(store, transaction).await? {
        tracing::warn!("more strangers than are remembered: see `dayfly agent sightings`");
    }
    Ok(())
}

fn read(value: &[u8]) -> Result<SightingView, StoreError> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Corrupt(format!("a sighting: {error}")))
}

/// The same stranger, whenever it comes.
// SECURITY: length-prefixed, so that no issuer's subject is another's.
fn id(caller: &Caller) -> String {
    let (issuer, subject) = (caller.issuer_url(), caller.subject());
    let text = format!("{}:{issuer}{subject}", issuer.len());
    let hash = digest(&SHA256, text.as_bytes());
    let hex = hash
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"));
    hex.collect()
}

fn key(id: &str) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: format!("sighting/{id}").into_bytes(),
    }
}

fn index() -> Index {
    Index {
        shard: ShardId::INSTALLATION,
        name: Cow::Borrowed("sightings"),
    }
}

fn rank(moment: OffsetDateTime) -> i64 {
    moment.unix_timestamp().saturating_mul(1000)
}

fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests;
