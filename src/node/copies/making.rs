//! A copy made for a node that has none to go on from: the service's snapshot, streamed in a window of acknowledged chunks.
//!
//! It outlives a connection that breaks: a part without an answer is sent again, once something answers there at all, and the
//! snapshot goes on where it was. It fails where it is not wanted any more, is refused, or makes no progress for too long.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::drive::Tools;
use super::led::Led;
use super::progress::Copied;
use super::wire::Heard;
use crate::node::hooks::{caught, caught_now};
use crate::replica::{Ask, CHUNK_WINDOW, Failure, Told};
use crate::ring::Event;
use crate::types::{NodeId, Throttle, Time, Version};

/// The most that goes around a chunk in its message.
const AROUND_CHUNK_BYTES: usize = 1024;
/// A copy of which nothing was acknowledged for so long has failed.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Pauses before it is asked again whether anybody is there.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How often a copy that runs says how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(5);

struct Making<'a> {
    led: &'a Led,
    tools: &'a Tools,
    to: &'a NodeId,
    stream: u64,
    since: Version,
    /// When a part was acknowledged last.
    heard: Mutex<Time>,
    told: Throttle,
}

impl Making<'_> {
    fn now(&self) -> Time {
        self.tools.clock.now()
    }

    /// The owner's tail; fails where the copy is not wanted any more.
    fn tail(&self) -> Result<Version, Failure> {
        self.led.copy_tail(self.to, self.stream).ok_or_else(|| match self.led.outpaced(self.to, self.stream) {
            Some(bytes) => Failure::Told(Told::Refused(format!(
                "more than {bytes} bytes were written to the partition meanwhile: it has to be copied faster (--copy-rate, \
                 --copy-parallel) or written less"
            ))),
            None => Failure::Timeout,
        })
    }

    fn begin(&self) -> Ask {
        Ask::CopyBegin { epoch: self.led.epoch(), stream: self.stream, since: self.since }
    }

    /// The answer, if there is one.
    async fn ask(&self, ask: &Ask) -> Result<Option<Heard>, Failure> {
        self.tail()?;
        let tools = self.tools;
        match tools.ask_within(self.led.partition(), self.to, ask, tools.part_timeout).await {
            Ok(heard) => Ok(Some(heard)),
            Err(Failure::Timeout | Failure::NoResponders) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Sends a part until it is answered: the receiver takes each once. `part` is made anew each time: how old it is has changed.
    async fn send(&self, part: impl Fn() -> Ask) -> Result<Heard, Failure> {
        let begun = self.now();
        loop {
            if let Some(heard) = self.ask(&part()).await? {
                *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = self.now();
                return Ok(heard);
            }
            self.wait_for_anybody(begun).await?;
        }
    }

    /// Asks with what says little, instead of the part itself: the copy begins, which it has long since.
    async fn wait_for_anybody(&self, begun: Time) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            if self.now().since(heard.max(begun)) >= STALLED_AFTER {
                return Err(Failure::Timeout);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
            if let Some(heard) = self.ask(&self.begin()).await? {
                return expect(heard.told);
            }
        }
    }

    async fn send_chunk(&self, number: u32, made: Time, body: Bytes) -> Result<(), Failure> {
        let (epoch, stream) = (self.led.epoch(), self.stream);
        let part = || Ask::chunk(epoch, stream, number, self.now().since(made), body.clone());
        expect(self.send(part).await?.told)?;
        let copied = self.led.copied_bytes(self.to, self.now(), body.len());
        self.tools.copied_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        if let Some(copied) = copied.filter(|copied| copied.took() >= TOLD_EVERY)
            && self.told.pass(self.now()).is_some()
        {
            self.tell_progress(copied);
        }
        Ok(())
    }

    fn tell_progress(&self, copied: Copied) {
        let (partition, to, bytes) = (self.led.partition(), &self.to.node, copied.bytes);
        let (of, rate, left) = (copied.total_bytes(), copied.bytes_per_second(), copied.remaining());
        tracing::info!(%partition, %to, bytes, ?of, bytes_per_second = ?rate, ?left, "copying");
    }

    /// Every chunk of the snapshot, in the window; how many there were.
    async fn send_all(&self) -> Result<u32, Failure> {
        let tools = self.tools;
        let max_bytes = tools.bus.max_payload().saturating_sub(AROUND_CHUNK_BYTES);
        let chunks = tools.service.snapshot(&self.led.grant, max_bytes).await.map_err(failed)?;
        let numbered = chunks.map_err(failed).boxed().zip(futures::stream::iter(0_u32..));
        let paced = numbered.then(|(chunk, number)| async move {
            let body = chunk?;
            let made = tools.clock.now();
            tools.pace.take(body.len()).await;
            Ok::<_, Failure>((number, made, body))
        });
        let answered = paced.boxed().map_ok(|(number, made, body)| self.send_chunk(number, made, body));
        let window = CHUNK_WINDOW as usize;
        answered.try_buffered(window).try_fold(0_u32, |count, ()| async move { Ok(count + 1) }).await
    }

    async fn run(&self) -> Result<(), Failure> {
        expect(self.send(|| self.begin()).await?.told)?;
        let chunks = self.send_all().await?;
        let (epoch, stream, until) = (self.led.epoch(), self.stream, self.tail()?);
        match self.send(|| Ask::CopyEnd { epoch, stream, chunks, until }).await? {
            Heard { told: Told::At(_), short } => {
                self.led.copied_all(self.to, self.now(), short);
                Ok(())
            }
            Heard { told, .. } => Err(Failure::Told(told)),
        }
    }

    fn tell_end(&self, result: &Result<(), Failure>) {
        let Some(copied) = self.led.copied(self.to) else { return };
        let (partition, to) = (self.led.partition(), self.to.node.clone());
        let (bytes, took) = (copied.bytes, copied.took());
        match result {
            Ok(()) => self.tools.events.emit(Event::CopyDone { partition, to: to.clone(), bytes, took }),
            Err(failure) => {
                let reason = reason(failure);
                self.tools.events.emit(Event::CopyFailed { partition, to: to.clone(), bytes, reason });
            }
        }
        if let Some(short) = copied.short {
            let (wanted_bytes, bound_bytes) = (copied.estimate().unwrap_or(bytes), short.bound_bytes);
            let evicted = short.evicted;
            self.tools.events.emit(Event::CopyShort { partition, to, evicted, wanted_bytes, bound_bytes });
        }
    }
}

