//! The distributed cache: a [`CacheService`] on every node of the ring, and a [`CacheClient`] that reaches all of them.
//!
//! Each partition is one bounded map at its owner. The owner numbers its writes: a [`Version`] is epoch and number, a
//! total order over all owners a partition has had. Entries end by their time to live, on the owner's monotonic clock,
//! or make room when the node's memory bound is reached.
//!
//! # Layout
//! - `limits`, `content_type`, `condition`: what is accepted, what a value is, what must hold for a write.
//! - [`plain`]: the JSON of people and plain clients; `keyed`: the same with the key in the subject; `native`: the encoding between nodes.
//! - `item`, `log`, `deadlines`, `map`: an entry, the memory entries are kept in, which end next, and a partition's bounded map of them.
//! - `budget`, `partition`, `store`: the partitions held here, and the memory they share; `update`: increment and get-or-set.
//! - `once`: which writes were executed, by their names; `write`: what every write does once it is done.
//! - `sweeper`: takes out what has expired.
//! - `snapshot`: a partition's entries on their way to its next owner or to a copy; `change`: a write on its way to the copies;
//!   `copies`: taking both in. `levels`: how many copies must have a write.
//! - `service`: all of it behind the ring's [`Service`](crate::service::Service); `client`: its callers' side.

mod budget;
mod change;
mod client;
mod condition;
mod content_type;
mod copies;
mod deadlines;
mod item;
mod keyed;
mod levels;
mod limits;
mod log;
mod map;
mod native;
mod once;
mod partition;
pub mod plain;
mod refused;
mod service;
mod snapshot;
mod stats;
mod store;
mod sweeper;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
mod update;
mod write;

pub use client::{
    CacheClient, CacheEntry, ChangeReply, DeleteReply, EntryInfo, GetOrSetReply, GetReply, IncrementReply,
    InspectReply, NewEntry, SetReply,
};
pub use condition::{Condition, MAX_VERSIONS, Matching, PRECONDITION_FAILED};
pub use content_type::{ContentType, MAX_CONTENT_TYPE_BYTES};
pub use limits::{Limits, MAX_KEY_BYTES, MAX_TTL_SECONDS, MAX_VALUE_BYTES, check_key, check_ttl, ttl_from_seconds};
pub use service::{CacheConfig, CacheService, OPERATIONS};
pub use snapshot::SnapshotError;
pub use stats::{CacheStats, Held};

pub use crate::service::NOT_ENOUGH_REPLICAS;
pub use crate::types::{Version, VersionError};
