//! Copies follow their owner, become owners themselves; a consistency is refused, waited for, or not reached.

use std::sync::Mutex;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::watch;

use super::*;
use crate::cache::NOT_ENOUGH_REPLICAS;
use crate::cache::native::encode_operation;
use crate::replica::Change;
use crate::service::{ChangeLog, Copies, NotCommitted, Release};
use crate::types::{Consistency, Time};

/// Keeps the changes, and commits what it is told to.
#[derive(Debug)]
pub(super) struct Kept {
    changes: Mutex<Vec<Change>>,
    copies: Mutex<Copies>,
    committed: watch::Sender<Option<Version>>,
}

impl Kept {
    pub(super) fn new(in_sync: usize, factor: usize) -> Arc<Self> {
        let copies = Mutex::new(Copies { in_sync, factor, consistency: Consistency::Eventual });
        Arc::new(Self { changes: Mutex::default(), copies, committed: watch::Sender::new(None) })
    }

    pub(super) fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock().unwrap())
    }

    pub(super) fn commit(&self, version: Version) {
        self.committed.send_replace(Some(version));
    }
}

impl ChangeLog for Kept {
    fn append(&self, change: Change) {
        self.changes.lock().unwrap().push(change);
    }

    fn copies(&self) -> Copies {
        *self.copies.lock().unwrap()
    }

    fn committed(&self, version: Version) -> BoxFuture<'static, Result<Copies, NotCommitted>> {
        let (mut committed, copies) = (self.committed.subscribe(), self.copies());
        async move {
            committed.wait_for(|upto| upto.is_some_and(|upto| upto >= version)).await.map_err(|_| NotCommitted)?;
            Ok(copies)
        }
        .boxed()
    }
}

const PARTITION: PartitionId = PartitionId::new(0);

async fn owner(epoch: u64, log: &Arc<Kept>) -> (Node, Grant) {
    let (node, grant) = (node(), grant(0, epoch).with_log(log.clone()));
    node.own(&grant).await;
    (node, grant)
}

async fn contents(node: &Node, grant: &Grant, keys: u32) -> Vec<Option<(Vec<u8>, Version)>> {
    let mut all = Vec::new();
    for key in 0..keys {
        all.push(node.get(grant, format!("k{key}").as_bytes()).await.map(|got| (got.value, got.version)));
    }
    all
}

async fn write_something(node: &Node, grant: &Grant, rng: &mut StdRng, keys: u32) {
    let key = format!("k{}", rng.random_range(0..keys));
    match rng.random_range(0..4) {
        0 => _ = node.delete(grant, key.as_bytes()).await,
        1 => _ = node.set_ttl(grant, key.as_bytes(), rng.random::<bool>().then_some(50_000)).await,
        _ => {
            let value = rng.random::<u32>().to_string();
            node.set(grant, key.as_bytes(), value.as_bytes(), rng.random::<bool>().then_some(90_000)).await;
        }
    }
}

#[tokio::test]
async fn a_copy_begun_while_writes_go_on_is_what_the_owner_has() {
    const KEYS: u32 = 30;
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let log = Kept::new(1, 3);
        let (owner, one) = owner(1, &log).await;
        for _ in 0..60 {
            write_something(&owner, &one, &mut rng, KEYS).await;
        }
        log.take();
        let copy = node();
        copy.clock.advance(Duration::from_secs(seed));
        copy.cache.clear(PARTITION);
        let mut chunks = owner.cache.snapshot(&one, 400).await.unwrap();
        while let Some(chunk) = chunks.next().await {
            copy.cache.copy_chunk(PARTITION, chunk.unwrap(), Duration::ZERO).unwrap();
            for _ in 0..rng.random_range(0..9) {
                write_something(&owner, &one, &mut rng, KEYS).await;
            }
        }
        let now = copy.clock.now();
        let changes: Vec<Change> = log.take().into_iter().map(|change| Change { made: now, ..change }).collect();
        for batch in changes.chunks(7) {
            copy.cache.copy_changes(PARTITION, batch).unwrap();
        }
        let expected = contents(&owner, &one, KEYS).await;
        let two = grant(0, 2).with_log(Kept::new(1, 3));
        copy.own(&two).await;
        assert_eq!(contents(&copy, &two, KEYS).await, expected, "seed {seed}");
        assert_eq!(copy.set(&two, b"k0", b"1", None).await, version(2, 1));
    }
}

