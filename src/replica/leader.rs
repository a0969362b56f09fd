//! The owner of a partition: its log, and bringing its followers up to date from it.

use std::collections::{BTreeMap, BTreeSet};

use super::away::Away;
use super::confirm::Confirming;
use super::peer::{Flight, Peer, Place};
use super::{Ask, Bounds, Change, Log, Progress, Told};
use crate::types::{Epoch, NodeId, Time, Version};

/// Who follows, without the owner itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// The set as it was last settled.
    pub in_sync: BTreeSet<NodeId>,
    /// The set it is being changed to, until that is settled: both count.
    pub pending: Option<BTreeSet<NodeId>>,
    /// Those that are being brought up to date.
    pub learners: BTreeSet<NodeId>,
}

/// Something for a follower. Its outcome is handed back with the number: [`Leader::told`], [`Leader::copied`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// For whom.
    pub to: NodeId,
    /// Of what this owner sends; it only grows.
    pub number: u64,
    /// What.
    pub send: Send,
}

/// What a follower is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Send {
    /// A message that is answered.
    Append(Ask),
    /// A copy, whose stream is the number: [`Leader::copy_begins`] as the snapshot begins, [`Leader::copy_tail`] as it
    /// goes on, and for the [`Ask::CopyEnd`].
    Copy,
}

/// Why there is no answer that says where the follower stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// None in time: it may have been done.
    Timeout,
    /// Nobody listens there.
    NoResponders,
    /// A copy: a message of it was answered with this, or its snapshot failed.
    Told(Told),
}

/// What the ring is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A learner has everything that is committed, and counts from now on. It does so until it is not listed as a
    /// learner any more: hand this on before the next [`Leader::set_members`].
    CaughtUp(NodeId),
    /// A member, or a learner reported as caught up, does not acknowledge what it is sent, or has lost its copy.
    Silent(NodeId),
    /// A member that was reported as silent has acknowledged what it was sent.
    Heard(NodeId),
    /// A later epoch is known to a follower: this owner has been replaced.
    Stale(Epoch),
}

/// A write that is not the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write {given} cannot be logged: at epoch {epoch}, after {tail}, the owner's next write is another")]
pub struct OutOfOrder {
    /// What was to be logged.
    pub given: Version,
    /// The owner's.
    pub epoch: Epoch,
    /// The newest write there is.
    pub tail: Version,
}

/// The owner's side of a partition's copies. At most one thing is under way to each follower.
#[derive(Debug)]
pub struct Leader {
    epoch: Epoch,
    pub(super) log: Log,
    bounds: Bounds,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    away: Away,
    committed: Version,
    pub(super) last_number: u64,
    pub(super) replaced: bool,
    pub(super) confirming: Confirming,
    reports: Vec<Report>,
}

