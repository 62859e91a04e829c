//! What the tests share: a broker, a platform, real servers.

pub mod broker;
pub mod issuer;
