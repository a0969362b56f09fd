//! What was seen from outside, in true time: the history of a run.
//!
//! In: every call of a hook, execution, request, write to the store and fault. Out: the invariants judge each as it
//! comes, and where the run is replayed to be read, a timeline of them all.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nats_ring::cache::Version;
use nats_ring::service::Release;
use nats_ring::testing::{Observed, Observer};
use nats_ring::types::{Clock, Consistency, Epoch, FencingToken, Generation, PartitionId, Time};
use tokio::sync::Notify;

use crate::invariants::{Broken, Held, Judge};

/// A process, counted over the run: a name that is started again is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessId(pub(crate) u16);

/// What is judged of a fencing token beside the incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Term {
    pub(crate) generation: Generation,
    pub(crate) epoch: Epoch,
}

impl From<&FencingToken> for Term {
    fn from(token: &FencingToken) -> Self {
        Self { generation: token.generation, epoch: token.epoch }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{} e{}", self.generation, self.epoch)
    }
}

/// Which hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Own,
    Release(Release),
    Snapshot,
    Restore,
    Discard,
}

/// What was done to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyDone {
    Cleared,
    Follows,
    /// Changes up to this version.
    Changes(Version),
    Chunk(usize),
}

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A value that no other write has, and perhaps for how long.
    Set(u64, Option<Duration>),
    Get,
    Delete,
}

/// How it ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    Stored(Version),
    Found(u64, Version),
    Missing,
    Deleted(Version),
    /// It may have been executed.
    Unknown,
    /// Surely not executed.
    Refused,
    /// The same: there are too few copies for what was asked.
    TooFew,
}

/// Something that was seen.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Started { node: String },
    Ended { how: String },
    Fault(String),
    Seen(String),
    HookBegan { hook: Hook, partition: PartitionId, term: Term },
    HookEnded { hook: Hook, partition: PartitionId, term: Term, ok: bool },
    Executed { partition: PartitionId, term: Term },
    Copy { partition: PartitionId, done: CopyDone },
    Wrote { partition: PartitionId, version: Version },
    Committed { partition: PartitionId, version: Version },
    Asked { client: usize, key: usize, asked: Asked, level: Option<Consistency> },
    Answered { client: usize, key: usize, answered: Answered, why: String },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { node } => write!(f, "process of {node} starts"),
            Self::Ended { how } => write!(f, "process ends: {how}"),
            Self::Fault(what) => write!(f, "!! {what}"),
            Self::Seen(what) => f.write_str(what),
            Self::HookBegan { hook, partition, term } => write!(f, "{hook:?} of {partition} at {term} begins"),
            Self::HookEnded { hook, partition, term, ok } => {
                let how = if *ok { "ends" } else { "fails or is cancelled" };
                write!(f, "{hook:?} of {partition} at {term} {how}")
            }
            Self::Executed { partition, term } => write!(f, "executes for {partition} at {term}"),
            Self::Copy { partition, done } => write!(f, "copy of {partition}: {done:?}"),
            Self::Wrote { partition, version } => write!(f, "writes {version} of {partition}"),
            Self::Committed { partition, version } => write!(f, "hears that {version} of {partition} is committed"),
            Self::Asked { client, key, asked, level } => {
                let level = level.map_or(String::new(), |level| format!(" at {level}"));
                write!(f, "client {client} asks {asked:?} of key {key}{level}")
            }
            Self::Answered { client, key, answered, why } => {
                write!(f, "client {client} is answered {answered:?} for key {key} {why}")
            }
        }
    }
}

/// One line of the timeline.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) at: Duration,
    pub(crate) process: Option<ProcessId>,
    pub(crate) what: What,
}

impl Observer for Witness {
    fn saw(&self, at: Duration, what: &Observed<'_>) {
        let mut seen = self.seen();
        if let Some(kept) = &mut seen.kept {
            kept.add(Line { at, process: None, what: What::Seen(describe(what)) });
        }
        let held = seen.judge.saw(at, what);
        seen.keep_broken(held, at);
        (seen.moment, seen.at_once) = (at, if seen.moment == at { seen.at_once + 1 } else { 0 });
        if seen.at_once == AT_ONCE_MAX {
            let how = format!("{AT_ONCE_MAX} writes and messages at {at:?}, the last: {}", describe(what));
            seen.keep_broken(Err(Broken { invariant: STILL, how }), at);
            self.still.notify_one();
        }
    }
}

