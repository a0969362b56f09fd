//! The subjects of a ring.

use crate::types::{NodeId, NodeName, PartitionId, RingName};

/// Queue group of everything that any of several nodes may answer.
pub const QUEUE: &str = "nats-ring";
const KEYED: &str = "key";
const PARTITION: &str = "p";

/// `<ring>.<operation>`: any node, which forwards to the owner.
pub fn entry(ring: &RingName, operation: &str) -> String {
    format!("{ring}.{operation}")
}

/// `<ring>.key.>`: any node, as [`entry`]; the key stands in the subject. A server's subject mapping can turn such a
/// subject into that of the partition.
pub fn keyed(ring: &RingName) -> String {
    format!("{ring}.{KEYED}.>")
}

/// `<ring>.key.<operation>.*`, for people: what stands for the key.
pub fn keyed_operation(ring: &RingName, operation: &str) -> String {
    format!("{ring}.{KEYED}.{operation}.*")
}

/// Whether the subject ought to have a key behind the operation.
pub fn wants_key(subject: &str) -> bool {
    let mut tokens = subject.split('.').skip(1);
    tokens.next() == Some(KEYED) && tokens.next().is_some()
}

/// `<ring>.p.<partition>.>`: the partition's owner, with the key in the subject or without.
pub fn partition(ring: &RingName, partition: PartitionId) -> String {
    format!("{ring}.{PARTITION}.{partition}.>")
}

/// A subject that a subscription with a wildcard at its end gets; what stands in for the wildcard means nothing.
pub fn any_of(pattern: &str) -> String {
    pattern.replace('>', "nop")
}

/// What a plain client asks for, as the subject says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// What to do.
    pub operation: &'a str,
    /// The key, where the subject has it: it may have dots.
    pub key: Option<&'a str>,
}

/// Reads `<ring>.<operation>`, `<ring>.key.<operation>.<key>`, `<ring>.p.<partition>.<operation>` and
/// `<ring>.p.<partition>.<operation>.<key>`. A ring's name has no dots.
pub fn asked(subject: &str) -> Asked<'_> {
    let (_, rest) = subject.split_once('.').unwrap_or(("", subject));
    let rest = match rest.split_once('.') {
        Some((KEYED, rest)) => rest,
        Some((PARTITION, rest)) => rest.split_once('.').map_or(rest, |(_, rest)| rest),
        _ => return Asked { operation: rest, key: None },
    };
    match rest.split_once('.') {
        Some((operation, key)) => Asked { operation, key: Some(key) },
        None => Asked { operation: rest, key: None },
    }
}

/// `<ring>.node.<node>.<incarnation>`: everything between nodes, with an [`Intent`] behind it.
pub fn node(ring: &RingName, id: &NodeId) -> String {
    node_start(ring, &id.node, &id.incarnation.token())
}

/// The same, of an incarnation that is known by its token.
pub fn node_start(ring: &RingName, node: &NodeName, incarnation: &str) -> String {
    format!("{ring}.node.{node}.{incarnation}")
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
    /// A routed request that may have been executed before. Who does not know what was executed does not know this
    /// either, and stays silent: releases before named requests.
    Again,
    /// A chunk of a partition's state.
    Chunk,
    /// An offer to take a partition over.
    Offer,
    /// What the copies of a partition say to each other.
    Copy,
    /// An offer to take over a partition whose copy is there already.
    Switch,
    /// A leaving node asks to be forgotten.
    Farewell,
    /// An operator asks the node to give everything away and end.
    Drain,
    /// An operator asks the node how it is.
    Status,
}

impl Intent {
    /// The token.
    pub fn token(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Again => "again",
            Self::Chunk => "chunk",
            Self::Offer => "offer",
            Self::Copy => "copy",
            Self::Switch => "switch",
            Self::Farewell => "farewell",
            Self::Drain => "drain",
            Self::Status => "status",
        }
    }

    /// From the token.
    pub fn parse(token: &str) -> Option<Self> {
        let between_nodes =
            [Self::Call, Self::Again, Self::Chunk, Self::Offer, Self::Copy, Self::Switch, Self::Farewell];
        between_nodes.into_iter().chain([Self::Drain, Self::Status]).find(|intent| intent.token() == token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_subject_says_the_operation_and_may_say_the_key() {
        let with = |operation, key| Asked { operation, key: Some(key) };
        let without = |operation| Asked { operation, key: None };
        for (subject, expected) in [
            ("ring.get", without("get")),
            ("ring.p.7.get", without("get")),
            ("ring.p.7.get.user:1", with("get", "user:1")),
            ("ring.p.7.get.a.b.c", with("get", "a.b.c")),
            ("ring.key.set.{user:1}:a", with("set", "{user:1}:a")),
            ("ring.key.get.get", with("get", "get")),
            ("ring.key.get.p.7", with("get", "p.7")),
            ("ring.key.get", without("get")),
            ("key.get", without("get")),
            ("p.key.get.k", with("get", "k")),
        ] {
            assert_eq!(asked(subject), expected, "{subject}");
        }
    }
}
