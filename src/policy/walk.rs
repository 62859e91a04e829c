//! The decision itself, step by step. The caller learns only about its own missions: until one is
//! found that lists the agent, an unknown mission and a foreign one look alike, and so do an
//! unknown target and one that the mission allows nothing on.

use super::observe::Observer;
use super::question::Question;
use super::rules::Ask;
use super::trace::Trace;
use super::{
    Binding, Denial, Denied, Mission, Policy, Target, approval, behalf, request, requirement,
    tether,
};
use crate::authority::Authority;
use crate::fences::{Dimension, DimensionHash, DimensionKind, View};
use crate::identity::Confirmation;
use crate::intent::{Principal, SignerClass, group};
use std::time::Duration;
use time::{Date, OffsetDateTime};

/// What a grant will say, where there is one.
#[derive(Debug)]
pub(super) struct Decision<'a> {
    pub mission: &'a Mission,
    pub target: &'a Target,
    pub authority: Authority,
    pub audience: String,
    pub ttl: Duration,
    pub dimensions: Vec<Dimension>,
    pub chain: Vec<Principal>,
    pub max_active: u64,
    /// Of the instance that the request names.
    pub max_of_instance: Option<u64>,
    pub decided_by: Vec<String>,
    /// What would have been refused if the mission enforced.
    pub observed: Vec<Denied>,
}

impl Policy {
    pub(super) fn walk(
        &self,
        question: &Question<'_>,
        view: &View,
        now: OffsetDateTime,
        trace: &mut Trace,
    ) -> Result<Decision<'_>, Denied> {
        let mission = self.mission_of(question, now);
        let mission = trace.step("mission", mission, |m| format!("{} lists the agent", m.id))?;
        // From here on every refusal is about a mission of the agent's own.
        let of = |denied: Denied| denied.of(mission);
        let ends = in_time(mission, now);
        trace.step("mission_ends", ends, |()| match mission.ends {
            Some(ends) => format!("its last day is {ends}"),
            None => "it has no end".to_owned(),
        })?;
        let signer = accepted(mission, question.signer);
        trace.step("signer", signer, |()| {
            let (has, needs) = (question.signer.as_str(), mission.signer.as_str());
            format!("signed by {has}, {needs} is asked for")
        })?;
        let served = behalf::served(question, mission, &self.missions).map_err(of);
        let served = trace.step("on_behalf_of", served, behalf::Served::told)?;
        let target = self.target_of(question, mission).map_err(of);
        let target = trace.step("target", target, |target| target.id.to_string())?;
        let platform = platform_accepted(target, question.signer).map_err(of);
        trace.step("platform_signer", platform, |()| "accepted".to_owned())?;
        let binding = bindable(question, target).map_err(of);
        trace.step("binding", binding, |words| (*words).to_owned())?;

        let contexts = tethers(question, mission).map_err(of);
        let contexts = trace.step("tether", contexts, |all| hangs_on(all))?;
        let dimensions = dimensions(question, mission, target, &contexts);
        let held = held(view, &dimensions).map_err(of);
        trace.step("holds", held, |()| "none stands in the way".to_owned())?;

