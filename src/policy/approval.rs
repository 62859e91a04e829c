//! What people say yes to before it is issued. Everything else has allowed it by then: nobody is asked
//! about what would be refused anyway.

use super::question::Question;
use super::walk::list;
use super::{Binding, Denial, Denied, Mission, Target};
use crate::authority::{Authority, Permission};
use crate::fences::{Dimension, View};
use crate::ids::{AgentId, IssuerId, MissionId, TargetId};
use crate::intent::{Approval, Behalf, Principal};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;
use time::OffsetDateTime;

/// The context that a lease hangs on which people approved: whoever withdraws it ends it.
pub const APPROVAL: &str = "approval";
/// Who vouches for that context: the broker itself.
pub const OURSELVES: &str = "dayfly";

const HOUR: Duration = Duration::from_secs(60 * 60);

/// `approval` of a mission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalTerms {
    /// So many people say yes.
    pub count: u32,
    /// Operators by name; empty: everybody who may review.
    pub by: BTreeSet<String>,
    /// How long it waits for them.
    pub within: Duration,
    /// How long the last yes is good for. INVARIANT: what is issued lives no longer.
    pub lasts: Duration,
}

impl Default for ApprovalTerms {
    fn default() -> Self {
        Self {
            count: 1,
            by: BTreeSet::new(),
            within: HOUR,
            lasts: HOUR,
        }
    }
}

impl ApprovalTerms {
    /// Those of these people whose yes counts, each once.
    pub fn counted<'a>(&self, said: impl IntoIterator<Item = &'a String>) -> BTreeSet<&'a str> {
        let counts = |name: &&String| self.by.is_empty() || self.by.contains(*name);
        let said = said.into_iter().filter(counts);
        said.map(String::as_str).collect()
    }

    pub fn suffice<'a>(&self, said: impl IntoIterator<Item = &'a String>) -> bool {
        u32::try_from(self.counted(said).len()).is_ok_and(|number| number >= self.count.max(1))
    }
}

/// All that the credential would be, but for its lifetime: two requests of which this is the same are
/// one to those who approve it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToApprove {
    pub agent: AgentId,
    /// Who proves the agent, and its name there.
    pub issuer: IssuerId,
    pub subject: String,
    /// A person runs it.
    pub in_person: bool,
    pub instance: Option<String>,
    pub mission: MissionId,
    pub target: TargetId,
    pub detail_type: String,
    pub authority: Authority,
    pub audience: String,
    pub task: Option<String>,
    /// Whom the agent acts for, by name.
    pub chain: Vec<String>,
    /// What it hangs on: kind and id.
    pub contexts: Vec<(String, String)>,
    /// Worth something only with a key that the request proved.
    pub bound: bool,
}

impl ToApprove {
    /// SHA-256, hexadecimal. `None` cannot be: all of it has a JSON form.
    pub fn hash(&self) -> Option<String> {
        let text = serde_json::to_vec(self).ok()?;
        let hash = digest(&SHA256, &text);
        let hex = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Some(hex.collect())
    }
}

/// What is asked for, allowed and not approved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unapproved {
    pub what: ToApprove,
    pub terms: ApprovalTerms,
    /// That one credential would live.
    pub ttl: Duration,
    /// The response that asks, where the mission does not.
    pub by_response: Option<String>,
}

/// With the response that asks, where the mission does not.
pub(super) type Terms = (ApprovalTerms, Option<String>);

/// The mission's own terms, or the plain ones where a response asks for approval of all that the agent
/// gets: then it is named.
pub(super) fn needed(mission: &Mission, agent: &AgentId, view: &View) -> Option<Terms> {
    if let Some(terms) = &mission.approval {
        return Some((terms.clone(), None));
    }
    let fence = view.needs_approval(agent.as_str())?;
    Some((ApprovalTerms::default(), Some(fence.author.clone())))
}

