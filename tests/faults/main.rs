//! Faults on real servers and real processes: crashes, freezes, lost links, NATS away, restarts, stale writers.
//!
//! Each file is one kind of fault. `world` starts rings of node processes and asks them what they know, over HTTP, NATS
//! and the ring's bucket.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod cluster;
mod crash;
mod fencing;
mod freeze;
mod leaving;
mod links;
mod outage;
mod world;
