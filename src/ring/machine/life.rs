//! This node's own life: getting its lease, renewing it, announcing itself.

use std::time::Duration;

use super::{Action, Event, Machine, OpId, Outcome};
use crate::coord::{CasError, Key, Lease, LeaseState, Member, MemberState, Record, Revision};
use crate::ring::lease::OwnLease;
use crate::types::guard::{self, Guard};
use crate::types::{Incarnation, NodeId, Time};

/// How many renewals of somebody else's lease of this name are taken as proof that it is live. One may have been on
/// its way when its holder died.
const LIVE_AFTER_BEATS: u32 = 2;

/// Where this incarnation stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Lets the gates of a former generation close before it takes a lease.
    HoldingOff { until: Time },
    /// Waits for what the store says of its name, or for another holder's lease to run out.
    Seeking { beats: u32, announced: bool },
    /// Creating its lease.
    Acquiring(Acquisition),
    /// Holds its lease, suspended or not.
    Running,
    /// Owns nothing, lets go of its subscriptions, still forwards.
    Lingering { since: Time, let_go: bool },
    /// Giving its lease up. `tried` is the revision at which that was last written.
    GivingUp { op: Option<OpId>, tried: Revision, outcome: Outcome, until: Time },
    /// Evicted or reset: telling the service.
    Losing { outcome: Outcome, until: Time },
    /// Over.
    Over,
}

/// The creation of this node's lease, on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Acquisition {
    op: Option<OpId>,
    expected: Revision,
    incarnation: Incarnation,
    /// Several may have been sent; which of them landed is not always known.
    first_sent: Time,
    last_sent: Time,
    unsettled: bool,
    /// Nothing of it landed: what was seen of this name is not the newest.
    refused: bool,
    retry_at: Time,
}

impl Machine {
    pub(super) fn own_lease_holder(&self) -> Option<Incarnation> {
        self.view.leases.get(&self.who.node).map(|seen| seen.record.incarnation)
    }

    /// The record of this node's own name changed.
    pub(super) fn own_lease_changed(&mut self, before: Option<Incarnation>) {
        let Some(seen) = self.view.leases.get(&self.who.node) else { return };
        let (holder, state, revision) = (seen.record.incarnation, seen.record.state, seen.revision);
        match &mut self.stage {
            // A first sight says nothing; only renewals of what was seen before do.
            Stage::Seeking { beats, .. } if before == Some(holder) && state == LeaseState::Live => *beats += 1,
            Stage::Running | Stage::Lingering { .. } => {
                let Some(lease) = &mut self.lease else { return };
                if holder != lease.incarnation && revision > lease.revision && guard::holds(Guard::OwnIncarnation) {
                    self.lose(Outcome::Evicted, format!("the name was taken over by incarnation {holder}"));
                } else if holder == lease.incarnation && state != LeaseState::Live {
                    self.lose(Outcome::Evicted, "evicted: no heartbeat of this node was seen for a lease".to_owned());
                } else if holder == lease.incarnation || !guard::holds(Guard::OwnIncarnation) {
                    // A renewal that timed out and landed all the same: the next one goes on from there.
                    lease.revision = lease.revision.max(revision);
                }
            }
            Stage::GivingUp { .. } => {
                let Some(lease) = &mut self.lease else { return };
                if holder == lease.incarnation && state == LeaseState::Live {
                    lease.revision = lease.revision.max(revision);
                } else if revision > lease.revision {
                    self.finish_now();
                }
            }
            _ => {}
        }
    }

    pub(super) fn advance_life(&mut self) {
        if let Stage::HoldingOff { until } = self.stage
            && (self.now >= until || self.is_generation_under_way())
        {
            self.stage = Stage::Seeking { beats: 0, announced: false };
        }
        if matches!(self.stage, Stage::Seeking { .. })
            && self.leases_seen
            && (self.ring_seen || !guard::holds(Guard::SnapshotAsUnit))
        {
            self.seek();
        }
        self.advance_acquisition();
        if matches!(self.stage, Stage::Running | Stage::Lingering { .. }) {
            self.beat_if_due();
            self.notice_suspension();
        }
        self.advance_giving_up();
        if let Stage::GivingUp { until, .. } | Stage::Losing { until, .. } = self.stage
            && self.now >= until
        {
            self.finish_now();
        }
    }

