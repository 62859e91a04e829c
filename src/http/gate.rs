//! What every request passes before its door: rate, room, role, time.

use super::Doors;
use super::Peer;
use super::certificate::{self, FromHandshake, HeaderRule, Shown};
use super::discovery;
use super::dpop;
use super::error::Challenge;
use super::error::Refused;
use super::peer::ConnectedFrom;
use super::routes::{Listener, Route, Who};
use crate::broker::Operator;
use crate::broker::Possession;
use crate::broker::Reason;
use crate::broker::Refusal;
use crate::broker::Role;
use crate::identity::ClientCertificate;
use crate::identity::DpopProof;
use crate::secret::Secret;
use crate::telemetry::field;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// One door's gate.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub doors: Doors,
    pub route: &'static Route,
}

pub(super) async fn enter(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    // Elsewhere a proof is not looked at, and answers may be cached.
    let proving = matches!(
        gate.route.who,
        Who::Client | Who::Operator(_) | Who::Watcher
    ) && request.headers().contains_key(dpop::HEADER);
    let path = request.uri().path().to_owned();
    let mut response = match gate.admit(request, next).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    };
    if response.status() == StatusCode::UNAUTHORIZED && gate.route.who.operators_come() {
        gate.point_to_metadata(&mut response, &path);
    }
    if proving {
        dpop::offer(&gate.doors.broker, &mut response);
    }
    response
}

impl Gate {
    /// RFC 9728 section 5.1, in each challenge that asks for a token.
    fn point_to_metadata(&self, response: &mut Response, path: &str) {
        let url = discovery::resource_metadata_url(self.doors.broker.url(), path);
        let Some(url) = url else { return };
        let headers = response.headers_mut();
        let asked: Vec<_> = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .cloned()
            .collect();
        headers.remove(header::WWW_AUTHENTICATE);
        for challenge in asked {
            let text = challenge.to_str().unwrap_or_default();
            let pointing = (!text.starts_with("Basic"))
                .then(|| HeaderValue::from_str(&format!(r#"{text}, resource_metadata="{url}""#)));
            let challenge = pointing.and_then(Result::ok).unwrap_or(challenge);
            headers.append(header::WWW_AUTHENTICATE, challenge);
        }
    }

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
        if self.reads_certificates() {
            let handshake = request.extensions_mut().remove::<FromHandshake>();
            let rule = HeaderRule {
                is_on: limits.client_cert_header,
                trusted: &limits.trusted_proxies,
            };
            let handshake = handshake.and_then(|shown| shown.0);
            let shown = certificate::shown(connected, handshake, request.headers(), rule)?;
            request.extensions_mut().insert(shown);
        }
        // Held until the answer is made.
        let _room = limits
            .room(self.route)
            .try_acquire()
            .map_err(|_| Refusal::new(Reason::Overloaded, "too many requests at once").after(1))?;
        let passing = async {
            if let Who::Operator(needed) = self.route.who {
                let came = self.came(&request)?;
                let bearer = self.bearer(&came);
                let operator = self.operator(came, needed).await?;
                request.extensions_mut().insert(operator);
                request.extensions_mut().insert(bearer);
            }
            if self.route.who == Who::Watcher && token(request.headers()).is_some() {
                let came = self.came(&request)?;
                let bearer = self.bearer(&came);
                let operator = self.operator(came, Role::Viewer).await?;
                request.extensions_mut().insert((operator, bearer));
            }
            Ok(next.run(request).await)
        };
        tokio::time::timeout(limits.request_timeout, passing)
            .await
            .unwrap_or_else(|_| Err(Refusal::new(Reason::Overloaded, "no answer in time").into()))
    }

    /// At every door where a certificate could mean something.
    fn reads_certificates(&self) -> bool {
        matches!(
            self.route.who,
            Who::Client | Who::ResourceServer | Who::Operator(_) | Who::Watcher
        )
    }

    fn bearer(&self, came: &Came) -> Bearer {
        Bearer {
            token: came.token.clone(),
            certificate: came.possession.certificate.clone(),
            action: self.route.about.id,
        }
    }

    async fn operator(&self, came: Came, needed: Role) -> Result<Operator, Refused> {
        let challenged = |refusal| came.scheme.challenged(refusal);
        let broker = &self.doors.broker;
        broker
            .operator(
                came.token.expose(),
                came.possession,
                (needed, self.route.about.id),
            )
            .await
            .map_err(challenged)
    }

    /// RFC 9449 section 7.1: the scheme `DPoP` and a proof go together.
    fn came(&self, request: &Request) -> Result<Came, Refused> {
        let Some((scheme, token)) = token(request.headers()) else {
            let refusal = Refusal::new(Reason::NotAuthenticated, "no token").exact();
            return Err(Refused::new(refusal, Challenge::Token(false)));
        };
        let challenged = |refusal| scheme.challenged(refusal);
        let (broker, path) = (&self.doors.broker, request.uri().path());
        let proof = dpop::read(request.headers(), broker, request.method(), path);
        let proof = match (scheme, proof.map_err(challenged)?) {
            (Scheme::Bearer, None) => None,
            (Scheme::Bearer, Some(_)) => {
                return Err(challenged(dpop::refused("a proof beside a bearer token")));
            }
            (Scheme::Dpop, None) => {
                return Err(challenged(dpop::refused("the scheme DPoP without a proof")));
            }
            (Scheme::Dpop, Some(proof)) => Some(DpopProof {
                access_token: Some(token.clone()),
                ..proof
            }),
        };
        let shown = request.extensions().get::<Shown>().cloned();
        let possession = Possession {
            dpop: proof,
            certificate: shown.unwrap_or_default().0,
        };
        Ok(Came {
            scheme,
            token,
            possession,
        })
    }
}

/// What let an operator in who stays.
#[derive(Debug, Clone)]
pub(super) struct Bearer {
    pub token: Secret<String>,
    pub certificate: Option<ClientCertificate>,
    pub action: &'static str,
}

/// What came to an operators' door.
struct Came {
    scheme: Scheme,
    token: Secret<String>,
    possession: Possession,
}

#[derive(Debug, Clone, Copy)]
enum Scheme {
    Bearer,
    Dpop,
}

impl Scheme {
    fn challenged(self, refusal: Refusal) -> Refused {
        let of_proof = matches!(
            refusal.reason,
            Reason::InvalidDpopProof | Reason::UseDpopNonce | Reason::DpopProofSpent
        );
        let challenge = match self {
            Self::Bearer if !of_proof => Challenge::Token(true),
            Self::Bearer | Self::Dpop => Challenge::Dpop,
        };
        Refused::new(refusal, challenge)
    }
}

/// RFC 6750 section 2.1, RFC 9449 section 7.1. Two headers are none: which one counts is not ours to
/// guess.
fn token(headers: &HeaderMap) -> Option<(Scheme, Secret<String>)> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let scheme = if scheme.eq_ignore_ascii_case("bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case("dpop") {
        Scheme::Dpop
    } else {
        return None;
    };
    (!token.is_empty()).then(|| (scheme, Secret::new(token.to_owned())))
}
