//! The copies of partitions at this node: those it owns and brings others up to date on, and those it holds for others.
//!
//! In: what the ring's machine decided (who owns, who is in a set), what other nodes ask. Out: the service's state kept right, messages
//! to other nodes, and inputs for the machine: who has caught up, who is silent. The rules are [`crate::replica`]'s; here are the tasks
//! and messages around them.

mod absent;
mod drive;
pub(super) mod files;
mod growing;
mod kept;
mod leaving;
mod led;
mod making;
mod pace;
mod progress;
mod recover;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::sync::atomic::{self, AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

pub(super) use kept::{Kept, KeptCell, discard};
pub(super) use leaving::Unwanted;
pub(super) use led::{Led, LedLog};
pub(super) use progress::{Copied, Shortage};
pub(super) use wire::{Heard, SwitchHead, open_ask, seal_told};

use super::events::EventSender;
use super::hooks::{caught, caught_now};
use super::parts::NodeParts;
use super::supervise::Supervisor;
use crate::replica::{Apply, Ask, Bounds, Follower, Leader, Log, Told};
use crate::ring::{CopySet, Input, OpId, Timing};
use crate::service::{BoxError, Grant, Service};
use crate::types::{Clock, Epoch, NodeId, NodeName, PartitionCount, PartitionId, Version};
use absent::Absent;
use drive::Tools;
use pace::Pace;

/// Writes in one message, unless a single one is larger, or the server takes less.
const BATCH_BYTES: usize = 128 * 1024;
/// Newest writes that each copy keeps.
const LOG_BYTES: usize = 128 * 1024;
/// Writes that an owner keeps for who still needs them: what may be written while a copy is made.
const PINNED_BYTES: usize = 32 * 1024 * 1024;
/// Chunks that came before their turn.
const HELD_BYTES: usize = 8 * 1024 * 1024;

/// What a partition is at this node.
enum Slot {
    /// Another node's: a copy, or nothing.
    Follows(Box<Follower>),
    /// This node's.
    Leads(Arc<Led>),
}

impl Slot {
    fn follows(follower: Follower) -> Self {
        Self::Follows(Box::new(follower))
    }

    /// No lower epoch counts here.
    fn promised(&self) -> Epoch {
        match self {
            Self::Follows(follower) => follower.promised(),
            Self::Leads(led) => led.epoch(),
        }
    }
}

/// All partitions of one incarnation.
pub(super) struct Copies {
    me: NodeId,
    clock: Arc<dyn Clock>,
    service: Arc<dyn Service>,
    supervisor: Supervisor,
    bounds: Bounds,
    tools: Arc<Tools>,
    slots: Vec<Mutex<Slot>>,
    /// What had to make room by when a copy began to arrive.
    arriving: Mutex<HashMap<PartitionId, u64>>,
    /// The node drains, and no copy is let go any more.
    holds_on: AtomicBool,
    /// Nothing is done here any more.
    over: AtomicBool,
    /// Told before the partition was led.
    sets: Mutex<HashMap<PartitionId, (OpId, Epoch, CopySet)>>,
}

/// Where the state of a partition comes from as its ownership begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heritage {
    /// Nobody had it before.
    None,
    /// The copy that is here.
    Copy,
    /// What the former owner sends, which the service is given after this.
    Handed,
}

