//! Copies that belong here no more: what nobody counts on goes, what the owner may count on goes once it says that it does not.
//!
//! In: the order to let a copy go. Out: a copy less, in the end.

use std::cmp::Ordering;
use std::sync::MutexGuard;
use std::time::Duration;

use super::{Copies, Slot};
use crate::replica::{Ask, Told};
use crate::types::guard::{Guard, holds};
use crate::types::{Epoch, NodeId, PartitionId};

/// In what pace an owner is asked whether a copy that belongs here no more may go: at first, for so often, and later.
const LEAVE_PAUSE: Duration = Duration::from_secs(1);
const LEAVE_SOON: u32 = 20;
const LEAVE_PAUSE_LATER: Duration = Duration::from_secs(30);

/// What becomes of a copy that does not belong here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Unwanted {
    /// It goes.
    Drop,
    /// A later owner feeds it.
    Keep,
    /// The owner is to be asked first.
    Ask {
        /// The last that was heard of it.
        heard: u64,
    },
}

impl Copies {
    /// Another node owns the partition at this epoch, and no copy belongs here: it goes, if it can go right now. One that this
    /// owner feeds may become a member at any moment: the owner has to say that it will not. Judged and dropped under one
    /// lock: in between the owner would begin to count on it.
    pub(in crate::node) fn drop_unwanted(&self, partition: PartitionId, epoch: Epoch) -> Unwanted {
        let Some(mut slot) = self.slot(partition) else { return Unwanted::Keep };
        let becomes = unwanted(&slot, epoch);
        if becomes == Unwanted::Drop && holds(Guard::DiscardAfterLoss) {
            self.empty(partition, &mut slot, epoch);
        }
        becomes
    }

    fn unwanted(&self, partition: PartitionId, epoch: Epoch) -> Unwanted {
        self.slot(partition).map_or(Unwanted::Keep, |slot| unwanted(&slot, epoch))
    }

    /// Asks the owner, if it is known by then, until the copy that is here is gone or something comes from a later one. For as long
    /// as that takes: what is held in vain takes memory from what is not.
    pub(in crate::node) async fn leave(
        &self,
        partition: PartitionId,
        epoch: Epoch,
        owner: impl Fn() -> Option<NodeId> + Send,
    ) {
        for asked in 1_u32.. {
            if let Some(owner) = owner()
                && self.ask_to_leave(partition, epoch, &owner).await
            {
                return;
            }
            tokio::time::sleep(if asked < LEAVE_SOON { LEAVE_PAUSE } else { LEAVE_PAUSE_LATER }).await;
        }
    }

    /// Asks the owner whether the copy that is here may go; drops it if so, and if nothing came from the owner meanwhile. Says
    /// whether that is settled.
    async fn ask_to_leave(&self, partition: PartitionId, epoch: Epoch, owner: &NodeId) -> bool {
        let Unwanted::Ask { heard } = self.unwanted(partition, epoch) else { return true };
        let ask = Ask::Leave { epoch, node: self.me.clone() };
        let accepted = self.tools.ask(partition, owner, &ask).await == Ok(Told::Accepted);
        let goes = |slot: &MutexGuard<'_, Slot>| unwanted(slot, epoch) == Unwanted::Ask { heard };
        let Some(mut slot) = self.slot(partition).filter(|slot| accepted && goes(slot)) else { return false };
        self.empty(partition, &mut slot, epoch);
        true
    }
}

fn unwanted(slot: &Slot, epoch: Epoch) -> Unwanted {
    match slot {
        Slot::Leads(led) if led.epoch() < epoch => Unwanted::Drop,
        Slot::Leads(_) => Unwanted::Keep,
        Slot::Follows(follower) => match follower.promised().cmp(&epoch) {
            Ordering::Less => Unwanted::Drop,
            Ordering::Equal => Unwanted::Ask { heard: follower.heard() },
            Ordering::Greater => Unwanted::Keep,
        },
    }
}
