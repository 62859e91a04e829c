//! The doors, in one table: the routers are built from it, and so is who may enter.

use super::Doors;
use super::admin;
use super::approvals;
use super::configuration;
use super::discovery;
use super::enrol;
use super::events;
use super::gate;
use super::health;
use super::introspect;
use super::openapi;
use super::openapi::about::{self, About};
use super::registrations;
use super::restrictions;
use super::revoke;
use super::scim;
use super::status;
use super::token;
use super::webhook;
use crate::broker::Role;
use axum::Router;
use axum::middleware;
use axum::routing::{MethodFilter, MethodRouter, on};

/// Who a door is for. The gate checks operators; the others prove themselves in the request, which
/// the corridor verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Anyone,
    /// Agents: in the form, or by client authentication.
    Client,
    /// By client authentication.
    ResourceServer,
    /// By bearer token, with at least this role.
    Operator(Role),
    /// An operator who may view, by bearer token; a resource server, by client authentication.
    Watcher,
    /// What runs around the broker: probes on their own listener, and webhooks, which are signed.
    Platform,
}

impl Who {
    /// With a token of their issuer.
    pub fn operators_come(self) -> bool {
        matches!(self, Self::Operator(_) | Self::Watcher)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Public,
    Health,
}

#[derive(Debug, Clone, Copy)]
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub who: Who,
    /// Whether what it does is entered in the audit.
    pub audited: bool,
    pub listener: Listener,
    /// What `GET /openapi.json` says of it.
    pub(super) about: &'static About,
    door: fn(MethodFilter) -> MethodRouter<Doors>,
}

impl Route {
    /// `operationId` of the document, and the action that policies may forbid operators.
    pub fn id(&self) -> &'static str {
        self.about.id
    }
}

/// One line per door: method, path, who, audited, listener, handler, description.
macro_rules! table {
    ($($method:ident $path:literal, $who:expr, $audited:literal, $listener:ident, $door:path, $about:path;)+) => {
        pub const TABLE: &[Route] = &[$(Route {
            method: stringify!($method),
            path: $path,
            who: $who,
            audited: $audited,
            listener: Listener::$listener,
            about: &$about,
            door: |method| on(method, $door),
        },)+];
    };
}

use Role::{Admin, Operator, Reviewer, Viewer};
use Who::{Anyone, Client, Platform, ResourceServer};

