//! The words of the ring as types: what every other layer speaks in.
//!
//! Nothing here does I/O. Identifiers are validated when they are made, so that a value of one of these types
//! can be used in a subject, a KV key or a URL as it is.

mod chance;
mod copies;
#[doc(hidden)]
pub mod guard;
mod hash;
mod ids;
mod process;
mod request_id;
mod throttle;
mod time;
mod version;

pub use chance::Chance;
pub use copies::{Consistency, CopyRules, Factor, InvalidFactor, OnLoss, UnknownConsistency, UnknownOnLoss};
pub use hash::{KeyHash, UnknownKeyHash};
pub use ids::{
    Epoch, FencingToken, Generation, Incarnation, InvalidName, NAME_MAX_BYTES, NodeId, NodeName, PartitionCount,
    PartitionId, RingName,
};
pub use process::Process;
pub use request_id::{InvalidRequestName, Once, REQUEST_NAME_MAX_BYTES, RequestId};
pub use throttle::Throttle;
pub use time::{BootClock, Clock, ManualClock, Time};
pub use version::{Version, VersionError};
