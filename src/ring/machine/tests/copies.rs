//! The in-sync set of a partition owned here, moves to members, and what is kept elsewhere: as lists of actions.

use super::rig::{LEASE_MS, Rig, id, lease, member, no_answer, plan};
use crate::coord::{CasError, Claim, ClaimState, Key, LeaseState, Record, Revision, RingConfig};
use crate::ring::event::{Event, RemovalReason};
use crate::ring::io::{Input, Offer, OpId};
use crate::types::{Epoch, Generation, NodeId, PartitionId};

pub(super) const HELD: ClaimState = ClaimState::Held;
const P: PartitionId = PartitionId::new(0);

/// Members that keep copies; each row lists names by commas.
pub(super) fn planned(
    version: u64,
    members: &[NodeId],
    gone: &[NodeId],
    row: &str,
    config: RingConfig,
) -> (Key, Record) {
    let aged: Vec<(NodeId, u64)> = members.iter().cloned().zip(1..).collect();
    let (key, Record::Plan(mut plan)) = plan(version, &aged, gone, "-") else { panic!("a plan") };
    plan.members.iter_mut().for_each(|member| member.replicates = true);
    plan.rows = vec![row.split(',').filter(|name| *name != "-").map(super::rig::name).collect()];
    plan.config = config;
    (key, Record::Plan(plan))
}

pub(super) fn all() -> [NodeId; 3] {
    [id("n2", 1), id("n3", 1), id("n1", 1)]
}

pub(super) fn wants(version: u64, row: &str) -> (Key, Record) {
    planned(version, &all(), &[], row, RingConfig::default())
}

pub(super) fn claim(epoch: u64, set: &[NodeId], state: ClaimState) -> (Key, Record) {
    let (generation, epoch, owner) = (Generation::new(1), Epoch::new(epoch), set[0].clone());
    (Key::Own(P), Record::Own(Claim { generation, epoch, owner, replicas: set.to_vec(), state }))
}

/// A ring of `n2`, `n3`, `n1` with this claim (at revision 5) and plan.
pub(super) fn ring(claim: (Key, Record), plan: (Key, Record)) -> Rig {
    let leases = [lease("n2", 1, 1, LeaseState::Live), lease("n3", 1, 1, LeaseState::Live)];
    let others = [member("n2", 1, 1), member("n3", 1, 2), claim, plan];
    Rig::with_copies(1, leases.into_iter().chain(others).collect())
}

fn offer_to(rig: &mut Rig, set: &[NodeId]) -> Vec<String> {
    let (epoch, revision, from) = (Epoch::new(3), Revision(5), id("n2", 1));
    let offer = Offer { partition: P, epoch, revision, from, replicas: set.to_vec() };
    rig.feed(Input::Offered { op: OpId(1 << 62), offer })
}

/// `n1` serves at epoch 4 with `n2` in sync and `n3` learning, as planned.
fn serving() -> Rig {
    let set = [id("n2", 1), id("n1", 1)];
    let mut rig = ring(claim(3, &set, HELD), wants(1, "n1,n2,n3"));
    let accepted = offer_to(&mut rig, &set);
    assert_eq!(accepted, ["answer Ok(())", "park 0 e4", "cas own.0@5 n1#1 e4 Held [n1#1 n2#1] +subscribe"]);
    assert_eq!(rig.ack("own.0"), ["replicate 0 e4 n1#1 n2#1 of 3", "on_own 0:e4 Switch"]);
    assert_eq!(rig.hook(Ok(())), ["serve 0 e4", "replicate 0 e4 n1#1 n2#1 + n3#1 of 3"]);
    rig
}

pub(super) fn caught_up(rig: &mut Rig, node: &str) -> Vec<String> {
    let op = rig.replicated;
    rig.feed(Input::CaughtUp { partition: P, epoch: Epoch::new(4), node: id(node, 1), op })
}

fn silent(rig: &mut Rig, node: &str) -> Vec<String> {
    rig.feed(Input::Silent { partition: P, epoch: Epoch::new(4), node: id(node, 1) })
}

fn adds(revision: u64) -> String {
    format!("cas own.0@{revision} n1#1 e4 Held [n1#1 n2#1 n3#1]")
}

