//! What the machine knows, for people and programs to look at.

use std::time::Duration;

use super::Machine;
use super::away::PlacesReport;
use super::life::Stage;
use super::moves::Step;
use super::partition::Phase;
use crate::coord::{LeaseState, Member, MemberState};
use crate::types::{CopyRules, Epoch, NodeId, NodeName, PartitionId};

/// Where a partition stands, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody owns it.
    Unowned,
    /// Claimed here, not served yet.
    Starting,
    /// Owned.
    Serving,
    /// Owned here, on its way to another node.
    Moving,
    /// Its owner is gone.
    Orphaned,
}

/// A move away from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveReport {
    /// What.
    pub partition: PartitionId,
    /// Where to; `None`: back to nobody.
    pub to: Option<NodeName>,
    /// How far.
    pub step: &'static str,
    /// For how long.
    pub elapsed: Duration,
}

/// A member, as this node knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberReport {
    /// Its name.
    pub node: NodeName,
    /// `joining`, `active`, `draining`, `left`, `unreachable`.
    pub state: &'static str,
    /// What it says of itself.
    pub member: Member,
    /// How many partitions it owns.
    pub owned: usize,
    /// Whether it writes the plan.
    pub coordinator: bool,
}

/// Who has copies of a partition, as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopiesReport {
    /// The set its claim records, the owner first.
    pub in_sync: Vec<NodeName>,
    /// How many of these are members of the plan as the same start.
    pub live: usize,
    /// The set that its owner, this node, is recording instead.
    pub pending: Option<Vec<NodeName>>,
    /// Who is brought up to date by its owner, this node, and whether it has everything.
    pub learners: Vec<(NodeName, bool)>,
}

/// What a partition waits for that all its copies are lost of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It starts empty, once a set that is merely cut off can go on by itself no more.
    EmptyStart {
        /// From now, as far as this node can tell.
        left: Duration,
    },
    /// Operators are to accept the loss; for ever.
    Acceptance,
}

/// A partition that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitReport {
    /// For what.
    pub wait: Wait,
    /// Who had a copy, by its claim: all of them are gone.
    pub lost: Vec<NodeName>,
}

/// Everything at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Start number; zero before this node has its lease.
    pub start: u64,
    /// Whether it has its lease and is in the plan.
    pub joined: bool,
    /// Whether its lease ran out for now.
    pub suspended: bool,
    /// Whether it is on its way out.
    pub draining: bool,
    /// Whether it is out.
    pub over: bool,
    /// How long it may act without a further heartbeat.
    pub lease_margin: Duration,
    /// The plan's version.
    pub plan_version: u64,
    /// Members by name.
    pub members: Vec<MemberReport>,
    /// Owner, epoch and standing of each partition.
    pub partitions: Vec<(Option<NodeName>, Epoch, Standing)>,
    /// Copies of each partition.
    pub copies: Vec<CopiesReport>,
    /// What partitions wait for of which every copy is lost.
    pub waits: Vec<(PartitionId, WaitReport)>,
    /// What is asked for of copies.
    pub rules: CopyRules,
    /// How many copies of each partition there can be of those asked for: not more than members that stay.
    pub copies_wanted: usize,
    /// Whose places among the copies are kept, because they may come back.
    pub places_kept: Vec<PlacesReport>,
    /// Moves away from here.
    pub moves: Vec<MoveReport>,
    /// Whether the state of the ring was read.
    pub table_seen: bool,
}

impl Machine {
    /// What this node knows right now.
    pub fn report(&self) -> Report {
        Report {
            start: self.lease.as_ref().map_or(0, |lease| lease.incarnation.start),
            joined: self.id().is_some_and(|id| self.view.plan_member(&id.node) == Some(&id)),
            suspended: self.lease.is_some() && !self.may_act(),
            draining: self.is_draining(),
            over: matches!(self.stage, Stage::Over | Stage::Losing { .. } | Stage::GivingUp { .. }),
            lease_margin: self.lease_margin(),
            plan_version: self.view.plan.as_ref().map_or(0, |plan| plan.record.version),
            members: self.member_reports(),
            partitions: self.who.partitions.ids().map(|p| self.partition_report(p)).collect(),
            copies: self.who.partitions.ids().map(|p| self.copies_report(p)).collect(),
            waits: self.who.partitions.ids().filter_map(|p| Some((p, self.waits(p)?))).collect(),
            rules: self.view.config_in_force().copy_rules(),
            copies_wanted: self.copies_wanted(),
            places_kept: self.places_reports(),
            moves: self.move_reports(),
            table_seen: self.ring_seen,
        }
    }

