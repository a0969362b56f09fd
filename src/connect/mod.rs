//! Where connections to NATS are made, and the one place that decides whether a server will do.
//!
//! In: [`ConnectOptions`]. Out: a [`Connection`] that the two adapters (`coord::nats`, `rpc::nats`) are built on.
//! [`Connections`] is the pair that nodes need, and that everything in a process can share.
#![allow(clippy::disallowed_methods)] // The client's own timers: nothing here decides ownership.

mod error;
mod inbox;
mod link;
mod options;
mod pair;
mod tls;
mod told;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{AccountErrorKind, ContextBuilder};
use async_nats::{Client, ConnectErrorKind, ServerAddr};
use tokio::sync::watch;
use tokio::time::Instant;

pub use error::{ConnectError, SERVER_VERSION_MIN};
pub(crate) use inbox::{Inbox, InboxError};
pub use options::{ConnectOptions, Credentials};
pub use pair::{Connections, Nats, SUBSCRIPTION_CAPACITY};
pub use tls::Tls;
use told::Told;

/// Pause between two attempts at the first connection.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// How often a wait is reported.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// How long JetStream may take to answer one question at the start.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to a NATS server that will do. Cheap to clone; closed when the last clone is dropped.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    inbox: Inbox,
    link: link::Link,
    told: Arc<Told>,
    wait: Duration,
}

impl Connection {
    /// Connects, waiting for an absent server as long as `options.wait` says.
    ///
    /// # Errors
    /// [`ConnectError`]: what is wrong and what to do about it, in one line.
    pub async fn open(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let started = Instant::now();
        let connection = Self::open_core(options).await?;
        let servers = options::shown(&options.login()?.0);
        check_jetstream(connection.client(), &connection.inner.told, &servers, options.wait, started).await?;
        Ok(connection)
    }

    /// The same, where requests to nodes are all that is wanted: these answer while JetStream is away.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn open_core(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let (addresses, login) = options.login()?;
        let told = Told::new(&options.name);
        let client_options = told.by(options.client_options(&login, &addresses).await?);

        let client = reach(options.wait, &login, &addresses, client_options).await?;
        check_version(&client.server_info().version)?;
        let inbox = Inbox::open(client.clone()).await.map_err(|error| ConnectError::Client(error.to_string()))?;
        let link = link::Link::follow(client.clone(), Arc::clone(&told));
        Ok(Self { inner: Arc::new(Inner { client, inbox, link, told, wait: options.wait }) })
    }

    /// Version of the server this connection is with.
    pub fn server_version(&self) -> String {
        self.inner.client.server_info().version
    }

    /// Largest message the server takes, in bytes, headers included.
    pub fn max_payload(&self) -> usize {
        self.inner.client.max_payload()
    }

    /// Whether messages can be sent right now.
    pub fn is_connected(&self) -> bool {
        link::is_connected(&self.inner.client)
    }

    /// Whether the connection is up, to be watched. A change that reads `true` means that it was lost and is back.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.inner.link.watch()
    }

    /// How long the caller was ready to wait for the server at the start.
    pub(crate) fn wait(&self) -> Duration {
        self.inner.wait
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inner.inbox
    }

    /// How often the client reported that a subscription's messages were dropped unread.
    pub(crate) fn slow_consumers(&self) -> u64 {
        self.inner.told.slow()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

/// Tries until a server answers, or refuses for good, or the wait is over.
async fn reach(
    wait: Duration,
    login: &Credentials,
    addresses: &[ServerAddr],
    client_options: async_nats::ConnectOptions,
) -> Result<Client, ConnectError> {
    let (servers, started) = (options::shown(addresses), Instant::now());
    let mut report = Report::new(format!("waiting for NATS at {servers}"));
    loop {
        let error = match client_options.clone().connect(addresses).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let (servers, mut reason) = (servers.clone(), error.to_string());
        if refused(&error) {
            return Err(ConnectError::Authorization { servers, kind: format!("{login:?}") });
        }
        if let Some(reason) = tls::failure(&error) {
            return Err(ConnectError::Tls { servers, reason });
        }
        if error.kind() == ConnectErrorKind::Tls {
            return Err(ConnectError::Tls { servers, reason });
        }
        if error.kind() == ConnectErrorKind::TimedOut || reason.contains("got nothing") {
            // Such a server waits for the client's first word: it looks like one that hangs, until it hangs up.
            reason.push_str("; one with handshake_first needs --nats-tls-first");
        }
        if started.elapsed() >= wait {
            return Err(ConnectError::Unreachable { servers, waited: wait, reason });
        }
        report.progress(&reason);
        pause(started + wait).await;
    }
}

/// Whether the server knows who asks and will not have it, now or later.
fn refused(error: &async_nats::ConnectError) -> bool {
    if matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication) {
        return true;
    }
    let said = error.source().and_then(|source| source.downcast_ref::<async_nats::ServerError>());
    // Such as "user authentication revoked"; a time-out is the server's being slow.
    said.map(|said| said.to_string().to_lowercase())
        .is_some_and(|said| said.contains("authentication") && !said.contains("timeout"))
}

