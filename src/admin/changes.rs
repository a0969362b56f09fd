//! Changes of the ring as they are seen in its bucket, told as events.

use std::collections::VecDeque;

use futures::StreamExt;

use super::answers::{ConfigView, RingEvent};
use super::overview::outstanding;
use super::reading::Items;
use super::state::State;
use super::{Admin, AdminError, RingEvents};
use crate::coord::{Claim, Entry, Key, LeaseState, MemberState, PlanRecord, WatchItem};
use crate::types::{NodeId, NodeName, PartitionId};

impl Admin {
    /// Changes from now on; the first item is [`RingEvent::Watching`]. Changes of one key come in their order; of two
    /// keys in the order they are seen, which is not always that in which they were written. What changed while NATS was
    /// away is told by its last state.
    ///
    /// # Errors
    /// Where the bucket cannot be watched.
    pub async fn watch(&self) -> Result<RingEvents, AdminError> {
        let (state, items) = self.follow().await?;
        let watching = RingEvent::Watching {
            plan_version: state.plan.as_ref().map_or(0, |plan| plan.version),
            members: members(state.plan.as_ref()),
        };
        let teller = Teller { state, items, waiting: VecDeque::from([watching]), over: false };
        let events = futures::stream::unfold(teller, |mut teller| async move {
            let event = teller.next().await?;
            Some((event, teller))
        });
        Ok(events.boxed())
    }
}

struct Teller {
    state: State,
    items: Items,
    waiting: VecDeque<RingEvent>,
    over: bool,
}

impl Teller {
    async fn next(&mut self) -> Option<RingEvent> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let entries = match self.items.next().await {
                Some(WatchItem::Snapshot(entries)) => entries,
                Some(WatchItem::Change(entry)) => vec![entry],
                Some(WatchItem::Gap(_)) => Vec::new(),
                Some(WatchItem::Reset(reason)) => {
                    self.over = true;
                    return Some(RingEvent::StoreReset { reason });
                }
                None => return None,
            };
            for entry in entries {
                self.waiting.extend(tell(&mut self.state, &entry));
            }
        }
    }
}

/// Takes the entry in, and says what it changed.
fn tell(state: &mut State, entry: &Entry) -> Vec<RingEvent> {
    let Some(key) = Key::parse(&entry.key) else { return Vec::new() };
    let unreadable = state.unreadable.get(&entry.key).cloned();
    let config = state.config_in_force();
    let (plan, lease, member, claim) = match &key {
        Key::Plan => (state.plan.clone(), None, None, None),
        Key::Lease(node) => (None, state.leases.get(node).cloned(), None, None),
        Key::Member(node) => (None, None, state.members.get(node).cloned(), None),
        Key::Own(partition) => (None, None, None, state.claims.get(partition).cloned()),
        Key::Meta | Key::Config => (None, None, None, None),
    };
    if !state.apply(entry) {
        return Vec::new();
    }
    if let Some(reason) = state.unreadable.get(&entry.key).filter(|reason| unreadable.as_ref() != Some(reason)) {
        return vec![RingEvent::Unreadable { key: entry.key.clone(), reason: reason.clone() }];
    }
    match key {
        Key::Plan => planned(state, plan.as_ref()),
        Key::Config if state.config_in_force() != config => {
            vec![RingEvent::ConfigChanged { config: ConfigView::from(&state.config_in_force()) }]
        }
        Key::Lease(node) => {
            let Some(now) = state.leases.get(&node) else { return Vec::new() };
            let same = lease.is_some_and(|lease| lease.incarnation == now.incarnation && lease.state == now.state);
            let start = now.incarnation.start;
            match now.state {
                _ if same => Vec::new(),
                LeaseState::Live => vec![RingEvent::MemberStarted { node, start }],
                LeaseState::Left => vec![RingEvent::MemberLeft { node, start }],
                LeaseState::Evicted => vec![RingEvent::MemberEvicted { node, start }],
            }
        }
        Key::Member(node) => {
            let Some(now) = state.members.get(&node) else { return Vec::new() };
            let known = member.is_some_and(|m| m.incarnation == now.incarnation && m.state == now.state);
            let drains = now.state == MemberState::Draining && !known;
            let start = now.incarnation.start;
            drains.then_some(RingEvent::MemberDraining { node, start }).into_iter().collect()
        }
        Key::Own(partition) => claimed(state, partition, claim.as_ref()).into_iter().collect(),
        Key::Meta | Key::Config => Vec::new(),
    }
}

fn planned(state: &State, before: Option<&PlanRecord>) -> Vec<RingEvent> {
    let Some(plan) = &state.plan else { return Vec::new() };
    let known = |id: &NodeId| before.is_some_and(|before| before.members.iter().any(|member| member.id == *id));
    let joined = plan.members.iter().filter(|member| !known(&member.id));
    let mut events: Vec<RingEvent> = joined
        .map(|member| RingEvent::MemberJoined { node: member.id.node.clone(), start: member.id.incarnation.start })
        .collect();
    events.push(RingEvent::PlanWritten {
        version: plan.version,
        author: plan.author.node.clone(),
        members: members(Some(plan)),
        moves: outstanding(state).len(),
    });
    events
}

fn claimed(state: &State, partition: PartitionId, before: Option<&Claim>) -> Option<RingEvent> {
    let now = state.claims.get(&partition)?;
    let epoch = now.epoch;
    match now.holder() {
        Some(owner) if before.is_some_and(|b| b.epoch == epoch && b.holder() == Some(owner)) => None,
        Some(owner) => {
            let from = before.and_then(Claim::holder).map(|id| id.node.clone());
            Some(RingEvent::PartitionOwned { partition, from, to: owner.node.clone(), epoch })
        }
        None if before.is_some_and(|before| before.holder().is_none()) => None,
        None => Some(RingEvent::PartitionReleased { partition, from: now.owner.node.clone(), epoch }),
    }
}

fn members(plan: Option<&PlanRecord>) -> Vec<NodeName> {
    plan.iter().flat_map(|plan| &plan.members).map(|member| member.id.node.clone()).collect()
}
