//! A drain, asked of the node itself and followed in the bucket.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;

use super::answers::{DrainOptions, DrainStep};
use super::preview::{live_node, stranded_by};
use super::reading::{Items, ended, entries};
use super::state::State;
use super::{Admin, AdminError, DrainSteps};
use crate::coord::LeaseState;
use crate::rpc::RequestError;
use crate::rpc::drain::DrainAnswer;
use crate::rpc::subject::{self, Intent};
use crate::types::{NodeId, NodeName};

/// How long one request may take to be acknowledged, and how often it is sent: asking twice does no harm.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
const ACK_TRIES: u32 = 3;

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
        let answer = self.ask_to_drain(&id).await?;
        let first = DrainStep::Acknowledged { node: answer.node, start: answer.start, partitions: owned };
        let deadline = Instant::now() + options.limit;
        let watched = Watched { id, state, items, of: owned, told: owned, deadline, limit: options.limit, over: false };
        let rest = futures::stream::unfold(watched, |mut watched| async move {
            let step = watched.next().await?;
            Some((step, watched))
        });
        Ok(futures::stream::once(std::future::ready(Ok(first))).chain(rest).boxed())
    }

    async fn ask_to_drain(&self, id: &NodeId) -> Result<DrainAnswer, AdminError> {
        let subject = format!("{}.{}", subject::node(&self.ring, id), Intent::Drain.token());
        let refused = |reason: String| AdminError::NoAnswer { node: id.node.clone(), reason };
        let mut last = String::new();
        for _ in 0..ACK_TRIES {
            match self.bus.request(&subject, Vec::new(), Bytes::new(), ACK_TIMEOUT).await {
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
    id: NodeId,
    state: State,
    items: Items,
    of: usize,
    told: usize,
    deadline: Instant,
    limit: Duration,
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
