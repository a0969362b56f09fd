//! A partition's state on its way from the old owner to the new one.
//!
//! The giving side streams chunks in an acknowledged window and counts them; the taking side keeps them until the offer
//! that names their stream and number arrives, or until they are of no use any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::offers::Handed;
use crate::rpc::envelope::{ChunkHead, FarewellHead, OfferHead, Verdict, open, seal};
use crate::rpc::subject::Intent;
use crate::rpc::{Bus, RequestError};
use crate::service::{Grant, Service};
use crate::types::{Clock, Epoch, PartitionId, Time};

/// Chunks under way at once.
const WINDOW: usize = 8;
/// How long one chunk may take to be acknowledged, and how often it is sent.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(2);
const CHUNK_TRIES: u32 = 3;
/// How long a peer may take to learn of owners it does not know yet.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);
/// The most a chunk's head takes of a message.
const HEAD_BYTES: usize = 1024;
/// Largest chunk, whatever the server would take: room for the largest entry of the cache, and larger ones are not
/// faster.
const MAX_CHUNK_BYTES: usize = 1024 * 1024;
/// Streams without a new chunk for this long are dropped.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// What was streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Names the stream.
    pub(super) stream: u64,
    /// How many chunks.
    pub(super) chunks: u32,
    /// How many bytes of state.
    pub(super) bytes: u64,
    /// When the last chunk was made.
    pub(super) made: Time,
}

/// Streams the partition's state to the node at `subject`.
pub(super) async fn send(
    bus: &dyn Bus,
    service: &dyn Service,
    grant: &Grant,
    clock: &dyn Clock,
    (subject, stream): (&str, u64),
) -> Result<Sent, String> {
    let max_bytes = bus.max_payload().saturating_sub(HEAD_BYTES).min(MAX_CHUNK_BYTES);
    let chunks = service.snapshot(grant, max_bytes).await.map_err(|error| format!("snapshot failed: {error}"))?;
    let head = ChunkHead { partition: grant.partition, epoch: grant.epoch(), stream, sequence: 0, checksum: 0 };
    let subject = format!("{subject}.{}", Intent::Chunk.token());
    let chunks = chunks.map_err(|error| format!("snapshot failed: {error}")).boxed();
    let numbered = chunks.zip(futures::stream::iter(0u32..));
    let made = AtomicU64::new(clock.now().as_nanos());
    let numbered = numbered.inspect(|_| made.store(clock.now().as_nanos(), Ordering::Relaxed));
    let acknowledged =
        numbered.map(|(chunk, sequence)| acknowledge(bus, &subject, ChunkHead { sequence, ..head }, chunk));
    let sizes: Vec<u64> = acknowledged.buffered(WINDOW).try_collect().await?;
    let count = u32::try_from(sizes.len()).map_err(|_| "too many chunks".to_owned())?;
    Ok(Sent { stream, chunks: count, bytes: sizes.iter().sum(), made: Time::from_nanos(made.load(Ordering::Relaxed)) })
}

/// Sends one chunk; answers its size once the target has it.
async fn acknowledge(
    bus: &dyn Bus,
    subject: &str,
    head: ChunkHead,
    chunk: Result<Bytes, String>,
) -> Result<u64, String> {
    let payload = chunk?;
    let message = seal(&ChunkHead { checksum: xxh3_64(&payload), ..head }, &payload).map_err(|e| e.to_string())?;
    send_chunk(bus, subject, message).await?;
    Ok(payload.len() as u64)
}

