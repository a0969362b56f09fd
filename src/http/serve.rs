//! The listener and its connections: bounded in number and in the time a request's head may take; when it ends, every
//! answer under way is still given.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// Pause after a connection could not be accepted, as when file descriptors have run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Why HTTP does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("HTTP address {address} is taken")]
    Taken {
        /// Which address.
        address: SocketAddr,
    },
    /// The system refused it: not an address of this machine, a port that needs privileges.
    #[error("HTTP cannot listen on {address}: {source}")]
    Refused {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// How many may be open at once; further ones wait to be accepted.
    pub connections_max: usize,
    /// How long a request's head may take to arrive, and how long a connection may be idle.
    pub head_timeout: Duration,
    /// How long answers under way may take once the end was asked for.
    pub drain_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections_max: 4096, head_timeout: Duration::from_secs(60), drain_timeout: Duration::from_secs(25) }
    }
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeEnd {
    /// All answers under way were given.
    Drained,
    /// Some connections did not end in time and were cut.
    Cut,
}

/// Listens on the address; port 0 picks a free one.
///
/// # Errors
/// [`BindError`]: the address is taken, or not to be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { address },
        _ => BindError::Refused { address, source },
    })
}

/// Serves until `shutdown` is ready. Then nothing new is accepted, idle connections are closed, and those with a request
/// under way are closed after its answer.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()>,
) -> ServeEnd {
    let graceful = GracefulShutdown::new();
    let free = Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, place) = tokio::select! {
            () = &mut shutdown => break,
            next = next_connection(&listener, &free) => next,
        };
        spawn_connection(stream, place, app.clone(), limits, &graceful);
    }
    drop(listener);
    match timeout(limits.drain_timeout, graceful.shutdown()).await {
        Ok(()) => ServeEnd::Drained,
        Err(_) => ServeEnd::Cut,
    }
}

/// A connection, once there is a place for it.
async fn next_connection(listener: &TcpListener, free: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let place = free.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "http connection not accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn spawn_connection(
    stream: TcpStream,
    place: Option<OwnedSemaphorePermit>,
    app: Router,
    limits: ConnectionLimits,
    graceful: &GracefulShutdown,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "http connection without TCP_NODELAY");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "http connection ended");
        }
        drop(place);
    });
}
