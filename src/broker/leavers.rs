//! An owner has left: everything of theirs is suspended, agents and missions, by one append each, and stays
//! so until they are back.
//!
//! What comes is a SCIM user (RFC 7643 section 4.1) with `active: false`, as identity providers send
//! it, with the source's secret as a bearer token (RFC 7644 section 2).

use super::{Broker, Bundle, Operator, Reason, Refusal, Role, SourceSettings};
use crate::audit::{Entry, Event};
use crate::fences::{
    By, Dimension, DimensionKind, FenceKind, Fences, HeldBy, NewFence, Raised, View, Whose,
};
use crate::ids::ShardId;
use crate::secret::Sealer;
use crate::store::{CommitId, Guard, Key, Outcome, Transaction, Write, settle};
use crate::wire::Selector;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

const MAC_PURPOSE: &str = "leaver";
const DEADLINE: Duration = Duration::seconds(10);
/// Spellings of one owner, and attempts where somebody else raises something meanwhile.
const MOST_STEPS: usize = 32;
/// Records read in one go.
const PAGE: usize = 256;

pub(in crate::broker) fn is_authentic(source: &SourceSettings, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all("authorization").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let token = value.to_str().ok().and_then(|text| text.split_once(' '));
    token.is_some_and(|(scheme, token)| {
        let secret = source.secret.expose().as_bytes();
        scheme.eq_ignore_ascii_case("bearer") && bool::from(token.as_bytes().ct_eq(secret))
    })
}

/// Kept from the moment that somebody has left until they are back: a hold can be lifted by mistake, and
/// the files may name an owner later who has left today.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Left {
    #[serde(with = "time::serde::timestamp::milliseconds")]
    at: OffsetDateTime,
    source: String,
    /// The owners, as the configuration writes them, that are held for it.
    held: BTreeSet<String>,
}

/// What is kept of one name, with what guards its change.
#[derive(Debug)]
struct Kept {
    key: Key,
    version: Option<CommitId>,
    left: Option<Left>,
    /// Under a sealing key that is to go.
    is_old: bool,
}

impl Kept {
    fn guard(&self) -> Guard {
        match self.version {
            Some(version) => Guard::Unchanged(self.key.clone(), version),
            None => Guard::Absent(self.key.clone()),
        }
    }

    fn put(&self, sealer: &Sealer, left: &Left) -> Result<Write, Refusal> {
        let wrong =
            |error: &dyn std::fmt::Display| Refusal::new(Reason::Internal, error.to_string());
        let body =
            rmp_serde::to_vec_named(&(&self.key.name, left)).map_err(|error| wrong(&error))?;
        let value = sealer.with_mac(MAC_PURPOSE, &body);
        Ok(Write::Put {
            key: self.key.clone(),
            value: value.map_err(|error| wrong(&error))?,
            expires_at: None,
        })
    }
}

/// SECURITY: what somebody changed in the store says that they have left: it holds until an admin looks.
fn read(sealer: &Sealer, key: &Key, value: &[u8], now: OffsetDateTime) -> (Left, bool) {
    let body = sealer.without_mac(MAC_PURPOSE, value);
    let is_old = body.is_some_and(|(_, is_first)| !is_first);
    let read = body.and_then(|(body, _)| rmp_serde::from_slice::<(Vec<u8>, Left)>(body).ok());
    let left = match read {
        Some((place, left)) if place == key.name => left,
        _ => Left {
            at: now,
            source: "a record that was changed in the store".to_owned(),
            held: BTreeSet::new(),
        },
    };
    (left, is_old)
}

impl Broker {
    pub(in crate::broker) async fn owner_changed(
        &self,
        bundle: &Bundle,
        source: &SourceSettings,
        body: &Value,
    ) -> Result<(), Refusal> {
        self.owners_changed(bundle, source, user(body)?).await
    }

    pub(in crate::broker) async fn owners_changed(
        &self,
        bundle: &Bundle,
        source: &SourceSettings,
        (names, active): (BTreeSet<String>, bool),
    ) -> Result<(), Refusal> {
        for name in allowed(source, names)? {
            if active {
                self.owner_back(&name, &source.name).await?;
            } else {
                self.owner_left(bundle, &name, &source.name).await?;
            }
        }
        // INVARIANT: also where all of it was held before: that may be of a moment ago.
        self.acknowledged().await
    }

