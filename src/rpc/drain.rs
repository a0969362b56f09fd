//! What a node answers an operator who asks it to drain: JSON, so that `nats req` shows it as it stands. The request
//! itself is empty.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::NodeName;

/// The node has begun to drain; its lease and its claims tell how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainAnswer {
    /// Who drains.
    pub node: NodeName,
    /// Its start.
    pub start: u64,
}

impl DrainAnswer {
    /// As an answer's payload.
    pub fn encode(&self) -> Bytes {
        // Plain data: serialising it cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// From an answer's payload.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(payload: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}
