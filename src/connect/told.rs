//! What the client tells of its connection between calls: losses, returns, refusals, messages dropped unread.
//!
//! In: its events. Out: figures, a notice that something changed, the last reason given; and a log line for what the
//! server refuses, such as a subject that this user may not use, which would otherwise show as silence.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{ConnectOptions, Event};
use tokio::sync::Notify;

use crate::types::{BootClock, Clock, Throttle};

/// The server repeats itself with every message that it refuses.
const REFUSAL_EVERY: Duration = Duration::from_secs(5);

/// What one connection's client has told so far.
pub(super) struct Told {
    connection: String,
    slow: AtomicU64,
    changed: Notify,
    reason: Mutex<Option<String>>,
    refusals: Throttle,
}

impl Told {
    pub(super) fn new(connection: &str) -> Arc<Self> {
        Arc::new(Self {
            connection: connection.to_owned(),
            slow: AtomicU64::new(0),
            changed: Notify::new(),
            reason: Mutex::default(),
            refusals: Throttle::new(REFUSAL_EVERY),
        })
    }

    /// The options of a client that tells it here.
    pub(super) fn by(self: &Arc<Self>, options: ConnectOptions) -> ConnectOptions {
        let told = Arc::clone(self);
        options.event_callback(move |event| {
            told.take(event);
            std::future::ready(())
        })
    }

    fn take(&self, event: Event) {
        match event {
            Event::SlowConsumer(_) => {
                self.slow.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Event::ServerError(error) => {
                if let Some(held_back) = self.refusals.pass(BootClock.now()) {
                    tracing::warn!(connection = self.connection, %error, held_back, "NATS refuses");
                }
                self.set_reason(error.to_string());
            }
            Event::ClientError(error) => self.set_reason(error.to_string()),
            Event::LameDuckMode => tracing::info!(connection = self.connection, "this NATS server is about to stop"),
            _ => {}
        }
        self.changed.notify_one();
    }

    fn set_reason(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// Name of the connection, as server monitoring shows it.
    pub(super) fn connection(&self) -> &str {
        &self.connection
    }

    /// How often messages of a subscription were dropped unread.
    pub(super) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }

    /// Waits until something was told that may be about the link.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What the server or the client complained of last, if anything.
    pub(super) fn last_reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the reason: it has been dealt with.
    pub(super) fn forget_reason(&self) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
