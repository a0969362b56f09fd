//! What copies say to each other, as messages: an envelope whose head names the partition; the payload is postcard.
//!
//! No clock is compared with another: a write travels with its age, and is made so long ago on the receiver's clock.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::progress::Shortage;
use crate::coord::Revision;
use crate::replica::{Ask, Change, Told};
use crate::rpc::envelope::{EnvelopeError, open, seal};
use crate::types::{Epoch, NodeId, PartitionId, Time, Version};

/// Head of everything that copies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::node) struct CopyHead {
    /// Which.
    pub(in crate::node) partition: PartitionId,
}

/// An offer to a member of the set: it has everything already, once it stands at the tail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::node) struct SwitchHead {
    /// Which.
    pub(in crate::node) partition: PartitionId,
    /// The giving owner's epoch.
    pub(in crate::node) epoch: Epoch,
    /// Revision of its claim.
    pub(in crate::node) revision: Revision,
    /// Who offers.
    pub(in crate::node) from: NodeId,
    /// The owner's last write.
    pub(in crate::node) tail: Version,
    /// The in-sync set.
    pub(in crate::node) replicas: Vec<NodeId>,
}

/// An answer, as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Heard {
    pub(in crate::node) told: Told,
    /// At the end of a copy: entries had to make room for it.
    pub(in crate::node) short: Option<Shortage>,
}

impl From<Told> for Heard {
    fn from(told: Told) -> Self {
        Self { told, short: None }
    }
}

#[derive(Serialize, Deserialize)]
struct Body<T> {
    what: T,
    /// Of the changes in it, in their order.
    ages_ms: Vec<u32>,
}

pub(super) fn seal_ask(partition: PartitionId, ask: &Ask, now: Time) -> Result<Bytes, EnvelopeError> {
    let changes = if let Ask::Append { changes, .. } = ask { &changes[..] } else { &[] };
    seal_body(partition, ask, changes, now)
}

pub(in crate::node) fn seal_told(partition: PartitionId, heard: &Heard, now: Time) -> Result<Bytes, EnvelopeError> {
    let changes = if let Told::Fetched(changes) = &heard.told { &changes[..] } else { &[] };
    let mut body = encode_body(&heard.told, changes, now)?;
    if let Some(short) = &heard.short {
        // Behind all that was there from the first release on: who does not know it passes over it.
        body = postcard::to_extend(short, body).map_err(malformed)?;
    }
    seal(&CopyHead { partition }, &body)
}

fn seal_body<T: Serialize>(
    partition: PartitionId,
    what: &T,
    changes: &[Change],
    now: Time,
) -> Result<Bytes, EnvelopeError> {
    seal(&CopyHead { partition }, &encode_body(what, changes, now)?)
}

fn encode_body<T: Serialize>(what: &T, changes: &[Change], now: Time) -> Result<Vec<u8>, EnvelopeError> {
    let age = |change: &Change| u32::try_from(now.since(change.made).as_millis()).unwrap_or(u32::MAX);
    let body = Body { what, ages_ms: changes.iter().map(age).collect() };
    postcard::to_stdvec(&body).map_err(malformed)
}

fn malformed(error: postcard::Error) -> EnvelopeError {
    EnvelopeError::Malformed(error.to_string())
}

pub(in crate::node) fn open_ask(message: &Bytes, now: Time) -> Result<(PartitionId, Ask), EnvelopeError> {
    let (CopyHead { partition }, payload) = open(message)?;
    let (Body { mut what, ages_ms }, _) = open_body::<Ask>(&payload)?;
    if let Ask::Append { changes, .. } = &mut what {
        date(changes, &ages_ms, now);
    }
    Ok((partition, what))
}

pub(super) fn open_told(message: &Bytes, now: Time) -> Result<Heard, EnvelopeError> {
    let (CopyHead { .. }, payload) = open(message)?;
    let (Body { mut what, ages_ms }, rest) = open_body::<Told>(&payload)?;
    if let Told::Fetched(changes) = &mut what {
        date(changes, &ages_ms, now);
    }
    let short = if rest.is_empty() { None } else { Some(postcard::take_from_bytes(rest).map_err(malformed)?.0) };
    Ok(Heard { told: what, short })
}

/// What is left of it are fields of a later release.
fn open_body<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<(Body<T>, &'a [u8]), EnvelopeError> {
    postcard::take_from_bytes(payload).map_err(malformed)
}

fn date(changes: &mut [Change], ages_ms: &[u32], now: Time) {
    for (change, age_ms) in changes.iter_mut().zip(ages_ms) {
        change.made = now - Duration::from_millis(u64::from(*age_ms));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A release before this one reads what it knows and passes over the rest; what it sends has no such rest.
    #[test]
    fn what_an_answer_says_of_memory_comes_behind_all_that_is_known_elsewhere() {
        let (partition, now) = (PartitionId::new(3), Time::ZERO);
        let short = Some(Shortage { evicted: 7, bound_bytes: 1 << 20 });
        for heard in [Heard { told: Told::At(Version::default()), short }, Heard::from(Told::Accepted)] {
            let message = seal_told(partition, &heard, now).unwrap();
            assert_eq!(open_told(&message, now), Ok(heard.clone()));
            let (CopyHead { .. }, payload) = open(&message).unwrap();
            let (Body { what, .. }, rest) = open_body::<Told>(&payload).unwrap();
            assert_eq!((what, rest.is_empty()), (heard.told, heard.short.is_none()));
        }
    }
}
