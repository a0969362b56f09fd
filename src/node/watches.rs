//! Turns what the store says into inputs of the machine.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::coord::{Followed, Follower, Position, Store, StoreIdentity, WatchScope};
use crate::ring::Input;
use crate::types::Chance;

/// The place of a watch among those of one kind, of which each takes the place of the one before. That one goes on until
/// the new one has told its first state: opening it takes seconds while JetStream is silent, and a node that does not see
/// its own lease meanwhile renews it at an old revision, for nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// Ends this watch.
    pub(super) stop: CancellationToken,
    former: CancellationToken,
    told: CancellationToken,
}

impl Place {
    /// The place of the watch that comes after this one.
    pub(super) fn next(&self) -> Self {
        let former = if self.told.is_cancelled() {
            self.stop.clone()
        } else {
            // It has told nothing yet, so what it was to take the place of is what goes on.
            self.stop.cancel();
            self.former.clone()
        };
        Self { former, ..Self::default() }
    }

    fn take(&self) {
        self.former.cancel();
        self.told.cancel();
    }
}

/// One watch, for as long as the incarnation lasts.
pub(super) struct Watching {
    /// Where.
    pub(super) store: Arc<dyn Store>,
    /// What.
    pub(super) scope: WatchScope,
    /// Among the watches of its kind.
    pub(super) place: Place,
    /// Which life of the store this incarnation belongs to.
    pub(super) identity: StoreIdentity,
    /// What this incarnation has seen of it.
    pub(super) position: Position,
    /// For jitter.
    pub(super) chance: Chance,
    /// The machine's inputs.
    pub(super) inputs: mpsc::Sender<Input>,
}

impl Watching {
    /// Runs until the store turns out to be another one, or nobody takes inputs any more.
    pub(super) async fn run(&self) {
        let mut follower = Follower::new(Arc::clone(&self.store), self.scope.clone(), self.identity.clone())
            .with_position(self.position.clone())
            .with_chance(self.chance.clone());
        while let Some(followed) = follower.next().await {
            let whole = matches!(followed, Followed::Snapshot(_));
            if self.inputs.send(self.input(followed)).await.is_err() {
                return;
            }
            if whole {
                self.place.take();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_goes_on_until_the_one_after_it_has_told_its_first_state() {
        let first = Place::default();
        first.take();
        let second = first.next();
        let third = second.next();
        assert!(second.stop.is_cancelled() && !first.stop.is_cancelled());
        third.take();
        assert!(first.stop.is_cancelled() && !third.stop.is_cancelled());
        assert!(!third.next().former.is_cancelled());
    }
}
