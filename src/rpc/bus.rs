//! What the ring needs of core NATS: publish, request-reply, queue groups.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

/// Header names and values, in order.
pub type Headers = Vec<(String, String)>;

/// A message, received or to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub subject: String,
    /// Where an answer is expected.
    pub reply: Option<String>,
    /// Headers; empty costs nothing on the wire.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
}

/// Messages of one subscription. Dropping it unsubscribes, and what is in flight then is lost. Ends when the connection is
/// closed for good, or as told by [`Source::let_go`].
pub type Subscription = Box<dyn Source>;

/// What a [`Subscription`] can do beside yielding messages.
pub trait Source: Stream<Item = Message> + Send + Unpin {
    /// Ends the subscription without losing a message: the server is told to end it after `more` messages beyond those
    /// read so far, and the stream yields every one of them, then ends. `more` must be above what can be in flight.
    fn let_go(&mut self, more: u64);
}

/// A message that could not be handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Not connected: nothing was sent. (Publishing while disconnected would queue the message for an unknown time.)
    #[error("not connected to NATS")]
    Disconnected,
    /// Over the server's `max_payload`: nothing was sent.
    #[error("message of {size} bytes is over the server's max_payload of {limit} bytes")]
    TooLarge {
        /// Size of the message, headers included.
        size: usize,
        /// The server's limit.
        limit: usize,
    },
    /// The client refused (invalid subject, connection closed for good).
    #[error("NATS client: {0}")]
    Client(String),
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nothing was sent.
    #[error(transparent)]
    NotSent(#[from] BusError),
    /// Nobody subscribes to the subject: surely not executed.
    #[error("no responders on '{0}'")]
    NoResponders(String),
    /// Sent, and no answer in time: it may have been executed.
    #[error("no answer on '{0}' within {1:?}")]
    Timeout(String, Duration),
}

/// Core NATS, as the ring uses it.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Hands a message to the network. Refuses while disconnected.
    async fn publish(&self, message: Message) -> Result<(), BusError>;

    /// Sends a request and waits for its first answer. A time-out leaves nothing behind.
    async fn request(
        &self,
        subject: &str,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, RequestError>;

    /// Subscribes, in a queue group if one is named. At most `capacity` messages wait unread; what arrives beyond is
    /// dropped and counted. Only a later round trip on the same connection proves that the server knows of it.
    async fn subscribe(&self, subject: &str, queue: Option<&str>, capacity: usize) -> Result<Subscription, BusError>;

    /// A round trip to the server: what was subscribed before it is in force after it.
    async fn flush(&self) -> Result<(), BusError>;

    /// Whether messages can be sent right now.
    fn is_connected(&self) -> bool;

    /// How often the connection has been made: what was under way on one before is lost.
    fn connects(&self) -> u64 {
        0
    }

    /// The server's `max_payload`, in bytes.
    fn max_payload(&self) -> usize;

    /// Messages dropped so far because a subscription's reader was too slow.
    fn dropped(&self) -> u64;
}
