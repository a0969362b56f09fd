//! Claims and planned moves, as lists of actions.

use super::rig::{LEASE_MS, Rig, claim, id, lease, member, no_answer, plan, timing};
use crate::coord::{CasError, ClaimState, Key, LeaseState, Record};
use crate::ring::io::Input;
use crate::types::{Epoch, PartitionId};

const HELD: ClaimState = ClaimState::Held;

/// A ring of two planned by the older `n2`; partition 0 belongs to `owner` at epoch 3 and is planned for `planned`.
pub(super) fn ring_of_two(owner: &str, planned: &str) -> Vec<(Key, Record)> {
    let members = [(id("n2", 1), 1), (id("n1", 1), 7)];
    vec![
        lease("n2", 1, 1, LeaseState::Live),
        member("n2", 1, 1),
        claim(0, id(owner, 1), 3, HELD),
        plan(1, &members, &[], planned),
    ]
}

/// `n1` owns partition 0 at epoch 4, as the plan of `n2` wants it.
fn owning() -> Rig {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
    rig.offer(0, 3, 3, id("n2", 1));
    rig.ack("own.0");
    assert_eq!(rig.hook(Ok(())), ["serve 0 e4"]);
    rig
}

/// The same, and the plan now wants it at `n2`.
pub(super) fn moving() -> Rig {
    let mut rig = owning();
    let members = [(id("n2", 1), 1), (id("n1", 1), 5)];
    assert_eq!(rig.see(plan(2, &members, &[], "n2")), ["park 0 e4"]);
    rig
}

pub(super) fn idle(epoch: u64) -> Input {
    Input::Idle { partition: PartitionId::new(0), epoch: Epoch::new(epoch) }
}

pub(super) fn transferred(epoch: u64) -> Input {
    Input::Transferred { partition: PartitionId::new(0), epoch: Epoch::new(epoch), result: Ok(9) }
}

pub(super) fn refused(epoch: u64) -> Input {
    Input::OfferRefused { partition: PartitionId::new(0), epoch: Epoch::new(epoch), reason: "busy".to_owned() }
}

/// Moved as far as the offer; answers the revision of the claim.
pub(super) fn offered() -> (Rig, u64) {
    let mut rig = moving();
    assert_eq!(rig.feed(idle(4)), ["on_release 0:e4 Handoff"]);
    assert_eq!(rig.hook(Ok(())), ["transfer 0 e4 to n2#1"]);
    let offer = rig.feed(transferred(4));
    let revision = rig.last - 1;
    assert_eq!(offer, ["revoke 0".to_owned(), format!("offer 0 e4 @{revision} to n2#1")]);
    (rig, revision)
}

#[test]
fn the_owner_parks_releases_transfers_offers_and_forwards_once_the_target_has_it() {
    let (mut rig, _) = offered();
    assert!(rig.feed(idle(4)).is_empty(), "a repeated notice changes nothing");
    assert!(rig.feed(transferred(4)).is_empty());
    assert_eq!(rig.see(claim(0, id("n2", 1), 5, HELD)), ["forward 0", "unsubscribe 0", "discard 0"]);
}

#[test]
fn the_target_parks_subscribes_and_claims_then_starts_then_serves() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
    let accepted = rig.offer(0, 3, 3, id("n2", 1));
    assert_eq!(accepted, ["answer Ok(())", "park 0 e4", "cas own.0@3 n1#1 e4 Held +subscribe"]);
    assert_eq!(rig.ack("own.0"), ["on_own 0:e4 Switch"]);
    assert_eq!(rig.hook(Ok(())), ["serve 0 e4"]);
}

#[test]
fn a_partition_that_comes_ahead_of_its_plan_does_not_go_straight_back() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n2"));
    rig.offer(0, 3, 3, id("n2", 1));
    rig.ack("own.0");
    assert_eq!(rig.hook(Ok(())), ["serve 0 e4"]);
    let wait = u64::try_from(timing().backoff.as_millis()).unwrap();
    assert!(rig.beat_until(wait - 1).is_empty(), "the plan that gives it to this node may be on its way");
    assert_eq!(rig.beat_until(wait), ["park 0 e4"], "where it is not, the known one holds");
}

#[test]
fn an_offer_is_refused_with_less_than_half_a_lease_left_or_when_a_newer_claim_is_known() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
    rig.see(claim(0, id("n2", 1), 4, HELD));
    assert_eq!(rig.offer(0, 3, 3, id("n2", 1)), ["answer Err(\"a newer claim is known here\")"]);
    rig.ms = LEASE_MS / 4 + 1;
    let late = rig.offer(0, 4, rig.last, id("n2", 1));
    assert_eq!(late[0], "answer Err(\"less than half a lease is left\")");
}

