//! What is bound to a key is presented with a proof of that key (RFC 9449 section 7).

use super::{Broker, Reason, Refusal};
use crate::identity::{Caller, Confirmation, DpopProof, Identity, shown};
use crate::leases::Lease;
use crate::secret::Secret;
use time::OffsetDateTime;

impl Broker {
    /// The nonce that the next DPoP proof should carry; `None` where none is demanded.
    pub fn dpop_nonce(&self) -> Option<String> {
        self.bundle.load().identity.nonce(self.clock.now())
    }
}

/// A token at a door where nothing but the token speaks for whoever sent it.
pub(super) fn of_its_holder(caller: &Caller) -> Result<(), Refusal> {
    shown(caller.bound_key(), caller.proved_key()).map_err(|fault| match caller.bound_key() {
        // RFC 8705 section 3: the connection shows it, so there is no parameter to name.
        Some(Confirmation::X5t(_)) => Refusal::new(Reason::NotAuthenticated, fault.to_string()),
        _ => Refusal::new(Reason::InvalidDpopProof, fault.to_string())
            .exact()
            .at(Some("DPoP".to_owned())),
    })
}

/// Whoever presents a credential may end it, found or stolen, and needs no key for that. Where a proof
/// is sent all the same, it must be a good one, of the key that the credential is bound to.
pub(super) fn of_what_is_released(
    identity: &Identity,
    lease: &Lease,
    token: &str,
    proof: Option<&DpopProof>,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let (Some(bound @ Confirmation::Jkt(_)), Some(proof)) = (&lease.bound_key, proof) else {
        return Ok(());
    };
    let proof = DpopProof {
        access_token: Some(Secret::new(token.to_owned())),
        ..proof.clone()
    };
    let proved = identity.prove(&proof, now)?;
    shown(Some(bound), Some(proved.confirmation())).map_err(|fault| {
        Refusal::new(Reason::InvalidDpopProof, fault.to_string())
            .exact()
            .at(Some("DPoP".to_owned()))
    })
}
