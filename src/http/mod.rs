//! The public doors: what a request must look like, and what an answer looks like.

pub mod error;

pub use error::{Challenge, Refused};
