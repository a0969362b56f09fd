//! What machines ask for, carried out: what the node's loop, server and hooks, and the store do in the real world.

use std::sync::Arc;

use super::state::{Mode, Node, Part, Pending, State, Thing, Watched, Writing, follows};
use super::tally::{Seen, Tally};
use crate::coord::{CasError, Key, Lease, LeaseState, Record, Update};
use crate::ring::io::{Action, Input, OpId, Outcome};
use crate::ring::machine::tests::invariants::{Checked, Truth, lease_follows};
use crate::types::{Epoch, NodeId, PartitionId, Time};

/// The number of a renewal is told, nothing goes by it.
pub(super) fn without_count(record: Record) -> Record {
    match record {
        Record::Lease(lease) => Record::Lease(Lease { beat: 0, ..lease }),
        other => other,
    }
}

impl State {
    /// What a machine counts, and keeps without ever using it again, does not tell situations apart.
    pub(super) fn forget_counts(&mut self, index: usize) {
        let node = Arc::make_mut(&mut self.nodes[index]);
        let Some(machine) = &mut node.machine else { return };
        if let Some(lease) = &mut machine.lease {
            lease.beat = 0;
        }
        // What a plan was right for is only asked to be equal: with other claims or another plan it never is again.
        let (claims, plan) = (machine.view.claims_version, machine.view.plan.as_ref().map(|plan| plan.revision));
        let right_for = &mut machine.coordination.right_for;
        right_for.take_if(|then| then.claims_version != claims || then.plan != plan);
        right_for.iter_mut().for_each(|then| then.claims_version = 0);
        machine.view.claims_version = 0;
    }

    /// A machine takes in an input.
    pub(super) fn step(&mut self, index: usize, input: Input, tally: &mut Tally) -> Checked {
        self.step_answering(index, input, tally).map(drop)
    }

    /// The same; tells why it refused an offer, if it did.
    pub(super) fn step_answering(
        &mut self,
        index: usize,
        input: Input,
        tally: &mut Tally,
    ) -> Result<Option<String>, String> {
        let now = self.now;
        let Some(machine) = &mut Arc::make_mut(&mut self.nodes[index]).machine else { return Ok(None) };
        let actions = machine.step(now, input);
        self.forget_counts(index);
        let mut refused = None;
        for action in actions {
            match action {
                Action::Emit(event) => tally.event(&event),
                Action::AnswerOffer { result, .. } => refused = result.err(),
                Action::Finish(outcome) => {
                    self.finished(index, &outcome, tally)?;
                    break;
                }
                other => self.carry_out(index, other, tally)?,
            }
        }
        Ok(refused)
    }

    fn carry_out(&mut self, index: usize, action: Action, tally: &mut Tally) -> Checked {
        match action {
            Action::Cas { op, key, expected, record, timeout, .. } => {
                let (by, deadline, session) = (self.by(), self.now + timeout, self.nodes[index].session);
                let renews = self.is_mere_renewal(index, &key, expected, &record);
                let record = without_count(record);
                let writing =
                    Writing { process: index, session, op, key, expected, record, by, deadline, stray: false };
                if !renews {
                    self.writes.push(writing);
                    return Ok(());
                }
                // A renewal along with something else: see `tick`.
                let revision = Arc::make_mut(&mut self.kv).put(&writing.key, &writing.record, self.now);
                self.step(index, Input::Cas { op, result: Ok(revision) }, tally)?;
                let Writing { key, record, .. } = writing;
                return self.publish_lease(&Update { key, revision, record }, true, tally);
            }
            Action::WatchLeases(scope) => self.watch_leases(index, scope),
            Action::OpenGate(until) => self.node(index).gate = until,
            Action::CloseGate => self.node(index).gate = Time::from_nanos(super::canon::TIMES),
            Action::Park { partition, epoch } => self.park(index, partition, epoch),
            Action::Serve { partition, epoch } => self.serve(index, partition, epoch)?,
            Action::Forward { partition } => self.set_mode(index, partition, Mode::Forward),
            Action::Revoke { partition } | Action::Discard { partition } => {
                self.node(index).parts[partition.index()].grant = None;
            }
            Action::OnOwn { op, grants, .. } => self.own(index, op, &grants)?,
            Action::OnRelease { op, grants, .. } => {
                let life = self.nodes[index].session;
                for (partition, epoch) in &grants {
                    Arc::make_mut(&mut self.checker).on_release((index, life, *partition), *epoch, op)?;
                }
                self.post(index, self.now, Thing::HookEnds { op });
            }
            Action::Transfer { partition, epoch, to, .. } => {
                self.post(index, self.now, Thing::Transferred { to, partition, epoch });
            }
            Action::SendOffer { to, offer } => {
                let (from, partition, epoch) = (offer.from.clone(), offer.partition, offer.epoch);
                Arc::make_mut(&mut self.checker).offered(partition, epoch, from, to.clone());
                match self.nodes.iter().position(|node| node.id().as_ref() == Some(&to)) {
                    Some(target) => self.post(target, self.now, Thing::Offered(offer)),
                    None => self.post(
                        index,
                        self.now,
                        Thing::Refused { partition, epoch, reason: "no responders".to_owned() },
                    ),
                }
            }
            Action::LetGo { .. }
            | Action::Route { .. }
            | Action::Unsubscribe { .. }
            | Action::AnswerOffer { .. }
            | Action::Replicate { .. }
            | Action::Recover { .. }
            | Action::Copy { .. }
            | Action::Emit(_)
            | Action::Finish(_) => {}
        }
        Ok(())
    }

