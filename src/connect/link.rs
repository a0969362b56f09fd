//! Whether the connection is up, as a value to watch: fed by the client's events and, because those can be dropped,
//! by its polled state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

/// How often the state is polled, in case an event was dropped.
const POLL_EVERY: Duration = Duration::from_millis(250);

/// Follows one connection until it is dropped.
pub(super) struct Link {
    connected: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Link {
    /// Follows `client`, looking at it whenever `event` is notified and every [`POLL_EVERY`].
    pub(super) fn follow(client: Client, event: Arc<Notify>) -> Self {
        let (tx, connected) = watch::channel(is_connected(&client));
        let task = AbortOnDropHandle::new(tokio::spawn(run(client, event, tx)));
        Self { connected, _task: task }
    }

    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

pub(super) fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

async fn run(client: Client, event: Arc<Notify>, tx: watch::Sender<bool>) {
    let statistics = client.statistics();
    let mut connects = statistics.connects.load(Ordering::Relaxed);
    let mut poll = tokio::time::interval(POLL_EVERY);
    loop {
        tokio::select! {
            () = event.notified() => {}
            _ = poll.tick() => {}
        }
        let (now, count) = (is_connected(&client), statistics.connects.load(Ordering::Relaxed));
        // A loss and a reconnect between two looks still has to wake whoever compares the store afterwards.
        if now != *tx.borrow() || count != connects {
            connects = count;
            tx.send_replace(now);
        }
    }
}