fn heard(rig: &mut Rig, node: &str) -> Vec<String> {
    rig.feed(Input::Heard { partition: P, epoch: Epoch::new(4), node: id(node, 1) })
}

#[test]
fn a_member_that_was_silent_while_nobody_could_record_it_stays_one_once_it_answers() {
    let mut rig = serving();
    // The gate is nearly closed: a change would not be settled before.
    rig.ms += LEASE_MS / 2;
    let mut others = silent(&mut rig, "n2");
    others.extend(heard(&mut rig, "n2"));
    rig.ack("lease.n1");
    others.extend(rig.beat_until(rig.ms + LEASE_MS / 4));
    assert!(!others.iter().any(|action| action.starts_with("cas own.0")), "{others:?}");
    // Without that it is taken out.
    assert!(silent(&mut rig, "n2").iter().any(|action| action.starts_with("cas own.0")));
}

/// The change that adds `n3` is on its way, at this revision.
fn adding() -> (Rig, u64) {
    let mut rig = serving();
    assert_eq!(caught_up(&mut rig, "n3"), ["replicate 0 e4 n1#1 n2#1 -> n1#1 n2#1 n3#1 of 3"]);
    let revision = rig.last;
    assert_eq!(caught_up(&mut rig, "n3"), [adds(revision)]);
    (rig, revision)
}

/// All three are in sync.
fn full() -> Rig {
    let (mut rig, _) = adding();
    assert_eq!(rig.ack("own.0"), ["replicate 0 e4 n1#1 n2#1 n3#1 of 3"]);
    rig.events.clear();
    rig
}

#[test]
fn a_learner_that_has_everything_is_recorded_once_both_sets_have_all_that_was_written_before() {
    let (mut rig, _) = adding();
    assert_eq!(rig.ack("own.0"), ["replicate 0 e4 n1#1 n2#1 n3#1 of 3"]);
    assert!(rig.events.contains(&Event::ReplicaAdded { partition: P, node: id("n3", 1).node }));
    assert!(caught_up(&mut rig, "n3").is_empty(), "told again it changes nothing");
}

#[test]
fn what_a_learner_told_before_it_was_taken_out_and_put_back_does_not_count() {
    let mut rig = serving();
    let early = rig.replicated;
    assert_eq!(rig.see(wants(2, "n1,n2")), ["replicate 0 e4 n1#1 n2#1 of 3"]);
    assert_eq!(rig.see(wants(3, "n1,n2,n3")), ["replicate 0 e4 n1#1 n2#1 + n3#1 of 3"]);
    let node = id("n3", 1);
    assert!(rig.feed(Input::CaughtUp { partition: P, epoch: Epoch::new(4), node, op: early }).is_empty());
    assert_eq!(caught_up(&mut rig, "n3"), ["replicate 0 e4 n1#1 n2#1 -> n1#1 n2#1 n3#1 of 3"]);
}

#[test]
fn a_change_without_an_answer_stays_pending_until_the_watch_or_the_same_write_settles_it() {
    let timed_out = || {
        let (mut rig, revision) = adding();
        assert!(rig.fail("own.0", no_answer()).is_empty());
        (rig, revision)
    };
    let set = [id("n1", 1), id("n2", 1), id("n3", 1)];
    let settled = ["replicate 0 e4 n1#1 n2#1 n3#1 of 3"];
    let (mut landed, _) = timed_out();
    assert_eq!(landed.see(claim(4, &set, HELD)), settled);

    let (mut repeated, revision) = timed_out();
    assert_eq!(repeated.beat_until(repeated.ms + 250), [adds(revision)]);
    assert_eq!(repeated.ack("own.0"), settled);

    let (mut refused, _) = timed_out();
    refused.beat_until(refused.ms + 250);
    assert!(refused.fail("own.0", CasError::Conflict).is_empty(), "its own earlier write may have landed");
    assert_eq!(refused.see(claim(4, &set, HELD)), settled);
}

#[test]
fn a_change_that_loses_against_a_takeover_ends_with_the_partition() {
    let (mut rig, _) = adding();
    rig.fail("own.0", no_answer());
    let lost = rig.see(claim(5, &[id("n2", 1), id("n1", 1)], ClaimState::Recovering));
    assert_eq!(lost, ["revoke 0", "forward 0", "on_release 0:e4 Lost"]);
    assert_eq!(rig.hook(Ok(())), ["forward 0", "unsubscribe 0", "keep copy 0 e5"]);
}

