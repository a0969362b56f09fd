//! What can be seen of a ring from outside: every write on its way to the store and back, every message published, what
//! happens to connections and processes. The nodes know nothing of it.
//!
//! In: what the twins tell. Out: calls of an [`Observer`], in the order things happen.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::link::Link;
use crate::coord::{CasError, Revision};
use crate::rpc::Message;
use crate::types::{NodeName, PartitionId, Time};

/// Listens to a ring. Given to [`super::TestRingBuilder::observer`].
pub trait Observer: Send + Sync + 'static {
    /// Called for each thing as it happens; `at` is true time since the ring was made. Must return soon, and must not ask
    /// the ring anything: the thing is half done.
    fn saw(&self, at: Duration, what: &Observed<'_>);
}

/// One process of a node: the same name started again is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeProcess {
    /// The node's name.
    pub node: NodeName,
    /// The how manyth process of that name, from 1.
    pub number: u32,
}

impl fmt::Display for NodeProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.number)
    }
}

/// A compare-and-set on its way.
#[derive(Debug, Clone)]
pub struct Write {
    /// Counts all writes of the ring, from 1 in the order they were sent.
    pub number: u64,
    /// Who sent it.
    pub by: NodeProcess,
    /// On the connection for heartbeats; an eviction goes there as well.
    pub heartbeat: bool,
    /// Of which key.
    pub key: String,
    /// The revision it applies at.
    pub expected: Revision,
    /// The record, encoded: see [`crate::coord::Record::decode`].
    pub value: Bytes,
    /// When it was sent, in true time since the ring was made.
    pub sent_at: Duration,
    /// When it was sent, on its sender's own clock.
    pub sent_local: Time,
}

/// Something that happened.
#[derive(Debug)]
pub enum Observed<'a> {
    /// A node handed a write to its connection.
    Sent(&'a Write),
    /// A write is at the store: applied, or refused. It may come long after its sender has given it up, and the sender
    /// may never hear of it. Of a write that is lost on its way nothing more is heard.
    Decided {
        /// Which.
        write: &'a Write,
        /// What the store did.
        outcome: &'a Result<Revision, CasError>,
    },
    /// A node is told what came of its write.
    Answered {
        /// Which.
        write: &'a Write,
        /// What it is told.
        outcome: &'a Result<Revision, CasError>,
        /// Now, on its own clock.
        local: Time,
    },
    /// The store changed by itself, or by an operator's or the test's hand.
    Store(StoreChange),
    /// A message was handed to the bus, answers included. Nothing is said about who gets it.
    Published {
        /// By which node; `None`: a client of the ring.
        by: Option<&'a NodeProcess>,
        /// Now, on that node's own clock; on a true one for a client.
        local: Time,
        /// The message.
        message: &'a Message,
    },
    /// A node's connections, from now on.
    Connection {
        /// Whose.
        of: &'a NodeProcess,
        /// How the one for all but heartbeats is.
        link: Link,
        /// How the one for heartbeats is.
        heartbeat: Link,
    },
    /// A node holds a request back: so many by now, for its partition.
    HeldBack {
        /// Which node.
        by: &'a NodeProcess,
        /// Of which partition.
        partition: PartitionId,
        /// How many.
        held: usize,
    },
    /// A message is at the switch of the bus, and nobody subscribes to its subject.
    Unheard {
        /// Of which node; `None`: of a client of the ring.
        by: Option<&'a NodeProcess>,
        /// The message.
        message: &'a Message,
    },
    /// What happens to a process.
    Process {
        /// Which.
        of: &'a NodeProcess,
        /// What.
        change: ProcessChange,
    },
}

/// What becomes of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessChange {
    /// It is about to start.
    Started,
    /// It was killed.
    Crashed,
    /// It was asked to leave.
    Leaving,
    /// It was frozen.
    Paused,
    /// It goes on.
    Resumed,
    /// Its main loop does not turn any more; the rest of it does.
    Wedged,
    /// Its main loop goes on.
    Unwedged,
}

/// What becomes of the store otherwise than by a node's write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChange {
    /// It lost its last writes; acknowledged ones may be among them.
    RolledBack {
        /// How many.
        writes: usize,
    },
    /// It was deleted and created again.
    Recreated,
    /// A key was removed.
    Removed {
        /// Which.
        key: String,
    },
}

/// Whoever listens, if anybody does.
#[derive(Clone, Default)]
pub(super) struct Watched(pub(super) Option<Arc<dyn Observer>>);

impl Watched {
    pub(super) fn saw(&self, at: Duration, what: &Observed<'_>) {
        if let Some(observer) = &self.0 {
            observer.saw(at, what);
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "watched" } else { "unwatched" })
    }
}
