//! A drain, asked of the node itself and followed in the bucket.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use super::answers::{DrainOptions, DrainStep};
use super::preview::{live_node, stranded_by};
use super::reading::{Items, ended, entries};
use super::state::State;
use super::{Admin, AdminError, DrainSteps};
use crate::coord::LeaseState;
use crate::rpc::RequestError;
use crate::rpc::drain::{DrainAnswer, DrainRequest};
use crate::rpc::subject::{self, Intent};
use crate::types::{NodeId, NodeName};

/// How long one request may take to be acknowledged, and how often it is sent: asking twice does no harm.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
const ACK_TRIES: u32 = 3;
/// Nobody watches a drain for longer: a node's ends after a minute, one way or the other.
const LIMIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Admin {
    /// Asks a node to give everything away and to end, exactly as TERM does; the steps tell how far it is. The node has
    /// acknowledged once this returns, and goes on whether the steps are read or not.
    ///
    /// # Errors
    /// [`AdminError::NotLive`], [`AdminError::NobodyElse`] unless forced, [`AdminError::NoAnswer`].
    #[allow(clippy::disallowed_methods)] // The deadline of a wait that decides nothing.
    pub async fn drain(&self, node: &NodeName, options: DrainOptions) -> Result<DrainSteps, AdminError> {
        // Followed from before it is asked, so that nothing is missed.
        let (state, items) = self.follow().await?;
        let id = live_node(&state, node)?;
        let owned = state.owned(&id);
        let stranded = stranded_by(&state, &id)?;
        if !options.force && !stranded.is_empty() {
            return Err(AdminError::NobodyElse { node: node.clone(), owned, stranded });
        }
        let answer = self.ask_to_drain(&id, &DrainRequest { for_good: options.for_good }).await?;
        let first = DrainStep::Acknowledged { node: answer.node, start: answer.start, partitions: owned };
        let limit = options.limit.min(LIMIT_MAX);
        let deadline = Instant::now() + limit;
        let admin = self.clone();
        let (of, told) = (owned, owned);
        let watched = Watched { admin, id, state, items, of, told, deadline, limit, reread: false, over: false };
        let rest = futures::stream::unfold(watched, |mut watched| async move {
            let step = watched.next().await?;
            Some((step, watched))
        });
        Ok(futures::stream::once(std::future::ready(Ok(first))).chain(rest).boxed())
    }

    async fn ask_to_drain(&self, id: &NodeId, how: &DrainRequest) -> Result<DrainAnswer, AdminError> {
        let subject = format!("{}.{}", subject::node(&self.ring, id), Intent::Drain.token());
        let refused = |reason: String| AdminError::NoAnswer { node: id.node.clone(), reason };
        let mut last = String::new();
        for _ in 0..ACK_TRIES {
            match self.bus.request(&subject, Vec::new(), how.encode(), ACK_TIMEOUT).await {
                Ok(answer) => return DrainAnswer::decode(&answer.payload).map_err(refused),
                Err(error @ RequestError::Timeout(..)) => last = error.to_string(),
                Err(error) => return Err(refused(error.to_string())),
            }
        }
        Err(refused(last))
    }
}

/// A drain under way, as the bucket shows it.
struct Watched {
    admin: Admin,
    id: NodeId,
    state: State,
    items: Items,
    of: usize,
    told: usize,
    deadline: Instant,
    limit: Duration,
    /// Whether all was read anew since the node's lease ended.
    reread: bool,
    over: bool,
}

impl Watched {
    async fn next(&mut self) -> Option<Result<DrainStep, AdminError>> {
        if self.over {
            return None;
        }
        let deadline = self.deadline;
        let step = match tokio::time::timeout_at(deadline, self.step()).await {
            Ok(step) => step,
            Err(_) => {
                let left = self.state.owned(&self.id);
                Err(AdminError::DrainSlow { node: self.id.node.clone(), left, limit: self.limit })
            }
        };
        self.over = !matches!(step, Ok(DrainStep::Progress { .. }));
        Some(step)
    }

    async fn step(&mut self) -> Result<DrainStep, AdminError> {
        loop {
            let left = self.state.owned(&self.id);
            if left != self.told {
                self.told = left;
                return Ok(DrainStep::Progress { left, of: self.of });
            }
            if let Some(end) = self.end(left) {
                // Its lease may be seen to end before the last of its claims is: two keys have no order.
                if left > 0 && !std::mem::replace(&mut self.reread, true) {
                    self.state = self.admin.read().await?;
                    continue;
                }
                return end;
            }
            let item = self.items.next().await.ok_or_else(ended)?;
            for entry in entries(item)? {
                self.state.apply(&entry);
            }
        }
    }

