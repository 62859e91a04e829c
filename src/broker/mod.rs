//! The corridor: one use case per file, each reads as a paragraph. The only place that knows the order.

pub mod refusal;

pub use refusal::{Reason, Refusal};
