//! Who subscribes to what: found by the part of a pattern before its first wildcard.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::super::Message;
use super::{Port, subject};
use crate::types::Chance;

/// Subjects that are remembered with who gets what is sent there.
const FOUND_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Subscriber {
    pattern: String,
    queue: Option<String>,
    pub(super) to: mpsc::Sender<Message>,
    pub(super) port: Arc<Port>,
    delivered: u64,
    /// Ends after so many.
    max: Option<u64>,
    /// It has come to the switch.
    known: bool,
}

#[derive(Debug, Default)]
pub(super) struct Interest {
    subscribers: BTreeMap<u64, Subscriber>,
    by_prefix: HashMap<String, Vec<u64>>,
    /// By bus, those that have not come to the switch yet.
    on_the_way: HashMap<u64, Vec<u64>>,
    /// Whose patterns match a subject, as long as nobody else has subscribed: many messages go to one subject.
    found: HashMap<String, Vec<u64>>,
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
        self.subscribers.insert(id, Subscriber { pattern, queue, to, port, delivered: 0, max: None, known: false });
        id
    }

    /// The subscription has come to the switch.
    pub(super) fn known(&mut self, id: u64) {
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return };
        subscriber.known = true;
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
        for id in self.on_the_way.remove(&port).unwrap_or_default() {
            if let Some(subscriber) = self.subscribers.get_mut(&id) {
                subscriber.known = true;
            }
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.known(id);
        let Some(subscriber) = self.subscribers.remove(&id) else { return };
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
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return };
        subscriber.max = Some(max);
        if subscriber.delivered >= max {
            self.remove(id);
        }
    }

    /// Notes that a message goes there, and answers whom it is handed to.
    pub(super) fn count(&mut self, id: u64) -> Option<(mpsc::Sender<Message>, Arc<Port>)> {
        let subscriber = self.subscribers.get_mut(&id)?;
        subscriber.delivered += 1;
        let handed = (subscriber.to.clone(), Arc::clone(&subscriber.port));
        if subscriber.max.is_some_and(|max| subscriber.delivered >= max) {
            self.remove(id);
        }
        Some(handed)
    }

    /// Every plain subscription that matches, and one of each queue group.
    pub(super) fn choose(&mut self, to: &str, chance: &Chance) -> Vec<u64> {
        let found = match self.found.get(to) {
            Some(found) => found,
            None => {
                let found = self.find(to);
                if self.found.len() >= FOUND_MAX {
                    self.found.clear();
                }
                &*self.found.entry(to.to_owned()).or_insert(found)
            }
        };
        let mut reachable = Vec::with_capacity(found.len());
        for id in found {
            // Whoever was found may have gone since.
            let Some(subscriber) = self.subscribers.get(id) else { continue };
            if subscriber.known && subscriber.port.is_connected() && !subscriber.to.is_closed() {
                reachable.push((*id, subscriber.queue.as_deref()));
            }
        }
        let mut chosen: Vec<u64> = reachable.iter().filter(|(_, queue)| queue.is_none()).map(|(id, _)| *id).collect();
        for (nth, (_, queue)) in reachable.iter().enumerate() {
            if queue.is_none() || reachable[..nth].iter().any(|(_, before)| before == queue) {
                continue;
            }
            let members = || reachable.iter().filter(|(_, other)| other == queue);
            let last = u64::try_from(members().count()).unwrap_or(u64::MAX) - 1;
            let one = usize::try_from(chance.up_to(last)).unwrap_or(0);
            chosen.extend(members().nth(one).map(|(id, _)| *id));
        }
        chosen
    }

    /// Whose patterns match, in the order they were subscribed.
    fn find(&self, to: &str) -> Vec<u64> {
        let dots = to.match_indices('.').map(|(at, _)| &to[..at]);
        let prefixes = std::iter::once("").chain(dots).chain(std::iter::once(to));
        let ids = prefixes.filter_map(|prefix| self.by_prefix.get(prefix)).flatten().copied();
        let matches = |id: &u64| self.subscribers.get(id).is_some_and(|known| subject::matches(&known.pattern, to));
        let mut ids: Vec<u64> = ids.filter(matches).collect();
        ids.sort_unstable();
        ids
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