#[test]
fn a_learner_that_dies_while_it_is_added_holds_nothing_up() {
    let left = [id("n2", 1), id("n1", 1)];
    let without = planned(2, &left, &[id("n3", 1)], "n1,n2", RingConfig::default());
    // Not sent yet: given up.
    let mut before = serving();
    caught_up(&mut before, "n3");
    assert_eq!(before.see(without.clone()), ["replicate 0 e4 n1#1 n2#1 of 3"]);
    // Sent: settled first, then it is removed.
    let (mut after, _) = adding();
    assert!(after.see(without).is_empty());
    let revision = after.last + 1;
    let removed = [
        "replicate 0 e4 n1#1 n2#1 n3#1 of 3".to_owned(),
        "replicate 0 e4 n1#1 n2#1 n3#1 -> n1#1 n2#1 of 3".to_owned(),
        format!("cas own.0@{revision} n1#1 e4 Held [n1#1 n2#1]"),
    ];
    assert_eq!(after.ack("own.0"), removed);
    assert_eq!(after.ack("own.0"), ["replicate 0 e4 n1#1 n2#1 of 3"]);
    let node = id("n3", 1).node;
    assert!(after.events.contains(&Event::ReplicaRemoved { partition: P, node, why: RemovalReason::Gone }));
}

#[test]
fn a_silent_member_leaves_the_set_at_once_and_learns_again_after_a_while() {
    let mut rig = full();
    let revision = rig.last;
    let removed = [
        "replicate 0 e4 n1#1 n2#1 n3#1 -> n1#1 n2#1 of 3".to_owned(),
        format!("cas own.0@{revision} n1#1 e4 Held [n1#1 n2#1]"),
    ];
    assert_eq!(silent(&mut rig, "n3"), removed);
    assert_eq!(rig.ack("own.0"), ["replicate 0 e4 n1#1 n2#1 of 3"]);
    let node = id("n3", 1).node;
    assert!(rig.events.contains(&Event::ReplicaRemoved { partition: P, node, why: RemovalReason::Silent }));
    assert_eq!(rig.beat_until(rig.ms + 101), ["replicate 0 e4 n1#1 n2#1 + n3#1 of 3"]);
}

#[test]
fn who_is_not_wanted_any_more_leaves_only_once_all_are_members_that_are() {
    let set = [id("n2", 1), id("n1", 1)];
    let mut rig = ring(claim(3, &set, HELD), wants(1, "n1,n3"));
    offer_to(&mut rig, &set);
    rig.ack("own.0");
    assert_eq!(rig.hook(Ok(())), ["serve 0 e4", "replicate 0 e4 n1#1 n2#1 + n3#1 of 3"]);
    assert_eq!(caught_up(&mut rig, "n3"), ["replicate 0 e4 n1#1 n2#1 -> n1#1 n3#1 of 3"]);
    let revision = rig.last;
    assert_eq!(caught_up(&mut rig, "n3"), [format!("cas own.0@{revision} n1#1 e4 Held [n1#1 n3#1]")]);
    // While nobody can be planned for, everybody stays.
    let mut frozen = full();
    assert!(frozen.see(wants(2, "-")).is_empty());
}

#[test]
fn a_partition_moves_only_to_a_member_and_with_its_set() {
    let mut rig = serving();
    assert!(rig.see(wants(2, "n3,n1,n2")).is_empty(), "it learns first");
    caught_up(&mut rig, "n3");
    caught_up(&mut rig, "n3");
    let moved = rig.ack("own.0");
    assert_eq!(moved, ["replicate 0 e4 n1#1 n2#1 n3#1 of 3", "park 0 e4"]);
    assert_eq!(rig.feed(super::moves::idle(4)), ["on_release 0:e4 Handoff"]);
    assert_eq!(rig.hook(Ok(())), ["transfer 0 e4 to n3#1"]);
    let revision = rig.last;
    let offer = format!("offer 0 e4 @{revision} to n3#1 of n1#1 n2#1 n3#1");
    assert_eq!(rig.feed(super::moves::transferred(4)), ["revoke 0".to_owned(), offer]);
    let set = [id("n3", 1), id("n1", 1), id("n2", 1)];
    assert_eq!(rig.see(claim(5, &set, HELD)), ["forward 0", "unsubscribe 0", "keep copy 0 e5"]);
    // The new owner drops it once the plan does not want it; here it is asked for first.
    rig.see(wants(3, "n3,n2"));
    assert_eq!(rig.see(claim(5, &[id("n3", 1), id("n2", 1)], HELD)), ["drop copy 0 e5"]);
}