table! {
    POST "/token", Client, true, Public, token::exchange, about::EXCHANGE;
    POST "/introspect", ResourceServer, false, Public, introspect::introspect, about::INTROSPECT;
    GET "/events", Who::Watcher, false, Public, events::watch, about::EVENTS;
    POST "/events", ResourceServer, false, Public, events::watch_by_form, about::EVENTS_BY_FORM;
    POST "/revoke", Client, true, Public, revoke::release, about::RELEASE;
    POST "/enrol", Client, true, Public, enrol::enrol, about::ENROL;
    POST "/hooks/{source}", Platform, true, Public, webhook::receive, about::WEBHOOK;
    GET "/scim/v2/Users", Platform, false, Public, scim::users, about::FIND_USER;
    GET "/scim/v2/Users/{id}", Platform, false, Public, scim::user, about::A_USER;
    PATCH "/scim/v2/Users/{id}", Platform, true, Public, scim::patch, about::PATCH_USER;

    GET "/authorize", Anyone, false, Public, discovery::authorize, about::AUTHORIZE;
    GET "/openapi.json", Anyone, false, Public, openapi::serve, about::OPENAPI;
    GET "/jwks", Anyone, false, Public, discovery::jwks, about::KEY_SET;
    GET "/status", Anyone, false, Public, status::all, about::STATUS_LISTS;
    GET "/status/{list}", Anyone, false, Public, status::list, about::STATUS_LIST;
    GET "/.well-known/oauth-authorization-server", Anyone, false, Public, discovery::metadata, about::OAUTH_METADATA;
    GET "/.well-known/openid-configuration", Anyone, false, Public, discovery::metadata, about::OPENID_METADATA;
    GET "/.well-known/oauth-protected-resource/{*resource}", Anyone, false, Public, discovery::resource_metadata, about::RESOURCE_METADATA;
    GET "/federation/{target}/.well-known/openid-configuration", Anyone, false, Public, discovery::federation_metadata, about::FEDERATION_METADATA;
    GET "/federation/{target}/jwks", Anyone, false, Public, discovery::federation_jwks, about::FEDERATION_KEYS;

    POST "/admin/v1/revocations", Who::Operator(Operator), true, Public, admin::revoke, about::REVOKE;
    GET "/admin/v1/revocations/{id}", Who::Operator(Viewer), false, Public, admin::receipt, about::REVOCATION;
    POST "/admin/v1/lifts", Who::Operator(Operator), true, Public, admin::lift, about::LIFT;
    POST "/admin/v1/restrictions", Who::Operator(Operator), true, Public, restrictions::restrict, about::RESTRICT;
    GET "/admin/v1/restrictions", Who::Operator(Viewer), false, Public, restrictions::standing, about::RESTRICTIONS;
    POST "/admin/v1/restrictions/{id}/lift", Who::Operator(Operator), true, Public, restrictions::lift, about::LIFT_RESTRICTION;
    GET "/admin/v1/leases", Who::Operator(Viewer), false, Public, admin::leases, about::LEASES;
    GET "/admin/v1/leases/{id}", Who::Operator(Viewer), false, Public, admin::lease, about::A_LEASE_BY_ID;
    POST "/admin/v1/leases/{id}/give-up", Who::Operator(Operator), true, Public, admin::give_up, about::GIVE_UP_LEASE;
    POST "/admin/v1/find", Who::Operator(Viewer), false, Public, admin::find, about::FIND;
    GET "/admin/v1/agents", Who::Operator(Viewer), false, Public, admin::agents, about::AGENTS;
    POST "/admin/v1/agents/{id}/invitations", Who::Operator(Admin), true, Public, admin::invite, about::INVITE;
    GET "/admin/v1/agents/{id}/keys", Who::Operator(Viewer), false, Public, admin::enrolled_keys, about::ENROLLED_KEYS;
    GET "/admin/v1/agents/{id}", Who::Operator(Viewer), false, Public, admin::agent, about::AN_AGENT;
    PUT "/admin/v1/agents/{id}", Who::Operator(Admin), true, Public, registrations::register, about::REGISTER_AGENT;
    DELETE "/admin/v1/agents/{id}", Who::Operator(Admin), true, Public, registrations::remove, about::REMOVE_AGENT;
    GET "/admin/v1/sightings", Who::Operator(Viewer), false, Public, admin::sightings, about::SIGHTINGS;
    GET "/admin/v1/sightings/{id}", Who::Operator(Viewer), false, Public, admin::sighting, about::SIGHTING_BY_ID;
    GET "/admin/v1/reviews", Who::Operator(Viewer), false, Public, admin::reviews, about::REVIEWS;
    POST "/admin/v1/reviews", Who::Operator(Reviewer), true, Public, admin::review, about::REVIEW;
    GET "/admin/v1/approvals", Who::Operator(Viewer), false, Public, approvals::all, about::APPROVALS;
    GET "/admin/v1/approvals/{id}", Who::Operator(Viewer), false, Public, approvals::one, about::AN_APPROVAL;
    POST "/admin/v1/approvals/{id}/approve", Who::Operator(Reviewer), true, Public, approvals::approve, about::APPROVE;
    POST "/admin/v1/approvals/{id}/deny", Who::Operator(Reviewer), true, Public, approvals::deny, about::DENY;
    POST "/admin/v1/explain", Who::Operator(Reviewer), false, Public, admin::explain, about::EXPLAIN;
    GET "/admin/v1/audit", Who::Operator(Viewer), false, Public, admin::audit, about::AUDIT;
    POST "/admin/v1/keys/rotate", Who::Operator(Admin), true, Public, admin::rotate, about::ROTATE;
    POST "/admin/v1/config", Who::Operator(Admin), true, Public, configuration::publish, about::PUBLISH_CONFIGURATION;
    GET "/admin/v1/config", Who::Operator(Viewer), false, Public, configuration::show, about::CONFIGURATION;
    POST "/admin/v1/contexts/end", Who::Operator(Operator), true, Public, admin::end_context, about::END_CONTEXT;

    GET "/livez", Platform, false, Health, health::livez, about::LIVEZ;
    GET "/readyz", Platform, false, Health, health::readyz, about::READYZ;
    GET "/metrics", Platform, false, Health, health::metrics, about::METRICS;
}

/// Every door of one listener, each behind its gate.
pub(super) fn mount(doors: &Doors, listener: Listener) -> Router<Doors> {
    let routes = TABLE.iter().filter(|route| route.listener == listener);
    routes.fold(Router::new(), |router, route| {
        let gate = gate::Gate {
            doors: doors.clone(),
            route,
        };
        let door = (route.door)(filter(route.method))
            .route_layer(middleware::from_fn_with_state(gate, gate::enter));
        router.route(route.path, door)
    })
}

/// The table has these methods.
fn filter(method: &str) -> MethodFilter {
    match method {
        "GET" => MethodFilter::GET,
        "PATCH" => MethodFilter::PATCH,
        "PUT" => MethodFilter::PUT,
        "DELETE" => MethodFilter::DELETE,
        _ => MethodFilter::POST,
    }
}
