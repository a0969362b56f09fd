//! An operator's wish that a node drains, and its answer: JSON, so that `nats req` shows it as it stands. An empty request is one
//! without wishes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::NodeName;

/// How the node is to leave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// It does not come back: nobody waits for it, and it leaves no files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub for_good: bool,
}

impl DrainRequest {
    /// As a request's payload.
    pub fn encode(&self) -> Bytes {
        if *self == Self::default() { Bytes::new() } else { json(self) }
    }

    /// From a request's payload; what cannot be read wishes nothing, as with releases that did not look.
    pub fn decode(payload: &[u8]) -> Self {
        serde_json::from_slice(payload).unwrap_or_default()
    }
}

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
        json(self)
    }

    /// From an answer's payload.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(payload: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // Plain data: serialising it cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}
