//! An owner's node streams a copy: chunks made while writes go on, a window of them under way.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::world::{Asker, Role, Tag, World};
use crate::replica::{Ask, CHUNK_WINDOW, Failure, Told};
use crate::types::{NodeId, Version};

const TRIES_MAX: u32 = 8;

/// A chunk that is not acknowledged.
#[derive(Debug, Clone)]
struct Sent {
    body: Bytes,
    made_ms: u64,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) stream: u64,
    since: Version,
    begun: bool,
    /// The key to go on with.
    cursor: Option<u8>,
    next: u32,
    sent: BTreeMap<u32, Sent>,
    ending: Option<Version>,
    tries: u32,
}

impl World {
    /// A copy begins.
    pub(super) fn copy(&mut self, node: usize, from: &Asker, to: &NodeId, stream: u64) -> Result<(), String> {
        self.count("copy begun");
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        let Some(since) = owner.leader.copy_begins(to, stream) else {
            return Err(format!("a copy is wanted as it is asked for: to {to}"));
        };
        let (begun, cursor, next, ending, tries) = (false, Some(0), 0, None, 0);
        let outgoing = Outgoing { stream, since, begun, cursor, next, sent: BTreeMap::new(), ending, tries };
        self.nodes[node].copies.insert(to.clone(), outgoing);
        self.request(from, to, Tag::Begin(stream), Ask::CopyBegin { epoch: from.epoch, stream, since });
        Ok(())
    }

    /// An answer to a part of a copy, or none.
    pub(super) fn copy_answered(&mut self, node: usize, me: &Asker, from: &NodeId, tag: Tag, answer: Option<Told>) {
        let Some(outgoing) = self.nodes[node].copies.get_mut(from) else { return };
        match (tag, answer) {
            (Tag::Begin(stream), Some(Told::Accepted)) if stream == outgoing.stream => outgoing.begun = true,
            (Tag::Chunk(stream, number), Some(Told::Accepted)) if stream == outgoing.stream => {
                outgoing.sent.remove(&number);
            }
            (Tag::End(stream), Some(Told::At(_))) if stream == outgoing.stream => {
                return self.copy_ends(node, from, Ok(()));
            }
            (_, Some(told @ Told::Stale { .. })) => return self.copy_ends(node, from, Err(Failure::Told(told))),
            (Tag::Begin(stream) | Tag::Chunk(stream, _) | Tag::End(stream), _) if stream == outgoing.stream => {
                let open = match tag {
                    Tag::Begin(_) => !outgoing.begun,
                    Tag::Chunk(_, number) => outgoing.sent.contains_key(&number),
                    _ => true,
                };
                if !open {
                    return;
                }
                outgoing.tries += 1;
                if outgoing.tries > TRIES_MAX {
                    return self.copy_ends(node, from, Err(Failure::Timeout));
                }
                return self.send_again(node, me, from, tag);
            }
            _ => return,
        }
        self.copy_goes_on(node, me, from);
    }

    fn send_again(&mut self, node: usize, me: &Asker, to: &NodeId, tag: Tag) {
        let (epoch, now) = (me.epoch, self.now_ms);
        let Some(outgoing) = self.nodes[node].copies.get(to) else { return };
        let ask = match tag {
            Tag::Begin(stream) => Ask::CopyBegin { epoch, stream, since: outgoing.since },
            Tag::End(stream) => {
                let Some(until) = outgoing.ending else { return };
                Ask::CopyEnd { epoch, stream, chunks: outgoing.next, until }
            }
            Tag::Chunk(stream, number) => {
                let Some(sent) = outgoing.sent.get(&number) else { return };
                Ask::chunk(epoch, stream, number, Duration::from_millis(now - sent.made_ms), sent.body.clone())
            }
            _ => return,
        };
        self.request(me, to, tag, ask);
    }

    fn copy_goes_on(&mut self, node: usize, me: &Asker, to: &NodeId) {
        loop {
            let most = self.rng.random_range(1..=2);
            let (now, at) = (self.now_ms, &mut self.nodes[node]);
            let (Role::Owner(owner), Some(outgoing)) = (&at.role, at.copies.get_mut(to)) else { return };
            if !outgoing.begun || outgoing.ending.is_some() {
                return;
            }
            let Some(tail) = owner.leader.copy_tail(to, outgoing.stream) else {
                return self.copy_ends(node, to, Err(Failure::Timeout));
            };
            let stream = outgoing.stream;
            let Some(cursor) = outgoing.cursor else {
                if outgoing.sent.is_empty() {
                    outgoing.ending = Some(tail);
                    let ask = Ask::CopyEnd { epoch: me.epoch, stream, chunks: outgoing.next, until: tail };
                    self.request(me, to, Tag::End(stream), ask);
                }
                return;
            };
            let first = outgoing.sent.keys().next().copied();
            if first.is_some_and(|first| outgoing.next - first >= CHUNK_WINDOW) {
                return;
            }
            let number = outgoing.next;
            let (body, next) = at.service.chunk(cursor, most);
            (outgoing.cursor, outgoing.next) = (next, number + 1);
            outgoing.sent.insert(number, Sent { body: body.clone(), made_ms: now });
            let mut ask = Ask::chunk(me.epoch, stream, number, Duration::ZERO, body);
            if self.troubled() && self.chance(0.02) {
                self.count("chunk corrupted");
                let Ask::CopyChunk { checksum, .. } = &mut ask else { return };
                *checksum ^= 1;
            }
            self.request(me, to, Tag::Chunk(stream, number), ask);
        }
    }

    fn copy_ends(&mut self, node: usize, to: &NodeId, result: Result<(), Failure>) {
        let (now, at) = (self.time(), &mut self.nodes[node]);
        let (Some(outgoing), Role::Owner(owner)) = (at.copies.remove(to), &mut at.role) else { return };
        owner.leader.copied(now, to, outgoing.stream, result.clone());
        self.count(if result.is_ok() { "copy done" } else { "copy failed" });
    }
}
