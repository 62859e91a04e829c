//! Whether what was granted before would be granted now, as far as a lease tells: for whoever narrows a
//! configuration and wants what it no longer allows to end.

use super::walk::in_time;
use super::{Denial, Denied, Policy, behalf, request};
use crate::agents::Agent;
use crate::authority::Authority;
use crate::ids::{MissionId, TargetId};
use crate::intent::Principal;
use time::OffsetDateTime;

impl Policy {
    /// The agent, its mission, the ceilings, whom it acts for, and whether they have ended. Facts, `when` and
    /// forbids were decided on what the request proved, and a lease does not tell that again.
    pub fn still_grants(
        &self,
        agent: &Agent,
        (mission, target): (&MissionId, &TargetId),
        (authority, chain): (&Authority, &[Principal]),
        now: OffsetDateTime,
    ) -> Result<(), Denied> {
        let found = self.missions.get(mission);
        let own = found.filter(|mission| mission.agents.contains(&agent.id));
        let mission = own.ok_or_else(|| {
            let why = format!("mission {mission} does not list {} any more", agent.id);
            Denied::new(Denial::UnknownMission, why)
        })?;
        in_time(mission, now)?;
        let target = self.targets.get(target).ok_or_else(|| {
            let why = format!("there is no target {target} any more");
            Denied::new(Denial::UnknownTarget, why)
        })?;
        let request = request::granted(authority.clone());
        let served = behalf::still(agent, chain, mission, &self.missions);
        let served = served.map_err(|denied| denied.of(mission))?;
        let within = request::within(&request, agent, mission, target);
        let chain = request::within_chain(&request, &served, None, target);
        for (_, outcome) in within.into_iter().chain(chain) {
            outcome.map_err(|denied| denied.of(mission))?;
        }
        Ok(())
    }
}
