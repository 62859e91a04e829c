//! An entry of the log as it is at rest: a version, a MAC, the fence. And who decides what one without a
//! good MAC may still do.

use super::{Fence, FenceError};
use crate::secret::{MAC_LENGTH, SealError, Sealer};
use time::OffsetDateTime;
use time::macros::datetime;

/// No MessagePack map begins with it, as entries did before they had a MAC.
const VERSION: u8 = 2;
const ENTRY: &str = "fence";
const SNAPSHOT: &str = "fences snapshot";
/// SECURITY: whoever can write to the store chooses the times of a fence. One that a lifetime is added to must
/// not be the last that can be told.
const LATEST: OffsetDateTime = datetime!(9000-01-01 0:00 UTC);

/// Whether a broker of this installation wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fences) enum Author {
    Ours,
    /// With a sealing key that is not the first any more.
    OursOnce,
    /// Whoever can write to the store.
    Anybody,
}

/// What is written, with its MAC.
pub(in crate::fences) fn wrap(sealer: &Sealer, fence: &Fence) -> Result<Vec<u8>, FenceError> {
    let body = rmp_serde::to_vec_named(fence)
        .map_err(|error| FenceError::Unwritable(error.to_string()))?;
    Ok(sealed(sealer, ENTRY, &body)?)
}

/// SECURITY: who wrote it is told, not judged here: see [`super::View::fold`].
pub(in crate::fences) fn unwrap(
    sealer: &Sealer,
    value: &[u8],
    sequence: u64,
) -> Result<(Fence, Author), FenceError> {
    let (author, body) = opened(sealer, ENTRY, value).ok_or(FenceError::OtherFormat(sequence))?;
    let mut fence: Fence =
        rmp_serde::from_slice(body).map_err(|_| FenceError::Unreadable(sequence))?;
    fence.at = fence.at.min(LATEST);
    fence.until = fence.until.map(|until| until.min(LATEST));
    Ok((fence, author))
}

pub(in crate::fences) fn wrap_snapshot(
    sealer: &Sealer,
    body: &[u8],
) -> Result<Vec<u8>, FenceError> {
    Ok(sealed(sealer, SNAPSHOT, body)?)
}

/// SECURITY: a snapshot says what was lifted by leaving it out, so one without a good MAC says nothing.
pub(in crate::fences) fn unwrap_snapshot<'a>(
    sealer: &Sealer,
    value: &'a [u8],
) -> Result<(&'a [u8], Author), FenceError> {
    match opened(sealer, SNAPSHOT, value) {
        Some((author, body)) if author != Author::Anybody => Ok((body, author)),
        _ => Err(FenceError::ForgedSnapshot),
    }
}

fn sealed(sealer: &Sealer, purpose: &str, body: &[u8]) -> Result<Vec<u8>, SealError> {
    let bytes = sealer.with_mac(purpose, body)?;
    Ok([[VERSION].as_slice(), bytes.as_slice()].concat())
}

fn opened<'a>(sealer: &Sealer, purpose: &str, value: &'a [u8]) -> Option<(Author, &'a [u8])> {
    let (version, bytes) = value.split_first()?;
    if *version != VERSION {
        return None;
    }
    match sealer.without_mac(purpose, bytes) {
        Some((body, true)) => Some((Author::Ours, body)),
        Some((body, false)) => Some((Author::OursOnce, body)),
        None => Some((Author::Anybody, bytes.get(MAC_LENGTH..)?)),
    }
}
