//! What the store last said, per key.
//!
//! In: watch snapshots and changes. Out: the newest record of each key. A view orders the changes of one key, never of
//! two, and that a key is not in it proves nothing: whoever acts on it decides by compare-and-set.

use std::collections::{BTreeMap, BTreeSet};

use crate::coord::{Claim, Key, Lease, LeaseState, Member, PlanRecord, Record, Revision, RingConfig, Update};
use crate::types::guard::{self, Guard};
use crate::types::{NodeId, NodeName, PartitionId};

/// A record and the revision it was seen at.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Seen<T> {
    /// When it was written.
    pub(crate) revision: Revision,
    /// What it says.
    pub(crate) record: T,
}

/// The newest records seen.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct View {
    /// The plan, if seen.
    pub(crate) plan: Option<Seen<PlanRecord>>,
    /// The newest `config` that could be read.
    pub(crate) config: Option<Seen<RingConfig>>,
    /// When the newest one was written, and why it could not be read, if so.
    config_seen: Option<Seen<Option<String>>>,
    /// By name.
    pub(crate) members: BTreeMap<NodeName, Seen<Member>>,
    /// By name; only those in the scope of the lease watch.
    pub(crate) leases: BTreeMap<NodeName, Seen<Lease>>,
    /// By partition.
    pub(crate) claims: BTreeMap<PartitionId, Seen<Claim>>,
    /// Counts the changes of claims.
    pub(crate) claims_version: u64,
    /// Whom claims name.
    named: BTreeMap<NodeId, Named>,
}

/// How many claims name an incarnation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Named {
    as_holder: usize,
    as_replica: usize,
}

fn newer<K: Ord, T>(map: &mut BTreeMap<K, Seen<T>>, key: K, seen: Seen<T>) -> bool {
    if map.get(&key).is_some_and(|known| known.revision >= seen.revision) {
        return false;
    }
    map.insert(key, seen);
    true
}

impl View {
    /// Takes in one record; `false` if a newer one of that key was known. Revisions of one key never go back here: a
    /// store that goes back is another generation, and the node starts anew.
    pub(crate) fn apply(&mut self, key: Key, revision: Revision, record: Record) -> bool {
        match (key, record) {
            (Key::Plan, Record::Plan(record)) => {
                let newer = self.plan.as_ref().is_none_or(|known| known.revision < revision);
                if newer {
                    self.plan = Some(Seen { revision, record });
                }
                newer
            }
            (Key::Config, Record::Config(read)) => {
                let newer = self.config_seen.as_ref().is_none_or(|known| known.revision < revision);
                if newer {
                    self.config_seen = Some(Seen { revision, record: read.as_ref().err().cloned() });
                    self.config = read.ok().map(|record| Seen { revision, record }).or(self.config.take());
                }
                newer
            }
            (Key::Member(node), Record::Member(record)) => newer(&mut self.members, node, Seen { revision, record }),
            (Key::Lease(node), Record::Lease(record)) => newer(&mut self.leases, node, Seen { revision, record }),
            (Key::Own(partition), Record::Own(record)) => {
                if self.claims.get(&partition).is_some_and(|known| known.revision >= revision) {
                    return false;
                }
                self.count_named(&record, |count| *count += 1);
                if let Some(before) = self.claims.insert(partition, Seen { revision, record }) {
                    self.count_named(&before.record, |count| *count -= 1);
                    self.named.retain(|_, named| *named != Named::default());
                }
                self.claims_version += 1;
                true
            }
            _ => false,
        }
    }

    fn count_named(&mut self, claim: &Claim, change: impl Fn(&mut usize)) {
        for id in &claim.replicas {
            change(&mut self.named.entry(id.clone()).or_default().as_replica);
        }
        if let Some(id) = claim.holder() {
            change(&mut self.named.entry(id.clone()).or_default().as_holder);
        }
    }

    /// Whom claims name, as holder or in a set.
    pub(crate) fn named(&self) -> impl Iterator<Item = &NodeId> {
        self.named.keys()
    }

    /// Whether a claim that is held names it as the owner.
    pub(crate) fn is_holder(&self, id: &NodeId) -> bool {
        self.named.get(id).is_some_and(|named| named.as_holder > 0)
    }

    /// Whether the set of any claim has it.
    pub(crate) fn is_listed(&self, id: &NodeId) -> bool {
        self.named.get(id).is_some_and(|named| named.as_replica > 0)
    }

    /// These are all leases there are. One that was seen live and is not among them was removed, by hand or by an expiry: nothing
    /// is known of its holder any more. (What was seen to have ended stays so.)
    pub(crate) fn forget_leases_beyond(&mut self, all: &[Update], own: &NodeName) {
        let there: BTreeSet<&NodeName> = all
            .iter()
            .filter_map(|update| if let Key::Lease(node) = &update.key { Some(node) } else { None })
            .collect();
        self.leases.retain(|node, seen| there.contains(node) || node == own || seen.record.state != LeaseState::Live);
    }

    /// Why the newest `config` could not be read, if it could not.
    pub(crate) fn config_refused(&self) -> Option<&str> {
        self.config_seen.as_ref()?.record.as_deref()
    }

    /// What operators want: by the newest `config` that could be read; where none was seen, by the one that the plan was
    /// made with, for a key that is not in the view proves nothing.
    pub(crate) fn config_in_force(&self) -> RingConfig {
        let read = self.config.as_ref().map(|seen| seen.record.known());
        read.or_else(|| self.plan.as_ref().map(|plan| plan.record.config.clone())).unwrap_or_default()
    }

    /// Whether the leases seen prove that this incarnation will never act again: evicted, left, or its name taken by a
    /// later start. (A name is only taken over from an incarnation that was seen to run out.)
    pub(crate) fn is_gone(&self, id: &NodeId) -> bool {
        let Some(seen) = self.leases.get(&id.node) else { return !guard::holds(Guard::AbsentLease) };
        let lease = &seen.record;
        if lease.incarnation == id.incarnation {
            lease.state != LeaseState::Live
        } else {
            lease.incarnation.start >= id.incarnation.start
        }
    }

    /// The owner a claim names, while it is held.
    pub(crate) fn holder(&self, partition: PartitionId) -> Option<&NodeId> {
        self.claims.get(&partition).and_then(|seen| seen.record.holder())
    }

    /// The plan's owner-to-be of a partition.
    pub(crate) fn planned_owner(&self, partition: PartitionId) -> Option<&NodeName> {
        self.plan.as_ref()?.record.rows.get(partition.index())?.first()
    }

    /// A plan member by name.
    pub(crate) fn plan_member(&self, node: &NodeName) -> Option<&NodeId> {
        self.plan.as_ref()?.record.members.iter().map(|m| &m.id).find(|id| id.node == *node)
    }

    /// Whether the plan lists this incarnation as gone.
    pub(crate) fn plan_says_gone(&self, id: &NodeId) -> bool {
        let same = |gone: &NodeId| gone == id || (!guard::holds(Guard::GoneByIncarnation) && gone.node == id.node);
        self.plan.as_ref().is_some_and(|plan| plan.record.gone.iter().any(same))
    }
}
