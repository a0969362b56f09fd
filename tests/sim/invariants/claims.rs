//! Claims, by what is written of them: epochs only grow, and a partition changes hands only by an offer, a release, or
//! because its owner is gone.

use std::collections::HashSet;

use nats_ring::coord::{Claim, ClaimState};
use nats_ring::types::{Epoch, FencingToken, Generation, NodeId, NodeName, PartitionId};

use super::leases::Leases;
use super::{Held, ensure};

const GROW: &str = "epochs only grow";
const HANDS: &str = "a partition changes hands only where its owner gave it away or is gone";
const HEARD: &str = "a partition's subject is listened to while its owner is there";
const NAMED: &str = "who executes is whom the store names";

/// All claims as they stand in the store.
pub(crate) struct Claims {
    claims: Vec<Option<Claim>>,
    offered: HashSet<(PartitionId, Epoch, NodeId, NodeName)>,
    /// For each partition the latest epoch whose owner had nobody alive to take it over from.
    forsaken: Vec<Epoch>,
    pub(crate) written: u64,
    /// The service keeps copies.
    replicates: bool,
    /// For each partition the write that its present epoch began with.
    begun_by: Vec<u64>,
    /// The ring's, as far as the store said so since it last forgot.
    generation: Option<Generation>,
}

impl Claims {
    pub(crate) fn new(partitions: u16, replicates: bool) -> Self {
        let count = usize::from(partitions);
        let (claims, forsaken) = (vec![None; count], vec![Epoch::ZERO; count]);
        let (offered, begun_by) = (HashSet::new(), vec![0; count]);
        Self { claims, offered, forsaken, written: 0, replicates, begun_by, generation: None }
    }

    /// A claim is about to count: it may be the first of its epoch.
    pub(crate) fn note_begin(&mut self, partition: PartitionId, claim: &Claim, number: u64) {
        let same = |before: &Claim| (before.generation, before.epoch) == (claim.generation, claim.epoch);
        if !self.claims[partition.index()].as_ref().is_some_and(same) {
            self.begun_by[partition.index()] = number;
        }
    }

    /// Whether this write began an epoch.
    pub(crate) fn has_begun(&self, partition: PartitionId, number: u64) -> bool {
        self.begun_by[partition.index()] == number
    }

    /// The store went back, or is another one.
    pub(crate) fn forget(&mut self) {
        self.claims.fill(None);
        self.forsaken.fill(Epoch::new(u64::MAX));
        self.offered.clear();
        self.generation = None;
    }

    /// The ring goes on under this one: whoever owned before is told that it is over.
    pub(crate) fn generation(&mut self, generation: Generation) {
        self.generation = Some(generation);
    }

    /// Whether of the set of some partition nobody is left, who may go on by itself as long as it is not known to have ended.
    pub(crate) fn is_a_set_lost(&self, leases: &Leases) -> bool {
        self.claims.iter().flatten().any(|claim| {
            let several = claim.replicas.len() > 1 || claim.state == ClaimState::Recovering;
            let held = claim.state != ClaimState::Released;
            held && several && claim.replicas.iter().all(|id| leases.is_live(id) != Some(true))
        })
    }

    pub(crate) fn offered(&mut self, partition: PartitionId, epoch: Epoch, from: NodeId, to: NodeName) {
        self.offered.insert((partition, epoch, from, to));
    }

    pub(crate) fn claim(&self, partition: PartitionId) -> Option<&Claim> {
        self.claims[partition.index()].as_ref()
    }

    pub(crate) fn holder(&self, partition: PartitionId) -> Option<&NodeId> {
        self.claims[partition.index()].as_ref().and_then(Claim::holder)
    }

    /// Whether the owner of this epoch had nobody to get the state from.
    pub(crate) fn was_forsaken(&self, partition: PartitionId, epoch: Epoch) -> bool {
        self.forsaken[partition.index()] >= epoch
    }

    /// A claim was written.
    pub(crate) fn wrote(&mut self, partition: PartitionId, claim: Claim, leases: &Leases) -> Held {
        self.written += 1;
        let before = self.claims[partition.index()].replace(claim.clone());
        let Some(before) = before.filter(|before| before.generation == claim.generation) else {
            return Ok(());
        };
        if claim.state == ClaimState::Released {
            let own = before.holder() == Some(&claim.owner) && before.epoch == claim.epoch;
            return ensure(own, HANDS, || format!("partition {partition}: {before:?} is released as {claim:?}"));
        }
        // Its owner records another set.
        if claim.epoch == before.epoch && before.holder() == Some(&claim.owner) && !claim.replicas.is_empty() {
            return ensure(self.replicates, GROW, || format!("partition {partition}: {claim:?} after {before:?}"));
        }
        ensure(claim.epoch == before.epoch.next(), GROW, || {
            format!("partition {partition}: epoch {} after {}", claim.epoch, before.epoch)
        })?;
        let Some(holder) = before.holder() else {
            self.forsaken[partition.index()] = claim.epoch;
            return Ok(());
        };
        if *holder == claim.owner {
            return Ok(());
        }
        let gone = leases.is_live(holder) != Some(true);
        if gone {
            self.forsaken[partition.index()] = claim.epoch;
        }
        let offer = (partition, before.epoch, holder.clone(), claim.owner.node.clone());
        ensure(gone || self.offered.contains(&offer), HANDS, || {
            format!("partition {partition}: {} takes epoch {} from {holder}, which lives", claim.owner, claim.epoch)
        })
    }

    /// Nobody listened to a partition's own subject as a client asked there. Who owns by a former generation ceases to as it
    /// hears of the next one, its lease being live until somebody evicts it.
    pub(crate) fn unheard(&self, partition: PartitionId, leases: &Leases) -> Held {
        let claim = self.claim(partition).filter(|claim| self.generation.is_none_or(|now| claim.generation >= now));
        let there = claim.and_then(Claim::holder).filter(|holder| leases.is_there(holder));
        ensure(there.is_none(), HEARD, || format!("partition {partition} is {there:?}'s, and nobody listens"))
    }

    /// Whoever executes does so at the epoch and in the incarnation that the store names at this very moment.
    pub(crate) fn executed(&self, partition: PartitionId, node: &NodeName, token: &FencingToken) -> Held {
        let Some(claim) = self.claims.get(partition.index()).and_then(Option::as_ref) else { return Ok(()) };
        let by = NodeId { node: node.clone(), incarnation: token.incarnation };
        let named = claim.epoch == token.epoch && claim.holder() == Some(&by);
        let same = claim.generation == token.generation;
        ensure(named || !same, NAMED, || {
            format!("partition {partition}: {by} executes at epoch {}, while the claim is {claim:?}", token.epoch)
        })
    }
}