    fn member_reports(&self) -> Vec<MemberReport> {
        let owned = self.names_by_count();
        let coordinator = if self.is_coordinating() { self.id() } else { self.coordinator() };
        let report = |(node, seen): (&NodeName, &crate::ring::view::Seen<Member>)| MemberReport {
            node: node.clone(),
            state: self.member_state(node, &seen.record),
            member: seen.record.clone(),
            owned: owned.get(node).copied().unwrap_or(0),
            coordinator: coordinator.as_ref().is_some_and(|id| id.node == *node),
        };
        self.view.members.iter().map(report).collect()
    }

    fn member_state(&self, node: &NodeName, member: &Member) -> &'static str {
        let planned = self.view.plan_member(node).is_some_and(|id| id.incarnation == member.incarnation);
        let evicted = self.view.leases.get(node).is_some_and(|seen| {
            seen.record.incarnation == member.incarnation && seen.record.state == LeaseState::Evicted
        });
        let was_planned = self.view.plan.as_ref().is_some_and(|plan| {
            plan.record.members.iter().map(|m| m.since).max().is_some_and(|youngest| member.since <= youngest)
        });
        match member.state {
            MemberState::Left => "left",
            _ if evicted => "unreachable",
            MemberState::Draining if planned => "draining",
            MemberState::Active if planned => "active",
            _ if was_planned => "unreachable",
            _ => "joining",
        }
    }

    fn partition_report(&self, partition: PartitionId) -> (Option<NodeName>, Epoch, Standing) {
        let claim = self.view.claims.get(&partition).map(|seen| &seen.record);
        let epoch = claim.map_or(Epoch::ZERO, |claim| claim.epoch);
        let holder = claim.and_then(|claim| claim.holder());
        let standing = match (&self.slot(partition).phase, holder) {
            (Phase::Moving(_), _) => Standing::Moving,
            (Phase::Recovering { .. } | Phase::Owned { .. } | Phase::Starting { .. }, _) => Standing::Starting,
            (_, None) => Standing::Unowned,
            (_, Some(id)) if self.view.plan_member(&id.node) != Some(id) && !self.is_me(id) => Standing::Orphaned,
            (_, Some(_)) => Standing::Serving,
        };
        (holder.map(|id| id.node.clone()), epoch, standing)
    }

    /// Who has copies of a partition.
    pub fn copies_report(&self, partition: PartitionId) -> CopiesReport {
        let names = |ids: &[NodeId]| ids.iter().map(|id| id.node.clone()).collect();
        let claim = self.view.claims.get(&partition).map(|seen| &seen.record);
        let copies = &self.slot(partition).copies;
        CopiesReport {
            in_sync: claim.map(|claim| names(&claim.replicas)).unwrap_or_default(),
            live: claim.map_or(0, |claim| claim.replicas.iter().filter(|id| self.is_planned(id)).count()),
            pending: copies.change.as_ref().map(|change| names(&change.claim.replicas)),
            learners: copies.learners().map(|(id, caught_up)| (id.node.clone(), caught_up)).collect(),
        }
    }

    fn copies_wanted(&self) -> usize {
        let members = self.view.plan.as_ref().map_or(&[][..], |plan| &plan.record.members);
        if !members.iter().all(|member| member.replicates) {
            return 1;
        }
        let staying = members.iter().filter(|member| !member.draining).count();
        self.view.config_in_force().factor().get().min(staying)
    }

    pub(super) fn is_planned(&self, id: &NodeId) -> bool {
        self.view.plan_member(&id.node) == Some(id)
    }

    fn move_reports(&self) -> Vec<MoveReport> {
        let report = |partition: PartitionId| match &self.slot(partition).phase {
            Phase::Moving(moving) => Some(MoveReport {
                partition,
                to: moving.to.as_ref().map(|id| id.node.clone()),
                step: match moving.step {
                    Step::Parking { .. } => "parking",
                    Step::Releasing { .. } => "releasing",
                    Step::Transferring => "transferring",
                    Step::Offering => "switching",
                },
                elapsed: self.now.since(moving.started),
            }),
            _ => None,
        };
        self.who.partitions.ids().filter_map(report).collect()
    }
}