        let asked = request::of(question, mission, target).map_err(of);
        let asked = trace.step("request", asked, |asked| request::words(&asked.authority))?;
        let within = request::within(&asked, question.agent, mission, target);
        let chain = request::within_chain(&asked, &served, question.behalf.parent(), target);
        for (name, outcome) in within.into_iter().chain(chain) {
            trace.step(name, outcome.map_err(of), |()| "covers it".to_owned())?;
        }
        let asked = request::unrestricted(asked, view, target).map_err(of);
        let asked = trace.step("restrictions", asked, |asked| {
            request::words(&asked.authority)
        })?;
        let ttl = request::lifetime(&asked, question, mission, target, (view, now)).map_err(of);
        let ttl = trace.step("lifetime", ttl, |ttl| format!("{} s", ttl.as_secs()))?;
        let mut observer = Observer::of(mission, question.agent, &target.id, now);
        required(question, (mission, target), &mut observer, trace)?;
        let terms = approval::needed(mission, &question.agent.id, view);
        let of_chain = (served.chain.as_slice(), approval::number(terms.as_ref()));
        let decided = self.ask_cedar(question, (mission, target), of_chain, ttl, now);
        let only_when = decided.as_ref().err().is_some_and(|(_, only)| *only);
        let decided = decided.map_err(|(denied, _)| of(denied));
        let decided_by = observer.step(
            (trace, "policies"),
            decided,
            |_| only_when.then(|| vec![format!("{}#observe", mission.id)]),
            |ids| list(ids.iter().cloned()),
        )?;
        let audience = audience(question, target);
        let ttl = match terms {
            None => ttl,
            Some(terms) => {
                let asked = (&asked.authority, audience.as_str());
                let hangs_on = (served.chain.as_slice(), contexts.as_slice());
                let what = approval::what(question, (mission, target), asked, hangs_on);
                let left = approval::check(question.approval, terms, (what, ttl, target), now);
                trace.step("approval", left.map_err(of), |_| {
                    approval::told(question.approval)
                })?
            }
        };
        let max_active = mission.max_active.unwrap_or(u64::MAX);
        Ok(Decision {
            mission,
            target,
            audience,
            authority: asked.authority,
            ttl,
            dimensions,
            chain: served.chain,
            max_active: max_active.min(question.agent.limits.active),
            max_of_instance: question.agent.limits.instance.active,
            decided_by,
            observed: observer.into_passed(),
        })
    }

    /// The one that is named, else the only one of the agent that allows anything on the target.
    fn mission_of(&self, question: &Question<'_>, now: OffsetDateTime) -> Result<&Mission, Denied> {
        let named = question.mission.or(question.asked.mission.as_ref());
        if let (Some(signed), Some(beside)) = (question.mission, &question.asked.mission)
            && signed != beside
        {
            let why = format!("the intent is for mission {signed}, the scope for {beside}");
            return Err(Denied::new(Denial::ExceedsIntent, why).at("scope"));
        }
        let own = |mission: &&Mission| mission.agents.contains(&question.agent.id);
        // INVARIANT: what a decision costs does not grow with the number of missions.
        if let Some(name) = named {
            let found = self.missions.get(name);
            return found.filter(own).ok_or_else(|| {
                let agent = &question.agent.id;
                let why = match found {
                    Some(_) => format!("mission {name} does not list {agent}"),
                    None => format!("there is no mission {name}"),
                };
                Denied::new(Denial::UnknownMission, why)
            });
        }
        let target = self.named_target(question, |_| true)?;
        let fits = |mission: &&Mission| {
            target.is_none_or(|t| mission.allow.contains_key(&t.id))
                && behalf::could_be(mission, question.behalf)
        };
        let fitting: Vec<_> = self.of_agent(&question.agent.id).filter(fits).collect();
        let running: Vec<_> = fitting.iter().filter(|m| in_time(m, now).is_ok()).collect();
        match (running.as_slice(), fitting.as_slice()) {
            ([only], _) => Ok(only),
            ([], [first, ..]) => Ok(first),
            ([], []) => {
                let why = format!("no mission of {} allows anything there", question.agent.id);
                Err(Denied::new(Denial::UnknownTarget, why))
            }
            (several, _) => {
                let names = list(several.iter().map(|mission| mission.id.to_string()));
                let why = format!("{names} all fit: name one");
                Err(Denied::new(Denial::AmbiguousMission, why))
            }
        }
    }

    fn target_of(&self, question: &Question<'_>, mission: &Mission) -> Result<&Target, Denied> {
        let allowed = |target: &Target| mission.allow.contains_key(&target.id);
        let target = match self.named_target(question, allowed)? {
            Some(target) => Some(target),
            // Nothing names one: a mission with a single target leaves no doubt.
            None => match mission.allow.keys().collect::<Vec<_>>().as_slice() {
                [only] => self.targets.get(*only),
                _ => None,
            },
        };
        let Some(target) = target else {
            let why = "the request names no target".to_owned();
            return Err(Denied::new(Denial::UnknownTarget, why));
        };
        Ok(target)
    }

    /// The target that the details and the parameters agree on.
    ///
    /// SECURITY: one that is there and not allowed is refused just as one that is not there, down to
    /// the place that is pointed at.
    pub(super) fn named_target(
        &self,
        question: &Question<'_>,
        allowed: impl Fn(&Target) -> bool,
    ) -> Result<Option<&Target>, Denied> {
        let mut named: Option<&str> = None;
        for details in [question.details, &question.asked.authorization_details] {
            for (number, detail) in details.iter().enumerate() {
                // SECURITY: compared as text, before looking any of them up: whether the second
                // one exists is not for the caller to learn.
                if *named.get_or_insert(&detail.identifier) != detail.identifier {
                    let why = "the details name several targets".to_owned();
                    return Err(Denied::new(Denial::InvalidAuthorizationDetails, why)
                        .at(format!("authorization_details[{number}].identifier")));
                }
            }
        }
        let unknown = |name: &str, at: &str| {
            let why = format!(
                "the mission allows nothing on `{name}`, there is no such target, or the details name another"
            );
            Denied::new(Denial::UnknownTarget, why).at(at)
        };
        let mut target = None;
        if let Some(name) = named {
            let found = self.by_name(name).filter(|target| allowed(target));
            let at = "authorization_details[0].identifier";
            target = Some(found.ok_or_else(|| unknown(name, at))?);
        }
        for name in &question.asked.targets {
            let found = self.by_name(name).or_else(|| self.by_resource(name));
            let found = found.filter(|target| allowed(target));
            let found = found.ok_or_else(|| unknown(name, "resource"))?;
            if target.get_or_insert(found).id != found.id {
                return Err(unknown(name, "resource"));
            }
        }
        Ok(target)
    }

    fn ask_cedar(
        &self,
        question: &Question<'_>,
        (mission, target): (&Mission, &Target),
        (chain, approvals): (&[Principal], u32),
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Vec<String>, (Denied, bool)> {
        let ask = Ask {
            agent: question.agent,
            mission,
            target,
            facts: question.facts,
            issuer: question.issuer.as_str(),
            signer: question.signer,
            bound: question.proved_key.is_some() && target.binding == Binding::Bound,
            task: question.task,
            chain,
            approvals,
            ttl,
            now,
        };
        self.rules.evaluate(&ask).map_err(|refused| {
            let only_when = refused.only_when;
            (Denied::new(refused.denial, refused.detail), only_when)
        })
    }
}