impl Leader {
    /// The owner of `epoch`, whose copy stands at the log's tail. Nothing counts as committed before the set is known.
    pub fn new(epoch: Epoch, log: Log, bounds: Bounds) -> Self {
        let mut away = Away::default();
        if !bounds.return_delay.is_zero() {
            // Where the former owner stood, unless it had writes that nobody else got.
            away.left(None, log.tail());
        }
        Self {
            epoch,
            log,
            bounds,
            peers: BTreeMap::new(),
            away,
            committed: Version::default(),
            last_number: 0,
            replaced: false,
            confirming: Confirming::default(),
            reports: Vec::new(),
        }
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest write.
    pub fn tail(&self) -> Version {
        self.log.tail()
    }

    /// The version that the next write has.
    pub fn next_version(&self) -> Version {
        let tail = self.log.tail();
        if tail.epoch == self.epoch { tail.next() } else { Version::first_of(self.epoch) }
    }

    /// What is left of an owner: its log.
    pub fn into_log(self) -> (Log, Bounds) {
        (self.log, self.bounds)
    }

    /// Who follows, as a whole. What is said twice changes nothing.
    pub fn set_members(&mut self, members: &Members) {
        let tail = self.log.tail();
        let in_pending = |node: &NodeId| members.pending.as_ref().is_some_and(|pending| pending.contains(node));
        let listed =
            |node: &NodeId| members.in_sync.contains(node) || in_pending(node) || members.learners.contains(node);
        let gone = self.peers.iter().filter(|(node, peer)| !listed(node) && (peer.is_member() || peer.joining));
        let gone: Vec<_> = gone.filter_map(|(node, peer)| Some((node.node.clone(), peer.acknowledged()?))).collect();
        for (node, at) in gone.into_iter().filter(|_| !self.bounds.return_delay.is_zero()) {
            self.away.left(Some(node), at);
        }
        self.peers.retain(|node, _| listed(node));
        self.confirming.is_changing = members.pending.is_some();
        for node in members.in_sync.iter().chain(members.pending.iter().flatten()).chain(&members.learners) {
            let peer = self.peers.entry(node.clone()).or_insert_with(Peer::new);
            let was_member = peer.is_member();
            (peer.in_sync, peer.pending) = (members.in_sync.contains(node), in_pending(node));
            peer.named_after = (peer.pending && !peer.in_sync).then(|| peer.named_after.unwrap_or(self.last_number));
            if peer.is_member() {
                peer.joining = false;
                // Nobody in the set is cleared: the copy is not wanted any more.
                if matches!(peer.flight, Some(Flight::Copy { .. })) {
                    (peer.flight, peer.place) = (None, Place::Unknown);
                }
            } else if was_member {
                // It had all that is committed, and goes on to: its addition was not written down, or is to be again.
                peer.joining = !peer.silent && peer.acknowledged().is_some_and(|at| at >= self.committed);
                if peer.joining {
                    self.reports.push(Report::CaughtUp(node.clone()));
                }
                (peer.goal, peer.unanswered_since, peer.silent) = (tail, None, false);
            }
        }
        self.settle();
    }

    /// The owner's next write, which its service has executed: in the order of versions.
    ///
    /// # Errors
    /// [`OutOfOrder`] where it is not [`Leader::next_version`].
    pub fn append(&mut self, change: Change) -> Result<(), OutOfOrder> {
        if change.version != self.next_version() {
            return Err(OutOfOrder { given: change.version, epoch: self.epoch, tail: self.log.tail() });
        }
        self.log.push(change);
        self.settle();
        Ok(())
    }

    /// What is to be sent now.
    pub fn due(&mut self, now: Time) -> Vec<Due> {
        if self.replaced {
            return Vec::new();
        }
        if self.away.expire(now, self.bounds.return_delay) {
            self.pin();
        }
        self.judge_silence(now);
        let nodes: Vec<NodeId> = self.peers.keys().cloned().collect();
        nodes.into_iter().filter_map(|node| self.due_for(now, node)).collect()
    }

    fn due_for(&mut self, now: Time, to: NodeId) -> Option<Due> {
        let (tail, asked) = (self.log.tail(), self.confirming.asked);
        let peer = self.peers.get_mut(&to)?;
        if peer.sends_at(tail, asked).is_none_or(|at| now < at) {
            return None;
        }
        let number = self.last_number + 1;
        let (prev, changes) = match peer.place {
            Place::Unknown => (tail, Vec::new()),
            Place::NoCopy => {
                peer.flight = Some(Flight::Copy { stream: number, since: None });
                self.last_number = number;
                return Some(Due { to, number, send: Send::Copy });
            }
            Place::At(version) => match self.log.after(version, self.bounds.batch_max_bytes) {
                Some(changes) => (version, changes),
                None => {
                    self.lost(&to);
                    return self.due_for(now, to);
                }
            },
        };
        peer.flight = Some(Flight::Append { number });
        peer.unanswered_since.get_or_insert(now);
        self.last_number = number;
        let ask = Ask::Append { epoch: self.epoch, number, prev, changes };
        Some(Due { to, number, send: Send::Append(ask) })
    }

    /// What came of [`Send::Append`]. An answer that is not waited for any more changes nothing.
    pub fn told(&mut self, now: Time, from: &NodeId, number: u64, answer: Result<Told, Failure>) {
        let Some(peer) = self.peers.get_mut(from).filter(|peer| peer.flight == Some(Flight::Append { number })) else {
            return;
        };
        peer.flight = None;
        match answer {
            Ok(Told::At(at)) => {
                self.placed(from, at);
                let peer = self.peers.get_mut(from).filter(|peer| peer.acknowledged() == Some(at));
                peer.into_iter().for_each(|peer| peer.answered = number);
            }
            Ok(Told::Elsewhere { at: Some(at) }) => {
                if peer.place == Place::At(at) {
                    peer.not_before = now + self.bounds.resend_after;
                }
                self.placed(from, at);
            }
            Ok(Told::Elsewhere { at: None }) => self.lost(from),
            Ok(Told::Stale { promised }) if promised > self.epoch => self.replaced_by(promised),
            Ok(_) | Err(_) => peer.not_before = now + self.bounds.resend_after,
        }
        self.settle();
    }

    /// A copy's snapshot begins: the version to send as `since`. `None`: the copy is not wanted any more.
    ///
    /// To be called before the first entry of the snapshot is read, so that every write up to it is seen there.
    pub fn copy_begins(&mut self, to: &NodeId, stream: u64) -> Option<Version> {
        let tail = self.copy_tail(to, stream)?;
        self.peers.get_mut(to)?.flight = Some(Flight::Copy { stream, since: Some(tail) });
        self.settle();
        Some(tail)
    }

    /// The owner's tail, for a copy that goes on. `None`: it is not wanted any more, or worth nothing, for the log does not
    /// go back to its beginning.
    pub fn copy_tail(&self, to: &NodeId, stream: u64) -> Option<Version> {
        match self.peers.get(to)?.flight {
            Some(Flight::Copy { stream: current, since })
                if current == stream && !self.replaced && since.is_none_or(|since| self.log.contains(since)) =>
            {
                Some(self.log.tail())
            }
            _ => None,
        }
    }

    /// Bytes of writes that were kept for this copy since it began, where that was too little: it has come to nothing, for the
    /// log does not go back to its beginning any more.
    pub fn outpaced(&self, to: &NodeId, stream: u64) -> Option<usize> {
        match self.peers.get(to)?.flight {
            Some(Flight::Copy { stream: current, since: Some(since) }) if current == stream => {
                (!self.log.contains(since)).then_some(self.bounds.pinned_max_bytes)
            }
            _ => None,
        }
    }

    /// What came of [`Send::Copy`], also of one that was not wanted any more: `Ok` where its end was answered with `At`.
    pub fn copied(&mut self, now: Time, to: &NodeId, stream: u64, result: Result<(), Failure>) {
        let tail = self.log.tail();
        let Some(peer) = self.peers.get_mut(to) else { return };
        let Some(Flight::Copy { stream: current, since }) = peer.flight else { return };
        if current != stream {
            return;
        }
        peer.flight = None;
        peer.put_off_copy(now, &self.bounds);
        match (result, since.filter(|since| self.log.contains(*since))) {
            (Ok(()), Some(since)) => {
                (peer.place, peer.goal, peer.unanswered_since) = (Place::At(since), tail, None);
            }
            (Err(Failure::Told(Told::Stale { promised })), _) if promised > self.epoch => self.replaced_by(promised),
            _ => {}
        }
        self.settle();
    }

    /// Everything up to it is with every member: of the set, and of the one it is being changed to.
    pub fn committed(&self) -> Version {
        self.committed
    }

    /// What the ring is to know; each once, until it changes.
    pub fn reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// When [`Leader::due`] has something to do that no answer brings about.
    pub fn next_wake(&self) -> Option<Time> {
        let (tail, asked) = (self.log.tail(), self.confirming.asked);
        let of =
            |peer: &Peer| peer.sends_at(tail, asked).into_iter().chain(peer.silent_at(self.bounds.silent_after)).min();
        let wakes = self.peers.values().filter_map(of).chain(self.away.next_end());
        if self.replaced { None } else { wakes.min() }
    }

    /// How far each follower is.
    pub fn progress(&self) -> Vec<Progress> {
        let of = |(node, peer): (&NodeId, &Peer)| Progress {
            node: node.clone(),
            member: peer.is_member(),
            standing: peer.standing(),
            acknowledged: peer.acknowledged(),
            behind_bytes: peer.acknowledged().and_then(|version| self.log.bytes_after(version)),
        };
        self.peers.iter().map(of).collect()
    }

    /// What an owner answers to who takes it for a follower.
    pub fn answer(&self, ask: &Ask) -> Told {
        if ask.epoch() < self.epoch {
            return Told::Stale { promised: self.epoch };
        }
        let (own, later) = (self.epoch, ask.epoch());
        Told::Refused(format!("it owns the partition at epoch {own} and has not seen the claim of {later}: ask again"))
    }

    /// Whether a node is in the set, or in the one it is being changed to.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(Peer::is_member)
    }