#[tokio::test]
async fn what_a_change_and_a_chunk_took_on_their_way_is_taken_off_a_time_to_live() {
    let log = Kept::new(2, 3);
    let (owner, one) = owner(1, &log).await;
    owner.set(&one, b"chunk", b"1", Some(10_000)).await;
    let chunk = owner.cache.snapshot(&one, 4096).await.unwrap().next().await.unwrap().unwrap();
    log.take();
    owner.set(&one, b"change", b"1", Some(10_000)).await;
    let copy = node();
    copy.clock.advance(Duration::from_secs(100));
    copy.cache.clear(PARTITION);
    copy.cache.copy_chunk(PARTITION, chunk, Duration::from_secs(3)).unwrap();
    let made = copy.clock.now();
    copy.clock.advance(Duration::from_secs(4));
    let changes: Vec<Change> = log.take().into_iter().map(|change| Change { made, ..change }).collect();
    copy.cache.copy_changes(PARTITION, &changes).unwrap();
    let two = grant(0, 2);
    copy.own(&two).await;
    let left = |got: Option<Got>| got.and_then(|got| got.remaining_ttl_ms);
    assert_eq!(left(copy.get(&two, b"chunk").await), Some(3_000), "3 s on its way, then 4 s here");
    assert_eq!(left(copy.get(&two, b"change").await), Some(6_000));
}

/// The copy comes to the changes when the entry as it was written, and as it was touched first, has ended for long.
#[tokio::test]
async fn a_new_time_to_live_reaches_a_copy_that_takes_the_entry_for_expired() {
    for (chunk_before, persists) in [(false, false), (true, false), (false, true), (true, true)] {
        let log = Kept::new(2, 3);
        let (owner, one) = owner(1, &log).await;
        let copy = node();
        copy.clock.advance(Duration::from_secs(1_000));
        let begun = copy.clock.now();
        copy.cache.clear(PARTITION);
        owner.set(&one, b"k", b"[1]", Some(30_000)).await;
        if chunk_before {
            owner.clock.advance(Duration::from_secs(5));
            copy.clock.advance(Duration::from_secs(5));
            let chunk = owner.cache.snapshot(&one, 4096).await.unwrap().next().await.unwrap().unwrap();
            copy.cache.copy_chunk(PARTITION, chunk, Duration::ZERO).unwrap();
        }
        for at in [20, 40] {
            owner.clock.advance(Duration::from_secs(at) - owner.clock.now().since(Time::ZERO));
            let ttl_ms = (!persists || at == 20).then_some(30_000);
            assert!(owner.set_ttl(&one, b"k", ttl_ms).await.is_some());
        }
        copy.clock.advance(Duration::from_secs(45) - copy.clock.now().since(begun));
        copy.sweep(100);
        owner.clock.advance(Duration::from_secs(5));
        // Both clocks are at 45 s now; a change was made as long after the beginning there as here.
        let made = |change: &Change| begun + change.made.since(Time::ZERO);
        let changes = log.take().into_iter().map(|change| Change { made: made(&change), ..change });
        copy.cache.copy_changes(PARTITION, &changes.collect::<Vec<_>>()).unwrap();
        let two = grant(0, 2);
        copy.own(&two).await;
        let expected = owner.get(&one, b"k").await.unwrap();
        assert_eq!((expected.version, expected.age_ms), (version(1, 3), 45_000));
        assert_eq!(expected.remaining_ttl_ms, (!persists).then_some(25_000));
        assert_eq!(copy.get(&two, b"k").await, Some(expected), "chunk {chunk_before}, persists {persists}");
    }
}

#[tokio::test]
async fn a_former_owner_follows_its_successor_and_may_own_again() {
    let log = Kept::new(2, 2);
    let (first, one) = owner(1, &log).await;
    first.set(&one, b"a", b"1", None).await;
    first.cache.on_release(std::slice::from_ref(&one), Release::Handoff).await.unwrap();
    first.cache.follow(PARTITION);
    let second = node();
    second.cache.clear(PARTITION);
    second.cache.copy_changes(PARTITION, &log.take()).unwrap();
    let two = grant(0, 2).with_log(log.clone());
    second.own(&two).await;
    second.set(&two, b"b", b"2", None).await;
    second.delete(&two, b"a").await;
    first.cache.copy_changes(PARTITION, &log.take()).unwrap();
    let three = grant(0, 3);
    first.own(&three).await;
    assert_eq!(first.get(&three, b"a").await, None);
    assert_eq!(first.get(&three, b"b").await.unwrap().version, version(2, 1));
    assert_eq!(first.set(&three, b"b", b"3", None).await, version(3, 1));
}

#[tokio::test]
async fn a_change_that_cannot_be_read_is_refused() {
    let node = node();
    let change = Change { version: version(1, 1), made: node.clock.now(), body: Bytes::from_static(b"\x09") };
    let error = node.cache.copy_changes(PARTITION, &[change]).unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
    assert!(node.cache.copy_chunk(PARTITION, Bytes::from_static(b"\x01\x00\xff"), Duration::ZERO).is_err());
}

