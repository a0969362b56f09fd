//! The handle: opened on a ring that is there, called by key, closed or dropped.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::follow::Routing;
use crate::connect::{ConnectError, Connection, Nats};
use crate::coord::nats::{NatsStore, bucket_name};
use crate::coord::{ReadMetaError, Store};
use crate::rpc::nats::NatsBus;
use crate::rpc::{Bus, CallError, Caller, How, Reply, Resend, Route, RoutedCall};
use crate::types::{BootClock, Chance, Clock, NodeId, PartitionCount, PartitionId, RingName};

/// How long the owners may take to be read for the first time.
const FIRST_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long its task may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// NATS is not there, refuses, or will not do.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No node has ever started this ring here.
    #[error(
        "there is no ring '{ring}' on this NATS (its bucket '{bucket}' is not there, or empty): start a node of it first, or \
         correct the name"
    )]
    NoSuchRing {
        /// The name that was asked for.
        ring: RingName,
        /// Where a ring of that name would be.
        bucket: String,
    },
    /// The ring was made by a release that this one does not understand.
    #[error("ring '{ring}': {reason}")]
    Unreadable {
        /// Which ring.
        ring: RingName,
        /// What cannot be read.
        reason: String,
    },
    /// The ring's bucket does not answer.
    #[error("the bucket of ring '{ring}' cannot be read: {reason}; see whether JetStream answers, 'nats stream ls -a'")]
    Store {
        /// Which ring.
        ring: RingName,
        /// What happened.
        reason: String,
    },
}

impl ClientError {
    pub(super) fn of(ring: &RingName, error: ReadMetaError) -> Self {
        let ring = ring.clone();
        match error {
            ReadMetaError::Unreadable(reason) => Self::Unreadable { ring, reason },
            ReadMetaError::Store(reason) => Self::Store { ring, reason },
        }
    }

    fn no_such_ring(ring: &RingName) -> Self {
        Self::NoSuchRing { ring: ring.clone(), bucket: bucket_name(ring) }
    }
}

/// What a client is made of: handed in by whoever starts it, so that tests hand in twins.
#[derive(Clone)]
pub struct ClientParts {
    /// Name of the ring.
    pub ring: RingName,
    /// The ring's store; nothing is ever written to it.
    pub store: Arc<dyn Store>,
    /// Core NATS.
    pub bus: Arc<dyn Bus>,
    /// For deadlines.
    pub clock: Arc<dyn Clock>,
    /// Where jitter comes from.
    pub chance: Chance,
}

/// Calls the owners of a ring's keys without being a node of it. Cheap to clone; its task ends with the last clone, or
/// with [`RingClient::close`].
///
/// It follows the ring's claims, so that a call goes to the key's owner in one hop, and goes on over lost connections,
/// moved partitions and a ring that was started anew.
#[derive(Clone)]
pub struct RingClient {
    inner: Arc<Inner>,
}

struct Inner {
    ring: RingName,
    routing: Arc<Routing>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _stop_on_drop: DropGuard,
}

impl RingClient {
    /// A client of the ring of that name: on a connection of its own ([`crate::connect::ConnectOptions`]), or on
    /// [`crate::connect::Connections`] that it shares with others of this process.
    ///
    /// # Errors
    /// [`ClientError::NoSuchRing`] where no node has started that ring: a client creates nothing.
    pub async fn connect(nats: impl Into<Nats>, ring: RingName) -> Result<Self, ClientError> {
        let connection = match nats.into() {
            Nats::Own(options) => Connection::open(&options).await?,
            Nats::Shared(connections) => connections.data().clone(),
        };
        let found = NatsStore::find(&connection, &ring).await;
        let store = found
            .map_err(|error| ClientError::Store { ring: ring.clone(), reason: error.to_string() })?
            .ok_or_else(|| ClientError::no_such_ring(&ring))?;
        let bus = Arc::new(NatsBus::new(connection));
        Self::start(ClientParts {
            ring,
            store: Arc::new(store),
            bus,
            clock: Arc::new(BootClock),
            chance: Chance::real(),
        })
        .await
    }

    /// A client made of these parts. On return it knows who owns what.
    ///
    /// # Errors
    /// As [`RingClient::connect`].
    pub async fn start(parts: ClientParts) -> Result<Self, ClientError> {
        let ring = parts.ring.clone();
        let found = parts.find().await?.ok_or_else(|| ClientError::no_such_ring(&ring))?;
        let routing = Routing::new(parts, &found.meta);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (following, stopped) = (Arc::clone(&routing).keep_following(found), stop.clone());
        tasks.spawn(async move { stopped.run_until_cancelled(following).await });
        tasks.close();
        let client =
            Self { inner: Arc::new(Inner { ring, routing, _stop_on_drop: stop.clone().drop_guard(), stop, tasks }) };
        match tokio::time::timeout(FIRST_READ_TIMEOUT, client.inner.routing.until_seen()).await {
            Ok(()) => Ok(client),
            Err(_) => {
                let reason = format!("its owners were not read within {FIRST_READ_TIMEOUT:?}");
                Err(ClientError::Store { ring: client.inner.ring.clone(), reason })
            }
        }
    }

    /// The ring's name.
    pub fn ring(&self) -> &RingName {
        &self.inner.ring
    }

    /// How many partitions the ring has.
    pub fn partitions(&self) -> PartitionCount {
        self.inner.routing.partitions()
    }

    /// The partition of a key.
    pub fn partition_for(&self, key: impl AsRef<[u8]>) -> PartitionId {
        self.inner.routing.router().partition(key.as_ref())
    }

    /// The owner of a key's partition, as far as is known here; `None` while there is none.
    pub fn node_for(&self, key: impl AsRef<[u8]>) -> Option<NodeId> {
        let router = self.inner.routing.router();
        router.table().route(router.partition(key.as_ref())).map(|route| route.owner)
    }

    /// The partition's owner and epoch.
    pub fn route(&self, partition: PartitionId) -> Option<Route> {
        self.inner.routing.router().table().route(partition)
    }

    /// Calls the key's owner, in the service's native form. See [`RoutedCall`] for how long it waits.
    ///
    /// ```no_run
    /// # async fn example(client: nats_ring::client::RingClient) -> Result<(), nats_ring::rpc::CallError> {
    /// let count = client.call("user:1", "add", "1").await?;
    /// let seen = client.call("user:1", "get", "").read().await?;
    /// # Ok(()) }
    /// ```
    pub fn call<'a>(&'a self, key: impl AsRef<[u8]>, operation: &'a str, payload: impl Into<Bytes>) -> RoutedCall<'a> {
        RoutedCall::new(self, key.as_ref(), operation, payload.into())
    }

    /// How often this client has sent a request again because no answer came.
    pub fn resends(&self) -> u64 {
        self.inner.routing.router().resends()
    }

    /// Ends its task and waits for that. Calls made later are refused, those under way end as they would have.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.inner.tasks.wait()).await;
    }
}

#[async_trait]
impl Caller for RingClient {
    async fn call(&self, key: Bytes, operation: &str, payload: Bytes, timeout: Duration) -> Result<Reply, CallError> {
        self.call_with(key, operation, payload, How { timeout, resend: Resend::Never }).await
    }

    async fn call_with(&self, key: Bytes, operation: &str, payload: Bytes, how: How) -> Result<Reply, CallError> {
        let router = self.inner.routing.router();
        if self.inner.stop.is_cancelled() {
            let (partition, reason) = (router.partition(&key), "this client was closed".to_owned());
            return Err(CallError::Unavailable { partition, waited: Duration::ZERO, reason });
        }
        router.call_with(key, operation, payload, how).await
    }
}