    /// Everybody whom the configuration names and who has left is held: asked before a configuration is used,
    /// and with each round of governance.
    pub async fn hold_leavers(&self, bundle: &Bundle) -> Result<(), Refusal> {
        let all = Vec::from_iter(every_owner(bundle));
        for page in all.chunks(PAGE) {
            let keys: Vec<_> = page.iter().map(|owner| key(owner)).collect();
            for (owner, found) in page.iter().zip(self.store.get(&keys).await?) {
                if found.is_some() {
                    self.owner_left(bundle, owner, "").await?;
                }
            }
        }
        self.leavers_seen.store(true, Ordering::Release);
        Ok(())
    }

    pub(in crate::broker) async fn has_left(&self, name: &str) -> Result<bool, Refusal> {
        let kept = self.kept(name, self.clock.now()).await?;
        Ok(kept.left.is_some())
    }

    async fn kept(&self, name: &str, now: OffsetDateTime) -> Result<Kept, Refusal> {
        let key = key(name);
        let found = self.store.get(std::slice::from_ref(&key)).await?;
        let found = found.into_iter().next().flatten();
        let said = found.as_ref();
        let said = said.map(|found| read(&self.sealer, &key, &found.value, now));
        Ok(Kept {
            version: found.as_ref().map(|found| found.version),
            is_old: said.as_ref().is_some_and(|(_, is_old)| *is_old),
            left: said.map(|(left, _)| left),
            key,
        })
    }

    /// Writes down that they have left, and holds what is theirs and is not held for it yet.
    async fn owner_left(&self, bundle: &Bundle, name: &str, source: &str) -> Result<(), Refusal> {
        let mut held = Vec::new();
        let done = self.hold_theirs(bundle, (name, source), &mut held).await;
        // Counting what they end takes its time: only once all of them stand.
        for (raised, selector) in held {
            self.follow_up(&raised, selector).await;
        }
        done
    }

