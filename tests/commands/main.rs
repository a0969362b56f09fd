//! The commands as people and scripts use them: the built program against a real NATS server and three nodes in two
//! zones. What `--json` says is compared with what the ring is, texts with what people look for.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod copies;
mod draining;
mod ground;
mod keys;
mod looking;
mod refusals;
mod steering;
mod watching;
