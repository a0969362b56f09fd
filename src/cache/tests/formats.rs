//! Formats of the cache: today's bytes stay as they are and readable, what would be misread is refused. The golden lines
//! are `tests/vectors/formats/cache.txt`; docs/reference.md, "Formats and versions", has the rules.

use futures::TryStreamExt;

use super::*;
use crate::cache::condition::Matching;
use crate::cache::native::{Found, Seen};

const GOLDEN: &str = include_str!("../../../tests/vectors/formats/cache.txt");

/// The lines of one kind, `today` or `refused`: what it is, and its bytes.
fn lines(kind: &str) -> Vec<(&'static str, Vec<u8>)> {
    let words = GOLDEN.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')?.split_once(' '));
    let found: Vec<_> = words.map(|(name, hex)| (name, unhex(hex))).collect();
    assert!(!found.is_empty(), "no line of kind {kind}");
    found
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn condition() -> Condition {
    Condition { if_match: Some(Matching::OneOf(vec![version(4, 17)])), if_none_match: Some(Matching::Any) }
}

fn operations() -> Vec<Operation<'static>> {
    let condition = condition();
    vec![
        Operation::Get,
        Operation::Set { value: b"x", content_type: b"text/plain", ttl_ms: Some(1500), condition: condition.clone() },
        Operation::Delete { condition: condition.clone() },
        Operation::Touch { ttl_ms: 1500, condition },
        Operation::Persist { condition: Condition::NONE },
        Operation::Inspect,
        Operation::Increment { by: -3, ttl_ms: Some(1500) },
        Operation::GetOrSet { value: b"x", content_type: b"text/plain", ttl_ms: Some(1500) },
    ]
}

fn answers() -> Vec<(&'static str, Answer<'static>)> {
    let version = version(4, 17);
    let (content_type, age_ms, remaining_ttl_ms): (&[u8], _, _) = (b"text/plain", 300, Some(1200));
    let found = Found { value: b"x", content_type, version, age_ms, remaining_ttl_ms };
    let seen = Seen { bytes: 1, content_type, version, age_ms, remaining_ttl_ms };
    vec![
        ("answer.got", Answer::Got(Some(found))),
        ("answer.none", Answer::Got(None)),
        ("answer.stored", Answer::Stored { version, created: true }),
        ("answer.deleted", Answer::Deleted { existed: true, version }),
        ("answer.changed", Answer::Changed(Some(version))),
        ("answer.inspected", Answer::Inspected(Some(seen))),
        ("answer.incremented", Answer::Incremented { value: -3, version }),
    ]
}

/// One entry with all there is to an entry, a while after it was written.
async fn snapshot() -> Vec<Bytes> {
    let (node, one) = (node(), grant(0, 1));
    node.own(&one).await;
    let set =
        Operation::Set { value: b"x", content_type: b"text/plain", ttl_ms: Some(1500), condition: Condition::NONE };
    node.native(&one, b"user:1", &set).await.unwrap();
    node.clock.advance(Duration::from_millis(300));
    node.cache.snapshot(&one, 4096).await.unwrap().try_collect().await.unwrap()
}

#[tokio::test]
async fn todays_messages_and_snapshots_are_written_as_the_golden_lines_have_them() {
    let mut written = Vec::new();
    for operation in operations() {
        written.push(format!("{} {}", operation.name(), hex(&encode(&operation, 0).unwrap())));
    }
    for (name, answer) in answers() {
        written.push(format!("{name} {}", hex(&encode(&answer, 0).unwrap())));
    }
    for chunk in snapshot().await {
        written.push(format!("snapshot {}", hex(&chunk)));
    }
    let golden: Vec<_> = lines("today").iter().map(|(name, bytes)| format!("{name} {}", hex(bytes))).collect();
    assert_eq!(written, golden, "what is written changed: see the rules in docs/reference.md\n{}", written.join("\n"));
}

#[tokio::test]
async fn todays_messages_and_snapshots_are_read_from_the_golden_lines() {
    let today = lines("today");
    let named = |wanted: &str| &today.iter().find(|(name, _)| *name == wanted).unwrap().1;
    for operation in operations() {
        assert_eq!(decode::<Operation<'_>>(named(operation.name())).unwrap(), operation);
    }
    for (name, answer) in answers() {
        assert_eq!(decode::<Answer<'_>>(named(name)).unwrap(), answer);
    }
    for release in ["today", "before"] {
        let lines = lines(release);
        let chunks = lines.iter().filter(|(name, _)| *name == "snapshot");
        let chunks: Vec<Bytes> = chunks.map(|(_, bytes)| Bytes::copy_from_slice(bytes)).collect();
        let (node, two) = (node(), grant(0, 2));
        node.cache.restore(&two, chunks, Duration::ZERO).await.unwrap();
        node.own(&two).await;
        let expected = Got { value: b"x".to_vec(), version: version(1, 1), age_ms: 300, remaining_ttl_ms: Some(1200) };
        assert_eq!(node.get(&two, b"user:1").await, Some(expected), "{release}");
    }
}

#[tokio::test]
async fn messages_and_snapshots_of_a_newer_format_or_with_more_in_them_are_refused_and_say_so() {
    for (name, bytes) in lines("refused") {
        let refused = match name {
            "snapshot" => {
                let error = node().cache.restore(&grant(0, 2), vec![bytes.clone().into()], Duration::ZERO).await;
                error.unwrap_err().to_string()
            }
            answer if answer.starts_with("answer.") => decode::<Answer<'_>>(&bytes).unwrap_err().message,
            _ => decode::<Operation<'_>>(&bytes).unwrap_err().message,
        };
        let why = match bytes[0] {
            1 if name == "later" => "unknown operation",
            1 => "bytes too many",
            _ => "format 2 is not known; known: 1",
        };
        assert!(refused.contains(why), "{name}: {refused}");
    }
}