async fn send_chunk(bus: &dyn Bus, subject: &str, message: Bytes) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..CHUNK_TRIES {
        match bus.request(subject, Vec::new(), message.clone(), CHUNK_TIMEOUT).await {
            Ok(answer) => return verdict(&answer.payload),
            // Sent again: the receiver keeps one of each sequence number.
            Err(error @ RequestError::Timeout(..)) => last = error.to_string(),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(last)
}

/// Tells the target that the state is whole and that it may claim. No answer is no refusal: the claim will show.
pub(super) async fn offer<T: Serialize>(
    bus: &dyn Bus,
    subject: &str,
    intent: Intent,
    head: &T,
    timeout: Duration,
) -> Result<(), String> {
    let message = seal(head, &[]).map_err(|error| error.to_string())?;
    let subject = format!("{subject}.{}", intent.token());
    match bus.request(&subject, Vec::new(), message, timeout).await {
        Ok(answer) => verdict(&answer.payload),
        // It may have arrived: only the claim, or the deadline of the move, tells.
        Err(RequestError::Timeout(..)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until the peer knows these owners. One that does not answer is gone, or will be told "no responders".
pub(super) async fn farewell(bus: &dyn Bus, subject: String, epochs: &[(PartitionId, Epoch)]) {
    // 4096 partitions with small epochs take 16 KiB: it fits.
    let Ok(message) = seal(&FarewellHead { epochs: epochs.to_vec() }, &[]) else { return };
    let subject = format!("{subject}.{}", Intent::Farewell.token());
    let _ = bus.request(&subject, Vec::new(), message, FAREWELL_TIMEOUT).await;
}

fn verdict(payload: &Bytes) -> Verdict {
    open::<Verdict>(payload).map_err(|error| error.to_string())?.0
}

/// An answer to a chunk or an offer.
pub(super) fn seal_verdict(verdict: &Verdict) -> Bytes {
    // A reason of a few words always fits.
    seal(verdict, &[]).unwrap_or_default()
}

#[derive(Debug)]
struct Stream {
    stream: u64,
    chunks: BTreeMap<u32, Chunk>,
    bytes: usize,
    touched: Time,
}

#[derive(Debug)]
struct Chunk {
    payload: Bytes,
    /// When it was here first.
    arrived: Time,
}

/// What has arrived and is not installed yet, within a bound.
pub(super) struct Staging {
    clock: Arc<dyn Clock>,
    max_bytes: usize,
    streams: Mutex<HashMap<PartitionId, Stream>>,
}

impl Staging {
    /// Nothing has arrived; at most `max_bytes` will be kept.
    pub(super) fn new(clock: Arc<dyn Clock>, max_bytes: usize) -> Self {
        Self { clock, max_bytes, streams: Mutex::new(HashMap::new()) }
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, HashMap<PartitionId, Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a chunk. A new stream of the same partition replaces the one before.
    pub(super) fn take(&self, head: &ChunkHead, payload: Bytes) -> Verdict {
        if xxh3_64(&payload) != head.checksum {
            return Err(format!("chunk {} of partition {} is corrupt", head.sequence, head.partition));
        }
        let now = self.clock.now();
        let mut streams = self.streams();
        streams.retain(|_, stream| now.since(stream.touched) < STALE_AFTER);
        // What a new stream replaces makes room for it.
        if streams.get(&head.partition).is_some_and(|stream| stream.stream != head.stream) {
            streams.remove(&head.partition);
        }
        // Sent twice, it is the same chunk: see its checksum. It is here already, and takes no room.
        if let Some(stream) = streams.get_mut(&head.partition)
            && stream.chunks.contains_key(&head.sequence)
        {
            stream.touched = now;
            return Ok(());
        }
        let held: usize = streams.values().map(|stream| stream.bytes).sum();
        if held + payload.len() > self.max_bytes {
            return Err(format!("{held} bytes are on their way to this node already, the bound is {}", self.max_bytes));
        }
        let fresh = || Stream { stream: head.stream, chunks: BTreeMap::new(), bytes: 0, touched: now };
        let stream = streams.entry(head.partition).or_insert_with(fresh);
        stream.touched = now;
        stream.bytes += payload.len();
        stream.chunks.insert(head.sequence, Chunk { payload, arrived: now });
        Ok(())
    }

    /// Takes out everything the offer speaks of, in order; where something is missing, what and how much.
    ///
    /// The last chunk was made before the offer's age, and before it arrived here itself: whichever of the two messages
    /// was the quicker one tells its age best.
    pub(super) fn take_whole(&self, head: &OfferHead) -> Result<Handed, String> {
        let by_offer = self.clock.now() - Duration::from_millis(u64::from(head.age_ms));
        let mut streams = self.streams();
        let found = streams.get(&head.partition).filter(|stream| stream.stream == head.stream);
        let count = found.map_or(0, |stream| stream.chunks.len());
        if count != head.chunks as usize {
            return Err(format!("{count} of {} chunks of partition {} have arrived", head.chunks, head.partition));
        }
        let chunks = streams.remove(&head.partition).map(|stream| stream.chunks).unwrap_or_default();
        let made = chunks.values().next_back().map_or(by_offer, |last| last.arrived.min(by_offer));
        Ok(Handed { chunks: chunks.into_values().map(|chunk| chunk.payload).collect(), made })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{Epoch, ManualClock};

    fn chunk(stream: u64, sequence: u32, payload: &[u8]) -> ChunkHead {
        let (partition, epoch) = (PartitionId::new(1), Epoch::new(1));
        ChunkHead { partition, epoch, stream, sequence, checksum: xxh3_64(payload) }
    }

    fn offer(stream: u64, chunks: u32) -> OfferHead {
        let incarnation = crate::types::Incarnation { start: 1, id: uuid::Uuid::nil() };
        let from = crate::types::NodeId { node: crate::types::NodeName::new("n").unwrap(), incarnation };
        let revision = crate::coord::Revision(1);
        OfferHead { partition: PartitionId::new(1), epoch: Epoch::new(1), revision, from, stream, chunks, age_ms: 0 }
    }

    fn staging(max_bytes: usize) -> (Staging, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (Staging::new(clock.clone(), max_bytes), clock)
    }

    #[test]
    fn chunks_come_out_in_order_once_whatever_order_and_number_they_came_in() {
        let (staging, _) = staging(100);
        for sequence in [2, 0, 1, 0] {
            let payload = [u8::try_from(sequence).unwrap()];
            staging.take(&chunk(9, sequence, &payload), Bytes::copy_from_slice(&payload)).unwrap();
        }
        assert!(staging.take_whole(&offer(9, 4)).is_err(), "a chunk is missing");
        assert!(staging.take_whole(&offer(8, 3)).is_err(), "another stream");
        let out: Vec<u8> = staging.take_whole(&offer(9, 3)).unwrap().chunks.iter().map(|c| c[0]).collect();
        assert_eq!(out, [0, 1, 2]);
        assert!(staging.take_whole(&offer(9, 3)).is_err(), "taken already");
    }

    #[test]
    fn a_corrupt_chunk_and_one_over_the_bound_are_refused() {
        let (staging, _) = staging(4);
        assert!(staging.take(&chunk(9, 0, b"abc"), Bytes::from_static(b"abd")).unwrap_err().contains("corrupt"));
        staging.take(&chunk(9, 0, b"abc"), Bytes::from_static(b"abc")).unwrap();
        assert!(staging.take(&chunk(9, 1, b"de"), Bytes::from_static(b"de")).unwrap_err().contains("bound"));
        let again = staging.take(&chunk(9, 0, b"abc"), Bytes::from_static(b"abc"));
        assert_eq!(again, Ok(()), "what is here already takes no room");
    }

    #[test]
    fn a_new_stream_replaces_the_old_and_a_silent_one_makes_room() {
        let (staging, clock) = staging(4);
        staging.take(&chunk(1, 0, b"abc"), Bytes::from_static(b"abc")).unwrap();
        clock.advance(STALE_AFTER);
        staging.take(&chunk(2, 0, b"wxyz"), Bytes::from_static(b"wxyz")).unwrap();
        assert_eq!(staging.take_whole(&offer(2, 1)).unwrap().chunks, [Bytes::from_static(b"wxyz")]);
    }

    /// An entry of the cache lives on by what is left out of this.
    #[test]
    fn the_last_chunk_is_as_old_as_the_quicker_of_the_two_messages_says() {
        let millis = Duration::from_millis;
        for (offer_took_ms, age_ms, expected_ms) in [(300, 0, 300), (300, 250, 300), (300, 400, 400)] {
            let (staging, clock) = staging(100);
            clock.advance(millis(1000));
            staging.take(&chunk(9, 0, b"abc"), Bytes::from_static(b"abc")).unwrap();
            clock.advance(millis(offer_took_ms));
            // Sent again, because its acknowledgement was lost.
            staging.take(&chunk(9, 0, b"abc"), Bytes::from_static(b"abc")).unwrap();
            let handed = staging.take_whole(&OfferHead { age_ms, ..offer(9, 1) }).unwrap();
            assert_eq!(clock.now().since(handed.made), millis(expected_ms));
        }
    }
}
