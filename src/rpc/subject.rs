//! The subjects of a ring.

use crate::types::{NodeId, PartitionId, RingName};

/// Queue group of everything that any of several nodes may answer.
pub const QUEUE: &str = "nats-ring";

/// `<ring>.<operation>`: any node, which forwards to the owner.
pub fn entry(ring: &RingName, operation: &str) -> String {
    format!("{ring}.{operation}")
}

/// `<ring>.p.<partition>.*`: the partition's owner.
pub fn partition(ring: &RingName, partition: PartitionId) -> String {
    format!("{ring}.p.{partition}.*")
}

/// `<ring>.node.<node>.<incarnation>`: everything between nodes, with an [`Intent`] behind it.
pub fn node(ring: &RingName, id: &NodeId) -> String {
    format!("{ring}.node.{}.{}", id.node, id.incarnation)
}

/// The last token of a subject.
pub fn last_token(subject: &str) -> &str {
    subject.rsplit('.').next().unwrap_or(subject)
}

/// What a message on a node's subject is for: its last token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// A routed request.
    Call,
    /// A chunk of a partition's state.
    Chunk,
    /// An offer to take a partition over.
    Offer,
    /// A leaving node asks to be forgotten.
    Farewell,
    /// An operator asks the node to give everything away and end.
    Drain,
}

impl Intent {
    /// The token.
    pub fn token(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Chunk => "chunk",
            Self::Offer => "offer",
            Self::Farewell => "farewell",
            Self::Drain => "drain",
        }
    }

    /// From the token.
    pub fn parse(token: &str) -> Option<Self> {
        [Self::Call, Self::Chunk, Self::Offer, Self::Farewell, Self::Drain]
            .into_iter()
            .find(|intent| intent.token() == token)
    }
}
