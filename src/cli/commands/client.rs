//! What every command shares: which ring, which NATS, how to answer; and one request to the ring.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ColorChoice};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::exit::{Code, Failure};
use super::super::nats_args::NatsArgs;
use super::super::told::while_suspended;
use super::output::Output;
use crate::admin::Admin;
use crate::connect::Connection;
use crate::rpc::nats::NatsBus;
use crate::rpc::status::Suspended;
use crate::rpc::{Bus, BusError, Message, RequestError, subject};
use crate::types::{NodeName, RingName};

/// How long to wait where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A node waits for an owner for as long as this header says, in milliseconds.
const TIMEOUT_HEADER: &str = "Nats-Ring-Timeout-Ms";
/// How much earlier than here a node gives up, so that its reason arrives in time.
const HEAD_START: Duration = Duration::from_millis(200);

#[derive(Args, Clone)]
pub(super) struct ClientArgs {
    /// The ring's name
    #[arg(long, env = "NATS_RING_PLATFORM", value_name = "NAME", default_value = "cache-platform")]
    pub(super) platform: RingName,
    /// JSON instead of text: one document, or one per line where there are several
    #[arg(long)]
    pub(super) json: bool,
    /// How long to wait for NATS, and then for the answer, such as 5s or 500ms [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) timeout: Option<Duration>,
    /// Colours; auto: on a terminal where NO_COLOR is not set
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(super) color: ColorChoice,
    #[command(flatten, next_help_heading = "NATS")]
    nats: NatsArgs,
}

impl ClientArgs {
    /// Where to write.
    pub(super) fn output(&self) -> Output {
        Output::stdout(self.json, self.color)
    }

    /// How long to wait, for NATS and for one answer each.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    /// A connection to the NATS that is named.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let options = self.nats.clone().connect_options(self.timeout())?;
        Ok(Connection::open(&options).await?)
    }

    /// The same, for requests to nodes, which answer while JetStream is away.
    async fn connect_core(&self) -> Result<Connection, Failure> {
        let options = self.nats.clone().connect_options(self.timeout())?;
        Ok(Connection::open_core(&options).await?)
    }

    /// The ring, to be looked at and steered.
    pub(super) async fn admin(&self) -> Result<Admin, Failure> {
        let admin = Admin::open(&self.connect().await?, &self.platform).await?;
        Ok(admin.with_timeout(self.timeout()))
    }

    /// Sends one request to `<ring>.<operation>` and gives the JSON of the answer, as it came.
    pub(super) async fn ask(&self, operation: &str, body: String) -> Result<Box<RawValue>, Failure> {
        let bus = NatsBus::new(self.connect_core().await?);
        let timeout = self.timeout();
        let patience = timeout.saturating_sub(HEAD_START).max(timeout / 2);
        let headers = vec![(TIMEOUT_HEADER.to_owned(), patience.as_millis().max(1).to_string())];
        let to = subject::entry(&self.platform, operation);
        let answer = bus.request(&to, headers, Bytes::from(body), timeout).await;
        read_answer(answer.map_err(|error| self.not_answered(&error))?)
    }

    /// Why the ring's bucket cannot be read, with what a node says of itself: JetStream may be away while the nodes serve on.
    pub(super) async fn with_word_of_a_node(&self, failure: Failure) -> Failure {
        #[derive(Deserialize)]
        struct Stats {
            node: NodePart,
        }
        #[derive(Deserialize)]
        struct NodePart {
            name: NodeName,
            phase: String,
            suspended: Option<Suspended>,
        }
        if failure.code != Code::Nats {
            return failure;
        }
        let Ok(answer) = self.ask("stats", String::new()).await else { return failure };
        let Ok(Stats { node }) = serde_json::from_str(answer.get()) else { return failure };
        let does = node.suspended.map_or(String::new(), |suspended| format!(", {}", while_suspended(suspended)));
        Failure::new(failure.code, format!("{}; node '{}' says: {}{does}", failure.message, node.name, node.phase))
    }

    fn not_answered(&self, error: &RequestError) -> Failure {
        match error {
            RequestError::NoResponders(_) => Failure::new(
                Code::NoRing,
                format!("no node of the ring '{}' answers: check --platform and --nats, or start one", self.platform),
            ),
            RequestError::Timeout(_, waited) => Failure::new(
                Code::Unknown,
                format!(
                    "no answer within {waited:?}, it may have been done: look, then try again, with a longer --timeout"
                ),
            ),
            RequestError::NotSent(error @ BusError::TooLarge { .. }) => {
                Failure::new(Code::Usage, format!("nothing was sent: {error}: give a smaller value"))
            }
            RequestError::NotSent(error) => {
                Failure::new(Code::TryAgain, format!("nothing was sent: {error}: try again"))
            }
        }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorText,
}

#[derive(Deserialize)]
struct ErrorText {
    code: String,
    message: String,
}

/// The JSON of an answer, or the error it tells.
fn read_answer(answer: Message) -> Result<Box<RawValue>, Failure> {
    if let Ok(ErrorBody { error }) = serde_json::from_slice(&answer.payload) {
        return Err(refused(&error));
    }
    serde_json::from_slice(&answer.payload).map_err(|error| {
        Failure::internal("a node's answer is not JSON, is another service named like the ring?", error)
    })
}

/// An error's code decides what a script can do about it.
fn refused(error: &ErrorText) -> Failure {
    let ErrorText { code, message } = error;
    let (exit, hint) = match code.as_str() {
        "bad_request" | "too_large" | "method_not_allowed" => (Code::Usage, "correct the request"),
        "not_found" => (Code::NotFound, "check the name"),
        "overloaded" | "unavailable" | "not_ready" | "not_enough_replicas" => (Code::TryAgain, "not done, try again"),
        "unknown" | "timeout" => (Code::Unknown, "it may have been done: look, then try again"),
        _ => (Code::Internal, "see the log of the node that answered"),
    };
    Failure::new(exit, format!("{message} ({code}): {hint}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(payload: &'static str) -> Result<Box<RawValue>, Failure> {
        read_answer(Message { payload: Bytes::from_static(payload.as_bytes()), ..Message::default() })
    }

    #[test]
    fn an_answer_is_given_as_it_came() {
        let text = r#"{"found":true,"value":12345678901234567890.10}"#;
        assert_eq!(read(text).unwrap().get(), text);
    }

    #[test]
    fn each_error_has_the_exit_code_that_says_whether_it_was_done() {
        for (code, exit) in [
            ("bad_request", Code::Usage),
            ("too_large", Code::Usage),
            ("not_found", Code::NotFound),
            ("overloaded", Code::TryAgain),
            ("unavailable", Code::TryAgain),
            ("not_enough_replicas", Code::TryAgain),
            ("unknown", Code::Unknown),
            ("internal", Code::Internal),
        ] {
            let body = serde_json::json!({ "error": { "code": code, "message": "it\nis so" } }).to_string();
            let failure = read(Box::leak(body.into_boxed_str())).unwrap_err();
            assert_eq!(failure.code, exit, "{code}");
            assert_eq!(failure.to_string().lines().count(), 1, "{failure}");
        }
        assert_eq!(read("hello").unwrap_err().code, Code::Internal);
    }
}
