//! Places that are kept for who may come back: what the coordinator plans, and until when.

use super::rig::{LEASE_MS, Rig, id, lease, member, name};
use crate::coord::{
    Claim, ClaimState, KeptPlaces, Key, LeaseState, MemberState, PlanMember, PlanRecord, Record, RingConfig,
};
use crate::ring::event::{Event, PlacesEnd};
use crate::types::{Consistency, Epoch, Generation, NodeId, PartitionId};

const PARTITIONS: u16 = 8;
const NODES: [&str; 4] = ["n2", "n3", "n4", "n5"];
const DELAY_MS: u64 = 20 * LEASE_MS;

fn said(node: &str, start: u64, state: MemberState, return_ms: u64) -> (Key, Record) {
    let since = 1000 + start * 10 + u64::from(node.as_bytes()[1]);
    let (key, Record::Member(record)) = member(node, start, since) else { panic!("a member") };
    (key, Record::Member(crate::coord::Member { state, return_ms, replicates: true, ..record }))
}

/// `n1` plans for the others, which are younger and have what it has planned; itself it gets nothing.
fn coordinating(consistency: Consistency, evicted_ms: u64) -> Rig {
    let cordoned = [name("n1")].into();
    let mut config = RingConfig::default();
    (config.cordoned, config.consistency) = (cordoned, consistency);
    let mut records = vec![(Key::Config, Record::Config(Ok(config)))];
    for node in NODES {
        records.extend([lease(node, 1, 1, LeaseState::Live), said(node, 1, MemberState::Active, evicted_ms)]);
    }
    let mut rig = Rig::with_copies(PARTITIONS, records);
    settle(&mut rig);
    rig
}

/// Others renew their leases, and the plan is carried out.
fn settle(rig: &mut Rig) {
    for _ in 0..4 {
        let until = rig.ms + LEASE_MS / 4;
        live_until(rig, until, &NODES);
        if rig.pending.iter().any(|pending| pending.key == Key::Plan) {
            rig.ack_after_watch("plan");
        }
    }
    carry_out(rig);
}

fn live_until(rig: &mut Rig, until: u64, nodes: &[&str]) {
    while rig.ms < until {
        let next = (rig.ms + LEASE_MS / 6).min(until);
        rig.beat_until(next);
        for node in nodes {
            let Some(seen) = rig.machine.view.leases.get(&name(node)).map(|seen| seen.record.clone()) else { continue };
            if seen.state == LeaseState::Live {
                let beat = seen.beat + 1;
                rig.see((Key::Lease(name(node)), Record::Lease(crate::coord::Lease { beat, ..seen })));
            }
        }
    }
}

fn plan_of(rig: &Rig) -> PlanRecord {
    rig.machine.view.plan.as_ref().unwrap().record.clone()
}

/// Claims as the plan has it.
fn carry_out(rig: &mut Rig) {
    let plan = plan_of(rig);
    let id_of = |name: &crate::types::NodeName| {
        plan.members.iter().map(|m: &PlanMember| &m.id).find(|id| id.node == *name).unwrap().clone()
    };
    for (row, partition) in plan.rows.iter().zip(0..) {
        let replicas: Vec<NodeId> = row.iter().map(id_of).collect();
        let (generation, epoch, owner) = (Generation::new(1), Epoch::new(rig.last), replicas[0].clone());
        let claim = Claim { generation, epoch, owner, replicas, state: ClaimState::Held };
        rig.see((Key::Own(PartitionId::new(partition)), Record::Own(claim)));
    }
}

/// The plan that is on its way, once it has landed.
fn planned(rig: &mut Rig) -> PlanRecord {
    rig.ack_after_watch("plan");
    plan_of(rig)
}

fn had(plan: &PlanRecord, node: &str) -> Vec<PartitionId> {
    let rows = plan.rows.iter().zip(0..).filter(|(row, _)| row.contains(&name(node)));
    rows.map(|(_, partition)| PartitionId::new(partition)).collect()
}

fn kept(plan: &PlanRecord) -> Vec<(&str, &[PartitionId])> {
    plan.kept.iter().map(|KeptPlaces { id, partitions, .. }| (id.node.as_str(), &partitions[..])).collect()
}

fn leaves(rig: &mut Rig, node: &str) {
    let seen = rig.machine.view.leases[&name(node)].record.clone();
    rig.see((Key::Lease(name(node)), Record::Lease(crate::coord::Lease { state: LeaseState::Left, ..seen })));
}

/// Those without a place of `node` are as they were; where it had one, the others keep theirs, and nobody is new.
fn assert_only_without(before: &PlanRecord, after: &PlanRecord, node: &str) {
    for (before, after) in before.rows.iter().zip(&after.rows) {
        let mut rest: Vec<_> = before.iter().filter(|other| **other != name(node)).collect();
        let mut now: Vec<_> = after.iter().collect();
        rest.sort();
        now.sort();
        assert_eq!(now, rest, "{before:?} {after:?}");
    }
}

/// `n3` drains to come back, and leaves.
fn left_to_return(rig: &mut Rig) -> (PlanRecord, PlanRecord) {
    let before = plan_of(rig);
    rig.see(said("n3", 1, MemberState::Draining, DELAY_MS));
    let draining = planned(rig);
    assert_eq!(kept(&draining), [("n3", &had(&before, "n3")[..])]);
    assert_only_without(&before, &draining, "n3");
    carry_out(rig);
    leaves(rig, "n3");
    let left = planned(rig);
    assert_eq!((&left.rows, &left.kept), (&draining.rows, &draining.kept));
    assert!(!left.members.iter().any(|member| member.id.node == name("n3")));
    (before, left)
}

