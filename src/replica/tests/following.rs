//! A log's and a follower's rules, one by one.

use std::time::Duration;

use bytes::Bytes;

use super::world::BOUNDS;
use crate::replica::{Apply, Ask, Change, Follower, Log, Told};
use crate::types::{Epoch, Time, Version};

pub(super) fn v(epoch: u64, sequence: u64) -> Version {
    Version { epoch: Epoch::new(epoch), sequence }
}

pub(super) fn change(epoch: u64, sequence: u64) -> Change {
    Change { version: v(epoch, sequence), made: Time::ZERO, body: Bytes::from_static(b"body") }
}

fn append(epoch: u64, number: u64, prev: Version, changes: &[Change]) -> Ask {
    Ask::Append { epoch: Epoch::new(epoch), number, prev, changes: changes.to_vec() }
}

fn begin(epoch: u64, stream: u64, since: Version) -> Ask {
    Ask::CopyBegin { epoch: Epoch::new(epoch), stream, since }
}

fn chunk(epoch: u64, stream: u64, number: u32, body: &'static [u8]) -> Ask {
    Ask::chunk(Epoch::new(epoch), stream, number, Duration::from_millis(5), Bytes::from_static(body))
}

fn end(epoch: u64, stream: u64, chunks: u32, until: Version) -> Ask {
    Ask::CopyEnd { epoch: Epoch::new(epoch), stream, chunks, until }
}

fn ask(follower: &mut Follower, ask: Ask) -> (Vec<Apply>, Told) {
    follower.ask(Time::ZERO, ask)
}

/// A follower of epoch 1 that was copied, and has everything up to 1.3.
fn at_three() -> Follower {
    let mut follower = Follower::new(Epoch::new(1), BOUNDS);
    assert_eq!(ask(&mut follower, begin(1, 1, v(1, 1))), (vec![Apply::Clear], Told::Accepted));
    assert_eq!(ask(&mut follower, end(1, 1, 0, v(1, 3))), (vec![], Told::At(v(1, 1))));
    assert!(!follower.is_sharp(), "its chunks may hold what was written up to 1.3");
    let changes = [change(1, 2), change(1, 3)];
    let told = ask(&mut follower, append(1, 2, v(1, 1), &changes));
    assert_eq!(told, (vec![Apply::Changes(changes.to_vec())], Told::At(v(1, 3))));
    assert!(follower.is_sharp());
    follower
}

#[test]
fn what_is_let_go_is_not_brought_back_by_an_owner_that_is_known_to_be_replaced() {
    let mut left = at_three().let_go(Epoch::new(5));
    assert_eq!(left.at(), None);
    let stale = Told::Stale { promised: Epoch::new(5) };
    assert_eq!(ask(&mut left, begin(3, 9, v(3, 1))), (vec![], stale), "frozen, it has not heard of its successors");
    assert_eq!(ask(&mut left, begin(5, 1, v(5, 1))), (vec![Apply::Clear], Told::Accepted));
    // What was promised already stays promised.
    assert_eq!(left.let_go(Epoch::new(4)).promised(), Epoch::new(5));
}

#[test]
fn a_log_keeps_the_newest_writes_and_more_only_while_they_are_needed() {
    let weight = change(1, 1).weight();
    let mut log = Log::starting_at(v(1, 0), 2 * weight);
    (1..=3).for_each(|sequence| log.push(change(1, sequence)));
    assert_eq!((log.base(), log.tail(), log.contains(v(1, 0)), log.bytes()), (v(1, 1), v(1, 3), false, 2 * weight));
    log.pin(Some(v(1, 1)), 4 * weight);
    (4..=5).for_each(|sequence| log.push(change(1, sequence)));
    assert!(log.contains(v(1, 1)));
    log.push(change(2, 1));
    assert!(!log.contains(v(1, 1)), "beyond the bound nothing is kept for anybody");
    log.pin(None, 0);
    assert_eq!((log.base(), log.bytes()), (v(1, 4), 2 * weight));
    let huge = Change { version: v(2, 2), made: Time::ZERO, body: vec![0; 5000].into() };
    log.push(huge.clone());
    assert_eq!(log.after(v(2, 1), 1), Some(vec![huge]), "the newest is kept, and goes alone");
    assert_eq!((log.after(v(2, 2), 1), log.after(v(1, 5), 1), log.bytes_after(v(2, 2))), (Some(vec![]), None, Some(0)));
}

