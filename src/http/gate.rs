//! What every request passes before its door: rate, room, role, time.

use super::Doors;
use super::Peer;
use super::error::Challenge;
use super::error::Refused;
use super::peer::ConnectedFrom;
use super::routes::{Listener, Route, Who};
use crate::broker::Operator;
use crate::broker::Reason;
use crate::broker::Refusal;
use crate::broker::Role;
use crate::secret::Secret;
use crate::telemetry::field;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// One door's gate.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub doors: Doors,
    pub route: &'static Route,
}

pub(super) async fn enter(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.admit(request, next).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    }
}

impl Gate {
    async fn admit(&self, mut request: Request, next: Next) -> Result<Response, Refused> {
        let limits = &self.doors.limits;
        let connected = request
            .extensions()
            .get::<ConnectedFrom>()
            .map(|from| from.0.ip());
        let peer = Peer::of(connected, request.headers(), &limits.trusted_proxies);
        request.extensions_mut().insert(peer);
        if let Some(address) = peer.0 {
            tracing::Span::current().record(field::PEER, tracing::field::display(address));
        }

        if self.route.listener == Listener::Public {
            limits
                .bucket(self.route.who)
                .take(peer)
                .map_err(|seconds| {
                    let refusal = Refusal::new(Reason::TooManyRequests, "a peer asks too often");
                    refusal.exact().after(seconds)
                })?;
        }
        // Held until the answer is made.
        let _room = limits
            .room(self.route)
            .try_acquire()
            .map_err(|_| Refusal::new(Reason::Overloaded, "too many requests at once").after(1))?;
        let passing = async {
            if let Who::Operator(needed) = self.route.who {
                let operator = self.operator(bearer(request.headers()), needed).await?;
                request.extensions_mut().insert(operator);
            }
            Ok(next.run(request).await)
        };
        tokio::time::timeout(limits.request_timeout, passing)
            .await
            .unwrap_or_else(|_| Err(Refusal::new(Reason::Overloaded, "no answer in time").into()))
    }

    async fn operator(&self, bearer: Option<String>, needed: Role) -> Result<Operator, Refused> {
        let Some(bearer) = bearer.map(Secret::new) else {
            let refusal = Refusal::new(Reason::NotAuthenticated, "no bearer token").exact();
            return Err(Refused::new(refusal, Challenge::Bearer(false)));
        };
        self.doors
            .broker
            .operator(bearer.expose(), needed)
            .await
            .map_err(|refusal| Refused::new(refusal, Challenge::Bearer(true)))
    }
}

/// RFC 6750 section 2.1. Two headers are none: which one counts is not ours to guess.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}
