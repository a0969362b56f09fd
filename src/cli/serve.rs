//! A node's life as a process: started, serving, asked to end, drained, gone.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::exit::{Code, Failure};
use super::signals::Signals;
use super::start::{self, Started};
use crate::cache::CacheClient;
use crate::config::Config;
use crate::http::front::{Answers, Front, count_events};
use crate::http::{self, AppState, ConnectionLimits, RequestLimits, ServeEnd};
use crate::node::Ring;

/// How long requests under way may take to end once the node has left.
const HTTP_STOP_LIMIT: Duration = Duration::from_secs(5);

/// Runs a node until it is asked to end, or ends by itself.
pub(super) async fn serve(config: Config) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let listener = start::bind(config.http).await?;
    let address = listener.local_addr().map_err(|error| Failure::internal("the HTTP address is not known", error))?;
    let started = tokio::select! {
        started = start::start(&config, address) => started?,
        signal = signals.next() => {
            tracing::info!(signal, "ended before it had joined");
            return Ok(());
        }
    };
    live(started, listener, address, signals).await
}

/// HTTP goes on while the node drains: requests are forwarded until it has left.
async fn live(node: Started, listener: TcpListener, address: SocketAddr, mut signals: Signals) -> Result<(), Failure> {
    let stop_http = CancellationToken::new();
    let mut http = tokio::spawn(serve_http(listener, &node, stop_http.clone().cancelled_owned()));
    tracing::info!(%address, node = %node.ring.status().node, "http listening");
    tokio::spawn(count_events(&node.ring, Arc::clone(&node.metrics)));
    let sweeper = tokio::spawn(Arc::clone(&node.cache).keep_sweeping());
    let ended = tokio::select! {
        ended = until_ended(&node.ring, &mut signals) => ended,
        stopped = &mut http => {
            sweeper.abort();
            let left = node.ring.shutdown().await;
            return Err(http_stopped(stopped, left.is_ok()));
        }
    };
    stop_http.cancel();
    tokio::select! {
        finished = tokio::time::timeout(HTTP_STOP_LIMIT, &mut http) => {
            if finished.is_err() {
                tracing::warn!(limit = ?HTTP_STOP_LIMIT, "requests over HTTP were still under way");
            }
        }
        _ = signals.next() => {}
    }
    sweeper.abort();
    ended
}

/// Waits until the node has left, by a signal or by itself.
async fn until_ended(ring: &Ring, signals: &mut Signals) -> Result<(), Failure> {
    tokio::select! {
        ended = ring.wait() => return Ok(ended?),
        signal = signals.next() => tracing::info!(signal, "draining; a second signal ends it at once"),
    }
    ring.drain();
    tokio::select! {
        ended = ring.wait() => {
            ended?;
            tracing::info!("drained and left");
            Ok(())
        }
        signal = signals.next() => {
            let message = format!("ended by a second {signal} before it had drained: the others take its partitions over");
            Err(Failure::new(Code::Interrupted, message))
        }
    }
}

fn http_stopped(stopped: Result<ServeEnd, JoinError>, left: bool) -> Failure {
    let reason = stopped.map_or_else(|error| error.to_string(), |_| "it ended".to_owned());
    let node = if left { "the node has left" } else { "the node did not leave cleanly" };
    Failure::internal("HTTP stopped by itself", format!("{reason}; {node}"))
}

fn serve_http(
    listener: TcpListener,
    node: &Started,
    stop: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ServeEnd> + Send + 'static {
    let client = CacheClient::new(Arc::new(node.ring.clone()), node.cache.limits());
    let (cache, metrics) = (Arc::clone(&node.cache), Arc::clone(&node.metrics));
    node.ring.answer_queries(Arc::new(Answers { cache: Arc::clone(&cache), metrics: Arc::clone(&metrics) }));
    let front = Front { ring: node.ring.clone(), cache, metrics };
    let app = http::app(AppState::new(client, Arc::new(front), RequestLimits::default()));
    let limits = ConnectionLimits { drain_timeout: HTTP_STOP_LIMIT, ..ConnectionLimits::default() };
    http::serve(listener, app, limits, stop)
}
