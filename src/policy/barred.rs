//! What the configuration alone keeps anybody from getting, whatever a request says: for whoever asks who
//! can reach what, and should not be told of what nobody does.

use super::observe::Observer;
use super::rules::Ask;
use super::walk::in_time;
use super::{Access, Policy, requirement};
use crate::identity::Facts;
use crate::intent::SignerClass;
use std::time::Duration;
use time::{OffsetDateTime, UtcOffset};

impl Policy {
    /// Why nothing comes of it: each reason in words. Empty: a request decides.
    pub fn barred(&self, access: &Access<'_>, now: OffsetDateTime) -> Vec<String> {
        let Access {
            agent,
            mission,
            target,
            ..
        } = access;
        let mut why = Vec::new();
        if agent.ends < now.to_offset(UtcOffset::UTC).date() {
            why.push(format!("the last day of {} was {}", agent.id, agent.ends));
        }
        if let Err(over) = in_time(mission, now) {
            why.push(over.detail);
        }
        if !mission.on_behalf_of.is_empty() && access.people.is_empty() {
            why.push("no group of people that it is for reaches any of it".to_owned());
        }
        // What is only observed is let pass.
        if !Observer::of(mission, agent, &target.id, now).observes() {
            let labels = [&agent.labels, &mission.labels, &target.labels];
            let asked = mission.require.iter();
            let outcomes =
                asked.filter_map(|(name, value)| requirement::of_labels(name, value, labels));
            why.extend(outcomes.filter_map(|met| Some(met.err()?.detail)));
        }
        why.extend(self.rules.always_forbids(&Ask {
            agent,
            mission,
            target,
            // None of this is looked at by a policy that is asked here.
            facts: &Facts::new(),
            issuer: "",
            signer: SignerClass::Agent,
            bound: false,
            task: None,
            chain: &[],
            approvals: mission.approval.as_ref().map_or(0, |terms| terms.count),
            ttl: Duration::ZERO,
            now,
        }));
        why
    }
}
