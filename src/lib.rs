//! A partitioned ring on NATS: exactly one owner per partition, hooks as ownership moves, requests routed to the owner.
//!
//! Implement [`Service`], start it as a node with [`NodeBuilder`], and use the [`Ring`] that it answers; from a process that
//! is no node, [`RingClient`] calls the same owners. What that takes is re-exported here; everything else is where it
//! belongs, below.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use nats_ring::{BoxError, Bytes, ConnectOptions, Grant, NodeBuilder, NodeName, Release, Request, RingName};
//! use nats_ring::{Service, ServiceError, async_trait};
//!
//! struct Echo;
//!
//! #[async_trait]
//! impl Service for Echo {
//!     async fn on_own(&self, _: &[Grant]) -> Result<(), BoxError> {
//!         Ok(()) // owned from now on: load what is needed
//!     }
//!     async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
//!         Ok(()) // flush, or forget
//!     }
//!     async fn handle(&self, _: &Grant, request: Request) -> Result<Bytes, ServiceError> {
//!         Ok(request.payload) // at the key's one owner
//!     }
//! }
//!
//! # async fn example() -> Result<(), BoxError> {
//! let nats = ConnectOptions::new(["nats://localhost:4222"]);
//! let node = NodeBuilder::new(nats, RingName::new("echoes")?, NodeName::new("node-1")?);
//! let ring = node.start(Arc::new(Echo)).await?;
//! let reply = ring.call("user:1", "echo", "hello").await?;
//! ring.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! `examples/` has one program per idea: state that moves along (`counter`), a fencing token that a database compares
//! (`external_store`), work that runs where its partition is owned (`sharded_worker`), and more.
//!
//! # Layout
//! Each layer uses only those above it; `tests/architecture.rs` keeps it so.
//! - [`types`]: identifiers, time, key hash.
//! - [`metrics`]: what is counted, as text for Prometheus.
//! - [`config`]: every setting of the program, checked.
//! - [`connect`]: where connections to NATS are made. [`Connections`] is the pair that a process shares.
//! - [`coord`]: the coordination store (JetStream KV) behind a trait, the records kept there, and following them.
//! - [`service`]: what a service implements, and the grant that says for how long.
//! - [`replica`]: the copies of a partition, pure: the owner's log, its followers, and a follower's place.
//! - [`ring`]: the rules, pure: leases, planning, the phases of each partition. [`ring::Machine`] is the whole of it.
//! - [`rpc`]: the bus (core NATS) behind a trait; subjects, envelope, router and server.
//! - [`client`]: [`RingClient`], which routes without joining.
//! - [`node`]: the loop that drives the machine, and [`Ring`], the handle. [`NodeBuilder`] starts one.
//! - [`cache`]: the ready-made service, and its client.
//! - [`admin`]: look at a ring and steer it, without joining it.
//! - [`http`]: the front door for `curl`.
//! - [`cli`]: the program.
//! - `testing` (with the feature of that name): rings in memory, on a clock that tests move.
//!
//! # A request's way
//! 1. It comes in by [`http`], as a plain NATS message that [`node`] reads, or from [`Ring::call`] or [`RingClient::call`].
//! 2. The key's hash names the partition; the [`rpc::RouteTable`] its owner and epoch, as the claims in [`coord`] say.
//! 3. [`rpc::Router`] hands it to the owner's [`rpc::server::Server`]: directly where that is this process, else over the
//!    owner's node subject, in the envelope of [`rpc::envelope`].
//! 4. The gate ([`service::Gate`]) says whether the owner may act; [`Service::handle`] executes; the gate is asked again.
//! 5. The answer goes straight to whoever asked.
//!
//! # A partition's way
//! 1. [`ring::plan`] says who should own it, and the coordinator writes that down as the plan.
//! 2. [`ring::Machine`], at each node, brings its claims towards the plan; [`node`] carries out what it answers: it parks
//!    requests, calls the hooks, streams the state, and writes the claim by compare-and-set.
//! 3. Every node and client sees the claim in its watch ([`coord::Follower`]), and routes there from then on.

pub mod admin;
pub mod cache;
pub mod cli;
pub mod client;
pub mod config;
pub mod connect;
pub mod coord;
pub mod http;
pub mod metrics;
pub mod node;
pub mod replica;
pub mod ring;
pub mod rpc;
pub mod service;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;

pub use async_trait::async_trait;
pub use bytes::Bytes;

pub use client::{ClientError, RingClient};
pub use connect::{ConnectError, ConnectOptions, Connections, Credentials};
pub use node::{NodeBuilder, NodeError, Ring, StartError, Status, WeakRing};
pub use ring::{Event, Timing};
pub use rpc::{CallError, Caller, Reply, RoutedCall};
pub use service::{BoxError, Chunks, Form, Grant, Release, Request, Service, ServiceError};
pub use types::{Epoch, FencingToken, NodeId, NodeName, PartitionCount, PartitionId, RingName};

/// The README's code, compiled as it stands.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