/// Each fact that the mission requires.
fn required(
    question: &Question<'_>,
    (mission, target): (&Mission, &Target),
    observer: &mut Observer,
    trace: &mut Trace,
) -> Result<(), Denied> {
    let sight = requirement::Sight::new(question, mission, target);
    for (fact, value) in &mission.require {
        let met = requirement::check(fact, value, &sight).map_err(|denied| denied.of(mission));
        let told = |(): &()| requirement::words(fact, value);
        observer.step((trace, "require"), met, |_| Some(()), told)?;
    }
    Ok(())
}

/// INVARIANT: a mission's last day is part of it, in UTC.
pub(super) fn in_time(mission: &Mission, now: OffsetDateTime) -> Result<(), Denied> {
    match mission.ends {
        Some(ends) if is_over(ends, now) => {
            let why = format!("the last day of {} was {ends}", mission.id);
            Err(Denied::new(Denial::MissionEnded, why).of(mission))
        }
        _ => Ok(()),
    }
}

fn is_over(last_day: Date, now: OffsetDateTime) -> bool {
    now.to_offset(time::UtcOffset::UTC).date() > last_day
}

fn accepted(mission: &Mission, signer: SignerClass) -> Result<(), Denied> {
    if mission.accepts(signer) {
        return Ok(());
    }
    let (needs, has) = (mission.signer.as_str(), signer.as_str());
    let why = format!(
        "{} needs an intent signed by {needs}, not {has}",
        mission.id
    );
    Err(Denied::new(Denial::SignerNotAccepted, why).of(mission))
}

// SECURITY: a platform's token is a reusable bearer that says nothing of the purpose.
fn platform_accepted(target: &Target, signer: SignerClass) -> Result<(), Denied> {
    if signer != SignerClass::Platform || target.allow_platform_signer || !target.is_production() {
        return Ok(());
    }
    let why = format!(
        "{} is labelled production and does not set allow_platform_signer: sign an intent",
        target.id
    );
    Err(Denied::new(Denial::SignerNotAccepted, why))
}

