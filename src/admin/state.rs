//! What the bucket says, record by record: read once for an answer, or kept up by a watch.
//!
//! Views order the changes of one key, never of two: what is shown here may be a moment older in one key than in another.

use std::collections::BTreeMap;

use crate::coord::{
    Claim, Entry, Key, Lease, LeaseState, Member, MemberState, Meta, PlanMember, PlanRecord, Record, Revision,
    RingConfig,
};
use crate::types::{NodeId, NodeName, PartitionCount, PartitionId};

/// The newest records seen.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) meta: Option<Meta>,
    pub(super) plan: Option<PlanRecord>,
    pub(super) members: BTreeMap<NodeName, Member>,
    pub(super) leases: BTreeMap<NodeName, Lease>,
    pub(super) claims: BTreeMap<PartitionId, Claim>,
    /// `config` and where to write the next one.
    pub(super) config: Option<Result<RingConfig, String>>,
    pub(super) config_revision: Revision,
    /// Keys that cannot be read, and why.
    pub(super) unreadable: BTreeMap<String, String>,
    revisions: BTreeMap<String, Revision>,
}

impl State {
    /// Takes in one entry; `false` where a newer one of that key was known, or the key is of another release.
    pub(super) fn apply(&mut self, entry: &Entry) -> bool {
        let known = self.revisions.get(&entry.key).copied().unwrap_or(Revision::NONE);
        let Some(key) = Key::parse(&entry.key).filter(|_| entry.revision > known) else { return false };
        self.revisions.insert(entry.key.clone(), entry.revision);
        let Some(value) = &entry.value else {
            self.deleted(&key);
            return true;
        };
        self.unreadable.remove(&entry.key);
        match Record::decode(&key, value) {
            Ok(record) => self.put(key, record, entry.revision),
            Err(error) => {
                self.unreadable.insert(entry.key.clone(), error.to_string());
            }
        }
        true
    }

    fn put(&mut self, key: Key, record: Record, revision: Revision) {
        match (key, record) {
            (_, Record::Meta(meta)) => self.meta = Some(meta),
            (_, Record::Plan(plan)) => self.plan = Some(plan),
            (key, Record::Config(config)) => {
                if let Err(reason) = &config {
                    self.unreadable.insert(key.text(), reason.clone());
                }
                (self.config, self.config_revision) = (Some(config), revision);
            }
            (Key::Lease(node), Record::Lease(lease)) => _ = self.leases.insert(node, lease),
            (Key::Member(node), Record::Member(member)) => _ = self.members.insert(node, member),
            (Key::Own(partition), Record::Own(claim)) => _ = self.claims.insert(partition, claim),
            _ => {}
        }
    }

    /// Only people delete keys. That a key is not there proves nothing: what was known of it stays, but for `config`,
    /// which is then written anew.
    fn deleted(&mut self, key: &Key) {
        if *key == Key::Config {
            (self.config, self.config_revision) = (None, Revision::NONE);
            self.unreadable.remove(&key.text());
        }
    }

    /// What operators want, as the coordinator takes it: the newest `config` that can be read, else that of the plan.
    pub(super) fn config_in_force(&self) -> RingConfig {
        match (&self.config, &self.plan) {
            (Some(Ok(config)), _) => config.known(),
            (_, Some(plan)) => plan.config.clone(),
            (_, None) => RingConfig::default(),
        }
    }

    /// How many partitions; none where there is no ring.
    pub(super) fn partitions(&self) -> PartitionCount {
        self.meta.as_ref().map_or(PartitionCount::DEFAULT, |meta| meta.partitions)
    }

    /// Names that the ring has heard of.
    pub(super) fn known_nodes(&self) -> Vec<NodeName> {
        let names: std::collections::BTreeSet<&NodeName> = self.leases.keys().chain(self.members.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// The incarnation that holds the name's live lease.
    pub(super) fn live(&self, node: &NodeName) -> Option<NodeId> {
        let lease = self.leases.get(node).filter(|lease| lease.state == LeaseState::Live)?;
        Some(NodeId { node: node.clone(), incarnation: lease.incarnation })
    }

    /// Live members, oldest first.
    pub(super) fn live_members(&self) -> Vec<PlanMember> {
        let announced = self.members.iter().filter(|(node, member)| {
            let live = self.live(node).is_some_and(|id| id.incarnation == member.incarnation);
            live && member.state != MemberState::Left
        });
        let mut live: Vec<PlanMember> = announced.map(|(node, member)| PlanMember::announced(node, member)).collect();
        live.sort_by_key(|member| member.since);
        live
    }

    /// Whether the leases prove that this incarnation will never act again: the nodes' own rule.
    pub(super) fn is_gone(&self, id: &NodeId) -> bool {
        self.leases.get(&id.node).is_some_and(|lease| {
            if lease.incarnation == id.incarnation {
                lease.state != LeaseState::Live
            } else {
                lease.incarnation.start >= id.incarnation.start
            }
        })
    }

    /// Whom the partition's claim names, while it is held.
    pub(super) fn holder(&self, partition: PartitionId) -> Option<&NodeId> {
        self.claims.get(&partition).and_then(Claim::holder)
    }

    /// How many partitions this incarnation owns.
    pub(super) fn owned(&self, id: &NodeId) -> usize {
        self.claims.values().filter(|claim| claim.holder() == Some(id)).count()
    }

    /// The plan's owner-to-be.
    pub(super) fn planned(&self, partition: PartitionId) -> Option<&NodeName> {
        self.plan.as_ref()?.rows.get(partition.index())?.first()
    }

    /// Whether the plan has this incarnation as a member.
    pub(super) fn is_planned(&self, id: &NodeId) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.members.iter().any(|member| member.id == *id))
    }
}
