//! What can be made to go wrong with a ring, beside what happens to single nodes, and how often it did.

use std::collections::BTreeMap;
use std::time::Duration;

use super::link::Link;
use super::observer::{Observed, StoreChange};
use super::ring::TestRing;
use crate::coord::{Key, LeaseState, Record, Store};
use crate::rpc::mem::BusFaults;

/// What happens to writes and watches by themselves: all off by default. Probabilities are 0 to 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoreFaults {
    /// Per write: it is lost on its way.
    pub write_lost: f64,
    /// Per write: it is decided, and nobody hears what came of it.
    pub write_unanswered: f64,
    /// Per write: it takes up to [`StoreFaults::late_by`] longer to the store, and lands there if its revision still
    /// matches, whatever has become of its sender.
    pub write_late: f64,
    /// See [`StoreFaults::write_late`].
    pub late_by: Duration,
    /// Per write: refused as a conflict though nothing else was written, as a replicated stream does.
    pub write_conflict: f64,
    /// A change takes up to so long to each watch, in whole milliseconds; a watch keeps its order.
    pub watch_lag: Duration,
    /// Per change delivered: it is delivered once more.
    pub watch_repeat: f64,
    /// Per change delivered: a gap and a new snapshot come instead.
    pub watch_gap: f64,
}

/// What can go wrong, to count how often it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // They say what they are; what each does stands where it is set.
pub enum FaultKind {
    Crash,
    Pause,
    Wedge,
    LinkDown,
    LinkMute,
    LinkDeaf,
    LinkSilent,
    DataLinkAlone,
    HeartbeatLinkAlone,
    NatsAway,
    JetStreamSilent,
    WriteLost,
    WriteUnanswered,
    WriteLate,
    WriteConflict,
    WatchLagged,
    WatchRepeated,
    WatchGap,
    Rollback,
    StoreRecreated,
    CleanUp,
    MessageDelayed,
    MessageReordered,
    MessageDuplicated,
    MessageLost,
    MessageSwallowed,
    SubscribedLate,
}

impl FaultKind {
    /// Every kind there is.
    pub const ALL: [Self; 27] = [
        Self::Crash,
        Self::Pause,
        Self::Wedge,
        Self::LinkDown,
        Self::LinkMute,
        Self::LinkDeaf,
        Self::LinkSilent,
        Self::DataLinkAlone,
        Self::HeartbeatLinkAlone,
        Self::NatsAway,
        Self::JetStreamSilent,
        Self::WriteLost,
        Self::WriteUnanswered,
        Self::WriteLate,
        Self::WriteConflict,
        Self::WatchLagged,
        Self::WatchRepeated,
        Self::WatchGap,
        Self::Rollback,
        Self::StoreRecreated,
        Self::CleanUp,
        Self::MessageDelayed,
        Self::MessageReordered,
        Self::MessageDuplicated,
        Self::MessageLost,
        Self::MessageSwallowed,
        Self::SubscribedLate,
    ];
}

impl TestRing {
    /// What happens to writes and watches of all nodes from now on.
    pub fn set_store_faults(&self, faults: StoreFaults) {
        self.world.set_faults(faults);
    }

    /// What happens to messages from now on.
    pub fn set_bus_faults(&self, faults: BusFaults) {
        self.switch.set_faults(faults);
    }

    /// What of a node's connections works from now on.
    ///
    /// # Panics
    /// Here and below: where no node of this name runs.
    pub fn set_link(&self, name: &str, link: Link) {
        let away = self.away();
        self.with(name, |member| member.set_link(link, away));
    }

    /// What works from now on of the connection for all but heartbeats alone, beside what [`TestRing::set_link`] says of
    /// both.
    pub fn set_data_link(&self, name: &str, link: Link) {
        let away = self.away();
        self.with(name, |member| member.set_link_alone(false, link, away));
    }

    /// The same, of the connection for heartbeats.
    pub fn set_heartbeat_link(&self, name: &str, link: Link) {
        let away = self.away();
        self.with(name, |member| member.set_link_alone(true, link, away));
    }

