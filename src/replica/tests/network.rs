//! Between the nodes: what is sent arrives, or does not, once or twice, now or much later; what was asked is done.

use rand::RngExt;

use super::takeover::Recovery;
use super::world::{Asker, BOUNDS, Event, Role, TIMEOUT_MS, Tag, World};
use crate::replica::{Apply, Ask};
use crate::types::NodeId;

impl World {
    /// On its way: mostly quick, sometimes so late that it is given up meanwhile.
    pub(super) fn delay(&mut self) -> u64 {
        if self.troubled() && self.chance(0.05) {
            return self.rng.random_range(20..=400);
        }
        self.rng.random_range(1..=6)
    }

    pub(super) fn request(&mut self, from: &Asker, to: &NodeId, tag: Tag, ask: Ask) {
        if self.index(to).is_none() {
            let answer = if self.chance(0.5) { Some(None) } else { None };
            let wait = if answer.is_some() { 1 } else { TIMEOUT_MS };
            return self.at(wait, Event::Answer { to: from.clone(), from: to.clone(), tag, answer });
        }
        let unanswered = Event::Answer { to: from.clone(), from: to.clone(), tag, answer: None };
        self.at(TIMEOUT_MS, unanswered);
        for _ in 0..self.times() {
            let delay = self.delay();
            self.at(delay, Event::Ask { from: from.clone(), to: to.clone(), tag, ask: ask.clone() });
        }
    }

    /// How often what is sent arrives.
    fn times(&mut self) -> usize {
        let loss = self.loss;
        match self.troubled() {
            true if self.chance(loss) => 0,
            true if self.chance(loss) => 2,
            _ => 1,
        }
    }

    pub(super) fn asked(&mut self, from: &Asker, to: &NodeId, tag: Tag, ask: Ask) -> Result<(), String> {
        let (now, Some(node)) = (self.time(), self.index(to)) else { return Ok(()) };
        let fails = self.troubled() && self.chance(0.004);
        let told = match &mut self.nodes[node].role {
            Role::Owner(owner) => owner.leader.answer(&ask),
            Role::Between => return Err("it is asked while it changes".to_owned()),
            Role::Follower(follower) | Role::Recovering(Recovery { follower, .. }) => {
                let (apply, told) = follower.ask(now, ask.clone());
                let (chunks, bytes) = follower.waiting();
                if chunks >= 8 || bytes > BOUNDS.held_max_bytes {
                    return Err(format!("what waits is bounded: {chunks} chunks, {bytes} bytes"));
                }
                let told = if fails && !apply.is_empty() { follower.failed() } else { told };
                self.done(node, &ask, &apply, fails);
                told
            }
        };
        self.note(|| format!("{to} <- {ask:?}: {told:?}"));
        for _ in 0..self.times() {
            let delay = self.delay();
            let answer = Some(Some(told.clone()));
            self.at(delay, Event::Answer { to: from.clone(), from: to.clone(), tag, answer });
        }
        self.check(node)
    }

    /// The service does what it is told to, or some of it.
    fn done(&mut self, node: usize, ask: &Ask, apply: &[Apply], fails: bool) {
        let at = &mut self.nodes[node];
        let done = if fails { apply.len().saturating_sub(1) } else { apply.len() };
        apply[..done].iter().for_each(|apply| at.service.apply(apply));
        if fails && !apply.is_empty() {
            at.failed = true;
            self.count("service failed");
        } else if matches!(ask, Ask::CopyEnd { .. }) && at.at().is_some() {
            at.failed = false;
        }
    }
}
