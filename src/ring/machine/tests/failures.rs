//! Who dies at which step of a switch, a takeover, a join or a leave, and what becomes of it: the rows of the failure
//! table in docs/failures.md that one machine can show.

use super::moves::{idle, moving, offered, refused, ring_of_two, transferred};
use super::rig::{LEASE_MS, Rig, claim, id, lease, member, no_answer, plan};
use crate::coord::{CasError, ClaimState, Key, LeaseState, Record};
use crate::ring::io::Input;
use crate::types::{Epoch, PartitionId};

const HELD: ClaimState = ClaimState::Held;
const LET_GO: [&str; 3] = ["forward 0", "unsubscribe 0", "discard 0"];

/// The plan once `n2` is dead and its lease is over; all claims that name it may be taken over.
fn without_n2(version: u64) -> (Key, Record) {
    plan(version, &[(id("n1", 1), 5)], &[id("n2", 1)], "n1")
}

/// How `n1` takes its partition back from a switch.
fn taken_back(revision: u64) -> [String; 3] {
    ["revoke 0".to_owned(), "park 0 e5".to_owned(), format!("cas own.0@{revision} n1#1 e5 Held +subscribe")]
}

/// The revision of `n1`'s own claim.
fn own_claim(rig: &Rig) -> u64 {
    rig.machine.view.claims[&PartitionId::new(0)].revision.0
}

fn about_own_0(actions: Vec<String>) -> Vec<String> {
    actions.into_iter().filter(|action| !action.contains("lease") && !action.starts_with("gate")).collect()
}

#[test]
fn a_target_that_dies_before_on_release_costs_a_pause_and_no_epoch() {
    let mut rig = moving();
    assert_eq!(rig.see(without_n2(3)), ["serve 0 e4"]);
}

#[test]
fn a_target_that_dies_while_on_release_runs_is_noticed_once_it_is_done() {
    let mut rig = moving();
    rig.feed(idle(4));
    assert!(rig.see(without_n2(3)).is_empty(), "calls for one partition never overlap");
    let revision = own_claim(&rig);
    let back = rig.hook(Ok(()));
    assert_eq!(back[back.len() - 3..], taken_back(revision));
    assert_eq!(rig.ack("own.0"), ["on_own 0:e5 Abandoned"]);
}

#[test]
fn a_target_that_dies_while_it_is_sent_the_state_or_offered_to_leaves_it_with_the_owner_at_the_next_epoch() {
    let mut sending = moving();
    sending.feed(idle(4));
    sending.hook(Ok(()));
    for mut rig in [sending, offered().0] {
        let revision = own_claim(&rig);
        assert_eq!(rig.see(without_n2(3)), taken_back(revision));
        assert_eq!(rig.ack("own.0"), ["on_own 0:e5 Abandoned"]);
        assert_eq!(rig.hook(Ok(())), ["serve 0 e5"]);
        assert!(rig.feed(transferred(4)).is_empty() && rig.feed(refused(4)).is_empty(), "what comes late is not meant");
    }
}

#[test]
fn a_target_that_dies_after_its_claim_is_taken_over_like_any_owner() {
    let (mut rig, _) = offered();
    assert_eq!(rig.see(claim(0, id("n2", 1), 5, HELD)), LET_GO);
    let revision = rig.last;
    let taken = rig.see(without_n2(3));
    assert_eq!(taken, ["park 0 e6".to_owned(), format!("cas own.0@{revision} n1#1 e6 Held +subscribe")]);
    assert_eq!(rig.ack("own.0"), ["on_own 0:e6 Takeover"]);
}

#[test]
fn an_owner_that_dies_before_its_offer_is_taken_over_and_an_offer_that_comes_later_is_refused() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
    assert_eq!(rig.see(without_n2(2)), ["park 0 e4", "cas own.0@3 n1#1 e4 Held +subscribe"]);
    assert_eq!(rig.offer(0, 3, 3, id("n2", 1)), ["answer Err(\"this partition is busy here\")"]);
    assert_eq!(rig.ack("own.0"), ["on_own 0:e4 Takeover"], "and not with a state that may be half of it");
}

#[test]
fn an_owner_that_dies_after_its_offer_leaves_one_claim_and_the_state_with_the_target() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
    rig.offer(0, 3, 3, id("n2", 1));
    assert!(rig.see(without_n2(2)).is_empty(), "the claim on its way is the one");
    assert_eq!(rig.ack("own.0"), ["on_own 0:e4 Switch"]);
    assert_eq!(rig.hook(Ok(())), ["serve 0 e4"]);
}

