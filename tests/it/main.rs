//! Integration tests: one binary, modules named after rooms and faults.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::string_slice,
    reason = "a test that cannot go on must fail, and says why"
)]
#![allow(
    clippy::allow_attributes,
    reason = "which of them a module needs changes with its tests"
)]

mod access;
mod actions;
mod agents;
mod approvals;
mod asked_again;
mod attack;
mod audit;
mod audit_door;
mod bench;
mod bootstrap;
mod cards;
mod check;
mod cli;
mod clients;
mod clocks;
mod configurations;
mod contexts;
mod crash;
mod delegation;
mod deploy;
mod diff;
mod discovery;
mod documents;
mod dpop;
mod enrolment;
mod events;
mod every_reason;
mod every_route;
mod every_step;
mod exchange;
mod exec;
mod explain;
mod facts;
mod failover;
mod flood;
mod forgeries;
mod full_disk;
mod governance;
mod governed;
mod identity_url;
mod intent_cli;
mod intents;
mod introspect;
mod introspect_memory;
mod keys;
mod labels;
mod login;
mod meanwhile;
mod observe;
mod openapi;
mod mtls;
mod pinned;
mod platforms;
mod postgres;
mod publish;
mod recovery;
mod refusals;
mod registered;
mod redis_outages;
mod response_queue;
mod responses;
mod restrictions;
mod revocations;
mod scim;
mod serve;
mod spiffe;
mod simulate;
mod status_lists;
mod store_faults;
mod store_user;
mod support;
mod takeover;
mod unreplicated;
