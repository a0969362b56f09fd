//! A watch over a node's connection: what it yields takes its time, in order, and stands still where nothing comes in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::wire::Line;
use super::world::World;
use crate::coord::{WatchItem, WatchStream};

/// Changes on their way at once. Beyond, a later change of a key takes the place of an earlier one, as in the real store's
/// history of one.
const UNDER_WAY_MAX: usize = 4096;

struct Watching {
    world: Arc<World>,
    line: Arc<Line>,
    changes: WatchStream,
    under_way: VecDeque<(Duration, WatchItem)>,
    last_due: Duration,
    drops: u64,
    ended: bool,
}

/// `changes` as they arrive over `line`.
pub(super) fn over(world: Arc<World>, line: Arc<Line>, changes: WatchStream) -> WatchStream {
    let drops = line.drops();
    let under_way = VecDeque::new();
    let watching = Watching { world, line, changes, under_way, last_due: Duration::ZERO, drops, ended: false };
    Box::pin(futures::stream::unfold(watching, |mut watching| async move {
        watching.next().await.map(|item| (item, watching))
    }))
}

impl Watching {
    async fn next(&mut self) -> Option<WatchItem> {
        let line = Arc::clone(&self.line);
        loop {
            let changed = line.changed.notified();
            self.forget_what_was_cut_off();
            let open = line.link().carries_in() && !self.world.is_silent();
            let now = self.world.clock.elapsed();
            if open && self.under_way.front().is_some_and(|(due, _)| *due <= now) {
                return self.under_way.pop_front().map(|(_, item)| item);
            }
            if self.ended && self.under_way.is_empty() {
                return None;
            }
            let due = self.under_way.front().map(|(due, _)| due.saturating_sub(now));
            let asked = !self.ended && self.under_way.len() < UNDER_WAY_MAX && open;
            tokio::select! {
                biased;
                item = self.changes.next(), if asked => self.put(item),
                () = tokio::time::sleep(due.unwrap_or_default()), if open && due.is_some() => {}
                () = changed => {}
            }
        }
    }

    /// What was on its way as the connection was closed is gone; the store's side begins anew with a snapshot.
    fn forget_what_was_cut_off(&mut self) {
        let drops = self.line.drops();
        if std::mem::replace(&mut self.drops, drops) != drops {
            self.under_way.clear();
        }
    }

    fn put(&mut self, item: Option<WatchItem>) {
        // Before it is put there: that snapshot comes first of all where this process was stopped meanwhile.
        self.forget_what_was_cut_off();
        let Some(item) = item else {
            self.ended = true;
            return;
        };
        let due = self.world.clock.elapsed() + self.world.watch_lag();
        self.last_due = self.last_due.max(due);
        self.under_way.push_back((self.last_due, item));
    }
}
