//! Formats and versions: today's bytes stay as they are and readable, what the next release adds within a format is
//! ignored, and what would be misread is refused, naming both formats.
//!
//! In: the golden lines of `tests/vectors/formats`. The cache's own formats are tested in `src/cache/tests/formats.rs`.
//! docs/reference.md, "Formats and versions", has the rules.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nats_ring::coord::mem::MemStore;
use nats_ring::coord::{
    Claim, ClaimState, Followed, Follower, Key, Lease, LeaseState, Member, MemberState, Meta, PlanMember, PlanRecord,
    Record, Revision, Store, WatchScope,
};
use nats_ring::rpc::drain::{DrainAnswer, DrainRequest};
use nats_ring::rpc::envelope::{
    CallHead, ChunkHead, EnvelopeError, FarewellHead, OfferHead, OnceHead, ReplyHead, Verdict, open, seal,
};
use nats_ring::types::{Generation, Incarnation, KeyHash};
use nats_ring::{Epoch, NodeId, NodeName, PartitionCount, PartitionId, ServiceError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use common::nats_server::NatsServer;
use common::node::NodeProcess;

const RECORDS: &str = include_str!("vectors/formats/records.txt");
const MESSAGES: &str = include_str!("vectors/formats/messages.txt");
const LIMIT: Duration = Duration::from_secs(30);
const CAS_LIMIT: Duration = Duration::from_secs(5);
/// What `nats-ring` answers where the ring does not fit this node.
const EXIT_RING: i32 = 7;

/// The lines of one kind, `today`, `next` or `refused`: what it is, and the rest of the line.
fn lines<'a>(file: &'a str, kind: &str) -> Vec<(&'a str, &'a str)> {
    let words = file.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')?.split_once(' '));
    let found: Vec<_> = words.collect();
    assert!(!found.is_empty(), "no line of kind {kind}");
    found
}

