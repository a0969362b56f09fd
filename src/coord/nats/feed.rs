//! One ordered consumer on the bucket's stream: the state as it is, then every change, or the news that it was lost.
//!
//! The client's ordered consumer notices a vanished consumer only after ten seconds. This one asks for heartbeats as
//! often as it needs them and leaves mending to the watch above it.

use std::time::Duration;

use async_nats::header::{HeaderMap, NATS_LAST_CONSUMER};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::context::{Context, GetStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{StatusCode, Subscriber};
use futures::StreamExt;
use tokio::time::Instant;

use super::super::{Entry, Revision};
use crate::connect::Connection;

/// Heartbeats that may be missed before the consumer counts as lost.
const MISSED_HEARTBEATS_MAX: u32 = 3;
/// When the server removes a consumer that nobody listens to.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(10);

/// What a feed is opened on.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) connection: Connection,
    pub(super) jetstream: Context,
    pub(super) stream: String,
    /// What the subjects of keys begin with.
    pub(super) prefix: String,
    pub(super) filters: Vec<String>,
    pub(super) idle_heartbeat: Duration,
}

/// Why a feed could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The bucket is not there any more.
    Gone,
    /// Anything that may pass.
    Passing(String),
}

/// A feed at the end of its initial state.
pub(super) struct Opened {
    pub(super) feed: Feed,
    /// When the stream was created.
    pub(super) created: String,
    /// The stream's last revision just before the feed began: what is older and not in `state` does not exist.
    pub(super) head: Revision,
    /// The last write of every key in scope, delete markers included.
    pub(super) state: Vec<Delivery>,
}

/// One write.
pub(super) struct Delivery {
    pub(super) entry: Entry,
    /// The server's time of the write: tells a write from another one at the same revision after a rollback.
    pub(super) published_nanos: i128,
    /// How many more are on their way.
    pending: u64,
}

/// What a feed yields.
pub(super) enum Event {
    Delivery(Delivery),
    /// Nothing new, and nothing missed.
    Heartbeat,
}

/// An ordered consumer. Dropping it deletes it, as far as that can be done.
pub(super) struct Feed {
    jetstream: Context,
    connection: Connection,
    messages: Subscriber,
    stream: String,
    name: String,
    prefix_bytes: usize,
    /// Consumer sequence of the last message that came.
    delivered: u64,
    heard: Instant,
    silence_max: Duration,
}

impl Source {
    /// Begins anew and takes in the whole state.
    pub(super) async fn open(&self) -> Result<Opened, OpenError> {
        if !self.connection.is_connected() {
            return Err(OpenError::Passing("not connected".to_owned()));
        }
        let stream = self.jetstream.get_stream(&self.stream).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                OpenError::Gone
            }
            _ => OpenError::Passing(error.to_string()),
        })?;
        let info = stream.cached_info();
        let (created, head) = (info.created.to_string(), Revision(info.state.last_sequence));
        let (mut feed, pending) = self.create_consumer().await?;
        let state = if pending == 0 { Vec::new() } else { feed.state(head).await? };
        Ok(Opened { feed, created, head, state })
    }

    async fn create_consumer(&self) -> Result<(Feed, u64), OpenError> {
        let client = self.connection.client();
        let passing = |error: String| OpenError::Passing(error);
        let deliver_subject = client.new_inbox();
        // Subscribed first: the server sees it before it is asked to deliver.
        let messages = client.subscribe(deliver_subject.clone()).await.map_err(|error| passing(error.to_string()))?;
        let config = push::Config {
            deliver_subject,
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            filter_subjects: self.filters.clone(),
            idle_heartbeat: self.idle_heartbeat,
            inactive_threshold: INACTIVE_THRESHOLD,
            memory_storage: true,
            num_replicas: 1,
            ..push::Config::default()
        };
        let consumer = self.jetstream.create_consumer_on_stream(config, &self.stream).await;
        let consumer = consumer.map_err(|error| passing(error.to_string()))?;
        let info = consumer.cached_info();
        let feed = Feed {
            jetstream: self.jetstream.clone(),
            connection: self.connection.clone(),
            messages,
            stream: self.stream.clone(),
            name: info.name.clone(),
            prefix_bytes: self.prefix.len(),
            delivered: 0,
            heard: Instant::now(),
            silence_max: self.idle_heartbeat * MISSED_HEARTBEATS_MAX,
        };
        Ok((feed, info.num_pending))
    }
}

impl Feed {
    /// Reads up to the point where everything up to `head` has come.
    async fn state(&mut self, head: Revision) -> Result<Vec<Delivery>, OpenError> {
        let mut state = Vec::new();
        loop {
            match self.next().await.map_err(OpenError::Passing)? {
                // The server sends a heartbeat only when it has nothing else to send.
                Event::Heartbeat => return Ok(state),
                Event::Delivery(delivery) => {
                    let last = delivery.pending == 0 || delivery.entry.revision > head;
                    state.push(delivery);
                    if last {
                        return Ok(state);
                    }
                }
            }
        }
    }

    /// The next write or heartbeat; an error once anything was missed. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Event, String> {
        let deadline = self.heard + self.silence_max;
        let message = tokio::time::timeout_at(deadline, self.messages.next())
            .await
            .map_err(|_| format!("no heartbeat for {:?}", self.silence_max))?
            .ok_or_else(|| "connection closed".to_owned())?;
        self.heard = Instant::now();
        match message.status {
            None => self.delivery(message).map(Event::Delivery),
            Some(StatusCode::IDLE_HEARTBEAT) => self.heartbeat(&message),
            Some(status) => Err(format!("{status} {}", message.description.unwrap_or_default())),
        }
    }

    fn heartbeat(&self, message: &async_nats::Message) -> Result<Event, String> {
        let sent = message.headers.as_ref().and_then(|headers| headers.get_last(NATS_LAST_CONSUMER));
        match sent.and_then(|sent| sent.as_str().parse::<u64>().ok()) {
            Some(sent) if sent != self.delivered => Err(format!("{} of {sent} messages arrived", self.delivered)),
            _ => Ok(Event::Heartbeat),
        }
    }

    fn delivery(&mut self, message: async_nats::Message) -> Result<Delivery, String> {
        let message = jetstream::Message { message, context: self.jetstream.clone() };
        let info = message.info().map_err(|error| error.to_string())?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(format!("message {} came after message {}", info.consumer_sequence, self.delivered));
        }
        self.delivered = info.consumer_sequence;
        let (revision, pending) = (Revision(info.stream_sequence), info.pending);
        let published_nanos = info.published.unix_timestamp_nanos();
        let key = message.subject.get(self.prefix_bytes..).unwrap_or_default().to_owned();
        let deleted = message.headers.as_ref().is_some_and(is_delete_marker);
        let value = (!deleted).then(|| message.message.payload.clone());
        Ok(Delivery { entry: Entry { key, value, revision }, published_nanos, pending })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // Otherwise the server does it, once nobody has listened for a while.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.connection.is_connected() {
            return;
        }
        let (jetstream, name, stream) = (self.jetstream.clone(), self.name.clone(), self.stream.clone());
        runtime.spawn(async move {
            if let Err(error) = jetstream.delete_consumer_from_stream(&name, &stream).await {
                tracing::debug!(%error, name, "consumer left to its inactivity threshold");
            }
        });
    }
}

/// Whether a message says that its key was deleted, purged, or expired.
pub(super) fn is_delete_marker(headers: &HeaderMap) -> bool {
    let operation = headers.get("KV-Operation").is_some_and(|what| matches!(what.as_str(), "DEL" | "PURGE"));
    operation || headers.get("Nats-Marker-Reason").is_some()
}
