//! This node's own lease: taking it, renewing it, being suspended, losing it.

use super::rig::{BEAT_MS, LEASE_MS, Rig, claim, id, lease, member, no_answer, plan};
use crate::coord::{CasError, ClaimState, Key, LeaseState, Record};
use crate::ring::event::Event;
use crate::ring::io::Input;
use crate::types::Generation;

fn seeking(records: Vec<(crate::coord::Key, crate::coord::Record)>) -> Rig {
    let mut rig = Rig::new(1);
    let leases = records.into_iter().map(|record| rig.put(record)).collect();
    rig.feed(Input::LeaseSnapshot { all: false, leases });
    rig
}

/// `n1` serves partition 0 of a ring of its own at epoch 1.
fn serving() -> Rig {
    let mut rig = Rig::joined(1, vec![]);
    rig.beat_until(600);
    rig.ack("plan");
    rig.ack("own.0");
    assert_eq!(rig.hook(Ok(())), ["serve 0 e1"]);
    rig
}

#[test]
fn a_creation_that_may_have_landed_earlier_counts_from_the_first_one_sent() {
    let mut rig = seeking(vec![]);
    rig.feed(Input::RingSnapshot(vec![]));
    for ms in [BEAT_MS, 2 * BEAT_MS] {
        rig.ms = ms;
        assert_eq!(rig.fail("lease.n1", no_answer()), ["cas lease.n1@0 #1 beat 0 Live"]);
    }
    rig.ms = 3 * BEAT_MS;
    assert!(rig.fail("lease.n1", CasError::Conflict).is_empty());
    // Any of the three may be it: 3/4 of a lease after the first.
    assert_eq!(rig.see(lease("n1", 1, 0, LeaseState::Live))[0], format!("gate until {}", LEASE_MS * 3 / 4));
}

/// It was stopped between the creation of its lease and its acknowledgement, for longer than a lease.
#[test]
fn a_node_evicted_before_its_creation_is_acknowledged_is_lost_at_once() {
    let mut rig = seeking(vec![]);
    rig.feed(Input::RingSnapshot(vec![]));
    rig.ms = 2 * LEASE_MS;
    let actions = rig.ack_after("lease.n1", lease("n1", 1, 0, LeaseState::Evicted));
    assert_eq!(actions.last().map(String::as_str), Some("finish Evicted"), "{actions:?}");
}

/// A store under a change of leader refuses without reason: no later revision will ever be seen then.
#[test]
fn a_creation_that_was_lost_and_then_refused_without_reason_is_sent_again() {
    let mut rig = seeking(vec![]);
    rig.feed(Input::RingSnapshot(vec![]));
    rig.ms = BEAT_MS;
    assert_eq!(rig.fail("lease.n1", no_answer()), ["cas lease.n1@0 #1 beat 0 Live"]);
    assert!(rig.fail("lease.n1", CasError::Conflict).is_empty());
    assert_eq!(rig.wake_at(BEAT_MS + BEAT_MS / 4 + 1), ["cas lease.n1@0 #1 beat 0 Live"]);
}

/// What was seen of the name is older than what is there, and the watch lags.
#[test]
fn a_creation_that_is_refused_is_not_sent_again_at_once_but_by_what_is_seen_then() {
    let mut rig = seeking(vec![lease("n1", 1, 3, LeaseState::Left)]);
    let seen = rig.last;
    let sent = rig.feed(Input::RingSnapshot(vec![]));
    assert_eq!(sent, [format!("cas lease.n1@{seen} #2 beat 0 Live")]);
    assert_eq!(rig.fail("lease.n1", CasError::Conflict), [""; 0]);
    assert_eq!(rig.wake_at(BEAT_MS / 4 - 1), [""; 0]);
    assert_eq!(rig.wake_at(BEAT_MS / 4), [format!("cas lease.n1@{seen} #2 beat 0 Live")]);
    assert_eq!(rig.fail("lease.n1", CasError::Conflict), [""; 0]);
    let again = rig.see(lease("n1", 2, 1, LeaseState::Left));
    assert_eq!(again, [format!("cas lease.n1@{} #3 beat 0 Live", rig.last)]);
}

/// A plan of that generation.
fn planned_in(generation: u64) -> (Key, Record) {
    let (key, record) = plan(1, &[(id("n2", 1), 1)], &[], "n2");
    let Record::Plan(record) = record else { unreachable!() };
    (key, Record::Plan(crate::coord::PlanRecord { generation: Generation::new(generation), ..record }))
}

