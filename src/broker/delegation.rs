//! For whom does the agent ask? In: what was presented. Out: the agent's own part of it, and whom it
//! acts for.
//!
//! SECURITY: what the subject token *is* decides: one that the broker issued leads to the lease
//! behind it, one of an issuer of people to the person. Neither the token type that it was sent
//! under, nor the grant type, nor what else was sent, leads anywhere else.

use super::{Broker, Bundle, Reason, Refusal};
use crate::connectors::{api_key, handle};
use crate::fences::{Place, View};
use crate::identity::{Presented, PresentedToken, TokenType, is_brokers_own};
use crate::intent::{Behalf, Parent};
use crate::jose::unverified_issuer;
use crate::secret::Secret;
use ring::digest::{SHA256, digest};
use std::sync::Arc;
use time::OffsetDateTime;

/// No door takes a longer one.
const MAX_TOKEN: usize = 64 * 1024;

/// A token request, sorted by what its tokens are.
#[derive(Debug)]
pub(in crate::broker) struct Sorted {
    /// What proves who the agent is.
    pub own: Presented,
    pub behalf: Behalf,
    /// The view that everything is decided on.
    pub view: Arc<View>,
}

impl Broker {
    /// The view was taken before; where a parent was decided further on, a newer one takes its place
    /// and the parent is read again.
    pub(in crate::broker) async fn sort(
        &self,
        bundle: &Bundle,
        mut presented: Presented,
        view: Arc<View>,
        now: OffsetDateTime,
    ) -> Result<Sorted, Refusal> {
        // SECURITY: a credential of ours says what may be done, never who does it.
        let ours = "a credential of the broker's own proves nobody";
        let clients = [&presented.client_assertion, &presented.client_svid];
        if clients
            .into_iter()
            .flatten()
            .any(|proof| self.is_ours(proof))
        {
            return Err(Refusal::new(Reason::InvalidClient, ours));
        }
        let actor = presented.actor_token.take();
        if let Some(token) = actor.as_ref().filter(|t| self.is_ours(&t.unverified)) {
            return Err(invalid(token, ours));
        }
        let person = match &presented.subject_token {
            Some(token) if self.is_ours(&token.unverified) => {
                let (parent, view) = self.parent(token, view, now).await?;
                presented.subject_token = actor;
                return Ok(Sorted {
                    own: presented,
                    behalf: Behalf::Parent(Box::new(parent)),
                    view,
                });
            }
            Some(token) if bundle.identity.names_person(token) => {
                Some(Box::new(bundle.identity.person(token, now).await?))
            }
            _ => None,
        };
        let behalf = match (person, actor) {
            (None, None) => Behalf::Nobody,
            (None, Some(token)) => {
                let why = "an actor goes with a person's token, or with a credential of ours";
                return Err(invalid(&token, why));
            }
            (Some(person), actor)
                if proves_agent(&presented, actor.as_ref())
                    || bundle.identity.knows_certificate_of(&presented) =>
            {
                presented.subject_token = actor;
                Behalf::Person(person)
            }
            (Some(person), _) => Behalf::InPerson(person),
        };
        Ok(Sorted {
            own: presented,
            behalf,
            view,
        })
    }

    /// Whether the text is, or says that it is, something that the broker issued. It is verified as
    /// that, or refused.
    fn is_ours(&self, token: &Secret<String>) -> bool {
        let text = token.expose();
        api_key::parse(text).is_some()
            || handle::parse(text).is_some()
            || unverified_issuer(text, MAX_TOKEN)
                .is_some_and(|issuer| is_brokers_own(&issuer, &self.url))
    }

    /// The lease behind a credential of ours, on a view that has read as far as its decision.
    async fn parent(
        &self,
        token: &PresentedToken,
        view: Arc<View>,
        now: OffsetDateTime,
    ) -> Result<(Parent, Arc<View>), Refusal> {
        let text = &token.unverified;
        let unknown = || invalid(token, "no lease has this credential");
        let mut lease = self.locate(text.expose()).await?.ok_or_else(unknown)?;
        let mut view = view;
        if view.place(lease.position()) == Place::Ahead {
            // INVARIANT: the view first, then the lease again: see `Lease::as_parent`.
            view = self.reach(&lease).await?;
            lease = self.locate(text.expose()).await?.ok_or_else(unknown)?;
        }
        Ok((lease.as_parent(sha256(text), &view, now), view))
    }
}

/// Whether anything beside the subject token is there to prove the agent. Good or bad is for
/// `identity` to say: a bad proof is refused, and never makes a person of its sender.
fn proves_agent(presented: &Presented, actor: Option<&PresentedToken>) -> bool {
    let Presented {
        subject_token: _,
        actor_token: _,
        basic,
        client_assertion,
        client_svid,
        client_id: _,
        // A key alone is nobody.
        dpop: _,
        // Whether it is shown for that, depends on who is known by one.
        certificate: _,
    } = presented;
    let client = client_assertion.is_some() || client_svid.is_some();
    actor.is_some() || basic.is_some() || client
}

fn invalid(token: &PresentedToken, detail: &str) -> Refusal {
    let reason = match token.token_type {
        TokenType::Assertion => Reason::InvalidAssertion,
        _ => Reason::InvalidToken,
    };
    Refusal::new(reason, detail)
}

fn sha256(text: &Secret<String>) -> [u8; 32] {
    let mut bytes = [0; 32];
    let hash = digest(&SHA256, text.expose().as_bytes());
    bytes
        .iter_mut()
        .zip(hash.as_ref())
        .for_each(|(to, from)| *to = *from);
    bytes
}
