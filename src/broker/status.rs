//! Token status lists (draft-ietf-oauth-status-list-21), for those who only verify signatures.
//!
//! Made when they are asked for, at most one of each in a second, and never told beyond the time
//! that they are known to be true: a replica that cannot follow the fences says 503.

use super::{Broker, Reason, Refusal};
use crate::connectors::status_list_uri;
use crate::ids::ShardId;
use crate::jose::Purpose;
use crate::leases::Bits;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

const TYP: &str = "statuslist+jwt";

/// How long who has fetched a list uses it, in seconds: `ttl`.
pub const TTL: u64 = 30;

/// How long a list may be believed at all: `exp`. Longer than it may be on its way and in use.
const LIFE: Duration = Duration::from_secs(60);

/// A list that did not change is signed again this often, so that what is fetched lives for `ttl`.
const SIGNED_ANEW: Duration = Duration::from_secs(15);

/// How long ago everything that is in the answer may have been true.
const MAX_AGE: Duration = Duration::from_secs(5);

/// However many ask, the store is read once in so long for a list.
const PAUSE: Duration = Duration::from_secs(1);

/// A signed list, as it is served.
#[derive(Debug)]
pub struct StatusList {
    pub token: String,
    pub gzip: Vec<u8>,
    /// Of the token; its compressed form has another.
    pub tag: String,
}

/// The last of each list.
#[derive(Debug)]
pub(in crate::broker) struct StatusLists {
    slots: Vec<Mutex<Slot>>,
}

/// Times are since boot.
#[derive(Debug, Default)]
struct Slot {
    made: Option<Made>,
    looked: Option<Duration>,
}

#[derive(Debug)]
struct Made {
    list: Arc<StatusList>,
    bits: Bits,
    /// [`crate::jose::Keyring::counter`] then: a key may be gone since.
    keys: u64,
    signed: Duration,
    /// What was ended before then is in it.
    as_of: Duration,
}

impl Default for StatusLists {
    fn default() -> Self {
        Self {
            slots: ShardId::all().map(|_| Mutex::default()).collect(),
        }
    }
}

impl Slot {
    /// Whether there has been a look lately, however it went.
    fn has_looked(&self, now: Duration) -> bool {
        self.looked
            .is_some_and(|looked| now.saturating_sub(looked) < PAUSE)
    }

    /// The last list, as long as it is known to be true.
    fn standing(&self, now: Duration) -> Option<Arc<StatusList>> {
        let made = self.made.as_ref()?;
        (now.saturating_sub(made.as_of) <= MAX_AGE).then(|| Arc::clone(&made.list))
    }
}

impl Broker {
    /// Where every list is (section 9.3).
    pub fn status_lists(&self) -> Value {
        let all: Vec<_> = ShardId::all()
            .map(|shard| status_list_uri(&self.url, shard))
            .collect();
        json!({ "status_lists": all })
    }

    /// The list of this number, true or not at all.
    pub async fn status_list(&self, number: &str) -> Result<Arc<StatusList>, Refusal> {
        let found = ShardId::all()
            .zip(&self.status_lists.slots)
            .find(|(shard, _)| shard.number().to_string() == number);
        let Some((shard, slot)) = found else {
            return Err(Refusal::new(Reason::NotFound, "no such status list").exact());
        };
        let mut slot = slot.lock().await;
        let now = self.clock.since_boot();
        if !slot.has_looked(now) {
            slot.looked = Some(now);
            if let Err(refusal) = self.look(shard, &mut slot).await {
                tracing::warn!(list = shard.number(), detail = %refusal.detail, "a status list was not renewed");
            }
        }
        // INVARIANT: the age is measured last: what took too long is not told.
        slot.standing(self.clock.since_boot()).ok_or_else(|| {
            let problem = "what was ended is not in the status list yet";
            Refusal::new(Reason::StaleView, problem).after(1)
        })
    }

    async fn look(&self, shard: ShardId, slot: &mut Slot) -> Result<(), Refusal> {
        let Some((bits, as_of)) = self.sweeper.status(shard, self.clock.now()).await? else {
            return Ok(());
        };
        let (now, keys) = (self.clock.since_boot(), self.keyring.counter());
        if let Some(made) = &mut slot.made
            && made.bits == bits
            && made.keys == keys
            && now.saturating_sub(made.signed) < SIGNED_ANEW
        {
            made.as_of = as_of;
            return Ok(());
        }
        let packing = bits.clone();
        let packed = tokio::task::spawn_blocking(move || packing.compressed()).await;
        let packed = packed.map_err(broken)?.map_err(broken)?;
        let list = Arc::new(self.sign_status(shard, &packed)?);
        slot.made = Some(Made {
            list,
            bits,
            keys,
            signed: now,
            as_of,
        });
        Ok(())
    }

    /// Section 5.1.
    fn sign_status(&self, shard: ShardId, packed: &[u8]) -> Result<StatusList, Refusal> {
        let now = self.clock.now();
        let claims = json!({
            "iss": self.url,
            "sub": status_list_uri(&self.url, shard),
            "iat": now.unix_timestamp(),
            "exp": (now + LIFE).unix_timestamp(),
            "ttl": TTL,
            "status_list": {
                "bits": 1,
                "lst": BASE64_URL_SAFE_NO_PAD.encode(packed),
                "aggregation_uri": format!("{}/status", self.url),
            },
        });
        let (token, _) = self.keyring.sign(&Purpose::StatusList, TYP, &claims)?;
        let token = token.expose().clone();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(token.as_bytes()).map_err(broken)?;
        let hash = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let hash = hash.as_ref().get(..16).unwrap_or_default();
        Ok(StatusList {
            tag: BASE64_URL_SAFE_NO_PAD.encode(hash),
            gzip: encoder.finish().map_err(broken)?,
            token,
        })
    }
}

fn broken(error: impl std::error::Error) -> Refusal {
    Refusal::new(Reason::Internal, error.to_string())
}