/// The same authority in one way of writing it, so that another order is no other request.
fn in_order(authority: &Authority) -> Authority {
    let sorted = |list: &[String]| {
        let set: BTreeSet<&String> = list.iter().collect();
        set.into_iter().cloned().collect::<Vec<_>>()
    };
    let permissions = authority.0.iter().map(|permission| Permission {
        actions: sorted(&permission.actions),
        locations: sorted(&permission.locations),
    });
    let mut permissions: Vec<_> = permissions.collect();
    permissions.sort_by(|one, other| {
        (&one.actions, &one.locations).cmp(&(&other.actions, &other.locations))
    });
    permissions.dedup();
    Authority(permissions)
}

/// How many people approve it, as policies see it.
pub(super) fn number(terms: Option<&Terms>) -> u32 {
    terms.map_or(0, |(terms, _)| terms.count.max(1))
}

/// What a hold on the approval stands on.
pub fn dimension(id: &str) -> Dimension {
    Dimension::context(OURSELVES, APPROVAL, id)
}

pub(super) fn what(
    question: &Question<'_>,
    (mission, target): (&Mission, &Target),
    (authority, audience): (&Authority, &str),
    (chain, contexts): (&[Principal], &[(String, String)]),
) -> ToApprove {
    ToApprove {
        agent: question.agent.id.clone(),
        issuer: question.issuer.clone(),
        subject: question.subject.to_owned(),
        in_person: matches!(question.behalf, Behalf::InPerson(_)),
        instance: question.instance.map(str::to_owned),
        mission: mission.id.clone(),
        target: target.id.clone(),
        detail_type: target.detail_type.to_owned(),
        authority: in_order(authority),
        audience: audience.to_owned(),
        task: question.task.map(str::to_owned),
        chain: chain.iter().map(Principal::name).collect(),
        contexts: contexts.to_vec(),
        bound: question.proved_key.is_some() && target.binding == Binding::Bound,
    }
}

/// The lifetime that is left of what people approved. Nothing is asked for where `terms` is absent.
///
/// SECURITY: what they said is compared with the terms as they are now, and with what is asked now.
pub(super) fn check(
    said: Option<&Approval>,
    (terms, by_response): Terms,
    (what, ttl, target): (ToApprove, Duration, &Target),
    now: OffsetDateTime,
) -> Result<Duration, Denied> {
    let min_ttl = target.min_ttl;
    let unapproved = Unapproved {
        what,
        terms,
        ttl,
        by_response,
    };
    let Unapproved {
        what, terms, ttl, ..
    } = &unapproved;
    let lasts = time::Duration::try_from(terms.lasts).unwrap_or_default();
    let left = said.map(|said| {
        let until = said.until.min(said.since.saturating_add(lasts));
        let left = Duration::try_from(until - now).unwrap_or_default();
        let left = left.min(*ttl).min(Duration::from_secs(said.max_ttl));
        // Whole seconds: that is what the wire and most targets can say.
        Duration::from_secs(left.as_secs())
    });
    let why = match (said, left) {
        (Some(said), _) if Some(&said.of) != what.hash().as_ref() => {
            format!("{} is about something else", said.id)
        }
        (Some(said), _) if !terms.suffice(&said.by) => {
            let (of, is) = (terms.count, terms.counted(&said.by).len());
            format!("{is} of {of} people have approved {}", said.id)
        }
        (Some(_), Some(left)) if !left.is_zero() && left >= min_ttl => return Ok(left),
        (Some(said), _) => format!("{} was good until {}", said.id, said.until),
        (None, _) => {
            let by = match terms.by.is_empty() {
                true => "who may review".to_owned(),
                false => list(terms.by.iter().cloned()),
            };
            format!(
                "{} has to be approved, by {} of those: {by}",
                what.mission, terms.count
            )
        }
    };
    let mut denied = Denied::new(Denial::ApprovalRequired, why);
    denied.unapproved = Some(Box::new(unapproved));
    Err(denied)
}

pub(super) fn told(said: Option<&Approval>) -> String {
    match said {
        None => "nobody has to approve it".to_owned(),
        Some(said) => {
            let by = list(said.by.iter().cloned());
            format!("{} is approved by {by}, until {}", said.id, said.until)
        }
    }
}
