//! Takeover: the surviving members promise to refuse the former owner, the furthest gives what it has beyond this node, and those who
//! then stand where this node does are the set.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;

use super::{Copies, Heritage, Led, Slot};
use crate::replica::{Ask, Told};
use crate::service::Grant;
use crate::types::{Epoch, NodeId, PartitionId, Version};

/// How often a survivor is asked.
const TRIES: u32 = 2;
/// How often the set is looked at while its members come up to this node's place.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Copies {
    /// Brings the partition together from its surviving copies, this node's among them; the members of the set that has it all, this
    /// node included.
    ///
    /// # Errors
    /// Where this node holds no whole copy.
    pub(in crate::node) async fn recover(&self, grant: &Grant, survivors: Vec<NodeId>) -> Result<Vec<NodeId>, String> {
        let (partition, epoch) = (grant.partition, grant.epoch());
        // First of all: what this node reads of its own copy below can grow by nobody else's writes any more.
        let mut own = self.promise(partition, epoch)?;
        let others: Vec<NodeId> = survivors.into_iter().filter(|node| *node != self.me).collect();
        let asked = others.iter().map(|node| self.promised(partition, epoch, node));
        let mut places: Vec<(Version, &NodeId)> =
            join_all(asked).await.into_iter().zip(&others).filter_map(|(at, node)| Some((at?, node))).collect();
        places.sort_by(|a, b| b.cmp(a));
        for (at, node) in &places {
            if *at <= own {
                break;
            }
            own = self.fetch(partition, epoch, node, own).await?;
        }
        let led = self.lead(grant, Heritage::Copy)?;
        let in_sync: BTreeSet<NodeId> = places.into_iter().map(|(_, node)| node.clone()).collect();
        led.set_survivors(in_sync);
        let there = self.wait_for_all(&led, own).await;
        Ok(std::iter::once(self.me.clone()).chain(there).collect())
    }

    fn promise(&self, partition: PartitionId, epoch: Epoch) -> Result<Version, String> {
        let none = || format!("the copy of partition {partition} that is here is not whole");
        let mut slot = self.slot(partition).ok_or_else(none)?;
        match &mut *slot {
            // Promised in any case: the claim is this node's, and no owner before it is confirmed by it any more.
            Slot::Follows(follower) => {
                let sharp = follower.is_sharp();
                follower.promise(epoch).filter(|_| sharp).ok_or_else(none)
            }
            Slot::Leads(led) => led.tail().ok_or_else(none),
        }
    }

    async fn promised(&self, partition: PartitionId, epoch: Epoch, node: &NodeId) -> Option<Version> {
        for _ in 0..TRIES {
            if let Ok(told) = self.tools.ask(partition, node, &Ask::Promise { epoch }).await {
                return if let Told::Promised { at } = told { at } else { None };
            }
        }
        None
    }

    /// Takes over the writes that a survivor has beyond `own`, as far as they can be had; where this node stands then.
    async fn fetch(
        &self,
        partition: PartitionId,
        epoch: Epoch,
        node: &NodeId,
        mut own: Version,
    ) -> Result<Version, String> {
        while let Ok(Told::Fetched(changes)) = self.tools.ask(partition, node, &Ask::Fetch { epoch, after: own }).await
        {
            let Some(mut slot) = self.slot(partition).filter(|_| !changes.is_empty()) else { break };
            let Slot::Follows(follower) = &mut *slot else { break };
            let apply = follower.fetched(own, changes);
            if let Err(error) = self.apply(partition, apply) {
                follower.failed();
                return Err(format!(
                    "partition {partition}: a write of the former owner cannot be taken over: {error}"
                ));
            }
            match follower.at() {
                Some(at) if at > own => own = at,
                _ => break,
            }
        }
        Ok(own)
    }

    /// Those who have reached `tail` by the time a silent one would be reported.
    async fn wait_for_all(&self, led: &Led, tail: Version) -> Vec<NodeId> {
        let begun = self.clock.now();
        loop {
            let progress = led.progress();
            let (there, not_yet): (Vec<_>, Vec<_>) =
                progress.into_iter().partition(|follower| follower.acknowledged.is_some_and(|at| at >= tail));
            if not_yet.is_empty() || self.clock.now().since(begun) >= self.bounds.silent_after {
                return there.into_iter().map(|follower| follower.node).collect();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
