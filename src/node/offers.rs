//! Offers of peers that the machine has not answered yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::ring::OpId;
use crate::types::{Epoch, PartitionId, Time};

/// The machine counts its own operations up from zero; offers count from here.
const FIRST: u64 = 1 << 62;
/// More unanswered offers than this cannot be: each is answered in the step it enters. The oldest goes.
const MAX: usize = 8192;

/// An offer, and the state that came before it.
#[derive(Debug)]
pub(super) struct Pending {
    /// Where to answer.
    pub(super) reply: String,
    /// What is offered.
    pub(super) partition: PartitionId,
    /// The giving owner's epoch.
    pub(super) epoch: Epoch,
    /// The state, whole; `None` where the copy that is here has it.
    pub(super) handed: Option<Handed>,
}

/// State handed over.
#[derive(Debug, Clone)]
pub(super) struct Handed {
    /// In order.
    pub(super) chunks: Vec<Bytes>,
    /// When its last chunk was made, on this node's clock.
    pub(super) made: Time,
}

#[derive(Debug, Default)]
struct All {
    count: u64,
    pending: BTreeMap<OpId, Pending>,
}

/// Offers by the operation that answers them.
#[derive(Debug, Clone, Default)]
pub(super) struct Offers {
    all: Arc<Mutex<All>>,
}

impl Offers {
    /// An offer came in.
    pub(super) fn add(&self, offer: Pending) -> OpId {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.count += 1;
        let op = OpId(FIRST + all.count);
        all.pending.insert(op, offer);
        if all.pending.len() > MAX {
            all.pending.pop_first();
        }
        op
    }

    /// Takes it out, to be answered.
    pub(super) fn take(&self, op: OpId) -> Option<Pending> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).pending.remove(&op)
    }
}
