//! The nodes that run here, and what can be done to them.
//!
//! In: commands and [`NodeEvent`]s. Out: lines that say what happened, and the members as they are now.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;

use super::http::Http;
use super::keeper::Keeper;
use super::logs;
use super::member::{Member, State};
use super::node::{NodeEvent, Process, Recipe, Teller, What};
use super::server::is_free;
use crate::types::{BootClock, Clock, NodeName};

/// How long one look at a node may take.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// Events that may wait for the loop.
const EVENTS_MAX: usize = 256;
/// More would only fill the machine.
const MEMBERS_MAX: usize = 64;
/// How long nodes may take to drain when all end together, and killed ones to be gone.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no node '{asked}': there are {known}")]
    NoSuchNode { asked: String, known: String },
    #[error("node '{0}' has ended already: start it again with 'restart'")]
    Ended(String),
    #[error("there is a node '{0}' already: 'restart' starts one that has ended")]
    Exists(String),
    #[error("{0}")]
    BadName(String),
    #[error("{MEMBERS_MAX} nodes are the most that run here")]
    Full,
    #[error("node '{node}' cannot be started: {reason}")]
    NotStarted { node: String, reason: String },
}

impl Refusal {
    /// For programs: one of the codes of errors everywhere.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NoSuchNode { .. } => "not_found",
            Self::Ended(_) | Self::Exists(_) | Self::BadName(_) | Self::Full => "bad_request",
            Self::NotStarted { .. } => "internal",
        }
    }
}

/// All nodes.
pub(super) struct Fleet {
    pub(super) members: Vec<Member>,
    zones: usize,
    http_from: u16,
    recipe: Recipe,
    logs: PathBuf,
    http: Http,
    told: mpsc::Sender<NodeEvent>,
    events: mpsc::Receiver<NodeEvent>,
    keeper: Keeper,
}

/// Where and how nodes run.
pub(super) struct Ground {
    pub(super) recipe: Recipe,
    pub(super) zones: usize,
    pub(super) http_from: u16,
    pub(super) logs: PathBuf,
}

impl Fleet {
    pub(super) fn new(ground: Ground, keeper: Keeper) -> Self {
        let Ground { recipe, zones, http_from, logs } = ground;
        let (told, events) = mpsc::channel(EVENTS_MAX);
        Self { members: Vec::new(), zones, http_from, recipe, logs, http: Http::new(LOOK_LIMIT), told, events, keeper }
    }

    /// Starts one more; its index, and what happened.
    pub(super) fn add(&mut self, name: Option<String>) -> Result<(usize, String), Refusal> {
        if self.members.len() >= MEMBERS_MAX {
            return Err(Refusal::Full);
        }
        let name = name.unwrap_or_else(|| self.next_name());
        NodeName::new(&name).map_err(|error| Refusal::BadName(error.to_string()))?;
        if self.members.iter().any(|member| member.name == name) {
            return Err(Refusal::Exists(name));
        }
        let log = self.logs.join(format!("{name}.log"));
        self.members.push(Member::new(name, self.next_zone(), self.next_port(), log));
        let at = self.members.len() - 1;
        let begun = self.begin(at);
        if begun.is_err() {
            self.members.pop();
        }
        begun.map(|line| (at, line))
    }

    /// TERM: it drains.
    pub(super) fn stop(&mut self, at: usize) -> Result<String, Refusal> {
        self.signal(at, &[Signal::TERM, Signal::CONT])?;
        let member = &mut self.members[at];
        member.ends(true);
        Ok(format!("{} asked to end: it hands its partitions over", member.name))
    }

    /// kill -9.
    pub(super) fn kill(&mut self, at: usize) -> Result<String, Refusal> {
        self.signal(at, &[Signal::KILL])?;
        let member = &mut self.members[at];
        member.ends(false);
        Ok(format!("{} killed (kill -9): the others take over when its lease has run out", member.name))
    }

    /// Ended if it runs, and started again.
    pub(super) fn restart(&mut self, at: usize) -> Result<String, Refusal> {
        if self.members[at].process.is_none() {
            return self.begin(at);
        }
        let line = self.stop(at)?;
        self.members[at].again = true;
        Ok(line)
    }

    /// SIGSTOP.
    pub(super) fn freeze(&mut self, at: usize) -> Result<String, Refusal> {
        self.signal(at, &[Signal::STOP])?;
        let member = &mut self.members[at];
        member.state = State::Frozen;
        Ok(format!("{} frozen (SIGSTOP)", member.name))
    }

