//! Drives the copies of one partition that this node owns: sends what is due, hands back what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Semaphore, mpsc};

use super::absent::Absent;
use super::led::{Came, Led, Outcome, Turn};
use super::making::copy;
use super::pace::Pace;
use super::wire::{Heard, open_told, seal_ask};
use crate::node::events::EventSender;
use crate::replica::{Ask, Due, Failure, Report, Send, Told};
use crate::ring::Input;
use crate::rpc::subject::{self, Intent};
use crate::rpc::{Bus, RequestError};
use crate::service::Service;
use crate::types::{Clock, NodeId, PartitionId, RingName};

/// What every driving task works with.
pub(super) struct Tools {
    pub(super) ring: RingName,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) service: Arc<dyn Service>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) events: EventSender,
    /// How long a message may be unanswered.
    pub(super) answer_timeout: Duration,
    /// How long a part of a copy may be, which waits for those before it: sent again too early it makes a slow node slower.
    pub(super) part_timeout: Duration,
    /// So many copies are made at once.
    pub(super) copying: Semaphore,
    pub(super) pace: Pace,
    /// Bytes of copies that others have acknowledged.
    pub(super) copied_bytes: AtomicU64,
    /// Bytes of writes sent to nodes that missed them.
    pub(super) difference_bytes: AtomicU64,
    /// What is kept for nodes that are away.
    pub(super) absent: Absent,
}

impl Tools {
    /// Asks a copy of the partition at another node.
    pub(super) async fn ask(&self, partition: PartitionId, to: &NodeId, ask: &Ask) -> Result<Told, Failure> {
        self.ask_within(partition, to, ask, self.answer_timeout).await.map(|heard| heard.told)
    }

    pub(super) async fn ask_within(
        &self,
        partition: PartitionId,
        to: &NodeId,
        ask: &Ask,
        timeout: Duration,
    ) -> Result<Heard, Failure> {
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
    while let Some(Turn { due, reports, wake, difference_bytes }) = led.turn(tools.clock.now()) {
        tools.difference_bytes.fetch_add(difference_bytes, Ordering::Relaxed);
        tools.absent.weigh(&led);
        for (report, set) in reports {
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
    tools.absent.end(partition);
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