    /// Whether nobody can act any more by the generation before: there was none, or a plan of this one was written, by
    /// somebody who held off before it took its lease. Who finds `meta` without such a plan may come right after it was
    /// written, and a node that has not heard of it may act for 3/4 of a lease.
    fn is_generation_under_way(&self) -> bool {
        !self.who.generation.has_former() || self.plan_is_current() || !guard::holds(Guard::HoldOff)
    }

    /// Takes the lease of this name, unless somebody else may still hold it.
    fn seek(&mut self) {
        let Some(seen) = self.view.leases.get(&self.who.node).cloned() else {
            return self.acquire(Revision::NONE, 1);
        };
        let start = seen.record.incarnation.start + u64::from(guard::holds(Guard::StartGrows));
        if seen.record.state != LeaseState::Live {
            return self.acquire(seen.revision, start);
        }
        let expires_at = self.observer.expires_at(&self.who.node, &seen);
        let Stage::Seeking { beats, announced } = &mut self.stage else { return };
        if *beats >= LIVE_AFTER_BEATS && guard::holds(Guard::LiveNameRefused) {
            let holder = NodeId { node: self.who.node.clone(), incarnation: seen.record.incarnation };
            return self.finish(Outcome::NameLive { holder });
        }
        // While cut off nothing would be seen of a holder that renews it; after that, a full lease is observed anew.
        let observed = self.now >= expires_at && self.disconnected_at.is_none();
        if observed || !guard::holds(Guard::NameObserved) {
            return self.acquire(seen.revision, start);
        }
        if !std::mem::replace(announced, true) {
            self.emit(Event::LeaseWaiting { at_most: expires_at.since(self.now) });
        }
    }

    fn acquire(&mut self, expected: Revision, start: u64) {
        let incarnation = Incarnation { start, id: self.who.incarnation_id };
        let now = self.now;
        self.stage = Stage::Acquiring(Acquisition {
            op: None,
            expected,
            incarnation,
            first_sent: now,
            last_sent: now,
            unsettled: false,
            refused: false,
            retry_at: now,
        });
    }

    pub(super) fn write_lease(
        &mut self,
        op: OpId,
        expected: Revision,
        incarnation: Incarnation,
        beat: u64,
        state: LeaseState,
    ) {
        let lease_ms = u64::try_from(self.timing.lease.as_millis()).unwrap_or(u64::MAX);
        let resumed = self.resumed();
        self.out.push(Action::Cas {
            op,
            key: Key::Lease(self.who.node.clone()),
            expected,
            record: Record::Lease(Lease { incarnation, state, beat, lease_ms, resumed }),
            heartbeat: true,
            subscribe: None,
            timeout: self.timing.beat(),
        });
    }

    /// Outcome of a write to this node's own lease, if `op` is one.
    pub(super) fn life_cas_done(&mut self, op: OpId, result: &Result<Revision, CasError>) -> bool {
        match &self.stage {
            Stage::Acquiring(acquisition) if acquisition.op == Some(op) => self.acquired(result),
            Stage::GivingUp { op: Some(known), .. } if *known == op => self.given_up(result),
            Stage::GivingUp { op: None, .. } => {
                let Some(lease) = &mut self.lease else { return false };
                let Some(sent) = lease.take(op) else { return false };
                if let Ok(revision) = result {
                    lease.acked(*revision, sent, self.now);
                }
            }
            Stage::Running | Stage::Lingering { .. } => {
                let Some(sent) = self.lease.as_mut().and_then(|lease| lease.take(op)) else { return false };
                self.beat_done(sent, result);
            }
            _ => return false,
        }
        true
    }

    fn acquired(&mut self, result: &Result<Revision, CasError>) {
        let Stage::Acquiring(acquisition) = &self.stage else { return };
        let retry_at = self.after_failure(acquisition.last_sent, result);
        let Stage::Acquiring(acquisition) = &mut self.stage else { return };
        acquisition.op = None;
        match result {
            Ok(revision) => {
                let (incarnation, sent) = (acquisition.incarnation, acquisition.last_sent);
                self.hold(incarnation, *revision, sent);
            }
            // The watch will tell what there is; asked again at once the store would refuse again, until then.
            Err(CasError::Conflict) if !acquisition.unsettled => {
                (acquisition.refused, acquisition.retry_at) = (true, retry_at);
            }
            // One sent before may have landed, as the watch will tell; or it was lost, and a change of the store's leader
            // refused this one: the same write again settles that.
            Err(CasError::Conflict) => acquisition.retry_at = retry_at,
            Err(error) => {
                // It may still land: the same write again settles it, or the watch does.
                acquisition.unsettled |= matches!(error, CasError::Unknown(_));
                acquisition.retry_at = retry_at;
            }
        }
    }

