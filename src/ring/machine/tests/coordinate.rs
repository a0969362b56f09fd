//! Joining, judging others, planning.

use super::rig::{BEAT_MS, LEASE_MS, Rig, claim, id, lease, member, plan};
use crate::coord::{CasError, ClaimState, Key, LeaseState, Record};
use crate::ring::event::Event;
use crate::ring::io::Input;

/// `n1`, younger than `n2` (and `n3`, if asked for), in their ring.
fn younger(elders: &[&str]) -> Rig {
    let mut records = Vec::new();
    let mut members = Vec::new();
    for (age, elder) in (1..).zip(elders) {
        records.push(lease(elder, 1, 1, LeaseState::Live));
        records.push(member(elder, 1, age));
        members.push((id(elder, 1), age));
    }
    members.push((id("n1", 1), 2 + 2 * elders.len() as u64 + 1));
    records.push(claim(0, id(elders[0], 1), 1, ClaimState::Held));
    records.push(plan(1, &members, &[], elders[0]));
    Rig::joined(1, records)
}

fn evictions(actions: &[String]) -> Vec<&str> {
    actions.iter().filter(|action| action.ends_with("Evicted")).map(String::as_str).collect()
}

/// When the leases of others would run out, had they been seen just now.
fn expiry(rig: &Rig) -> u64 {
    rig.ms + LEASE_MS
}

#[test]
fn the_first_node_takes_its_lease_announces_plans_claims_everything_and_serves() {
    let mut rig = Rig::new(64);
    assert!(rig.feed(Input::LeaseSnapshot { all: false, leases: vec![] }).is_empty());
    assert_eq!(rig.feed(Input::RingSnapshot(vec![])), ["cas lease.n1@0 #1 beat 0 Live"]);
    let held = rig.ack_after_watch("lease.n1");
    let gate = format!("gate until {}", LEASE_MS * 3 / 4);
    assert_eq!(held, [gate.as_str(), "watch all leases", "cas member.n1@0 #1 Active not []"]);
    let leases = vec![crate::coord::Update {
        key: lease("n1", 1, 0, LeaseState::Live).0,
        revision: crate::coord::Revision(1),
        record: lease("n1", 1, 0, LeaseState::Live).1,
    }];
    assert!(rig.feed(Input::LeaseSnapshot { all: true, leases }).is_empty());
    assert!(rig.ack("member.n1").is_empty(), "newcomers wait for others");
    assert!(rig.beat_until(499).is_empty());
    let planned = rig.beat_until(500);
    assert!(planned[0].starts_with("cas plan@0 v1 by n1#1 gone [] rows n1 n1"), "{planned:?}");
    let claims = rig.ack("plan");
    assert_eq!(claims.len(), 128);
    assert_eq!(claims[..2], ["park 0 e1", "cas own.0@0 n1#1 e1 Held +subscribe"]);
    let updates: Vec<_> = std::mem::take(&mut rig.pending);
    let updates = updates.into_iter().filter(|p| matches!(p.key, Key::Own(_)));
    let updates = updates.map(|pending| (pending.key, pending.record)).collect::<Vec<_>>();
    let updates = updates.into_iter().map(|record| rig.put(record)).collect();
    let started = rig.feed(Input::RingSnapshot(updates));
    assert_eq!(started.len(), 1, "one call for all that came together");
    assert!(started[0].starts_with("on_own 0:e1 1:e1") && started[0].ends_with("Initial"));
    let serving = rig.hook(Ok(()));
    assert_eq!((serving.len(), serving[63].as_str()), (64, "serve 63 e1"));
}

#[test]
fn a_second_node_is_given_exactly_half_and_moves_run_a_few_at_a_time() {
    let mut rig = Rig::joined(64, vec![]);
    rig.beat_until(500);
    rig.ack("plan");
    for partition in 0..64 {
        rig.ack(&format!("own.{partition}"));
        rig.hook(Ok(()));
    }
    rig.see(lease("n2", 1, 0, LeaseState::Live));
    rig.see(member("n2", 1, rig.last));
    let planned = rig.beat_until(rig.ms + 500);
    let rows = planned.iter().find(|action| action.starts_with("cas plan")).expect("a plan");
    assert_eq!(rows.matches(" n2").count(), 32, "{rows}");
    assert!(rig.events.iter().any(|event| matches!(event, Event::Planned { moves: 32, members: 2, .. })));
    let parked = rig.ack("plan");
    assert_eq!(parked.len(), 4, "{parked:?}");
    assert!(parked.iter().all(|action| action.starts_with("park ")), "{parked:?}");
}

