//! One node of the ring that runs here: what it is, its present process, and what is known of it. Pure but for the
//! process handle: what an event changes, and the line that says so.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::super::told::while_suspended;
use super::node::{Process, What};
use super::reading::Reading;
use crate::types::Time;

/// Looks that fail in a row before a node counts as silent: one may fall into a busy moment.
const SILENT_AFTER: u32 = 2;

/// Where a node stands, as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Its process runs and has not answered yet.
    Starting,
    /// It answers, and cannot serve yet or for now.
    NotReady(String),
    Ready,
    Draining,
    /// Stopped by a signal from here.
    Frozen,
    /// It answered before and does not now.
    Silent,
    /// How, and its last log line where that was not as asked.
    Ended(String),
}

impl State {
    /// One word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::NotReady(_) => "not ready",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Frozen => "frozen",
            Self::Silent => "silent",
            Self::Ended(_) => "ended",
        }
    }

    /// What there is to say beside the word.
    pub(super) fn detail(&self) -> Option<&str> {
        match self {
            Self::NotReady(text) | Self::Ended(text) => Some(text),
            _ => None,
        }
    }
}

/// One node.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) zone: String,
    /// The HTTP port it is started with; 0: a free one.
    pub(super) port: u16,
    pub(super) log: PathBuf,
    /// Counts its processes.
    pub(super) life: u64,
    pub(super) process: Option<Process>,
    pub(super) state: State,
    pub(super) address: Option<SocketAddr>,
    pub(super) reading: Option<Reading>,
    /// Requests per second between the last two looks.
    pub(super) rate: f64,
    /// Its last process ended otherwise than as asked.
    pub(super) failed: bool,
    /// Started anew as soon as it has ended.
    pub(super) again: bool,
    started: Time,
    looked: Time,
    failures: u32,
    asked_to_end: bool,
}

impl Member {
    pub(super) fn new(name: String, zone: String, port: u16, log: PathBuf) -> Self {
        Self {
            name,
            zone,
            port,
            log,
            life: 0,
            process: None,
            state: State::Starting,
            address: None,
            reading: None,
            rate: 0.0,
            failed: false,
            again: false,
            started: Time::ZERO,
            looked: Time::ZERO,
            failures: 0,
            asked_to_end: false,
        }
    }

    /// A new process of it runs.
    pub(super) fn begin(&mut self, process: Process, now: Time) -> String {
        let line = format!("{} started in zone {} (pid {})", self.name, self.zone, process.pid);
        self.process = Some(process);
        (self.state, self.address, self.reading) = (State::Starting, None, None);
        (self.rate, self.failures) = (0.0, 0);
        (self.again, self.asked_to_end, self.failed) = (false, false, false);
        (self.started, self.looked) = (now, now);
        line
    }

    /// It has been told to end, in order (`TERM`) or not.
    pub(super) fn ends(&mut self, in_order: bool) {
        self.asked_to_end = true;
        if in_order {
            self.state = State::Draining;
        }
    }

    /// Takes in an event of its present process; the line that says what it changed, if it did.
    pub(super) fn hear(&mut self, what: What, last_line: impl FnOnce() -> String, now: Time) -> Option<String> {
        match what {
            What::Listens(address) => {
                self.address = Some(address);
                None
            }
            What::Seen(reading) => self.seen(*reading, now),
            What::Ended(status) => Some(self.ended(status, last_line)),
        }
    }

    /// One word for how it is, and what there is to say beside it.
    pub(super) fn shown(&self) -> (&'static str, Option<String>) {
        let suspended = self.reading.as_ref().and_then(|reading| reading.suspended);
        match suspended.filter(|_| self.state == State::Ready) {
            Some(suspended) => ("suspended", Some(while_suspended(suspended))),
            None => (self.state.word(), self.state.detail().map(str::to_owned)),
        }
    }

    fn seen(&mut self, reading: Result<Reading, String>, now: Time) -> Option<String> {
        let Ok(reading) = reading else {
            self.failures += 1;
            let answered = self.reading.is_some();
            if answered && self.failures >= SILENT_AFTER {
                self.rate = 0.0;
            }
            let turns =
                answered && self.failures == SILENT_AFTER && matches!(self.state, State::Ready | State::NotReady(_));
            return turns.then(|| {
                self.state = State::Silent;
                format!("{} does not answer", self.name)
            });
        };
        self.failures = 0;
        if let Some(before) = &self.reading {
            let seconds = now.since(self.looked).as_secs_f64().max(0.001);
            self.rate = reading.requests.saturating_sub(before.requests) as f64 / seconds;
        }
        self.looked = now;
        let next = self.next_state(&reading);
        self.reading = Some(reading);
        self.turn(next, now)
    }

    fn next_state(&self, reading: &Reading) -> State {
        if self.asked_to_end || reading.phase == "draining" || reading.phase == "left" {
            return State::Draining;
        }
        match &reading.not_ready {
            // An answer that was on its way.
            _ if self.state == State::Frozen => State::Frozen,
            None => State::Ready,
            Some(_) if self.state == State::Starting => State::Starting,
            Some(reason) => State::NotReady(reason.clone()),
        }
    }

