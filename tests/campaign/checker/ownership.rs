//! Who owned what, from the ring's own records as the servers stamped them: judged from outside all nodes.
//!
//! In: every change of a claim or a lease that was seen. Out: two owners at one epoch, epochs that went back, evictions; and
//! for each partition when its entries may have been lost, because nobody was left to hand them over.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use nats_ring::coord::{Claim, ClaimState, Lease, LeaseState};
use nats_ring::types::{Incarnation, NodeId};

use super::register::Loss;
use crate::history::{Moment, nanos};

/// The stamp of a record is made by another process than the clients' clock is read in.
const SLACK: Duration = Duration::from_millis(50);

/// A change in the ring's bucket, with the server's time.
#[derive(Debug, Clone)]
pub struct Change {
    pub at: Moment,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    Claim(usize, Claim),
    Lease(String, Lease),
}

/// A node that lost its lease to an observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    pub node: String,
    pub at: Moment,
}

/// What became of a ring's records.
#[derive(Debug, Default)]
pub struct Ownership {
    /// Changes of each partition's claim, in order.
    claims: BTreeMap<usize, Vec<(Moment, Claim)>>,
    /// When an incarnation had ceased to be live.
    ended: HashMap<Incarnation, Moment>,
    pub evictions: Vec<Eviction>,
    /// What must not be.
    pub wrong: Vec<String>,
}

impl Ownership {
    /// From changes in the order of their revisions.
    pub fn of(changes: &[Change]) -> Self {
        let mut ownership = Self::default();
        let mut leases: HashMap<&str, (Moment, &Lease)> = HashMap::new();
        for Change { at, what } in changes {
            match what {
                What::Lease(node, lease) => {
                    ownership.lease(*at, node, lease, leases.insert(node, (*at, lease)));
                }
                What::Claim(partition, claim) => ownership.claim(*at, *partition, claim),
            }
        }
        ownership
    }

    fn lease(&mut self, at: Moment, node: &str, lease: &Lease, before: Option<(Moment, &Lease)>) {
        if let Some((seen, before)) = before.filter(|(_, before)| before.incarnation != lease.incarnation) {
            // Its end was not seen, for the bucket keeps one record a key: some time after it was last seen to live.
            self.ended.entry(before.incarnation).or_insert(seen);
        }
        if lease.state != LeaseState::Live {
            self.ended.entry(lease.incarnation).or_insert(at);
        }
        let already = before.is_some_and(|(_, b)| b.incarnation == lease.incarnation && b.state == LeaseState::Evicted);
        if lease.state == LeaseState::Evicted && !already {
            self.evictions.push(Eviction { node: node.to_owned(), at });
        }
    }

    fn claim(&mut self, at: Moment, partition: usize, claim: &Claim) {
        let order = |claim: &Claim| (claim.generation, claim.epoch);
        let claims = self.claims.entry(partition).or_default();
        if let Some((_, last)) = claims.last() {
            if order(claim) < order(last) {
                self.wrong.push(format!("partition {partition}: epoch {} came after {}", claim.epoch, last.epoch));
            }
            if order(claim) == order(last) && claim.owner != last.owner {
                let (one, other) = (&last.owner, &claim.owner);
                self.wrong.push(format!("partition {partition}: two owners at epoch {}: {one}, {other}", claim.epoch));
            }
        }
        claims.push((at, claim.clone()));
    }

    /// Who claimed the partition at this epoch, if that was seen.
    pub fn owner(&self, partition: usize, epoch: u64) -> Option<&NodeId> {
        let claims = self.claims.get(&partition)?;
        claims.iter().find(|(_, claim)| claim.epoch.get() == epoch).map(|(_, claim)| &claim.owner)
    }

    /// Whether the node was seen to claim the partition at a later epoch.
    pub fn owns_later(&self, partition: usize, epoch: u64, node: &str) -> bool {
        let mut claims = self.claims.get(&partition).into_iter().flatten();
        claims.any(|(_, claim)| claim.epoch.get() > epoch && claim.owner.node.as_str() == node)
    }

    /// Changes of owner that were seen, and those of them that lost what there was.
    pub fn changes(&self) -> usize {
        self.claims
            .values()
            .map(|claims| claims.windows(2).filter(|two| two[0].1.epoch != two[1].1.epoch).count())
            .sum()
    }

    /// When what the partition held may have been lost.
    ///
    /// Between two claims nothing may be lost where the former owner was live until the second: it handed over; nor where it
    /// was taken over by a member of the in-sync set that its claim records, for what is acknowledged is with each of those. It
    /// may where none of them was left, or the claim was given back, or claims in between were not seen.
    pub fn losses(&self, partition: usize) -> Vec<Loss> {
        let Some(claims) = self.claims.get(&partition) else { return Vec::new() };
        let slack = nanos(SLACK);
        let pairs = claims.windows(2).filter(|two| two[0].1.epoch != two[1].1.epoch);
        let lost = pairs.filter_map(|two| {
            let ((before_at, before), (at, claim)) = (&two[0], &two[1]);
            let member = before.replicas.contains(&claim.owner) && claim.owner != before.owner;
            let unseen = claim.epoch.get() > before.epoch.get() + 1 || claim.generation != before.generation;
            let ended = self.ended.get(&before.owner.incarnation).copied().filter(|ended| *ended <= at + slack);
            let from = match (unseen || before.state == ClaimState::Released, ended) {
                (true, Some(ended)) => Some(ended.min(*before_at)),
                (true, None) => Some(*before_at),
                (false, ended) => ended,
            };
            let from = from.filter(|_| unseen || !member);
            from.map(|from| Loss { from: from - slack, to: at + slack })
        });
        lost.collect()
    }
}
