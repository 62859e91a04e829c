//! Governance by the clock: whatever is registered ends, is reviewed, is used, or is stopped. Every
//! replica looks; whose guarded commit is written acts.

use super::standing::{self, Found, Said, entry, remembered};
use super::{Broker, Refusal};
use crate::agents::governance::{Due, Notice};
use crate::agents::{Terms, Turn};
use crate::audit::Event;
use crate::fences::View;
use crate::telemetry::metric;
use crate::wire::Subject;
use time::{Date, OffsetDateTime};

/// How long a replica rests between two rounds.
pub const GOVERNED_EVERY: std::time::Duration = std::time::Duration::from_secs(5);
/// Records read in one go.
const PAGE: usize = 256;

/// What one round did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Governed {
    pub told: u64,
    pub turned: u64,
}

/// Somebody or something to look after.
#[derive(Debug)]
struct Charge {
    subject: Subject,
    owner: String,
    terms: Terms,
    ends: Option<Date>,
}

impl Broker {
    /// One round over all that is registered.
    pub async fn govern(&self) -> Result<Governed, Refusal> {
        self.fences.in_time()?;
        let now = self.clock.now();
        let view = self.view()?;
        let bundle = self.bundle.load_full();
        self.hold_leavers(&bundle).await?;
        self.decides_here().await?;
        let bundle = self.bundle.load_full();
        let agents = bundle.agents.iter().map(|agent| Charge {
            subject: Subject::Agent(agent.id.clone()),
            owner: agent.owner.clone(),
            terms: agent.terms,
            ends: Some(agent.ends),
        });
        let missions = bundle.policy.missions().map(|mission| Charge {
            subject: Subject::Mission(mission.id.clone()),
            owner: mission.owner.clone(),
            terms: mission.terms,
            ends: mission.ends,
        });
        let charges: Vec<_> = agents.chain(missions).collect();
        let mut done = Governed::default();
        for page in charges.chunks(PAGE) {
            let subjects: Vec<_> = page.iter().map(|charge| charge.subject.clone()).collect();
            let found = remembered(self.store.as_ref(), &self.sealer, &subjects, now).await?;
            for (charge, found) in page.iter().zip(found) {
                self.look_after(charge, found, &view, (now, &mut done))
                    .await?;
            }
        }
        Ok(done)
    }

    async fn look_after(
        &self,
        charge: &Charge,
        mut found: Found,
        view: &View,
        (now, done): (OffsetDateTime, &mut Governed),
    ) -> Result<(), Refusal> {
        if found.is_foreign() {
            return self
                .stop_unreadable(charge, &found, view, (now, done))
                .await;
        }
        if (found.is_new() || found.is_old()) && !found.save(self.store.as_ref(), None, now).await?
        {
            return Ok(());
        }
        let stage = standing::stage(&charge.subject, view);
        for due in found.record.due(&charge.terms, charge.ends, stage, now) {
            match due {
                Due::Tell(notice, of) => {
                    if !self.tell(charge, &mut found, (notice, of), now).await? {
                        return Ok(());
                    }
                    done.told += 1;
                }
                Due::Turn(turn, at) => {
                    found.record.done(turn, at);
                    let why = why(turn, charge, at);
                    let what = (&charge.subject, turn);
                    let said = rule(turn);
                    let raised = self.turn(what, (&said, &why), &found, now).await?;
                    if raised.is_some() {
                        tracing::warn!(subject = %charge.subject, owner = charge.owner, "{why}");
                        done.turned += 1;
                    }
                    // The record is another one now: the rest waits for the next round.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// SECURITY: whoever can write to the store could put a review off, or have it forgotten that nobody
    /// uses an agent. What a record governs that is not ours is held until somebody has looked.
    async fn stop_unreadable(
        &self,
        charge: &Charge,
        found: &Found,
        view: &View,
        (now, done): (OffsetDateTime, &mut Governed),
    ) -> Result<(), Refusal> {
        let turn = Turn::Unreadable;
        if standing::stage(&charge.subject, view).after(turn).is_none() {
            return Ok(());
        }
        let why = "what is remembered of it was changed in the store or is damaged";
        let what = (&charge.subject, turn);
        if self
            .turn(what, (&rule(turn), why), found, now)
            .await?
            .is_some()
        {
            tracing::error!(subject = %charge.subject, owner = charge.owner, "ALARM: governance: {why}");
            metrics::counter!(metric::ALARMS, "kind" => "record_unreadable").increment(1);
            done.turned += 1;
        }
        Ok(())
    }

    async fn tell(
        &self,
        charge: &Charge,
        found: &mut Found,
        (notice, of): (Notice, OffsetDateTime),
        now: OffsetDateTime,
    ) -> Result<bool, Refusal> {
        found.record.tell(notice, of);
        let event = match notice {
            Notice::EndsSoon | Notice::Ended => Event::EndsSoon,
            Notice::ReviewDue => Event::ReviewDue,
            Notice::ReviewOverdue => Event::ReviewOverdue,
            Notice::DormantSoon => Event::DormantSoon,
        };
        let entry = entry(event, &charge.subject, now)
            .reason(notice.code())
            .with("owner", charge.owner.as_str())
            .with("when", moment(of));
        let told = found.save(self.store.as_ref(), Some(entry), now).await?;
        if told {
            metrics::counter!(metric::NOTICES, "kind" => notice.code()).increment(1);
            tracing::warn!(
                subject = %charge.subject, owner = charge.owner, when = %moment(of),
                "governance: {}", notice.code()
            );
        }
        Ok(told)
    }
}

pub(in crate::broker) fn rule(turn: Turn) -> Said {
    Said::Rule(format!("governance/{}", turn.code()))
}

fn why(turn: Turn, charge: &Charge, at: OffsetDateTime) -> String {
    match turn {
        Turn::Ended => match charge.ends {
            Some(ends) => format!("its last day was {ends}"),
            None => "its last day is over".to_owned(),
        },
        Turn::Overdue => format!("its review is overdue: nothing new since {}", moment(at)),
        Turn::Dormant => {
            let days = charge.terms.dormant.map_or(0, time::Duration::whole_days);
            format!("dormant: not used for {days} days, until {}", moment(at))
        }
        other => other.code().to_owned(),
    }
}

fn moment(at: OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}
