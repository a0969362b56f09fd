//! A watch that outlives its consumers.
//!
//! In: feeds, one after the other. Out: the items of [`WatchItem`]. A new feed is opened after every reconnect, after
//! anything missed, and periodically; the old one goes on meanwhile, so that a relist is no blind spot. What the new
//! one finds is compared with what was seen: a revision that went back, or a stream created anew, ends the watch.

use std::collections::HashMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::{Entry, Position, Revision, StoreError, WatchItem, WatchStream};
use super::feed::{Delivery, Event, Feed, OpenError, Opened, Source};

/// Items that may wait for the reader; beyond, the feed waits.
const ITEMS_MAX: usize = 256;
/// How long opening a feed may take, its initial state included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause after a feed could not be opened; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often in a row a store has to look as if it had gone back: a server that has just taken over, or lags behind,
/// may look so for a moment.
const SUSPICIONS_MAX: u32 = 4;
/// Pause before looking again at a store that seems to have gone back.
const SUSPICION_PAUSE: Duration = Duration::from_millis(400);

/// How a watch is timed.
#[derive(Debug, Clone, Copy)]
pub struct WatchTuning {
    /// How often the server says that there is nothing to say. After three are missed the consumer is replaced.
    pub idle_heartbeat: Duration,
    /// How often everything is listed anew, with up to a quarter of jitter.
    pub relist_every: Duration,
}

impl Default for WatchTuning {
    fn default() -> Self {
        Self { idle_heartbeat: Duration::from_millis(500), relist_every: Duration::from_secs(30) }
    }
}

type Opening = BoxFuture<'static, Result<Opened, OpenError>>;

struct Watch {
    source: Source,
    tuning: WatchTuning,
    items: mpsc::Sender<WatchItem>,
    created: String,
    /// Last write seen of each key, with its time.
    seen: HashMap<String, (Revision, i128)>,
    /// Highest revision seen, here or elsewhere, and what it was when the opening under way began.
    position: Position,
    opening_from: Revision,
    /// What the old feed brought while a new one is opened.
    since: HashMap<String, Entry>,
    failures: u32,
    suspicions: u32,
}

/// The reader is gone, or the store was reset: nothing more to do.
struct Ended;

/// Opens the first feed, then goes on in a task that ends with the stream.
pub(super) async fn start(source: Source, tuning: WatchTuning, position: Position) -> Result<WatchStream, StoreError> {
    let opening_from = position.get();
    let opened = tokio::time::timeout(OPEN_TIMEOUT, source.open()).await;
    let opened = opened.unwrap_or_else(|_| Err(OpenError::Passing(format!("no answer within {OPEN_TIMEOUT:?}"))));
    let opened = opened.map_err(|error| StoreError(format!("watch of '{}': {}", source.stream, text(&error))))?;
    let (items, reader) = mpsc::channel(ITEMS_MAX);
    let watch = Watch {
        source,
        tuning,
        items,
        created: opened.created.clone(),
        seen: HashMap::new(),
        position,
        opening_from,
        since: HashMap::new(),
        failures: 0,
        suspicions: 0,
    };
    // Dropping the stream drops the reader, which the task waits for.
    tokio::spawn(watch.run(opened));
    Ok(Box::pin(futures::stream::unfold(
        reader,
        |mut reader| async move { reader.recv().await.map(|item| (item, reader)) },
    )))
}

fn text(error: &OpenError) -> String {
    match error {
        OpenError::Gone => "the bucket does not exist".to_owned(),
        OpenError::Passing(reason) => reason.clone(),
    }
}

impl Watch {
    async fn run(mut self, first: Opened) {
        let mut connected = self.source.connection.connected();
        connected.mark_unchanged();
        let mut feed = None;
        let mut opening: Option<Opening> = Some(futures::future::ready(Ok(first)).boxed());
        let mut relist_at = self.next_relist();
        loop {
            tokio::select! {
                () = self.items.closed() => return,
                event = next(&mut feed) => match event {
                    Ok(Event::Heartbeat) => {}
                    Ok(Event::Delivery(delivery)) => if self.forward(delivery).await.is_err() { return },
                    Err(reason) => {
                        feed = None;
                        if self.send(WatchItem::Gap(reason)).await.is_err() { return }
                        opening = Some(self.open(Duration::ZERO));
                    }
                },
                opened = finished(&mut opening) => {
                    opening = None;
                    relist_at = self.next_relist();
                    match self.settle(opened).await {
                        Err(Ended) => return,
                        Ok(Settled::Adopted(new)) => feed = Some(*new),
                        Ok(Settled::Again(pause)) => opening = Some(self.open(pause)),
                    }
                }
                changed = connected.changed() => {
                    if changed.is_err() { return }
                    if *connected.borrow_and_update() {
                        opening = Some(self.open(Duration::ZERO));
                    }
                }
                () = tokio::time::sleep_until(relist_at), if opening.is_none() => {
                    opening = Some(self.open(Duration::ZERO));
                }
            }
        }
    }