    /// What is wrong with NATS as a whole, beside what is wrong with single nodes' connections: with all nodes' from
    /// now on, those of nodes added later included.
    pub fn set_away(&self, link: Link) {
        if link != Link::Up && self.away() == Link::Up {
            self.world.fire(FaultKind::NatsAway);
        }
        self.put_away(link);
        self.members().values_mut().for_each(|member| member.set_away(link));
    }

    /// How long one way to the store takes this node, in whole milliseconds of simulated time; each is chance.
    pub fn set_store_delay(&self, name: &str, from: Duration, to: Duration) {
        self.with(name, |member| member.lines.iter().for_each(|line| line.set_delay(from, to)));
    }

    /// How long each message takes to and from this node at most, beside what [`BusFaults::delay`] adds.
    pub fn set_bus_delay(&self, name: &str, up_to: Duration) {
        self.with(name, |member| member.bus.set_delay(up_to));
    }

    /// JetStream answers nothing, as while it has no leader, and core NATS works: no write is acknowledged, those on their
    /// way and those sent meanwhile are applied or lost, watches stand still, reads fail. Until told otherwise.
    pub fn set_jetstream_silent(&self, silent: bool) {
        self.world.set_silent(silent);
    }

    /// The store loses its last writes (at most 4096), acknowledged ones among them.
    pub fn roll_back(&self, writes: usize) {
        self.world.fire(FaultKind::Rollback);
        self.store().rollback(writes);
        self.world.saw(&Observed::Store(StoreChange::RolledBack { writes }));
    }

    /// The store is deleted and created again, empty.
    pub fn recreate_store(&self) {
        self.world.fire(FaultKind::StoreRecreated);
        self.store().reset();
        self.world.saw(&Observed::Store(StoreChange::Recreated));
    }

    /// Removes a key as expiry does long after it was of use: a marker stays. `false` where there is none.
    pub async fn clean_up(&self, key: &str) -> bool {
        if !matches!(self.store().get(key).await, Ok(Some(entry)) if entry.value.is_some()) {
            return false;
        }
        self.world.fire(FaultKind::CleanUp);
        self.store().delete(key);
        self.world.saw(&Observed::Store(StoreChange::Removed { key: key.to_owned() }));
        true
    }

    /// The records that nobody has any use for: of names whose node has left or was evicted, that neither run now nor own
    /// anything nor stand in the plan. What an operator's clean-up or an expiry may take away.
    pub async fn stale_keys(&self) -> Vec<String> {
        let used = self.names_in_use().await;
        let mut stale = Vec::new();
        for name in self.names_ever().into_iter().filter(|name| !used.contains(name)) {
            let lease = super::settle::record(self.store(), Key::Lease(name.clone())).await;
            if matches!(lease, Some(Record::Lease(lease)) if lease.state != LeaseState::Live) {
                stale.extend([Key::Member(name.clone()).text(), Key::Lease(name).text()]);
            }
        }
        stale
    }

    /// How often everything went wrong so far; what never did is there with zero.
    pub fn fired(&self) -> BTreeMap<FaultKind, u64> {
        let (bus, watches) = (self.switch.fired(), self.store().fired());
        let mut fired: BTreeMap<FaultKind, u64> = FaultKind::ALL.into_iter().map(|kind| (kind, 0)).collect();
        fired.extend(self.world.fired());
        fired.extend([
            (FaultKind::WatchRepeated, watches.watch_repeat),
            (FaultKind::WatchGap, watches.watch_gap),
            (FaultKind::MessageDelayed, bus.delayed),
            (FaultKind::MessageReordered, bus.reordered),
            (FaultKind::MessageDuplicated, bus.duplicated),
            (FaultKind::MessageLost, bus.lost),
            (FaultKind::MessageSwallowed, bus.swallowed),
            (FaultKind::SubscribedLate, bus.subscribed_late),
        ]);
        fired
    }
}
