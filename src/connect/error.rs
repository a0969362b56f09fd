//! Why no usable connection came about: one line each that says what to do.

use std::time::Duration;

/// Oldest accepted server: before it, clustered compare-and-set was seen to accept two writers.
pub const SERVER_VERSION_MIN: (u64, u64, u64) = (2, 11, 0);

/// Why no usable connection came about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// A server's URL cannot be used.
    #[error("NATS server '{url}' cannot be used: {reason}; write nats://host:port, several separated by commas")]
    BadUrl {
        /// The text that was refused, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// The credentials file cannot be used.
    #[error("credentials file '{file}' cannot be used: {reason}")]
    CredsFile {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// A file for TLS cannot be used.
    #[error("TLS file '{file}' cannot be used: {reason}; check nats-ca, nats-cert and nats-key")]
    TlsFile {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// No server answered in time.
    #[error("no NATS server reachable at {servers} within {waited:?} ({reason}): start one with 'nats-server -js'")]
    Unreachable {
        /// All that were tried.
        servers: String,
        /// How long.
        waited: Duration,
        /// What the last attempt met.
        reason: String,
    },
    /// The server refused the credentials. Not retried.
    #[error("NATS at {servers} refused the credentials ({kind}): check user, password, token, nkey or creds file")]
    Authorization {
        /// Who refused.
        servers: String,
        /// Which kind of credentials was given.
        kind: String,
    },
    /// The server knows the user, who may not do what is needed. Not retried.
    #[error(
        "NATS at {servers} does not permit what is needed: {reason}; give the user the permissions of docs/security.md"
    )]
    Forbidden {
        /// Who refused.
        servers: String,
        /// What the server said.
        reason: String,
    },
    /// Encryption could not be agreed on. Not retried.
    #[error(
        "TLS with {servers} failed: {reason}; check the certificates, names and --nats-ca, and whether the server speaks TLS"
    )]
    Tls {
        /// With whom.
        servers: String,
        /// What the client said.
        reason: String,
    },
    /// The server is older than this release can rely on.
    #[error(
        "NATS server {found} is too old: at least {}.{}.{} is needed, upgrade the server",
        SERVER_VERSION_MIN.0, SERVER_VERSION_MIN.1, SERVER_VERSION_MIN.2
    )]
    ServerTooOld {
        /// Its version.
        found: String,
    },
    /// The server runs without JetStream.
    #[error("NATS at {servers} has no JetStream: start it with 'nats-server -js', or enable JetStream for the account")]
    NoJetStream {
        /// Which server.
        servers: String,
    },
    /// JetStream did not answer in time.
    #[error("JetStream at {servers} not ready within {waited:?} ({reason}): is a majority of its servers running?")]
    JetStreamNotReady {
        /// Which server.
        servers: String,
        /// How long.
        waited: Duration,
        /// What the last attempt met.
        reason: String,
    },
    /// The client failed right after it had connected.
    #[error("NATS client: {0}")]
    Client(String),
}