#[test]
fn what_comes_twice_is_applied_once_and_what_comes_late_is_refused() {
    let mut follower = at_three();
    let both = [change(1, 2), change(1, 3)];
    assert_eq!(ask(&mut follower, append(1, 2, v(1, 1), &both)), (vec![], Told::At(v(1, 3))));
    let overlapping = [change(1, 3), change(1, 4)];
    let (apply, told) = ask(&mut follower, append(1, 5, v(1, 2), &overlapping));
    assert_eq!((apply, told), (vec![Apply::Changes(vec![change(1, 4)])], Told::At(v(1, 4))));
    assert!(
        matches!(ask(&mut follower, append(1, 4, v(1, 4), &[change(1, 5)])), (apply, Told::Refused(_)) if apply.is_empty())
    );
    assert!(matches!(ask(&mut follower, begin(1, 3, v(1, 4))), (apply, Told::Refused(_)) if apply.is_empty()));
    assert_eq!(follower.at(), Some(v(1, 4)));
}

#[test]
fn a_follower_elsewhere_says_where_and_applies_nothing() {
    let mut follower = at_three();
    let told = ask(&mut follower, append(1, 3, v(1, 7), &[change(1, 8)]));
    assert_eq!(told, (vec![], Told::Elsewhere { at: Some(v(1, 3)) }));
    // The owner of epoch 2 has 1.2 and then writes of its own: 1.3 is not of its history.
    let told = ask(&mut follower, append(2, 1, v(1, 2), &[change(2, 1)]));
    assert_eq!(told, (vec![], Told::Elsewhere { at: Some(v(1, 3)) }));
    let gap = ask(&mut follower, append(2, 2, v(1, 3), &[change(2, 2)]));
    assert!(matches!(gap, (apply, Told::Refused(_)) if apply.is_empty()));
    let (apply, told) = ask(&mut follower, append(2, 3, v(1, 3), &[change(2, 1)]));
    assert_eq!(
        (apply.len(), told),
        (1, Told::At(v(2, 1))),
        "the first write after a takeover follows the tail before it"
    );
    assert_eq!(follower.failed(), Told::Elsewhere { at: None });
    assert_eq!(ask(&mut follower, append(2, 4, v(2, 1), &[])), (vec![], Told::Elsewhere { at: None }));
}

#[test]
fn who_has_promised_an_epoch_refuses_every_lower_one() {
    let mut follower = at_three();
    let promise = |epoch| Ask::Promise { epoch: Epoch::new(epoch) };
    for _ in 0..2 {
        assert_eq!(ask(&mut follower, promise(3)), (vec![], Told::Promised { at: Some(v(1, 3)) }));
    }
    let stale = Told::Stale { promised: Epoch::new(3) };
    for late in [append(2, 9, v(1, 3), &[]), begin(2, 9, v(1, 3)), promise(2), end(2, 9, 0, v(1, 3))] {
        assert_eq!(ask(&mut follower, late), (vec![], stale.clone()));
    }
    let fetch = Ask::Fetch { epoch: Epoch::new(3), after: v(1, 2) };
    assert_eq!(ask(&mut follower, fetch), (vec![], Told::Fetched(vec![change(1, 3)])));
    let unknown = Ask::Fetch { epoch: Epoch::new(3), after: v(1, 9) };
    assert_eq!(ask(&mut follower, unknown), (vec![], Told::Fetched(vec![])));
    assert!(follower.clone().into_leader(Epoch::new(2)).is_none());
    assert_eq!(follower.into_leader(Epoch::new(3)).map(|leader| leader.next_version()), Some(v(3, 1)));
}

#[test]
fn chunks_are_applied_in_order_and_few_of_them_wait_for_their_turn() {
    let mut follower = Follower::new(Epoch::new(1), BOUNDS);
    ask(&mut follower, begin(1, 1, v(1, 1)));
    for number in [1, 2, 7] {
        assert_eq!(ask(&mut follower, chunk(1, 1, number, b"x")), (vec![], Told::Accepted));
    }
    for refused in [chunk(1, 1, 8, b"x"), chunk(1, 1, 3, &[0; 120]), end(1, 1, 1, v(1, 1)), chunk(1, 2, 0, b"x")] {
        assert!(matches!(ask(&mut follower, refused), (apply, Told::Refused(_)) if apply.is_empty()));
    }
    let Ask::CopyChunk { epoch, stream, number, checksum, age_ms, .. } = chunk(1, 1, 0, b"a") else { panic!() };
    let corrupt = Ask::CopyChunk { epoch, stream, number, checksum, age_ms, body: Bytes::from_static(b"b") };
    assert!(
        matches!(ask(&mut follower, corrupt), (apply, Told::Refused(why)) if apply.is_empty() && why.contains("corrupt"))
    );
    let (apply, told) = follower.ask(Time::ZERO + Duration::from_millis(10), chunk(1, 1, 0, b"first"));
    let ages: Vec<_> = apply
        .iter()
        .map(|apply| match apply {
            Apply::Chunk { age, .. } => age.as_millis(),
            _ => panic!("{apply:?}"),
        })
        .collect();
    assert_eq!((ages, told), (vec![5, 15, 15], Told::Accepted), "what waited is older by that");
    assert_eq!(ask(&mut follower, chunk(1, 1, 1, b"x")), (vec![], Told::Accepted));
    for number in 3..7 {
        ask(&mut follower, chunk(1, 1, number, b"x"));
    }
    for _ in 0..2 {
        assert_eq!(ask(&mut follower, end(1, 1, 8, v(1, 1))), (vec![], Told::At(v(1, 1))));
    }
    assert_eq!(ask(&mut follower, chunk(1, 1, 7, b"x")), (vec![], Told::Accepted));
    assert_eq!(ask(&mut follower, begin(1, 1, v(1, 1))), (vec![], Told::Accepted), "begun twice, cleared once");
}

