//! What a routed call answers: a reply with who gave it, or an error that says whether it was executed.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::service::ServiceError;
use crate::types::{Epoch, NodeName, PartitionId, RequestId};

/// How long a read waits for an answer where nothing else is said.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a write waits for an answer where nothing else is said.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer from the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The key's partition.
    pub partition: PartitionId,
    /// Who answered.
    pub node: NodeName,
    /// At which epoch.
    pub epoch: Epoch,
    /// The service's answer.
    pub payload: Bytes,
}

/// Why a call has no answer. Everything but [`CallError::Unknown`] was surely not executed or was answered by the service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not executed: no owner could be reached within the caller's time.
    #[error("partition {partition} could not be served within {waited:?}: {reason}")]
    Unavailable {
        /// Of the key.
        partition: PartitionId,
        /// How long it was tried.
        waited: Duration,
        /// What stood in the way last.
        reason: String,
    },
    /// Not executed: a bound was reached.
    #[error("partition {partition}: {reason}; try again later")]
    Overloaded {
        /// Of the key.
        partition: PartitionId,
        /// Which bound.
        reason: String,
    },
    /// Sent to the owner and not answered: it may have been executed.
    #[error("partition {partition}: outcome unknown, {reason}")]
    Unknown {
        /// Of the key.
        partition: PartitionId,
        /// What happened.
        reason: String,
    },
    /// Not executed: the request does not fit a message.
    #[error("request of {size} bytes is over the limit of {limit} bytes (the NATS server's max_payload)")]
    TooLarge {
        /// Its size with all that goes around it.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The service's own refusal or failure.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl CallError {
    /// Short and stable, for programs.
    pub fn code(&self) -> &str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Overloaded { .. } => "overloaded",
            Self::Unknown { .. } => "unknown",
            Self::TooLarge { .. } => "too_large",
            Self::Service(error) => &error.code,
        }
    }
}

/// Whether a call that was sent and not answered may be sent again, with its outcome unknown until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resend {
    /// It may not: executed twice, it would do harm.
    #[default]
    Never,
    /// It only reads.
    Read,
    /// The service knows what it has executed by [`Request::once`](crate::service::Request::once) and answers that again.
    /// `None` has a name drawn.
    Once(Option<RequestId>),
}

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    /// How long it may take altogether.
    pub timeout: Duration,
    /// What is done where no answer comes.
    pub resend: Resend,
}

/// Whoever can route a call to a key's owner.
#[async_trait]
pub trait Caller: Send + Sync + 'static {
    /// Routes a request in the service's native form to the owner of `key`; retries what surely was not executed
    /// until `timeout` is over.
    async fn call(&self, key: Bytes, operation: &str, payload: Bytes, timeout: Duration) -> Result<Reply, CallError>;

    /// The same; what is not answered is sent again where `how` allows it. By default it is not.
    async fn call_with(&self, key: Bytes, operation: &str, payload: Bytes, how: How) -> Result<Reply, CallError> {
        self.call(key, operation, payload, how.timeout).await
    }
}
