//! A new generation of the ring: when partitions may be given out that sets of the one before may still serve.
//!
//! In: what this node's life before knew, and what the leases of this generation say of the others'. Out: whether the first plan
//! may be written. A set that is cut off from the store, and has not heard that it went back, goes on by itself for ten leases
//! at most. So the first plan waits for twelve, since within one everybody has heard or renews nothing any more; but not where
//! everybody is here that could be in such a set: each member of the newest plan
//! that anybody remembers, in the life after the one it had there, and those that it counts as gone while claims name them. Nobody
//! but one of its members can have written a newer plan.

use super::{Event, Machine};
use crate::coord::{Claim, Knew, Resumed};
use crate::ring::settings::Former;
use crate::types::guard::{self, Guard};
use crate::types::{NodeName, Time};

impl Machine {
    /// What the next life is to know of this one and those before.
    pub fn former(&self) -> Option<Former> {
        let before = self.who.former.clone();
        let (Some(lease), Some(plan)) = (&self.lease, self.view.plan.as_ref().map(|plan| &plan.record)) else {
            return before;
        };
        let seen = (plan.generation, plan.version);
        if before.as_ref().is_some_and(|before| (before.generation, before.version) > seen) {
            return before;
        }
        let members = plan.members.iter().map(|member| &member.id).chain(&plan.gone).cloned().collect();
        Some(Former { generation: plan.generation, version: plan.version, members, was: lease.incarnation })
    }

    /// What this node's lease says of its life before; nothing where there was none to speak of.
    pub(super) fn resumed(&self) -> Option<Resumed> {
        let knew = |former: &Former| Knew { generation: former.generation, plan: former.version, was: former.was };
        let generation = self.who.generation;
        let resumed = Resumed { generation, knew: self.who.former.as_ref().map(knew) };
        (generation.has_former() && self.who.replicates).then_some(resumed)
    }

    /// When no set of the generation before serves any more: whoever has not heard of this one within a lease renews nothing.
    fn former_sets_end_at(&self) -> Time {
        self.began + self.timing.lease + self.timing.set_ends_after()
    }

    /// Since when, at the latest, the owner in this claim, who is gone, has renewed nothing any more.
    pub(super) fn unrenewed_since(&self, claim: &Claim) -> Time {
        let former = self.began + self.timing.lease;
        if claim.generation < self.who.generation { former.min(self.now) } else { self.now }
    }

    /// Whether no set of the generation before serves any more, as far as this generation's first plan is concerned.
    pub(super) fn have_former_sets_ended(&mut self) -> bool {
        let concerned = self.who.generation.has_former() && self.who.replicates && !self.plan_is_current();
        if !concerned || self.now >= self.former_sets_end_at() || !guard::holds(Guard::FormerSetsEnd) {
            return true;
        }
        let Some(missing) = self.missing_of_former() else { return true };
        if !std::mem::replace(&mut self.former_told, true) {
            let after = self.former_sets_end_at().since(self.now);
            self.emit(Event::FormerSets { missing, after });
        }
        false
    }

    /// Who has not come back, of the newest plan that anybody remembers; nobody's names where this node does not know that
    /// plan. `None` where all have.
    fn missing_of_former(&self) -> Option<Vec<NodeName>> {
        let generation = self.who.generation;
        let resumed = self.view.leases.iter().filter_map(|(node, seen)| {
            let resumed = seen.record.resumed.filter(|resumed| resumed.generation == generation)?;
            Some((node, resumed.knew?))
        });
        let back: std::collections::BTreeMap<&NodeName, Knew> = resumed.collect();
        let newest = back.values().map(|knew| (knew.generation, knew.plan)).max();
        let Some(known) = self.who.former.as_ref().filter(|known| newest <= Some((known.generation, known.version)))
        else {
            return Some(Vec::new());
        };
        let is_back = |id: &&crate::types::NodeId| back.get(&id.node).is_some_and(|knew| knew.was == id.incarnation);
        let missing: Vec<NodeName> = known.members.iter().filter(|id| !is_back(id)).map(|id| id.node.clone()).collect();
        (!missing.is_empty()).then_some(missing)
    }

    /// When to look again at the latest.
    pub(super) fn former_wake(&self) -> Option<Time> {
        (self.who.generation.has_former() && !self.plan_is_current()).then(|| self.former_sets_end_at())
    }
}
