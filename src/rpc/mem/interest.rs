//! Who subscribes to what: found by the part of a pattern before its first wildcard.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use tokio::sync::mpsc;

use super::super::Message;
use super::{Port, subject};
use crate::types::Chance;

/// Subjects that are remembered with who gets what is sent there.
const FOUND_MAX: usize = 1024;

/// A subscription. Changed only under the switch's lock: what of it changes is atomic so that it can be shared.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) id: u64,
    pattern: String,
    queue: Option<String>,
    pub(super) to: mpsc::Sender<Message>,
    pub(super) port: Arc<Port>,
    delivered: AtomicU64,
    /// Ends after so many.
    max: AtomicU64,
    /// It has come to the switch.
    known: AtomicBool,
    /// It has ended.
    gone: AtomicBool,
}

impl Subscriber {
    fn is_reachable(&self) -> bool {
        self.known.load(Relaxed) && !self.gone.load(Relaxed) && self.port.is_connected() && !self.to.is_closed()
    }
}

/// Who gets what is sent to a subject, as far as their patterns say.
#[derive(Debug, Default)]
struct Found {
    plain: Vec<Arc<Subscriber>>,
    /// By queue group, in the order of their first members.
    queues: Vec<Vec<Arc<Subscriber>>>,
}

#[derive(Debug, Default)]
pub(super) struct Interest {
    subscribers: BTreeMap<u64, Arc<Subscriber>>,
    by_prefix: HashMap<String, Vec<u64>>,
    /// By bus, those that have not come to the switch yet.
    on_the_way: HashMap<u64, Vec<u64>>,
    /// Whose patterns match a subject, as long as nobody comes or goes: many messages go to one subject.
    found: HashMap<String, Found>,
    last_id: u64,
}

/// The tokens before the first wildcard.
fn literal_prefix(pattern: &str) -> &str {
    let mut end = 0;
    for token in pattern.split('.') {
        if token == "*" || token == ">" {
            return pattern[..end].trim_end_matches('.');
        }
        end += token.len() + 1;
    }
    pattern
}

impl Interest {
    pub(super) fn next_id(&mut self) -> u64 {
        self.found.clear();
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn add(
        &mut self,
        pattern: &str,
        queue: Option<&str>,
        to: mpsc::Sender<Message>,
        port: &Arc<Port>,
    ) -> u64 {
        let id = self.next_id();
        self.on_the_way.entry(port.number).or_default().push(id);
        self.by_prefix.entry(literal_prefix(pattern).to_owned()).or_default().push(id);
        let (pattern, queue, port) = (pattern.to_owned(), queue.map(str::to_owned), Arc::clone(port));
        let (delivered, max) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let (known, gone) = (AtomicBool::new(false), AtomicBool::new(false));
        let subscriber = Subscriber { id, pattern, queue, to, port, delivered, max, known, gone };
        self.subscribers.insert(id, Arc::new(subscriber));
        id
    }

    /// The subscription has come to the switch.
    pub(super) fn known(&mut self, id: u64) {
        let Some(subscriber) = self.subscribers.get(&id) else { return };
        subscriber.known.store(true, Relaxed);
        let port = subscriber.port.number;
        if let Some(ids) = self.on_the_way.get_mut(&port) {
            ids.retain(|on_the_way| *on_the_way != id);
            if ids.is_empty() {
                self.on_the_way.remove(&port);
            }
        }
    }

    /// All subscriptions of this bus have.
    pub(super) fn all_known(&mut self, port: u64) {
        if self.on_the_way.is_empty() {
            return;
        }
        for id in self.on_the_way.remove(&port).unwrap_or_default() {
            if let Some(subscriber) = self.subscribers.get(&id) {
                subscriber.known.store(true, Relaxed);
            }
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.known(id);
        let Some(subscriber) = self.subscribers.remove(&id) else { return };
        subscriber.gone.store(true, Relaxed);
        // Its reader waits until nobody can send to it any more.
        self.found.clear();
        let prefix = literal_prefix(&subscriber.pattern);
        if let Some(ids) = self.by_prefix.get_mut(prefix) {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.by_prefix.remove(prefix);
            }
        }
    }

    /// The subscription gets so many messages in all, and no more.
    pub(super) fn end_after(&mut self, id: u64, max: u64) {
        let Some(subscriber) = self.subscribers.get(&id) else { return };
        subscriber.max.store(max, Relaxed);
        if subscriber.delivered.load(Relaxed) >= max {
            self.remove(id);
        }
    }

    /// Notes that a message goes there; `false` where it has ended meanwhile.
    pub(super) fn count(&mut self, subscriber: &Subscriber) -> bool {
        if subscriber.gone.load(Relaxed) {
            return false;
        }
        let delivered = subscriber.delivered.fetch_add(1, Relaxed) + 1;
        if delivered >= subscriber.max.load(Relaxed) {
            self.remove(subscriber.id);
        }
        true
    }

    /// Every plain subscription that matches, and one of each queue group.
    pub(super) fn choose(&mut self, to: &str, chance: &Chance) -> Vec<Arc<Subscriber>> {
        if !self.found.contains_key(to) {
            if self.found.len() >= FOUND_MAX {
                self.found.clear();
            }
            self.found.insert(to.to_owned(), self.find(to));
        }
        let Some(found) = self.found.get(to) else { return Vec::new() };
        let reachable = |of: &'_ &Arc<Subscriber>| of.is_reachable();
        let mut chosen: Vec<_> = found.plain.iter().filter(reachable).cloned().collect();
        for queue in &found.queues {
            let last = queue.iter().filter(reachable).count().checked_sub(1);
            let one = last.map(|last| chance.up_to(u64::try_from(last).unwrap_or(u64::MAX)));
            let one = one.and_then(|one| queue.iter().filter(reachable).nth(usize::try_from(one).unwrap_or(0)));
            chosen.extend(one.cloned());
        }
        chosen
    }

    /// Whose patterns match, in the order they were subscribed.
    fn find(&self, to: &str) -> Found {
        let dots = to.match_indices('.').map(|(at, _)| &to[..at]);
        let prefixes = std::iter::once("").chain(dots).chain(std::iter::once(to));
        let ids = prefixes.filter_map(|prefix| self.by_prefix.get(prefix)).flatten();
        let known = ids.filter_map(|id| self.subscribers.get(id));
        let mut matching: Vec<_> = known.filter(|known| subject::matches(&known.pattern, to)).collect();
        matching.sort_unstable_by_key(|known| known.id);
        let mut found = Found::default();
        for subscriber in matching {
            let of_same =
                |queue: &&mut Vec<Arc<Subscriber>>| queue.first().is_some_and(|f| f.queue == subscriber.queue);
            if subscriber.queue.is_none() {
                found.plain.push(Arc::clone(subscriber));
            } else if let Some(queue) = found.queues.iter_mut().find(of_same) {
                queue.push(Arc::clone(subscriber));
            } else {
                found.queues.push(vec![Arc::clone(subscriber)]);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::literal_prefix;

    #[test]
    fn a_prefix_ends_before_the_first_wildcard() {
        for (pattern, prefix) in
            [("a.b", "a.b"), ("a.*", "a"), ("a.*.b", "a"), (">", ""), ("*.a", ""), ("a.b.>", "a.b")]
        {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern}");
        }
    }
}
