//! The first plan of a new generation: not before everybody of the last plan is back, or twelve leases have passed.

use super::rig::{LEASE_MS, Rig, claim, id, lease, member, plan};
use crate::coord::{ClaimState, Key, Knew, LeaseState, Record, Resumed};
use crate::ring::event::Event;
use crate::ring::io::Input;
use crate::ring::settings::Former;
use crate::types::guard::{Guard, without};
use crate::types::{Generation, Incarnation, NodeId};

const BEFORE: Generation = Generation::new(1);

/// `n1` knew a plan of these members at its end, being `n1#1`.
fn knew(version: u64, members: &[NodeId]) -> Option<Former> {
    let was = id("n1", 1).incarnation;
    Some(Former { generation: BEFORE, version, members: members.to_vec(), was })
}

/// The lease of `n2` in this generation.
fn back(knew: Option<(u64, Incarnation)>) -> (Key, Record) {
    let (key, Record::Lease(mut of)) = lease("n2", 9, 1, LeaseState::Live) else { panic!("a lease") };
    let knew = knew.map(|(plan, was)| Knew { generation: BEFORE, plan, was });
    of.resumed = Some(Resumed { generation: Generation::new(2), knew });
    (key, Record::Lease(of))
}

/// `n1` holds its lease under the second generation, with these leases of others.
fn begun(former: Option<Former>, leases: Vec<(Key, Record)>) -> Rig {
    let mut rig = Rig::after_a_reset_with_copies(former);
    rig.feed(Input::LeaseSnapshot { all: false, leases: vec![] });
    rig.feed(Input::RingSnapshot(vec![]));
    rig.wake_at(LEASE_MS);
    rig.ack_after_watch("lease.n1");
    let own = rig.own_lease();
    let leases = leases.into_iter().map(|lease| rig.put(lease)).chain([own]).collect();
    rig.feed(Input::LeaseSnapshot { all: true, leases });
    rig.ack_after_watch("member.n1");
    rig.see(member("n2", 9, 100));
    rig
}

fn plans(rig: &Rig) -> bool {
    rig.pending.iter().any(|pending| pending.key == Key::Plan)
}

fn was(node: &str) -> Incarnation {
    id(node, 1).incarnation
}

#[test]
fn with_everybody_back_it_is_planned_as_soon_as_newcomers_were_waited_for() {
    let both = [id("n1", 1), id("n2", 1)];
    let mut rig = begun(knew(3, &both), vec![back(Some((3, was("n2"))))]);
    rig.beat_until(LEASE_MS * 3 / 2);
    assert!(plans(&rig), "{:?}", rig.events);
}

fn waits(former: Option<Former>, leases: Vec<(Key, Record)>) -> Vec<Event> {
    let mut rig = begun(former, leases);
    rig.beat_until(LEASE_MS * 12 - 1);
    assert!(!plans(&rig));
    rig.beat_until(LEASE_MS * 12 + 1);
    assert!(plans(&rig));
    rig.events.into_iter().filter(|event| matches!(event, Event::FormerSets { .. })).collect()
}

#[test]
fn whoever_may_still_serve_cut_off_is_waited_for() {
    let both = [id("n1", 1), id("n2", 1)];
    let told = waits(knew(3, &both), vec![]);
    assert!(matches!(&told[..], [Event::FormerSets { missing, .. }] if missing.len() == 1), "{told:?}");
    // A process that was started since knows nothing of a newer plan, and is not the one that was in it.
    assert_eq!(waits(knew(3, &both), vec![back(None)]).len(), 1);
    // Another process of the name.
    assert_eq!(waits(knew(3, &both), vec![back(Some((3, id("n2", 5).incarnation)))]).len(), 1);
    // It knows a newer plan, which may have members that this node has not heard of.
    assert_eq!(waits(knew(3, &both), vec![back(Some((4, was("n2"))))]).len(), 1);
    // A newcomer knows nobody.
    assert_eq!(waits(None, vec![back(Some((3, was("n2"))))]).len(), 1);
}

#[test]
fn who_was_evicted_while_claims_name_it_is_remembered_for_its_set_may_serve_on() {
    let members = [(id("n1", 1), 5)];
    let mut rig = Rig::joined(1, vec![claim(0, id("n2", 1), 3, ClaimState::Held)]);
    rig.see(plan(7, &members, &[id("n2", 1)], "n1"));
    let former = rig.machine.former().unwrap();
    assert_eq!((former.version, former.members), (7, vec![id("n1", 1), id("n2", 1)]));
}

#[test]
fn without_that_rule_partitions_are_given_out_at_once() {
    let _off = without(&[Guard::FormerSetsEnd]);
    let mut rig = begun(None, vec![]);
    rig.beat_until(LEASE_MS * 3 / 2);
    assert!(plans(&rig));
}
