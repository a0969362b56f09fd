//! Copies that outlive an incarnation: a node that was evicted while it was frozen or cut off, or whose ring was joined anew, still has
//! what it had. Its next incarnation says so, and who owns a partition sends what it missed.
//!
//! A copy is named by its place in the history of one generation of one ring. What belongs to another is dropped.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::{Copies, Slot};
use crate::node::parts::RingShape;
use crate::replica::Follower;
use crate::service::Service;
use crate::types::{Epoch, Generation, PartitionId};

/// What a node holds between two incarnations, or brings from its former process.
#[derive(Default)]
pub(in crate::node) struct Kept {
    of: Option<(Uuid, Generation)>,
    pub(super) followers: BTreeMap<PartitionId, Follower>,
    /// What is held of these goes on from nowhere.
    rest: Vec<PartitionId>,
}

/// Where it is from the end of one incarnation to the beginning of the next.
pub(in crate::node) type KeptCell = Arc<Mutex<Kept>>;

impl Kept {
    pub(in crate::node) fn new(shape: &RingShape, followers: BTreeMap<PartitionId, Follower>) -> Self {
        Self { of: Some((shape.nonce, shape.generation)), followers, rest: Vec::new() }
    }

    /// Nothing of it goes on: it is to be freed.
    pub(in crate::node) fn nothing_of(partitions: Vec<PartitionId>) -> Self {
        Self { rest: partitions, ..Self::default() }
    }

    /// Takes it out for an incarnation of this ring: what is another's is none.
    pub(in crate::node) fn take(cell: &KeptCell, shape: &RingShape) -> Self {
        let kept = Self::take_all(cell);
        if kept.of == Some((shape.nonce, shape.generation)) { kept } else { Self::default() }
    }

    /// What there is, out of the cell.
    pub(in crate::node) fn take_all(cell: &KeptCell) -> Self {
        std::mem::take(&mut *cell.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Frees it all.
    pub(in crate::node) async fn drop_all(cell: &KeptCell, service: &dyn Service) {
        let kept = Self::take_all(cell);
        discard(service, kept.followers.into_keys().chain(kept.rest).collect()).await;
    }
}

impl Copies {
    /// This node leaves, and its copies are for the next process of its name: none is let go any more.
    pub(in crate::node) fn hold_on(&self) {
        self.holds_on.store(true, Ordering::SeqCst);
    }

    /// Whether it does.
    pub(in crate::node) fn holds_on(&self) -> bool {
        self.holds_on.load(Ordering::SeqCst)
    }

    /// The incarnation is over, and nothing is done here any more: what holds exactly what was written up to its place, and the
    /// partitions of which something else is held, or nothing.
    pub(in crate::node) fn close(&self) -> (BTreeMap<PartitionId, Follower>, Vec<PartitionId>) {
        self.over.store(true, Ordering::SeqCst);
        let (mut kept, mut rest) = (BTreeMap::new(), Vec::new());
        for (index, slot) in self.slots.iter().enumerate() {
            let partition = PartitionId::new(u16::try_from(index).unwrap_or(u16::MAX));
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let empty = Slot::follows(Follower::new(Epoch::ZERO, self.bounds));
            let follower = match std::mem::replace(&mut *slot, empty) {
                Slot::Follows(follower) => follower.into_next(),
                Slot::Leads(led) => self.step_down(&led).into_next(),
            };
            match follower {
                Some(follower) => _ = kept.insert(partition, follower),
                None => rest.push(partition),
            }
        }
        (kept, rest)
    }
}

/// Frees what is held of these.
pub(in crate::node) async fn discard(service: &dyn Service, partitions: Vec<PartitionId>) {
    if service.replicates() {
        for partition in partitions {
            service.discard(partition).await;
        }
    }
}
