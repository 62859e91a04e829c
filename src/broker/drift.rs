//! An agent that asks again and again for what its mission does not allow: told, or suspended, as the
//! mission says. Counted in the store, so that it does not matter which replica is asked.

use super::govern::rule;
use super::standing::{self, TRIES, entry};
use super::{Broker, Bundle, Reason, Refusal};
use crate::agents::Turn;
use crate::audit::Event;
use crate::ids::{AgentId, MissionId, ShardId};
use crate::policy::Drift;
use crate::store::{Index, MAX_RANK, Transaction, Write, settle};
use crate::telemetry::metric;
use crate::wire::Subject;
use std::borrow::Cow;
use time::{Duration, OffsetDateTime};

impl Broker {
    /// After a refusal. What cannot be counted is still refused.
    pub(in crate::broker) async fn watch_drift(
        &self,
        bundle: &Bundle,
        agent: &AgentId,
        refusal: &Refusal,
        now: OffsetDateTime,
    ) {
        let beyond = matches!(
            refusal.reason,
            Reason::ExceedsMission | Reason::UnknownTarget
        );
        let mission = refusal.mission.as_ref().filter(|_| beyond);
        let Some(mission) = mission.and_then(|id| bundle.policy.mission(id)) else {
            return;
        };
        let counted = self.count_drift(agent, &mission.id, &mission.drift, (refusal, now));
        let most = usize::try_from(mission.drift.count).unwrap_or(usize::MAX);
        let acted = match counted.await {
            Ok(recent) if recent >= most => {
                self.drifted(agent, &mission.id, &mission.drift, now).await
            }
            Ok(recent) if recent + 1 == most => {
                self.drifts_soon(bundle, agent, &mission.id, (&mission.drift, now))
                    .await
            }
            Ok(_) => return,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = acted {
            tracing::error!(%agent, why = refusal.detail, "drift was not followed up");
        }
    }

    /// How often it was within the time, this one included.
    async fn count_drift(
        &self,
        agent: &AgentId,
        mission: &MissionId,
        drift: &Drift,
        (refusal, now): (&Refusal, OffsetDateTime),
    ) -> Result<usize, Refusal> {
        let shard = ShardId::of(agent, None);
        let index = Index {
            shard,
            name: Cow::Owned(format!("drift/{agent}/{mission}")),
        };
        let count = usize::try_from(drift.count).unwrap_or(usize::MAX);
        let since = self.remember(&Subject::Agent(agent.clone()), now).await?;
        let window = now - within(drift);
        let from = since.record.resumed.map_or(window, |at| at.max(window));
        let all = self
            .store
            .range(&index, -MAX_RANK..=MAX_RANK, count.saturating_add(64))
            .await?;
        let recent = all.iter().filter(|one| one.rank > rank(from)).count() + 1;
        let mut transaction = Transaction::new(shard, now + Duration::seconds(10))
            .local()
            .write(Write::Rank {
                index: index.clone(),
                member: refusal.id.as_bytes().to_vec(),
                rank: rank(now),
            });
        // No more of them are kept than are needed to count that far.
        let extra = all.len().saturating_sub(count);
        for (place, old) in all.into_iter().enumerate() {
            if place < extra || old.rank <= rank(now - within(drift)) {
                transaction = transaction.write(Write::Unrank {
                    index: index.clone(),
                    member: old.member,
                });
            }
        }
        settle(self.store.as_ref(), transaction).await?;
        Ok(recent)
    }

    /// The last but one is told, so that nobody is surprised by the last. Once in the time within which
    /// it is counted.
    async fn drifts_soon(
        &self,
        bundle: &Bundle,
        agent: &AgentId,
        mission: &MissionId,
        (drift, now): (&Drift, OffsetDateTime),
    ) -> Result<(), Refusal> {
        let subject = Subject::Agent(agent.clone());
        let next = if drift.suspends {
            "once more, and it is suspended"
        } else {
            "once more, and it is an alarm"
        };
        let asked = drift.count.saturating_sub(1);
        let why = format!("asked {asked} times for more than mission {mission} allows: {next}");
        let mark = format!("drift_soon/{mission}");
        for _ in 0..TRIES {
            let mut found = self.remember(&subject, now).await?;
            let stamp = now.unix_timestamp();
            let last = found.record.told.get(&mark);
            if last.is_some_and(|last| stamp - last < within(drift).whole_seconds()) {
                return Ok(());
            }
            found.record.told.insert(mark.clone(), stamp);
            let owner = bundle.agents.get(agent).map(|agent| agent.owner.clone());
            let notice = entry(Event::DriftSoon, &subject, now)
                .mission(mission.as_str())
                .reason(Event::DriftSoon.name())
                .with("owner", owner)
                .with("why", why.as_str());
            if found.save(self.store.as_ref(), Some(notice), now).await? {
                tracing::warn!(%agent, %mission, "governance: {why}");
                metrics::counter!(metric::NOTICES, "kind" => "drift_soon").increment(1);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Once in the time within which it is counted, whatever the number of replicas.
    async fn drifted(
        &self,
        agent: &AgentId,
        mission: &MissionId,
        drift: &Drift,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let subject = Subject::Agent(agent.clone());
        let (count, within) = (drift.count, within(drift));
        let minutes = within.whole_seconds().div_euclid(60).max(1);
        let why = format!(
            "drift: asked {count} times within {minutes} min for more than mission {mission} allows"
        );
        let mark = format!("drift/{mission}");
        for _ in 0..TRIES {
            let mut found = self.remember(&subject, now).await?;
            let last = found.record.told.get(&mark);
            let stamp = now.unix_timestamp();
            if last.is_some_and(|last| stamp - last < within.whole_seconds()) {
                return Ok(());
            }
            found.record.told.insert(mark.clone(), stamp);
            let stage = standing::stage(&subject, &*self.view()?);
            let written = if drift.suspends && stage.after(Turn::Drifted).is_some() {
                let said = rule(Turn::Drifted);
                let turned = self.turn((&subject, Turn::Drifted), (&said, &why), &found, now);
                turned.await?.is_some()
            } else {
                let alarm = entry(Event::Drift, &subject, now)
                    .mission(mission.as_str())
                    .reason(Turn::Drifted.code())
                    .with("why", why.as_str());
                found.save(self.store.as_ref(), Some(alarm), now).await?
            };
            if written {
                tracing::error!(%agent, %mission, "ALARM: {why}");
                metrics::counter!(metric::ALARMS, "kind" => "drift").increment(1);
                return Ok(());
            }
        }
        Ok(())
    }
}

fn within(drift: &Drift) -> Duration {
    Duration::try_from(drift.within).unwrap_or(Duration::HOUR)
}

fn rank(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(MAX_RANK)
}
