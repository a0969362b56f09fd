//! Nodes that left the set, and where they stood: one that comes back soon goes on from there, so the writes since are kept for a
//! while.

use std::time::Duration;

use super::Log;
use crate::types::{NodeName, Time, Version};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    /// `None`: somebody of the former owner's time, that owner itself perhaps.
    node: Option<NodeName>,
    at: Version,
    /// Known once the time was looked at.
    until: Option<Time>,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Away {
    left: Vec<Left>,
}

impl Away {
    /// A node has left that stood there; the last place it is known by counts.
    pub(super) fn left(&mut self, node: Option<NodeName>, at: Version) {
        self.left.retain(|left| left.node != node);
        self.left.push(Left { node, at, until: None });
    }

    /// It is back.
    pub(super) fn returned(&mut self, node: &NodeName) {
        self.left.retain(|left| left.node.as_ref() != Some(node));
    }

    /// Nobody is waited for any more.
    pub(super) fn forget(&mut self) {
        self.left.clear();
    }

    /// Whoever has not come back within the delay is not waited for; whether that was anybody.
    pub(super) fn expire(&mut self, now: Time, delay: Duration) -> bool {
        let before = self.left.len();
        self.left.iter_mut().for_each(|left| _ = left.until.get_or_insert(now + delay));
        self.left.retain(|left| left.until.is_none_or(|until| now < until));
        self.left.len() != before
    }

    /// When the next of them is given up.
    pub(super) fn next_end(&self) -> Option<Time> {
        self.left.iter().filter_map(|left| left.until).min()
    }

    /// After which version the log is kept for them.
    pub(super) fn need_after(&self, log: &Log) -> Option<Version> {
        self.left.iter().map(|left| left.at).filter(|at| log.contains(*at)).min()
    }
}
