//! Turns what the store says into inputs of the machine.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::coord::{Followed, Follower, Store, StoreIdentity, WatchScope};
use crate::ring::Input;
use crate::types::Chance;

/// One watch, for as long as the incarnation lasts.
pub(super) struct Watching {
    /// Where.
    pub(super) store: Arc<dyn Store>,
    /// What.
    pub(super) scope: WatchScope,
    /// Which life of the store this incarnation belongs to.
    pub(super) identity: StoreIdentity,
    /// For jitter.
    pub(super) chance: Chance,
    /// The machine's inputs.
    pub(super) inputs: mpsc::Sender<Input>,
}

impl Watching {
    /// Runs until the store turns out to be another one, or nobody takes inputs any more.
    pub(super) async fn run(&self) {
        let mut follower = Follower::new(Arc::clone(&self.store), self.scope.clone(), self.identity.clone())
            .with_chance(self.chance.clone());
        while let Some(followed) = follower.next().await {
            if self.inputs.send(self.input(followed)).await.is_err() {
                return;
            }
        }
    }

    fn input(&self, followed: Followed) -> Input {
        let leases = self.scope != WatchScope::Ring;
        let all = self.scope == WatchScope::AllLeases;
        match followed {
            Followed::Snapshot(leases_seen) if leases => Input::LeaseSnapshot { all, leases: leases_seen },
            Followed::Snapshot(updates) => Input::RingSnapshot(updates),
            Followed::Change(update) if leases => Input::LeaseChange(*update),
            Followed::Change(update) => Input::RingChange(*update),
            Followed::Reset(reason) => Input::StoreReset(reason),
        }
    }
}
