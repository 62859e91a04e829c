//! What the tests share: a broker, a platform, real servers, tokens as platforms shape them.

#![allow(dead_code, reason = "each test module takes what it needs")]
#![allow(
    clippy::allow_attributes,
    reason = "which of it is dead depends on the module"
)]

pub mod broker;
pub mod certificates;
pub mod cloud;
pub mod dpop;
pub mod forge;
pub mod gate;
pub mod held_back;
pub mod issuer;
pub mod kube;
pub mod moto;
pub mod network;
pub mod pipeline;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
mod standby;
pub mod time;
pub mod tokens;
pub mod tools;
pub mod world;
