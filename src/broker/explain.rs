//! Why something was, or would be, granted or refused: stated claims, or the question of a refusal as the
//! audit keeps it. One walk with the corridor's; nothing is spent and nothing can be minted with it.

use super::show::not_found;
use super::{Broker, Refusal};
use crate::agents::{AgentError, Registry};
use crate::audit::{self, Entry};
use crate::fences::View;
use crate::ids::AgentId;
use crate::intent::SignerClass;
use crate::policy::{Check, Explanation, Policy, Recorded, StatedRequest};
use crate::wire::{
    ExplainAnswer, ExplainQuestion, ExplainRequest, ExplainedCheck, NearestMission, RefusedThen,
    StatedPerson,
};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

impl Broker {
    pub async fn explain(&self, question: ExplainQuestion) -> Result<ExplainAnswer, Refusal> {
        let view = self.view()?;
        let bundle = self.bundle.load_full();
        let known = (&bundle.agents, bundle.policy.as_ref());
        let now = self.clock.now();
        let entry = match question {
            ExplainQuestion::Stated(request) => return explain(known, *request, &view, now),
            ExplainQuestion::Recorded(recorded) => Value::Object(recorded.recorded),
            ExplainQuestion::Refusal(asked) => {
                let id = asked.refusal;
                let found = audit::refusal(self.store.as_ref(), &id).await?;
                found.ok_or_else(|| not_found(&format!("refusal {id}")))?
            }
        };
        explain_again(known, &entry, &view, now)
    }
}

/// The same decision as the corridor's, on stated claims, with every check told.
pub fn explain(
    (agents, policy): (&Registry, &Policy),
    request: ExplainRequest,
    view: &View,
    now: OffsetDateTime,
) -> Result<ExplainAnswer, Refusal> {
    let agent = request.agent.clone();
    let told = |person: StatedPerson| (person.issuer, person.claims, person.in_person);
    let stated = StatedRequest {
        agent: request.agent,
        mission: request.mission,
        asked: request.authorization_details,
        scope: request.scope,
        facts: request.facts.into_iter().collect(),
        signer: request.signer.unwrap_or(SignerClass::Agent),
        issuer: request.issuer,
        bound: request.bound,
        task: request.task,
        instance: request.instance,
        person: request.on_behalf_of.map(told),
    };
    match stated.admitted(agents, view, now) {
        Ok((agent, intent)) => Ok(explained(policy.explain(&agent, &intent, view, now))),
        Err(AgentError::Unknown) => Err(not_found(agent.as_str())),
        Err(error) => Ok(out_of_standing(error)),
    }
}

/// A refusal of the audit: the very question again, as of then, before this configuration and these
/// holds. One of which no question was kept is told as it was written down.
pub fn explain_again(
    (agents, policy): (&Registry, &Policy),
    entry: &Value,
    view: &View,
    now: OffsetDateTime,
) -> Result<ExplainAnswer, Refusal> {
    let entry: Entry = serde_json::from_value(entry.clone())
        .map_err(|_| not_found("what is no entry of the audit"))?;
    let text = |name: &str| entry.detail.get(name).and_then(Value::as_str);
    let then = RefusedThen {
        reason: entry.reason.clone().unwrap_or_default(),
        why: text("why").unwrap_or_default().to_owned(),
        when: entry.at.format(&Rfc3339).unwrap_or_default(),
        other_configuration: entry.config_hash.as_deref() != Some(policy.config_hash()),
    };
    let agent = entry.agent.as_ref();
    let agent: Option<AgentId> = agent.and_then(|agent| agent.parse().ok());
    let mut answer = match agent.zip(Recorded::from_entry(&entry)) {
        // Facts and the day are those of then: tomorrow's question would be another one.
        Some((agent, question)) => {
            match policy.again(agents, &agent, &question, view, entry.at.min(now)) {
                Ok(told) => explained(told),
                Err(AgentError::Unknown) => return Err(not_found(agent.as_str())),
                Err(error) => out_of_standing(error),
            }
        }
        None => refused(
            then.reason.clone(),
            text("at").map(str::to_owned),
            &then.why,
        ),
    };
    answer.then = Some(then);
    Ok(answer)
}

/// An agent that gets nothing, whatever it asks for.
fn out_of_standing(error: AgentError) -> ExplainAnswer {
    let refusal = Refusal::from(error);
    let check = ExplainedCheck {
        name: "agent".to_owned(),
        passed: false,
        detail: refusal.detail.clone(),
    };
    ExplainAnswer {
        checks: vec![check],
        ..refused(refusal.reason.code().to_owned(), None, &refusal.detail)
    }
}

fn refused(reason: String, at: Option<String>, why: &str) -> ExplainAnswer {
    ExplainAnswer {
        granted: false,
        reason: Some(reason),
        at,
        summary: why.to_owned(),
        checks: Vec::new(),
        nearest: None,
        then: None,
    }
}

/// As it is told to operators.
fn explained(told: Explanation) -> ExplainAnswer {
    let check = |check: Check| ExplainedCheck {
        name: check.name.to_owned(),
        passed: check.passed,
        detail: check.detail,
    };
    let nearest = told.nearest.map(|nearest| NearestMission {
        mission: nearest.mission,
        lists_agent: nearest.lists_agent,
        missing: nearest.missing.map(check),
    });
    let denied = told.denied.as_ref();
    ExplainAnswer {
        granted: denied.is_none(),
        reason: denied.map(|denied| denied.reason.code().to_owned()),
        at: told.denied.and_then(|denied| denied.at),
        summary: told.summary,
        checks: told.checks.into_iter().map(check).collect(),
        nearest,
        then: None,
    }
}
