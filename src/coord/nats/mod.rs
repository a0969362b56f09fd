//! The coordination store on JetStream KV, and the sole home of its quirks.
//!
//! `cas` publishes to the key's subject with the expected revision in a header and waits for the acknowledgement in
//! the connection's own inbox, so that a time-out leaves nothing behind. `bucket` finds or creates the bucket, `feed`
//! is one ordered consumer, `watch` keeps a watch alive over consumers, reconnects and server restarts.
#![allow(clippy::disallowed_methods)] // Timers of the adapter: nothing here decides ownership, and the twin has none.

mod bucket;
mod feed;
mod watch;

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::jetstream::{ErrorCode, kv};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{CasError, Entry, Position, Revision, Store, StoreError, StoreIdentity, WatchScope, WatchStream};
use crate::connect::{Connection, InboxError};
use crate::types::RingName;

pub use bucket::bucket_name;
pub use watch::WatchTuning;

/// How long one question to the JetStream API may take.
const API_TIMEOUT: Duration = Duration::from_secs(2);

/// [`Store`] on a JetStream KV bucket.
#[derive(Clone)]
pub struct NatsStore {
    connection: Connection,
    jetstream: Context,
    bucket: kv::Store,
    replicas: Option<usize>,
    tuning: WatchTuning,
}

impl NatsStore {
    /// Opens the ring's bucket, creating it where there is none: history 1, on file, with `replicas` copies (where not
    /// given, 3 on a JetStream cluster, else 1). An existing bucket is used as it is.
    ///
    /// # Errors
    /// [`StoreError`] where the bucket cannot be created, with what to do about it.
    pub async fn open(connection: &Connection, ring: &RingName, replicas: Option<usize>) -> Result<Self, StoreError> {
        let jetstream = ContextBuilder::new().timeout(API_TIMEOUT).build(connection.client().clone());
        let bucket = bucket::open(connection, &jetstream, &bucket_name(ring), replicas).await?;
        Ok(Self { connection: connection.clone(), jetstream, bucket, replicas, tuning: WatchTuning::default() })
    }

    /// The ring's bucket where there is one; never creates it.
    ///
    /// # Errors
    /// [`StoreError`] where JetStream does not answer.
    pub async fn find(connection: &Connection, ring: &RingName) -> Result<Option<Self>, StoreError> {
        let jetstream = ContextBuilder::new().timeout(API_TIMEOUT).build(connection.client().clone());
        let bucket = bucket::find_existing(connection, &jetstream, &bucket_name(ring)).await?;
        let store = |bucket| Self {
            connection: connection.clone(),
            jetstream,
            bucket,
            replicas: None,
            tuning: WatchTuning::default(),
        };
        Ok(bucket.map(store))
    }

    /// The same store, its watches timed otherwise.
    #[must_use]
    pub fn with_watch_tuning(mut self, tuning: WatchTuning) -> Self {
        self.tuning = tuning;
        self
    }

    fn subject(&self, key: &str) -> String {
        format!("{}{key}", self.bucket.prefix)
    }

    async fn publish(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
        timeout: Duration,
    ) -> Result<Revision, CasError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.0.to_string());
        let answer = self.connection.inbox().request(self.subject(key).into(), Some(headers), value, timeout).await;
        match answer {
            Ok(message) => acknowledged(&message.payload),
            Err(InboxError::Disconnected) => Err(CasError::NotSent("not connected to NATS".to_owned())),
            Err(InboxError::NotSent(reason)) => Err(CasError::NotSent(reason)),
            Err(InboxError::Timeout) => Err(CasError::Unknown(format!("no acknowledgement within {timeout:?}"))),
            // Most likely nothing stored it; but the answer comes from one server of several, about one moment.
            Err(InboxError::NoResponders) => Err(CasError::Unknown("JetStream is not answering".to_owned())),
        }
    }

    /// Revision of the key's delete marker, if that is what the stream's leader has last.
    async fn delete_marker(&self, key: &str) -> Option<Revision> {
        let last = self.get_latest(key).await.ok()??;
        last.value.is_none().then_some(last.revision)
    }

    fn check_size(&self, key: &str, value: &Bytes) -> Result<(), CasError> {
        let limit = self.connection.max_payload();
        // The header block is some 60 bytes: its name, one number.
        const HEADER_BYTES_MAX: usize = 128;
        if value.len() + HEADER_BYTES_MAX <= limit {
            return Ok(());
        }
        let size = value.len();
        Err(CasError::Refused(format!("the value of key '{key}' has {size} bytes, the server takes {limit} at most")))
    }
}