    fn node(&mut self, index: usize) -> &mut Node {
        Arc::make_mut(&mut self.nodes[index])
    }

    fn set_mode(&mut self, index: usize, partition: PartitionId, mode: Mode) {
        let node = self.node(index);
        node.parts[partition.index()].mode = mode;
        // An outcome of an earlier parking is known as such.
        node.inbox.retain(|pending| !matches!(&pending.what, Thing::Idle { partition: p, .. } if *p == partition));
    }

    fn park(&mut self, index: usize, partition: PartitionId, epoch: Epoch) {
        let before = self.nodes[index].parts[partition.index()].mode;
        let running = matches!(before, Mode::Serve | Mode::Park { running: true });
        self.set_mode(index, partition, Mode::Park { running });
        // With nothing running the machine has no use for being told so: it only waits for that before it hands over.
        if running {
            self.post(index, self.now, Thing::Idle { partition, epoch });
        }
    }

    fn serve(&mut self, index: usize, partition: PartitionId, epoch: Epoch) -> Checked {
        let node = &self.nodes[index];
        let id = node.id().ok_or("served without a lease")?;
        self.checker.served((index, node.session, partition), epoch, &id)?;
        if node.parts[partition.index()].grant != Some(epoch) {
            return Err(format!("{id}: partition {partition} is to be served at e{epoch} without a grant"));
        }
        self.set_mode(index, partition, Mode::Serve);
        Ok(())
    }

    fn own(&mut self, index: usize, op: OpId, grants: &[(PartitionId, Epoch)]) -> Checked {
        let life = self.nodes[index].session;
        for (partition, epoch) in grants {
            Arc::make_mut(&mut self.checker).on_own((index, life, *partition), *epoch, op)?;
            let part = &mut self.node(index).parts[partition.index()];
            part.grant = Some(*epoch);
            if let Mode::Park { running } = &mut part.mode {
                *running = false;
            }
        }
        self.post(index, self.now, Thing::HookEnds { op });
        Ok(())
    }

    /// A write reaches the store.
    pub(super) fn arrive(&mut self, writing: &Writing, tally: &mut Tally) -> Checked {
        let Writing { process, session, op, key, expected, record, .. } = writing;
        let result = if self.kv.revision(key) == *expected {
            if writing.stray {
                tally.count(Seen::StrayLanded);
            }
            self.may_be_written(key, record)?;
            let revision = Arc::make_mut(&mut self.kv).put(key, record, self.now);
            self.drop_hopeless();
            self.publish(&Update { key: key.clone(), revision, record: record.clone() }, tally)?;
            Ok(revision)
        } else {
            Err(CasError::Conflict)
        };
        if !writing.stray && self.nodes[*process].session == *session && self.nodes[*process].machine.is_some() {
            self.post(*process, self.now, Thing::Answer { op: *op, result, deadline: writing.deadline });
        }
        Ok(())
    }

