//! Requests that come again under their name: executed once, answered the same; what is remembered, for how long, and where it
//! goes with the partition.

use futures::TryStreamExt;

use super::copies::Kept;
use super::*;
use crate::cache::change::Effect;
use crate::cache::native::encode_operation;
use crate::cache::once::{Executed, Memory, Named, Outcome, REMEMBERED_FOR, REMEMBERED_MAX, Remembered};
use crate::replica::Change;
use crate::types::{Chance, Consistency, Once, RequestId, Time};

const PARTITION: PartitionId = PartitionId::new(0);
const INCR: Operation<'static> = Operation::Increment { by: 1, ttl_ms: None };

fn id(number: u64) -> RequestId {
    RequestId::named(number.to_string().as_bytes(), "", b"").unwrap()
}

fn once(node: &Node, number: u64, again: bool) -> Once {
    Once { id: id(number), first_sent: node.clock.now(), again }
}

impl Node {
    async fn named(&self, grant: &Grant, operation: &Operation<'_>, once: Once) -> Result<Bytes, ServiceError> {
        self.named_at(grant, operation, once, None).await
    }

    async fn named_at(
        &self,
        grant: &Grant,
        operation: &Operation<'_>,
        once: Once,
        level: Option<Consistency>,
    ) -> Result<Bytes, ServiceError> {
        let payload = encode_operation(operation, level, 0).unwrap();
        let request = Request { once: Some(once), ..request(operation.name(), b"k", payload, Form::Native) };
        self.cache.handle(grant, request).await
    }
}

async fn owner(epoch: u64) -> (Node, Grant, Arc<Kept>) {
    let log = Kept::new(1, 1);
    let (node, grant) = (node(), grant(0, epoch).with_log(log.clone()));
    node.own(&grant).await;
    (node, grant, log)
}

fn remembered(sequence: u64, at: Time) -> Remembered {
    let executed = Executed { id: id(sequence), asks: 7, outcome: Outcome::Lifetime };
    Remembered { version: version(1, sequence), at, executed }
}

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn asking(number: u64, first_sent: Time) -> Named {
    Named { once: Once { id: id(number), first_sent, again: true }, asks: 7 }
}

#[tokio::test]
async fn every_kind_of_write_that_comes_again_is_answered_as_the_first_time_and_done_once() {
    let condition = Condition::NONE;
    let writes = [
        Operation::Set { value: b"1", content_type: b"", ttl_ms: None, condition: Condition::if_absent() },
        INCR,
        Operation::Touch { ttl_ms: 5000, condition: condition.clone() },
        Operation::Persist { condition: condition.clone() },
        Operation::Set {
            value: b"2",
            content_type: b"",
            ttl_ms: None,
            condition: Condition::if_version(version(1, 4)),
        },
        Operation::Delete { condition },
        Operation::GetOrSet { value: b"5", content_type: b"", ttl_ms: None },
    ];
    let (node, grant, log) = owner(1).await;
    let mut first = Vec::new();
    for (number, write) in (0..).zip(&writes) {
        let once = once(&node, number, false);
        let answer = node.named(&grant, write, once).await.unwrap();
        assert_eq!(node.named(&grant, write, Once { again: true, ..once }).await.unwrap(), answer, "{write:?}");
        first.push((once, answer));
    }
    // And long after others have followed.
    for (write, (once, answer)) in writes.iter().zip(&first) {
        assert_eq!(node.named(&grant, write, *once).await.unwrap(), *answer, "{write:?}");
    }
    assert_eq!(log.take().len(), writes.len());
    assert_eq!(node.get(&grant, b"k").await.unwrap().version, version(1, 7));
}

