//! RFC 7662 and RFC 9701: is it alive, now? From the lease and this replica's view, never from the
//! token's own word.

use super::exchange::token_type;
use super::{Broker, Refusal, ResourceServer};
use crate::fences::View;
use crate::intent::behalf;
use crate::jose::Purpose;
use crate::leases::{Lease, Leases, Standing};
use crate::wire::Introspection;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Credentials that are remembered, each with its lease.
const MOST: u64 = 20_000;

/// How long one is known without another look at the store: what the store alone knows, that it has
/// lost the lease, counts that late.
pub const KNOWN: Duration = Duration::from_secs(10);

/// Leases of credentials that were found alive, so that a gateway that asks for each of its requests
/// costs no read of the store.
///
/// INVARIANT: what such a lease is worth is never remembered. Its record does not change while it is
/// alive; what ends it is a fence, a time or the loss of its decision, and every answer looks at all
/// three: see [`Leases::standing`]. What was ended without one of them was handed out to nobody.
#[derive(Debug)]
pub(in crate::broker) struct Seen {
    leases: moka::sync::Cache<[u8; 32], Arc<Lease>>,
}

impl Default for Seen {
    fn default() -> Self {
        let leases = moka::sync::Cache::builder()
            .max_capacity(MOST)
            .time_to_live(KNOWN)
            .build();
        Self { leases }
    }
}

impl Seen {
    /// By the hash of the whole credential: whoever has the same string has what was verified.
    fn key(token: &str) -> Option<[u8; 32]> {
        digest(&SHA256, token.as_bytes()).as_ref().try_into().ok()
    }

    fn get(&self, token: &str) -> Option<Arc<Lease>> {
        self.leases.get(&Self::key(token)?)
    }

    /// The time runs from the first look: asking again and again does not lengthen it.
    fn remember(&self, token: &str, lease: &Arc<Lease>) {
        let Some(key) = Self::key(token) else { return };
        self.leases.entry(key).or_insert_with(|| Arc::clone(lease));
    }
}

impl Broker {
    /// Unknown, expired, revoked and not-for-you all look the same: `{"active": false}`.
    pub async fn introspect(
        &self,
        caller: &ResourceServer,
        token: &str,
    ) -> Result<Introspection, Refusal> {
        // INVARIANT: a stale view answers nothing, not even "inactive": it fails closed with 503.
        self.view()?;
        let remembered = self.seen.get(token);
        let read = remembered.is_none();
        let found = match remembered {
            Some(lease) => Some(lease),
            None => self.locate(token).await?.map(Arc::new),
        };
        // INVARIANT: the view that decides is taken last, after the store was read: an end that
        // was read meanwhile counts.
        let view = match &found {
            Some(lease) => self.reach(lease).await?,
            None => self.view()?,
        };
        // SECURITY: what a clock that is behind calls alive may be over.
        let now = self.fences.no_earlier(self.clock.now());
        let alive = found.filter(|lease| {
            caller
                .audiences
                .iter()
                .any(|audience| *audience == lease.audience)
                && matches!(Leases::standing(lease, &view, now), Standing::Live)
        });
        // INVARIANT: only what was read just now. What was remembered may have run out since, and would be
        // put back for as long again.
        if read && let Some(lease) = &alive {
            self.seen.remember(token, lease);
        }
        Ok(
            alive.map_or_else(Introspection::default, |lease| Introspection {
                active: true,
                members: self.members(&lease),
            }),
        )
    }

    /// The same answer as a signed JWT for this resource server alone.
    pub async fn introspect_signed(
        &self,
        caller: &ResourceServer,
        token: &str,
    ) -> Result<String, Refusal> {
        let answer = self.introspect(caller, token).await?;
        // RFC 9701 section 5: no top-level `sub` or `exp`, so that it cannot pass for a token.
        let claims = json!({
            "iss": self.url,
            "aud": caller.name,
            "iat": self.clock.now().unix_timestamp(),
            "token_introspection": answer,
        });
        let (jwt, _) =
            self.keyring
                .sign(&Purpose::Introspection, "token-introspection+jwt", &claims)?;
        Ok(jwt.expose().clone())
    }

    /// Another replica may have decided the lease further on than this one has read. Waited for, or
    /// a token that is good would be called dead. What is still ahead of a view that is fresh after
    /// the wait stands on no log.
    pub(in crate::broker) async fn reach(&self, lease: &Lease) -> Result<Arc<View>, Refusal> {
        match self.fences.reach(lease.position().sequence).await {
            Ok(view) => Ok(view),
            Err(_) => self.view(),
        }
    }

    fn members(&self, lease: &Lease) -> Map<String, Value> {
        let mut members = Map::new();
        let mut tell = |name: &str, value: Value| {
            if !value.is_null() {
                members.insert(name.to_owned(), value);
            }
        };
        tell("iss", json!(self.url));
        tell("sub", json!(behalf::subject(&lease.chain, &lease.agent)));
        tell(
            "act",
            json!(behalf::act(&lease.chain, &lease.agent, &self.url)),
        );
        tell("client_id", json!(lease.agent));
        tell("aud", json!(lease.audience));
        tell("jti", json!(lease.id));
        tell("iat", json!(lease.created.unix_timestamp()));
        tell("exp", json!(lease.expires_at.unix_timestamp()));
        tell("token_type", json!(token_type(lease.bound_key.as_ref())));
        tell("scope", json!(lease.authority.scope()));
        tell(
            "authorization_details",
            json!(
                lease
                    .authority
                    .to_details(&lease.detail_type, &lease.target, None)
            ),
        );
        tell("txn", json!(lease.task));
        tell("mission", json!({ "id": lease.mission }));
        tell("cnf", json!(lease.bound_key));
        members
    }
}
