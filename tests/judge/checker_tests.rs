//! The judge is judged: what a register or an owner can do is accepted, whatever overlaps; what none can is not.

use nats_ring::coord::{Claim, ClaimState, Lease, LeaseState};
use nats_ring::types::{Epoch, FencingToken, Generation, Incarnation, NodeId, NodeName};
use proptest::prelude::*;
use uuid::Uuid;

use crate::checker::ownership::{Change, Ownership, What};
use crate::checker::register::{Loss, check};
use crate::checker::{Evidence, appends, judge};
use crate::common::sink::Write;
use crate::history::{Action, Operation, Outcome, Value, Version};
use crate::plant::{Plant, Recorded, planted, stale_read};

const OK: Outcome = Outcome::Ok { found: None };
/// Moments between two points at which something happens.
const APART: u64 = 100;
const SECOND: u64 = 1_000_000_000;

fn operation(action: Action, (asked, answered): (u64, u64), outcome: Outcome) -> Operation {
    Operation { key: 0, action, asked, answered, outcome, through: "n".into(), by: None, version: None }
}

fn set(value: Value, times: (u64, u64)) -> Operation {
    operation(Action::Set(value), times, OK)
}

fn get(found: Option<Value>, times: (u64, u64)) -> Operation {
    operation(Action::Get, times, Outcome::Ok { found })
}

fn unknown_set(value: Value, times: (u64, u64)) -> Operation {
    operation(Action::Set(value), times, Outcome::Unknown(String::new()))
}

fn linearizable(operations: &[Operation], losses: &[Loss]) -> Result<(), String> {
    check(&operations.iter().collect::<Vec<_>>(), losses)
}

#[track_caller]
fn assert_rejected(operations: &[Operation], losses: &[Loss]) {
    assert!(linearizable(operations, losses).is_err(), "accepted: {operations:#?} {losses:?}");
}

#[test]
fn a_stale_read_is_rejected_and_the_same_read_beside_the_write_is_not() {
    let sets = [set(1, (0, 10)), set(2, (20, 30))];
    let with = |read| [sets.to_vec(), vec![read]].concat();
    assert_rejected(&with(get(Some(1), (40, 50))), &[]);
    assert_rejected(&with(get(None, (40, 50))), &[]);
    linearizable(&with(get(Some(2), (40, 50))), &[]).unwrap();
    linearizable(&with(get(Some(1), (25, 50))), &[]).unwrap();
}

#[test]
fn two_reads_that_see_a_write_in_the_wrong_order_are_rejected() {
    let sets = [set(1, (0, 10)), set(2, (20, 100))];
    let with = |first, second| [sets.to_vec(), vec![get(first, (30, 40)), get(second, (50, 60))]].concat();
    linearizable(&with(Some(1), Some(2)), &[]).unwrap();
    assert_rejected(&with(Some(2), Some(1)), &[]);
}

#[test]
fn a_read_of_what_was_refused_or_comes_later_or_nobody_wrote_is_rejected() {
    let refused = operation(Action::Set(1), (0, 10), Outcome::Fail(String::new()));
    assert_rejected(&[refused, get(Some(1), (20, 30))], &[]);
    assert_rejected(&[get(Some(1), (0, 10)), set(1, (20, 30))], &[]);
    assert_rejected(&[get(Some(7), (0, 10))], &[]);
}

#[test]
fn an_unknown_write_may_show_at_any_later_time_or_never_but_not_come_and_go() {
    let (unknown, other) = (unknown_set(1, (0, 10)), set(2, (20, 30)));
    let with = |found: &[Value]| {
        let reads = (0..).zip(found).map(|(n, value)| get(Some(*value), (100 + 20 * n, 110 + 20 * n)));
        [unknown.clone(), other.clone()].into_iter().chain(reads).collect::<Vec<_>>()
    };
    linearizable(&with(&[2, 2]), &[]).unwrap();
    linearizable(&with(&[2, 1, 1]), &[]).unwrap();
    assert_rejected(&with(&[2, 1, 2]), &[]);
}