#[test]
fn a_refused_offer_is_abandoned_by_a_claim_of_the_next_epoch_at_the_same_revision() {
    let (mut rig, revision) = offered();
    let abandoned = rig.feed(refused(4));
    let cas = format!("cas own.0@{revision} n1#1 e5 Held +subscribe");
    assert_eq!(abandoned, ["revoke 0".to_owned(), "park 0 e5".to_owned(), cas]);
    assert_eq!(rig.ack("own.0"), ["on_own 0:e5 Abandoned"]);
    assert_eq!(rig.hook(Ok(())), ["serve 0 e5"]);
}

#[test]
fn an_abandoned_move_whose_target_won_is_handed_over_after_all() {
    let (mut rig, _) = offered();
    rig.feed(refused(4));
    assert!(rig.fail("own.0", CasError::Conflict).is_empty(), "the watch tells who won");
    assert_eq!(rig.see(claim(0, id("n2", 1), 5, HELD)), ["forward 0", "unsubscribe 0", "discard 0"]);
}

#[test]
fn a_move_that_is_only_parked_is_served_on_at_the_same_epoch_when_requests_pile_up() {
    let mut rig = moving();
    assert_eq!(rig.feed(Input::Pressure { partition: PartitionId::new(0) }), ["serve 0 e4"]);
    assert!(rig.feed(idle(4)).is_empty());
    assert_eq!(rig.beat_until(rig.ms + 101), ["park 0 e4"]);
}

#[test]
fn requests_that_pile_up_while_on_release_runs_end_the_move_once_it_is_done() {
    let mut rig = moving();
    rig.feed(idle(4));
    assert!(rig.feed(Input::Pressure { partition: PartitionId::new(0) }).is_empty());
    let abandoned = rig.hook(Ok(()));
    assert_eq!(abandoned[..2], ["revoke 0", "park 0 e5"]);
    assert!(abandoned[2].starts_with("cas own.0@"), "{abandoned:?}");
}

#[test]
fn an_undecided_offer_is_abandoned_at_its_deadline_and_the_epoch_given_away_is_not_served_again() {
    let (mut rig, revision) = offered();
    let mut later = rig.beat_until(rig.ms + 5000);
    // Meanwhile its silent coordinator is evicted, which is another matter.
    later.retain(|action| !action.contains("leases") && !action.contains("lease.n2"));
    let cas = format!("cas own.0@{revision} n1#1 e5 Held +subscribe");
    assert_eq!(later, ["revoke 0".to_owned(), "park 0 e5".to_owned(), cas]);
}

#[test]
fn a_partition_taken_over_while_it_was_parked_is_lost_and_the_service_is_told() {
    let mut rig = moving();
    let lost = rig.see(claim(0, id("n2", 1), 5, HELD));
    assert_eq!(lost, ["revoke 0", "forward 0", "on_release 0:e4 Lost"]);
    assert_eq!(rig.hook(Ok(())), ["forward 0", "unsubscribe 0", "discard 0"]);
}

#[test]
fn a_partition_taken_over_while_on_release_runs_waits_for_it() {
    let mut rig = moving();
    rig.feed(idle(4));
    assert_eq!(rig.see(claim(0, id("n2", 1), 5, HELD)), ["revoke 0", "forward 0"]);
    assert_eq!(rig.hook(Ok(())), ["forward 0", "unsubscribe 0", "discard 0"]);
}

#[test]
fn nothing_is_told_still_owner_while_suspended() {
    let mut rig = moving();
    rig.ms += LEASE_MS;
    let suspended = rig.feed(idle(4));
    assert!(!suspended.iter().any(|action| action.starts_with("on_release")), "{suspended:?}");
    let resumed = rig.ack("lease.n1");
    assert!(resumed.contains(&"on_release 0:e4 Handoff".to_owned()), "{resumed:?}");
}

#[test]
fn nothing_is_started_while_suspended() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
    rig.offer(0, 3, 3, id("n2", 1));
    rig.wake_at(LEASE_MS);
    assert!(rig.ack("own.0").is_empty());
    assert_eq!(rig.ack("lease.n1").last().unwrap(), "on_own 0:e4 Switch");
}

