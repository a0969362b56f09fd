//! What operators tell the planner: pause, cordon, pins, and a `config` that cannot be read.

use super::rig::{LEASE_MS, Rig, claim, id, lease, member, plan};
use crate::coord::{ClaimState, Key, LeaseState, Record, Revision};
use crate::ring::event::Event;

fn config(text: &str) -> (Key, Record) {
    let record = Record::decode(&Key::Config, format!(r#"{{"format":1,{text}}}"#).as_bytes()).unwrap();
    (Key::Config, record)
}

/// `n1` alone, owning four partitions, told this by operators.
fn alone(text: &str) -> Rig {
    let mut rig = Rig::joined(4, vec![config(text)]);
    rig.beat_until(500);
    rig.ack("plan");
    for partition in 0..4 {
        rig.ack(&format!("own.{partition}"));
        rig.hook(Ok(()));
    }
    rig
}

/// `n2` joins; answers what the coordinator does about it.
fn second_joins(rig: &mut Rig) -> Vec<String> {
    rig.see(lease("n2", 1, 0, LeaseState::Live));
    rig.see(member("n2", 1, rig.last));
    let mut actions = rig.beat_until(rig.ms + 500);
    actions.extend(rig.ack("plan"));
    actions
}

/// The rows of the last plan, and what followed its acknowledgement.
fn replanned(rig: &mut Rig, text: &str) -> (String, Vec<String>) {
    let asked = rig.see(config(text));
    let rows = asked.iter().find_map(|action| action.split_once("rows ")).map(|(_, rows)| rows.to_owned());
    let followed = if rows.is_some() { rig.ack("plan") } else { Vec::new() };
    (rows.unwrap_or_default(), followed)
}

fn rows(actions: &[String]) -> &str {
    actions.iter().find_map(|action| action.split_once("rows ")).map_or("no plan", |(_, rows)| rows)
}

#[test]
fn a_node_that_joins_a_paused_ring_is_a_member_without_partitions_until_it_is_resumed() {
    let mut rig = alone(r#""paused":true"#);
    let joined = second_joins(&mut rig);
    assert_eq!(joined.len(), 1, "{joined:?}");
    assert_eq!(rows(&joined), "n1 n1 n1 n1");
    let (rows, followed) = replanned(&mut rig, r#""paused":false"#);
    assert_eq!(rows.matches("n2").count(), 2, "{rows}");
    assert_eq!(followed.iter().filter(|action| action.starts_with("park ")).count(), 2, "{followed:?}");
}

#[test]
fn a_cordoned_node_gets_nothing_until_it_is_uncordoned() {
    let mut rig = alone(r#""cordoned":["n2"]"#);
    let joined = second_joins(&mut rig);
    assert_eq!(rows(&joined), "n1 n1 n1 n1");
    let (rows, _) = replanned(&mut rig, r#""cordoned":[]"#);
    assert_eq!(rows.matches("n2").count(), 2, "{rows}");
}

#[test]
fn a_pin_moves_its_partition_even_to_a_cordoned_node_of_a_paused_ring() {
    let mut rig = alone(r#""paused":true,"cordoned":["n2"]"#);
    second_joins(&mut rig);
    let (rows, followed) =
        replanned(&mut rig, r#""paused":true,"cordoned":["n2"],"pins":{"2":"n2","9":"n2","1":"n7"}"#);
    assert_eq!(rows, "n1 n1 n2 n1");
    assert_eq!(followed, ["park 2 e1"]);
}

#[test]
fn a_config_that_says_what_held_before_writes_no_plan() {
    let mut rig = alone(r#""paused":true"#);
    let (rows, _) = replanned(&mut rig, r#""paused":true,"later":7"#);
    assert_eq!(rows, "");
}

#[test]
fn a_malformed_config_leaves_the_last_good_one_in_force_and_is_told_once() {
    let mut rig = alone(r#""paused":true"#);
    rig.events.clear();
    let bad = rig.put(config(r#""paused":"yes""#));
    assert!(rig.see_at(bad.clone()).is_empty());
    // As after a relist.
    assert!(rig.see_at(bad).is_empty());
    let refused = rig.events.iter().filter(|event| matches!(event, Event::ConfigRefused { .. })).count();
    assert_eq!(refused, 1, "{:?}", rig.events);
    let joined = second_joins(&mut rig);
    assert_eq!(rows(&joined), "n1 n1 n1 n1", "still paused");
    let (rows, _) = replanned(&mut rig, r#""paused":false"#);
    assert_eq!(rows.matches("n2").count(), 2, "{rows}");
}

/// A plan that was made for a paused ring.
fn paused_plan(version: u64, members: &[(crate::types::NodeId, u64)], rows: &str) -> (Key, Record) {
    let (key, mut record) = plan(version, members, &[], rows);
    if let (Record::Plan(plan), Record::Config(Ok(paused))) = (&mut record, config(r#""paused":true"#).1) {
        plan.config = paused;
    }
    (key, record)
}

#[test]
fn who_comes_to_coordinate_and_cannot_read_the_config_goes_by_the_plan_before() {
    for unreadable in [None, Some(config(r#""paused":3"#))] {
        let mut records = vec![lease("n2", 1, 0, LeaseState::Live), member("n2", 1, 1000)];
        records.extend((0..4).map(|partition| claim(partition, id("n2", 1), 1, ClaimState::Held)));
        records.push(paused_plan(7, &[(id("n2", 1), 1000)], "n2 n2 n2 n2"));
        records.extend(unreadable);
        let mut rig = Rig::joined(4, records);
        let planned = rig.beat_until(LEASE_MS / 2 - 1);
        assert_eq!(rows(&planned), "n2 n2 n2 n2", "with n1 as a member, and nothing for it");
        assert!(rig.pending.iter().any(|pending| match &pending.record {
            Record::Plan(plan) => plan.config.paused && plan.members.len() == 2,
            _ => false,
        }));
    }
}

#[test]
fn a_move_that_lands_after_the_ring_was_paused_is_planned_where_it_landed() {
    let mut rig = alone(r#""paused":false"#);
    second_joins(&mut rig);
    let (rows, _) = replanned(&mut rig, r#""paused":true"#);
    assert_eq!(rows, "n1 n1 n1 n1");
    let landed = rig.see(claim(0, id("n2", 1), 2, ClaimState::Held));
    let planned = landed.iter().find(|action| action.starts_with("cas plan")).cloned().unwrap_or_default();
    assert!(planned.ends_with("rows n2 n1 n1 n1"), "{landed:?}");
}

#[test]
fn the_target_of_a_move_that_lands_in_a_paused_ring_keeps_it_until_the_next_plan() {
    let members = [(id("n2", 1), 1), (id("n1", 1), 5)];
    let records = vec![
        lease("n2", 1, 1, LeaseState::Live),
        member("n2", 1, 1),
        claim(0, id("n2", 1), 1, ClaimState::Held),
        plan(1, &members, &[], "n1"),
    ];
    let mut rig = Rig::joined(1, records);
    rig.offer(0, 1, 3, id("n2", 1));
    rig.see(paused_plan(2, &members, "n2"));
    rig.ack("own.0");
    let serving = rig.hook(Ok(()));
    assert_eq!(serving, ["serve 0 e2"], "it does not go back at once");
    assert_eq!(rig.see(paused_plan(3, &members, "n1")), Vec::<String>::new());
    assert_eq!(rig.see(plan(4, &members, &[], "n2")), ["park 0 e2"]);
}

#[test]
fn an_older_config_that_is_seen_late_changes_nothing() {
    let mut rig = alone(r#""paused":true"#);
    let mut late = rig.put(config(r#""paused":false"#));
    late.revision = Revision(1);
    rig.events.clear();
    assert!(rig.see_at(late).is_empty());
    assert!(rig.events.is_empty(), "{:?}", rig.events);
}