#[test]
fn what_was_lost_with_its_owner_may_be_gone_from_then_on_and_only_once() {
    let set = set(1, (0, 10));
    let loss = Loss { from: 100, to: 120 };
    let with = |found: &[Option<Value>]| {
        let reads = (0..).zip(found).map(|(n, value)| get(*value, (200 + 20 * n, 210 + 20 * n)));
        std::iter::once(set.clone()).chain(reads).collect::<Vec<_>>()
    };
    linearizable(&with(&[None, None]), &[loss]).unwrap();
    linearizable(&with(&[Some(1), Some(1)]), &[loss]).unwrap();
    assert_rejected(&with(&[Some(1), None]), &[loss]);
    assert_rejected(&with(&[None, Some(1)]), &[loss]);
    assert_rejected(&[set, get(None, (50, 60))], &[loss]);
}

/// An execution: what happens at each point of time, how early it was asked and how late answered.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Set,
    /// Not answered; it happened, or it did not.
    UnknownSet(bool),
    Get,
    Lost,
}

fn execution() -> impl Strategy<Value = Vec<(Happens, u64, u64)>> {
    let happens = prop_oneof![
        4 => Just(Happens::Set),
        1 => any::<bool>().prop_map(Happens::UnknownSet),
        5 => Just(Happens::Get),
        1 => Just(Happens::Lost),
    ];
    proptest::collection::vec((happens, 0..6 * APART, 0..6 * APART), 1..80)
}

