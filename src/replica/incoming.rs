//! A copy that is arriving: its chunks, put back into their order within a window.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::CHUNK_WINDOW;
use crate::types::{Time, Version};

/// One chunk, as it goes to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) body: Bytes,
    /// How long ago it was made.
    pub(super) age: Duration,
}

/// A chunk that waits for those before it.
#[derive(Debug, Clone)]
struct Held {
    chunk: Chunk,
    arrived: Time,
}

/// A copy under way.
#[derive(Debug, Clone)]
pub(super) struct Incoming {
    pub(super) stream: u64,
    pub(super) since: Version,
    /// The first number that was not handed to the service.
    next: u32,
    held: BTreeMap<u32, Held>,
    held_bytes: usize,
    held_max_bytes: usize,
}

impl Incoming {
    pub(super) fn new(stream: u64, since: Version, held_max_bytes: usize) -> Self {
        Self { stream, since, next: 0, held: BTreeMap::new(), held_bytes: 0, held_max_bytes }
    }

    /// The chunks whose turn has come with this one.
    pub(super) fn take(&mut self, now: Time, number: u32, chunk: Chunk) -> Result<Vec<Chunk>, String> {
        if number < self.next || self.held.contains_key(&number) {
            return Ok(Vec::new());
        }
        if number != self.next {
            self.hold(now, number, chunk)?;
            return Ok(Vec::new());
        }
        let mut due = vec![chunk];
        self.next += 1;
        while let Some(held) = self.held.remove(&self.next) {
            self.held_bytes -= held.chunk.body.len();
            due.push(Chunk { age: held.chunk.age + now.since(held.arrived), ..held.chunk });
            self.next += 1;
        }
        Ok(due)
    }

    fn hold(&mut self, now: Time, number: u32, chunk: Chunk) -> Result<(), String> {
        let bytes = self.held_bytes + chunk.body.len();
        if number - self.next >= CHUNK_WINDOW || bytes > self.held_max_bytes {
            return Err(format!("chunk {number} came too early: send it again once chunk {} is accepted", self.next));
        }
        self.held_bytes = bytes;
        self.held.insert(number, Held { chunk, arrived: now });
        Ok(())
    }

    /// Chunks that wait for those before them, and their bytes.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.held.len(), self.held_bytes)
    }

    /// Whether the service has all of so many chunks.
    pub(super) fn is_whole(&self, chunks: u32) -> Result<(), String> {
        if self.next == chunks {
            return Ok(());
        }
        Err(format!("{} of {chunks} chunks have arrived: send chunk {} again", self.next, self.next))
    }
}