    /// When to try again what was sent at `sent`: at once after a time-out, which was pause enough, else after a little
    /// while. That nobody answers may be told at once too, and while JetStream elects a leader it is.
    fn after_failure(&self, sent: Time, result: &Result<Revision, CasError>) -> Time {
        let pause = self.timing.beat() / 4;
        match result {
            Err(CasError::Unknown(_)) => self.now.max(sent + pause),
            _ => self.now + pause,
        }
    }

    /// A creation without an answer is settled by a later revision of the key, or sent again.
    fn advance_acquisition(&mut self) {
        let Stage::Acquiring(acquisition) = &mut self.stage else { return };
        if acquisition.op.is_some() {
            return;
        }
        let later = self.view.leases.get(&self.who.node).filter(|seen| seen.revision > acquisition.expected);
        if let Some(seen) = later {
            let mine = seen.record.incarnation == acquisition.incarnation && seen.record.state == LeaseState::Live;
            // Any of those sent may be the one that landed: what counts is when the first was sent.
            let (incarnation, revision, sent) = (acquisition.incarnation, seen.revision, acquisition.first_sent);
            return match mine {
                true => self.hold(incarnation, revision, sent),
                false => self.seek_anew(),
            };
        }
        if self.now >= acquisition.retry_at && acquisition.refused {
            return self.seek_anew();
        }
        if self.now >= acquisition.retry_at {
            self.last_op += 1;
            let op = OpId(self.last_op);
            (acquisition.op, acquisition.last_sent) = (Some(op), self.now);
            let (expected, incarnation) = (acquisition.expected, acquisition.incarnation);
            self.write_lease(op, expected, incarnation, 0, LeaseState::Live);
        }
    }

    fn seek_anew(&mut self) {
        self.stage = Stage::Seeking { beats: 0, announced: false };
        self.seek();
        self.advance_acquisition();
    }

    fn hold(&mut self, incarnation: Incarnation, revision: Revision, sent: Time) {
        let lease = OwnLease::created(incarnation, revision, sent, self.now, &self.timing);
        self.out.push(Action::OpenGate(lease.act_until(&self.timing)));
        self.lease = Some(lease);
        self.stage = Stage::Running;
        self.observer.restart(self.now);
        self.emit(Event::LeaseAcquired { incarnation });
        // The watch may have been ahead of the acknowledgement: whoever was stopped in between was evicted meanwhile.
        self.own_lease_changed(Some(incarnation));
    }

    /// Renews the lease. Nothing is renewed while the data connection has been down for half a lease: a node that
    /// cannot be reached must not keep what it owns.
    fn beat_if_due(&mut self) {
        let cut_off = self.disconnected_at.is_some_and(|at| self.now.since(at) >= self.timing.lease / 2);
        let (now, beat) = (self.now, self.timing.beat());
        let Some(lease) = &mut self.lease else { return };
        if !lease.is_due(now) {
            return;
        }
        if cut_off && guard::holds(Guard::BeatsNeedData) {
            return lease.postpone(now + beat);
        }
        self.last_op += 1;
        let op = OpId(self.last_op);
        lease.sent(op, now, &self.timing);
        let (revision, incarnation, beat) = (lease.revision, lease.incarnation, lease.beat);
        self.write_lease(op, revision, incarnation, beat, LeaseState::Live);
    }

    fn beat_done(&mut self, sent: Time, result: &Result<Revision, CasError>) {
        let retry_at = self.after_failure(sent, result);
        let Some(lease) = &mut self.lease else { return };
        match result {
            Ok(revision) => {
                let gap = lease.acked(*revision, sent, self.now);
                let until = lease.act_until(&self.timing);
                if gap > self.timing.lease / 3 && guard::holds(Guard::ObserverGap) {
                    self.observer.restart(self.now);
                }
                self.out.push(Action::OpenGate(until));
                self.notice_resumption();
            }
            // A conflict is settled by what is seen of this node's own lease, in the watch or looked up because of it: an
            // earlier renewal landed late, or it was evicted. What was never sent is no reason to hurry: it fails as fast as it is tried.
            Err(_) => lease.postpone(retry_at),
        }
    }