/// What its clients saw of it, and when something was lost.
fn seen_of(execution: &[(Happens, u64, u64)]) -> (Vec<Operation>, Vec<Loss>) {
    let (mut operations, mut losses, mut held) = (Vec::new(), Vec::new(), None);
    for (number, (happens, early, late)) in (0..).zip(execution) {
        let point = 1000 + number * APART;
        let times = (point - early, point + late);
        match happens {
            Happens::Set => {
                held = Some(number);
                operations.push(set(number, times));
            }
            Happens::UnknownSet(happened) => {
                held = if *happened { Some(number) } else { held };
                // The client may have given up long before it happened.
                operations.push(unknown_set(number, (times.0, times.0 + 1)));
            }
            Happens::Get => operations.push(get(held, times)),
            Happens::Lost => {
                held = None;
                losses.push(Loss { from: point - early % APART, to: point + late % APART });
            }
        }
    }
    operations.sort_by_key(|operation| operation.asked);
    (operations, losses)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_one_register_can_do_is_accepted(execution in execution()) {
        let (operations, losses) = seen_of(&execution);
        prop_assert_eq!(linearizable(&operations, &losses), Ok(()));
    }

    #[test]
    fn a_read_made_stale_is_rejected_whatever_is_around_it(execution in execution()) {
        let (mut operations, losses) = seen_of(&execution);
        if let Some((number, value)) = stale_read(&operations) {
            operations[number].outcome = Outcome::Ok { found: Some(value) };
            prop_assert!(linearizable(&operations, &losses).is_err());
        }
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_rejected_where_nothing_was_lost(execution in execution()) {
        let (mut operations, losses) = seen_of(&execution);
        let first = operations.iter().filter(|o| o.outcome == OK && matches!(o.action, Action::Set(_))).map(|o| o.answered).min();
        let read = operations.iter().position(|o| o.action == Action::Get && first.is_some_and(|first| first < o.asked));
        if let (Some(read), true) = (read, losses.is_empty()) {
            operations[read].outcome = Outcome::Ok { found: None };
            prop_assert!(linearizable(&operations, &losses).is_err());
        }
    }
}

fn incarnation(id: u128) -> Incarnation {
    Incarnation { start: 1, id: Uuid::from_u128(id) }
}

fn claim(at: u64, epoch: u64, owner: u128) -> Change {
    let owner = NodeId { node: NodeName::new(format!("node-{owner}")).unwrap(), incarnation: incarnation(owner) };
    let (generation, epoch) = (Generation::new(1), Epoch::new(epoch));
    let claim = Claim { generation, epoch, replicas: vec![owner.clone()], owner, state: ClaimState::Held };
    Change { at, what: What::Claim(0, claim) }
}

fn with_replicas(change: Change, replicas: &[u128]) -> Change {
    let id = |n: &u128| NodeId { node: NodeName::new(format!("node-{n}")).unwrap(), incarnation: incarnation(*n) };
    let What::Claim(partition, claim) = change.what else { panic!("no claim") };
    let claim = Claim { replicas: replicas.iter().map(id).collect(), ..claim };
    Change { what: What::Claim(partition, claim), ..change }
}

fn lease(at: u64, owner: u128, state: LeaseState) -> Change {
    let lease = Lease { incarnation: incarnation(owner), state, beat: 1, lease_ms: 2000, resumed: None };
    Change { at, what: What::Lease(format!("node-{owner}"), lease) }
}

fn write(value: Value, epoch: u64, owner: u128, accepted: bool) -> Write {
    let token = FencingToken {
        ring: Uuid::from_u128(1),
        generation: Generation::new(1),
        epoch: Epoch::new(epoch),
        incarnation: incarnation(owner),
    };
    Write { partition: 0, token, value: value.into(), accepted }
}

#[test]
fn a_second_owner_of_an_epoch_and_an_epoch_that_goes_back_are_found_in_the_records() {
    let wrong = |changes: &[Change]| Ownership::of(changes).wrong;
    assert_eq!(wrong(&[claim(1, 1, 1), claim(2, 2, 2), claim(3, 3, 1)]), [""; 0]);
    assert!(wrong(&[claim(1, 1, 1), claim(2, 1, 2)])[0].contains("two owners at epoch 1"));
    assert!(wrong(&[claim(1, 2, 1), claim(2, 1, 2)])[0].contains("epoch 1 came after 2"));
}

#[test]
fn something_may_be_lost_between_an_owners_end_and_the_next_claim_and_in_no_handover() {
    let slack = SECOND / 20;
    let (mine, live) = (claim(SECOND, 1, 1), lease(SECOND, 1, LeaseState::Live));
    let handed_over = [live.clone(), mine.clone(), claim(5 * SECOND, 2, 2), lease(9 * SECOND, 1, LeaseState::Left)];
    assert_eq!(Ownership::of(&handed_over).losses(0), []);
    let taken = [live.clone(), mine.clone(), lease(4 * SECOND, 1, LeaseState::Evicted), claim(5 * SECOND, 2, 2)];
    let loss = Loss { from: 4 * SECOND - slack, to: 5 * SECOND + slack };
    assert_eq!(Ownership::of(&taken).losses(0), [loss]);
    assert_eq!(Ownership::of(&taken).evictions.len(), 1);
    let with_copy = with_replicas(claim(SECOND, 1, 1), &[1, 2]);
    let by_a_member = [live.clone(), with_copy, lease(4 * SECOND, 1, LeaseState::Evicted), claim(5 * SECOND, 2, 2)];
    assert_eq!(Ownership::of(&by_a_member).losses(0), [], "a member of the recorded set has all that was acknowledged");
    let not_seen = [live, mine, claim(5 * SECOND, 3, 2)];
    assert_eq!(Ownership::of(&not_seen).losses(0), [Loss { from: SECOND - slack, to: 5 * SECOND + slack }]);
}

#[test]
fn tokens_that_go_back_second_writers_and_lost_refused_or_doubled_appends_are_found() {
    let append = |value, outcome| operation(Action::Append(value), (0, 1), outcome);
    let check = |writes: &[Write], told: &[Operation]| appends::check(writes, told);
    let good = [write(1, 1, 1, true), write(2, 2, 2, true), write(3, 1, 1, false), write(4, 2, 2, true)];
    assert_eq!(check(&good, &[append(1, OK), append(3, Outcome::Fail("fenced".into()))]), [""; 0]);
    assert!(check(&[write(1, 2, 2, true), write(2, 1, 1, true)], &[])[0].contains("took epoch 1 after 2"));
    assert!(check(&[write(1, 1, 1, true), write(2, 1, 2, false)], &[])[0].contains("two writers at epoch 1"));
    assert!(check(&[], &[append(1, OK)])[0].contains("is not there"));
    assert!(check(&[write(1, 1, 1, true)], &[append(1, Outcome::Fail("x".into()))])[0].contains("was refused"));
    assert!(check(&[write(1, 1, 1, true), write(1, 1, 1, true)], &[append(1, OK)])[0].contains("more than once"));
}

/// The verdict on acknowledged writes with these versions, one after the other, by these nodes.
fn verdict(changes: &[Change], writes: &[(Version, &str)]) -> Vec<String> {
    let told = (0..).zip(writes).map(|(n, (version, by))| Operation {
        version: Some(*version),
        by: Some((*by).to_owned()),
        ..set(n, (100 * n, 100 * n + 50))
    });
    let (operations, cache) = (told.collect::<Vec<_>>(), Ownership::of(changes));
    let writers = Ownership::default();
    judge(&Evidence { operations: &operations, partitions: 64, cache: &cache, writers: &writers, writes: &[] })
}

#[test]
fn two_executors_of_an_epoch_a_stranger_and_versions_that_go_back_or_come_twice_are_found() {
    let claims = [claim(1, 1, 1), claim(2, 2, 2)];
    assert_eq!(verdict(&claims, &[((1, 1), "node-1"), ((1, 2), "node-1"), ((2, 1), "node-2")]), [""; 0]);
    assert!(verdict(&[], &[((1, 1), "node-1"), ((1, 2), "node-2")])[0].contains("two executors at epoch 1"));
    assert!(verdict(&claims, &[((1, 1), "node-3")])[0].contains("which node-1 had claimed"));
    // Sent again, and answered as the first time by the next owner, who has not executed it; the one before cannot know it.
    assert_eq!(verdict(&claims, &[((1, 1), "node-1"), ((1, 2), "node-2"), ((2, 1), "node-2")]), [""; 0]);
    assert!(verdict(&claims, &[((2, 1), "node-1")])[0].contains("which node-2 had claimed"));
    assert!(verdict(&[], &[((1, 2), "node-1"), ((1, 1), "node-1")])[0].contains("was given after"));
    assert!(verdict(&[], &[((1, 1), "node-1"), ((1, 1), "node-1")])[0].contains("two writes have version"));
}

#[test]
fn an_answer_that_nobody_should_get_is_found() {
    let operations = [operation(Action::Get, (0, 1), Outcome::Absurd("teapot".into()))];
    let none = Ownership::default();
    let evidence = Evidence { operations: &operations, partitions: 64, cache: &none, writers: &none, writes: &[] };
    assert!(judge(&evidence)[0].contains("teapot"));
}

/// Two owners one after the other, who hand over, with a write, a read and an append each.
fn recorded() -> Recorded {
    let by =
        |epoch, node: &str, operation| Operation { version: Some((epoch, 1)), by: Some(node.to_owned()), ..operation };
    let times = |asked| (asked * SECOND, (asked + 1) * SECOND);
    let append = |value, asked| operation(Action::Append(value), times(asked), OK);
    let records = vec![claim(SECOND, 1, 1), claim(30 * SECOND, 2, 2)];
    Recorded {
        operations: vec![
            by(1, "node-1", set(1, times(10))),
            append(3, 14),
            by(2, "node-2", set(2, times(40))),
            get(Some(2), times(50)),
            append(4, 54),
        ],
        cache: records.clone(),
        writers: records,
        writes: vec![write(3, 1, 1, true), write(4, 2, 2, true)],
    }
}

#[test]
fn everything_that_is_planted_into_an_accepted_record_is_found() {
    assert_eq!(recorded().judged(64), [""; 0]);
    assert_eq!(planted(&recorded(), 64), (Plant::ALL.to_vec(), vec![]));
}

#[test]
fn a_read_that_may_find_nothing_is_no_place_for_a_lost_write() {
    let mut lost = recorded();
    // What the first owner had is gone with it, and what the second wrote was not acknowledged.
    lost.cache.insert(1, lease(20 * SECOND, 1, LeaseState::Evicted));
    lost.operations[2].outcome = Outcome::Unknown(String::new());
    assert!(Plant::LostWrite.put_into(&lost, 64).is_none());
}
