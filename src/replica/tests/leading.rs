//! An owner's rules, one by one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::following::{change, v};
use super::world::{BOUNDS, id};
use crate::replica::{Ask, Change, Due, Failure, Follower, Leader, Log, Members, Report, Send, Standing, Told};
use crate::types::{Epoch, NodeId, Time, Version};

pub(super) fn ms(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

pub(super) fn nodes(numbers: &[usize]) -> BTreeSet<NodeId> {
    numbers.iter().map(|number| id(*number, 1)).collect()
}

pub(super) fn members(in_sync: &[usize], pending: Option<&[usize]>, learners: &[usize]) -> Members {
    Members { in_sync: nodes(in_sync), pending: pending.map(nodes), learners: nodes(learners) }
}

/// The owner of epoch 2, which has everything up to 1.5.
pub(super) fn leader(of: &Members) -> Leader {
    let mut log = Log::starting_at(v(1, 0), BOUNDS.log_bytes);
    (1..=5).for_each(|sequence| log.push(change(1, sequence)));
    let mut leader = Leader::new(Epoch::new(2), log, BOUNDS);
    leader.forget_absent();
    leader.set_members(of);
    leader
}

fn due(leader: &mut Leader, at_ms: u64) -> Vec<(NodeId, u64)> {
    leader.due(ms(at_ms)).into_iter().map(|due| (due.to, due.number)).collect()
}

/// Everybody in it is asked, and is where this says.
fn placed(leader: &mut Leader, at: Version) {
    for (to, number) in due(leader, 0) {
        leader.told(ms(0), &to, number, Ok(Told::At(at)));
    }
}

fn sent(due: &Due) -> (Version, Vec<Version>) {
    let Send::Append(Ask::Append { prev, changes, .. }) = &due.send else { panic!("{due:?}") };
    (*prev, changes.iter().map(|change| change.version).collect())
}

#[test]
fn nothing_is_committed_before_all_members_say_where_they_stand() {
    let mut leader = leader(&members(&[1, 2], None, &[]));
    let asked = leader.due(ms(0));
    assert_eq!(asked.iter().map(sent).collect::<Vec<_>>(), vec![(v(1, 5), vec![]); 2]);
    assert_eq!(leader.due(ms(1)), [], "one thing at a time");
    leader.told(ms(1), &asked[0].to, asked[0].number, Ok(Told::At(v(1, 5))));
    assert_eq!(leader.committed(), Version::default());
    leader.told(ms(1), &asked[1].to, asked[1].number, Ok(Told::Elsewhere { at: Some(v(1, 3)) }));
    assert_eq!(leader.committed(), v(1, 3));
    leader.append(change(2, 1)).unwrap();
    let due = leader.due(ms(2));
    assert_eq!(sent(&due[0]), (v(1, 5), vec![v(2, 1)]), "the first of an epoch follows the tail of the one before");
    assert_eq!(sent(&due[1]), (v(1, 3), vec![v(1, 4), v(1, 5), v(2, 1)]));
    assert_eq!(leader.append(change(2, 3)).map_err(|e| e.tail), Err(v(2, 1)));
}

#[test]
fn until_a_change_is_settled_both_sets_count() {
    let mut leader = leader(&members(&[1], None, &[2]));
    placed(&mut leader, v(1, 5));
    assert_eq!(leader.reports(), [Report::CaughtUp(id(2, 1))]);
    leader.set_members(&members(&[1], Some(&[2]), &[]));
    leader.append(change(2, 1)).unwrap();
    let sent = due(&mut leader, 1);
    leader.told(ms(1), &sent[1].0, sent[1].1, Ok(Told::At(v(2, 1))));
    assert_eq!(leader.committed(), v(1, 5), "1 is in the set until the record says otherwise");
    leader.set_members(&members(&[2], None, &[]));
    assert_eq!(leader.committed(), v(2, 1));
    leader.told(ms(2), &sent[0].0, sent[0].1, Ok(Told::At(v(2, 1))));
    leader.set_members(&members(&[], None, &[]));
    leader.append(change(2, 2)).unwrap();
    assert_eq!(leader.committed(), v(2, 2), "alone, what is written is committed");
}

#[test]
fn a_learner_reported_as_caught_up_counts_until_it_is_not_listed_any_more() {
    let mut leader = leader(&members(&[], None, &[1]));
    placed(&mut leader, v(1, 5));
    assert_eq!(leader.reports(), [Report::CaughtUp(id(1, 1))]);
    leader.append(change(2, 1)).unwrap();
    leader.set_members(&members(&[], None, &[1]));
    assert_eq!((leader.committed(), leader.reports()), (v(1, 5), vec![]));
    leader.set_members(&members(&[], Some(&[1]), &[]));
    leader.set_members(&members(&[], None, &[1]));
    assert_eq!(leader.reports(), [Report::CaughtUp(id(1, 1))], "its addition was not written down: it may be again");
    assert_eq!(leader.committed(), v(1, 5));
    leader.set_members(&members(&[], None, &[]));
    assert_eq!(leader.committed(), v(2, 1));
}

#[test]
fn an_answer_that_is_not_waited_for_any_more_changes_nothing() {
    let mut leader = leader(&members(&[1], None, &[]));
    let first = due(&mut leader, 0);
    leader.told(ms(1), &first[0].0, first[0].1, Err(Failure::Timeout));
    assert_eq!(leader.next_wake(), Some(ms(1) + BOUNDS.resend_after));
    let second = due(&mut leader, 20);
    leader.told(ms(21), &first[0].0, first[0].1, Ok(Told::At(v(1, 5))));
    assert_eq!(leader.committed(), Version::default());
    leader.set_members(&members(&[], None, &[]));
    leader.set_members(&members(&[1], None, &[]));
    leader.told(ms(22), &second[0].0, second[0].1, Ok(Told::At(v(1, 5))));
    assert_eq!(leader.progress()[0].standing, Standing::Asked, "it is another stay in the set");
}

#[test]
fn a_place_that_is_not_in_the_log_is_another_history_and_only_a_learner_is_copied() {
    for at in [Told::At(v(1, 9)), Told::Elsewhere { at: Some(v(1, 9)) }, Told::Elsewhere { at: None }] {
        let mut leader = leader(&members(&[1], None, &[2]));
        for (to, number) in due(&mut leader, 0) {
            leader.told(ms(0), &to, number, Ok(at.clone()));
        }
        assert_eq!(leader.reports(), [Report::Silent(id(1, 1))]);
        let due = leader.due(ms(1));
        assert!(matches!(&due[..], [Due { to, send: Send::Copy, .. }] if *to == id(2, 1)), "{due:?}");
        leader.set_members(&members(&[], None, &[1, 2]));
        assert!(matches!(&leader.due(ms(2))[..], [Due { to, send: Send::Copy, .. }] if *to == id(1, 1)));
    }
}

#[test]
fn a_copy_begins_at_the_tail_and_keeps_the_log_up_to_its_bound() {
    let mut leader = leader(&members(&[], None, &[1]));
    let asked = due(&mut leader, 0);
    leader.told(ms(0), &asked[0].0, asked[0].1, Ok(Told::Elsewhere { at: None }));
    let (to, stream) = due(&mut leader, 0).remove(0);
    leader.append(change(2, 1)).unwrap();
    assert_eq!(leader.copy_begins(&to, stream), Some(v(2, 1)));
    (2..=20).for_each(|sequence| leader.append(change(2, sequence)).unwrap());
    assert_eq!((leader.copy_tail(&to, stream), leader.copy_tail(&to, stream + 1)), (Some(v(2, 20)), None));
    leader.copied(ms(1), &to, stream, Ok(()));
    assert_eq!(sent(&leader.due(ms(1))[0]).0, v(2, 1));
    let mut sequence = 20;
    while leader.progress()[0].behind_bytes.is_some() {
        sequence += 1;
        leader.append(change(2, sequence)).unwrap();
        assert!(leader.log_bytes() <= BOUNDS.pinned_max_bytes);
    }
    leader.told(ms(2), &to, stream + 1, Err(Failure::Timeout));
    assert_eq!(leader.due(ms(2)), [], "the next copy is put off");
    let again = leader.due(ms(2) + BOUNDS.copy_pause.max(BOUNDS.resend_after));
    assert!(matches!(&again[..], [Due { send: Send::Copy, .. }]), "{again:?}");
    leader.set_members(&members(&[1], None, &[]));
    assert_eq!(leader.copy_begins(&to, again[0].number), None, "nobody in the set is cleared");
}

/// Nothing is written, so that nothing else would be sent to it.
#[test]
fn who_joins_says_once_more_where_it_stands_after_the_change_has_named_it() {
    for (told, joins) in [(Told::At(v(1, 5)), true), (Told::Elsewhere { at: None }, false)] {
        let mut leader = leader(&members(&[], None, &[1]));
        placed(&mut leader, v(1, 5));
        assert_eq!(leader.reports(), [Report::CaughtUp(id(1, 1))]);
        assert_eq!(leader.due(ms(1)), []);
        let both = members(&[], Some(&[1]), &[]);
        leader.set_members(&both);
        assert_eq!(leader.joined().count(), 0, "what it said before is not enough");
        let asked = leader.due(ms(2));
        assert_eq!(sent(&asked[0]), (v(1, 5), vec![]));
        leader.set_members(&both);
        leader.told(ms(3), &asked[0].to, asked[0].number, Ok(told));
        assert_eq!(leader.joined().count(), usize::from(joins));
        assert_eq!(leader.reports(), if joins { vec![] } else { vec![Report::Silent(id(1, 1))] });
        assert_eq!(leader.due(ms(4)), [], "it is asked once");
        leader.set_members(&members(&[1], None, &[]));
        assert_eq!(leader.joined().count(), 0);
    }
}

#[test]
fn a_copy_that_more_is_written_meanwhile_than_is_kept_for_it_says_so() {
    let mut leader = leader(&members(&[], None, &[1]));
    let asked = due(&mut leader, 0);
    leader.told(ms(0), &asked[0].0, asked[0].1, Ok(Told::Elsewhere { at: None }));
    let (to, stream) = due(&mut leader, 0).remove(0);
    assert_eq!(leader.copy_begins(&to, stream), Some(v(1, 5)));
    let mut sequence = 0;
    while leader.copy_tail(&to, stream).is_some() {
        assert_eq!(leader.outpaced(&to, stream), None);
        sequence += 1;
        leader.append(change(2, sequence)).unwrap();
    }
    assert_eq!(leader.outpaced(&to, stream), Some(BOUNDS.pinned_max_bytes));
    leader.set_members(&members(&[], None, &[]));
    assert_eq!(leader.outpaced(&to, stream), None, "it is not wanted any more");
}

#[test]
fn a_member_is_silent_once_and_again_after_it_has_answered() {
    let mut leader = leader(&members(&[1, 2], None, &[]));
    placed(&mut leader, v(1, 5));
    leader.append(change(2, 1)).unwrap();
    let mut at = 0;
    for _ in 0..40 {
        for (to, number) in due(&mut leader, at) {
            let answer = if to == id(2, 1) { Ok(Told::At(v(2, 1))) } else { Err(Failure::NoResponders) };
            leader.told(ms(at), &to, number, answer);
        }
        at += 10;
    }
    assert_eq!(leader.reports(), [Report::Silent(id(1, 1))]);
    let (to, number) = due(&mut leader, at).remove(0);
    leader.told(ms(at), &to, number, Ok(Told::At(v(2, 1))));
    leader.append(change(2, 2)).unwrap();
    due(&mut leader, at);
    due(&mut leader, at + 120);
    let heard_first = [Report::Heard(id(1, 1)), Report::Silent(id(1, 1)), Report::Silent(id(2, 1))];
    assert_eq!(leader.reports(), heard_first);
}

#[test]
fn a_batch_is_bounded_and_a_larger_write_goes_alone() {
    let mut leader = leader(&members(&[1], None, &[]));
    placed(&mut leader, v(1, 5));
    leader.append(Change { version: v(2, 1), made: Time::ZERO, body: vec![0; 400].into() }).unwrap();
    (2..=6).for_each(|sequence| leader.append(change(2, sequence)).unwrap());
    let mut batches = Vec::new();
    while let Some(due) = leader.due(ms(1)).first() {
        let (_, versions) = sent(due);
        leader.told(ms(1), &due.to, due.number, Ok(Told::At(*versions.last().unwrap())));
        batches.push(versions.len());
    }
    assert_eq!(batches, [1, 4, 1]);
}

#[test]
fn a_replaced_owner_says_so_once_and_sends_nothing_more() {
    let mut leader = leader(&members(&[1, 2], None, &[]));
    for (to, number) in due(&mut leader, 0) {
        leader.told(ms(0), &to, number, Ok(Told::Stale { promised: Epoch::new(3) }));
    }
    assert_eq!(leader.reports(), [Report::Stale(Epoch::new(3))]);
    assert_eq!((leader.due(ms(500)), leader.next_wake()), (vec![], None));
    let promise = |epoch| Ask::Promise { epoch: Epoch::new(epoch) };
    assert_eq!(leader.answer(&promise(1)), Told::Stale { promised: Epoch::new(2) });
    assert!(matches!(leader.answer(&promise(3)), Told::Refused(_)));
}

#[test]
fn in_a_switch_the_log_goes_along_both_ways() {
    let mut before = leader(&members(&[1], None, &[]));
    before.append(change(2, 1)).unwrap();
    let mut former = Follower::from_leader(Epoch::new(3), before);
    let mut target = former.clone().into_leader(Epoch::new(3)).unwrap();
    target.append(change(3, 1)).unwrap();
    target.set_members(&members(&[0], None, &[]));
    placed(&mut target, v(2, 1));
    let Some(Due { send: Send::Append(ask), .. }) = target.due(ms(1)).pop() else { panic!("it is behind") };
    assert_eq!(former.ask(ms(1), ask).1, Told::At(v(3, 1)));
    assert_eq!(target.tail(), v(3, 1));
}

#[test]
fn a_member_that_came_by_a_copy_is_not_silent_for_what_it_was_asked_before_it() {
    let mut leader = leader(&members(&[], None, &[1]));
    let asked = due(&mut leader, 0);
    leader.told(ms(1), &asked[0].0, asked[0].1, Ok(Told::Elsewhere { at: None }));
    let copy = due(&mut leader, 1);
    leader.copy_begins(&copy[0].0, copy[0].1).unwrap();
    leader.copied(ms(2), &copy[0].0, copy[0].1, Ok(()));
    assert_eq!(leader.reports(), [Report::CaughtUp(id(1, 1))]);
    leader.set_members(&members(&[1], None, &[]));
    let much_later = ms(0) + BOUNDS.silent_after * 10;
    assert_eq!((leader.next_wake(), leader.due(much_later), leader.reports()), (None, vec![], vec![]));
}

/// Writes far beyond what is kept for anybody else, which all that follow acknowledge; the last.
fn write_much(leader: &mut Leader) -> Version {
    for _ in 0..3 * BOUNDS.log_bytes / change(2, 1).weight() {
        let version = leader.next_version();
        leader.append(change(2, version.sequence)).unwrap();
        for due in leader.due(ms(1)) {
            let Send::Append(Ask::Append { prev, changes, .. }) = due.send else { panic!("{due:?}") };
            let at = changes.last().map_or(prev, |change| change.version);
            leader.told(ms(1), &due.to, due.number, Ok(Told::At(at)));
        }
    }
    leader.tail()
}

#[test]
fn what_a_node_missed_that_left_the_set_is_kept_until_it_is_back_or_its_time_is_over() {
    for (back_at_ms, in_time) in [(150, true), (250, false)] {
        let mut leader = leader(&members(&[1, 2], None, &[]));
        placed(&mut leader, v(1, 5));
        let left_at = write_much(&mut leader);
        assert!(leader.committed() == left_at && leader.log_bytes() <= BOUNDS.log_bytes);
        leader.set_members(&members(&[1], None, &[]));
        write_much(&mut leader);
        let (until, bytes) = leader.kept_for_absent().unwrap();
        assert!(until == ms(1) + BOUNDS.return_delay && bytes >= BOUNDS.log_bytes, "{until:?} {bytes}");
        assert_eq!(leader.next_wake(), Some(until));
        leader.due(ms(back_at_ms));
        assert_eq!(leader.kept_for_absent().is_some(), in_time);
        leader.set_members(&members(&[1], None, &[2]));
        let asked = leader.due(ms(back_at_ms));
        leader.told(ms(back_at_ms), &asked[0].to, asked[0].number, Ok(Told::Elsewhere { at: Some(left_at) }));
        let learner = leader.progress().into_iter().find(|follower| follower.node == id(2, 1)).unwrap();
        assert_eq!(learner.standing, if in_time { Standing::Following } else { Standing::Apart }, "{back_at_ms}");
    }
}

#[test]
fn what_is_kept_for_who_is_away_can_be_let_go_before_and_says_nothing_of_what_is_committed() {
    let mut log = Log::starting_at(v(1, 0), BOUNDS.log_bytes);
    (1..=5).for_each(|sequence| log.push(change(1, sequence)));
    let mut leader = Leader::new(Epoch::new(2), log, BOUNDS);
    leader.due(ms(0));
    assert!(leader.kept_for_absent().is_some(), "the former owner may come back");
    leader.forget_absent();
    assert_eq!((leader.kept_for_absent(), leader.committed()), (None, Version::default()));
    leader.set_members(&members(&[1], None, &[]));
    placed(&mut leader, v(1, 5));
    write_much(&mut leader);
    assert!(leader.log_bytes() <= BOUNDS.log_bytes);
}
