//! What is on its way: from a bus to the switch, from the switch to whoever gets it.
//!
//! In: messages handed over. Out: deliveries, at once or when due. One task carries all that waits, and ends when nothing
//! does.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::super::Message;
use super::{MemSwitch, Port, Shared, State};

/// What happens to messages: all off by default. Answers are messages like any other.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BusFaults {
    /// One message takes up to so long to the switch, in whole milliseconds; each is chance. What one bus sends to one
    /// subject keeps its order, and nothing else does.
    pub delay: Duration,
    /// One delivery takes up to so long from the switch to whoever gets it, in whole milliseconds; a subscription keeps its
    /// order.
    pub delay_in: Duration,
    /// A subscription takes up to so long to the switch, in whole milliseconds, unless its bus has sent anything else
    /// meanwhile: a connection keeps its order. Until then it gets nothing.
    pub subscribe: Duration,
    /// Per delivery: it is lost.
    pub loss: f64,
    /// Per delivery: it comes twice.
    pub duplicate: f64,
}

/// How often each fault of the bus happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BusFired {
    /// Messages that took their time.
    pub delayed: u64,
    /// Messages that overtook an earlier one of the same bus.
    pub reordered: u64,
    /// Deliveries lost.
    pub lost: u64,
    /// Deliveries that came twice.
    pub duplicated: u64,
    /// Messages that could not get out of, or in to, a bus that does not know it.
    pub swallowed: u64,
    /// Subscriptions that the switch did not know at once.
    pub subscribed_late: u64,
}

/// A message, by where it goes next.
#[derive(Debug)]
enum Parcel {
    Switch { from: Arc<Port>, message: Message },
    Subscriber { to: mpsc::Sender<Message>, port: Arc<Port>, message: Message },
    Requester { reply: String, answer: Option<Message> },
    Subscription { id: u64 },
}

/// A way on which order is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Way {
    Out(u64, String),
    In(u64),
    Answer(String),
    Subscription(u64),
}

#[derive(Debug, Default)]
pub(super) struct Post {
    due: BTreeMap<(Instant, u64), (Way, Parcel)>,
    /// When the last of each way is due, while any is.
    last: HashMap<Way, (Instant, u64)>,
    /// When the last of each bus is due, whatever its subject: for counting only.
    last_out: HashMap<u64, Instant>,
    count: u64,
    is_carried: bool,
}

impl Post {
    /// Whether nothing of this way is under way.
    fn is_free(&self, way: &Way) -> bool {
        self.last.is_empty() || !self.last.contains_key(way)
    }

    fn first_due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    fn take_due(&mut self, now: Instant) -> Option<Parcel> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= now)?;
        let (way, parcel) = first.remove();
        if let Some((_, waiting)) = self.last.get_mut(&way) {
            *waiting -= 1;
            if *waiting == 0 {
                self.last.remove(&way);
            }
        }
        Some(parcel)
    }
}

impl MemSwitch {
    /// A subscription is on its way.
    pub(super) fn introduce(&self, id: u64) {
        let mut state = self.state();
        let first = state.post.first_due();
        let delay = state.draw(state.faults.subscribe);
        if delay.is_zero() {
            return state.interest.known(id);
        }
        state.fired.subscribed_late += 1;
        state.post_later(delay, Way::Subscription(id), Parcel::Subscription { id });
        self.carry(state, first);
    }

    /// Takes a message from a bus: on to the switch, at once or later.
    pub(super) fn send(&self, from: &Arc<Port>, message: Message) {
        let mut state = self.state();
        if !from.carries_out.load(Ordering::SeqCst) {
            state.fired.swallowed += 1;
            return;
        }
        let first = state.post.first_due();
        let (common, own) = (state.faults.delay, from.delay());
        let delay = state.draw(common) + state.draw(own);
        let way = || Way::Out(from.number, message.subject.clone());
        if delay.is_zero() && (state.post.last.is_empty() || state.post.is_free(&way())) {
            state.route(from, message);
        } else {
            let (way, from) = (way(), Arc::clone(from));
            state.post_later(delay, way, Parcel::Switch { from, message });
        }
        self.carry(state, first);
    }

    /// Has what waits carried by a task; where one does already, it is told of what is due before all else.
    fn carry(&self, mut state: MutexGuard<'_, State>, first_before: Option<Instant>) {
        if state.post.first_due() == first_before {
            return;
        }
        if std::mem::replace(&mut state.post.is_carried, true) {
            drop(state);
            return self.shared.sooner.notify_one();
        }
        drop(state);
        self.shared.process.spawn(carry_all(Arc::clone(&self.shared)));
    }
}

