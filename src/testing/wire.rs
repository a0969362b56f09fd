//! A node's connection to the store in memory: it takes time, loses things, and is seen by an observer.
//!
//! What is on its way is not in the node's hands any more: a write arrives, or not, whatever becomes of its sender
//! meanwhile. How long each takes is chance from the ring's seed, so that seeds differ in which node's write comes first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::clock::SimulatedClock;
use super::link::Link;
use super::observer::{NodeProcess, Observed, Write};
use super::watching;
use super::world::{Fate, World};
use crate::coord::mem::MemStore;
use crate::coord::{CasError, Entry, Position, Revision, Store, StoreError, StoreIdentity, WatchScope, WatchStream};
use crate::rpc::mem::MemBus;
use crate::types::Clock;

/// How long a read, or the beginning of a watch, is waited for where nothing comes: as the real adapter does.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, as both of its ends and whoever tears at it share it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) of: NodeProcess,
    pub(super) heartbeat: bool,
    pub(super) clock: SimulatedClock,
    state: Mutex<LineState>,
    /// Whatever is on its way may have to look again.
    pub(super) changed: Notify,
}

#[derive(Debug, Clone)]
struct LineState {
    link: Link,
    /// How often it was closed: what was on its way then is gone.
    drops: u64,
    /// One way takes so long at the least and at the most.
    delay: (Duration, Duration),
}

impl Line {
    pub(super) fn new(of: NodeProcess, heartbeat: bool, clock: SimulatedClock, delay: (Duration, Duration)) -> Self {
        let state = Mutex::new(LineState { link: Link::Up, drops: 0, delay });
        Self { of, heartbeat, clock, state, changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn link(&self) -> Link {
        self.state().link
    }

    pub(super) fn drops(&self) -> u64 {
        self.state().drops
    }

    pub(super) fn delay(&self) -> (Duration, Duration) {
        self.state().delay
    }

    pub(super) fn set_delay(&self, from: Duration, to: Duration) {
        self.state().delay = (from, to.max(from));
    }

    pub(super) fn set_link(&self, link: Link) {
        let mut state = self.state();
        if link == Link::Down && state.link != Link::Down {
            state.drops += 1;
        }
        state.link = link;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until `carries`; `false` where the connection was closed meanwhile, or before.
    async fn until(&self, drops: u64, carries: impl Fn(Link) -> bool) -> bool {
        loop {
            let changed = self.changed.notified();
            let state = self.state().clone();
            if state.drops != drops {
                return false;
            }
            if carries(state.link) {
                return true;
            }
            changed.await;
        }
    }
}

/// [`Store`] of a node, over a [`Line`].
#[derive(Debug, Clone)]
pub(super) struct Wired {
    pub(super) world: Arc<World>,
    pub(super) line: Arc<Line>,
    /// This connection, for watches: its reads end where it is closed.
    pub(super) store: MemStore,
    /// What else goes over this connection.
    pub(super) bus: Option<MemBus>,
}

type Outcome = Result<Revision, CasError>;

impl Wired {
    /// A write's way: `None` where its sender will never hear of it.
    async fn trip(self, write: Arc<Write>, fate: Fate, back: Duration) -> Option<Outcome> {
        let drops = self.line.drops();
        // Bytes that were sent into the void come through once it ends, unless the connection was given up.
        if !self.line.until(drops, Link::carries_out).await {
            return None;
        }
        wait(fate.way_out).await;
        if let Some(bus) = &self.bus {
            bus.made_round_trip();
        }
        let outcome = self.world.decide(&write, &fate).await?;
        wait(back).await;
        let arrives = self.line.until(drops, Link::carries_in).await;
        (arrives && !self.world.is_silent()).then_some(outcome)
    }

    async fn outcome(&self, write: &Arc<Write>) -> Option<Outcome> {
        let (fate, back) = self.world.fate(&self.line);
        let trip = self.clone().trip(Arc::clone(write), fate, back);
        if fate.way_out.is_zero() && back.is_zero() && self.line.link() == Link::Up {
            return trip.await;
        }
        let (told, hears) = oneshot::channel();
        self.world.process.spawn(async move {
            if let Some(outcome) = trip.await {
                // Its sender may have given up, or be gone.
                let _ = told.send(outcome);
            }
        });
        hears.await.ok()
    }

    /// Reads are immediate where the store can be reached, and come through once the link carries them; what JetStream
    /// was asked while it answers nothing it never answers.
    async fn reach(&self) -> Result<(), StoreError> {
        let drops = self.line.drops();
        if self.line.link() == Link::Down {
            return Err(StoreError("not connected".to_owned()));
        }
        let answered = async {
            if self.world.is_silent() {
                std::future::pending::<()>().await;
            }
            self.line.until(drops, |link| link == Link::Up).await
        };
        match tokio::time::timeout(READ_TIMEOUT, answered).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError("the connection was lost".to_owned())),
            Err(_) => Err(StoreError(format!("no answer within {READ_TIMEOUT:?}"))),
        }
    }
}

async fn wait(span: Duration) {
    if !span.is_zero() {
        tokio::time::sleep(span).await;
    }
}

#[async_trait]
impl Store for Wired {
    async fn cas(&self, key: &str, expected: Revision, value: Bytes, timeout: Duration) -> Outcome {
        if self.line.link() == Link::Down {
            return Err(CasError::NotSent("not connected".to_owned()));
        }
        let write = Arc::new(self.world.write(&self.line, key, expected, value));
        self.world.saw(&Observed::Sent(&write));
        let heard = async {
            match self.outcome(&write).await {
                Some(outcome) => outcome,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::time::timeout(timeout, heard).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(CasError::Unknown(format!("no acknowledgement within {timeout:?}"))));
        let local = self.line.clock.now();
        self.world.saw(&Observed::Answered { write: &write, outcome: &outcome, local });
        outcome
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.reach().await?;
        self.store.get(key).await
    }

    async fn watch_from(&self, scope: WatchScope, position: Position) -> Result<WatchStream, StoreError> {
        self.reach().await?;
        let changes = self.store.watch_from(scope, position).await?;
        Ok(watching::over(Arc::clone(&self.world), Arc::clone(&self.line), changes))
    }

    async fn identity(&self) -> Result<StoreIdentity, StoreError> {
        self.reach().await?;
        self.store.identity().await
    }
}
