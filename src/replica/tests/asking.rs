//! Requests to an owner whose lease nobody renews for the moment: executed, then answered once all have confirmed its
//! epoch.

use rand::RngExt;

use super::owner::Phase;
use super::world::{Asker, Event, Role, World};
use crate::replica::Ticket;
use crate::types::guard::{Guard, holds};
use crate::types::{NodeId, Version};

/// How long a request is on its way to its execution, and its answer is waited for.
const UNTIL_EXECUTED_MS: u64 = 25;
const PATIENCE_MS: u64 = 400;

/// An answer that waits.
#[derive(Debug)]
pub(super) struct Question {
    ticket: Ticket,
    executed_ms: u64,
    /// What it saw.
    tail: Version,
}

impl World {
    pub(super) fn arrives(&mut self, id: &NodeId) -> Result<(), String> {
        let Some(node) = self.index(id) else { return Ok(()) };
        let (again, takes) = (self.rng.random_range(3..=60), self.rng.random_range(0..=UNTIL_EXECUTED_MS));
        let goes_on = self.writes_go_on();
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        if goes_on {
            let early = if holds(Guard::ConfirmAfterExecution) { None } else { owner.leader.ticket() };
            let by = Asker { id: id.clone(), epoch: owner.leader.epoch() };
            self.at(takes, Event::Executes { by, early });
            self.at(again, Event::Arrives { id: id.clone() });
        }
        self.drive(node)
    }

    pub(super) fn executes(&mut self, by: &Asker, early: Option<Ticket>) -> Result<(), String> {
        let (now, Some(node)) = (self.now_ms, self.index(&by.id)) else { return Ok(()) };
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        if owner.leader.epoch() != by.epoch || owner.phase != Phase::Serving {
            return Ok(());
        }
        let tail = owner.leader.tail();
        match early.or_else(|| owner.leader.ticket()) {
            Some(ticket) => owner.questions.push(Question { ticket, executed_ms: now, tail }),
            None => self.count("nobody to confirm"),
        }
        self.drive(node)
    }

    /// Answers what is confirmed by now.
    pub(super) fn confirmed(&mut self, node: usize) -> Result<(), String> {
        let now = self.now_ms;
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        let (epoch, confirmed) = (owner.leader.epoch(), owner.leader.confirmed());
        let before = owner.questions.len();
        owner.questions.retain(|question| now < question.executed_ms + PATIENCE_MS);
        let late = before - owner.questions.len();
        let (covered, open) = std::mem::take(&mut owner.questions)
            .into_iter()
            .partition::<Vec<_>, _>(|question| confirmed.covers(question.ticket));
        owner.questions = open;
        if late > 0 {
            self.count("not confirmed in time");
        }
        // What is committed is told to the judge with the reports.
        let Role::Owner(owner) = &self.nodes[node].role else { return Ok(()) };
        let committed = owner.leader.committed();
        if !covered.is_empty() && committed > owner.committed {
            self.judge.committed(committed)?;
        }
        for question in covered {
            self.count("confirmed");
            self.judge.answered(epoch, question.executed_ms, question.tail)?;
        }
        Ok(())
    }
}