    /// Revisions only grow: a stray write at an older one can do nothing any more.
    fn drop_hopeless(&mut self) {
        let kv = &self.kv;
        self.writes.retain(|writing| !writing.stray || kv.revision(&writing.key) <= writing.expected);
    }

    fn may_be_written(&mut self, key: &Key, record: &Record) -> Checked {
        match (key, record) {
            (Key::Own(partition), Record::Own(claim)) => {
                self.checker.claim_follows(self.kv.as_ref(), *partition, claim)?;
                Arc::make_mut(&mut self.checker).forget_before(*partition, claim.epoch);
            }
            (Key::Lease(node), Record::Lease(lease)) => {
                if let (Some(before), Some(at)) = (self.kv.lease(node), self.kv.leases_written.get(node)) {
                    lease_follows(before, lease, self.now.since(*at), super::state::LEASE)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn publish(&mut self, update: &Update, tally: &mut Tally) -> Checked {
        if matches!(update.key, Key::Lease(_)) {
            return self.publish_lease(update, false, tally);
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].machine.is_some() {
                self.watch(index, Watched::Change(update.clone()));
            }
        }
        Ok(())
    }

    /// A lease's change goes to those that watch it. One that is a mere renewal (`quiet`) is seen at once where nothing
    /// is due or on its way that it could overtake.
    pub(super) fn publish_lease(&mut self, update: &Update, quiet: bool, tally: &mut Tally) -> Checked {
        let Key::Lease(name) = &update.key else { return Ok(()) };
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if node.machine.is_none() || !node.scope.as_ref().is_some_and(|scope| follows(scope, name)) {
                continue;
            }
            if quiet && node.runs() && node.leases.is_empty() && !node.is_due(self.now) {
                self.step(index, Input::LeaseChange(update.clone()), tally)?;
            } else {
                self.queue_lease(index, update);
            }
        }
        Ok(())
    }

    /// Of renewals of one lease that wait for a node the last is kept: all would be seen at the same moment, and only the
    /// newest counts.
    fn queue_lease(&mut self, index: usize, update: &Update) {
        let live = |update: &Update| matches!(&update.record, Record::Lease(lease) if lease.state == LeaseState::Live);
        let (from, by) = (self.now, self.by());
        let queue = &mut self.node(index).leases;
        let same = queue.iter_mut().find_map(|pending| match &mut pending.what {
            Watched::Change(known) if known.key == update.key && live(known) && live(update) => Some(known),
            _ => None,
        });
        match same {
            Some(known) => *known = update.clone(),
            None => queue.push_back(Pending { from, by, what: Watched::Change(update.clone()) }),
        }
    }

    /// The incarnation is over; one that was evicted may start again.
    fn finished(&mut self, index: usize, outcome: &Outcome, tally: &mut Tally) -> Checked {
        let life = self.nodes[index].session;
        let Outcome::Evicted = outcome else {
            return Err(format!("{} ended as {outcome:?}", self.nodes[index].name));
        };
        self.checker.all_told(index, life)?;
        self.end(index);
        if self.scenario.returns { self.start(index, tally) } else { Ok(()) }
    }

    /// The machine and all that was on its way to it are gone. What it wrote may still land.
    pub(super) fn end(&mut self, index: usize) {
        let node = self.node(index);
        let life = node.session;
        (node.machine, node.paused, node.scope) = (None, false, None);
        node.gate = Time::from_nanos(super::canon::TIMES);
        node.parts = [Part::default(); super::state::PARTITIONS.get() as usize];
        node.ring.clear();
        node.leases.clear();
        node.inbox.clear();
        Arc::make_mut(&mut self.checker).forget_life(index, life);
        self.writes.iter_mut().filter(|writing| writing.process == index).for_each(|writing| writing.stray = true);
        self.drop_hopeless();
    }

    /// Which nodes own what, for people to read.
    pub(super) fn owners(&self) -> Vec<Option<NodeId>> {
        super::state::PARTITIONS.ids().map(|p| self.kv.claim(p).and_then(|claim| claim.holder()).cloned()).collect()
    }
}