/// Streams what there is to a node that has no copy to go on from.
pub(super) async fn copy(led: &Led, tools: &Tools, to: &NodeId, stream: u64) -> Result<(), Failure> {
    let Ok(_permit) = tools.copying.acquire().await else { return Err(Failure::Timeout) };
    let since = led.copy_begins(to, stream).ok_or(Failure::Timeout)?;
    let (now, partition) = (tools.clock.now(), led.partition());
    let of_bytes = caught_now(|| tools.service.held_bytes(partition)).unwrap_or_default();
    led.copying_begins(to, now, of_bytes);
    tools.events.emit(Event::CopyStarted { partition, to: to.node.clone(), of_bytes });
    let making = Making { led, tools, to, stream, since, heard: Mutex::new(now), told: Throttle::new(TOLD_EVERY) };
    // Of a service that panics over its snapshot it has failed, and begins anew like any other.
    let result = caught(making.run()).await.unwrap_or_else(|panic| Err(failed(panic.into())));
    making.tell_end(&result);
    result
}

fn reason(failure: &Failure) -> String {
    match failure {
        Failure::Told(Told::Refused(why)) => why.clone(),
        Failure::Told(Told::Stale { promised }) => format!("a later owner is known there, of epoch {promised}"),
        Failure::Told(_) => "what was sent is not there any more".to_owned(),
        Failure::Timeout | Failure::NoResponders => "it is not wanted any more, or nothing answered".to_owned(),
    }
}

fn expect(told: Told) -> Result<(), Failure> {
    match told {
        Told::Accepted | Told::At(_) => Ok(()),
        told => Err(Failure::Told(told)),
    }
}

fn failed(error: crate::service::BoxError) -> Failure {
    Failure::Told(Told::Refused(format!("its snapshot failed: {error}")))
}