    /// SIGCONT.
    pub(super) fn thaw(&mut self, at: usize) -> Result<String, Refusal> {
        self.signal(at, &[Signal::CONT])?;
        let member = &mut self.members[at];
        if member.state == State::Frozen {
            // What it is now it says itself.
            member.state = State::Silent;
        }
        Ok(format!("{} goes on (SIGCONT)", member.name))
    }

    pub(super) fn find(&self, name: &str) -> Result<usize, Refusal> {
        self.members.iter().position(|member| member.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
            Refusal::NoSuchNode { asked: name.to_owned(), known: known.join(", ") }
        })
    }

    fn signal(&self, at: usize, signals: &[Signal]) -> Result<(), Refusal> {
        let member = &self.members[at];
        let process = member.process.as_ref().ok_or_else(|| Refusal::Ended(member.name.clone()))?;
        signals.iter().for_each(|signal| process.signal(*signal));
        Ok(())
    }

    fn begin(&mut self, at: usize) -> Result<String, Refusal> {
        let member = &mut self.members[at];
        member.life += 1;
        let teller = Teller { node: member.name.clone(), life: member.life, events: self.told.clone() };
        let process = Process::spawn(&self.recipe, &member.zone, member.port, &member.log, self.http.clone(), teller);
        let process =
            process.map_err(|error| Refusal::NotStarted { node: member.name.clone(), reason: error.to_string() })?;
        self.keeper.node(process.pid);
        Ok(member.begin(process, BootClock.now()))
    }

    /// The next thing that happened to a node. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<NodeEvent> {
        self.events.recv().await
    }

    /// Takes it in; what there is to say about it.
    pub(super) fn hear(&mut self, event: NodeEvent) -> Vec<String> {
        let Some(at) = self.members.iter().position(|m| m.name == event.node && m.life == event.life) else {
            return Vec::new();
        };
        let member = &mut self.members[at];
        if let (What::Ended(_), Some(process)) = (&event.what, &member.process) {
            self.keeper.ended(process.pid);
        }
        let log = member.log.clone();
        let mut lines: Vec<String> =
            member.hear(event.what, || logs::last_line(&log), BootClock.now()).into_iter().collect();
        if member.process.is_none() && member.again {
            member.again = false;
            lines.push(self.begin(at).unwrap_or_else(|refusal| refusal.to_string()));
        }
        lines
    }

    /// Whether any process still runs.
    pub(super) fn any_runs(&self) -> bool {
        self.members.iter().any(|member| member.process.is_some())
    }

    /// Ends all: TERM, and KILL for those that have not drained in time or when `hurry` is ready. Says what happened.
    pub(super) async fn end(&mut self, hurry: impl Future<Output = ()>, mut say: impl FnMut(String)) {
        for at in 0..self.members.len() {
            self.members[at].again = false;
            let _ = self.stop(at);
        }
        tokio::select! {
            _ = tokio::time::timeout(DRAIN_LIMIT, self.until_all_ended(&mut say)) => {}
            () = hurry => {}
        }
        for at in 0..self.members.len() {
            if self.kill(at).is_ok() {
                say(format!("{} did not drain in time and is killed", self.members[at].name));
            }
        }
        let _ = tokio::time::timeout(KILL_LIMIT, self.until_all_ended(&mut say)).await;
    }

    async fn until_all_ended(&mut self, say: &mut impl FnMut(String)) {
        while self.any_runs() {
            let Some(event) = self.next().await else { return };
            self.hear(event).into_iter().for_each(&mut *say);
        }
    }

    fn next_name(&self) -> String {
        let free = |name: &String| self.members.iter().all(|member| member.name != *name);
        (1..).map(|number: usize| format!("node-{number}")).find(free).unwrap_or_default()
    }

    /// The zone with the fewest nodes, the first of them.
    fn next_zone(&self) -> String {
        let mut count: BTreeMap<String, usize> = zone_names(self.zones).map(|zone| (zone, 0)).collect();
        for member in self.members.iter().filter(|member| !matches!(member.state, State::Ended(_))) {
            *count.entry(member.zone.clone()).or_default() += 1;
        }
        count.into_iter().min_by_key(|(_, nodes)| *nodes).map(|(zone, _)| zone).unwrap_or_default()
    }

    fn next_port(&self) -> u16 {
        if self.http_from == 0 {
            return 0;
        }
        let given = |port: u16| self.members.iter().any(|member| member.port == port);
        (self.http_from..u16::MAX).find(|port| !given(*port) && is_free(*port)).unwrap_or(0)
    }
}

/// `a`, `b`, `c` …
fn zone_names(count: usize) -> impl Iterator<Item = String> {
    ('a'..='z').take(count).map(String::from)
}
