//! Follows the store and turns what it says into inputs of the machine.
//!
//! A watch that cannot be had, or ends, is asked for again with back-off for as long as it takes: that NATS is away is
//! no reason to restart anything. What this release cannot read is reported and left out.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;

use crate::coord::{Entry, Key, Record, Store, StoreIdentity, WatchItem, WatchScope};
use crate::ring::{Input, Update};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// One watch, for as long as the incarnation lasts.
pub(super) struct Follower {
    /// Where.
    pub(super) store: Arc<dyn Store>,
    /// What.
    pub(super) scope: WatchScope,
    /// Which life of the store this incarnation belongs to.
    pub(super) identity: StoreIdentity,
    /// The machine's inputs.
    pub(super) inputs: mpsc::Sender<Input>,
}

impl Follower {
    /// Runs until the store turns out to be another one, or nobody takes inputs any more.
    pub(super) async fn run(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.store.watch(self.scope.clone()).await {
                Ok(mut items) => {
                    while let Some(item) = items.next().await {
                        pause = FIRST_PAUSE;
                        if self.pass_on(item).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => tracing::debug!(scope = ?self.scope, %error, "watch not available"),
            }
            if self.is_another_store().await {
                let reason = "the bucket was deleted and created again".to_owned();
                let _ = self.inputs.send(Input::StoreReset(reason)).await;
                return;
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn is_another_store(&self) -> bool {
        self.store.identity().await.is_ok_and(|identity| identity != self.identity)
    }

    async fn pass_on(&self, item: WatchItem) -> Result<(), mpsc::error::SendError<Input>> {
        let leases = self.scope != WatchScope::Ring;
        let all = self.scope == WatchScope::AllLeases;
        let input = match item {
            WatchItem::Snapshot(entries) => {
                let updates = entries.into_iter().filter_map(read).collect();
                if leases { Input::LeaseSnapshot { all, leases: updates } } else { Input::RingSnapshot(updates) }
            }
            WatchItem::Change(entry) => match read(entry) {
                Some(update) if leases => Input::LeaseChange(update),
                Some(update) => Input::RingChange(update),
                None => return Ok(()),
            },
            WatchItem::Gap(reason) => {
                tracing::info!(scope = ?self.scope, reason, "watch interrupted");
                return Ok(());
            }
            WatchItem::Reset(reason) => Input::StoreReset(reason),
        };
        self.inputs.send(input).await
    }
}

/// Keys of other releases and deleted ones are left out: absence proves nothing.
fn read(entry: Entry) -> Option<Update> {
    let key = Key::parse(&entry.key)?;
    match Record::decode(&key, &entry.value?) {
        Ok(record) => Some(Update { key, revision: entry.revision, record }),
        Err(error) => {
            tracing::error!(%error, "record left out");
            None
        }
    }
}
