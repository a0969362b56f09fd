//! Everybody confirms the owner's epoch: what an owner asks whose lease nobody renews for the moment.
//!
//! In: a [`Ticket`], drawn once a request was executed. Out: whether every member of the set, and of the one it is being
//! changed to, has said since that it follows this epoch and has all that was written by then. Whoever takes the partition
//! over is such a member, and refuses this epoch before it serves: so nobody had begun to when the request was executed.
//! One round of messages serves all who have asked before it.

use super::Leader;
use super::peer::Peer;
use crate::types::Version;
use crate::types::guard::{Guard, holds};

/// A question to all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The last message that was sent before it was drawn.
    number: u64,
    /// The owner's last write then.
    tail: Version,
}

/// What all members have confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confirmed {
    /// Each has answered this message or a later one.
    number: u64,
    committed: Version,
    replaced: bool,
}

impl Confirmed {
    /// Whether that answers the question.
    pub fn covers(&self, ticket: Ticket) -> bool {
        self.number > ticket.number && self.committed >= ticket.tail
    }

    /// A later epoch is known to a member: no question is answered any more.
    pub fn is_replaced(&self) -> bool {
        self.replaced
    }
}

/// What an owner remembers of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Confirming {
    /// The number of the newest ticket.
    pub(super) asked: Option<u64>,
    /// There are two sets.
    pub(super) is_changing: bool,
}

impl Leader {
    /// A question to all members. `None` where there is nobody to ask: a set of the owner alone may have been recorded, and
    /// then others may take the partition without any of those who could answer.
    pub fn ticket(&mut self) -> Option<Ticket> {
        if self.replaced || self.is_alone() {
            return None;
        }
        self.confirming.asked = Some(self.last_number);
        Some(Ticket { number: self.last_number, tail: self.log.tail() })
    }

    /// What has been confirmed by now.
    pub fn confirmed(&self) -> Confirmed {
        let counted = self.peers.values().filter(|peer| peer.counts()).map(|peer| peer.answered);
        let (number, committed) = match holds(Guard::ConfirmByAll) {
            true => (counted.min(), self.committed()),
            false => (counted.max(), self.log.tail()),
        };
        let answers = !self.replaced && !self.is_alone();
        Confirmed { number: number.filter(|_| answers).unwrap_or_default(), committed, replaced: self.replaced }
    }

    /// Whether one of the sets that may be recorded has no member but the owner.
    fn is_alone(&self) -> bool {
        let nobody = |of: fn(&Peer) -> bool| !self.peers.values().any(of);
        nobody(|peer| peer.in_sync) || (self.confirming.is_changing && nobody(|peer| peer.pending))
    }
}
