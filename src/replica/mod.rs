//! Copies of partitions.

use bytes::Bytes;

use crate::types::{Time, Version};

/// A write, as it goes to the copies of its partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Change {
    /// Which.
    pub version: Version,
    /// When it was made, on the clock of whoever holds this value: each holder subtracts the way here.
    pub made: Time,
    /// In the service's own encoding.
    pub body: Bytes,
}
