//! Control from a second terminal, over NATS: `<ring>.dev.<command>`.
//!
//! On the side of `dev`: requests in, answers out when what was asked has come about. On the other: one request, its answer
//! as one line or as JSON.

use std::io::ErrorKind::BrokenPipe;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;

use super::args::{AskArgs, RingArgs};
use super::command::{self, Command};
use super::status;
use crate::cli::exit::{Code, Failure};
use crate::cli::login;
use crate::config::{Config, Settings};
use crate::connect::{ConnectOptions, Connection};
use crate::rpc::nats::NatsBus;
use crate::rpc::{Bus, Message, RequestError, Subscription};

/// Requests that may wait for the loop.
const REQUESTS_MAX: usize = 64;
/// How long a command may take until what was asked has come about.
pub(super) const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Above it, so that `dev` itself says what did not come about.
const ANSWER_LIMIT: Duration = Duration::from_secs(65);
/// How long an absent NATS is waited for: `dev` runs already, or it does not.
const WAIT: Duration = Duration::from_secs(2);

/// A request, and where its answer is expected.
pub(super) struct Asked {
    pub(super) command: Result<Command, String>,
    pub(super) reply: Option<String>,
}

/// The side of `dev`.
pub(super) struct Control {
    bus: NatsBus,
    requests: Subscription,
}

impl Control {
    /// Listens for this ring; refuses where another `dev` does already.
    pub(super) async fn open(connection: Connection, ring: &str) -> Result<Self, Failure> {
        let bus = NatsBus::new(connection);
        let fail = |error: &dyn std::fmt::Display| Failure::new(Code::Nats, format!("control over NATS: {error}"));
        let asked = bus.request(&topic(ring, "status"), Vec::new(), Bytes::new(), WAIT).await;
        if asked.is_ok() {
            let message = format!(
                "a 'nats-ring dev' runs for ring '{ring}' on this NATS already: use it, or name another ring with --platform"
            );
            return Err(Failure::new(Code::NameLive, message));
        }
        let requests = bus.subscribe(&topic(ring, "*"), None, REQUESTS_MAX).await.map_err(|error| fail(&error))?;
        bus.flush().await.map_err(|error| fail(&error))?;
        Ok(Self { bus, requests })
    }

    /// The next request. Cancel-safe; never ready once the connection is closed for good.
    pub(super) async fn next(&mut self) -> Asked {
        let Some(message) = self.requests.next().await else { return std::future::pending().await };
        let word = message.subject.rsplit('.').next().unwrap_or_default();
        Asked { command: Command::parse(word, &message.payload), reply: message.reply }
    }

    pub(super) async fn answer(&self, reply: Option<String>, answer: &Value) {
        let Some(subject) = reply else { return };
        let payload = Bytes::from(answer.to_string());
        // Whoever asked sees no answer, and asks again.
        let _ = self.bus.publish(Message { subject, payload, ..Message::default() }).await;
    }
}

fn topic(ring: &str, word: &str) -> String {
    format!("{}.{word}", command::subject(ring))
}

/// Checked: the ring's name, and how to connect to a NATS that runs already.
pub(super) fn target(at: &RingArgs) -> Result<(String, ConnectOptions), Failure> {
    let from_environment = super::credentials()?;
    let config = Config::new(Settings { nats: at.nats.clone(), platform: at.platform.clone(), ..from_environment })?;
    Ok((config.platform.as_str().to_owned(), login::connect_options(&config.nats, config.wait)?))
}

/// The other side: one command, its answer printed.
pub(super) async fn ask(command: &Command, how: &AskArgs, out: &mut impl Write) -> Result<(), Failure> {
    let (ring, options) = target(&how.at)?;
    let servers = options.servers_without_users();
    let absent = |why: &str| {
        let message = format!(
            "no 'nats-ring dev' answers for ring '{ring}' at {servers} ({why}): start one, or name its NATS with --nats and its \
             ring with --platform, as it printed them"
        );
        Failure::new(Code::Nats, message)
    };
    let connection = Connection::open(&ConnectOptions { wait: WAIT, ..options }).await;
    let connection = connection.map_err(|error| match error {
        crate::connect::ConnectError::Unreachable { reason, .. } => absent(&reason),
        other => other.into(),
    })?;
    let bus = NatsBus::new(connection);
    let answer = bus.request(&topic(&ring, command.word()), Vec::new(), command.body().into(), ANSWER_LIMIT).await;
    let answer = answer.map_err(|error| match error {
        RequestError::NoResponders(_) => absent("nobody listens"),
        RequestError::Timeout(..) => {
            Failure::new(Code::Unknown, format!("'dev' did not answer within {ANSWER_LIMIT:?}: look with 'dev status'"))
        }
        RequestError::NotSent(error) => absent(&error.to_string()),
    })?;
    let answer: Value = serde_json::from_slice(&answer.payload)
        .map_err(|error| Failure::internal("the answer of 'dev' cannot be read", error))?;
    print(&answer, how.json, out)
}

/// With `--json` also an error is an answer, and stays one to the exit code.
fn print(answer: &Value, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let error = command::error_of(answer);
    let text = if json {
        format!("{answer}\n")
    } else if error.is_some() {
        String::new()
    } else {
        status::text(answer)
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads may have gone (`| head`), which is no failure.
        Err(error) if error.kind() != BrokenPipe => {
            return Err(Failure::internal("the answer cannot be printed", error));
        }
        _ => {}
    }
    let Some((code, message)) = error else { return Ok(()) };
    let code = match code {
        "bad_request" => Code::Usage,
        "not_found" => Code::NotFound,
        "overloaded" => Code::TryAgain,
        "timeout" => Code::Unknown,
        _ => Code::Internal,
    };
    Err(Failure::new(code, message))
}