/// Whether a server of this version will do.
pub(crate) fn check_version(found: &str) -> Result<(), ConnectError> {
    let mut numbers = found.split(['.', '-']).map(|part| part.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    match (next(), next(), next()) {
        (Some(major), Some(minor), Some(patch)) if (major, minor, patch) >= SERVER_VERSION_MIN => Ok(()),
        _ => Err(ConnectError::ServerTooOld { found: found.to_owned() }),
    }
}

/// Asks JetStream for the account's figures: the cheapest question that needs a working JetStream.
async fn check_jetstream(
    client: &Client,
    told: &Told,
    servers: &str,
    wait: Duration,
    started: Instant,
) -> Result<(), ConnectError> {
    let jetstream = ContextBuilder::new().timeout(JETSTREAM_TIMEOUT).build(client.clone());
    let mut report = Report::new(format!("waiting for JetStream at {servers}"));
    loop {
        let error = match jetstream.query_account().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let servers = servers.to_owned();
        // The server says it apart from the question, which it leaves unanswered.
        if let Some(reason) = told.last_reason().filter(|said| said.to_lowercase().contains("permissions violation")) {
            return Err(ConnectError::Forbidden { servers, reason });
        }
        // In a cluster the question may come before the servers have found each other.
        let server = client.server_info();
        let starting = server.jetstream || server.cluster.is_some();
        match error.kind() {
            AccountErrorKind::JetStreamUnavailable if !starting => return Err(ConnectError::NoJetStream { servers }),
            AccountErrorKind::JetStream(error)
                if error.error_code() == async_nats::jetstream::ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT =>
            {
                return Err(ConnectError::NoJetStream { servers });
            }
            _ if started.elapsed() >= wait => {
                return Err(ConnectError::JetStreamNotReady { servers, waited: wait, reason: error.to_string() });
            }
            _ => report.progress(&error.to_string()),
        }
        pause(started + wait).await;
    }
}

/// Waits for the next attempt, but not past `deadline`.
async fn pause(deadline: Instant) {
    tokio::time::sleep_until(deadline.min(Instant::now() + RETRY_EVERY)).await;
}

/// Says at once that something is waited for, then every few seconds.
struct Report {
    what: String,
    last: Option<Instant>,
}

impl Report {
    fn new(what: String) -> Self {
        Self { what, last: None }
    }

    fn progress(&mut self, reason: &str) {
        if self.last.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
            self.last = Some(Instant::now());
            tracing::info!(reason, "{}", self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_2_11_0_are_refused_by_name() {
        for old in ["2.10.25", "2.9.10", "1.99.99", "", "unknown"] {
            assert_eq!(check_version(old), Err(ConnectError::ServerTooOld { found: old.to_owned() }));
        }
        for new in ["2.11.0", "2.11.0-RC.1", "2.15.1", "3.0.0"] {
            assert_eq!(check_version(new), Ok(()));
        }
        let message = ConnectError::ServerTooOld { found: "2.10.25".to_owned() }.to_string();
        assert!(message.contains("2.10.25") && message.contains("2.11.0"), "{message}");
    }
}