async fn ask(node: &Node, grant: &Grant, operation: &Operation<'_>, level: Consistency) -> Result<Bytes, ServiceError> {
    let payload = encode_operation(operation, Some(level), 0).unwrap();
    node.cache.handle(grant, request(operation.name(), b"k", payload, Form::Native)).await
}

#[tokio::test]
async fn too_few_copies_in_sync_for_a_level_are_refused_before_anything_is_executed() {
    for (in_sync, factor, eventual, quorum, strong) in [
        (1, 1, true, true, true),
        (1, 2, true, false, false),
        (1, 3, true, false, false),
        (2, 3, true, true, false),
        (3, 3, true, true, true),
    ] {
        let log = Kept::new(in_sync, factor);
        log.commit(version(9, 0));
        let (node, one) = owner(1, &log).await;
        for (level, taken) in Consistency::ALL.into_iter().zip([eventual, quorum, strong]) {
            log.take();
            for operation in [set(b"1", None), DELETE, Operation::Get] {
                let answer = ask(&node, &one, &operation, level).await;
                assert_eq!(answer.is_ok(), taken, "{in_sync} of {factor}, {level}, {operation:?}");
                if let Err(error) = answer {
                    assert_eq!(error.code, NOT_ENOUGH_REPLICAS);
                    assert!(error.message.contains(&format!("there are {in_sync}")), "{error}");
                }
            }
            assert_eq!(log.take().is_empty(), !taken);
        }
    }
}

#[tokio::test]
async fn an_answer_of_a_level_waits_until_the_copies_have_what_it_goes_back_to() {
    let log = Kept::new(3, 3);
    let (node, one) = owner(1, &log).await;
    assert!(
        ask(&node, &one, &Operation::Get, Consistency::Quorum).now_or_never().is_none(),
        "nothing is committed yet"
    );
    node.set(&one, b"k", b"1", None).await;
    for level in [Consistency::Quorum, Consistency::Strong] {
        let mut read = Box::pin(ask(&node, &one, &Operation::Get, level));
        assert!((&mut read).now_or_never().is_none(), "what it found is at the owner alone");
        assert!(ask(&node, &one, &Operation::Get, Consistency::Eventual).now_or_never().is_some());
    }
    log.commit(version(1, 1));
    assert!(ask(&node, &one, &Operation::Get, Consistency::Strong).await.is_ok());
    let mut write = Box::pin(ask(&node, &one, &DELETE, Consistency::Quorum));
    assert!((&mut write).now_or_never().is_none());
    let mut absent = Box::pin(ask(&node, &one, &Operation::Get, Consistency::Quorum));
    assert!((&mut absent).now_or_never().is_none(), "that there is nothing goes back to the deletion");
    log.commit(version(1, 2));
    assert!(write.await.is_ok() && absent.await.is_ok());
}

#[tokio::test]
async fn a_level_not_reached_after_all_is_an_unknown_outcome() {
    let log = Kept::new(3, 3);
    let (node, one) = owner(1, &log).await;
    node.set(&one, b"k", b"1", None).await;
    // A copy left the set meanwhile: those that are left have it.
    let fewer = Kept::new(2, 3);
    fewer.commit(version(1, 1));
    let left = crate::cache::levels::settle(&one.with_log(fewer), Consistency::Strong, version(1, 1)).await;
    let error = left.unwrap_err();
    assert_eq!(error.code, "unknown");
    assert!(error.message.contains("only 2"), "{error}");
}

#[tokio::test]
async fn plain_clients_name_a_consistency_in_a_field() {
    let log = Kept::new(1, 3);
    let (node, one) = owner(1, &log).await;
    let set = |level: &str| format!(r#"{{"key":"k","value":1,"consistency":{level}}}"#);
    for level in ["null", r#""eventual""#] {
        assert!(node.plain(&one, "set", "k", &set(level)).await.is_ok(), "{level}");
    }
    for (level, code) in [(r#""strong""#, NOT_ENOUGH_REPLICAS), (r#""all""#, "bad_request"), ("3", "bad_request")] {
        let error = node.plain(&one, "set", "k", &set(level)).await.unwrap_err();
        assert_eq!(error.code, code, "{level}");
    }
    let escaped = r#"{"key":"k","value":1,"\u0063onsistency":"quorum"}"#;
    assert_eq!(node.plain(&one, "set", "k", escaped).await.unwrap_err().code, NOT_ENOUGH_REPLICAS);
    let quorum = r#"{"key":"k","consistency":"quorum"}"#;
    for operation in ["get", "delete", "persist", "inspect"] {
        assert_eq!(node.plain(&one, operation, "k", quorum).await.unwrap_err().code, NOT_ENOUGH_REPLICAS);
    }
}
