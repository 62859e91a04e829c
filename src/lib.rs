//! The house. Rooms are declared bottom-up; a room uses only rooms declared above it, and
//! `tests/architecture.rs` says so by failing. A request walks the middle block top to bottom.

// Leaves: import nothing of ours.
pub mod clock;
pub mod ids;
pub mod secret;
pub mod telemetry;
pub mod steps;

// Cellar: knows no domain noun.
pub mod store;
pub mod jose;
pub mod replay;
pub mod audit;

// Rooms, in walking order.
pub mod authority; // what can be asked, what contains what
pub mod fences; // what has been ended? -> View
pub mod identity; // who?              -> Caller
pub mod intent; // what for?         -> Intent
pub mod agents; // in standing?      -> AdmittedAgent
pub mod policy; // how far?          -> Grant
pub mod connectors; // mint, end         -> Minted
pub mod leases; // remember          -> Reserved, Issued
pub mod wire; // what is told

// Corridor: the only place that knows the order.
pub mod broker;

// Doors.
pub mod http;
pub mod client;
pub mod config;
pub mod cli;

// The attacker: in tests and in fuzz builds only.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