    /// Who is added by a change of the set that is not settled, has all that is committed, and has said so since the change named
    /// it. Before, its copy may have gone since it was asked last.
    pub fn joined(&self) -> impl Iterator<Item = &NodeId> {
        let has_all = |peer: &Peer| peer.acknowledged().is_some_and(|at| at >= self.committed);
        let since = |peer: &Peer| peer.named_after.is_some_and(|named_after| peer.answered > named_after);
        self.peers.iter().filter(move |(_, peer)| since(peer) && has_all(peer)).map(|(node, _)| node)
    }

    /// Bytes of writes that are kept for nobody but those that left and may come back, and until when the first of them is
    /// waited for.
    pub fn kept_for_absent(&self) -> Option<(Time, usize)> {
        let until = self.away.next_end()?;
        let needed = self.needed_after().and_then(|after| self.log.bytes_after(after)).unwrap_or_default();
        Some((until, self.log.bytes().saturating_sub(needed.max(self.bounds.log_bytes))))
    }

    /// Who left is not waited for any more.
    pub fn forget_absent(&mut self) {
        self.away.forget();
        self.pin();
    }

    /// Bytes of writes that are kept.
    pub fn log_bytes(&self) -> usize {
        self.log.bytes()
    }

    /// A follower says where it stands. Only what this owner's log contains counts, and nobody goes back: whoever says
    /// anything else has another history, or lost its own.
    fn placed(&mut self, node: &NodeId, at: Version) {
        let tail = self.log.tail();
        let Some(peer) = self.peers.get_mut(node) else { return };
        let before = peer.acknowledged();
        let known = before == Some(at) || (before.is_none_or(|before| at > before) && self.log.contains(at));
        if !known {
            return self.lost(node);
        }
        if before.is_none() {
            peer.goal = tail;
        }
        if peer.silent && peer.is_member() {
            self.reports.push(Report::Heard(node.clone()));
        }
        (peer.place, peer.unanswered_since, peer.silent) = (Place::At(at), None, false);
    }

