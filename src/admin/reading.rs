//! Reading the bucket: from watches, not gets, for a get may be answered by a replica that lags.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;

use super::state::State;
use super::{Admin, AdminError};
use crate::coord::nats::bucket_name;
use crate::coord::{Entry, LeaseState, Revision, WatchItem, WatchScope, WatchStream};
use crate::types::NodeName;

/// What the ring's watch and that of all leases yield, as they come.
pub(super) type Items = BoxStream<'static, WatchItem>;

impl Admin {
    /// The work, or that it took too long.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, AdminError> {
        let limit = self.timeout;
        let late = |_| AdminError::Timeout { what: what.to_owned(), limit };
        tokio::time::timeout(limit, work).await.map_err(late)?
    }

    /// The ring as it is now.
    pub(super) async fn read(&self) -> Result<State, AdminError> {
        Ok(self.follow().await?.0)
    }

    /// The ring as it is now, and what changes from then on.
    pub(super) async fn follow(&self) -> Result<(State, Items), AdminError> {
        self.within("reading the ring", async {
            let mut state = State::default();
            let ring = self.begin(WatchScope::Ring, &mut state).await?;
            let leases = self.begin(WatchScope::AllLeases, &mut state).await?;
            if state.meta.is_none() && !state.unreadable.contains_key("meta") {
                return Err(AdminError::NoRing {
                    ring: self.ring.clone(),
                    bucket: bucket_name(&self.ring),
                    what: "is empty",
                });
            }
            if let Some(reason) = state.unreadable.get("meta") {
                return Err(AdminError::Unreadable { key: "meta".to_owned(), reason: reason.clone() });
            }
            Ok((state, in_order(ring, leases)))
        })
        .await
    }

    async fn begin(&self, scope: WatchScope, state: &mut State) -> Result<WatchStream, AdminError> {
        let failed = |reason: String| AdminError::Store(reason);
        let mut items = self.store.watch(scope).await.map_err(|error| failed(error.to_string()))?;
        loop {
            match items.next().await {
                Some(WatchItem::Snapshot(entries)) => {
                    entries.iter().for_each(|entry| _ = state.apply(entry));
                    return Ok(items);
                }
                Some(WatchItem::Change(entry)) => _ = state.apply(&entry),
                Some(WatchItem::Gap(_)) => {}
                Some(WatchItem::Reset(reason)) => return Err(failed(reason)),
                None => return Err(failed("its watch ended".to_owned())),
            }
        }
    }

    /// The ring as it is after `limit`, or as soon as every live lease was seen renewed; and the nodes that were silent
    /// for half of their lease or more, where `limit` is long enough to tell.
    pub(super) async fn observe(&self, limit: Duration) -> Result<(State, Observed), AdminError> {
        let (mut state, mut items) = self.follow().await?;
        let mut renewed = BTreeSet::new();
        let whole = tokio::time::timeout(limit, async {
            while silent(&state, &renewed).next().is_some() {
                let Some(item) = items.next().await else { return Err(ended()) };
                for entry in entries(item)? {
                    if state.apply(&entry)
                        && let Some(node) = entry.key.strip_prefix("lease.").and_then(|name| NodeName::new(name).ok())
                    {
                        renewed.insert(node);
                    }
                }
            }
            Ok(())
        });
        if let Ok(Err(error)) = whole.await {
            return Err(error);
        }
        let long_enough = |node: &NodeName| {
            state.leases.get(node).is_some_and(|lease| limit >= Duration::from_millis(lease.lease_ms) / 2)
        };
        let (suspects, too_short): (BTreeSet<NodeName>, BTreeSet<NodeName>) =
            silent(&state, &renewed).partition(|node| long_enough(node));
        Ok((state, Observed { suspects, told: too_short.is_empty() }))
    }
}

/// What came of watching the leases.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Live by their lease, and silent.
    pub(super) suspects: BTreeSet<NodeName>,
    /// Whether every node's silence can be judged.
    pub(super) told: bool,
}

fn silent<'a>(state: &'a State, renewed: &'a BTreeSet<NodeName>) -> impl Iterator<Item = NodeName> + 'a {
    let live = state.leases.iter().filter(|(_, lease)| lease.state == LeaseState::Live);
    live.map(|(node, _)| node.clone()).filter(|node| !renewed.contains(node))
}

/// Both watches as one, the older change first where both have one: whoever reads late is told in order all the same.
/// Ends with either.
fn in_order(first: WatchStream, second: WatchStream) -> Items {
    let (mut first, mut second) = (first.peekable(), second.peekable());
    futures::stream::poll_fn(move |context| {
        let ahead = |item: Poll<Option<&WatchItem>>| item.map(|item| item.map(written));
        let (one, two) =
            (ahead(Pin::new(&mut first).poll_peek(context)), ahead(Pin::new(&mut second).poll_peek(context)));
        let take_first = match (one, two) {
            (Poll::Ready(Some(one)), Poll::Ready(Some(two))) => one <= two,
            (Poll::Ready(_), _) => true,
            (Poll::Pending, Poll::Ready(_)) => false,
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
        };
        if take_first { first.poll_next_unpin(context) } else { second.poll_next_unpin(context) }
    })
    .boxed()
}

fn written(item: &WatchItem) -> Revision {
    if let WatchItem::Change(entry) = item { entry.revision } else { Revision::NONE }
}

/// The entries of a watch's item, after its beginning.
pub(super) fn entries(item: WatchItem) -> Result<Vec<Entry>, AdminError> {
    match item {
        WatchItem::Snapshot(entries) => Ok(entries),
        WatchItem::Change(entry) => Ok(vec![entry]),
        WatchItem::Gap(_) => Ok(Vec::new()),
        WatchItem::Reset(reason) => Err(AdminError::Store(reason)),
    }
}

/// A watch that ended by itself.
pub(super) fn ended() -> AdminError {
    AdminError::Store("its watch ended".to_owned())
}