#[test]
fn the_next_oldest_evicts_a_silent_coordinator_after_a_full_lease_and_takes_over_by_plan() {
    let mut rig = younger(&["n2"]);
    let at = expiry(&rig);
    assert_eq!(evictions(&rig.beat_until(at - 1)), Vec::<&str>::new());
    assert_eq!(evictions(&rig.beat_until(at)), ["cas lease.n2@1 #1 beat 1 Evicted"]);
    rig.ack("lease.n2");
    let leases = [lease("n2", 1, 1, LeaseState::Evicted)].into_iter().map(|record| rig.put(record)).collect();
    rig.feed(Input::LeaseSnapshot { all: true, leases });
    let planned: Vec<_> = rig.pending.iter().filter(|p| p.key == Key::Plan).collect();
    let Record::Plan(written) = &planned[0].record else { panic!("no plan") };
    assert_eq!(written.gone, [id("n2", 1)]);
    let taken = rig.ack("plan");
    assert_eq!(taken, ["park 0 e2", "cas own.0@3 n1#1 e2 Held +subscribe"]);
    let started = rig.ack("own.0");
    assert!(started[0].ends_with("gone [] rows n1"), "no claim names it any more: {started:?}");
    assert_eq!(started[1], "on_own 0:e2 Takeover");
}

#[test]
fn a_renewal_starts_the_observation_anew() {
    let mut rig = younger(&["n2"]);
    rig.beat_until(LEASE_MS - BEAT_MS);
    rig.see(lease("n2", 1, 2, LeaseState::Live));
    let at = expiry(&rig);
    assert!(evictions(&rig.beat_until(at - 1)).is_empty());
    assert_eq!(evictions(&rig.beat_until(at)).len(), 1);
}

#[test]
fn an_observer_whose_own_beats_failed_for_more_than_a_third_of_a_lease_starts_anew() {
    let mut rig = younger(&["n2"]);
    let start = rig.ms;
    rig.beat_until(start + LEASE_MS / 2);
    // No acknowledgement for half a lease, then one.
    rig.wake_at(start + LEASE_MS);
    rig.ms = start + LEASE_MS + 10;
    assert!(evictions(&rig.ack("lease.n1")).is_empty(), "it cannot tell whose fault the silence is");
    let anew = start + LEASE_MS + 10 + LEASE_MS;
    assert!(evictions(&rig.beat_until(anew - 1)).is_empty());
    assert_eq!(evictions(&rig.beat_until(anew)).len(), 1);
}

#[test]
fn nobody_is_evicted_by_an_observer_without_a_fresh_acknowledgement_of_its_own() {
    let mut rig = younger(&["n2"]);
    let at = expiry(&rig);
    rig.beat_until(at - BEAT_MS - 20);
    // The beats go out and stay unanswered.
    for ms in at - BEAT_MS - 20..at + 2 * LEASE_MS {
        let actions = rig.wake_at(ms);
        let fresh = ms <= at - BEAT_MS - 20 + BEAT_MS;
        assert!(fresh || evictions(&actions).is_empty(), "at {ms}: {actions:?}");
    }
}

#[test]
fn a_reconnect_and_an_eviction_that_conflicts_start_the_observation_anew() {
    let mut rig = younger(&["n2"]);
    rig.beat_until(LEASE_MS / 2);
    rig.feed(Input::Connection(false));
    rig.feed(Input::Connection(true));
    let reconnected = expiry(&rig);
    assert!(evictions(&rig.beat_until(reconnected - 1)).is_empty());
    assert_eq!(evictions(&rig.beat_until(reconnected)).len(), 1);
    rig.fail("lease.n2", CasError::Conflict);
    let conflicted = expiry(&rig);
    assert!(evictions(&rig.beat_until(conflicted - 1)).is_empty());
    assert_eq!(evictions(&rig.beat_until(conflicted)).len(), 1);
}

