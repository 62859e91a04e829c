//! The house. Rooms are declared bottom-up; a room uses only rooms declared above it, and
//! `tests/architecture.rs` says so by failing. A request walks the middle block top to bottom.

// Leaves: import nothing of ours.
pub mod clock;
pub mod ids;
pub mod secret;
pub mod telemetry;

// Cellar: knows no domain noun.
pub mod audit;
pub mod jose;
pub mod replay;
pub mod store;

// Rooms, in walking order.
pub mod agents; // in standing?  -> AdmittedAgent
pub mod authority; // what can be asked, what contains what
pub mod connectors; // mint, end     -> Minted
pub mod fences; // what has been ended? -> View
pub mod identity; // who?          -> Caller
pub mod intent; // what for?     -> Intent
pub mod leases;
pub mod policy; // how far?      -> Grant // remember      -> Reserved, Issued

// Corridor: the only place that knows the order.
pub mod broker;

// Doors.
pub mod cli;
pub mod client;
pub mod config;
pub mod http;
pub mod wire;
