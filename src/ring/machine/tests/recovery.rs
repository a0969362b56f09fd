//! Taking over from an owner that is gone, where members of its set survive or do not: as lists of actions.

use std::time::Duration;

use super::copies::{HELD, all, claim, planned, ring, wants};
use super::rig::{LEASE_MS, Rig, id, lease, no_answer};
use crate::coord::{CasError, ClaimState, LeaseState, OnLoss, Record, RingConfig};
use crate::ring::event::Event;
use crate::ring::io::Input;
use crate::ring::machine::{Wait, WaitReport};
use crate::types::guard::{Guard, without};
use crate::types::{Epoch, NodeId, NodeName, PartitionId};

const P: PartitionId = PartitionId::new(0);
const RECOVERING: ClaimState = ClaimState::Recovering;

/// `n4` owned it with this set and is gone; the plan wants it at these.
fn orphaned(set: &[NodeId], row: &str) -> Rig {
    orphaned_as(set, &[id("n4", 1)], row, RingConfig::default(), HELD)
}

fn orphaned_as(set: &[NodeId], gone: &[NodeId], row: &str, config: RingConfig, state: ClaimState) -> Rig {
    let mut rig = ring(claim(3, set, state), wants(1, "n2"));
    rig.events.clear();
    assert!(rig.pending.is_empty());
    rig.see(planned(2, &all(), gone, row, config));
    rig
}

/// How long it is waited for a set of which nobody is left.
const SET_ENDS: Duration = Duration::from_millis(11 * LEASE_MS);

/// Time passes; all nodes live.
fn pass(rig: &mut Rig, ms: u64) {
    let end = rig.ms + ms;
    for beat in 100.. {
        if rig.ms >= end {
            return;
        }
        rig.beat_until((rig.ms + LEASE_MS / 4).min(end));
        rig.see(lease("n2", 1, beat, LeaseState::Live));
        rig.see(lease("n3", 1, beat, LeaseState::Live));
    }
}

fn recovered(in_sync: &[NodeId]) -> Input {
    Input::Recovered { partition: P, epoch: Epoch::new(4), result: Ok(in_sync.to_vec()) }
}

fn claims(rig: &Rig) -> usize {
    rig.pending.iter().filter(|pending| pending.key.text() == "own.0").count()
}

/// Taken over here, with `n2`; what it is asked is on its way.
fn recovering() -> Rig {
    let mut rig = orphaned(&[id("n4", 1), id("n1", 1), id("n2", 1)], "n1,n2,n3");
    assert_eq!(claims(&rig), 1);
    assert_eq!(rig.ack("own.0"), ["recover 0 e4 from n1#1 n2#1"]);
    assert_eq!(rig.events, [Event::Recovering { partition: P }]);
    rig
}

#[test]
fn a_member_takes_over_recovers_records_who_has_everything_and_serves() {
    let mut rig = recovering();
    let revision = rig.last;
    assert_eq!(rig.feed(recovered(&[id("n2", 1)])), [format!("cas own.0@{revision} n1#1 e4 Held [n1#1 n2#1]")]);
    assert!(rig.feed(recovered(&[])).is_empty(), "said once");
    assert_eq!(rig.ack("own.0"), ["replicate 0 e4 n1#1 n2#1 of 3", "on_own 0:e4 Takeover"]);
    assert_eq!(rig.hook(Ok(())), ["serve 0 e4", "replicate 0 e4 n1#1 n2#1 + n3#1 of 3"]);
}

#[test]
fn a_member_without_a_whole_copy_gives_the_partition_back_to_the_others_of_the_set() {
    let mut rig = recovering();
    let revision = rig.last;
    let nothing = Input::Recovered { partition: P, epoch: Epoch::new(4), result: Err("half a copy".to_owned()) };
    let actions = rig.feed(nothing);
    assert!(actions.contains(&format!("cas own.0@{revision} n1#1 e4 Released")), "{actions:?}");
    let released = rig.pending.iter().find_map(|pending| match &pending.record {
        Record::Own(claim) => Some(claim.replicas.clone()),
        _ => None,
    });
    assert_eq!(released, Some(vec![id("n2", 1)]));
    assert!(rig.events.contains(&Event::RecoveryFailed { partition: P, reason: "half a copy".to_owned() }));
}