    fn notice_suspension(&mut self) {
        if self.suspended_at.is_none() && !self.may_act() {
            self.suspended_at = Some(self.now);
            self.emit(Event::Suspended);
        }
    }

    fn notice_resumption(&mut self) {
        if let Some(at) = self.suspended_at
            && self.may_act()
        {
            self.suspended_at = None;
            self.emit(Event::Resumed { after: self.now.since(at) });
        }
    }

    pub(super) fn connection(&mut self, up: bool) {
        if up {
            if guard::holds(Guard::ObserverReconnect) {
                self.observer.restart(self.now);
            }
            self.disconnected_at = None;
        } else if self.disconnected_at.is_none() {
            self.disconnected_at = Some(self.now);
        }
    }

    /// Writes this node's member record where it is not what it should be.
    pub(super) fn announce(&mut self) {
        let Some(wanted) = self.member_record() else { return };
        let known = self.view.members.get(&self.who.node);
        if known.is_some_and(|seen| seen.record == wanted) || self.member_op.is_some() || !self.may_act() {
            return;
        }
        if self.now < self.member_retry_at {
            return;
        }
        // A record may have been removed since it was seen (a clean-up): what is refused at its revision is tried as new.
        let seen_at = known.map_or(Revision::NONE, |seen| seen.revision);
        let expected = if self.member_refused_at == Some(seen_at) { Revision::NONE } else { seen_at };
        self.write_member(expected, wanted);
    }

    /// The member record was not written: the next try is at the other of the two revisions it may have.
    pub(super) fn member_refused(&mut self, error: &CasError) {
        self.member_retry_at = self.now + self.timing.beat();
        if *error == CasError::Conflict {
            let seen_at = self.view.members.get(&self.who.node).map(|seen| seen.revision);
            self.member_refused_at = seen_at.filter(|at| self.member_refused_at != Some(*at));
        }
    }

    pub(super) fn write_member(&mut self, expected: Revision, record: Member) {
        let op = self.op();
        self.member_op = Some((op, record.clone()));
        self.out.push(Action::Cas {
            op,
            key: Key::Member(self.who.node.clone()),
            expected,
            record: Record::Member(record),
            heartbeat: false,
            subscribe: None,
            timeout: self.timing.lease / 2,
        });
    }

    fn member_record(&self) -> Option<Member> {
        let lease = self.lease.as_ref()?;
        let excluded = self.slots.excluded(self.now).collect();
        let state = if self.is_draining() { MemberState::Draining } else { MemberState::Active };
        let returns = match (self.is_draining(), self.leaves_for_good) {
            (false, _) => self.timing.returns_after_eviction,
            (true, false) => self.timing.returns_after_leaving,
            (true, true) => Duration::ZERO,
        };
        Some(Member {
            incarnation: lease.incarnation,
            since: lease.since,
            state,
            zone: self.who.zone.clone(),
            weight: self.who.weight,
            http: self.who.http.clone(),
            version: self.who.version.clone(),
            excluded,
            replicates: self.who.replicates,
            return_ms: u64::try_from(returns.as_millis()).unwrap_or(u64::MAX),
        })
    }

    pub(super) fn life_wakes(&self) -> Vec<Time> {
        let mut wakes = Vec::new();
        match &self.stage {
            Stage::HoldingOff { until } => wakes.push(*until),
            Stage::Lingering { since, .. } => {
                wakes.extend([*since + self.timing.linger, *since + self.timing.let_go_limit]);
            }
            Stage::GivingUp { until, .. } | Stage::Losing { until, .. } => wakes.push(*until),
            Stage::Acquiring(acquisition) if acquisition.op.is_none() => wakes.push(acquisition.retry_at),
            Stage::Seeking { .. } => {
                let own = self.view.leases.get(&self.who.node);
                wakes.extend(own.map(|seen| self.observer.expires_at(&self.who.node, seen)));
            }
            _ => {}
        }
        if let Some(lease) = &self.lease {
            wakes.extend(lease.next_wake());
            wakes.push(lease.act_until(&self.timing));
        }
        wakes.extend(self.drain_asked_at.map(|at| at + self.timing.drain_timeout));
        if self.member_op.is_none() {
            wakes.push(self.member_retry_at);
        }
        wakes
    }

    /// How long this node may act without a further heartbeat.
    pub(super) fn lease_margin(&self) -> Duration {
        self.lease.as_ref().map_or(Duration::ZERO, |lease| lease.act_until(&self.timing).since(self.now))
    }
}
