//! How the program ends: exit codes that scripts can use, and one line for people.

use std::fmt;

use crate::admin::AdminError;
use crate::config::ConfigError;
use crate::connect::ConnectError;
use crate::coord::StoreError;
use crate::node::{MetaError, NodeError, StartError};

/// The program's exit codes; the README lists them with what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Ended as asked.
    Ok = 0,
    /// Something unforeseen.
    Internal = 1,
    /// A flag, variable or file is wrong.
    Usage = 2,
    /// No usable NATS: absent, without JetStream, too old, TLS.
    Nats = 3,
    /// NATS refused the credentials.
    Credentials = 4,
    /// The HTTP address cannot be bound.
    Http = 5,
    /// A live node holds the name.
    NameLive = 6,
    /// The ring was created with other values.
    RingDisagrees = 7,
    /// The drain did not finish.
    DrainIncomplete = 8,
    /// The node left by itself: a hook hung, or a task kept failing.
    GaveUp = 9,
    /// There is no such key, node or partition.
    NotFound = 10,
    /// A node cannot be stopped now without harm.
    NotSafe = 11,
    /// No node of the ring answers there, or there is no such ring.
    NoRing = 12,
    /// Refused for now, surely not done: worth another try.
    TryAgain = 13,
    /// No answer in time: it may have been done.
    Unknown = 14,
    /// A signal ended it before it was done.
    Interrupted = 130,
}

/// Why the program ends other than as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For scripts.
    pub code: Code,
    /// For people: what happened, and what to do about it.
    pub message: String,
}

impl Failure {
    /// A failure with this code and line.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Something that should not happen.
    pub fn internal(what: &str, error: impl fmt::Display) -> Self {
        Self::new(Code::Internal, format!("{what}: {error}; the last log lines say more"))
    }
}

impl fmt::Display for Failure {
    /// One line whatever went into it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nats-ring: {}", self.message.lines().map(str::trim).collect::<Vec<_>>().join(" "))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Code::Usage, error.to_string())
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let code = match &error {
            ConnectError::BadUrl { .. } | ConnectError::CredsFile { .. } | ConnectError::TlsFile { .. } => Code::Usage,
            ConnectError::Authorization { .. } | ConnectError::Forbidden { .. } => Code::Credentials,
            ConnectError::Unreachable { .. }
            | ConnectError::Tls { .. }
            | ConnectError::ServerTooOld { .. }
            | ConnectError::NoJetStream { .. }
            | ConnectError::JetStreamNotReady { .. }
            | ConnectError::Client(_) => Code::Nats,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(
            Code::Nats,
            format!("the ring's bucket cannot be used: {error}; check JetStream with 'nats stream ls -a'"),
        )
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let code = match error {
            AdminError::Connect(error) => return error.into(),
            AdminError::NoRing { .. } => Code::NoRing,
            AdminError::Store(_) => Code::Nats,
            AdminError::Unreadable { .. } => Code::RingDisagrees,
            AdminError::Contended { .. } => Code::TryAgain,
            AdminError::Timeout { .. } | AdminError::NoAnswer { .. } | AdminError::Restless { .. } => Code::Unknown,
            AdminError::UnknownNode { .. } | AdminError::UnknownPartition { .. } | AdminError::NotLive { .. } => {
                Code::NotFound
            }
            AdminError::AlreadyMember { .. } => Code::Usage,
            AdminError::NobodyElse { .. } => Code::NotSafe,
            AdminError::DrainBroken { .. } | AdminError::DrainSlow { .. } => Code::DrainIncomplete,
            AdminError::Plan(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Setting { .. } => Self::new(Code::Usage, error.to_string()),
            StartError::Connect(error) => error.into(),
            StartError::Store(error) => error.into(),
            StartError::Node(error) => error.into(),
        }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let code = match &error {
            NodeError::Meta(MetaError::Disagrees { .. } | MetaError::Unreadable(_)) => Code::RingDisagrees,
            NodeError::Meta(MetaError::Store(_) | MetaError::Refused(_)) => Code::Nats,
            NodeError::NameLive { .. } => Code::NameLive,
            NodeError::DrainIncomplete => Code::DrainIncomplete,
            NodeError::HookHung | NodeError::GaveUp(_) => Code::GaveUp,
        };
        let hint = match &error {
            NodeError::Meta(MetaError::Unreadable(_)) => ": upgrade nats-ring, or name another ring with --platform",
            NodeError::Meta(MetaError::Store(_) | MetaError::Refused(_)) => {
                ": see whether JetStream answers, 'nats stream ls -a', and start again"
            }
            NodeError::HookHung | NodeError::GaveUp(_) => ": the log has the first failure; start it again",
            _ => "",
        };
        Self::new(code, format!("{error}{hint}"))
    }
}