    /// How it ended, if it did. The bucket keeps one record of a lease: a node that is back already hides how it went.
    fn end(&self, left: usize) -> Option<Result<DrainStep, AdminError>> {
        let node = self.id.node.clone();
        let lease = self.state.leases.get(&node)?;
        let broken = |how| Some(Err(AdminError::DrainBroken { node: node.clone(), how }));
        match lease.state {
            _ if lease.incarnation != self.id.incarnation && left > 0 => broken("restarted"),
            _ if lease.incarnation != self.id.incarnation => Some(Ok(DrainStep::Left { node })),
            LeaseState::Live => None,
            LeaseState::Left if left > 0 => broken("stopped before it had finished"),
            LeaseState::Left => Some(Ok(DrainStep::Left { node })),
            LeaseState::Evicted => broken("evicted"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::coord::mem::MemStore;
    use crate::coord::{Claim, ClaimState, Entry, Key, Lease, Meta, Record, Revision, Store, WatchItem};
    use crate::rpc::mem::MemSwitch;
    use crate::types::{Epoch, Generation, Incarnation, KeyHash, PartitionCount, PartitionId, RingName};

    fn id(node: &str) -> NodeId {
        let incarnation = Incarnation { start: 1, id: Uuid::from_u128(1) };
        NodeId { node: NodeName::new(node).unwrap(), incarnation }
    }

    fn claim(owner: NodeId, epoch: u64) -> (Key, Record) {
        let (generation, epoch, state) = (Generation::new(1), Epoch::new(epoch), ClaimState::Held);
        let claim = Claim { generation, epoch, replicas: vec![owner.clone()], owner, state };
        (Key::Own(PartitionId::new(0)), Record::Own(claim))
    }

    fn lease(node: &NodeId, state: LeaseState) -> (Key, Record) {
        let lease = Lease { incarnation: node.incarnation, state, beat: 1, lease_ms: 1000, resumed: None };
        (Key::Lease(node.node.clone()), Record::Lease(lease))
    }

    fn meta() -> (Key, Record) {
        let (partitions, key_hash) = (PartitionCount::new(1).unwrap(), KeyHash::default());
        (Key::Meta, Record::Meta(Meta { nonce: Uuid::nil(), generation: Generation::new(1), partitions, key_hash }))
    }

    fn entry((key, record): (Key, Record), revision: u64) -> Entry {
        Entry { key: key.text(), value: Some(record.encode()), revision: Revision(revision) }
    }

    /// A drain of `a`, which owned the only partition, as its lease is seen to end; the bucket says who owns it by now.
    async fn lease_seen_to_end(owner_by_now: NodeId) -> Vec<Result<DrainStep, AdminError>> {
        let a = id("a");
        let store = MemStore::new(1);
        for (key, record) in [meta(), claim(owner_by_now, 2), lease(&a, LeaseState::Left)] {
            store.cas(&key.text(), Revision::NONE, record.encode(), Duration::from_secs(1)).await.unwrap();
        }
        let bus = Arc::new(MemSwitch::new(1).bus());
        let admin = Admin::over(RingName::new("ring").unwrap(), Arc::new(store), bus).await.unwrap();
        let mut state = State::default();
        for (record, revision) in [(meta(), 1), (claim(a.clone(), 1), 2), (lease(&a, LeaseState::Live), 3)] {
            state.apply(&entry(record, revision));
        }
        let left = WatchItem::Change(entry(lease(&a, LeaseState::Left), 9));
        let items = futures::stream::iter([left]).chain(futures::stream::pending()).boxed();
        let limit = Duration::from_secs(20);
        let deadline = Instant::now() + limit;
        let mut watched =
            Watched { admin, id: a, state, items, of: 1, told: 1, deadline, limit, reread: false, over: false };
        let mut steps = Vec::new();
        while let Some(step) = watched.next().await {
            steps.push(step);
        }
        steps
    }

    #[tokio::test]
    async fn a_lease_that_is_seen_to_end_before_the_last_claim_moved_is_no_broken_drain() {
        let node = NodeName::new("a").unwrap();
        let moved = lease_seen_to_end(id("b")).await;
        assert_eq!(moved, [Ok(DrainStep::Progress { left: 0, of: 1 }), Ok(DrainStep::Left { node: node.clone() })]);
        let how = "stopped before it had finished";
        assert_eq!(lease_seen_to_end(id("a")).await, [Err(AdminError::DrainBroken { node, how })]);
    }
}