const STILL: &str = "nothing goes round at one moment";
/// Far more than a node that leaves sends to have its subscriptions end.
const AT_ONCE_MAX: u32 = 200_000;

/// For the timeline; requests and their answers are told by clients and services.
fn describe(what: &Observed<'_>) -> String {
    match what {
        Observed::Sent(write) => {
            format!("{} sends #{} {} at revision {}", write.by, write.number, write.key, write.expected.0)
        }
        Observed::Decided { write, outcome } => {
            format!(
                "store takes #{} {}: {outcome:?} {}",
                write.number,
                write.key,
                String::from_utf8_lossy(&write.value)
            )
        }
        Observed::Answered { write, outcome, .. } => format!("{} hears of #{}: {outcome:?}", write.by, write.number),
        Observed::Published { by, message, .. } => {
            let by = by.map_or("a client".to_owned(), ToString::to_string);
            format!("{by} publishes {} ({} bytes)", message.subject, message.payload.len())
        }
        other => format!("{other:?}"),
    }
}

/// Sees everything. Shared by all that can tell.
pub(crate) struct Witness {
    /// The ring's, once there is one.
    clock: OnceLock<(Arc<dyn Clock>, Time)>,
    seen: Mutex<Seen>,
    /// So much happens at one moment that it will not end.
    still: Notify,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.process.map(|process| format!("p{}", process.0)).unwrap_or_default();
        write!(f, "{:>10.3} s {process:>4}  {}", self.at.as_secs_f64(), self.what)
    }
}

/// What becomes of a run's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeline {
    None,
    /// For comparing two.
    Kept,
    /// As it happens, so that a run that stands still shows where.
    Printed,
}

struct Kept {
    prints: bool,
    lines: Vec<Line>,
}

impl Kept {
    fn add(&mut self, line: Line) {
        if self.prints {
            println!("{line}");
        } else {
            self.lines.push(line);
        }
    }
}

struct Seen {
    judge: Judge,
    broken: Option<Broken>,
    kept: Option<Kept>,
    /// When something happened last, and how much has in that moment.
    moment: Duration,
    at_once: u32,
}

impl Seen {
    fn keep_broken(&mut self, held: Held, at: Duration) {
        let Err(broken) = held else { return };
        if self.broken.is_none() {
            self.broken = Some(broken.clone());
            if let Some(kept) = &mut self.kept {
                let what = What::Fault(format!("BROKEN: {broken}"));
                kept.add(Line { at, process: None, what });
            }
        }
    }
}

impl Witness {
    pub(crate) fn new(judge: Judge, timeline: Timeline) -> Arc<Self> {
        let kept =
            (timeline != Timeline::None).then(|| Kept { prints: timeline == Timeline::Printed, lines: Vec::new() });
        let seen = Mutex::new(Seen { judge, broken: None, kept, moment: Duration::ZERO, at_once: 0 });
        Arc::new(Self { clock: OnceLock::new(), seen, still: Notify::new() })
    }

    /// The ring was made in this moment, and this is its clock.
    pub(crate) fn begin(&self, clock: Arc<dyn Clock>) {
        let now = clock.now();
        let _ = self.clock.set((clock, now));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.clock.get().map_or(Duration::ZERO, |(clock, began)| clock.now().since(*began))
    }

    /// Only for the timeline; `what` is not made where there is none.
    pub(crate) fn note(&self, process: Option<ProcessId>, what: impl FnOnce() -> What) {
        if let Some(kept) = &mut self.seen().kept {
            kept.add(Line { at: self.now(), process, what: what() });
        }
    }

    /// Lets the judge look at something; the first thing that is broken stays.
    pub(crate) fn judge(&self, look: impl FnOnce(&mut Judge, Duration) -> Held) {
        let at = self.now();
        let mut seen = self.seen();
        let held = look(&mut seen.judge, at);
        seen.keep_broken(held, at);
    }

    /// Asks the judge something.
    pub(crate) fn ask<T>(&self, look: impl FnOnce(&mut Judge) -> T) -> T {
        look(&mut self.seen().judge)
    }

    pub(crate) fn broken(&self) -> Option<Broken> {
        self.seen().broken.clone()
    }

    /// Waits until the run stands still: its time does not pass any more.
    pub(crate) async fn stood_still(&self) -> Broken {
        loop {
            self.still.notified().await;
            if let Some(broken) = self.broken() {
                return broken;
            }
        }
    }

    pub(crate) fn take_lines(&self) -> Vec<Line> {
        self.seen().kept.take().map(|kept| kept.lines).unwrap_or_default()
    }
}