    /// A follower holds nothing that this owner's log goes on from.
    fn lost(&mut self, node: &NodeId) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        // It has answered, or is not asked any more: what it owes is a copy, which nobody waits for.
        (peer.place, peer.unanswered_since) = (Place::NoCopy, None);
        if !peer.may_be_cleared() && !peer.silent {
            peer.silent = true;
            self.reports.push(Report::Silent(node.clone()));
        }
    }

    fn replaced_by(&mut self, promised: Epoch) {
        if !self.replaced {
            self.replaced = true;
            self.reports.push(Report::Stale(promised));
        }
    }

    fn judge_silence(&mut self, now: Time) {
        for (node, peer) in &mut self.peers {
            if peer.silent_at(self.bounds.silent_after).is_some_and(|at| now >= at) {
                peer.silent = true;
                self.reports.push(Report::Silent(node.clone()));
            }
        }
    }

    /// After any change: what is committed by now, who has caught up, and from where on the log is needed.
    fn settle(&mut self) {
        let counted = self.peers.values().filter(|peer| peer.counts());
        let all_have =
            counted.map(Peer::acknowledged).try_fold(self.log.tail(), |least, at| at.map(|at| least.min(at)));
        self.committed = self.committed.max(all_have.unwrap_or_default());
        for (node, peer) in &mut self.peers {
            let Some(at) = peer.acknowledged().filter(|_| peer.may_be_cleared() && peer.flight.is_none()) else {
                continue;
            };
            let near = self.log.bytes_after(at).is_some_and(|bytes| bytes <= self.bounds.batch_max_bytes);
            if near && at >= peer.goal && at >= self.committed {
                (peer.joining, peer.copies) = (true, 0);
                self.away.returned(&node.node);
                self.reports.push(Report::CaughtUp(node.clone()));
            }
        }
        self.pin();
    }

    fn pin(&mut self) {
        let needed = self.needed_after().into_iter().chain(self.away.need_after(&self.log)).min();
        self.log.pin(needed, self.bounds.pinned_max_bytes);
    }

    /// After which version those that follow need the log.
    fn needed_after(&self) -> Option<Version> {
        self.peers.values().filter_map(|peer| peer.needs_after(&self.log)).min()
    }
}
