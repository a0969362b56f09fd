//! What the integration tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

pub mod bulk;
pub mod eventually;
pub mod http;
pub mod identity;
pub mod nats_server;
pub mod node;
pub mod proxy;
pub mod recorder;
pub mod sink;
pub mod traffic;
