//! Copies of one partition, pure: the owner's log and its view of its followers, and a follower's place.
//!
//! All copies of the in-sync set apply the writes of an epoch in order, from its one owner: they are prefixes of one
//! history, told apart by their versions alone. A follower's copy is right for an owner whose log contains the
//! follower's version; any other is cleared and copied anew. A copy is made while writes go on: it begins at the
//! owner's tail of then, chunks may hold later writes, and once all writes up to the tail at its end are applied on
//! top, it is exact.
//!
//! In: times, writes, who is in the set, messages that came. Out: messages to send, what the service is to apply, what is
//! committed. No I/O, no clock, no chance: the node drives it, and so does the simulation.

mod away;
mod confirm;
mod follower;
mod incoming;
mod leader;
mod log;
mod message;
mod peer;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

use std::time::Duration;

pub use confirm::{Confirmed, Ticket};
pub use follower::{Apply, Follower};
pub use leader::{Due, Failure, Leader, Members, OutOfOrder, Report, Send};
pub use log::{Change, Log};
pub use message::{Ask, CHUNK_WINDOW, Told};
pub use peer::{Progress, Standing};

/// What a copy may take, in bytes and in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of the writes in one message. A single larger one goes alone.
    pub batch_max_bytes: usize,
    /// Of the newest writes that every copy keeps, so that one a little behind needs no new copy.
    pub log_bytes: usize,
    /// Of the writes that an owner keeps while a follower still needs them.
    pub pinned_max_bytes: usize,
    /// Of chunks that came before their turn.
    pub held_max_bytes: usize,
    /// A member is silent once something it was sent is unacknowledged for so long.
    pub silent_after: Duration,
    /// Pause before something that was not answered or refused is sent again.
    pub resend_after: Duration,
    /// Pause after a copy that failed; doubled with each in a row.
    pub copy_pause: Duration,
    /// The longest such pause.
    pub copy_pause_max: Duration,
    /// For so long an owner keeps the writes that a node missed which left the set. Zero: not at all.
    pub return_delay: Duration,
}
