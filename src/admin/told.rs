//! What the bucket does not say: each live node is asked how it is, over its own subject.
//!
//! In: the ring as its records have it. Out: copies under way, suspended nodes, partitions that wait, put together. Nodes that do
//! not answer in time are named, no more: a frozen one, one that is cut off, one of an older release.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde::Serialize;

use super::answers::{NodeOverview, Overview};
use super::{Admin, AdminError};
use crate::rpc::status::{CopiesUnderWay, LISTED_MAX, StatusAnswer, Suspended, Waiting};
use crate::rpc::subject::{self, Intent};
use crate::types::{NodeName, PartitionId};

/// How long a node may take to answer: what is asked for is in its memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// So many are asked at a time.
const ASKED_AT_ONCE: usize = 64;

/// A node whose lease has run out for now, without anybody having evicted it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuspendedNode {
    /// Which.
    pub node: NodeName,
    /// What it does meanwhile.
    #[serde(flatten)]
    pub suspended: Suspended,
}

/// What the nodes say of themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Told {
    /// Copies that owners make for others.
    pub copies_under_way: CopiesUnderWay,
    /// Nodes whose lease has run out for now.
    pub suspended: Vec<SuspendedNode>,
    /// How many partitions wait, every copy of them lost.
    pub waiting_partitions: usize,
    /// The first of them, by number.
    pub waiting: Vec<Waiting>,
    /// Live nodes that did not answer.
    pub silent: Vec<NodeName>,
}

impl Told {
    fn of(answers: Vec<(NodeName, Option<StatusAnswer>)>) -> Self {
        let mut told = Self::default();
        let (mut copies, mut waiting) = (Vec::new(), BTreeMap::<PartitionId, Waiting>::new());
        for (node, answer) in answers {
            let Some(answer) = answer else {
                told.silent.push(node);
                continue;
            };
            told.suspended.extend(answer.suspended.map(|suspended| SuspendedNode { node, suspended }));
            // All of them see the same ring, some a moment later.
            told.waiting_partitions = told.waiting_partitions.max(answer.waiting_partitions);
            waiting.extend(answer.waiting.into_iter().map(|one| (one.partition, one)));
            copies.push(answer.copies_under_way);
        }
        told.copies_under_way = CopiesUnderWay::together(copies, LISTED_MAX);
        told.waiting = waiting.into_values().collect();
        told.silent.sort();
        told.suspended.sort_by(|a, b| a.node.cmp(&b.node));
        told
    }
}

impl Admin {
    /// Asks every live node of this overview how it is. Nodes that do not answer within a second are told of as silent.
    pub async fn ask_nodes(&self, overview: &Overview) -> Told {
        let live: Vec<NodeOverview> = overview.nodes.iter().filter(|node| node.state.is_live()).cloned().collect();
        let asked = live.into_iter().map(|node| self.ask_node(node));
        Told::of(futures::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await)
    }

    async fn ask_node(&self, node: NodeOverview) -> (NodeName, Option<StatusAnswer>) {
        let to = subject::node_start(&self.ring, &node.node, &node.incarnation);
        let subject = format!("{to}.{}", Intent::Status.token());
        let answer = self.bus.request(&subject, Vec::new(), Bytes::new(), ANSWER_TIMEOUT.min(self.timeout)).await;
        let failed = |reason| AdminError::NoAnswer { node: node.node.clone(), reason };
        let answer = answer.map_err(|error| failed(error.to_string()));
        let read = answer.and_then(|answer| StatusAnswer::decode(&answer.payload).map_err(failed));
        if let Err(error) = &read {
            tracing::debug!(%error, "a node did not say how it is");
        }
        (node.node, read.ok())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rpc::status::Waits;

    #[test]
    fn what_several_nodes_see_counts_once_and_who_is_silent_is_named() {
        let name = |text: &str| NodeName::new(text).unwrap();
        let waiting = |partition| Waiting {
            partition: PartitionId::new(partition),
            waits: Waits::until_empty_start(vec![name("x")], 7.5),
        };
        let answer = |node: &str, suspended, partitions: &[u16]| StatusAnswer {
            node: name(node),
            start: 1,
            phase: "active".to_owned(),
            not_ready: None,
            suspended,
            copies_under_way: CopiesUnderWay { learners: 2, ..CopiesUnderWay::default() },
            waiting_partitions: partitions.len(),
            waiting: partitions.iter().copied().map(waiting).collect(),
        };
        let suspended = Suspended { serves_with_copies: true, remaining_seconds: 3.0 };
        let told = Told::of(vec![
            (name("c"), None),
            (name("b"), Some(answer("b", Some(suspended), &[4, 9]))),
            (name("a"), Some(answer("a", None, &[4]))),
        ]);
        assert_eq!(told.silent, [name("c")]);
        assert_eq!(told.suspended, [SuspendedNode { node: name("b"), suspended }]);
        assert_eq!((told.waiting_partitions, told.waiting.len(), told.copies_under_way.learners), (2, 2, 4));
    }
}
