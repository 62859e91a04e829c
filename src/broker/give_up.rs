//! An operator looked for what a record stands for that cannot be read: nobody waits for it any more.

use super::{Broker, Operator, Reason, Refusal, show};
use crate::ids::LeaseId;
use crate::wire::LeaseGivenUp;

impl Broker {
    /// `POST /admin/v1/leases/{id}/give-up`.
    pub async fn give_up_lease(
        &self,
        by: &Operator,
        id: LeaseId,
        reason: &str,
    ) -> Result<LeaseGivenUp, Refusal> {
        if by.break_glass {
            let why = "break-glass ends, it never calls anything dead";
            return Err(Refusal::new(Reason::NotPermitted, why).exact());
        }
        if reason.trim().is_empty() {
            let why = "say where it was looked for, and what was found";
            let at = Some("reason".to_owned());
            return Err(Refusal::new(Reason::MalformedRequest, why).exact().at(at));
        }
        let said = (by.name.as_str(), reason);
        let given_up = self.leases.give_up(&id, said, self.clock.now()).await?;
        let (given_up, replicated) = given_up.ok_or_else(|| show::not_found(&id.to_string()))?;
        let answer = LeaseGivenUp {
            lease: id,
            by: given_up.by,
            reason: given_up.reason,
            at: given_up.at,
            replicated,
        };
        Ok(answer)
    }
}
