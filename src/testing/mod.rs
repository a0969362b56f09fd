//! Rings in memory, for the tests of those who embed this crate: no NATS, no waiting, hours in a moment.
//!
//! A [`TestRing`] has real nodes, the same code that runs in production, on twins of the store and of the bus, and on
//! tokio's paused clock. With the feature `testing`, which belongs among the dev-dependencies:
//!
//! ```toml
//! [dev-dependencies]
//! nats-ring = { path = "../nats-ring", features = ["testing"] }
//! tokio = { version = "1", features = ["macros", "rt"] }
//! ```
//!
//! # Testing a service
//! ```
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//!
//! use nats_ring::testing::TestRing;
//! use nats_ring::{BoxError, Bytes, Grant, Release, Request, Service, ServiceError, async_trait};
//!
//! /// The service to be tested.
//! #[derive(Default)]
//! struct Journal {
//!     lines: Mutex<Vec<String>>,
//! }
//!
//! #[async_trait]
//! impl Service for Journal {
//!     async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
//!         self.lines.lock().unwrap().push(format!("own {}", grants.len()));
//!         Ok(())
//!     }
//!     async fn on_release(&self, _: &[Grant], why: Release) -> Result<(), BoxError> {
//!         self.lines.lock().unwrap().push(format!("{why:?}"));
//!         Ok(())
//!     }
//!     async fn handle(&self, grant: &Grant, _: Request) -> Result<Bytes, ServiceError> {
//!         Ok(format!("epoch {}", grant.epoch()).into())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() { a_crashed_node_is_replaced_under_a_new_epoch().await }
//! # /*
//! #[tokio::test(start_paused = true)]
//! # */
//! async fn a_crashed_node_is_replaced_under_a_new_epoch() {
//!     let ring = TestRing::builder().partitions(1).build();
//!     let (one, two) = (Arc::new(Journal::default()), Arc::new(Journal::default()));
//!     ring.add_node("node-1", one.clone()).await;
//!     ring.settled().await;
//!     ring.add_node("node-2", two.clone()).await;
//!     ring.settled().await;
//!
//!     // From outside, through any node; `ring.node("node-2")` is the handle of that one.
//!     let caller = ring.caller();
//!     let reply = caller.call("key".into(), "read", Bytes::new(), Duration::from_secs(2)).await.unwrap();
//!     assert_eq!((reply.node.as_str(), &reply.payload[..]), ("node-1", &b"epoch 1"[..]));
//!
//!     // No hook is called; the lease of 3 s runs out, in simulated time.
//!     ring.crash("node-1").await;
//!     ring.settled().await;
//!     let reply = caller.call("key".into(), "read", Bytes::new(), Duration::from_secs(2)).await.unwrap();
//!     assert_eq!((reply.node.as_str(), &reply.payload[..]), ("node-2", &b"epoch 2"[..]));
//!     assert_eq!(*one.lines.lock().unwrap(), ["own 1"]);
//!     assert_eq!(*two.lines.lock().unwrap(), ["own 1"]);
//!
//!     // A planned leave is a handoff, at once.
//!     ring.add_node("node-3", Arc::new(Journal::default())).await;
//!     ring.leave("node-2").await.unwrap();
//!     assert_eq!(*two.lines.lock().unwrap(), ["own 1", "Handoff"]);
//! }
//! ```
//!
//! # Testing what takes time
//! Whatever reads [`TestRing::clock`] and waits with `tokio::time` lives in the ring's time. [`TestRing::advance`] lets it
//! pass; it stands still while anything has work to do.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
//! use nats_ring::testing::TestRing;
//! use nats_ring::{Bytes, NodeName};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() { an_entry_lives_for_its_hour().await }
//! # /*
//! #[tokio::test(start_paused = true)]
//! # */
//! async fn an_entry_lives_for_its_hour() {
//!     let ring = TestRing::new();
//!     let limits = Limits { max_value_bytes: 1024 };
//!     let node = NodeName::new("node-1").unwrap();
//!     let config = CacheConfig { memory_bytes: 1 << 20, max_value_bytes: limits.max_value_bytes, node };
//!     ring.add_node("node-1", Arc::new(CacheService::new(config, ring.clock()))).await;
//!     ring.settled().await;
//!
//!     let cache = CacheClient::new(ring.caller(), limits);
//!     let (key, hour) = (Bytes::from("user:1"), Duration::from_secs(3600));
//!     cache.set(key.clone(), Bytes::from("\"Alice\""), Some(hour)).await.unwrap();
//!     ring.advance(Duration::from_secs(59 * 60)).await;
//!     assert!(cache.get(key.clone()).await.unwrap().found.is_some());
//!     ring.advance(Duration::from_secs(2 * 60)).await;
//!     assert!(cache.get(key).await.unwrap().found.is_none());
//! }
//! ```
//!
//! # What can happen to a node
//!
//! | call | as | the service is told |
//! |---|---|---|
//! | [`TestRing::leave`] | SIGTERM: drains, hands everything over | `on_release(Handoff)` |
//! | [`TestRing::crash`] | SIGKILL: others take over once its lease has run out | nothing |
//! | [`TestRing::pause`], [`TestRing::resume`] | SIGSTOP, SIGCONT; beyond its lease it is replaced, and comes back as a new start | `on_release(Lost)` once it runs again |
//! | [`TestRing::cut`], [`TestRing::heal`] | its network, away and back; within its lease it resumes at the same epochs | `on_release(Lost)` where it was replaced |
//! | [`TestRing::set_link`] | a cable that carries nothing in, out, or either way, and nobody knows | as above |
//! | [`TestRing::set_data_link`], [`TestRing::set_heartbeat_link`] | one of its two connections alone | as above |
//! | [`TestRing::wedge`], [`TestRing::unwedge`] | a main loop that stands still while all else goes on | as after a pause |
//! | [`TestRing::set_store_delay`], [`TestRing::set_bus_delay`] | a slow network | nothing |
//! | [`TestNode::clock_rate`] | a clock that runs fast or slow | nothing |
//!
//! And to all of them: [`TestRing::set_away`] takes NATS away, [`TestRing::set_jetstream_silent`] JetStream alone,
//! [`TestRing::set_store_faults`] and [`TestRing::set_bus_faults`] make writes, watches and messages fail by chance,
//! [`TestRing::roll_back`] and [`TestRing::recreate_store`] make the store forget. [`TestRing::fired`] counts what happened.
//! [`TestRing::store`] and [`TestRing::switch`] are the twins themselves.
//!
//! # Watching from outside
//! An [`Observer`], given to [`TestRingBuilder::observer`], is told of every write as it is sent, decided and answered, of
//! every message published, and of what becomes of connections and processes: in the order it happens, with true time and
//! with each node's own clock. The nodes know nothing of it, and nothing it learns is a node's opinion of itself.
//!
//! # What to know
//! - **One thread.** A bare `#[tokio::test]` has it. Several rings in one test share one time.
//! - **What is real runs away.** While a test waits for a socket, a file or another thread, nothing has work to do, and
//!   simulated time jumps on. `spawn_blocking` is waited for.
//! - **Not `tokio::time::advance`**: it jumps over what is due in between, leases included.
//! - Tasks that a service spawns by itself are not part of its node: [`TestRing::crash`] and [`TestRing::pause`] do
//!   not reach them. A call made by the test runs in the test's own task until the service first waits.
//! - A write that was sent is on its way, whatever becomes of its sender: it lands after a crash and during a pause.
//!   Messages are as soon as they are handed over, unless they are delayed.
//! - **Replay.** The same seed gives the same run, to the byte of each message and the millisecond of each hook, in this
//!   process and in another, where the test starts on a runtime of its own with its clock paused (`start_paused = true`; else
//!   the first millisecond is a fraction). It takes a service that draws no chance of its own: use [`TestRing::chance`],
//!   no `spawn_blocking` and no unbiased `select!`. For the cache: `CacheService::within`, with [`TestRing::process`].

mod builder;
mod clock;
mod faults;
mod link;
mod member;
mod observer;
mod ring;
mod settle;
mod watching;
mod wire;
mod world;

pub use builder::{TestNode, TestRingBuilder};
pub use faults::{FaultKind, StoreFaults};
pub use link::Link;
pub use observer::{NodeProcess, Observed, Observer, ProcessChange, StoreChange, Write};
pub use ring::{TestRing, Unsettled};

pub use crate::rpc::mem::{BusFaults, BusFired};