#[test]
fn a_node_that_drains_to_come_back_is_not_replaced_before_its_time_is_over() {
    let mut rig = coordinating(Consistency::Quorum, 0);
    let (before, left) = left_to_return(&mut rig);
    let places = had(&before, "n3").len();
    let within = std::time::Duration::from_millis(DELAY_MS);
    assert!(rig.events.contains(&Event::PlacesKept { node: name("n3"), places, within }), "{:?}", rig.events);
    let end = rig.ms + DELAY_MS;
    live_until(&mut rig, end - 1, &NODES);
    assert!(rig.pending.is_empty(), "{:?}", rig.pending);
    let report = rig.machine.report().places_kept;
    assert_eq!((report[0].node.as_str(), report[0].places), ("n3", places));
    assert_eq!(report[0].remaining.as_millis(), 1);
    live_until(&mut rig, end, &NODES);
    let after = planned(&mut rig);
    assert!(after.kept.is_empty() && after.rows.iter().all(|row| row.len() == 3), "{after:?}");
    assert_ne!(after.rows, left.rows);
    assert!(rig.events.contains(&Event::PlacesEnded { node: name("n3"), end: PlacesEnd::GivenUp }));
}

#[test]
fn a_node_that_is_back_in_time_gets_the_places_it_had_and_nobody_else_gets_any() {
    let mut rig = coordinating(Consistency::Eventual, 0);
    let (before, left) = left_to_return(&mut rig);
    let nearly = rig.ms + DELAY_MS - 50;
    live_until(&mut rig, nearly, &NODES);
    rig.see(lease("n3", 2, 1, LeaseState::Live));
    rig.see(said("n3", 2, MemberState::Active, 0));
    // Its time is over while it waits to be planned.
    let until = rig.ms + 600;
    live_until(&mut rig, until, &NODES);
    let back = planned(&mut rig);
    assert_eq!(had(&back, "n3"), had(&before, "n3"));
    assert_only_without(&back, &left, "n3");
    assert_eq!(back.kept, left.kept, "it has not caught up yet");
    assert!(rig.events.contains(&Event::PlacesEnded { node: name("n3"), end: PlacesEnd::Returned }));
    assert!(rig.machine.report().places_kept.is_empty());
    // Another coordinator's view of it: nothing of it is in sync, and it stays planned there.
    rig.machine.coordination.sound_at = None;
    live_until(&mut rig, until + LEASE_MS, &NODES);
    assert!(rig.pending.is_empty(), "{:?}", rig.pending);
    carry_out(&mut rig);
    let settled = planned(&mut rig);
    assert_eq!((settled.rows, settled.kept.len()), (back.rows, 0));
}

#[test]
fn an_evicted_node_is_replaced_at_once_unless_it_said_otherwise() {
    for (evicted_ms, waits) in [(0, false), (DELAY_MS, true)] {
        let mut rig = coordinating(Consistency::Quorum, evicted_ms);
        let before = plan_of(&rig);
        let others = ["n2", "n4", "n5"];
        let until = rig.ms + 2 * LEASE_MS;
        while !rig.pending.iter().any(|pending| pending.key == Key::Lease(name("n3"))) {
            assert!(rig.ms < until, "evicted");
            let next = rig.ms + LEASE_MS / 6;
            live_until(&mut rig, next, &others);
        }
        rig.ack("lease.n3");
        let after = planned(&mut rig);
        let full = after.rows.iter().all(|row| row.len() == 3);
        assert_eq!((kept(&after).is_empty(), full), (!waits, !waits), "{after:?}");
        assert!(after.rows.iter().all(|row| row.len() >= 2 && !row.contains(&name("n3"))));
        if waits {
            assert_only_without(&before, &after, "n3");
        }
    }
}

/// A strong write needs every copy.
#[test]
fn where_writes_are_strong_nobody_is_waited_for() {
    let mut rig = coordinating(Consistency::Strong, DELAY_MS);
    rig.see(said("n3", 1, MemberState::Draining, DELAY_MS));
    let after = planned(&mut rig);
    assert!(after.kept.is_empty() && after.rows.iter().all(|row| row.len() == 3), "{after:?}");
}

/// A quorum could not be had with one of three.
#[test]
fn who_goes_second_is_replaced_where_one_copy_would_be_left() {
    let mut rig = coordinating(Consistency::Quorum, 0);
    left_to_return(&mut rig);
    rig.see(said("n4", 1, MemberState::Draining, DELAY_MS));
    let after = planned(&mut rig);
    let missing: Vec<usize> = after.rows.iter().map(|row| 3 - row.len()).collect();
    // Two members are left: each partition has a copy at both, and what is kept withholds nothing.
    assert_eq!(missing, [1; PARTITIONS as usize], "{after:?}");
    assert!(after.kept.is_empty(), "{after:?}");
}

/// Whoever comes to write the plan goes on counting from when it saw it itself.
#[test]
fn a_new_coordinator_gives_up_no_later_than_the_delay_after_it_saw_the_absence() {
    let mut rig = coordinating(Consistency::Quorum, 0);
    let (_, left) = left_to_return(&mut rig);
    let began = rig.ms;
    // Another one's plan, which says the same.
    let again = PlanRecord { version: left.version + 1, author: id("n2", 1), ..left };
    live_until(&mut rig, began + DELAY_MS / 2, &NODES);
    rig.see((Key::Plan, Record::Plan(again)));
    live_until(&mut rig, began + DELAY_MS - 1, &NODES);
    assert!(rig.pending.is_empty(), "{:?}", rig.pending);
    live_until(&mut rig, began + DELAY_MS, &NODES);
    assert!(planned(&mut rig).kept.is_empty());
}
