//! Everybody confirms the epoch: who is asked, when an answer counts, and when nobody can be asked.

use super::following::{change, v};
use super::leading::{leader, members, ms, nodes};
use super::world::{BOUNDS, id};
use crate::replica::{Failure, Leader, Report, Told};
use crate::types::{Epoch, NodeId, Version};

fn due(leader: &mut Leader, at_ms: u64) -> Vec<(NodeId, u64)> {
    leader.due(ms(at_ms)).into_iter().map(|due| (due.to, due.number)).collect()
}

fn all_at(leader: &mut Leader, sent: &[(NodeId, u64)], at: Version) {
    sent.iter().for_each(|(to, number)| leader.told(ms(1), to, *number, Ok(Told::At(at))));
}

/// Two followers, at the tail.
fn at_rest() -> Leader {
    let mut leader = leader(&members(&[1, 2], None, &[]));
    let asked = due(&mut leader, 0);
    all_at(&mut leader, &asked, v(1, 5));
    assert_eq!(due(&mut leader, 1), [], "nothing to send");
    leader
}

#[test]
fn every_member_answers_something_that_was_sent_after_the_question() {
    let mut leader = at_rest();
    let ticket = leader.ticket().unwrap();
    assert!(!leader.confirmed().covers(ticket), "what was said before counts for nothing");
    let asked = due(&mut leader, 2);
    assert_eq!(asked.iter().map(|(to, _)| to.clone()).collect::<std::collections::BTreeSet<_>>(), nodes(&[1, 2]));
    all_at(&mut leader, &asked[..1], v(1, 5));
    assert!(!leader.confirmed().covers(ticket), "by all");
    all_at(&mut leader, &asked[1..], v(1, 5));
    assert!(leader.confirmed().covers(ticket));
    assert_eq!(due(&mut leader, 3), [], "once");
}

#[test]
fn what_was_under_way_as_the_question_came_up_does_not_answer_it_and_one_round_serves_many() {
    let mut leader = at_rest();
    let first = leader.ticket().unwrap();
    let asked = due(&mut leader, 2);
    let (second, third) = (leader.ticket().unwrap(), leader.ticket().unwrap());
    all_at(&mut leader, &asked, v(1, 5));
    assert!(leader.confirmed().covers(first) && !leader.confirmed().covers(second));
    let asked = due(&mut leader, 3);
    assert_eq!(asked.len(), 2);
    all_at(&mut leader, &asked, v(1, 5));
    assert!(leader.confirmed().covers(second) && leader.confirmed().covers(third));
}

#[test]
fn what_was_written_before_the_question_is_with_all_who_answer_it() {
    let mut leader = at_rest();
    leader.append(change(2, 1)).unwrap();
    let ticket = leader.ticket().unwrap();
    let asked = due(&mut leader, 2);
    all_at(&mut leader, &asked, v(1, 5));
    assert!(!leader.confirmed().covers(ticket), "they have answered, and lack a write");
    let asked = due(&mut leader, 3);
    all_at(&mut leader, &asked, v(2, 1));
    assert!(leader.confirmed().covers(ticket));
}

#[test]
fn who_does_not_answer_is_asked_again_and_who_knows_a_later_epoch_ends_it() {
    let mut leader = at_rest();
    let ticket = leader.ticket().unwrap();
    let asked = due(&mut leader, 2);
    all_at(&mut leader, &asked[..1], v(1, 5));
    leader.told(ms(3), &asked[1].0, asked[1].1, Err(Failure::Timeout));
    let again = due(&mut leader, 100);
    assert_eq!(again.len(), 1);
    leader.told(ms(101), &again[0].0, again[0].1, Ok(Told::Stale { promised: Epoch::new(3) }));
    assert!(leader.confirmed().is_replaced() && !leader.confirmed().covers(ticket));
    assert_eq!(leader.ticket(), None);
}

#[test]
fn a_silent_member_that_answers_again_is_heard() {
    let mut leader = at_rest();
    leader.ticket().unwrap();
    let asked = due(&mut leader, 2);
    all_at(&mut leader, &asked[..1], v(1, 5));
    let late = 2 + u64::try_from(BOUNDS.silent_after.as_millis()).unwrap();
    assert_eq!(due(&mut leader, late), []);
    assert_eq!(leader.reports(), [Report::Silent(asked[1].0.clone())]);
    leader.told(ms(late), &asked[1].0, asked[1].1, Ok(Told::At(v(1, 5))));
    assert_eq!(leader.reports(), [Report::Heard(asked[1].0.clone())]);
}

#[test]
fn both_sets_confirm_and_a_set_of_the_owner_alone_cannot() {
    let mut leader = leader(&members(&[1], None, &[]));
    let asked = due(&mut leader, 0);
    all_at(&mut leader, &asked, v(1, 5));
    leader.set_members(&members(&[1], Some(&[2]), &[]));
    let ticket = leader.ticket().unwrap();
    let asked = due(&mut leader, 1);
    let of = |node: usize| asked.iter().filter(|(to, _)| *to == id(node, 1)).cloned().collect::<Vec<_>>();
    all_at(&mut leader, &of(1), v(1, 5));
    assert!(!leader.confirmed().covers(ticket), "the other set may be the one on record");
    all_at(&mut leader, &of(2), v(1, 5));
    assert!(leader.confirmed().covers(ticket));
    leader.set_members(&members(&[1], Some(&[]), &[]));
    assert!(!leader.confirmed().covers(ticket), "the set on record may be the owner alone");
    assert_eq!(leader.ticket(), None);
    leader.set_members(&members(&[], Some(&[1]), &[]));
    assert_eq!(leader.ticket(), None);
    leader.set_members(&members(&[], None, &[1]));
    assert_eq!(leader.ticket(), None, "learners are nobody's successors");
}