#[test]
fn a_claim_to_abandon_a_switch_that_has_no_answer_stays_parked_until_one_of_the_two_is_seen() {
    let unanswered = || {
        let (mut rig, _) = offered();
        rig.feed(refused(4));
        assert!(rig.fail("own.0", no_answer()).is_empty());
        rig
    };
    let mut target_won = unanswered();
    assert_eq!(target_won.see(claim(0, id("n2", 1), 5, HELD)), LET_GO);
    let mut owner_won = unanswered();
    assert_eq!(owner_won.see(claim(0, id("n1", 1), 5, HELD)), ["on_own 0:e5 Abandoned"]);
}

#[test]
fn an_owner_evicted_in_a_switch_is_told_that_it_lost_unless_it_was_told_to_release() {
    let evicted = lease("n1", 1, 9, LeaseState::Evicted);
    let mut parked = moving();
    let lost = parked.see(evicted.clone());
    assert_eq!(lost, ["gate closed", "revoke 0", "forward 0", "on_release 0:e4 Lost"]);
    assert_eq!(parked.hook(Ok(())).last().unwrap(), "finish Evicted");

    let mut releasing = moving();
    releasing.feed(idle(4));
    assert_eq!(releasing.see(evicted.clone()), ["gate closed", "revoke 0", "forward 0"], "the hook is waited for");
    assert_eq!(releasing.hook(Ok(())).last().unwrap(), "finish Evicted");

    let (mut offering, _) = offered();
    let lost = offering.see(evicted);
    assert!(!lost.iter().any(|action| action.starts_with("on_")), "{lost:?}");
    assert_eq!(lost.last().unwrap(), "finish Evicted");
}

#[test]
fn a_transfer_that_breaks_while_nats_is_away_is_abandoned_once_it_is_back_and_nothing_is_served_before() {
    let mut rig = moving();
    rig.feed(idle(4));
    rig.hook(Ok(()));
    let revision = own_claim(&rig);
    rig.ms += LEASE_MS;
    let result = Err("no answer".to_owned());
    let broken = Input::Transferred { partition: PartitionId::new(0), epoch: Epoch::new(4), result };
    assert_eq!(about_own_0(rig.feed(broken)), taken_back(revision)[..2]);
    let back = rig.ack("lease.n1");
    assert!(back.contains(&taken_back(revision)[2]), "{back:?}");
    assert_eq!(rig.ack("own.0"), ["on_own 0:e5 Abandoned"]);
}

#[test]
fn a_claim_refused_because_another_was_first_is_forgotten() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n1"));
    rig.see(without_n2(2));
    assert_eq!(rig.fail("own.0", CasError::Conflict), LET_GO);
    assert!(rig.see(claim(0, id("n3", 1), 4, HELD)).is_empty(), "it is not gone");
}

/// `n1` coordinates; `n2` announces itself.
fn newcomer() -> Rig {
    let mut rig = Rig::joined(2, vec![]);
    rig.beat_until(600);
    rig.ack("plan");
    rig.see(lease("n2", 1, 0, LeaseState::Live));
    let since = rig.last;
    rig.see(member("n2", 1, since));
    rig
}

#[test]
fn a_newcomer_that_dies_before_it_is_planned_moves_nothing() {
    let mut rig = newcomer();
    rig.see(lease("n2", 1, 1, LeaseState::Evicted));
    let quiet = rig.beat_until(rig.ms + LEASE_MS);
    assert!(!quiet.iter().any(|action| action.starts_with("cas plan")), "{quiet:?}");
}

#[test]
fn a_newcomer_that_dies_once_it_is_planned_is_planned_away_again() {
    let mut rig = newcomer();
    let planned = rig.beat_until(rig.ms + 500);
    assert!(
        planned.iter().any(|action| action.starts_with("cas plan@") && action.ends_with("rows n1 n2")),
        "{planned:?}"
    );
    rig.ack("plan");
    let replanned = rig.see(lease("n2", 1, 1, LeaseState::Evicted));
    assert!(
        replanned.iter().any(|action| action.starts_with("cas plan@") && action.ends_with("rows n1 n1")),
        "{replanned:?}"
    );
}

#[test]
fn a_plan_without_an_answer_that_landed_is_not_written_again() {
    let mut rig = newcomer();
    rig.beat_until(rig.ms + 500);
    let at = rig.pending.iter().position(|pending| pending.key == Key::Plan).unwrap();
    let written = rig.pending[at].clone();
    rig.fail("plan", no_answer());
    let seen = rig.see((written.key, written.record));
    let later = rig.beat_until(rig.ms + LEASE_MS / 2);
    assert!(!seen.iter().chain(&later).any(|action| action.starts_with("cas plan")), "{seen:?} {later:?}");
}

#[test]
fn a_lease_given_up_without_an_answer_ends_the_node_all_the_same() {
    let mut rig = Rig::joined(1, ring_of_two("n2", "n2"));
    let given_up = rig.give_up("told to");
    assert_eq!(given_up[0], "gate closed");
    assert_eq!(rig.fail("lease.n1", no_answer()).last().unwrap(), "finish GaveUp(\"told to\")");
}