#[test]
fn a_newcomer_right_after_a_reset_takes_no_lease_until_the_gates_of_the_former_generation_are_closed() {
    let mut rig = Rig::after_a_reset(1);
    rig.feed(Input::LeaseSnapshot { all: false, leases: vec![] });
    // As it is after the store lost its last writes: the plan of before is still there.
    let former = rig.put(planned_in(1));
    assert_eq!(rig.feed(Input::RingSnapshot(vec![former])), [""; 0]);
    assert_eq!(rig.wake_at(LEASE_MS - 1), [""; 0]);
    assert_eq!(rig.machine.next_wake().unwrap().as_nanos() / 1_000_000, LEASE_MS);
    assert_eq!(rig.wake_at(LEASE_MS), ["cas lease.n1@0 #1 beat 0 Live"]);
}

#[test]
fn a_newcomer_to_a_generation_that_has_a_plan_waits_for_nothing() {
    let mut rig = Rig::after_a_reset(1);
    rig.feed(Input::LeaseSnapshot { all: false, leases: vec![] });
    let current = rig.put(planned_in(2));
    assert_eq!(rig.feed(Input::RingSnapshot(vec![current])), ["cas lease.n1@0 #1 beat 0 Live"]);
}

#[test]
fn a_write_that_never_left_is_not_tried_again_at_once() {
    let not_sent = || CasError::NotSent("not connected".to_owned());
    let mut rig = seeking(vec![]);
    rig.feed(Input::RingSnapshot(vec![]));
    assert!(rig.fail("lease.n1", not_sent()).is_empty());
    assert_eq!(rig.wake_at(BEAT_MS / 4), ["cas lease.n1@0 #1 beat 0 Live"]);

    let mut rig = serving();
    let beat = rig.machine.next_wake().unwrap().as_nanos() / 1_000_000;
    assert_eq!(rig.wake_at(beat).len(), 1);
    assert!(rig.fail("lease.n1", not_sent()).is_empty());
    assert_eq!(rig.wake_at(beat + BEAT_MS / 4).len(), 1);
}

#[test]
fn a_write_that_nobody_answered_at_once_is_not_tried_again_at_once() {
    let mut rig = seeking(vec![]);
    rig.feed(Input::RingSnapshot(vec![]));
    assert!(rig.fail("lease.n1", no_answer()).is_empty());
    assert_eq!(rig.wake_at(BEAT_MS / 4), ["cas lease.n1@0 #1 beat 0 Live"]);

    let mut rig = serving();
    let beat = rig.machine.next_wake().unwrap().as_nanos() / 1_000_000;
    assert_eq!(rig.wake_at(beat).len(), 1);
    rig.ms = beat + 1;
    assert!(rig.fail("lease.n1", no_answer()).is_empty());
    assert!(rig.wake_at(beat + BEAT_MS / 4 - 1).is_empty());
    assert_eq!(rig.wake_at(beat + BEAT_MS / 4).len(), 1);
}

#[test]
fn the_gate_closes_three_quarters_of_a_lease_after_the_last_acknowledged_beat_was_sent_and_opens_with_the_next() {
    let mut rig = serving();
    let sent = rig.machine.next_wake().unwrap().as_nanos() / 1_000_000;
    assert!(rig.wake_at(sent)[0].starts_with("cas lease.n1"));
    rig.ms = sent + BEAT_MS - 1;
    assert_eq!(rig.ack("lease.n1"), [format!("gate until {}", sent + LEASE_MS * 3 / 4)]);
    rig.wake_at(sent + BEAT_MS);
    rig.events.clear();
    let end = sent + LEASE_MS * 3 / 4;
    rig.wake_at(end - 1);
    assert_eq!(rig.events, []);
    rig.wake_at(end);
    assert_eq!(rig.events, [Event::Suspended]);
    rig.ms = end + 500;
    // The acknowledgement of a beat sent too long ago opens nothing, the next one does.
    let late = rig.ack("lease.n1");
    assert_eq!(late[0], format!("gate until {}", sent + BEAT_MS + LEASE_MS * 3 / 4));
    assert!(late[1].starts_with("cas lease.n1") && late.len() == 2, "{late:?}");
    rig.ms += 1;
    // Nobody evicted it: no hook, no claim, no other epoch.
    assert_eq!(rig.ack("lease.n1"), [format!("gate until {}", end + 500 + LEASE_MS * 3 / 4)]);
    assert!(matches!(rig.events[1..], [Event::Resumed { .. }]), "{:?}", rig.events);
}

#[test]
fn an_evicted_node_tells_its_service_and_ends() {
    let mut rig = serving();
    let evicted = rig.see(lease("n1", 1, 9, LeaseState::Evicted));
    assert_eq!(evicted, ["gate closed", "revoke 0", "forward 0", "on_release 0:e1 Lost"]);
    assert_eq!(rig.hook(Ok(())), ["forward 0", "unsubscribe 0", "discard 0", "gate closed", "finish Evicted"]);
    assert!(rig.wake_at(9_000_000).is_empty());
}

