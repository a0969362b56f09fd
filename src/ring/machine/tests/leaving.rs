//! Leaving: drains, hooks that hang, giving up.

use std::time::Duration;

use super::rig::{BEAT_MS, Rig, claim, id, lease, member, plan, timing};
use crate::coord::{ClaimState, LeaseState, Record};
use crate::ring::event::Event;
use crate::ring::io::Input;
use crate::types::{Epoch, PartitionId};

/// `n1`, alone, serves both partitions at epoch 1.
fn alone() -> Rig {
    let mut rig = Rig::joined(2, vec![]);
    rig.beat_until(600);
    rig.ack("plan");
    for partition in ["own.0", "own.1"] {
        rig.ack_after_watch(partition);
        rig.hook(Ok(()));
    }
    rig
}

fn idle(partition: u16) -> Input {
    Input::Idle { partition: PartitionId::new(partition), epoch: Epoch::new(1) }
}

#[test]
fn the_last_node_releases_to_nobody_lingers_and_gives_its_lease_up() {
    let mut rig = alone();
    let drain = rig.feed(Input::Drain);
    assert!(drain[0].ends_with("#1 Draining not []"), "{drain:?}");
    let planned = rig.ack("member.n1");
    assert!(planned[0].ends_with("rows - -"), "{planned:?}");
    assert_eq!(rig.ack("plan"), ["park 0 e1", "park 1 e1"]);
    for (partition, own) in [(0, "own.0"), (1, "own.1")] {
        assert_eq!(rig.feed(idle(partition)), [format!("on_release {partition}:e1 Handoff")]);
        let released = rig.hook(Ok(()));
        assert!(released[2].ends_with("n1#1 e1 Released"), "{released:?}");
        assert_eq!(
            rig.ack(own)[..3],
            [format!("forward {partition}"), format!("unsubscribe {partition}"), format!("discard {partition}")]
        );
    }
    let emptied = rig.ms;
    assert!(rig.let_go_asked, "its subscriptions are let go of");
    assert!(rig.feed(Input::LetGone).is_empty(), "it lingers");
    let linger = u64::try_from(timing().linger.as_millis()).unwrap();
    assert!(rig.beat_until(emptied + linger - 1).is_empty());
    let left = rig.beat_until(emptied + linger);
    assert_eq!(left[0], "gate closed");
    assert!(left.iter().any(|action| action.starts_with("cas member.n1") && action.contains("Left")), "{left:?}");
    let last = rig.pending.iter().filter(|p| p.key.text() == "lease.n1");
    assert!(last.clone().count() == 1, "{:?}", rig.pending);
    rig.ack("member.n1");
    assert_eq!(rig.ack("lease.n1"), ["gate closed", "finish Left"]);
}

#[test]
fn a_heartbeat_on_its_way_is_waited_for_before_the_lease_is_given_up() {
    let mut rig = alone();
    let beat = rig.machine.next_wake().unwrap().as_nanos() / 1_000_000;
    assert!(rig.wake_at(beat)[0].starts_with("cas lease.n1"));
    let gave_up = rig.give_up("tired");
    assert!(
        gave_up[0] == "gate closed" && !gave_up.iter().any(|action| action.starts_with("cas lease")),
        "{gave_up:?}"
    );
    let left = rig.ack("lease.n1");
    assert_eq!(left.len(), 1, "the gate stays closed: {left:?}");
    assert!(left[0].starts_with(&format!("cas lease.n1@{} ", rig.last)) && left[0].ends_with("Left"), "{left:?}");
    assert_eq!(rig.ack("lease.n1").last().unwrap(), "finish GaveUp(\"tired\")");
}

#[test]
fn whoever_gave_up_calls_no_hook_any_more() {
    let mut rig = alone();
    rig.feed(Input::Drain);
    rig.ack("member.n1");
    rig.ack("plan");
    rig.give_up("tired");
    assert!(rig.feed(idle(0)).is_empty());
}

#[test]
fn a_node_beyond_repair_drains_and_says_why_in_the_end() {
    let mut rig = alone();
    let drain = rig.feed(Input::GiveUp("a task kept failing".to_owned()));
    assert!(drain[0].starts_with("cas member.n1") && drain[0].contains("Draining"), "{drain:?}");
    rig.ack("member.n1");
    rig.ack("plan");
    for (partition, own) in [(0, "own.0"), (1, "own.1")] {
        rig.feed(idle(partition));
        rig.hook(Ok(()));
        rig.ack(own);
    }
    rig.feed(Input::LetGone);
    let linger = u64::try_from(timing().linger.as_millis()).unwrap();
    rig.beat_until(rig.ms + linger);
    rig.ack("member.n1");
    assert_eq!(rig.ack("lease.n1").last().unwrap(), "finish GaveUp(\"a task kept failing\")");
}