impl Copies {
    /// What was kept is held, and nothing else.
    pub(super) fn new(
        parts: &NodeParts,
        me: NodeId,
        partitions: PartitionCount,
        supervisor: Supervisor,
        (inputs, events): (mpsc::Sender<Input>, EventSender),
        kept: Kept,
    ) -> Arc<Self> {
        let bounds = bounds(&parts.timing, parts.returning.delay, parts.bus.max_payload());
        let tools = Arc::new(Tools {
            ring: parts.ring.clone(),
            bus: Arc::clone(&parts.bus),
            service: Arc::clone(&parts.service),
            clock: Arc::clone(&parts.clock),
            inputs,
            events,
            answer_timeout: bounds.silent_after / 2,
            part_timeout: parts.timing.lease / 2,
            copying: Semaphore::new(parts.copying.parallel),
            pace: Pace::new(parts.copying.bytes_per_second, Arc::clone(&parts.clock)),
            copied_bytes: AtomicU64::new(0),
            difference_bytes: AtomicU64::new(0),
            absent: Absent::new(parts.returning.max_bytes),
        });
        let mut kept = kept.followers;
        let follower = |partition| kept.remove(&partition).unwrap_or_else(|| Follower::new(Epoch::ZERO, bounds));
        let slots = partitions.ids().map(follower).map(|follower| Mutex::new(Slot::follows(follower))).collect();
        Arc::new(Self {
            me,
            clock: Arc::clone(&parts.clock),
            service: Arc::clone(&parts.service),
            supervisor,
            bounds,
            tools,
            slots,
            arriving: Mutex::default(),
            holds_on: AtomicBool::new(false),
            over: AtomicBool::new(false),
            sets: Mutex::default(),
        })
    }

