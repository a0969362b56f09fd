//! The client in front of a service, with a caller between them that routes to it or answers as told.

use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::cache::{CacheClient, CacheEntry, ContentType, EntryInfo, Limits, NewEntry};
use crate::rpc::{CallError, Caller, Reply};

/// Routes everything to one node; notes operation and timeout; may put something else in place of the answer.
pub(super) struct Direct {
    node: Node,
    calls: Mutex<Vec<(String, Duration)>>,
    instead: Option<Bytes>,
}

impl Direct {
    /// How often it was called.
    pub(super) fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

#[async_trait]
impl Caller for Direct {
    async fn call(&self, key: Bytes, operation: &str, payload: Bytes, timeout: Duration) -> Result<Reply, CallError> {
        self.calls.lock().unwrap().push((operation.to_owned(), timeout));
        let grant = grant(4, 9);
        let answer = self.node.cache.handle(&grant, request(operation, &key, payload, Form::Native)).await?;
        let payload = self.instead.clone().unwrap_or(answer);
        Ok(Reply { partition: grant.partition, node: NodeName::new("node-1").unwrap(), epoch: grant.epoch(), payload })
    }
}

pub(super) async fn client(instead: Option<Bytes>) -> (CacheClient, Arc<Direct>) {
    let node = node();
    node.own(&grant(4, 9)).await;
    let caller = Arc::new(Direct { node, calls: Mutex::default(), instead });
    (CacheClient::new(caller.clone(), Limits { max_value_bytes: 100 }), caller)
}

#[tokio::test]
async fn answers_come_back_typed_with_node_version_and_time_left() {
    let (client, caller) = client(None).await;
    let key = Bytes::from_static(b"user:1");
    assert_eq!(client.get(key.clone()).await.unwrap().found, None);
    let ttl = Some(Duration::from_millis(1500));
    let stored = client.set(key.clone(), Bytes::from_static(b"[1]"), ttl).await.unwrap();
    assert_eq!((stored.node.as_str(), stored.version, stored.created), ("node-1", version(9, 1), true));
    caller.node.clock.advance(Duration::from_millis(500));
    let got = client.get(key.clone()).await.unwrap();
    let remaining_ttl = Some(Duration::from_secs(1));
    let (content_type, age) = (ContentType::JSON, Duration::from_millis(500));
    let value = Bytes::from_static(b"[1]");
    let entry = CacheEntry { value, content_type, version: version(9, 1), age, remaining_ttl };
    assert_eq!((got.node.as_str(), got.found), ("node-1", Some(entry)));
    let deleted = client.delete(key).await.unwrap();
    assert_eq!((deleted.existed, deleted.version), (true, version(9, 2)));
    let (read, write) = (Duration::from_secs(2), Duration::from_secs(5));
    let expected = [("get", read), ("set", write), ("get", read), ("delete", write)];
    let calls = caller.calls.lock().unwrap().clone();
    assert_eq!(calls, expected.map(|(operation, timeout)| (operation.to_owned(), timeout)));
}

#[tokio::test]
async fn bytes_of_any_type_come_back_and_are_touched_persisted_inspected_and_deleted_under_conditions() {
    let (client, caller) = client(None).await;
    let key = Bytes::from_static(b"image");
    let content_type = ContentType::new("image/png").unwrap();
    let entry = NewEntry { value: Bytes::from_static(b"\xff\0"), content_type: content_type.clone(), ttl: None };
    client.put(key.clone(), entry.clone(), Condition::if_absent()).await.unwrap();
    let refused = client.put(key.clone(), entry.clone(), Condition::if_absent()).await.unwrap_err();
    assert_eq!(refused.code(), "precondition_failed");
    caller.node.clock.advance(Duration::from_secs(2));
    let got = client.get(key.clone()).await.unwrap().found.unwrap();
    assert_eq!((got.value, got.content_type, got.remaining_ttl), (entry.value, content_type.clone(), None));
    let ttl = Duration::from_secs(60);
    let touched = client.touch(key.clone(), ttl, Condition::if_version(version(9, 1))).await.unwrap();
    assert_eq!(touched.version, Some(version(9, 2)));
    let seen = client.inspect(key.clone()).await.unwrap();
    let expected = EntryInfo {
        bytes: 2,
        content_type,
        version: version(9, 2),
        age: Duration::from_secs(2),
        remaining_ttl: Some(ttl),
    };
    assert_eq!((seen.partition, seen.found), (PartitionId::new(4), Some(expected)));
    let stale = client.persist(key.clone(), Condition::if_version(version(9, 1))).await.unwrap_err();
    assert_eq!(stale.code(), "precondition_failed");
    assert_eq!(client.persist(key.clone(), Condition::NONE).await.unwrap().version, Some(version(9, 3)));
    assert_eq!(client.inspect(key.clone()).await.unwrap().found.unwrap().remaining_ttl, None);
    assert!(client.delete_if(key.clone(), Condition::if_version(version(9, 3))).await.unwrap().existed);
    assert_eq!(client.touch(key.clone(), ttl, Condition::NONE).await.unwrap().version, None);
    assert_eq!(client.inspect(key).await.unwrap().found, None);
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_before_it_is_sent() {
    let (client, caller) = client(None).await;
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"1"));
    let absurd = Some(Duration::from_secs(u64::MAX / 4));
    let refused = [
        (client.get(Bytes::new()).await.unwrap_err(), "bad_request"),
        (client.set(key.clone(), text(101).into(), None).await.unwrap_err(), "too_large"),
        (client.set(key.clone(), Bytes::from_static(b"{"), None).await.unwrap_err(), "bad_request"),
        (client.set(key, value, absurd).await.unwrap_err(), "bad_request"),
    ];
    for (error, code) in refused {
        assert_eq!(error.code(), code, "{error}");
    }
    assert!(caller.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_leaves_the_outcome_unknown() {
    let stored = encode(&Answer::Stored { version: version(1, 1), created: true }, 0).unwrap();
    for answer in [Bytes::from_static(&[77, 0]), stored] {
        let (client, _) = client(Some(answer)).await;
        let unknown = client.delete(Bytes::from_static(b"k")).await.unwrap_err();
        assert!(matches!(unknown, CallError::Unknown { .. }), "{unknown}");
    }
}
