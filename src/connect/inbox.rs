//! Request-reply over one subscription of our own.
//!
//! The client's `request` leaves an entry behind for every request that times out, and sends while disconnected once
//! it is connected again. Here a waiting request is an entry that its own guard removes, and nothing is sent while
//! disconnected.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, PublishError, StatusCode, Subject};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::link::is_connected;

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Message>>>;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InboxError {
    /// Not connected: nothing was sent.
    Disconnected,
    /// The client refused it, or its queue stayed full: nothing was sent.
    NotSent(String),
    /// Nobody subscribes to the subject.
    NoResponders,
    /// Sent, and no answer in time.
    Timeout,
}

/// The replies of one connection's requests.
pub(crate) struct Inbox {
    client: Client,
    prefix: String,
    next: AtomicU64,
    waiting: Arc<Waiting>,
    _reader: AbortOnDropHandle<()>,
}

/// Takes the entry away when the request ends, however it ends.
struct Entry<'a> {
    waiting: &'a Waiting,
    token: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.token);
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Message>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    /// Subscribes; in force for every request that follows.
    pub(super) async fn open(client: Client) -> Result<Self, async_nats::SubscribeError> {
        let prefix = format!("{}.", client.new_inbox());
        let mut replies = client.subscribe(format!("{prefix}*")).await?;
        let waiting = Arc::new(Waiting::default());
        let (entries, prefix_bytes) = (Arc::clone(&waiting), prefix.len());
        let reader = tokio::spawn(async move {
            while let Some(message) = replies.next().await {
                let token = message.subject.get(prefix_bytes..).and_then(|token| token.parse().ok());
                let waiter = token.and_then(|token| lock(&entries).remove(&token));
                if let Some(waiter) = waiter {
                    // The requester may have given up in this very moment.
                    let _ = waiter.send(message);
                }
            }
        });
        Ok(Self { client, prefix, next: AtomicU64::new(0), waiting, _reader: AbortOnDropHandle::new(reader) })
    }

    /// Sends and waits for the first answer.
    pub(crate) async fn request(
        &self,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, InboxError> {
        let message = self.exchange(timeout, |reply| self.publish(subject, reply, headers, payload)).await?;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(InboxError::NoResponders);
        }
        Ok(message)
    }

    /// A message from this connection to itself: what was sent before it has reached the server when it is back.
    pub(crate) async fn round_trip(&self, timeout: Duration) -> Result<(), InboxError> {
        self.exchange(timeout, |own| self.client.publish(own, Bytes::new())).await.map(|_| ())
    }

    async fn publish(
        &self,
        subject: Subject,
        reply: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        match headers {
            Some(headers) => self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
            None => self.client.publish_with_reply(subject, reply, payload).await,
        }
    }

    /// Sends what `send` makes of a reply subject, and waits for the first message on that.
    async fn exchange<F>(&self, timeout: Duration, send: impl FnOnce(String) -> F) -> Result<Message, InboxError>
    where
        F: Future<Output = Result<(), PublishError>>,
    {
        if !is_connected(&self.client) {
            return Err(InboxError::Disconnected);
        }
        let deadline = Instant::now() + timeout;
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        lock(&self.waiting).insert(token, tx);
        let _entry = Entry { waiting: &self.waiting, token };

        match tokio::time::timeout_at(deadline, send(format!("{}{token}", self.prefix))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(InboxError::NotSent(error.to_string())),
            Err(_) => return Err(InboxError::NotSent("the send queue stayed full".to_owned())),
        }
        // A reader that is gone means a connection closed after sending: as silent as a time-out.
        tokio::time::timeout_at(deadline, rx).await.ok().and_then(Result::ok).ok_or(InboxError::Timeout)
    }

    /// Requests that wait for an answer.
    pub(crate) fn pending(&self) -> usize {
        lock(&self.waiting).len()
    }
}