    fn slot(&self, partition: PartitionId) -> Option<MutexGuard<'_, Slot>> {
        let slot = self.slots.get(partition.index())?.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: whoever had it before has changed what is kept, whoever has it now changes nothing.
        (!self.over.load(atomic::Ordering::SeqCst)).then_some(slot)
    }

    /// This node owns the partition from now on: what its service's grant writes to.
    ///
    /// # Errors
    /// Where it is to come from the copy that is here, and there is no whole one.
    pub(super) fn lead(&self, grant: &Grant, heritage: Heritage) -> Result<Arc<Led>, String> {
        let (partition, epoch) = (grant.partition, grant.epoch());
        let mut slot = self.slot(partition).ok_or_else(|| format!("there is no partition {partition}"))?;
        // Looked at before anything is touched: one that comes too late leaves what is there as it is.
        let promised = slot.promised();
        if promised > epoch {
            return Err(format!("partition {partition} follows epoch {promised} here, which is later than {epoch}"));
        }
        let former = std::mem::replace(&mut *slot, Slot::follows(Follower::new(epoch, self.bounds)));
        let leader = match (heritage, former) {
            (Heritage::None | Heritage::Handed, former) => {
                end(former);
                // Nobody begins on what may be left of it.
                caught_now(|| self.service.clear(partition))?;
                // A place of this epoch alone: what the former owner handed over is before it, and no other copy stands there.
                let begins_at = Version { epoch, sequence: 0 };
                Leader::new(epoch, Log::starting_at(begins_at, self.bounds.log_bytes), self.bounds)
            }
            (Heritage::Copy, Slot::Follows(follower)) => follower.into_leader(epoch).ok_or_else(|| {
                format!("the copy of partition {partition} that is here is not whole, or a later epoch is known")
            })?,
            (Heritage::Copy, Slot::Leads(led)) => match led.end() {
                Some(leader) => {
                    let follower = Follower::from_leader(epoch, leader);
                    follower.into_leader(epoch).ok_or_else(|| "its own log does not fit".to_owned())?
                }
                None => return Err(format!("what partition {partition} was here is over")),
            },
        };
        let led = Led::new(grant.clone(), leader);
        *slot = Slot::Leads(Arc::clone(&led));
        drop(slot);
        if let Some((op, _, set)) = self.sets().remove(&partition).filter(|(_, of, _)| *of == epoch) {
            led.set(op, &set, &self.me);
        }
        let (driven, tools) = (Arc::clone(&led), Arc::clone(&self.tools));
        self.supervisor.once(async move {
            if let Err(panic) = caught(drive::drive(driven, Arc::clone(&tools))).await {
                let why = format!("partition {partition}: its copies are looked after no more: {panic}");
                let _ = tools.inputs.send(Input::GiveUp(why)).await;
            }
        });
        Ok(led)
    }

    /// The service forgets it all. One that panics over that has forgotten it: what is still there is asked for by nobody, and
    /// cleared again before a copy begins.
    fn clear(&self, partition: PartitionId) {
        if let Err(error) = caught_now(|| self.service.clear(partition)) {
            tracing::error!(%partition, %error, "the service could not clear a partition");
        }
    }

    /// The partition as this node leads it at this epoch.
    pub(super) fn led(&self, partition: PartitionId, epoch: Epoch) -> Option<Arc<Led>> {
        match &*self.slot(partition)? {
            Slot::Leads(led) if led.epoch() == epoch => Some(Arc::clone(led)),
            _ => None,
        }
    }

    /// How far the last copy is that this node, its owner, made of the partition for another.
    pub(super) fn copied_to(&self, partition: PartitionId, node: &NodeName) -> Option<Copied> {
        match &*self.slot(partition)? {
            Slot::Leads(led) => led.copied_to(node),
            Slot::Follows(_) => None,
        }
    }

    /// The nodes that had to make room for the copies this node, the owner, made of the partition.
    pub(super) fn short(&self, partition: PartitionId) -> Vec<(NodeName, Copied)> {
        match self.slot(partition).as_deref() {
            Some(Slot::Leads(led)) => led.short(),
            _ => Vec::new(),
        }
    }

    /// Bytes of copies made for other nodes so far.
    pub(super) fn copied_bytes(&self) -> u64 {
        self.tools.copied_bytes.load(atomic::Ordering::Relaxed)
    }

    /// Bytes of writes sent to nodes that are not in a set, because they missed them.
    pub(super) fn difference_bytes(&self) -> u64 {
        self.tools.difference_bytes.load(atomic::Ordering::Relaxed)
    }

    /// Who holds copies of the partition that this node owns.
    pub(super) fn replicate(&self, op: OpId, partition: PartitionId, epoch: Epoch, set: CopySet) {
        match self.led(partition, epoch) {
            Some(led) => led.set(op, &set, &self.me),
            // Its turn is about to begin.
            None => _ = self.sets().insert(partition, (op, epoch, set)),
        }
    }

    fn sets(&self) -> MutexGuard<'_, HashMap<PartitionId, (OpId, Epoch, CopySet)>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition is another node's from this epoch on; what is here stays as a copy.
    pub(super) fn follow(&self, partition: PartitionId, epoch: Epoch) {
        let Some(mut slot) = self.slot(partition) else { return };
        if let Slot::Leads(led) = &*slot
            && led.epoch() < epoch
        {
            *slot = Slot::follows(self.step_down(led));
        }
    }

    fn step_down(&self, led: &Led) -> Follower {
        let partition = led.partition();
        let follows = caught_now(|| self.service.follow(partition));
        match (led.end(), follows) {
            (Some(leader), Ok(())) => Follower::from_leader(led.epoch(), leader),
            (None, Ok(())) => Follower::new(led.epoch(), self.bounds),
            (_, Err(error)) => {
                tracing::warn!(%partition, %error, "what was owned here is no copy, and goes");
                self.clear(partition);
                Follower::new(led.epoch(), self.bounds)
            }
        }
    }

    /// What is here of the partition goes, whatever it is: this node begins with nothing. Its owner is known up to this epoch.
    pub(super) fn drop_copy(&self, partition: PartitionId, known: Epoch) {
        if let Some(mut slot) = self.slot(partition) {
            self.empty(partition, &mut slot, known);
        }
    }

    /// The service forgets it in the same moment: later it would be a copy begun since that it forgets.
    fn empty(&self, partition: PartitionId, slot: &mut Slot, known: Epoch) {
        let left = match slot {
            Slot::Follows(follower) => follower.let_go(known),
            Slot::Leads(led) => Follower::new(led.epoch().max(known), self.bounds),
        };
        end(std::mem::replace(slot, Slot::follows(left)));
        self.clear(partition);
    }

    /// Whether a whole copy is here that stands exactly there.
    pub(super) fn stands_at(&self, partition: PartitionId, version: Version) -> bool {
        self.slot(partition).is_some_and(|slot| match &*slot {
            Slot::Follows(follower) => follower.is_sharp() && follower.at() == Some(version),
            Slot::Leads(_) => false,
        })
    }

    /// Another node asks the copy that is here. The service has done what it says when it is answered.
    pub(super) fn asked(&self, partition: PartitionId, ask: Ask) -> Heard {
        let (begins, ends) = (matches!(ask, Ask::CopyBegin { .. }), matches!(ask, Ask::CopyEnd { .. }));
        let told = self.told(partition, ask);
        let short = match &told {
            Told::Accepted if begins => self.copy_begins(partition),
            Told::At(_) if ends => self.shortage(partition),
            _ => None,
        };
        Heard { told, short }
    }

    /// From now on what has to make room is counted; a beginning that is told twice does not count as another.
    fn copy_begins(&self, partition: PartitionId) -> Option<Shortage> {
        let evicted = self.service.memory()?.evicted;
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner).entry(partition).or_insert(evicted);
        None
    }

    /// What had to make room since the copy began to arrive.
    fn shortage(&self, partition: PartitionId) -> Option<Shortage> {
        let memory = self.service.memory()?;
        let before = *self.arriving.lock().unwrap_or_else(PoisonError::into_inner).get(&partition)?;
        let evicted = memory.evicted.saturating_sub(before);
        (evicted > 0).then_some(Shortage { evicted, bound_bytes: memory.bound_bytes })
    }

    fn told(&self, partition: PartitionId, ask: Ask) -> Told {
        let Some(mut slot) = self.slot(partition) else {
            return Told::Refused(format!("there is no partition {partition}"));
        };
        if let Slot::Leads(led) = &*slot {
            if let Ask::Leave { epoch, node } = &ask
                && *epoch == led.epoch()
            {
                return if led.is_without(node) {
                    Told::Accepted
                } else {
                    Told::Refused("it is counted on".to_owned())
                };
            }
            if ask.epoch() <= led.epoch() {
                return led.answer(&ask).unwrap_or(Told::Stale { promised: led.epoch() });
            }
            // Somebody else has claimed it since: this node's turn is over, whether it has seen that or not.
            *slot = Slot::follows(self.step_down(led));
        }
        let Slot::Follows(follower) = &mut *slot else { return Told::Elsewhere { at: None } };
        let (apply, told) = follower.ask(self.clock.now(), ask);
        match self.apply(partition, apply) {
            Ok(()) => told,
            Err(error) => {
                tracing::warn!(%partition, %error, "a copy cannot be kept up, and begins anew");
                self.clear(partition);
                follower.failed()
            }
        }
    }

    /// What the service is to do. One that panics could not: nothing of it is acknowledged, as after an error.
    fn apply(&self, partition: PartitionId, apply: Vec<Apply>) -> Result<(), BoxError> {
        caught_now(|| self.applied(partition, apply))?
    }

    fn applied(&self, partition: PartitionId, apply: Vec<Apply>) -> Result<(), BoxError> {
        for apply in apply {
            match apply {
                Apply::Clear => {
                    self.arriving.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
                    self.service.clear(partition);
                }
                Apply::Changes(changes) => self.service.copy_changes(partition, &changes)?,
                Apply::Chunk { body, age } => self.service.copy_chunk(partition, body, age)?,
            }
        }
        Ok(())
    }
}

fn end(slot: Slot) {
    if let Slot::Leads(led) = slot {
        led.end();
    }
}

fn bounds(timing: &Timing, return_delay: Duration, max_payload_bytes: usize) -> Bounds {
    Bounds {
        // What goes around them has its room too; a single write fits as the request did that it came by.
        batch_max_bytes: BATCH_BYTES.min(max_payload_bytes / 2),
        log_bytes: LOG_BYTES,
        pinned_max_bytes: PINNED_BYTES,
        held_max_bytes: HELD_BYTES,
        silent_after: timing.lease / 4,
        resend_after: Duration::from_millis(20).min(timing.lease / 60),
        copy_pause: Duration::from_millis(250),
        copy_pause_max: Duration::from_secs(15),
        return_delay,
    }
}
