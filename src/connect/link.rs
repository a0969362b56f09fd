//! Whether the connection is up, as a value to watch: fed by the client's events and, because those can be dropped,
//! by its polled state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::told::Told;

/// How often the state is polled, in case an event was dropped.
const POLL_EVERY: Duration = Duration::from_millis(250);

/// How often a connection that stays away is reported.
const AWAY_REPORT_EVERY: Duration = Duration::from_secs(10);

/// Follows one connection until it is dropped.
pub(super) struct Link {
    connected: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Link {
    /// Follows `client`, looking at it whenever it told something and every [`POLL_EVERY`].
    pub(super) fn follow(client: Client, told: Arc<Told>) -> Self {
        let (tx, connected) = watch::channel(is_connected(&client));
        let task = AbortOnDropHandle::new(tokio::spawn(run(client, told, tx)));
        Self { connected, _task: task }
    }

    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

pub(super) fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

async fn run(client: Client, told: Arc<Told>, tx: watch::Sender<bool>) {
    let statistics = client.statistics();
    let mut connects = statistics.connects.load(Ordering::Relaxed);
    let mut poll = tokio::time::interval(POLL_EVERY);
    let mut log = Log { told: Arc::clone(&told), away: None };
    loop {
        tokio::select! {
            () = told.changed() => {}
            _ = poll.tick() => {}
        }
        let (now, count) = (is_connected(&client), statistics.connects.load(Ordering::Relaxed));
        // A loss and a reconnect between two looks still has to wake whoever compares the store afterwards.
        let changed = now != *tx.borrow() || count != connects;
        log.look(now, changed);
        if changed {
            connects = count;
            tx.send_replace(now);
        }
    }
}

/// Says that the connection is lost and that it is back, and in between, now and then, why it is not. The client itself
/// complains of each attempt.
struct Log {
    told: Arc<Told>,
    /// Since when, and when that was said last.
    away: Option<(Instant, Instant)>,
}

impl Log {
    fn look(&mut self, connected: bool, changed: bool) {
        let connection = self.told.connection();
        match (connected, self.away) {
            (false, None) => {
                tracing::warn!(connection, "connection to NATS lost; trying to get it back");
                self.away = Some((Instant::now(), Instant::now()));
            }
            (false, Some((since, said))) if said.elapsed() >= AWAY_REPORT_EVERY => {
                let reason = self.told.last_reason().unwrap_or_default();
                tracing::warn!(connection, away = ?since.elapsed(), reason, "no connection to NATS");
                self.away = Some((since, Instant::now()));
            }
            (true, Some((since, _))) => {
                tracing::info!(connection, away = ?since.elapsed(), "connection to NATS is back");
                self.away = None;
                self.told.forget_reason();
            }
            (true, None) if changed => tracing::info!(connection, "connection to NATS was lost, and is back"),
            _ => {}
        }
    }
}