#[test]
fn a_copy_begun_anew_takes_no_chunk_of_the_one_before() {
    let mut follower = Follower::new(Epoch::new(1), BOUNDS);
    ask(&mut follower, begin(1, 1, v(1, 1)));
    ask(&mut follower, chunk(1, 1, 0, b"old"));
    assert_eq!(ask(&mut follower, begin(1, 2, v(1, 5))), (vec![Apply::Clear], Told::Accepted));
    for late in [chunk(1, 1, 1, b"old"), end(1, 1, 2, v(1, 3)), begin(1, 1, v(1, 1))] {
        assert!(matches!(ask(&mut follower, late), (apply, Told::Refused(_)) if apply.is_empty()));
    }
    assert_eq!(ask(&mut follower, chunk(1, 2, 0, b"new")).1, Told::Accepted);
    assert_eq!(ask(&mut follower, end(1, 2, 1, v(1, 6))).1, Told::At(v(1, 5)));
}

#[test]
fn a_copy_that_may_hold_later_writes_is_worth_nothing_to_the_next_owner() {
    let mut follower = Follower::new(Epoch::new(1), BOUNDS);
    ask(&mut follower, begin(1, 1, v(1, 1)));
    ask(&mut follower, end(1, 1, 0, v(1, 3)));
    assert_eq!(follower.clone().promise(Epoch::new(2)), None);
    assert_eq!(ask(&mut follower, append(1, 2, v(1, 1), &[change(1, 2), change(1, 3)])).1, Told::At(v(1, 3)));
    assert_eq!(follower.promise(Epoch::new(2)), Some(v(1, 3)));
}

/// Written by one release and read by the next: postcard does not describe itself.
#[test]
fn messages_are_encoded_as_they_were_in_the_first_release_that_had_them() {
    let encoded = |ask: &Ask| postcard::to_stdvec(ask).unwrap();
    let written = append(2, 7, v(1, 9), &[change(2, 1)]);
    assert_eq!(encoded(&written), [&[0, 2, 7, 1, 9, 1, 2, 1, 4][..], b"body"].concat());
    assert_eq!(encoded(&begin(2, 7, v(1, 9))), [1, 2, 7, 1, 9]);
    assert_eq!(encoded(&end(2, 7, 3, v(2, 1))), [3, 2, 7, 3, 2, 1]);
    assert_eq!(encoded(&Ask::Promise { epoch: Epoch::new(3) }), [4, 3]);
    assert_eq!(encoded(&Ask::Fetch { epoch: Epoch::new(3), after: v(1, 9) }), [5, 3, 1, 9]);
    assert_eq!(postcard::from_bytes::<Ask>(&encoded(&chunk(2, 7, 1, b"x"))).unwrap(), chunk(2, 7, 1, b"x"));
    let told = [
        (Told::At(v(1, 9)), vec![0, 1, 9]),
        (Told::Elsewhere { at: Some(v(1, 9)) }, vec![1, 1, 1, 9]),
        (Told::Accepted, vec![2]),
        (Told::Stale { promised: Epoch::new(3) }, vec![3, 3]),
        (Told::Promised { at: None }, vec![4, 0]),
        (Told::Fetched(vec![]), vec![5, 0]),
        (Told::Refused("no".to_owned()), vec![6, 2, b'n', b'o']),
    ];
    for (told, bytes) in told {
        assert_eq!(postcard::to_stdvec(&told).unwrap(), bytes, "{told:?}");
    }
}
