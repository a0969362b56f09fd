//! A watch on the store in memory: no queue, but a place in the store's history.
//!
//! As with the real bucket's history of one, a reader that lags sees the last write of a key and not those before.

use std::pin::pin;
use std::sync::Arc;

use super::super::{Entry, Position, Revision, WatchItem, WatchScope, WatchStream};
use super::{MemStore, State, hits};

impl State {
    fn watch_gap(&mut self) -> bool {
        let gap = hits(&mut self.rng, self.faults.watch_gap);
        self.fired.watch_gap += u64::from(gap);
        gap
    }

    fn watch_repeat(&mut self) -> bool {
        let repeat = hits(&mut self.rng, self.faults.watch_repeat);
        self.fired.watch_repeat += u64::from(repeat);
        repeat
    }
}

fn in_scope(scope: &WatchScope, key: &str) -> bool {
    let lease = key.strip_prefix("lease.");
    match scope {
        WatchScope::Ring => {
            matches!(key, "meta" | "config" | "plan") || key.starts_with("member.") || key.starts_with("own.")
        }
        WatchScope::Routes => key == "meta" || key.starts_with("own."),
        WatchScope::AllLeases => lease.is_some(),
        WatchScope::Leases(nodes) => lease.is_some_and(|name| nodes.iter().any(|node| node.as_str() == name)),
    }
}

/// A watch from now on.
pub(super) fn start(store: MemStore, scope: WatchScope, position: Position) -> WatchStream {
    let state = store.state();
    let (life, floors) = (state.life, state.floors.len());
    drop(state);
    let cuts = store.cuts();
    let follower = Follower { store, scope, life, floors, cuts, at: None, position, again: None, ended: false };
    Box::pin(futures::stream::unfold(follower, |mut follower| async move {
        follower.next().await.map(|item| (item, follower))
    }))
}

/// One watch: where it stands in the store's history.
struct Follower {
    store: MemStore,
    scope: WatchScope,
    life: u64,
    floors: usize,
    /// How often its connection had been cut as it was last asked.
    cuts: u64,
    /// Everything up to this revision was yielded; `None` where a snapshot is due.
    at: Option<Revision>,
    /// The latest revision that its reader ever saw, here or elsewhere: a store that went back meanwhile is known by it.
    position: Position,
    again: Option<Entry>,
    ended: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<WatchItem> {
        let shared = Arc::clone(&self.store.shared);
        while !self.ended {
            let mut changed = pin!(shared.changed.notified());
            changed.as_mut().enable();
            if let Some(item) = self.step() {
                return Some(item);
            }
            changed.await;
        }
        None
    }

    fn step(&mut self) -> Option<WatchItem> {
        let cuts = self.store.cuts();
        if std::mem::replace(&mut self.cuts, cuts) != cuts {
            self.at = None;
        }
        if !self.store.is_connected() {
            return None;
        }
        let store = self.store.clone();
        let mut state = store.state();
        if state.held {
            return None;
        }
        if let Some(reason) = self.reset(&state) {
            self.ended = true;
            return Some(WatchItem::Reset(reason.to_string()));
        }
        if let Some(entry) = self.again.take() {
            return Some(WatchItem::Change(entry));
        }
        let Some(at) = self.at else { return Some(self.snapshot(&state)) };
        let change = self.change_after(at, &state)?;
        if state.watch_gap() {
            self.at = None;
            return Some(WatchItem::Gap("changes were missed".to_owned()));
        }
        self.stand_at(change.revision);
        self.again = state.watch_repeat().then(|| change.clone());
        Some(WatchItem::Change(change))
    }

    /// Why the store cannot be the one watched so far.
    fn reset(&mut self, state: &State) -> Option<String> {
        if state.life != self.life {
            return Some(format!("life {}, before {}", state.life, self.life));
        }
        let floor = state.floors.get(self.floors..)?.iter().min().copied();
        self.floors = state.floors.len();
        let end = floor.map_or(state.last, |floor| floor.min(state.last));
        (end < self.position.get()).then(|| format!("went back to revision {}", end.0))
    }

    fn stand_at(&mut self, revision: Revision) {
        self.at = Some(revision);
        self.position.saw(revision);
    }

    fn snapshot(&mut self, state: &State) -> WatchItem {
        self.stand_at(state.last);
        let live = state.by_revision.values().filter_map(|key| state.entries.get(key));
        let in_scope = live.filter(|entry| entry.value.is_some() && in_scope(&self.scope, &entry.key));
        WatchItem::Snapshot(in_scope.cloned().collect())
    }

    fn change_after(&self, at: Revision, state: &State) -> Option<Entry> {
        let mut later = state.by_revision.range(Revision(at.0 + 1)..);
        let (_, key) = later.find(|(_, key)| in_scope(&self.scope, key))?;
        state.entries.get(key).cloned()
    }
}