#[test]
fn a_claim_without_an_answer_stays_parked_until_the_watch_the_same_write_or_another_settles_it() {
    let timed_out = || {
        let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
        rig.offer(0, 3, 3, id("n2", 1));
        let quiet = rig.fail("own.0", no_answer());
        assert!(quiet.is_empty(), "{quiet:?}");
        rig
    };
    let mut watched = timed_out();
    assert_eq!(watched.see(claim(0, id("n1", 1), 4, HELD)), ["on_own 0:e4 Switch"]);

    let mut repeated = timed_out();
    assert_eq!(repeated.beat_until(250), ["cas own.0@3 n1#1 e4 Held +subscribe"]);
    assert_eq!(repeated.ack("own.0"), ["on_own 0:e4 Switch"]);

    let mut refused = timed_out();
    refused.beat_until(250);
    assert!(refused.fail("own.0", CasError::Conflict).is_empty(), "its own earlier write may have landed");
    let lost = refused.see(claim(0, id("n2", 1), 4, HELD));
    assert_eq!(lost, ["forward 0", "unsubscribe 0", "discard 0"]);
}

#[test]
fn a_claim_seen_before_the_plan_of_its_owner_changes_nothing() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
    // Its owner is in no plan and no member record was seen of it: absence proves nothing.
    assert!(rig.see(claim(0, id("n9", 1), 4, HELD)).is_empty());
    let members = [(id("n2", 1), 1), (id("n1", 1), 5)];
    assert!(rig.see(plan(2, &members, &[], "n1")).is_empty());
    // Another life of it is gone, not this one.
    assert!(rig.see(plan(3, &members, &[id("n9", 2)], "n1")).is_empty());
    let taken = rig.see(plan(4, &members, &[id("n9", 1)], "n1"));
    let revision = rig.last - 3;
    assert_eq!(taken, ["park 0 e5".to_owned(), format!("cas own.0@{revision} n1#1 e5 Held +subscribe")]);
}

#[test]
fn the_first_snapshot_is_one_unit() {
    let mut rig = Rig::new(1);
    rig.feed(Input::LeaseSnapshot { all: false, leases: vec![] });
    // The claim is older than the plan that calls its owner gone, and newer than the one before.
    let records =
        [member("n2", 1, 1), claim(0, id("n3", 1), 2, HELD), plan(9, &[(id("n2", 1), 1), (id("n1", 1), 4)], &[], "n1")];
    let updates = records.into_iter().map(|record| rig.put(record)).collect();
    assert_eq!(rig.feed(Input::RingSnapshot(updates)), ["cas lease.n1@0 #1 beat 0 Live"]);
    let first = rig.ack_after_watch("lease.n1");
    assert!(!first.iter().any(|action| action.contains("own.0")), "{first:?}");
}

#[test]
fn a_failing_start_gives_the_partition_back_and_excludes_it_for_a_while() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
    rig.offer(0, 3, 3, id("n2", 1));
    rig.ack("own.0");
    let failed = rig.hook(Err("no disk"));
    assert_eq!(failed[..2], ["park 0 e4", "revoke 0"]);
    assert!(failed[2].ends_with("n1#1 e4 Released"), "{failed:?}");
    let released = rig.ack("own.0");
    assert_eq!(released[..3], ["forward 0", "unsubscribe 0", "discard 0"]);
    rig.beat_until(399);
    let excluded = rig
        .pending
        .iter()
        .any(|pending| matches!(&pending.record, Record::Member(member) if member.excluded == [PartitionId::new(0)]));
    assert!(excluded, "{:?}", rig.pending);
    // The plan still wants it here: not before the back-off is over.
    assert!(rig.beat_until(399).is_empty());
    rig.ack_after_watch("member.n1");
    let again = rig.beat_until(401);
    assert!(again.iter().any(|action| action.starts_with("cas own.0") && action.contains("e5 Held")), "{again:?}");
}

#[test]
fn a_batch_that_fails_is_retried_one_by_one_and_only_those_that_fail_go_back() {
    let mut rig = Rig::joined(2, vec![]);
    rig.beat_until(600);
    rig.ack("plan");
    let [first, second] = [rig.pending[0].clone(), rig.pending[1].clone()];
    // Both outcomes in one step, as when both records come by one snapshot.
    let updates = [first, second].into_iter().map(|pending| rig.put((pending.key, pending.record))).collect();
    assert_eq!(rig.feed(Input::RingSnapshot(updates)), ["on_own 0:e1 1:e1 Initial"]);
    assert_eq!(rig.hook(Err("one of them")), ["on_own 0:e1 Initial", "on_own 1:e1 Initial"]);
    assert_eq!(rig.hook(Ok(())), ["serve 0 e1"]);
    assert_eq!(rig.hook(Err("this one"))[..2], ["park 1 e1", "revoke 1"]);
}
