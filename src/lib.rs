//! A partitioned ring on NATS: exactly one owner per partition, hooks as ownership moves, requests routed to the owner.
//!
//! # Layout
//! Each layer uses only those above it; `tests/architecture.rs` keeps it so.
//! - [`types`]: identifiers, time, key hash.
//! - [`metrics`]: what is counted, as text for Prometheus.
//! - [`config`]: every setting of the program, checked.
//! - [`connect`]: where connections to NATS are made.
//! - [`coord`]: the coordination store (JetStream KV) behind a trait, and the records kept there.
//! - [`service`]: what a service implements, and the grant that says for how long.
//! - [`ring`]: the rules, pure: leases, planning, the phases of each partition. [`ring::Machine`] is the whole of it.
//! - [`rpc`]: the bus (core NATS) behind a trait; subjects, envelope, router and server.
//! - [`node`]: the loop that drives the machine, and [`node::Ring`], the handle. [`node::NodeBuilder`] starts one.
//! - [`cache`]: the ready-made service, and its client.
//! - [`admin`]: look at a ring and steer it, without joining it.
//! - [`http`]: the front door for `curl`.
//! - [`cli`]: the program.
//! - `testing` (with the feature of that name): rings in memory, on a clock that tests move.
//!
//! # A request's way
//! [`http`], a plain NATS client or [`node::Ring`] as a [`rpc::Caller`] → key hash → the owner's [`rpc::server::Server`], here
//! or over its node subject → the gate → [`service::Service::handle`] → the gate again → the answer, straight to whoever
//! asked.

pub mod admin;
pub mod cache;
pub mod cli;
pub mod config;
pub mod connect;
pub mod coord;
pub mod http;
pub mod metrics;
pub mod node;
pub mod ring;
pub mod rpc;
pub mod service;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;

/// The README's code, compiled as it stands.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
