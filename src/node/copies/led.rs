//! A partition that this node owns, as its service and the tasks around it see it: the pure leader behind a lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::growing::Growing;
use super::progress::{Copied, Shortage};
use crate::replica::{Ask, Change, Confirmed, Due, Failure, Leader, Members, Progress, Report, Send, Told};
use crate::ring::{CopySet, OpId};
use crate::service::{ChangeLog, Copies, Grant, NotCommitted};
use crate::types::{Epoch, NodeId, NodeName, PartitionId, Time, Version};

/// What came of something sent to a follower.
pub(super) struct Outcome {
    pub(super) to: NodeId,
    pub(super) number: u64,
    pub(super) came: Came,
}

/// See [`Outcome`].
pub(super) enum Came {
    Answer(Result<Told, Failure>),
    Copied(Result<(), Failure>),
}

/// What one turn of the driving task has to do.
pub(super) struct Turn {
    pub(super) due: Vec<Due>,
    /// With the set that they are about.
    pub(super) reports: Vec<(Report, Option<OpId>)>,
    pub(super) wake: Option<Time>,
    /// Of the writes in it for those that are not in the set.
    pub(super) difference_bytes: u64,
}

struct Inside {
    /// `None` once this node's turn is over.
    leader: Option<Leader>,
    copies: Copies,
    /// The last set that was told.
    set: Option<OpId>,
    /// What was to be told when the set became another one.
    reported: Vec<(Report, Option<OpId>)>,
    /// Those it adds: the ring waits to hear once more that they have everything, now that both sets count.
    to_confirm: BTreeSet<NodeId>,
}

/// A partition led by this node.
pub(in crate::node) struct Led {
    /// This node's right, without the log: for the service's snapshots.
    pub(super) grant: Grant,
    inside: Mutex<Inside>,
    /// Something is to be sent.
    pub(super) woken: Notify,
    /// Grows with what is committed; ends with the grant.
    committed: Growing<Version>,
    /// What all members have confirmed.
    confirmed: Growing<Confirmed>,
    pub(super) ended: CancellationToken,
    /// How far the copies made for its learners are, or came last.
    copied: Mutex<BTreeMap<NodeId, Copied>>,
    /// Why no copy can follow any more.
    broken: OnceLock<String>,
}

impl fmt::Debug for Led {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Led")
            .field("partition", &self.partition())
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

impl Led {
    pub(super) fn new(grant: Grant, leader: Leader) -> Arc<Self> {
        Arc::new(Self {
            grant,
            inside: Mutex::new(Inside {
                leader: Some(leader),
                copies: Copies::ONE,
                set: None,
                reported: Vec::new(),
                to_confirm: BTreeSet::new(),
            }),
            woken: Notify::new(),
            committed: Growing::new(Version::default()),
            confirmed: Growing::new(Confirmed::default()),
            ended: CancellationToken::new(),
            copied: Mutex::default(),
            broken: OnceLock::new(),
        })
    }

    pub(in crate::node) fn partition(&self) -> PartitionId {
        self.grant.partition
    }