    async fn hold_theirs(
        &self,
        bundle: &Bundle,
        (name, source): (&str, &str),
        held: &mut Vec<(Raised, Selector)>,
    ) -> Result<(), Refusal> {
        for _ in 0..MOST_STEPS {
            let now = self.clock.now();
            let kept = self.kept(name, now).await?;
            let is_new = kept.left.is_none();
            let mut left = kept.left.clone().unwrap_or_else(|| Left {
                at: now,
                source: source.to_owned(),
                held: BTreeSet::new(),
            });
            let owners = every_owner(bundle);
            let mut theirs = owners
                .iter()
                .filter(|owner| owner.eq_ignore_ascii_case(name));
            let next = theirs.find(|owner| !left.held.contains(**owner)).copied();
            if next.is_none() && !is_new && !kept.is_old {
                return Ok(());
            }
            let said = format!("source {}", left.source);
            let entry = owner_left_entry(bundle, next.unwrap_or(name), &said, now);
            left.held.extend(next.map(str::to_owned));
            let mut writes = vec![kept.put(&self.sealer, &left)?];
            // Whoever owns nothing is only remembered.
            writes.extend(next.map(|_| entry.append(ShardId::INSTALLATION)));
            match next {
                Some(owner) => {
                    let fence = hold(owner, &said);
                    let raised = self
                        .fences
                        .raise_with(fence, vec![kept.guard()], writes, now);
                    if let Some(raised) = raised.await? {
                        self.record.fenced(&raised.fence);
                        tracing::warn!(owner, "an owner has left: what was theirs is suspended");
                        let selector = Selector::Owner(owner.to_owned());
                        held.push((raised, selector));
                    }
                }
                None => {
                    let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE)
                        .revoking()
                        .guard(kept.guard());
                    transaction.writes.append(&mut writes);
                    if let Outcome::TooLate = settle(self.store.as_ref(), transaction).await? {
                        return Err(Refusal::new(Reason::StoreUnavailable, "too late").after(1));
                    }
                }
            }
        }
        Err(contended())
    }

    /// They are active again: what was held for their leaving is not held for it any more. What an operator
    /// holds stays.
    async fn owner_back(&self, name: &str, source: &str) -> Result<(), Refusal> {
        for _ in 0..MOST_STEPS {
            let now = self.clock.now();
            let kept = self.kept(name, now).await?;
            let Some(mut left) = kept.left.clone() else {
                return Ok(());
            };
            let view = self.view()?;
            let own = |owner: &&String| is_held_for_leaving(&view, owner);
            let held = left.held.iter().find(own).cloned();
            let rest = match &held {
                Some(owner) => left.held.remove(owner),
                None => false,
            };
            let more = left
                .held
                .iter()
                .any(|owner| is_held_for_leaving(&view, owner));
            let said = format!("source {source}");
            let entry = Entry::new(Event::OwnerBack, now)
                .reason("owner_back")
                .with("by", said.as_str())
                .with("owner", held.as_deref().unwrap_or(name));
            let change = match rest && more {
                true => kept.put(&self.sealer, &left)?,
                false => Write::Delete(kept.key.clone()),
            };
            let writes = vec![change, entry.append(ShardId::INSTALLATION)];
            let guards = vec![kept.guard(), Fences::unmoved(&view)];
            let done = match held {
                Some(owner) => {
                    let on = Dimension::new(DimensionKind::Owner, owner.as_str());
                    let why = "its owner is active again";
                    let lift = NewFence::new(FenceKind::Lift, on, &said, why)
                        .by(By::Source)
                        .lifts(Whose::Sources);
                    let raised = self.fences.raise_with(lift, guards, writes, now).await?;
                    if let Some(raised) = &raised {
                        self.record.fenced(&raised.fence);
                    }
                    raised.is_some()
                }
                None => {
                    let mut transaction = Transaction::new(ShardId::INSTALLATION, now + DEADLINE);
                    transaction.guards = guards;
                    transaction.writes = writes;
                    let done = settle(self.store.as_ref(), transaction).await?;
                    matches!(done, Outcome::Applied { .. } | Outcome::Unreplicated { .. })
                }
            };
            if done && !more {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// An operator lifts what holds an owner. Whoever has left stays held for that: only an admin's word is as
    /// good as the provider's.
    pub(in crate::broker) async fn lift_owner(
        &self,
        by: &Operator,
        owner: &str,
        reason: &str,
    ) -> Result<Raised, Refusal> {
        for _ in 0..MOST_STEPS {
            let now = self.clock.now();
            let kept = self.kept(owner, now).await?;
            let view = self.view()?;
            let on = Dimension::new(DimensionKind::Owner, owner);
            let lift = NewFence::new(FenceKind::Lift, on.clone(), &by.name, reason);
            let (fence, writes) = match &kept.left {
                None => (lift, Vec::new()),
                Some(_) if by.role >= Role::Admin => (lift, vec![Write::Delete(kept.key.clone())]),
                Some(_) if !view.holds_on(&on).iter().all(HeldBy::is_of_a_source) => {
                    (lift.lifts(Whose::Others), Vec::new())
                }
                Some(left) => {
                    let why = format!(
                        "its owner has left (source {}, {}): that they are active again, by the same source, ends it, or an admin's lift",
                        left.source, left.at
                    );
                    return Err(Refusal::new(Reason::NotPermitted, why).exact());
                }
            };
            let guards = vec![kept.guard(), Fences::unmoved(&view)];
            if let Some(raised) = self.fences.raise_with(fence, guards, writes, now).await? {
                self.record.fenced(&raised.fence);
                return Ok(raised);
            }
        }
        Err(contended())
    }
}

fn key(name: &str) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: format!("leavers/{}", name.to_ascii_lowercase()).into_bytes(),
    }
}

fn hold(owner: &str, said: &str) -> NewFence {
    let on = Dimension::new(DimensionKind::Owner, owner);
    NewFence::new(FenceKind::Hold, on, said, "its owner has left").by(By::Source)
}