/// What becomes of a key, or of a certificate, that the request proves.
///
/// SECURITY: whoever sends a DPoP proof counts on a credential that is worth nothing without the key,
/// and so does whoever makes an agent `certificate_bound`. Fields are no token that could be taken for
/// one, and are given where the proof was not meant to bind: the token or the intent names the key, so
/// it had to be shown; a certificate was shown to authenticate, or for what is bound to it.
fn bindable(question: &Question<'_>, target: &Target) -> Result<&'static str, Denied> {
    let Some(proved) = question.proved_key else {
        return Ok("no key is proved");
    };
    let only_shown = match proved {
        Confirmation::Jkt(_) => question.key_demanded,
        Confirmation::X5t(_) => !question.agent.certificate_bound,
    };
    match (target.binding, proved) {
        (Binding::Bound, Confirmation::Jkt(_)) => Ok("bound to the key that is proved"),
        (Binding::Bound, Confirmation::X5t(_)) => Ok("bound to the certificate that is shown"),
        (Binding::Fields, _) if only_shown => Ok("not bound: the key was only to be shown"),
        (Binding::Fields | Binding::Bearer, _) => {
            let why = format!("credentials of {} cannot be bound to a key", target.id);
            Err(Denied::new(Denial::CredentialNotBindable, why))
        }
    }
}

fn tethers(question: &Question<'_>, mission: &Mission) -> Result<Vec<(String, String)>, Denied> {
    let mut contexts = Vec::new();
    for name in &mission.tether {
        // A person's, and no fact of the agent's platform: it is among the chain's dimensions.
        if name == behalf::SESSION && behalf::has_session(question.behalf) {
            continue;
        }
        let found = tether::contexts(name, question.facts).map_err(|fact| {
            let why = format!("tether `{name}` needs the verified fact {fact}, which is absent");
            Denied::new(Denial::TetherMissing, why)
        })?;
        contexts.extend(found);
    }
    Ok(contexts)
}

fn hangs_on(contexts: &[(String, String)]) -> String {
    match contexts {
        [] => "it hangs on nothing".to_owned(),
        contexts => list(contexts.iter().map(|(kind, id)| format!("{kind} {id}"))),
    }
}

/// Everything that a fence can stand on and this lease is covered by.
fn dimensions(
    question: &Question<'_>,
    mission: &Mission,
    target: &Target,
    contexts: &[(String, String)],
) -> Vec<Dimension> {
    let agent = question.agent;
    let mut all = vec![
        Dimension::new(DimensionKind::Agent, agent.id.as_str()),
        Dimension::new(DimensionKind::Mission, mission.id.as_str()),
        Dimension::new(DimensionKind::Target, target.id.as_str()),
        Dimension::new(DimensionKind::Owner, agent.owner.as_str()),
        // Whoever answers for the mission: nobody, if they have left.
        Dimension::new(DimensionKind::Owner, mission.owner.as_str()),
        Dimension::all(),
    ];
    // An issuer and what it vouches for go by its name and by its URL: either one ends them.
    for issuer in [question.issuer_url, question.issuer.as_str()] {
        all.push(Dimension::new(DimensionKind::Issuer, issuer));
        all.push(Dimension::subject(issuer, question.subject));
    }
    all.extend_from_slice(question.vouchers);
    all.extend(contexts.iter().flat_map(|(kind, id)| {
        // SECURITY: a context is its prover's: whoever may speak for another cannot end it.
        let (issuer, url) = question
            .provers
            .get(group(kind))
            .map_or((question.issuer, question.issuer_url), |(issuer, url)| {
                (issuer, url.as_str())
            });
        tether::dimensions((kind, id), issuer, url)
    }));
    if !question.issuer_key.is_empty() {
        all.push(Dimension::new(
            DimensionKind::IssuerKey,
            question.issuer_key,
        ));
    }
    if let Some(instance) = question.instance {
        all.push(Dimension::instance(agent.id.as_str(), instance));
    }
    if let Some(task) = question.task {
        all.push(Dimension::new(DimensionKind::Task, task));
    }
    for labels in [&agent.labels, &mission.labels, &target.labels] {
        all.extend(
            labels
                .iter()
                .map(|(name, value)| Dimension::label(name, value)),
        );
    }
    all.extend(behalf::dimensions(question.behalf));
    all.extend(question.approval.map(|said| approval::dimension(&said.id)));
    all.sort();
    all.dedup();
    all
}

fn held(view: &View, dimensions: &[Dimension]) -> Result<(), Denied> {
    let hashes: Vec<DimensionHash> = dimensions.iter().map(Dimension::hash).collect();
    match view.held(&hashes) {
        None => Ok(()),
        Some(hold) => {
            let on = dimensions.iter().find(|own| **own == hold.dimension);
            let on = on.map_or_else(String::new, |on| {
                format!(" on {:?} `{}`", on.kind, on.value)
            });
            let why = format!(
                "{} holds{on} since {}: {}",
                hold.author, hold.at, hold.reason
            );
            Err(Denied::new(Denial::Held, why))
        }
    }
}

/// The resource that was asked for, as it was asked for; else the target's name.
fn audience(question: &Question<'_>, target: &Target) -> String {
    let resource = question
        .asked
        .targets
        .iter()
        .find(|name| target.resources.contains(name));
    resource.map_or_else(|| target.id.to_string(), Clone::clone)
}

pub(super) fn list(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
