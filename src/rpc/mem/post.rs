//! What is on its way: from a bus to the switch, from the switch to whoever gets it.
//!
//! In: messages handed over. Out: deliveries, at once or when due. One task carries all that waits, and ends when nothing
//! does.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::super::Message;
use super::interest::Subscriber;
use super::{INBOX, MemSwitch, Port, Shared, State};

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
    Subscriber { to: Arc<Subscriber>, message: Message },
    Requester { reply: String, answer: Option<Message> },
    Subscription { id: u64 },
}

/// A way on which order is kept. A subscription goes its own once.
#[derive(Debug, Clone, Copy)]
enum Way<'a> {
    Out(u64, &'a str),
    In(u64),
    Answer(&'a str),
    Subscription,
}

impl Parcel {
    fn way(&self) -> Way<'_> {
        match self {
            Self::Switch { from, message } => Way::Out(from.number, &message.subject),
            Self::Subscriber { to, .. } => Way::In(to.id),
            Self::Requester { reply, .. } => Way::Answer(reply),
            Self::Subscription { .. } => Way::Subscription,
        }
    }
}

/// When the last of a way is due, and how many are under way.
type Turn = (Instant, u64);

/// All ways on which anything is.
#[derive(Debug, Default)]
struct Ways {
    out: HashMap<u64, HashMap<String, Turn>>,
    into: HashMap<u64, Turn>,
    answers: HashMap<String, Turn>,
}

impl Ways {
    fn is_free(&self, way: Way<'_>) -> bool {
        match way {
            Way::Out(port, subject) => self.out.get(&port).is_none_or(|of_port| !of_port.contains_key(subject)),
            Way::In(id) => !self.into.contains_key(&id),
            Way::Answer(reply) => !self.answers.contains_key(reply),
            Way::Subscription => true,
        }
    }

    /// One more, that would be due then; answers when it is.
    fn set_out(&mut self, way: Way<'_>, due: Instant) -> Instant {
        let later = |turn: &mut Turn| {
            *turn = (due.max(turn.0), turn.1 + 1);
            turn.0
        };
        let known = match way {
            Way::Out(port, subject) => {
                let of_port = self.out.entry(port).or_default();
                let known = of_port.get_mut(subject).map(later);
                if known.is_none() {
                    of_port.insert(subject.to_owned(), (due, 1));
                }
                known
            }
            Way::In(id) => Some(later(self.into.entry(id).or_insert((due, 0)))),
            Way::Answer(reply) => Some(later(self.answers.entry(reply.to_owned()).or_insert((due, 0)))),
            Way::Subscription => None,
        };
        known.unwrap_or(due)
    }

    fn arrived(&mut self, way: Way<'_>) {
        match way {
            Way::Out(port, subject) => {
                if let Some(of_port) = self.out.get_mut(&port) {
                    one_less(of_port, subject);
                }
            }
            Way::In(id) => one_less(&mut self.into, &id),
            Way::Answer(reply) => one_less(&mut self.answers, reply),
            Way::Subscription => {}
        }
    }
}

fn one_less<K, Q>(turns: &mut HashMap<K, Turn>, way: &Q)
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
{
    let Some((_, waiting)) = turns.get_mut(way) else { return };
    *waiting -= 1;
    if *waiting == 0 {
        turns.remove(way);
    }
}

#[derive(Debug, Default)]
pub(super) struct Post {
    /// Boxed: they are moved about as others come.
    due: BTreeMap<(Instant, u64), Box<Parcel>>,
    ways: Ways,
    /// When the last of each bus is due, whatever its subject: for counting only.
    last_out: HashMap<u64, Instant>,
    count: u64,
    is_carried: bool,
}

impl Post {
    /// Whether nothing of this way is under way.
    fn is_free(&self, way: Way<'_>) -> bool {
        self.due.is_empty() || self.ways.is_free(way)
    }

    fn first_due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    fn take_due(&mut self, now: Instant) -> Option<Parcel> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= now)?;
        let parcel = first.remove();
        self.ways.arrived(parcel.way());
        Some(*parcel)
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
        state.post_later(delay, Parcel::Subscription { id });
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
        if delay.is_zero() && state.post.is_free(Way::Out(from.number, &message.subject)) {
            state.route(from, message);
        } else {
            let from = Arc::clone(from);
            state.post_later(delay, Parcel::Switch { from, message });
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

    fn post_later(&mut self, delay: Duration, parcel: Parcel) {
        let (due, way) = (now() + delay, parcel.way());
        self.fired.delayed += u64::from(!delay.is_zero() && !matches!(way, Way::Subscription));
        if let Way::Out(port, _) = way {
            let last = self.post.last_out.entry(port).or_insert(due);
            self.fired.reordered += u64::from(due < *last);
            *last = due.max(*last);
        }
        let due = self.post.ways.set_out(way, due);
        self.post.count += 1;
        self.post.due.insert((due, self.post.count), Box::new(parcel));
    }

    fn arrive(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Switch { from, message } => self.route(&from, message),
            Parcel::Subscriber { to, message } => self.hand(&to, message),
            Parcel::Requester { reply, answer } => self.answer(&reply, answer),
            Parcel::Subscription { id } => self.interest.known(id),
        }
    }

    /// A message is at the switch: on to whoever is interested.
    fn route(&mut self, from: &Arc<Port>, message: Message) {
        self.interest.all_known(from.number);
        if message.subject.starts_with(INBOX) && self.waiting.contains_key(&message.subject) {
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
        for (nth, chosen) in chosen.into_iter().enumerate() {
            if self.is_lost() || !self.interest.count(&chosen) {
                continue;
            }
            let copies = if self.is_doubled() { 2 } else { 1 };
            for copy in 1..=copies {
                // Whoever is the last gets the message itself.
                let message = if nth == last && copy == copies { message.take() } else { message.clone() };
                let Some(message) = message else { continue };
                let delay = self.draw(chosen.port.delay()) + self.draw(self.faults.delay_in);
                if delay.is_zero() && self.post.is_free(Way::In(chosen.id)) {
                    self.hand(&chosen, message);
                } else {
                    self.post_later(delay, Parcel::Subscriber { to: Arc::clone(&chosen), message });
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

    fn hand(&mut self, to: &Subscriber, message: Message) {
        if !to.port.hears() {
            self.fired.swallowed += 1;
        } else if let Err(TrySendError::Full(_)) = to.to.try_send(message) {
            to.port.dropped.fetch_add(1, Ordering::SeqCst);
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
            self.post_later(delay, Parcel::Requester { reply, answer });
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