#[test]
fn a_survivor_that_did_not_answer_is_not_recorded_and_nobody_is_that_was_no_member() {
    let mut rig = recovering();
    let revision = rig.last;
    assert_eq!(rig.feed(recovered(&[id("n3", 1)])), [format!("cas own.0@{revision} n1#1 e4 Held")]);
    assert_eq!(rig.ack("own.0"), ["replicate 0 e4 n1#1 of 3", "on_own 0:e4 Takeover"]);
}

#[test]
fn the_recovered_set_without_an_answer_is_sent_again_until_it_is_settled() {
    let timed_out = || {
        let mut rig = recovering();
        rig.feed(recovered(&[id("n2", 1)]));
        assert!(rig.fail("own.0", no_answer()).is_empty());
        rig
    };
    let started = ["replicate 0 e4 n1#1 n2#1 of 3", "on_own 0:e4 Takeover"];
    let mut landed = timed_out();
    assert_eq!(landed.see(claim(4, &[id("n1", 1), id("n2", 1)], HELD)), started);

    let mut repeated = timed_out();
    repeated.beat_until(repeated.ms + 250);
    assert_eq!(repeated.ack("own.0"), started);

    let mut lost = timed_out();
    lost.beat_until(lost.ms + 250);
    assert!(lost.fail("own.0", CasError::Conflict).is_empty());
    let taken = lost.see(claim(5, &[id("n2", 1), id("n1", 1)], RECOVERING));
    assert_eq!(taken, ["revoke 0", "forward 0", "forward 0", "unsubscribe 0", "keep copy 0 e5"]);
}

#[test]
fn a_recovering_owner_that_dies_is_followed_by_another_survivor() {
    let set = [id("n4", 1), id("n1", 1), id("n2", 1)];
    let mut rig = orphaned_as(&set, &[id("n4", 1)], "n1,n2", RingConfig::default(), RECOVERING);
    assert_eq!(rig.ack("own.0"), ["recover 0 e4 from n1#1 n2#1"]);
}

#[test]
fn only_a_member_takes_over_by_incarnation_and_of_several_the_first_that_is_planned() {
    // Planned here, and another has the copy.
    assert_eq!(claims(&orphaned(&[id("n4", 1), id("n2", 1)], "n1,n2,n3")), 0);
    // An earlier life of this node had it: the other one that had it goes on.
    assert_eq!(claims(&orphaned(&[id("n4", 1), id("n1", 7), id("n2", 1)], "n1,n2,n3")), 0);
    // Not the owner-to-be, but the first of the row that has a copy.
    assert_eq!(claims(&orphaned(&[id("n4", 1), id("n1", 1), id("n2", 1)], "n3,n1,n2")), 1);
    assert_eq!(claims(&orphaned(&[id("n4", 1), id("n1", 1), id("n2", 1)], "n3,n2,n1")), 0);
    // None of the row has one: the first by name.
    assert_eq!(claims(&orphaned(&[id("n4", 1), id("n1", 1), id("n2", 1)], "n3")), 1);
    // Its owner is not known to be gone.
    let unproven = orphaned_as(&[id("n4", 1), id("n1", 1)], &[], "n1", RingConfig::default(), HELD);
    assert_eq!(claims(&unproven), 0);
}

#[test]
fn what_was_given_back_goes_to_one_of_those_that_have_copies() {
    let given_back = |set: &[NodeId]| orphaned_as(set, &[], "n1,n2", RingConfig::default(), ClaimState::Released);
    let mut rig = given_back(&[id("n2", 1), id("n1", 1)]);
    assert_eq!(rig.ack("own.0"), ["recover 0 e4 from n1#1 n2#1"]);
    assert_eq!(claims(&given_back(&[id("n2", 1), id("n3", 1)])), 0);
}

