//! The two connections of a process: one for data, and one for heartbeats alone, so that bulk data cannot delay them.
//! Any number of nodes, of as many rings, and of clients share a pair.

use std::time::Duration;

use super::{ConnectError, ConnectOptions, Connection};

/// Messages that may wait unread in one subscription of the data connection.
pub const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Two connections to the same servers. Cheap to clone; closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Connections {
    data: Connection,
    heartbeat: Connection,
    reconnect_delay_max: Duration,
}

impl Connections {
    /// Opens both, named `<name> data` and `<name> heartbeat` after [`ConnectOptions::name`].
    ///
    /// [`ConnectOptions::reconnect_delay_max`] should be at most a sixth of the shortest lease of the nodes that will share
    /// them: the default does for leases of three seconds and more.
    ///
    /// # Errors
    /// [`ConnectError`], with what to do about it.
    pub async fn open(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let named = |what: &str| ConnectOptions { name: format!("{} {what}", options.name), ..options.clone() };
        let data_options = ConnectOptions { subscription_capacity: SUBSCRIPTION_CAPACITY, ..named("data") };
        Ok(Self {
            data: Connection::open(&data_options).await?,
            heartbeat: Connection::open(&named("heartbeat")).await?,
            reconnect_delay_max: options.reconnect_delay_max,
        })
    }

    /// The connection for everything but heartbeats.
    pub fn data(&self) -> &Connection {
        &self.data
    }

    /// The connection for heartbeats.
    pub fn heartbeat(&self) -> &Connection {
        &self.heartbeat
    }

    /// Longest pause between two attempts to reconnect.
    pub fn reconnect_delay_max(&self) -> Duration {
        self.reconnect_delay_max
    }

    /// Largest message the server takes, in bytes.
    pub fn max_payload(&self) -> usize {
        self.data.max_payload()
    }
}

/// How a node or a client comes to its connections.
#[derive(Debug, Clone)]
pub enum Nats {
    /// Opens its own.
    Own(Box<ConnectOptions>),
    /// Shares these with others of this process.
    Shared(Connections),
}

impl From<ConnectOptions> for Nats {
    fn from(options: ConnectOptions) -> Self {
        Self::Own(Box::new(options))
    }
}

impl From<Connections> for Nats {
    fn from(connections: Connections) -> Self {
        Self::Shared(connections)
    }
}

impl From<&Connections> for Nats {
    fn from(connections: &Connections) -> Self {
        Self::Shared(connections.clone())
    }
}
