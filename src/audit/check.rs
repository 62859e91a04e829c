//! Whether a broker may start on this store, and what may be done to one on which none runs.

use super::AuditError;
use super::chain::FENCES;
use super::seen::Seen;
use super::state::{State, lacking, reconcile};
use super::verify::last_sealed;
use crate::secret::Sealer;
use crate::store::{Position, Store};
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;

/// How often it is looked whether somebody seals.
const LOOKED: Duration = Duration::from_millis(200);

/// Refuses a store that is behind its last exported checkpoint or lacks what was sealed, and an export that was
/// changed. For the start, before anything is minted. Answers the place of the fence log that was sealed last:
/// whoever reads that log has to find it there.
pub async fn check(
    store: &dyn Store,
    sealer: &Sealer,
    path: &Path,
) -> Result<Option<Position>, AuditError> {
    let exported = last_sealed(path)?;
    let state = State::read(store, sealer).await?.map(|(state, _)| state);
    let accepted = state.as_ref().filter(|state| state.is_accepted());
    let accepted = accepted.map(|state| (state.until, state.chain.heads.clone()));
    let chain = reconcile(state.map(|state| state.chain), exported)?;
    let seen = Seen::beside(path);
    // An opening checkpoint, which a crash may have left behind the state, names no loss yet.
    if let Some((at, _)) = accepted.filter(|(_, heads)| *heads == chain.heads) {
        seen.accept(chain.checkpoint, at)?;
        return Ok(None);
    }
    seen.refuse_before(chain.checkpoint)?;
    // SECURITY: a store that was put back to the day of this very checkpoint knows its number.
    match lacking(store, &chain).await? {
        Some(log) => Err(AuditError::StoreLacks {
            checkpoint: chain.checkpoint,
            log,
        }),
        None => Ok(chain.heads.get(&FENCES).map(|head| head.position)),
    }
}

/// Refuses a store on which a broker seals. Waits for a claim to end whose holder may have been killed.
pub async fn unattended(
    store: &dyn Store,
    sealer: &Sealer,
    now: OffsetDateTime,
) -> Result<(), AuditError> {
    let (state, version) = match State::read(store, sealer).await {
        Ok(Some(found)) => found,
        // Nobody seals behind what cannot be read.
        Ok(None) | Err(AuditError::State) => return Ok(()),
        Err(error) => return Err(error),
    };
    if state.until <= now {
        return Ok(());
    }
    // However wrong a clock is: whoever holds it writes it anew within that time.
    let rest = State::LEASE.min((state.until - now).unsigned_abs());
    let over = tokio::time::Instant::now() + rest + LOOKED;
    while tokio::time::Instant::now() < over {
        tokio::time::sleep(LOOKED).await;
        if State::version(store).await? != Some(version) {
            return Err(AuditError::Attended);
        }
    }
    Ok(())
}
