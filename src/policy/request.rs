//! What is asked for, narrowed step by step, and the three ceilings it must lie under.

use super::behalf::Served;
use super::question::Question;
use super::walk::list;
use super::{Denial, Denied, Mission, Target};
use crate::agents::Agent;
use crate::authority::{Authority, AuthorizationDetail, Outside, Undecidable};
use crate::fences::{Fence, View};
use crate::intent::{Parent, SignerClass};
use std::time::Duration;
use time::OffsetDateTime;

/// What is asked for after every narrowing.
#[derive(Debug)]
pub(super) struct Request {
    pub authority: Authority,
    /// Where it was written, for the `at` of a refusal.
    written: Written,
    /// The shortest lifetime asked for, and where.
    shortest: Option<(Duration, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Details,
    Scope,
    /// Nowhere: a platform's token, and an intent that names its mission and no details, ask for
    /// all that the mission allows.
    Mission,
}

/// What a lease holds already.
pub(super) fn granted(authority: Authority) -> Request {
    Request {
        authority,
        written: Written::Mission,
        shortest: None,
    }
}

pub(super) fn of(
    question: &Question<'_>,
    mission: &Mission,
    target: &Target,
) -> Result<Request, Denied> {
    let beside = &question.asked.authorization_details;
    for details in [question.details, beside] {
        of_type(details, target)?;
    }
    let mut request = signed(question, mission, target)?;
    if !beside.is_empty() {
        let narrower = Authority::from_details(beside);
        if request.written == Written::Details {
            let outside = target.vocabulary.outside(&request.authority, &narrower);
            covered(
                outside,
                Written::Details,
                Denial::ExceedsIntent,
                |outside| format!("the intent does not ask for {}", pair(outside)),
            )?;
        }
        request.authority = narrower;
        request.written = Written::Details;
    }
    if !question.asked.scope.is_empty() {
        request.narrow(&question.asked.scope, target)?;
    }
    request.shortest = [question.details, beside]
        .into_iter()
        .flat_map(|details| details.iter().enumerate())
        .filter_map(|(number, detail)| {
            let at = format!("authorization_details[{number}].max_ttl");
            Some((Duration::from_secs(detail.max_ttl?.into()), at))
        })
        .min();
    Ok(request)
}

/// The authority that the signer stands for.
fn signed(question: &Question<'_>, mission: &Mission, target: &Target) -> Result<Request, Denied> {
    let (authority, written) = if !question.details.is_empty() {
        (Authority::from_details(question.details), Written::Details)
    } else if question.signer == SignerClass::Platform || question.mission.is_some() {
        let allowed = mission.allow.get(&target.id).cloned();
        (allowed.unwrap_or_default(), Written::Mission)
    } else {
        (Authority::default(), Written::Details)
    };
    // SECURITY: nothing would be covered by anything, and some targets take nothing for all.
    if authority.is_empty() {
        let why = "the intent asks for nothing".to_owned();
        return Err(
            Denied::new(Denial::InvalidAuthorizationDetails, why).at("authorization_details")
        );
    }
    Ok(Request {
        authority,
        written,
        shortest: None,
    })
}

fn of_type(details: &[AuthorizationDetail], target: &Target) -> Result<(), Denied> {
    let other = |detail: &AuthorizationDetail| detail.kind != target.detail_type;
    match details.iter().position(other) {
        None => Ok(()),
        Some(number) => {
            let why = format!("{} takes details of type {}", target.id, target.detail_type);
            Err(Denied::new(Denial::InvalidAuthorizationDetails, why)
                .at(format!("authorization_details[{number}].type")))
        }
    }
}

impl Request {
    fn narrow(&mut self, scope: &[String], target: &Target) -> Result<(), Denied> {
        let exceeds = match self.written {
            Written::Mission => Denial::ExceedsMission,
            Written::Details | Written::Scope => Denial::ExceedsIntent,
        };
        let narrower = target
            .vocabulary
            .narrow(&self.authority, scope)
            .map_err(|error| undecided(&error, Written::Scope))?
            .map_err(|outside| {
                let why = format!("scope `{}` is not among what was asked for", outside.action);
                Denied::new(exceeds, why).at("scope")
            })?;
        self.authority = narrower;
        self.written = Written::Scope;
        Ok(())
    }
}

/// Whether a ceiling covers the request.
fn under(
    request: &Request,
    target: &Target,
    ceiling: &Authority,
    denial: Denial,
    name: &str,
) -> Result<(), Denied> {
    let outside = target.vocabulary.outside(ceiling, &request.authority);
    covered(outside, request.written, denial, |outside| {
        let at = place(request.written, &outside.place);
        let at = at.map_or_else(String::new, |at| format!(" ({at})"));
        let may = words(ceiling);
        format!(
            "{name} does not allow {}{at}; it allows: {may}",
            pair(outside)
        )
    })
}

/// Mission, agent, target: each must cover the request by itself.
pub(super) fn within(
    request: &Request,
    agent: &Agent,
    mission: &Mission,
    target: &Target,
) -> [(&'static str, Result<(), Denied>); 3] {
    let nothing = Authority::default();
    let under = |ceiling, denial, name: &str| under(request, target, ceiling, denial, name);
    let allow = mission.allow.get(&target.id).unwrap_or(&nothing);
    let own = match &agent.ceiling {
        // Without a ceiling of its own, an agent's ceiling is its missions.
        None => Ok(()),
        Some(ceilings) => under(
            ceilings.get(&target.id).unwrap_or(&nothing),
            Denial::ExceedsAgentCeiling,
            &format!("the ceiling of {}", agent.id),
        ),
    };
    let name = format!("the ceiling of {}", target.id);
    [
        (
            "within_mission",
            under(allow, Denial::ExceedsMission, mission.id.as_str()),
        ),
        ("within_agent_ceiling", own),
        (
            "within_target_ceiling",
            under(&target.ceiling, Denial::ExceedsTargetCeiling, &name),
        ),
    ]
}

/// The same for those that the agent acts for, where it acts for any.
pub(super) fn within_chain(
    request: &Request,
    served: &Served,
    parent: Option<&Parent>,
    target: &Target,
) -> impl Iterator<Item = (&'static str, Result<(), Denied>)> {
    let people = served.reach(&target.id).map(|reach| {
        let denial = Denial::ExceedsPeopleCeiling;
        let outcome = under(request, target, &reach, denial, "whom it is for");
        ("within_people", outcome)
    });
    let parent = parent.map(|parent| {
        // SECURITY: authority on one target says nothing of another.
        let nothing = Authority::default();
        let same = *parent.target() == target.id;
        let held = if same { parent.authority() } else { &nothing };
        let name = format!("lease {} on {}", parent.lease(), parent.target());
        let outcome = under(request, target, held, Denial::ExceedsParent, &name);
        ("within_parent", outcome)
    });
    people.into_iter().chain(parent)
}

/// Without what restrictions take away. Who asks for all that a mission allows gets the rest of it;
/// who asks for it by name is refused.
///
/// INVARIANT: only pairs are left out, so what the ceilings covered they still cover.
pub(super) fn unrestricted(
    mut request: Request,
    view: &View,
    target: &Target,
) -> Result<Request, Denied> {
    for (fence, denied) in view.denied_on(target.id.as_str()) {
        let without = target.vocabulary.without(&request.authority, denied);
        let (left, hit) = without.map_err(|error| undecided(&error, request.written))?;
        let Some(hit) = hit else { continue };
        if request.written != Written::Mission || left.is_empty() {
            let why = format!(
                "{} restricts {} since {}: {}; it takes away {}",
                fence.author,
                pair(&hit),
                fence.at,
                fence.reason,
                words(denied)
            );
            let mut refused = Denied::new(Denial::Restricted, why);
            refused.at = place(request.written, &hit.place);
            return Err(refused);
        }
        request.authority = left;
    }
    Ok(request)
}

fn covered(
    outside: Result<Option<Outside>, Undecidable>,
    written: Written,
    denial: Denial,
    why: impl FnOnce(&Outside) -> String,
) -> Result<(), Denied> {
    match outside {
        Ok(None) => Ok(()),
        Ok(Some(outside)) => {
            let mut denied = Denied::new(denial, why(&outside));
            denied.at = place(written, &outside.place);
            Err(denied)
        }
        Err(error) => Err(undecided(&error, written)),
    }
}

fn undecided(error: &Undecidable, written: Written) -> Denied {
    let Undecidable::Pattern { place: at, .. } = error;
    let mut denied = Denied::new(Denial::Undecidable, error.to_string());
    if !at.starts_with("ceiling") {
        denied.at = place(written, at);
    }
    denied
}

fn place(written: Written, within: &str) -> Option<String> {
    match written {
        Written::Details => Some(format!("authorization_details{within}")),
        Written::Scope => Some("scope".to_owned()),
        Written::Mission => None,
    }
}

/// The shortest of: what was asked, the mission's and the target's, what a response left the agent, and
/// what is left of the last day of mission and agent.
pub(super) fn lifetime(
    request: &Request,
    question: &Question<'_>,
    mission: &Mission,
    target: &Target,
    (view, now): (&View, OffsetDateTime),
) -> Result<Duration, Denied> {
    let own = |(fence, _): &(&Fence, Duration)| fence.dimension.value == question.agent.id.as_str();
    let shortened = view.shortened().filter(own);
    let shortened = shortened.min_by_key(|(_, longest)| *longest);
    let mut ttl = mission.ttl.min(target.max_ttl);
    if let Some((_, longest)) = &shortened {
        ttl = ttl.min(*longest);
    }
    let last_days = [Some(question.agent.ends), mission.ends]
        .into_iter()
        .flatten()
        .filter_map(|last_day| Some(last_day.next_day()?.midnight().assume_utc()));
    let parents = question.behalf.parent().map(Parent::expires_at);
    for end in last_days.chain(question.goal_ends).chain(parents) {
        ttl = ttl.min(Duration::try_from(end - now).unwrap_or_default());
    }
    let mut at = None;
    if let Some((asked, place)) = &request.shortest
        && *asked < ttl
    {
        ttl = *asked;
        at = Some(place.clone());
    }
    // Whole seconds: that is what the wire and most targets can say.
    let ttl = Duration::from_secs(ttl.as_secs());
    if ttl.is_zero() || ttl < target.min_ttl {
        let (least, left) = (target.min_ttl.as_secs(), ttl.as_secs());
        let mut why = format!(
            "{} gives at least {least} s, and {left} s are left",
            target.id
        );
        if let Some((fence, longest)) = &shortened {
            let longest = longest.as_secs();
            why.push_str(&format!(" ({} leaves it {longest} s)", fence.author));
        }
        let mut denied = Denied::new(Denial::LifetimeOutOfRange, why);
        denied.at = at;
        return Err(denied);
    }
    Ok(ttl)
}

fn pair(outside: &Outside) -> String {
    match &outside.location {
        Some(location) => format!("{} on {location}", outside.action),
        None => outside.action.clone(),
    }
}

/// Cut short: a line is for reading.
pub fn words(authority: &Authority) -> String {
    const MOST: usize = 8;
    let some = |all: &[String]| {
        let mut shown = list(all.iter().take(MOST).cloned());
        if all.len() > MOST {
            shown.push_str(", ...");
        }
        shown
    };
    if authority.is_empty() {
        return "nothing".to_owned();
    }
    let permissions =
        authority
            .0
            .iter()
            .take(MOST)
            .map(|permission| match permission.locations.as_slice() {
                [] => some(&permission.actions),
                locations => format!("{} on {}", some(&permission.actions), some(locations)),
            });
    permissions.collect::<Vec<_>>().join("; ")
}
