//! A node: the loop that drives the ring's machine, and the handle that services and front ends hold.
//!
//! `run` is a node's life over incarnations, `session` the loop of one of them, `executor` its hands; `entrance` and
//! `readers` where requests come in, `hooks` and `transfer` what happens as ownership moves, `watches` what the store
//! says, `created` what a ring begins with, `supervise` what keeps tasks running, `copies` the copies of partitions that are kept in sync, `ring` the handle.

mod builder;
mod copies;
mod created;
mod entrance;
mod events;
mod executor;
mod hooks;
mod leave;
mod meta;
mod offers;
mod own_lease;
mod parts;
mod readers;
mod ring;
mod run;
mod session;
mod shown;
mod status;
mod supervise;
mod transfer;
mod watches;

pub use crate::ring::Event;
pub use builder::{DEFAULT_LEASE, NodeBuilder, StartError};
pub use meta::MetaError;
pub use parts::{Copying, CreatedWith, NodeParts, Queries, Returning, RingShape};
pub use ring::{Ring, WeakRing};
pub use run::NodeError;
pub use status::{
    CopiesUnderWay, CopyStatus, LearnerStatus, MemberStatus, MoveStatus, PartitionState, PartitionStatus, Phase,
    PlacesKept, ShortOfMemory, Status, Suspended, Waits, WaitsFor,
};