#[test]
fn two_nodes_that_drain_at_once_give_each_other_nothing() {
    let mut rig = alone();
    rig.feed(Input::Drain);
    let refused = rig.offer(0, 1, 1, id("n2", 1));
    assert_eq!(refused, ["answer Err(\"draining\")"]);
    let other = member("n2", 1, 90);
    let Record::Member(mut draining) = other.1 else { unreachable!() };
    draining.state = crate::coord::MemberState::Draining;
    rig.see(lease("n2", 1, 0, LeaseState::Live));
    rig.see((other.0, Record::Member(draining)));
    rig.ack("member.n1");
    assert!(rig.beat_until(rig.ms + BEAT_MS).iter().all(|action| !action.contains("transfer")));
    let planned: Vec<&Record> = rig.pending.iter().map(|pending| &pending.record).collect();
    assert!(
        planned
            .iter()
            .all(|record| !matches!(record, Record::Plan(plan) if plan.rows.iter().any(|row| !row.is_empty())))
    );
}

#[test]
fn a_drain_that_does_not_finish_in_time_gives_the_lease_up() {
    let mut rig = alone();
    rig.feed(Input::Drain);
    let limit = u64::try_from(timing().drain_timeout.as_millis()).unwrap();
    rig.beat_until(rig.ms + limit);
    rig.ack("member.n1");
    assert!(
        rig.pending.iter().any(|p| matches!(&p.record, Record::Lease(l) if l.state == LeaseState::Left)),
        "{:?}",
        rig.pending
    );
}

#[test]
fn a_hook_that_meets_its_limit_costs_the_node_its_lease_and_is_reported_once() {
    let members = [(id("n2", 1), 1), (id("n1", 1), 3)];
    let records = vec![lease("n2", 1, 1, LeaseState::Live), member("n2", 1, 1), plan(1, &members, &[], "n1 n1")];
    let mut rig = Rig::with(2, crate::ring::settings::Timing { hook_slow: Duration::from_secs(1), ..timing() });
    rig.join(records);
    let [first, second] = [rig.pending[0].clone(), rig.pending[1].clone()];
    let updates = [first, second].into_iter().map(|pending| rig.put((pending.key, pending.record))).collect();
    assert_eq!(rig.feed(Input::RingSnapshot(updates)), ["on_own 0:e1 1:e1 Initial"]);
    let began = rig.ms;
    rig.beat_until(began + 4999);
    assert_eq!(rig.events.iter().filter(|event| matches!(event, Event::HookSlow { .. })).count(), 1);
    let hung = rig.beat_until(began + 5000);
    assert_eq!(hung[0], "gate closed");
    assert_eq!(rig.events.iter().filter(|event| matches!(event, Event::HookHung { .. })).count(), 1);
    while !rig.pending.iter().any(|p| matches!(&p.record, Record::Lease(l) if l.state == LeaseState::Left)) {
        rig.ack("lease.n1");
    }
    assert_eq!(rig.ack("lease.n1").last().unwrap(), "finish HookHung");
}

#[test]
fn a_partition_lost_while_it_starts_is_released_after_its_start() {
    let mut rig = Rig::joined(2, vec![]);
    rig.beat_until(600);
    rig.ack("plan");
    rig.ack("own.0");
    let lost = rig.see(claim(0, id("n2", 1), 2, ClaimState::Held));
    assert_eq!(lost, ["revoke 0", "forward 0"]);
    assert_eq!(rig.hook(Ok(())), ["on_release 0:e1 Lost"]);
    assert_eq!(rig.hook(Ok(())), ["forward 0", "unsubscribe 0", "discard 0"]);
}

/// The plan in which `n1` leaves, and `n2` as well or not.
fn leaving_plan(version: u64, rows: &str, n2_leaves: bool) -> (crate::coord::Key, Record) {
    let (key, record) = plan(version, &[(id("n2", 1), 1), (id("n1", 1), 3)], &[], rows);
    let Record::Plan(mut plan) = record else { unreachable!() };
    (plan.members[0].draining, plan.members[1].draining) = (n2_leaves, true);
    (key, Record::Plan(plan))
}

/// Seed 4 of the campaign of real faults: NATS had been away, to the coordinator all others seemed frozen, and a node that
/// drained gave its partitions back to nobody: their entries were lost.
#[test]
fn a_leaving_node_gives_nothing_back_to_nobody_while_a_member_stays_that_was_only_silent() {
    let members = [(id("n2", 1), 1), (id("n1", 1), 3)];
    let records = vec![lease("n2", 1, 1, LeaseState::Live), member("n2", 1, 1), plan(1, &members, &[], "n1 n1")];
    let mut rig = Rig::joined(2, records);
    rig.ack_after_watch("own.0");
    rig.hook(Ok(()));
    rig.ack_after_watch("own.1");
    rig.hook(Ok(()));
    rig.feed(Input::Drain);
    rig.ack("member.n1");
    assert!(rig.see(leaving_plan(2, "- -", false)).is_empty(), "n2 may be planned for again");
    assert_eq!(rig.see(leaving_plan(3, "n2 -", false)), ["park 0 e1"]);
    assert_eq!(rig.see(leaving_plan(4, "n2 -", true)), ["park 1 e1"], "nobody stays");
}