async fn carry_all(shared: Arc<Shared>) {
    loop {
        let next = {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = now();
            while let Some(parcel) = state.post.take_due(now) {
                state.arrive(parcel);
            }
            match state.post.first_due() {
                Some(due) => due,
                None => {
                    state.post.is_carried = false;
                    state.post.last_out.clear();
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(next) => {}
            () = shared.sooner.notified() => {}
        }
    }
}

#[allow(clippy::disallowed_methods)] // When a delivery is due: it is waited for on the same clock.
fn now() -> Instant {
    Instant::now()
}

impl State {
    fn draw(&self, up_to: Duration) -> Duration {
        Duration::from_millis(self.chance.up_to(u64::try_from(up_to.as_millis()).unwrap_or(u64::MAX)))
    }

    fn post_later(&mut self, delay: Duration, way: Way, parcel: Parcel) {
        let mut due = now() + delay;
        self.fired.delayed += u64::from(!delay.is_zero() && !matches!(way, Way::Subscription(_)));
        if let Way::Out(port, _) = &way {
            let last = self.post.last_out.entry(*port).or_insert(due);
            self.fired.reordered += u64::from(due < *last);
            *last = due.max(*last);
        }
        let (last, waiting) = self.post.last.entry(way.clone()).or_insert((due, 0));
        due = due.max(*last);
        (*last, *waiting) = (due, *waiting + 1);
        self.post.count += 1;
        self.post.due.insert((due, self.post.count), (way, parcel));
    }

    fn arrive(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Switch { from, message } => self.route(&from, message),
            Parcel::Subscriber { to, port, message } => self.hand(&to, &port, message),
            Parcel::Requester { reply, answer } => self.answer(&reply, answer),
            Parcel::Subscription { id } => self.interest.known(id),
        }
    }

    /// A message is at the switch: on to whoever is interested.
    fn route(&mut self, from: &Arc<Port>, message: Message) {
        self.interest.all_known(from.number);
        if self.waiting.contains_key(&message.subject) {
            let reply = message.subject.clone();
            return self.towards_requester(reply, Some(message));
        }
        let chosen = self.interest.choose(&message.subject, &self.chance);
        if chosen.is_empty() {
            if let Some(tap) = &from.tap {
                tap.unheard(&message);
            }
            let asked = message
                .reply
                .filter(|reply| self.waiting.get(reply).is_some_and(|(_, port)| port.number == from.number));
            if let Some(reply) = asked {
                self.towards_requester(reply, None);
            }
            return;
        }
        let mut message = Some(message);
        let last = chosen.len() - 1;
        for (nth, id) in chosen.into_iter().enumerate() {
            if self.is_lost() {
                continue;
            }
            let Some((to, port)) = self.interest.count(id) else { continue };
            let copies = if self.is_doubled() { 2 } else { 1 };
            for copy in 1..=copies {
                // Whoever is the last gets the message itself.
                let message = if nth == last && copy == copies { message.take() } else { message.clone() };
                let Some(message) = message else { continue };
                let delay = self.draw(port.delay()) + self.draw(self.faults.delay_in);
                let way = Way::In(id);
                if delay.is_zero() && self.post.is_free(&way) {
                    self.hand(&to, &port, message);
                } else {
                    let (to, port) = (to.clone(), Arc::clone(&port));
                    self.post_later(delay, way, Parcel::Subscriber { to, port, message });
                }
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        let lost = self.chance.hits(self.faults.loss);
        self.fired.lost += u64::from(lost);
        lost
    }

    fn is_doubled(&mut self) -> bool {
        let doubled = self.chance.hits(self.faults.duplicate);
        self.fired.duplicated += u64::from(doubled);
        doubled
    }

    fn hand(&mut self, to: &mpsc::Sender<Message>, port: &Port, message: Message) {
        if !port.hears() {
            self.fired.swallowed += 1;
        } else if let Err(TrySendError::Full(_)) = to.try_send(message) {
            port.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn towards_requester(&mut self, reply: String, answer: Option<Message>) {
        if self.is_lost() {
            return;
        }
        let delay = self.waiting.get(&reply).map_or(Duration::ZERO, |(_, port)| port.delay());
        let delay = self.draw(delay) + self.draw(self.faults.delay_in);
        if delay.is_zero() {
            self.answer(&reply, answer);
        } else {
            // The requester may be gone by then; its inbox is its own, and no order of two answers matters.
            let way = Way::Answer(reply.clone());
            self.post_later(delay, way, Parcel::Requester { reply, answer });
        }
    }

    fn answer(&mut self, reply: &str, answer: Option<Message>) {
        if self.waiting.get(reply).is_some_and(|(_, port)| !port.hears()) {
            self.fired.swallowed += 1;
        } else if let Some((waiter, _)) = self.waiting.remove(reply) {
            // The requester may have given up in this very moment.
            let _ = waiter.send(answer);
        }
    }
}
