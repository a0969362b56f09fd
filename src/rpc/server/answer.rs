//! Where an answer goes, and in which form.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::bus::{Bus, Headers, Message};
use super::super::call::Reply;
use super::super::envelope::{ReplyHead, seal};
use crate::service::ServiceError;
use crate::types::{Epoch, NodeId, PartitionId};

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The service refused it or failed.
    Service(ServiceError),
    /// Surely not executed; worth another try elsewhere or later.
    NotExecuted(String),
    /// Surely not executed: a bound was reached.
    Overloaded(String),
    /// May have been executed.
    Unknown(String),
}

impl Refusal {
    /// Short and stable, for programs.
    pub fn code(&self) -> &str {
        match self {
            Self::Service(error) => &error.code,
            Self::NotExecuted(_) => "unavailable",
            Self::Overloaded(_) => "overloaded",
            Self::Unknown(_) => "unknown",
        }
    }

    /// For people.
    pub fn message(&self) -> &str {
        match self {
            Self::Service(error) => &error.message,
            Self::NotExecuted(reason) | Self::Overloaded(reason) | Self::Unknown(reason) => reason,
        }
    }

    /// The number that goes into the micro-service error header, as HTTP has it.
    fn number(&self) -> u16 {
        match self.code() {
            "bad_request" => 400,
            "not_found" => 404,
            "precondition_failed" => 412,
            "too_large" => 413,
            "request_id_reused" => 422,
            "overloaded" => 429,
            "unavailable" | "not_enough_replicas" => 503,
            "unknown" => 504,
            _ => 500,
        }
    }
}

/// Where the answer goes.
#[derive(Debug)]
pub enum Answer {
    /// To a task of this process.
    Here(oneshot::Sender<Result<Reply, Refusal>>),
    /// To a router in another process, enveloped.
    Native(String),
    /// To a plain client, as text.
    Plain(String),
    /// Nobody asked for one.
    Nobody,
}

impl Answer {
    /// Gives the answer. A failure to send it is the caller's time-out: there is nobody else to tell.
    pub(super) async fn give(
        self,
        bus: &dyn Bus,
        me: &NodeId,
        partition: PartitionId,
        epoch: Epoch,
        result: Result<Bytes, Refusal>,
    ) {
        let message = match self {
            Self::Here(sender) => {
                let reply = |payload| Reply { partition, node: me.node.clone(), epoch, payload };
                // The asking task may have given up.
                let _ = sender.send(result.map(reply));
                return;
            }
            Self::Nobody => return,
            Self::Native(subject) => native(subject, me, epoch, result),
            Self::Plain(subject) => plain_message(subject, result),
        };
        if let Err(error) = bus.publish(message).await {
            tracing::debug!(%partition, %error, "answer not sent");
        }
    }
}

fn native(subject: String, me: &NodeId, epoch: Epoch, result: Result<Bytes, Refusal>) -> Message {
    let (head, payload) = match result {
        Ok(payload) => (ReplyHead::Ok { node: me.node.clone(), epoch }, payload),
        Err(Refusal::Service(error)) => (ReplyHead::Service(error), Bytes::new()),
        Err(Refusal::NotExecuted(reason)) => (ReplyHead::NotExecuted(reason), Bytes::new()),
        Err(Refusal::Overloaded(reason)) => (ReplyHead::Overloaded(reason), Bytes::new()),
        Err(Refusal::Unknown(reason)) => (ReplyHead::Unknown(reason), Bytes::new()),
    };
    // A head of names, numbers and a reason always fits; an empty answer would be refused by its reader.
    let payload = seal(&head, &payload).unwrap_or_default();
    Message { subject, payload, ..Message::default() }
}

/// The answer to a plain client: the payload as it is, or `{"error":{…}}` with the micro-service error headers.
pub fn plain_message(subject: String, result: Result<Bytes, Refusal>) -> Message {
    match result {
        Ok(payload) => Message { subject, payload, ..Message::default() },
        Err(refusal) => Message {
            subject,
            reply: None,
            headers: error_headers(&refusal),
            payload: error_body(refusal.code(), refusal.message()),
        },
    }
}

fn error_headers(refusal: &Refusal) -> Headers {
    let message = refusal.message().replace(['\r', '\n'], " ");
    vec![
        ("Nats-Service-Error".to_owned(), message),
        ("Nats-Service-Error-Code".to_owned(), refusal.number().to_string()),
    ]
}

/// `{"error":{"code":…,"message":…}}`.
pub fn error_body(code: &str, message: &str) -> Bytes {
    Bytes::from(serde_json::json!({ "error": { "code": code, "message": message } }).to_string())
}