#[tokio::test]
async fn a_plain_client_names_its_request_in_a_field_and_gets_the_first_answer_again() {
    let (node, grant, _) = owner(1).await;
    for (operation, body) in [
        ("incr", r#"{"key":"k","by":5,"request_id":"a"}"#),
        ("set", r#"{"key":"k","value":[1],"request_id":"a"}"#),
        ("get-or-set", r#"{"key":"other","value":7,"request_id":"b"}"#),
        ("delete", r#"{"key":"k","request_id":"a"}"#),
    ] {
        let key = if body.contains("other") { "other" } else { "k" };
        let answer = node.plain(&grant, operation, key, body).await.unwrap();
        assert_eq!(node.plain(&grant, operation, key, body).await.unwrap(), answer, "{operation}");
    }
    let other = node.plain(&grant, "incr", "k", r#"{"key":"k","by":6,"request_id":"a"}"#).await.unwrap_err();
    assert_eq!(other.code, "request_id_reused");
    for bad in [r#"{"key":"k","request_id":""}"#, r#"{"key":"k","request_id":7}"#] {
        let refused = node.plain(&grant, "incr", "k", bad).await.unwrap_err();
        assert!(refused.code == "bad_request" && refused.message.contains("request_id"), "{bad}: {refused}");
    }
}

#[tokio::test]
async fn the_name_of_another_request_is_refused_and_what_was_refused_is_not_remembered() {
    let (node, grant, log) = owner(1).await;
    let one = once(&node, 1, false);
    node.named(&grant, &INCR, one).await.unwrap();
    let other = node.named(&grant, &Operation::Increment { by: 2, ttl_ms: None }, one).await.unwrap_err();
    assert_eq!(other.code, "request_id_reused");
    assert_eq!(node.get(&grant, b"k").await.unwrap().value, b"1");
    let two = once(&node, 2, false);
    let absent = Operation::Set { value: b"2", content_type: b"", ttl_ms: None, condition: Condition::if_absent() };
    assert_eq!(node.named(&grant, &absent, two).await.unwrap_err().code, "precondition_failed");
    node.delete(&grant, b"k").await;
    node.named(&grant, &absent, two).await.unwrap();
    assert_eq!(log.take().len(), 3);
}

#[tokio::test]
async fn a_request_that_comes_again_at_another_level_is_the_same_and_waits_for_that_level() {
    let log = Kept::new(2, 3);
    let (node, grant) = (node(), grant(0, 1).with_log(log.clone()));
    node.own(&grant).await;
    let one = once(&node, 1, false);
    let first = node.named(&grant, &INCR, one).await.unwrap();
    let again = node.named_at(&grant, &INCR, one, Some(Consistency::Quorum));
    tokio::pin!(again);
    assert!(futures::poll!(&mut again).is_pending(), "not committed yet");
    log.commit(version(1, 1));
    assert_eq!(again.await.unwrap(), first);
    // Of three copies there are two: refused, had it not been executed already.
    let refused = node.named_at(&grant, &INCR, once(&node, 2, false), Some(Consistency::Strong)).await.unwrap_err();
    assert_eq!(refused.code, "not_enough_replicas");
    let unknown = node.named_at(&grant, &INCR, one, Some(Consistency::Strong)).await.unwrap_err();
    assert_eq!(unknown.code, "unknown");
    assert_eq!(node.get(&grant, b"k").await.unwrap().value, b"1");
}

#[tokio::test]
async fn a_copy_that_becomes_the_owner_knows_what_was_executed_before_it() {
    let (owner, one, log) = owner(1).await;
    let early = once(&owner, 1, true);
    let first = owner.named(&one, &INCR, early).await.unwrap();
    let copy = node();
    copy.clock.advance(Duration::from_secs(500));
    copy.cache.clear(PARTITION);
    let chunks: Vec<Bytes> = owner.cache.snapshot(&one, 4096).await.unwrap().try_collect().await.unwrap();
    let late = once(&owner, 2, true);
    let second = owner.named(&one, &INCR, late).await.unwrap();
    for chunk in chunks {
        copy.cache.copy_chunk(PARTITION, chunk, Duration::ZERO).unwrap();
    }
    let now = copy.clock.now();
    let changes: Vec<Change> = log.take().into_iter().map(|change| Change { made: now, ..change }).collect();
    copy.cache.copy_changes(PARTITION, &changes).unwrap();
    let two = grant(0, 2).with_log(Kept::new(1, 1));
    copy.own(&two).await;
    let here = |once: Once| Once { first_sent: now, ..once };
    assert_eq!(copy.named(&two, &INCR, here(early)).await.unwrap(), first);
    assert_eq!(copy.named(&two, &INCR, here(late)).await.unwrap(), second);
    assert_eq!(copy.get(&two, b"k").await.unwrap().value, b"2");
    assert!(copy.named(&two, &INCR, here(once(&copy, 3, true))).await.is_ok(), "all there was is known");
}

#[tokio::test]
async fn a_next_owner_that_was_handed_the_state_knows_what_was_executed_and_how_long_ago() {
    let (owner, one, _) = owner(1).await;
    let early = once(&owner, 1, true);
    let first = owner.named(&one, &INCR, early).await.unwrap();
    owner.clock.advance(Duration::from_secs(20));
    let chunks: Vec<Bytes> = owner.cache.snapshot(&one, 4096).await.unwrap().try_collect().await.unwrap();
    let (next, two) = (node(), grant(0, 2));
    next.clock.advance(Duration::from_secs(1000));
    next.cache.restore(&two, chunks, Duration::ZERO).await.unwrap();
    next.own(&two).await;
    let again = Once { first_sent: at(980), ..early };
    assert_eq!(next.named(&two, &INCR, again).await.unwrap(), first);
    // So long after its execution, not after its arrival here.
    next.clock.advance(REMEMBERED_FOR - Duration::from_secs(19));
    next.sweep(10);
    assert_eq!(next.named(&two, &INCR, again).await.unwrap_err().code, "unknown");
    assert_eq!(next.get(&two, b"k").await.unwrap().value, b"1");
}

#[tokio::test]
async fn what_a_release_before_hands_over_or_writes_leaves_unknown_what_was_sent_before() {
    let (owner, one, log) = owner(1).await;
    owner.set(&one, b"k", b"1", None).await;
    let mut chunks: Vec<Bytes> = owner.cache.snapshot(&one, 4096).await.unwrap().try_collect().await.unwrap();
    chunks.pop();
    let (next, two) = (node(), grant(0, 2));
    next.clock.advance(Duration::from_secs(100));
    let before = next.clock.now();
    next.cache.clear(PARTITION);
    next.clock.advance(Duration::from_secs(5));
    for chunk in chunks {
        next.cache.copy_chunk(PARTITION, chunk, Duration::ZERO).unwrap();
    }
    // A change without a word on names: it may have been the one.
    let effect = Effect::Delete { key: b"x" };
    let body: Bytes = postcard::to_extend(&effect, vec![1]).unwrap().into();
    let made = next.clock.now();
    log.take();
    next.cache.copy_changes(PARTITION, &[Change { version: version(1, 2), made, body }]).unwrap();
    next.own(&two).await;
    let again = |first_sent| Once { id: id(9), first_sent, again: true };
    for first_sent in [before, made] {
        assert_eq!(next.named(&two, &INCR, again(first_sent)).await.unwrap_err().code, "unknown");
    }
    assert!(next.named(&two, &INCR, Once { again: false, ..again(made) }).await.is_ok(), "it was not sent before");
    next.clock.advance(Duration::from_secs(6));
    let later = Once { id: id(10), ..again(next.clock.now()) };
    assert!(next.named(&two, &INCR, later).await.is_ok());
}

/// As a release before names writes it.
fn nameless(effect: &Effect<'_>) -> Bytes {
    postcard::to_extend(effect, vec![1]).unwrap().into()
}

#[tokio::test]
async fn what_was_sent_before_a_copy_without_names_became_the_owner_is_unknown_however_quiet_its_owner_was() {
    let (second, third) = (node(), node());
    let body = nameless(&Effect::Delete { key: b"x" });
    for copy in [&second, &third] {
        copy.cache.clear(PARTITION);
        let change = Change { version: version(1, 1), made: copy.clock.now(), body: body.clone() };
        copy.cache.copy_changes(PARTITION, &[change]).unwrap();
        copy.clock.advance(Duration::from_secs(20));
    }
    let (log, sent) = (Kept::new(1, 1), second.clock.now());
    let two = grant(0, 2).with_log(log.clone());
    second.own(&two).await;
    let again = Once { id: id(9), first_sent: sent, again: true };
    assert_eq!(second.named(&two, &INCR, again).await.unwrap_err().code, "unknown");
    // Nor does a copy of both owners know it: the former one may have executed it, and passed it on to the later one, without a name.
    second.set(&two, b"k", b"1", None).await;
    third.cache.copy_changes(PARTITION, &log.take()).unwrap();
    third.clock.advance(Duration::from_secs(1));
    let three = grant(0, 3).with_log(Kept::new(1, 1));
    third.own(&three).await;
    assert_eq!(third.named(&three, &INCR, again).await.unwrap_err().code, "unknown");
    third.clock.advance(Duration::from_secs(20));
    let later = Once { first_sent: third.clock.now(), ..again };
    assert!(third.named(&three, &INCR, later).await.is_ok());
}

#[tokio::test]
async fn a_kept_copy_that_looks_older_than_what_is_remembered_leaves_unknown_what_was_sent_before() {
    let (owner, one, _) = owner(1).await;
    let early = once(&owner, 1, true);
    owner.named(&one, &INCR, early).await.unwrap();
    let chunks: Vec<Bytes> = owner.cache.snapshot(&one, 4096).await.unwrap().try_collect().await.unwrap();
    let (kept, two) = (node(), grant(0, 2));
    kept.clock.advance(Duration::from_secs(1000));
    for chunk in chunks {
        kept.cache.copy_chunk(PARTITION, chunk, REMEMBERED_FOR * 2).unwrap();
    }
    kept.own(&two).await;
    kept.sweep(10);
    let again = Once { first_sent: at(999), ..early };
    assert_eq!(kept.named(&two, &INCR, again).await.unwrap_err().code, "unknown");
}

/// What changed nothing when it was sent again was answered, and what its caller did then counts: the first sending, late, does
/// nothing, at this owner and at the next.
#[tokio::test]
async fn a_late_first_sending_of_what_changed_nothing_changes_nothing_either() {
    let none = Condition::NONE;
    let (touch, persist) =
        (Operation::Touch { ttl_ms: 1000, condition: none.clone() }, Operation::Persist { condition: none });
    let found_or_stored = Operation::GetOrSet { value: b"5", content_type: b"", ttl_ms: None };
    let (owner, one, log) = owner(1).await;
    let again = |number| once(&owner, number, true);
    let missing = owner.named(&one, &touch, again(1)).await.unwrap();
    owner.set(&one, b"k", b"1", None).await;
    let endless = owner.named(&one, &persist, again(2)).await.unwrap();
    let found = owner.named(&one, &found_or_stored, again(3)).await.unwrap();
    let copy = node();
    copy.cache.clear(PARTITION);
    let chunks: Vec<Bytes> = owner.cache.snapshot(&one, 4096).await.unwrap().try_collect().await.unwrap();
    let handed = node();
    handed.cache.restore(&grant(0, 2), chunks, Duration::ZERO).await.unwrap();
    copy.cache.copy_changes(PARTITION, &log.take()).unwrap();
    for (node, epoch) in [(&owner, 1), (&copy, 2), (&handed, 2)] {
        let grant = grant(0, epoch).with_log(Kept::new(1, 1));
        node.own(&grant).await;
        let late = |number| Once { again: false, ..once(&owner, number, false) };
        assert_eq!(node.named(&grant, &touch, late(1)).await.unwrap(), missing);
        assert_eq!(node.get(&grant, b"k").await.unwrap().remaining_ttl_ms, None);
        node.set_ttl(&grant, b"k", Some(9000)).await;
        assert_eq!(node.named(&grant, &persist, late(2)).await.unwrap(), endless);
        assert_eq!(node.get(&grant, b"k").await.unwrap().remaining_ttl_ms, Some(9000));
        node.set_ttl(&grant, b"k", None).await;
        let Answer::Got(Some(before)) = decode(&found).unwrap() else { panic!("not found") };
        let here = node.named(&grant, &found_or_stored, late(3)).await.unwrap();
        let Answer::Got(Some(here)) = decode(&here).unwrap() else { panic!("not found") };
        assert_eq!(here.value, before.value);
        node.delete(&grant, b"k").await;
        assert_eq!(node.named(&grant, &found_or_stored, late(3)).await.unwrap_err().code, "unknown");
        assert_eq!(node.get(&grant, b"k").await, None);
    }
}

#[tokio::test]
async fn what_changes_nothing_is_no_change_to_the_copies_unless_it_may_come_again() {
    let (owner, one, log) = owner(1).await;
    owner.set(&one, b"k", b"1", None).await;
    log.take();
    let drawn = Once { id: RequestId::draw(&Chance::seeded(1)), ..once(&owner, 0, false) };
    let read = Operation::GetOrSet { value: b"5", content_type: b"", ttl_ms: None };
    owner.named(&one, &read, drawn).await.unwrap();
    assert_eq!(log.take(), []);
    owner.named(&one, &read, Once { again: true, ..drawn }).await.unwrap();
    owner.named(&one, &read, once(&owner, 1, false)).await.unwrap();
    assert_eq!(log.take().len(), 2);
    assert_eq!(owner.get(&one, b"k").await.unwrap().version, version(1, 1));
}

#[test]
fn a_sending_that_was_on_its_way_for_seconds_is_not_taken_for_a_later_one() {
    let mut memory = Memory::default();
    let micros = |micros| Time::ZERO + Duration::from_micros(micros);
    // 5000 a second, for two seconds: of the first 360 ms nothing is known any more.
    for sequence in 0..10_000 {
        memory.remember(remembered(sequence, micros(sequence * 200)));
    }
    // The 51st came again as 250 ms old, after 1.75 s in the network.
    let again = asking(50, micros(1_750_000));
    assert_eq!(memory.recall(&again).unwrap_err().code, "unknown");
    // Nor is a first sending known that waited somewhere while all was forgotten that may have been its second.
    let late = |first_sent| Named { once: Once { again: false, first_sent, ..again.once }, ..again };
    assert_eq!(memory.recall(&late(micros(300_000))).unwrap_err().code, "unknown");
    assert_eq!(memory.recall(&late(micros(400_000))).unwrap(), None);
}

#[test]
fn a_name_that_was_executed_anew_is_known_as_of_then() {
    let mut memory = Memory::default();
    let anew = Remembered { version: version(1, 9), ..remembered(1, at(70)) };
    for one in [remembered(1, at(1)), anew, remembered(1, at(1))] {
        memory.remember(one);
    }
    assert_eq!(memory.recall(&asking(1, at(1))).unwrap(), Some((version(1, 9), Outcome::Lifetime)));
    memory.expire(at(71));
    assert_eq!(memory.recall(&asking(1, at(1))).unwrap(), Some((version(1, 9), Outcome::Lifetime)));
    assert_eq!(memory.newest(9).0.count(), 1);
}

#[test]
fn so_many_are_remembered_and_what_was_first_sent_before_the_newest_forgotten_is_not_known() {
    let mut memory = Memory::default();
    assert!(memory.recall(&asking(1, at(0))).unwrap().is_none(), "nothing is forgotten yet");
    for sequence in 1..=REMEMBERED_MAX as u64 + 10 {
        memory.remember(remembered(sequence, at(sequence)));
        memory.remember(remembered(sequence, at(sequence)));
    }
    assert_eq!(memory.newest(usize::MAX).0.count(), REMEMBERED_MAX);
    assert_eq!(memory.recall(&asking(11, at(11))).unwrap(), Some((version(1, 11), Outcome::Lifetime)));
    assert_eq!(memory.recall(&asking(10, at(10))).unwrap_err().code, "unknown");
    assert_eq!(memory.recall(&asking(99_999, at(10))).unwrap_err().code, "unknown");
    assert_eq!(
        memory.recall(&asking(99_999, at(15))).unwrap_err().code,
        "unknown",
        "so long it may have been on its way"
    );
    assert_eq!(memory.recall(&asking(99_999, at(16))).unwrap(), None);
    let (newest, forgotten_until) = memory.newest(2);
    let newest: Vec<u64> = newest.map(|one| one.version.sequence).collect();
    assert_eq!(newest, [REMEMBERED_MAX as u64 + 9, REMEMBERED_MAX as u64 + 10]);
    assert_eq!(forgotten_until, Some(at(REMEMBERED_MAX as u64 + 8)));
}

#[test]
fn a_minute_is_remembered_and_order_is_that_of_versions_however_they_come() {
    let mut memory = Memory::beginning(at(3));
    assert_eq!(memory.recall(&asking(1, at(4))).unwrap_err().code, "unknown");
    for sequence in [30, 10, 20, 20] {
        memory.remember(remembered(sequence, at(sequence)));
    }
    let order: Vec<u64> = memory.newest(9).0.map(|one| one.version.sequence).collect();
    assert_eq!(order, [10, 20, 30]);
    memory.expire(at(20) + REMEMBERED_FOR);
    assert_eq!(memory.recall(&asking(10, at(10))).unwrap_err().code, "unknown");
    assert_eq!(memory.recall(&asking(20, at(20))).unwrap(), Some((version(1, 20), Outcome::Lifetime)));
}