    fn next_relist(&self) -> Instant {
        // Jittered, so that the nodes of a ring do not list in step.
        Instant::now() + self.tuning.relist_every.mul_f64(rand::random_range(1.0..=1.25))
    }

    fn open(&mut self, pause: Duration) -> Opening {
        self.since.clear();
        self.opening_from = self.position.get();
        let source = self.source.clone();
        async move {
            tokio::time::sleep(pause).await;
            let opened = tokio::time::timeout(OPEN_TIMEOUT, source.open()).await;
            opened.unwrap_or_else(|_| Err(OpenError::Passing(format!("no answer within {OPEN_TIMEOUT:?}"))))
        }
        .boxed()
    }

    /// Takes the new feed over, or says when to try again.
    async fn settle(&mut self, opened: Result<Opened, OpenError>) -> Result<Settled, Ended> {
        let reset = match opened {
            Ok(opened) => match self.reset_found_by(&opened) {
                None => {
                    (self.failures, self.suspicions) = (0, 0);
                    return self.adopt(opened).await.map(|feed| Settled::Adopted(Box::new(feed)));
                }
                Some(reason) => reason,
            },
            Err(OpenError::Gone) => "the bucket does not exist any more".to_owned(),
            Err(OpenError::Passing(reason)) => {
                tracing::debug!(reason, stream = self.source.stream, "watch not opened yet");
                self.failures += 1;
                let pause = RETRY_MIN * 2_u32.pow(self.failures.min(6));
                return Ok(Settled::Again(pause.min(RETRY_MAX)));
            }
        };
        self.suspicions += 1;
        if self.suspicions < SUSPICIONS_MAX {
            return Ok(Settled::Again(SUSPICION_PAUSE));
        }
        self.send(WatchItem::Reset(reset)).await?;
        Err(Ended)
    }

    /// Why the store cannot be the one watched so far.
    fn reset_found_by(&mut self, opened: &Opened) -> Option<String> {
        if opened.created != self.created {
            // No server takes one stream for another: that is certain at once.
            self.suspicions = SUSPICIONS_MAX;
            return Some(format!("created {}, before {}", opened.created, self.created));
        }
        if opened.head < self.opening_from {
            return Some(format!("its last revision is {}, {} was seen", opened.head.0, self.opening_from.0));
        }
        opened.state.iter().find_map(|found| {
            let (revision, nanos) = *self.seen.get(&found.entry.key)?;
            let (key, now) = (&found.entry.key, found.entry.revision);
            let back = now < revision && revision <= opened.head;
            let other = now == revision && found.published_nanos != nanos;
            (back || other).then(|| format!("key '{key}' is at revision {}, {} was seen", now.0, revision.0))
        })
    }

    /// Yields the feed's state as one unit, with what the old feed brought beyond it.
    async fn adopt(&mut self, opened: Opened) -> Result<Feed, Ended> {
        let mut entries: HashMap<String, Entry> = HashMap::new();
        for found in opened.state {
            self.note(&found);
            entries.insert(found.entry.key.clone(), found.entry);
        }
        for (key, newer) in self.since.drain() {
            // What the old feed brought and the new one does not have: written later, or by a server that is ahead.
            let ahead = match entries.get(&key) {
                Some(found) => found.revision < newer.revision,
                None => newer.revision > opened.head,
            };
            if ahead {
                entries.insert(key, newer);
            }
        }
        let mut entries: Vec<_> = entries.into_values().filter(|entry| entry.value.is_some()).collect();
        entries.sort_by_key(|entry| entry.revision);
        self.position.saw(opened.head);
        self.send(WatchItem::Snapshot(entries)).await?;
        Ok(opened.feed)
    }

    /// Yields a change, unless it or a later one of its key was yielded before.
    async fn forward(&mut self, delivery: Delivery) -> Result<(), Ended> {
        let seen = self.seen.get(&delivery.entry.key);
        if seen.is_some_and(|(revision, _)| *revision >= delivery.entry.revision) {
            return Ok(());
        }
        self.note(&delivery);
        self.since.insert(delivery.entry.key.clone(), delivery.entry.clone());
        self.send(WatchItem::Change(delivery.entry)).await
    }

    fn note(&mut self, delivery: &Delivery) {
        let (key, revision) = (&delivery.entry.key, delivery.entry.revision);
        self.position.saw(revision);
        let known = self.seen.entry(key.clone()).or_insert((revision, delivery.published_nanos));
        if known.0 < revision {
            *known = (revision, delivery.published_nanos);
        }
    }

    async fn send(&self, item: WatchItem) -> Result<(), Ended> {
        self.items.send(item).await.map_err(|_| Ended)
    }
}

enum Settled {
    Adopted(Box<Feed>),
    Again(Duration),
}

/// The feed's next event; never, while there is no feed.
async fn next(feed: &mut Option<Feed>) -> Result<Event, String> {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}

/// The outcome of the opening under way; never, while there is none.
async fn finished(opening: &mut Option<Opening>) -> Result<Opened, OpenError> {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}