#[test]
fn the_third_evicts_both_elders_if_both_are_silent_and_none_while_the_second_lives() {
    let mut rig = younger(&["n3", "n2"]);
    let at = expiry(&rig);
    let both = rig.beat_until(at);
    assert_eq!(evictions(&both).len(), 2, "{both:?}");

    let mut rig = younger(&["n3", "n2"]);
    rig.beat_until(LEASE_MS / 2);
    rig.see(lease("n2", 1, 2, LeaseState::Live));
    let at = expiry(&rig);
    let quiet = rig.beat_until(at - 1);
    assert!(evictions(&quiet).is_empty(), "that is for n2 to do: {quiet:?}");
}

#[test]
fn an_elder_whose_lease_was_removed_is_not_waited_for_beyond_a_lease_and_neither_evicted_nor_replaced() {
    // Its lease is not in the store, its claim and the plan that knows it are.
    let planned = [(id("n2", 1), 1), (id("n1", 1), 5)];
    let records = [member("n2", 1, 1), claim(0, id("n2", 1), 1, ClaimState::Held), plan(1, &planned, &[], "n2")];
    let mut rig = Rig::joined(1, records.into());
    let at = expiry(&rig);
    let waits = rig.beat_until(at - 1);
    assert_eq!(waits, [""; 0], "n2 may be there: its lease may be on its way");
    assert_eq!(rig.beat_until(at), ["watch all leases"]);
    let own = rig.put(lease("n1", 1, 9, LeaseState::Live));
    rig.feed(Input::LeaseSnapshot { all: true, leases: vec![own] });
    rig.beat_until(at + LEASE_MS / 2);
    assert_eq!(planned_for(&rig), ["n2", "n1"], "a member of the plan is planned for during another lease");
    rig.ack("plan");
    rig.beat_until(at + 2 * LEASE_MS);
    let Some(Record::Plan(written)) = rig.pending.iter().find(|p| p.key == Key::Plan).map(|p| &p.record) else {
        panic!("nobody plans: {:?}", rig.pending)
    };
    assert_eq!(written.members.iter().map(|member| member.id.clone()).collect::<Vec<_>>(), [id("n1", 1)]);
    assert_eq!(written.gone, [], "absence proves nothing");
    assert!(
        !rig.pending.iter().any(|p| matches!(p.key, Key::Own(_)) || p.key == lease("n2", 1, 0, LeaseState::Live).0)
    );
}

#[test]
fn of_eight_elders_that_are_gone_the_last_is_known_after_four_leases() {
    let elders = ["n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"];
    let ages: Vec<_> = elders.iter().zip(1..).map(|(elder, age)| (id(elder, 1), age)).collect();
    let announced = elders.iter().zip(1..).map(|(elder, age)| member(elder, 1, age));
    let mut rig = Rig::joined(1, announced.chain([plan(1, &ages, &[], "n2")]).collect());
    let begun = rig.ms;
    while !rig.beat_until(rig.ms + BEAT_MS).iter().any(|action| action == "watch all leases") {
        assert!(rig.ms < begun + 9 * LEASE_MS);
    }
    let leases = (rig.ms - begun).div_ceil(LEASE_MS);
    assert_eq!(leases, 4, "one, three, seven, all of them");
}

#[test]
fn a_lease_that_is_looked_for_is_waited_for_anew_after_a_reconnect() {
    let mut rig = Rig::joined(1, vec![member("n2", 1, 1), plan(1, &[(id("n2", 1), 1)], &[], "n2")]);
    rig.beat_until(LEASE_MS / 2);
    rig.feed(Input::Connection(false));
    rig.feed(Input::Connection(true));
    let reconnected = expiry(&rig);
    assert_eq!(rig.beat_until(reconnected - 1), [""; 0]);
    assert_eq!(rig.beat_until(reconnected), ["watch all leases"]);
}