    fn turn(&mut self, next: State, now: Time) -> Option<String> {
        if next == self.state {
            return None;
        }
        let line = match (&self.state, &next) {
            (State::Starting, State::Ready) => {
                let address = self.address.map(|address| format!(" on http://{address}")).unwrap_or_default();
                Some(format!("{} ready{address} after {}", self.name, seconds(now.since(self.started))))
            }
            (_, State::Ready) => Some(format!("{} ready again", self.name)),
            (State::NotReady(_), State::NotReady(_)) => None,
            (_, State::NotReady(reason)) => Some(format!("{} not ready: {reason}", self.name)),
            (_, State::Draining) => Some(format!("{} drains", self.name)),
            _ => None,
        };
        self.state = next;
        line
    }

    fn ended(&mut self, status: Option<ExitStatus>, last_line: impl FnOnce() -> String) -> String {
        let how = match status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => format!("exit code {code}"),
            Some((None, Some(9))) => "killed".to_owned(),
            Some((None, Some(signal))) => format!("signal {signal}"),
            _ => "nobody knows how".to_owned(),
        };
        // Only a node that was asked to leave ends with 0; `nats-ring drain` asks it elsewhere than here.
        let as_asked = how == "exit code 0" || (self.asked_to_end && how == "killed");
        self.failed = !as_asked;
        let how = if as_asked { how } else { format!("{how}: {}", last_line()) };
        let line = format!("{} ended ({how})", self.name);
        (self.process, self.address, self.reading, self.rate) = (None, None, None, 0.0);
        self.state = State::Ended(how);
        line
    }
}

/// As people say it.
pub(super) fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::from_nanos(milliseconds * 1_000_000)
    }

    fn seen(phase: &str, not_ready: Option<&str>, requests: u64) -> What {
        let not_ready = not_ready.map(str::to_owned);
        What::Seen(Box::new(Ok(Reading { not_ready, phase: phase.to_owned(), requests, ..Reading::default() })))
    }

    fn silent() -> What {
        What::Seen(Box::new(Err("no answer within 1s".to_owned())))
    }

    fn member() -> Member {
        Member::new("node-1".to_owned(), "a".to_owned(), 0, PathBuf::new())
    }

    fn hear(member: &mut Member, what: What, milliseconds: u64) -> Option<String> {
        member.hear(what, || "HTTP address 127.0.0.1:8081 is taken".to_owned(), at(milliseconds))
    }

    #[test]
    fn a_node_is_starting_until_it_is_ready_and_its_requests_become_a_rate() {
        let mut node = member();
        assert_eq!(hear(&mut node, What::Listens(([127, 0, 0, 1], 8081).into()), 10), None);
        assert_eq!(hear(&mut node, seen("joining", Some("joining"), 0), 100), None);
        assert_eq!(node.state, State::Starting);
        let line = hear(&mut node, seen("active", None, 10), 1500).unwrap();
        assert_eq!(line, "node-1 ready on http://127.0.0.1:8081 after 1.5 s");
        assert_eq!(hear(&mut node, seen("active", None, 60), 2000), None);
        assert!((node.rate - 100.0).abs() < 0.1, "{}", node.rate);
    }

    #[test]
    fn one_look_that_fails_changes_nothing_and_two_make_it_silent() {
        let mut node = member();
        hear(&mut node, seen("active", None, 0), 0);
        assert_eq!(hear(&mut node, silent(), 300), None);
        assert_eq!(hear(&mut node, silent(), 600).unwrap(), "node-1 does not answer");
        assert_eq!(hear(&mut node, silent(), 900), None);
        assert_eq!(
            hear(&mut node, seen("suspended", Some("suspended"), 0), 1200).unwrap(),
            "node-1 not ready: suspended"
        );
        assert_eq!(hear(&mut node, seen("active", None, 0), 1500).unwrap(), "node-1 ready again");
    }

    #[test]
    fn an_end_that_nobody_asked_for_says_why_and_one_that_was_asked_for_does_not() {
        let mut node = member();
        let line = hear(&mut node, What::Ended(Some(ExitStatus::from_raw(5 << 8))), 0).unwrap();
        assert_eq!(line, "node-1 ended (exit code 5: HTTP address 127.0.0.1:8081 is taken)");
        let mut node = member();
        node.ends(true);
        assert_eq!(node.state, State::Draining);
        let line = hear(&mut node, What::Ended(Some(ExitStatus::from_raw(0))), 0).unwrap();
        assert_eq!(line, "node-1 ended (exit code 0)");
        let mut node = member();
        let line = hear(&mut node, What::Ended(Some(ExitStatus::from_raw(0))), 0).unwrap();
        assert_eq!((line.as_str(), node.failed), ("node-1 ended (exit code 0)", false), "drained from elsewhere");
        let mut node = member();
        node.ends(false);
        assert_eq!(hear(&mut node, What::Ended(Some(ExitStatus::from_raw(9))), 0).unwrap(), "node-1 ended (killed)");
        let mut node = member();
        node.ends(true);
        let line = hear(&mut node, What::Ended(Some(ExitStatus::from_raw(8 << 8))), 0).unwrap();
        assert!(line.contains("exit code 8: HTTP address"), "a drain that did not finish says why: {line}");
    }
}