#[test]
fn where_the_whole_set_is_gone_the_planned_owner_starts_empty_if_the_loss_is_accepted() {
    let (set, gone) = ([id("n4", 1), id("n5", 1)], [id("n4", 1), id("n5", 1)]);
    let mut rig = orphaned_as(&set, &gone, "n1,n2", RingConfig::default(), HELD);
    // Cut off from the store, they may go on by themselves for ten leases.
    assert_eq!(rig.events, [Event::StartsEmptyLater { partition: P, after: SET_ENDS }]);
    let lost: Vec<NodeName> = set.iter().map(|id| id.node.clone()).collect();
    let waits = |rig: &Rig| rig.machine.report().waits;
    let left = |left| vec![(P, WaitReport { wait: Wait::EmptyStart { left }, lost: lost.clone() })];
    assert_eq!(waits(&rig), left(SET_ENDS));
    pass(&mut rig, 11 * LEASE_MS - 1);
    assert_eq!(claims(&rig), 0);
    assert_eq!(waits(&rig), left(Duration::from_millis(1)));
    pass(&mut rig, LEASE_MS);
    assert_eq!(waits(&rig), []);
    assert_eq!(rig.events[1..], [Event::Lost { partition: P, accepted: true }]);
    let begun = rig.ack("own.0");
    assert_eq!(begun, ["discard 0", "replicate 0 e4 n1#1 of 3", "on_own 0:e4 Takeover"]);
    // One of them is not known to be gone.
    let unproven = orphaned_as(&set, &gone[..1], "n1,n2", RingConfig::default(), HELD);
    assert_eq!((claims(&unproven), waits(&unproven)), (0, Vec::new()));
    // Another node is to start it; this one says the same of it.
    let other = orphaned_as(&set, &gone, "n2,n1", RingConfig::default(), HELD);
    assert_eq!((claims(&other), waits(&other)), (0, left(SET_ENDS)));
}

#[test]
fn where_the_whole_set_is_gone_the_partition_waits_if_operators_say_so_and_says_it_once() {
    let (set, gone) = ([id("n4", 1), id("n5", 1)], [id("n4", 1), id("n5", 1)]);
    let mut wait = RingConfig::default();
    wait.on_loss = OnLoss::Wait;
    let mut rig = orphaned_as(&set, &gone, "n1,n2", wait.clone(), HELD);
    assert_eq!((claims(&rig), rig.events.clone()), (0, vec![Event::Lost { partition: P, accepted: false }]));
    rig.see(planned(3, &all(), &gone, "n1,n3", wait));
    assert_eq!(rig.events.len(), 1);
    pass(&mut rig, 12 * LEASE_MS);
    let lost = set.iter().map(|id| id.node.clone()).collect();
    assert_eq!(rig.machine.report().waits, [(P, WaitReport { wait: Wait::Acceptance, lost })]);
    rig.see(planned(4, &all(), &gone, "n1,n3", RingConfig::default()));
    assert_eq!(claims(&rig), 1, "accepted now, and whoever was cut off serves no more");
}

#[test]
fn what_the_last_node_gave_back_as_it_left_waits_if_operators_say_so() {
    let mut wait = RingConfig::default();
    wait.on_loss = OnLoss::Wait;
    let (key, Record::Own(mut last)) = claim(3, &[id("n4", 1)], ClaimState::Released) else { panic!("a claim") };
    last.replicas.clear();
    let mut rig = ring((key, Record::Own(last)), wants(1, "n2"));
    rig.events.clear();
    rig.see(planned(2, &all(), &[], "n1,n2", wait));
    assert_eq!((claims(&rig), rig.events.clone()), (0, vec![Event::Lost { partition: P, accepted: false }]));
    rig.see(planned(3, &all(), &[], "n1,n3", RingConfig::default()));
    assert_eq!(claims(&rig), 1, "accepted now");
}

#[test]
fn where_the_owner_was_alone_in_its_set_nobody_is_waited_for_but_where_it_was_recovering_others_may_go_on() {
    let (set, gone) = ([id("n4", 1)], [id("n4", 1)]);
    let rig = orphaned_as(&set, &gone, "n1,n2", RingConfig::default(), HELD);
    assert_eq!((claims(&rig), rig.events), (1, vec![Event::Lost { partition: P, accepted: true }]));
    // It may have claimed, and promised nothing yet to the set that it recovers from.
    let mut rig = orphaned_as(&set, &gone, "n1,n2", RingConfig::default(), RECOVERING);
    assert_eq!(
        (claims(&rig), rig.events.clone()),
        (0, vec![Event::StartsEmptyLater { partition: P, after: SET_ENDS }])
    );
    pass(&mut rig, 11 * LEASE_MS);
    assert_eq!(claims(&rig), 1);
}

#[test]
fn without_that_wait_it_starts_beside_a_set_that_may_still_serve() {
    let _off = without(&[Guard::WaitBeforeEmptyStart]);
    let both = [id("n4", 1), id("n5", 1)];
    assert_eq!(claims(&orphaned_as(&both, &both, "n1,n2", RingConfig::default(), HELD)), 1);
}
