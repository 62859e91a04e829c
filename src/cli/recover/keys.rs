//! Signing keys that were removed as compromised stay removed.

use super::super::compose::kept;
use super::{Made, failed};
use crate::audit::{Entry, Event, Lost};
use crate::broker::keys::COMPROMISED;
use crate::cli::Failure;
use crate::config::Settings;
use crate::fences::{By, Dimension, DimensionKind, FenceKind, LONGEST_LIFETIME, NewFence};
use crate::jose::{Keyring, Purpose};
use std::collections::BTreeSet;
use std::sync::Arc;
use time::OffsetDateTime;

impl Made<'_> {
    /// SECURITY: a backup brings back a signing key that was removed as compromised since.
    pub(super) async fn without_compromised(
        &self,
        settings: &Settings,
        lost: &Lost,
        now: OffsetDateTime,
    ) -> Result<Vec<String>, Failure> {
        let removed: BTreeSet<_> = lost.fences.iter().flat_map(removed_keys).collect();
        if removed.is_empty() {
            return Ok(Vec::new());
        }
        let kept = kept(settings);
        let keyring =
            Keyring::open_with(Arc::clone(self.store), self.sealer.clone(), kept, now).await;
        let keyring = keyring.map_err(failed)?;
        let mut gone = Vec::new();
        for key in keyring.status(now).map_err(failed)? {
            if !removed.contains(&key.kid) || gone.contains(&key.kid) {
                continue;
            }
            let purpose: Purpose = key
                .purpose
                .parse()
                .map_err(|_| Failure::failed(format!("no keys for `{}`", key.purpose)))?;
            let report = keyring.rotate(&purpose, now, true).await.map_err(failed)?;
            for kid in &report.removed {
                let on = Dimension::new(DimensionKind::SigningKey, kid.as_str());
                let fence = NewFence::new(FenceKind::Kill, on, "dayfly recover", COMPROMISED)
                    .by(By::Rule("recovery".to_owned()))
                    .until(now + LONGEST_LIFETIME);
                self.fences.raise(fence, now).await.map_err(failed)?;
            }
            gone.extend(report.removed);
        }
        Ok(gone)
    }
}

fn removed_keys(entry: &Entry) -> Vec<String> {
    let text = |name: &str| entry.detail.get(name).and_then(|value| value.as_str());
    // Written with the fence, and the entry of the rotation only behind it.
    let compromised = entry.reason.as_deref() == Some(COMPROMISED);
    if entry.event == Event::FenceRaised && text("dimension") == Some("signing_key") && compromised
    {
        return text("value").map(str::to_owned).into_iter().collect();
    }
    let removed = entry.detail.get("removed");
    let removed = removed.filter(|_| entry.event == Event::KeyRotated);
    removed
        .and_then(|removed| serde_json::from_value(removed.clone()).ok())
        .unwrap_or_default()
}