    pub(in crate::node) fn epoch(&self) -> Epoch {
        self.grant.epoch()
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends this node's turn; what is left of it. `None` where that was done before.
    pub(super) fn end(&self) -> Option<Leader> {
        self.ended.cancel();
        self.inside().leader.take()
    }

    /// Who holds copies from now on.
    pub(super) fn set(&self, op: OpId, set: &CopySet, me: &NodeId) {
        let others = |nodes: &[NodeId]| nodes.iter().filter(|node| *node != me).cloned().collect::<BTreeSet<NodeId>>();
        let members = Members {
            in_sync: others(&set.in_sync),
            pending: set.pending.as_deref().map(others),
            learners: others(&set.learners),
        };
        let smaller = members.pending.as_ref().map_or(usize::MAX, BTreeSet::len).min(members.in_sync.len());
        let copies = Copies { in_sync: 1 + smaller, factor: set.factor, consistency: set.consistency };
        self.set_members(Some(op), &members, copies);
    }

    /// Of a takeover: no request is executed yet.
    pub(super) fn set_survivors(&self, in_sync: BTreeSet<NodeId>) {
        self.set_members(None, &Members { in_sync, ..Members::default() }, Copies::ONE);
    }

    fn set_members(&self, op: Option<OpId>, members: &Members, copies: Copies) {
        let mut held = self.inside();
        let inside = &mut *held;
        let before = std::mem::replace(&mut inside.set, op);
        inside.copies = copies;
        inside.to_confirm =
            members.pending.iter().flatten().filter(|node| !members.in_sync.contains(node)).cloned().collect();
        if let Some(leader) = &mut inside.leader {
            // Who caught up did so as a learner of the set before: of this one it says nothing. Who is silent is so in any set.
            for report in leader.reports() {
                let of = if matches!(report, Report::CaughtUp(_)) { before } else { op };
                inside.reported.push((report, of));
            }
            leader.set_members(members);
        }
        self.publish(inside);
        drop(held);
        self.woken.notify_one();
    }

    /// What is to be done now; `None` at the end.
    pub(super) fn turn(&self, now: Time) -> Option<Turn> {
        let mut inside = self.inside();
        let Inside { leader, set, to_confirm, reported, .. } = &mut *inside;
        let leader = leader.as_mut()?;
        let due = leader.due(now);
        let missed = due.iter().filter(|due| !leader.is_member(&due.to)).map(|due| written_bytes(&due.send));
        let difference_bytes = missed.sum();
        let mut reports = std::mem::take(reported);
        reports.extend(leader.reports().into_iter().map(|report| (report, *set)));
        for node in leader.joined() {
            reports.extend(to_confirm.take(node).map(|node| (Report::CaughtUp(node), *set)));
        }
        let turn = Turn { due, reports, wake: leader.next_wake(), difference_bytes };
        self.publish(&inside);
        Some(turn)
    }

    pub(super) fn came(&self, now: Time, Outcome { to, number, came }: Outcome) {
        let mut inside = self.inside();
        let Some(leader) = inside.leader.as_mut() else { return };
        match came {
            Came::Answer(answer) => leader.told(now, &to, number, answer),
            Came::Copied(result) => leader.copied(now, &to, number, result),
        }
        self.publish(&inside);
    }

    fn publish(&self, inside: &Inside) {
        if let Some(leader) = &inside.leader {
            self.committed.set(leader.committed());
            self.confirmed.set(leader.confirmed());
        }
    }

    pub(super) fn copy_begins(&self, to: &NodeId, stream: u64) -> Option<Version> {
        self.inside().leader.as_mut()?.copy_begins(to, stream)
    }

    pub(super) fn copy_tail(&self, to: &NodeId, stream: u64) -> Option<Version> {
        self.inside().leader.as_ref()?.copy_tail(to, stream)
    }

    /// See [`Leader::outpaced`].
    pub(super) fn outpaced(&self, to: &NodeId, stream: u64) -> Option<usize> {
        self.inside().leader.as_ref()?.outpaced(to, stream)
    }

    /// A copy begins anew, of about so many bytes.
    pub(super) fn copying_begins(&self, to: &NodeId, now: Time, of_bytes: Option<u64>) {
        let mut copies = self.made();
        copies.retain(|id, _| id.node != to.node);
        copies.insert(to.clone(), Copied::begins(now, of_bytes));
    }

    /// So much more of it has been acknowledged.
    pub(super) fn copied_bytes(&self, to: &NodeId, now: Time, bytes: usize) -> Option<Copied> {
        let mut copies = self.made();
        let copied = copies.get_mut(to)?;
        copied.acknowledged(now, bytes);
        Some(*copied)
    }

    /// All of it is there.
    pub(super) fn copied_all(&self, to: &NodeId, now: Time, short: Option<Shortage>) {
        if let Some(copied) = self.made().get_mut(to) {
            copied.ends(now, short);
        }
    }

    /// How far the last copy made for it is.
    pub(super) fn copied(&self, to: &NodeId) -> Option<Copied> {
        self.made().get(to).copied()
    }

    /// How far the last copy made for a node is.
    pub(super) fn copied_to(&self, to: &NodeName) -> Option<Copied> {
        self.made().iter().find(|(id, _)| id.node == *to).map(|(_, copied)| *copied)
    }

    /// The nodes that had to make room for their copies, of those that still have one.
    pub(super) fn short(&self) -> Vec<(NodeName, Copied)> {
        let followers: BTreeSet<NodeId> = self.progress().into_iter().map(|follower| follower.node).collect();
        let made = self.made();
        let short = made.iter().filter(|(id, copied)| copied.short.is_some() && followers.contains(id));
        short.map(|(id, copied)| (id.node.clone(), *copied)).collect()
    }

    fn made(&self) -> MutexGuard<'_, BTreeMap<NodeId, Copied>> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept for those only that left, and until when the first of them is waited for.
    pub(super) fn kept_for_absent(&self) -> Option<(Time, usize)> {
        self.inside().leader.as_ref().and_then(Leader::kept_for_absent)
    }

    pub(super) fn forget_absent(&self) {
        if let Some(leader) = &mut self.inside().leader {
            leader.forget_absent();
        }
    }

    /// Why no copy can follow any more, if that is so.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// The last write; `None` at the end.
    pub(in crate::node) fn tail(&self) -> Option<Version> {
        self.inside().leader.as_ref().map(Leader::tail)
    }

    pub(super) fn progress(&self) -> Vec<Progress> {
        self.inside().leader.as_ref().map(Leader::progress).unwrap_or_default()
    }

    /// Whether a node has no part in it: neither in a set, nor on its way into one.
    pub(super) fn is_without(&self, node: &NodeId) -> bool {
        !self.progress().iter().any(|follower| follower.node == *node)
    }

    pub(super) fn answer(&self, ask: &Ask) -> Option<Told> {
        self.inside().leader.as_ref().map(|leader| leader.answer(ask))
    }

    /// Waits until all members have everything there is now. `Err` where the turn ended first.
    pub(in crate::node) async fn settled(&self) -> Result<Version, NotCommitted> {
        let tail = self.tail().ok_or(NotCommitted)?;
        self.reaches(tail).await.map(|()| tail)
    }

    async fn reaches(&self, version: Version) -> Result<(), NotCommitted> {
        let reached = self.committed.wait_for(|upto| *upto >= version);
        self.ended.run_until_cancelled(reached).await.map(|_| ()).ok_or(NotCommitted)
    }

    /// Draws a ticket now; its answer.
    fn confirm(self: Arc<Self>) -> BoxFuture<'static, Result<(), NotCommitted>> {
        let ticket = self.inside().leader.as_mut().and_then(Leader::ticket);
        self.woken.notify_one();
        async move {
            let ticket = ticket.ok_or(NotCommitted)?;
            let answered = self.confirmed.wait_for(|confirmed| confirmed.covers(ticket) || confirmed.is_replaced());
            let answered = self.ended.run_until_cancelled(answered).await;
            answered.filter(|answer| answer.covers(ticket)).map(|_| ()).ok_or(NotCommitted)
        }
        .boxed()
    }
}

fn written_bytes(send: &Send) -> u64 {
    match send {
        Send::Append(Ask::Append { changes, .. }) => changes.iter().map(|change| change.body.len() as u64).sum(),
        _ => 0,
    }
}

/// The service's side of a [`Led`].
#[derive(Debug)]
pub(in crate::node) struct LedLog(pub(in crate::node) Arc<Led>);

impl ChangeLog for LedLog {
    fn append(&self, change: Change) {
        let mut inside = self.0.inside();
        // After the end: a request that still runs has lost its grant, and its answer is held back.
        let Some(leader) = &mut inside.leader else { return };
        if let Err(error) = leader.append(change) {
            // A gap would be one in every copy: nobody leads a partition like that.
            let _ = self.0.broken.set(format!("partition {}: {error}", self.0.partition()));
            self.0.ended.cancel();
            return;
        }
        self.0.publish(&inside);
        drop(inside);
        self.0.woken.notify_one();
    }

    fn copies(&self) -> Copies {
        self.0.inside().copies
    }

    fn committed(&self, version: Version) -> BoxFuture<'static, Result<Copies, NotCommitted>> {
        let led = Arc::clone(&self.0);
        async move {
            led.reaches(version).await?;
            Ok(Self(led).copies())
        }
        .boxed()
    }

    fn confirm(&self) -> BoxFuture<'static, Result<(), NotCommitted>> {
        Arc::clone(&self.0).confirm()
    }
}
