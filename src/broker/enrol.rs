//! Machines that no platform vouches for: an operator invites, the machine enrols its key. Whether an
//! agent may have such keys is in the configuration; the keys themselves are in the store, as are those
//! that pods and jobs are held to.

use super::{Broker, Operator, Reason, Refusal};
use crate::agents::AdmittedAgent;
use crate::identity::EnrolError;
use crate::identity::enrolment::{Listed, NewInvitation, proof};
use crate::ids::AgentId;
use crate::intent::Intent;
use crate::secret::Secret;
use crate::telemetry::metric;
use crate::wire::{EnrolAnswer, EnrolledKeyView, InvitationAnswer, InvitationRequest, Page};
use std::time::Duration;
use time::{Date, OffsetDateTime};

/// An invitation is carried to a machine, not kept.
const VALID: std::ops::RangeInclusive<u32> = 1..=24 * 3600;
const VALID_BY_DEFAULT: u32 = 15 * 60;
const MAX_NOTE: usize = 200;

impl Broker {
    /// `POST /admin/v1/agents/{id}/invitations`: the join token, told once.
    pub async fn invite(
        &self,
        by: &Operator,
        agent: AgentId,
        request: InvitationRequest,
    ) -> Result<InvitationAnswer, Refusal> {
        if by.break_glass {
            let why = "break-glass never registers anybody";
            return Err(Refusal::new(Reason::NotPermitted, why));
        }
        let now = self.clock.now();
        let bundle = self.bundle.load_full();
        if bundle.agents.get(&agent).is_none() {
            return Err(Refusal::new(Reason::NotFound, format!("no agent {agent}")).exact());
        }
        if !bundle.identity.enrols(&agent) {
            let why = format!(
                "agent {agent} does not say `identity = {{ client = {{ enrol = true }} }}`"
            );
            return Err(Refusal::new(Reason::NotPermitted, why).exact());
        }
        let valid = request.valid_seconds.unwrap_or(VALID_BY_DEFAULT);
        let malformed = |what: &str, at: &str| {
            Refusal::new(Reason::MalformedRequest, what)
                .exact()
                .at(Some(at.to_owned()))
        };
        if !VALID.contains(&valid) {
            return Err(malformed("from 1 second to a day", "valid_seconds"));
        }
        let is_note =
            |note: &String| note.chars().count() <= MAX_NOTE && !note.chars().any(char::is_control);
        if !request.note.as_ref().is_none_or(is_note) {
            return Err(malformed("at most 200 characters", "note"));
        }
        let new = NewInvitation {
            agent: agent.clone(),
            by: by.name.clone(),
            note: request.note,
            valid_for: Duration::from_secs(valid.into()),
        };
        let (token, expires_at) = self.enrolment.invite(new, now).await?;
        Ok(InvitationAnswer {
            agent,
            join_token: token.expose().clone(),
            expires_at,
        })
    }

    /// `POST /enrol`. Until the token is spent, every refusal has one face.
    pub async fn enrol(&self, token: &Secret<String>, proof: &str) -> Result<EnrolAnswer, Refusal> {
        let now = self.clock.now();
        let (view, bundle) = self.deciding().await?;
        let applicant = proof::verify(proof, token, &self.url, now).map_err(EnrolError::from)?;
        let unknown = |why: String| Refusal::new(Reason::InvalidClient, why);
        let id = applicant.agent();
        if !bundle.identity.enrols(id) {
            return Err(unknown(format!("agent {id} enrols no keys")));
        }
        let agent = bundle
            .agents
            .in_standing(id, &view, now)
            .map_err(|error| unknown(error.to_string()))?;
        let ends = end_of(agent.ends);
        let key = match self.enrolment.enrol(&applicant, token, ends, now).await {
            Ok(key) => key,
            Err(error) => {
                self.watch(&error, &agent.id, now).await;
                return Err(error.into());
            }
        };
        Ok(EnrolAnswer {
            agent: agent.id.clone(),
            thumbprint: key.thumbprint,
            expires_at: key.expires_at,
        })
    }

    /// A pod or a job whose token names no key signs with one key for as long as it lives. Before the
    /// decision: a second key is an alarm, whatever it asks for.
    pub(in crate::broker) async fn pin(
        &self,
        agent: &AdmittedAgent,
        intent: &Intent,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let Some(key) = intent.to_pin() else {
            return Ok(());
        };
        let id = &agent.agent().id;
        let pinned = self.enrolment.pin(id, agent.caller(), key, now).await;
        if let Err(error) = &pinned {
            self.watch(error, id, now).await;
        }
        Ok(pinned?)
    }

    /// Two hold one token: one of them stole it, and which one is for a person to find out.
    async fn watch(&self, error: &EnrolError, agent: &AgentId, now: OffsetDateTime) {
        let Some(alarm) = error.alarm() else {
            return;
        };
        let (first, second) = (alarm.first, alarm.second);
        let what = match alarm.instance {
            None => "a spent join token came again with another key",
            Some(_) => "a pod or a job signs with another key than its first",
        };
        tracing::error!(
            %agent, instance = alarm.instance, first, second,
            "ALARM: {what}; if the first key is not yours, revoke it: dayfly revoke --issuer-key"
        );
        metrics::counter!(metric::ALARMS, "kind" => alarm.event.name()).increment(1);
        if !self.record.within_quota(agent) {
            return;
        }
        if let Err(error) = self.enrolment.alarm(error, now).await {
            tracing::error!(%error, "the alarm could not be audited");
        }
    }

    /// `GET /admin/v1/agents/{id}/keys`.
    pub async fn enrolled_keys(&self, agent: &AgentId) -> Result<Page<EnrolledKeyView>, Refusal> {
        let bundle = self.bundle.load_full();
        if bundle.agents.get(agent).is_none() {
            return Err(Refusal::new(Reason::NotFound, format!("no agent {agent}")).exact());
        }
        let keys = self.enrolment.list(agent, self.clock.now()).await?;
        let items = keys.into_iter().map(shown).collect();
        Ok(Page { items, next: None })
    }
}

fn shown(listed: Listed) -> EnrolledKeyView {
    let Listed { key, held } = listed;
    EnrolledKeyView {
        thumbprint: key.thumbprint,
        invited_by: key.invited_by,
        note: key.note,
        enrolled_at: key.enrolled_at,
        expires_at: key.expires_at,
        held: held.map(|hold| hold.reason),
    }
}

/// The last day counts in full, in UTC.
fn end_of(last_day: Date) -> OffsetDateTime {
    let after = last_day.next_day().unwrap_or(last_day);
    after.midnight().assume_utc()
}