#[test]
fn a_member_that_falls_silent_in_a_move_ends_it_and_is_removed() {
    let mut parked = full();
    assert_eq!(parked.see(wants(2, "n2,n1,n3")), ["park 0 e4"]);
    let revision = parked.last - 1;
    let removed = [
        "serve 0 e4".to_owned(),
        "replicate 0 e4 n1#1 n2#1 n3#1 -> n1#1 n2#1 of 3".to_owned(),
        format!("cas own.0@{revision} n1#1 e4 Held [n1#1 n2#1]"),
    ];
    assert_eq!(silent(&mut parked, "n3"), removed);

    let mut sent = full();
    sent.see(wants(2, "n2,n1,n3"));
    sent.feed(super::moves::idle(4));
    assert_eq!(sent.hook(Ok(())), ["transfer 0 e4 to n2#1"]);
    let kept = [
        "revoke 0".to_owned(),
        "park 0 e5".to_owned(),
        format!("cas own.0@{revision} n1#1 e5 Held [n1#1 n2#1 n3#1] +subscribe"),
    ];
    assert_eq!(silent(&mut sent, "n3"), kept, "the set stays in the claim that abandons the switch");
    assert_eq!(sent.ack("own.0"), ["replicate 0 e5 n1#1 n2#1 n3#1 of 3", "on_own 0:e5 Abandoned"]);
    let revision = sent.last;
    let removed = [
        "serve 0 e5".to_owned(),
        "replicate 0 e5 n1#1 n2#1 n3#1 -> n1#1 n2#1 of 3".to_owned(),
        format!("cas own.0@{revision} n1#1 e5 Held [n1#1 n2#1]"),
    ];
    assert_eq!(sent.hook(Ok(())), removed);
}

#[test]
fn an_offer_is_refused_by_who_is_not_in_the_set_it_comes_with() {
    let set = [id("n2", 1), id("n3", 1)];
    let mut rig = ring(claim(3, &set, HELD), wants(1, "n1,n2"));
    let refused = offer_to(&mut rig, &set);
    assert_eq!(refused, ["answer Err(\"this node is not in the set that has copies of this partition\")"]);
}

#[test]
fn a_failing_start_gives_the_partition_back_and_says_who_has_copies() {
    let set = [id("n2", 1), id("n1", 1)];
    let mut rig = ring(claim(3, &set, HELD), wants(1, "n1,n2,n3"));
    offer_to(&mut rig, &set);
    rig.ack("own.0");
    let revision = rig.last;
    let released = rig.hook(Err("no disk"));
    assert_eq!(released[2], format!("cas own.0@{revision} n1#1 e4 Released [n1#1 n2#1]"));
}

#[test]
fn beside_a_member_that_keeps_no_copies_the_set_shrinks_and_moves_go_as_before() {
    let mut rig = full();
    let (key, Record::Plan(mut plan)) = wants(2, "n2") else { panic!("a plan") };
    plan.members[1].replicates = false;
    assert_eq!(rig.see((key, Record::Plan(plan))), ["park 0 e4"]);
    rig.feed(super::moves::idle(4));
    rig.hook(Ok(()));
    let revision = rig.last - 1;
    let offer = format!("offer 0 e4 @{revision} to n2#1");
    assert_eq!(rig.feed(super::moves::transferred(4)), ["revoke 0".to_owned(), offer]);
}

#[test]
fn a_leaving_node_waits_until_no_claim_lists_it() {
    let set = [id("n2", 1), id("n3", 1), id("n1", 1)];
    let mut rig = ring(claim(3, &set, HELD), wants(1, "n2,n3,n1"));
    rig.feed(Input::Drain);
    assert!(!rig.let_go_asked);
    rig.see(wants(2, "n2,n3"));
    assert!(!rig.let_go_asked);
    rig.see(claim(3, &set[..2], HELD));
    assert!(rig.let_go_asked);
}