/// No operator's hold carries the rule of a source.
fn is_held_for_leaving(view: &View, owner: &str) -> bool {
    let on = Dimension::new(DimensionKind::Owner, owner);
    let mut all = view.holds_on(&on).into_iter();
    all.any(|hold| hold.is_of_a_source())
}

fn contended() -> Refusal {
    Refusal::new(Reason::StoreUnavailable, "too many change it at once").after(1)
}

/// The names of a user, and whether they are active.
fn user(body: &Value) -> Result<(BTreeSet<String>, bool), Refusal> {
    let malformed = || {
        let problem = "expected a SCIM user: `userName` and `active`";
        Refusal::new(Reason::MalformedRequest, problem).exact()
    };
    let active = body.get("active").and_then(truth);
    let active = active.ok_or_else(malformed)?;
    let name = body.get("userName").and_then(Value::as_str);
    let name = name.filter(|name| !name.trim().is_empty());
    let mut names = BTreeSet::from([name.ok_or_else(malformed)?.to_owned()]);
    let emails = body.get("emails").and_then(Value::as_array);
    let emails = emails.into_iter().flatten();
    names.extend(emails.filter_map(|one| Some(one.get("value")?.as_str()?.to_owned())));
    Ok((names, active))
}

/// Some providers write `"False"`.
pub(in crate::broker) fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(active) => Some(*active),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// SECURITY: a source deactivates the people of its own domains, by default nobody. Providers also tell
/// the private addresses of people: those say nothing, and do not keep the others from being heard.
pub(in crate::broker) fn allowed(
    source: &SourceSettings,
    names: BTreeSet<String>,
) -> Result<BTreeSet<String>, Refusal> {
    let is_own = |name: &String| {
        let domain = name.rsplit_once('@').map(|(_, domain)| domain);
        source.may_end.iter().any(|allowed| {
            allowed.eq_ignore_ascii_case(name)
                || domain.is_some_and(|domain| domain.eq_ignore_ascii_case(allowed))
        })
    };
    let (own, foreign): (BTreeSet<_>, BTreeSet<_>) = names.into_iter().partition(is_own);
    if own.is_empty() {
        let foreign = Vec::from_iter(foreign).join("`, `");
        let problem = format!("source {} may not deactivate `{foreign}`", source.name);
        return Err(Refusal::new(Reason::NotPermitted, problem));
    }
    Ok(own)
}

fn owner_left_entry(bundle: &Bundle, owner: &str, by: &str, now: OffsetDateTime) -> Entry {
    let (agents, missions) = of_owner(bundle, owner);
    Entry::new(Event::OwnerLeft, now)
        .reason("owner_left")
        .with("by", by)
        .with("owner", owner)
        .with("agents", agents)
        .with("missions", missions)
        .with("backup_owners", backups(bundle, owner))
}

/// The names of what is held with them: agents, and missions.
fn of_owner(bundle: &Bundle, owner: &str) -> (Vec<String>, Vec<String>) {
    let agents = bundle.agents.iter().filter(|agent| agent.owner == owner);
    let missions = bundle
        .policy
        .missions()
        .filter(|mission| mission.owner == owner);
    (
        agents.map(|agent| agent.id.to_string()).collect(),
        missions.map(|mission| mission.id.to_string()).collect(),
    )
}

/// Who answers for their agents now.
fn backups<'a>(bundle: &'a Bundle, owner: &str) -> Vec<&'a str> {
    let own = bundle.agents.iter().filter(|agent| agent.owner == owner);
    let backups = own.filter_map(|agent| agent.backup_owner.as_deref());
    let others: BTreeSet<&str> = backups
        .filter(|one| !one.eq_ignore_ascii_case(owner))
        .collect();
    others.into_iter().collect()
}

/// As the configuration writes them.
fn every_owner(bundle: &Bundle) -> BTreeSet<&str> {
    let agents = bundle.agents.iter().map(|agent| agent.owner.as_str());
    let missions = bundle.policy.missions();
    agents
        .chain(missions.map(|mission| mission.owner.as_str()))
        .collect()
}
