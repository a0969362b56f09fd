//! Whether a ring has come to rest, judged from outside: by its store, and by what each of its nodes says.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::coord::mem::MemStore;
use crate::coord::{Claim, ClaimState, Key, PlanRecord, Record, Store};
use crate::node::{PartitionState, Phase, Ring, Status};
use crate::types::{PartitionCount, PartitionId};

/// Records by key, with the values they were read from: most are the same at the next look.
pub(super) type Records = BTreeMap<Key, (Bytes, Record)>;

/// One look at a ring.
pub(super) struct Look<'a> {
    pub(super) store: &'a MemStore,
    pub(super) records: Records,
}

impl Look<'_> {
    /// `Ok` where every partition is owned as planned and served, all these nodes are in the plan, nobody else is, and all
    /// agree; else the first thing that is not so. What costs most is looked at last.
    pub(super) async fn check(&mut self, partitions: PartitionCount, nodes: &[Ring]) -> Result<(), String> {
        self.read(Key::Plan).await;
        for partition in partitions.ids() {
            self.read(Key::Own(partition)).await;
        }
        let Some((_, Record::Plan(plan))) = self.records.get(&Key::Plan) else {
            return Err("there is no plan yet".to_owned());
        };
        let mut claims = Vec::with_capacity(usize::from(partitions.get()));
        for partition in partitions.ids() {
            let Some((_, Record::Own(claim))) = self.records.get(&Key::Own(partition)) else {
                return Err(format!("partition {partition} never had an owner"));
            };
            claimed_as_planned(plan, partition, claim)?;
            claims.push((partition, claim));
        }
        let mut statuses = Vec::with_capacity(nodes.len());
        for node in nodes {
            let status = node.status();
            at_rest(&status)?;
            claims.iter().try_for_each(|(partition, claim)| agrees(&status, *partition, claim))?;
            statuses.push(status);
        }
        members_are(plan, &statuses)
    }

    async fn read(&mut self, key: Key) {
        let value = self.store.get(&key.text()).await.ok().flatten().and_then(|entry| entry.value);
        if value.as_ref() == self.records.get(&key).map(|(value, _)| value) {
            return;
        }
        match value.and_then(|value| Some((Record::decode(&key, &value).ok()?, value))) {
            Some((record, value)) => drop(self.records.insert(key, (value, record))),
            None => drop(self.records.remove(&key)),
        }
    }
}

fn at_rest(node: &Status) -> Result<(), String> {
    if node.phase != Phase::Active {
        let why = node.not_ready.clone().unwrap_or_default();
        return Err(format!("{} is not active but {:?}: {why}", node.node, node.phase));
    }
    if let Some(reason) = &node.not_ready {
        return Err(format!("{} is not ready: {reason}", node.node));
    }
    match node.moves.first() {
        Some(m) => Err(format!("partition {} moves from {} to {}: {}", m.partition, node.node, m.to, m.step)),
        None => Ok(()),
    }
}

fn members_are(plan: &PlanRecord, nodes: &[Status]) -> Result<(), String> {
    let planned: BTreeMap<_, _> = plan.members.iter().map(|m| (&m.id.node, m.id.incarnation.start)).collect();
    let there: BTreeMap<_, _> = nodes.iter().map(|node| (&node.node, node.start)).collect();
    if planned == there {
        return Ok(());
    }
    let names = |map: &BTreeMap<&crate::types::NodeName, u64>| {
        map.iter().map(|(node, start)| format!("{node} (start {start})")).collect::<Vec<_>>().join(", ")
    };
    Err(format!("planned for are {}, while there are {}", names(&planned), names(&there)))
}

fn claimed_as_planned(plan: &PlanRecord, partition: PartitionId, claim: &Claim) -> Result<(), String> {
    let Some(wanted) = plan.rows.get(partition.index()).and_then(|row| row.first()) else {
        return Err(format!("the plan has no owner for partition {partition}"));
    };
    let member = plan.members.iter().find(|member| member.id.node == *wanted).map(|member| &member.id);
    match claim.state {
        ClaimState::Held if member == Some(&claim.owner) => Ok(()),
        state => {
            Err(format!("partition {partition} is planned for {wanted}, its claim is {state:?} by {}", claim.owner))
        }
    }
}

fn agrees(node: &Status, partition: PartitionId, claim: &Claim) -> Result<(), String> {
    let known = node.partitions.get(partition.index());
    let same = known.is_some_and(|known| {
        known.owner.as_ref() == Some(&claim.owner.node)
            && known.epoch == claim.epoch
            && known.state == PartitionState::Serving
    });
    if same {
        return Ok(());
    }
    let state = known.map(|known| format!("{:?} at {:?}, epoch {}", known.state, known.owner, known.epoch));
    Err(format!(
        "partition {partition} is {} at epoch {}, while {} takes it for {}",
        claim.owner.node,
        claim.epoch,
        node.node,
        state.unwrap_or_else(|| "unknown".to_owned())
    ))
}

/// What the store has at a key, if this release can read it.
pub(super) async fn record(store: &MemStore, key: Key) -> Option<Record> {
    let entry = store.get(&key.text()).await.ok()??;
    Record::decode(&key, &entry.value?).ok()
}

/// The claim of a partition, if there ever was one.
pub(super) async fn claim(store: &MemStore, partition: PartitionId) -> Option<Claim> {
    match record(store, Key::Own(partition)).await? {
        Record::Own(claim) => Some(claim),
        _ => None,
    }
}