#[test]
fn nobody_is_planned_before_all_leases_were_seen() {
    let mut rig = Rig::new(1);
    rig.feed(Input::LeaseSnapshot { all: false, leases: vec![] });
    rig.feed(Input::RingSnapshot(vec![]));
    rig.ack_after_watch("lease.n1");
    rig.ack_after_watch("member.n1");
    let planned = rig.beat_until(LEASE_MS);
    assert!(!planned.iter().any(|action| action.starts_with("cas plan")), "{planned:?}");
}

#[test]
fn a_plan_made_while_somebody_was_frozen_is_made_again_until_the_better_one_is_acknowledged() {
    let mut rig = Rig::joined(2, vec![]);
    rig.beat_until(500);
    rig.ack("plan");
    for partition in ["own.0", "own.1"] {
        rig.ack(partition);
        rig.hook(Ok(()));
    }
    rig.see(lease("n2", 1, 0, LeaseState::Live));
    let since = rig.last;
    rig.see(member("n2", 1, since));
    // Silent for more than half a lease by the time it is planned: it gets nothing.
    rig.beat_until(rig.ms + LEASE_MS / 2 - 101);
    rig.pending.retain(|pending| pending.key != Key::Plan);
    let mut frozen = plan(2, &[(id("n1", 1), 1), (id("n2", 1), since)], &[], "n1 n1");
    if let Record::Plan(plan) = &mut frozen.1 {
        plan.author = id("n2", 1);
    }
    rig.see(frozen);
    let again = rig.see(lease("n2", 1, 1, LeaseState::Live));
    let asked = |rig: &Rig, actions: &[String]| {
        actions.iter().any(|action| action.starts_with("cas plan")) || rig.pending.iter().any(|p| p.key == Key::Plan)
    };
    assert!(asked(&rig, &again), "{again:?}");
}

#[test]
fn a_live_lease_that_is_not_among_all_leases_any_more_is_neither_evicted_nor_planned_for() {
    let mut rig = Rig::joined(2, vec![]);
    rig.see(lease("n2", 1, 0, LeaseState::Live));
    let since = rig.last;
    rig.see(member("n2", 1, since));
    // Somebody removed its record, long after its node had ended.
    rig.feed(Input::LeaseSnapshot { all: true, leases: vec![] });
    let actions = rig.beat_until(3 * LEASE_MS);
    assert!(!actions.iter().any(|action| action.starts_with("cas lease.n2")), "{actions:?}");
    let planned: Vec<_> = rig.pending.iter().filter(|pending| pending.key == Key::Plan).collect();
    let members = planned.iter().filter_map(|pending| match &pending.record {
        Record::Plan(plan) => Some(plan.members.len()),
        _ => None,
    });
    assert_eq!(members.collect::<Vec<_>>(), [1], "this node alone");
}

/// Who is in the newest plan that was sent.
fn planned_for(rig: &Rig) -> Vec<String> {
    let mut plans = rig.pending.iter().filter_map(|pending| match &pending.record {
        Record::Plan(plan) => Some(plan),
        _ => None,
    });
    plans.next_back().map_or(Vec::new(), |plan| plan.members.iter().map(|member| member.id.node.to_string()).collect())
}

#[test]
fn a_member_of_the_plan_whose_lease_is_not_seen_yet_is_planned_for_during_a_lease() {
    let mut rig = Rig::joined(2, vec![]);
    rig.beat_until(500);
    rig.ack("plan");
    // n2, younger, planned as well; its plan and what it said of itself came, its lease is on another watch.
    let since = rig.last;
    rig.see(member("n2", 1, since));
    rig.see(plan(2, &[(id("n1", 1), 1), (id("n2", 1), since)], &[], "n2"));
    assert_eq!(planned_for(&rig), ["n1", "n2"]);
    rig.ack("plan");
    let at = rig.ms + LEASE_MS;
    rig.beat_until(at - 1);
    assert_eq!(planned_for(&rig), [""; 0], "nothing else to plan");
    rig.beat_until(at);
    assert_eq!(planned_for(&rig), ["n1"], "nobody renews it: it was removed");
}
