//! What the copies of one partition say to each other. Sealed with `rpc::envelope`, in postcard: what it says of fields
//! holds here.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Change;
use crate::types::{Epoch, NodeId, Version};

/// So many chunks of a copy may be under way at a time; one further ahead of its turn is refused.
pub const CHUNK_WINDOW: u32 = 8;

/// From an owner, or from who takes a partition over, to who holds a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// The writes right after `prev`; none: only asks where the follower stands.
    Append {
        /// The owner's.
        epoch: Epoch,
        /// Counts what this owner sends this follower: what comes late is told by it.
        number: u64,
        /// What the owner takes the follower to have.
        prev: Version,
        /// In their order, without a gap.
        changes: Vec<Change>,
    },
    /// A copy begins: what is there is cleared.
    CopyBegin {
        /// The owner's.
        epoch: Epoch,
        /// Names the copy; counts as [`Ask::Append`]'s `number` does.
        stream: u64,
        /// The owner's tail before its snapshot began.
        since: Version,
    },
    /// A part of a copy. Applied in order; a few may overtake each other; a repeated one is acknowledged again.
    CopyChunk {
        /// The owner's.
        epoch: Epoch,
        /// Of which copy.
        stream: u64,
        /// From zero.
        number: u32,
        /// XXH3-64 of the body.
        checksum: u64,
        /// How long ago it was made.
        age_ms: u32,
        /// In the service's own encoding.
        body: Bytes,
    },
    /// All of a copy was sent.
    CopyEnd {
        /// The owner's.
        epoch: Epoch,
        /// Which copy.
        stream: u64,
        /// How many chunks it had.
        chunks: u32,
        /// The owner's tail after its snapshot ended: chunks may hold what was written up to there.
        until: Version,
    },
    /// Takeover: refuse every lower epoch from now on, say where you stand.
    Promise {
        /// The new owner's.
        epoch: Epoch,
    },
    /// Takeover: the writes after `after`, from a survivor that is ahead.
    Fetch {
        /// The new owner's.
        epoch: Epoch,
        /// Where the new owner stands.
        after: Version,
    },
    /// From a copy that belongs there no more to its owner: whether it may go. Nobody who is counted on may.
    Leave {
        /// The owner's.
        epoch: Epoch,
        /// Whose copy.
        node: NodeId,
    },
}

impl Ask {
    /// A chunk with its checksum.
    pub fn chunk(epoch: Epoch, stream: u64, number: u32, age: Duration, body: Bytes) -> Self {
        let age_ms = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
        Self::CopyChunk { epoch, stream, number, checksum: xxh3_64(&body), age_ms, body }
    }

    /// The epoch of who asks.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Append { epoch, .. }
            | Self::CopyBegin { epoch, .. }
            | Self::CopyChunk { epoch, .. }
            | Self::CopyEnd { epoch, .. }
            | Self::Leave { epoch, .. }
            | Self::Promise { epoch }
            | Self::Fetch { epoch, .. } => *epoch,
        }
    }
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Has everything up to it, of the asker's history, and nothing else.
    At(Version),
    /// Stands where the asker did not expect it; `None`: holds no whole copy.
    Elsewhere {
        /// Where.
        at: Option<Version>,
    },
    /// Part of a copy: taken.
    Accepted,
    /// A later epoch is known here.
    Stale {
        /// Which.
        promised: Epoch,
    },
    /// Lower epochs are refused from now on.
    Promised {
        /// Where it stands; `None`: holds no whole copy.
        at: Option<Version>,
    },
    /// The writes asked for, as many as fit; none where it has none, or does not know that place.
    Fetched(Vec<Change>),
    /// Not done: why, and what to do.
    Refused(String),
}