#[test]
fn a_heartbeat_conflict_is_settled_by_the_watch_of_the_own_lease() {
    let mut rig = serving();
    let beat = rig.machine.next_wake().unwrap().as_nanos() / 1_000_000;
    let first = rig.wake_at(beat);
    // It landed, and its acknowledgement was lost.
    let landed = rig.last + 1;
    rig.last += 1;
    rig.ms = beat + BEAT_MS;
    assert_eq!(rig.fail("lease.n1", no_answer()).len(), 1, "{first:?}");
    assert!(rig.fail("lease.n1", CasError::Conflict).is_empty());
    let update = crate::coord::Update {
        key: lease("n1", 1, 1, LeaseState::Live).0,
        revision: crate::coord::Revision(landed),
        record: lease("n1", 1, 1, LeaseState::Live).1,
    };
    assert!(rig.see_at(update).is_empty());
    let next = rig.wake_at(beat + BEAT_MS + BEAT_MS / 4);
    assert!(next[0].starts_with(&format!("cas lease.n1@{landed} ")), "{next:?}");
}

#[test]
fn beats_stop_half_a_lease_after_the_data_connection_is_cut() {
    let mut rig = serving();
    let cut = rig.ms;
    rig.feed(Input::Connection(false));
    let mut last = cut;
    for ms in cut..cut + 3 * LEASE_MS {
        if !rig.wake_at(ms).is_empty() {
            last = ms;
            rig.ack("lease.n1");
        }
    }
    let half = LEASE_MS / 2;
    assert!((cut + half - BEAT_MS..cut + half).contains(&last), "cut at {cut}, last beat at {last}");
    assert_eq!(rig.events.last(), Some(&Event::Suspended));
}

#[test]
fn a_name_that_is_renewed_twice_is_refused() {
    let mut rig = seeking(vec![lease("n1", 4, 7, LeaseState::Live)]);
    assert!(rig.feed(Input::RingSnapshot(vec![])).is_empty());
    assert!(rig.see(lease("n1", 4, 8, LeaseState::Live)).is_empty(), "one may have been on its way");
    let refused = rig.see(lease("n1", 4, 9, LeaseState::Live));
    assert!(refused[1].starts_with("finish NameLive { holder: n1#4"), "{refused:?}");
}

#[test]
fn a_name_that_is_not_renewed_is_taken_after_a_full_lease_whatever_else_is_seen() {
    let mut rig = seeking(vec![lease("n1", 4, 7, LeaseState::Live)]);
    let ring: Vec<_> =
        [member("n2", 1, 1), member("n3", 1, 2), claim(0, id("n2", 1), 1, ClaimState::Held)].into_iter().collect();
    let ring = ring.into_iter().map(|record| rig.put(record)).collect();
    assert!(rig.feed(Input::RingSnapshot(ring)).is_empty());
    assert!(rig.see(plan(1, &[(id("n2", 1), 1)], &[], "n2")).is_empty());
    assert!(rig.wake_at(LEASE_MS - 1).is_empty());
    assert_eq!(rig.wake_at(LEASE_MS), ["cas lease.n1@1 #5 beat 0 Live"]);
}

#[test]
fn a_dead_name_is_taken_at_once_where_its_lease_says_so() {
    for state in [LeaseState::Left, LeaseState::Evicted] {
        let mut rig = seeking(vec![lease("n1", 4, 7, state)]);
        assert_eq!(rig.feed(Input::RingSnapshot(vec![])), ["cas lease.n1@1 #5 beat 0 Live"]);
    }
}

#[test]
fn a_name_is_not_taken_while_cut_off_and_its_lease_is_observed_anew_after_it() {
    let mut rig = seeking(vec![lease("n1", 4, 7, LeaseState::Live)]);
    rig.feed(Input::RingSnapshot(vec![]));
    rig.feed(Input::Connection(false));
    assert!(rig.wake_at(2 * LEASE_MS).is_empty());
    assert!(rig.feed(Input::Connection(true)).is_empty());
    assert!(rig.wake_at(3 * LEASE_MS - 1).is_empty());
    assert_eq!(rig.wake_at(3 * LEASE_MS), ["cas lease.n1@1 #5 beat 0 Live"]);
}

#[test]
fn another_life_of_the_store_ends_the_incarnation_after_its_losses_are_told() {
    let mut rig = serving();
    let reset = rig.feed(Input::StoreReset("went back".to_owned()));
    assert_eq!(reset, ["gate closed", "revoke 0", "forward 0", "on_release 0:e1 Lost"]);
    assert_eq!(rig.hook(Ok(())).last().unwrap(), "finish StoreReset(\"went back\")");
}