fn unhex(text: &str) -> Bytes {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn node(number: u64) -> NodeId {
    let incarnation = Incarnation { start: number, id: Uuid::from_u128(u128::from(number)) };
    NodeId { node: NodeName::new(format!("node-{number}")).unwrap(), incarnation }
}

/// One record for each key there is, as this release writes it.
fn records() -> Vec<(Key, Record)> {
    let (one, two) = (node(1), node(2));
    let member = Member {
        incarnation: one.incarnation,
        since: Revision(7),
        state: MemberState::Active,
        zone: Some("z1".to_owned()),
        weight: 100,
        http: Some("127.0.0.1:8081".to_owned()),
        version: "0.1.0".to_owned(),
        excluded: vec![PartitionId::new(3)],
        replicates: false,
        return_ms: 0,
    };
    let Ok(Record::Config(config)) =
        Record::decode(&Key::Config, br#"{"format":1,"paused":true,"cordoned":["node-2"],"pins":{"0":"node-1"}}"#)
    else {
        panic!("config")
    };
    let plan = PlanRecord {
        version: 5,
        author: one.clone(),
        generation: Generation::new(1),
        members: vec![PlanMember::announced(&one.node, &member)],
        gone: vec![two.clone()],
        rows: vec![vec![one.node.clone()], vec![]],
        config: config.clone().unwrap(),
        kept: Vec::new(),
    };
    let claim = Claim {
        generation: Generation::new(1),
        epoch: Epoch::new(4),
        owner: one.clone(),
        replicas: vec![one.clone()],
        state: ClaimState::Held,
    };
    let meta = Meta {
        nonce: Uuid::from_u128(9),
        generation: Generation::new(1),
        partitions: PartitionCount::DEFAULT,
        key_hash: KeyHash::Xxh3,
    };
    let lease =
        Lease { incarnation: one.incarnation, state: LeaseState::Live, beat: 12, lease_ms: 3000, resumed: None };
    vec![
        (Key::Meta, Record::Meta(meta)),
        (Key::Config, Record::Config(config)),
        (Key::Lease(one.node.clone()), Record::Lease(lease)),
        (Key::Member(one.node), Record::Member(member)),
        (Key::Plan, Record::Plan(plan)),
        (Key::Own(PartitionId::new(0)), Record::Own(claim)),
    ]
}

/// A head, shown so that it can be compared with one read from bytes.
fn shown<T: std::fmt::Debug>(head: &T) -> String {
    format!("{head:?}")
}

struct Head {
    name: &'static str,
    sealed: Bytes,
    shown: String,
    read: fn(&Bytes) -> Result<String, EnvelopeError>,
}

fn head<T: Serialize + DeserializeOwned + std::fmt::Debug>(name: &'static str, head: &T) -> Head {
    let read = |bytes: &Bytes| open::<T>(bytes).map(|(head, payload)| format!("{} {payload:?}", shown(&head)));
    let payload = Bytes::from_static(b"payload");
    Head { name, sealed: seal(head, &payload).unwrap(), shown: format!("{} {payload:?}", shown(head)), read }
}

/// One message of each kind between nodes, as this release writes it.
fn heads() -> Vec<Head> {
    let (partition, epoch) = (PartitionId::new(7), Epoch::new(300));
    let call = CallHead {
        partition,
        epoch,
        hops: 1,
        plain: true,
        remaining_ms: 2000,
        operation: "get".to_owned(),
        key: b"user:1".to_vec(),
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        once: None,
    };
    let (stream, revision, chunks) = (u64::MAX, Revision(1000), 3);
    let verdict: Verdict = Err("full".to_owned());
    let once = OnceHead { id: serde_json::from_str(&(u128::MAX - 6).to_string()).unwrap(), age_ms: 1500 };
    let named = CallHead { once: Some(once), ..call.clone() };
    vec![
        head("call", &call),
        head("call.once", &named),
        head("reply.ok", &ReplyHead::Ok { node: node(1).node, epoch }),
        head("reply.service", &ReplyHead::Service(ServiceError::new("bad_request", "no key"))),
        head("reply.not_executed", &ReplyHead::NotExecuted("moving".to_owned())),
        head("reply.overloaded", &ReplyHead::Overloaded("2048".to_owned())),
        head("reply.unknown", &ReplyHead::Unknown("lease lost".to_owned())),
        head("chunk", &ChunkHead { partition, epoch, stream, sequence: 2, checksum: 99 }),
        head("offer", &OfferHead { partition, epoch, revision, from: node(1), stream, chunks, age_ms: 15 }),
        head("farewell", &FarewellHead { epochs: vec![(partition, epoch), (PartitionId::new(8), Epoch::ZERO)] }),
        head("verdict", &verdict),
    ]
}

#[test]
fn todays_records_are_written_and_read_as_the_golden_lines_have_them() {
    let written: Vec<_> = records()
        .iter()
        .map(|(key, record)| format!("{} {}", key.text(), String::from_utf8(record.encode().to_vec()).unwrap()))
        .collect();
    let golden: Vec<_> = lines(RECORDS, "today").iter().map(|(key, json)| format!("{key} {json}")).collect();
    assert_eq!(written, golden, "what is written changed: see the rules in docs/reference.md\n{}", written.join("\n"));
    for ((key, record), (_, json)) in records().into_iter().zip(lines(RECORDS, "today")) {
        assert_eq!(Record::decode(&key, json.as_bytes()).unwrap(), record);
    }
}

#[test]
fn fields_that_the_next_release_adds_to_a_record_change_nothing_of_what_is_known_here() {
    let today: Vec<_> = records();
    for (key, json) in lines(RECORDS, "next") {
        let key = Key::parse(key).unwrap();
        let read = Record::decode(&key, json.as_bytes()).unwrap();
        let (_, expected) = today.iter().find(|(known, _)| *known == key).unwrap();
        match (&read, expected) {
            // Kept for whoever changes another field of it.
            (Record::Config(Ok(read)), Record::Config(Ok(expected))) => assert_eq!(read.known(), expected.known()),
            _ => assert_eq!(read, *expected),
        }
    }
    assert_eq!(lines(RECORDS, "next").len(), today.len());
    let plan = lines(RECORDS, "before").into_iter().find(|(key, _)| *key == "plan").unwrap().1;
    assert!(Record::decode(&Key::Plan, plan.as_bytes()).is_ok(), "a plan of before there was config");
}

#[test]
fn what_replication_adds_is_written_only_where_it_says_something() {
    let lines: Vec<_> = RECORDS.lines().filter_map(|line| line.strip_prefix("copies ")?.split_once(' ')).collect();
    for (key, json) in &lines {
        let record = Record::decode(&Key::parse(key).unwrap(), json.as_bytes()).unwrap();
        assert_eq!(record.encode(), json.as_bytes(), "{key}");
        match record {
            Record::Member(member) => assert!(member.replicates),
            Record::Plan(plan) => assert!(plan.members[0].replicates && plan.config.factor().get() == 5),
            Record::Config(Ok(config)) => assert_eq!(config.factor().get(), 5),
            Record::Own(claim) => assert_eq!((claim.replicas.len(), claim.state), (2, ClaimState::Recovering)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lines.len(), 4);
}

#[test]
fn what_is_said_of_nodes_that_come_back_is_written_only_where_it_says_something() {
    let lines: Vec<_> = RECORDS.lines().filter_map(|line| line.strip_prefix("kept ")?.split_once(' ')).collect();
    for (key, json) in &lines {
        let record = Record::decode(&Key::parse(key).unwrap(), json.as_bytes()).unwrap();
        assert_eq!(record.encode(), json.as_bytes(), "{key}");
        match record {
            Record::Member(member) => assert_eq!(member.return_ms, 30_000),
            Record::Plan(plan) => {
                assert_eq!((plan.members[0].return_ms, plan.kept.len()), (30_000, 1));
                assert_eq!((&plan.kept[0].id, plan.kept[0].partitions.len()), (&node(2), 2));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lines.len(), 2);
    assert_eq!(DrainRequest::default().encode(), "", "as releases before it asked");
    assert_eq!(DrainRequest { for_good: true }.encode(), r#"{"for_good":true}"#);
    let read = ["", "{}", "no JSON", r#"{"for_good":true,"later":1}"#]
        .map(|text| DrainRequest::decode(text.as_bytes()).for_good);
    assert_eq!(read, [false, false, false, true]);
}

#[test]
fn a_record_that_would_be_misread_is_refused_by_key_and_by_both_formats() {
    for (key, json) in lines(RECORDS, "refused") {
        let refused = match Record::decode(&Key::parse(key).unwrap(), json.as_bytes()) {
            Ok(Record::Config(Err(reason))) => reason,
            Err(error) => error.to_string(),
            Ok(read) => panic!("{key} was read as {read:?}"),
        };
        assert!(refused.contains(&format!("'{key}'")), "{refused}");
        if json.contains("\"format\":2") {
            assert!(refused.contains("has format 2, this release reads format 1: upgrade this node"), "{refused}");
        }
    }
}

#[test]
fn todays_messages_are_written_and_read_as_the_golden_lines_have_them() {
    let written: Vec<_> = heads().iter().map(|head| format!("{} {}", head.name, hex(&head.sealed))).collect();
    let golden: Vec<_> = lines(MESSAGES, "today").iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
    assert_eq!(written, golden, "what is written changed: see the rules in docs/reference.md\n{}", written.join("\n"));
    for (head, (_, bytes)) in heads().iter().zip(lines(MESSAGES, "today")) {
        assert_eq!((head.read)(&unhex(bytes)).unwrap(), head.shown);
    }
}

#[test]
fn fields_that_the_next_release_adds_at_the_end_of_a_head_are_ignored_and_the_payload_is_whole() {
    let known = heads();
    for (name, bytes) in lines(MESSAGES, "next") {
        let head = known.iter().find(|head| head.name == name).unwrap();
        assert_eq!((head.read)(&unhex(bytes)).unwrap(), head.shown, "{name}");
    }
}

#[test]
fn a_message_that_would_be_misread_is_refused_and_names_both_formats() {
    let known = heads();
    for (name, bytes) in lines(MESSAGES, "refused") {
        let head = known.iter().find(|head| head.name == name).unwrap();
        let refused = (head.read)(&unhex(bytes)).unwrap_err();
        match unhex(bytes)[0] {
            1 => assert!(matches!(refused, EnvelopeError::Malformed(_)), "{name}: {refused}"),
            other => assert!(
                refused.to_string().contains(&format!("message of format {other}, this release reads format 1")),
                "{name}: {refused}"
            ),
        }
    }
}

/// The next release reads a head of today: what it knows in addition is not there.
#[test]
fn a_reader_of_a_longer_head_can_tell_that_the_added_fields_are_missing() {
    for (sealed, added) in [("today", None), ("next", Some(5u8))] {
        let (_, bytes) = lines(MESSAGES, sealed).into_iter().find(|(name, _)| *name == "call").unwrap();
        let bytes = unhex(bytes);
        let head = &bytes[3..3 + usize::from(u16::from_le_bytes([bytes[1], bytes[2]]))];
        let (_, rest) = postcard::take_from_bytes::<CallHead>(head).unwrap();
        assert_eq!(rest.first().copied(), added);
    }
}

#[test]
fn an_operator_reads_the_answer_of_a_later_release_and_refuses_what_is_none() {
    let answer = DrainAnswer { node: node(1).node, start: 1 };
    assert_eq!(&answer.encode()[..], br#"{"node":"node-1","start":1}"#);
    assert_eq!(DrainAnswer::decode(br#"{"node":"node-1","start":1,"later":{"x":2}}"#), Ok(answer));
    assert!(DrainAnswer::decode(br#"{"node":"node-1"}"#).unwrap_err().contains("cannot be read"));
}

fn raised_meta() -> Bytes {
    let (_, json) = lines(RECORDS, "refused").into_iter().find(|(key, _)| *key == "meta").unwrap();
    Bytes::copy_from_slice(json.as_bytes())
}

#[tokio::test]
async fn following_ends_where_the_ring_goes_over_to_a_newer_format() {
    let store = Arc::new(MemStore::new(1));
    let (_, meta) = records().remove(0);
    let revision = store.cas("meta", Revision::NONE, meta.encode(), CAS_LIMIT).await.unwrap();
    let identity = store.identity().await.unwrap();
    for scope in [WatchScope::Ring, WatchScope::Routes] {
        let mut follower = Follower::new(store.clone(), scope, identity.clone());
        assert!(matches!(follower.next().await, Some(Followed::Snapshot(seen)) if seen.len() == 1));
    }
    let mut follower = Follower::new(store.clone(), WatchScope::Ring, identity.clone());
    follower.next().await.unwrap();
    store.cas("meta", revision, raised_meta(), CAS_LIMIT).await.unwrap();
    // As a change, and in a first snapshot.
    let late = Follower::new(store.clone(), WatchScope::Routes, identity);
    for mut follower in [follower, late] {
        let Some(Followed::Reset(reason)) = follower.next().await else { panic!("it goes on") };
        assert!(reason.contains("'meta' has format 2, this release reads format 1"), "{reason}");
        assert_eq!(follower.next().await, None);
    }
}

/// Whoever raises it before every node reads it: the old ones end, and say what is to be done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_refuses_a_ring_of_a_newer_format_when_it_starts_and_while_it_runs() {
    let server = NatsServer::start();
    let spawn = |name: &str| NodeProcess::spawn(name, &server.url(), &["--lease", "1s"]);
    let running = spawn("node-1");
    running.wait_ready(LIMIT).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let bucket = async_nats::jetstream::new(client).get_key_value("ring-cache-platform").await.unwrap();
    bucket.put("meta", raised_meta()).await.unwrap();
    let started = spawn("node-2");
    for node in [running, started] {
        assert_eq!(node.wait_exit(LIMIT).await, Some(EXIT_RING), "{}", node.log());
        let log = node.log();
        assert!(log.contains("'meta' has format 2, this release reads format 1: upgrade this node"), "{log}");
    }
}

/// A newer node that asks an older one is not left to wait, and knows that nothing was executed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_another_format_is_answered_as_not_executed_and_names_both() {
    let server = NatsServer::start();
    let node = NodeProcess::spawn("node-1", &server.url(), &[]);
    node.wait_ready(LIMIT).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let bucket = async_nats::jetstream::new(client.clone()).get_key_value("ring-cache-platform").await.unwrap();
    let key = Key::Lease(NodeName::new("node-1").unwrap());
    let value = bucket.get(key.text()).await.unwrap().unwrap();
    let Record::Lease(Lease { incarnation, .. }) = Record::decode(&key, &value).unwrap() else { panic!("no lease") };
    let subject = format!("cache-platform.node.node-1.{}", incarnation.token());
    for (intent, name) in [("call", "call"), ("chunk", "chunk"), ("offer", "offer")] {
        let (_, bytes) = lines(MESSAGES, "refused").into_iter().find(|(line, _)| *line == name).unwrap();
        let asked = client.request(format!("{subject}.{intent}"), unhex(bytes));
        let answer = tokio::time::timeout(LIMIT, asked).await.unwrap().unwrap();
        let reason = match intent {
            "call" => match open::<ReplyHead>(&answer.payload).unwrap().0 {
                ReplyHead::NotExecuted(reason) => reason,
                other => panic!("{other:?}"),
            },
            _ => open::<Verdict>(&answer.payload).unwrap().0.unwrap_err(),
        };
        assert!(reason.contains("message of format 2, this release reads format 1"), "{intent}: {reason}");
    }
    // One that may have been executed, and whose name does not follow: executed, it might be so twice.
    let head = CallHead {
        partition: PartitionId::new(0),
        epoch: Epoch::ZERO,
        hops: 0,
        plain: false,
        remaining_ms: 5000,
        operation: "incr".to_owned(),
        key: b"k".to_vec(),
        trace: None,
        once: None,
    };
    let asked = client.request(format!("{subject}.again"), seal(&head, b"").unwrap());
    let answer = tokio::time::timeout(LIMIT, asked).await.unwrap().unwrap();
    assert!(matches!(open::<ReplyHead>(&answer.payload).unwrap().0, ReplyHead::Unknown(_)), "{answer:?}");
}
