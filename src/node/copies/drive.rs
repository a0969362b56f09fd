//! Drives the copies of one partition that this node owns: sends what is due, hands back what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::led::{Came, Led, Outcome, Turn};
use super::pace::Pace;
use super::wire::{open_told, seal_ask};
use crate::replica::{Ask, CHUNK_WINDOW, Due, Failure, Report, Send, Told};
use crate::ring::Input;
use crate::rpc::subject::{self, Intent};
use crate::rpc::{Bus, RequestError};
use crate::service::Service;
use crate::types::{Clock, NodeId, PartitionId, RingName, Time, Version};

/// How often a part of a copy is sent before the copy counts as failed.
const TRIES: u32 = 4;
/// The most that goes around a chunk in its message.
const AROUND_CHUNK_BYTES: usize = 1024;

/// What every driving task works with.
pub(super) struct Tools {
    pub(super) ring: RingName,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) service: Arc<dyn Service>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) inputs: mpsc::Sender<Input>,
    /// How long a message may be unanswered.
    pub(super) answer_timeout: Duration,
    /// How long a part of a copy may be, which waits for those before it: sent again too early it makes a slow node slower.
    pub(super) part_timeout: Duration,
    /// So many copies are made at once.
    pub(super) copying: Semaphore,
    pub(super) pace: Pace,
    /// Bytes of copies that others have acknowledged.
    pub(super) copied_bytes: AtomicU64,
}

impl Tools {
    /// Asks a copy of the partition at another node.
    pub(super) async fn ask(&self, partition: PartitionId, to: &NodeId, ask: &Ask) -> Result<Told, Failure> {
        self.ask_within(partition, to, ask, self.answer_timeout).await
    }

    async fn ask_within(
        &self,
        partition: PartitionId,
        to: &NodeId,
        ask: &Ask,
        timeout: Duration,
    ) -> Result<Told, Failure> {
        let Ok(message) = seal_ask(partition, ask, self.clock.now()) else { return Err(Failure::Timeout) };
        let subject = format!("{}.{}", subject::node(&self.ring, to), Intent::Copy.token());
        match self.bus.request(&subject, Vec::new(), message, timeout).await {
            Ok(answer) => open_told(&answer.payload, self.clock.now()).map_err(|error| {
                Failure::Told(Told::Refused(format!("the answer of {} cannot be read: {error}", to.node)))
            }),
            Err(RequestError::NoResponders(_)) => Err(Failure::NoResponders),
            Err(RequestError::Timeout(..) | RequestError::NotSent(_)) => Err(Failure::Timeout),
        }
    }
}

/// Until this node's turn is over.
pub(super) async fn drive(led: Arc<Led>, tools: Arc<Tools>) {
    let (partition, epoch) = (led.partition(), led.epoch());
    let mut under_way = FuturesUnordered::new();
    while let Some(Turn { due, reports, set, wake }) = led.turn(tools.clock.now()) {
        for report in reports {
            let input = match (report, set) {
                (Report::CaughtUp(node), Some(op)) => Input::CaughtUp { partition, epoch, node, op },
                (Report::Silent(node), Some(_)) => Input::Silent { partition, epoch, node },
                (Report::Heard(node), Some(_)) => Input::Heard { partition, epoch, node },
                // A takeover is looked after by itself; the claim that replaced this one is on its way here.
                (_, None) | (Report::Stale(_), _) => continue,
            };
            if tools.inputs.send(input).await.is_err() {
                return;
            }
        }
        under_way.extend(due.into_iter().map(|due| carry_out(Arc::clone(&led), Arc::clone(&tools), due)));
        let longest = tools.clock.longest_sleep();
        let sleep = wake.map_or(longest, |at| at.since(tools.clock.now())).min(longest);
        tokio::select! {
            biased;
            () = led.ended.cancelled() => break,
            Some(outcome) = under_way.next() => led.came(tools.clock.now(), outcome),
            () = led.woken.notified() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
    if let Some(why) = led.broken() {
        let _ = tools.inputs.send(Input::GiveUp(why.to_owned())).await;
    }
}

async fn carry_out(led: Arc<Led>, tools: Arc<Tools>, Due { to, number, send }: Due) -> Outcome {
    let came = match send {
        Send::Append(ask) => Came::Answer(tools.ask(led.partition(), &to, &ask).await),
        Send::Copy => Came::Copied(copy(&led, &tools, &to, number).await),
    };
    Outcome { to, number, came }
}

/// A copy that is made for a node.
struct Making<'a> {
    led: &'a Led,
    tools: &'a Tools,
    to: &'a NodeId,
    stream: u64,
}

impl Making<'_> {
    /// The owner's tail; fails where the copy is not wanted any more.
    fn tail(&self) -> Result<Version, Failure> {
        self.led.copy_tail(self.to, self.stream).ok_or(Failure::Timeout)
    }

    /// Sends a part until it is answered. `ask` is made anew each time: how old it is has changed.
    async fn send(&self, ask: impl Fn() -> Ask) -> Result<Told, Failure> {
        for _ in 0..TRIES {
            self.tail()?;
            let tools = self.tools;
            match tools.ask_within(self.led.partition(), self.to, &ask(), tools.part_timeout).await {
                // The same again: the receiver takes each part once.
                Err(Failure::Timeout) => {}
                answer => return answer,
            }
        }
        Err(Failure::Timeout)
    }

    async fn send_chunk(&self, number: u32, made: Time, body: Bytes) -> Result<(), Failure> {
        let (epoch, stream, clock) = (self.led.epoch(), self.stream, &self.tools.clock);
        let ask = || Ask::chunk(epoch, stream, number, clock.now().since(made), body.clone());
        expect(self.send(ask).await?)?;
        self.led.copied_bytes(self.to, clock.now(), body.len());
        self.tools.copied_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Streams what there is to a node that has no copy to go on from.
async fn copy(led: &Led, tools: &Tools, to: &NodeId, stream: u64) -> Result<(), Failure> {
    let (epoch, making) = (led.epoch(), Making { led, tools, to, stream });
    let Ok(_permit) = tools.copying.acquire().await else { return Err(Failure::Timeout) };
    let since = led.copy_begins(to, stream).ok_or(Failure::Timeout)?;
    expect(making.send(|| Ask::CopyBegin { epoch, stream, since }).await?)?;
    let max_bytes = tools.bus.max_payload().saturating_sub(AROUND_CHUNK_BYTES);
    led.copying_begins(to, tools.clock.now());
    let chunks = tools.service.snapshot(&led.grant, max_bytes).await.map_err(failed)?;
    let numbered = chunks.map_err(failed).boxed().zip(futures::stream::iter(0_u32..));
    let paced = numbered.then(|(chunk, number)| async move {
        let body = chunk?;
        let made = tools.clock.now();
        tools.pace.take(body.len()).await;
        Ok::<_, Failure>((number, made, body))
    });
    let making = &making;
    let answered = paced.boxed().map_ok(|(number, made, body)| making.send_chunk(number, made, body));
    let window = CHUNK_WINDOW as usize;
    let chunks = answered.try_buffered(window).try_fold(0_u32, |count, ()| async move { Ok(count + 1) }).await?;
    let until = making.tail()?;
    match making.send(|| Ask::CopyEnd { epoch, stream, chunks, until }).await? {
        Told::At(_) => Ok(()),
        told => Err(Failure::Told(told)),
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