/// What an acknowledgement, or an error in its place, says about the write.
fn acknowledged(payload: &[u8]) -> Result<Revision, CasError> {
    let answer: Response<PublishAck> = serde_json::from_slice(payload)
        .map_err(|error| CasError::Unknown(format!("the acknowledgement cannot be read: {error}")))?;
    let error = match answer {
        Response::Ok(ack) => return Ok(Revision(ack.sequence)),
        Response::Err { error } => error,
    };
    match error.error_code() {
        // The second is what a replicated stream says while another write of the same key is being agreed on.
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => {
            Err(CasError::Conflict)
        }
        _ if (400..500).contains(&error.code()) => Err(CasError::Refused(error.to_string())),
        _ => Err(CasError::Unknown(error.to_string())),
    }
}

#[async_trait]
impl Store for NatsStore {
    async fn cas(&self, key: &str, expected: Revision, value: Bytes, timeout: Duration) -> Result<Revision, CasError> {
        self.check_size(key, &value)?;
        let deadline = Instant::now() + timeout;
        let first = self.publish(key, expected, value.clone(), timeout).await;
        if expected != Revision::NONE || first != Err(CasError::Conflict) {
            return first;
        }
        // To create over a delete marker is to expect the marker's revision.
        let marker = tokio::time::timeout_at(deadline, self.delete_marker(key)).await;
        match marker {
            Ok(Some(marker)) => {
                self.publish(key, marker, value, deadline.saturating_duration_since(Instant::now())).await
            }
            Ok(None) | Err(_) => Err(CasError::Conflict),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        if !self.connection.is_connected() {
            return Err(StoreError("not connected to NATS".to_owned()));
        }
        let found = self.bucket.entry(key).await.map_err(|error| StoreError(format!("key '{key}': {error}")))?;
        Ok(found.map(|entry| Entry {
            key: entry.key,
            value: (entry.operation == kv::Operation::Put).then_some(entry.value),
            revision: Revision(entry.revision),
        }))
    }

    async fn get_latest(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        if !self.connection.is_connected() {
            return Err(StoreError("not connected to NATS".to_owned()));
        }
        match self.bucket.stream.get_last_raw_message_by_subject(&self.subject(key)).await {
            Ok(last) => {
                let value = (!feed::is_delete_marker(&last.headers)).then_some(last.payload);
                Ok(Some(Entry { key: key.to_owned(), value, revision: Revision(last.sequence) }))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(StoreError(format!("key '{key}': {error}"))),
        }
    }

    async fn watch_from(&self, scope: WatchScope, position: Position) -> Result<WatchStream, StoreError> {
        let source = feed::Source {
            connection: self.connection.clone(),
            jetstream: self.jetstream.clone(),
            stream: self.bucket.stream_name.clone(),
            prefix: self.bucket.prefix.clone(),
            filters: filters(&scope).iter().map(|key| self.subject(key)).collect(),
            idle_heartbeat: self.tuning.idle_heartbeat,
        };
        watch::start(source, self.tuning, position).await
    }

    async fn identity(&self) -> Result<StoreIdentity, StoreError> {
        if !self.connection.is_connected() {
            return Err(StoreError("not connected to NATS".to_owned()));
        }
        let stream = self.jetstream.get_stream(&self.bucket.stream_name).await;
        let stream = stream.map_err(|error| StoreError(format!("bucket '{}': {error}", self.bucket.name)))?;
        Ok(StoreIdentity(stream.cached_info().created.to_string()))
    }

    async fn ensure(&self) -> Result<(), StoreError> {
        bucket::open(&self.connection, &self.jetstream, &self.bucket.name, self.replicas).await.map(drop)
    }
}

fn filters(scope: &WatchScope) -> Vec<String> {
    match scope {
        WatchScope::Ring => ["meta", "config", "plan", "member.*", "own.*"].map(str::to_owned).to_vec(),
        WatchScope::Routes => ["meta", "own.*"].map(str::to_owned).to_vec(),
        WatchScope::AllLeases => vec!["lease.*".to_owned()],
        WatchScope::Leases(nodes) => nodes.iter().map(|node| format!("lease.{node}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, err_code: u16) -> Result<Revision, CasError> {
        let json = serde_json::json!({"stream": "KV_x", "seq": 0,
            "error": {"code": code, "err_code": err_code, "description": "said by the server"}});
        acknowledged(json.to_string().as_bytes())
    }

    #[test]
    fn both_error_codes_of_a_wrong_revision_are_conflicts() {
        assert_eq!(answer(400, 10071), Err(CasError::Conflict));
        assert_eq!(answer(400, 10164), Err(CasError::Conflict));
    }

    #[test]
    fn what_the_server_cannot_tell_is_unknown_and_what_it_rejects_is_refused() {
        assert!(matches!(answer(503, 10008), Err(CasError::Unknown(_))));
        assert!(matches!(answer(500, 10000), Err(CasError::Unknown(_))));
        assert!(matches!(answer(400, 10054), Err(CasError::Refused(_))));
        assert!(matches!(acknowledged(b"{}"), Err(CasError::Unknown(_))));
    }

    #[test]
    fn an_acknowledgement_carries_the_revision() {
        assert_eq!(acknowledged(br#"{"stream":"KV_x","seq":7}"#), Ok(Revision(7)));
    }
}
