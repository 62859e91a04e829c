//! Which refusals a door may answer with: by who enters, by what it takes, and by what it does.

use super::about::{Place, Refuses, Takes};
use crate::broker::Reason;
use crate::http::error::{GENERIC, Shown, face};
use crate::http::routes::{Listener, Route, Who};
use crate::wire::Retry;
use std::collections::{BTreeMap, BTreeSet};

/// What one status means at one door.
#[derive(Debug, Default)]
pub struct Refused {
    pub errors: BTreeSet<&'static str>,
    pub reasons: BTreeSet<Reason>,
    /// Whether each of them says how long to wait.
    pub waits: bool,
}

pub fn of(route: &Route) -> BTreeMap<u16, Refused> {
    let mut all: BTreeMap<u16, Refused> = BTreeMap::new();
    for reason in reasons(route) {
        let face = face(reason);
        if face.shown != Shown::Always {
            let generic = all.entry(GENERIC.status.as_u16()).or_default();
            generic.errors.insert(GENERIC.error);
        }
        if face.shown != Shown::Never {
            // RFC 9449 section 7.1: beside an access token it is a challenge.
            let challenged = super::role(route).is_some() && PROOF.contains(&reason);
            let status = if challenged {
                401
            } else {
                face.status.as_u16()
            };
            let refused = all.entry(status).or_default();
            refused.errors.insert(face.error);
            refused.reasons.insert(reason);
        }
    }
    for refused in all.values_mut() {
        refused.waits = refused
            .reasons
            .iter()
            .all(|reason| reason.retry() == Retry::After);
    }
    all
}

/// Before any door: rate and room. Behind it: a panic.
const EVERYWHERE: &[Reason] = &[
    Reason::TooManyRequests,
    Reason::Overloaded,
    Reason::Internal,
];

const BODY: &[Reason] = &[
    Reason::MalformedRequest,
    Reason::UnsupportedMediaType,
    Reason::RequestTooLarge,
    Reason::RequestTimeout,
];

const STORE: &[Reason] = &[Reason::StoreUnavailable, Reason::StaleView];

const CLIENT: &[Reason] = &[
    Reason::NoProof,
    Reason::InvalidClient,
    Reason::IssuerUnavailable,
];

const PROOF: &[Reason] = &[
    Reason::InvalidDpopProof,
    Reason::UseDpopNonce,
    Reason::DpopProofSpent,
];

const OPERATOR: &[Reason] = &[
    Reason::NotAuthenticated,
    Reason::NotPermitted,
    Reason::IssuerUnavailable,
];

/// What an exchange is never refused for.
const NOT_OF_AN_EXCHANGE: &[Reason] = &[
    Reason::MethodNotAllowed,
    Reason::UnsupportedResponseType,
    Reason::NotAuthenticated,
    Reason::NotPermitted,
    Reason::NotFound,
];

fn reasons(route: &Route) -> BTreeSet<Reason> {
    let about = route.about;
    let mut all: BTreeSet<Reason> = BTreeSet::new();
    if route.listener == Listener::Public {
        all.extend(EVERYWHERE);
    } else {
        all.extend([Reason::Overloaded, Reason::Internal]);
    }
    match about.takes {
        Takes::Nothing => {}
        Takes::Form { .. } | Takes::Json(_) => all.extend(BODY),
        Takes::Message { .. } => {
            let typed = Reason::UnsupportedMediaType;
            all.extend(BODY.iter().filter(|reason| **reason != typed));
        }
    }
    let has = |place| about.params.iter().any(|param| param.place == place);
    if has(Place::Query) {
        all.insert(Reason::MalformedRequest);
    }
    if has(Place::Path) {
        all.insert(Reason::NotFound);
    }
    match route.who {
        Who::Operator(_) => all.extend([OPERATOR, STORE].concat()),
        Who::Watcher => all.extend([OPERATOR, CLIENT, STORE].concat()),
        Who::Client | Who::ResourceServer => all.extend([CLIENT, STORE].concat()),
        Who::Anyone | Who::Platform => {}
    }
    if super::reads_a_proof(route) {
        all.extend(PROOF);
    }
    match about.refuses {
        Refuses::These(reasons) => all.extend(reasons),
        Refuses::LikeAnExchange => {
            let exchange = Reason::ALL.iter();
            all.extend(exchange.filter(|reason| !NOT_OF_AN_EXCHANGE.contains(reason)));
        }
    }
    all
}
