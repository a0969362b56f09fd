//! A follower: which epoch it follows, where its copy stands, and what it answers to what it is asked.

use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::incoming::{Chunk, Incoming};
use super::log::follows;
use super::{Ask, Bounds, Change, Leader, Log, Told};
use crate::types::guard::{Guard, holds};
use crate::types::{Epoch, Time, Version};

/// What the service does before the answer is given. Where it cannot: [`Follower::failed`], and its answer instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Apply {
    /// Forget what is held of the partition.
    Clear,
    /// Writes, in their order. One that is older than what its entry has is passed over.
    Changes(Vec<Change>),
    /// A part of a copy. What is there and newer stays.
    Chunk {
        /// In the service's own encoding.
        body: Bytes,
        /// How long ago it was made.
        age: Duration,
    },
}

/// What there is of the partition.
#[derive(Debug, Clone)]
enum Holding {
    /// Nothing that could be built on.
    Nothing,
    /// A copy under way.
    Arriving(Incoming),
    /// Everything up to the log's tail.
    Whole(Whole),
}

#[derive(Debug, Clone)]
struct Whole {
    log: Log,
    /// Its copy was made while writes went on: before this version it may hold parts of later writes.
    blurred_until: Option<Version>,
    /// The copy of the present owner that it came from.
    stream: Option<u64>,
}

impl Whole {
    /// Whether it holds exactly what was written up to its place.
    fn is_sharp(&self) -> bool {
        self.blurred_until.is_none_or(|until| self.log.tail() >= until)
    }
}

/// The copy of one partition at a node that does not own it. Its answers go out once the service has done what comes with
/// them; it is asked one thing at a time.
#[derive(Debug, Clone)]
pub struct Follower {
    bounds: Bounds,
    /// No lower epoch is listened to.
    promised: Epoch,
    /// The highest number that its owner gave what it sent: lower ones come late.
    newest: u64,
    holding: Holding,
}

impl Follower {
    /// One that holds nothing; owners below the `promised` epoch are refused.
    pub fn new(promised: Epoch, bounds: Bounds) -> Self {
        Self { bounds, promised, newest: 0, holding: Holding::Nothing }
    }

    /// What is left once its copy is let go, where the owner of `known` is known: owners before that one, which may not have heard
    /// of it yet, are refused. What they brought would stay, for nobody asks for it any more.
    #[must_use]
    pub fn let_go(&self, known: Epoch) -> Self {
        Self::new(self.promised.max(known), self.bounds)
    }

    /// The copy of a former owner, which follows the owner of `promised`.
    pub fn from_leader(promised: Epoch, leader: Leader) -> Self {
        let (mut log, bounds) = leader.into_log();
        log.pin(None, 0);
        let whole = Whole { log, blurred_until: None, stream: None };
        Self { bounds, promised, newest: 0, holding: Holding::Whole(whole) }
    }

    /// One whose service has everything up to there, from a copy that was kept.
    pub fn kept(promised: Epoch, at: Version, bounds: Bounds) -> Self {
        let whole = Whole { log: Log::starting_at(at, bounds.log_bytes), blurred_until: None, stream: None };
        Self { bounds, promised, newest: 0, holding: Holding::Whole(whole) }
    }

    /// Goes on in the next incarnation of its node, to which nothing comes that was sent to this one. `None` where it does not
    /// hold exactly what was written up to its place: that would be worth nothing to another owner.
    pub fn into_next(self) -> Option<Self> {
        match self.holding {
            Holding::Whole(whole) if whole.is_sharp() => {
                let whole = Whole { blurred_until: None, stream: None, ..whole };
                Some(Self { newest: 0, holding: Holding::Whole(whole), ..self })
            }
            _ => None,
        }
    }

    /// Goes on as the owner of `epoch`, from its own copy. `None` where it holds none, or has promised a later one.
    pub fn into_leader(mut self, epoch: Epoch) -> Option<Leader> {
        self.follow(epoch);
        match self.holding {
            Holding::Whole(whole) if self.promised <= epoch => Some(Leader::new(epoch, whole.log, self.bounds)),
            _ => None,
        }
    }

    /// Where it stands; `None` where it holds no whole copy.
    pub fn at(&self) -> Option<Version> {
        match &self.holding {
            Holding::Whole(whole) => Some(whole.log.tail()),
            _ => None,
        }
    }

    /// Whether it holds exactly what was written up to [`Follower::at`]: a copy made under writes does only once it has
    /// all that was written meanwhile.
    pub fn is_sharp(&self) -> bool {
        matches!(&self.holding, Holding::Whole(whole) if whole.is_sharp())
    }

    /// The number of what its owner sent last: it grows with whatever comes.
    pub fn heard(&self) -> u64 {
        self.newest
    }

    /// The lowest epoch it listens to.
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// Refuses every lower epoch from now on; where it stands. `None` where it holds no whole copy.
    pub fn promise(&mut self, epoch: Epoch) -> Option<Version> {
        if holds(Guard::ReplicaPromise) {
            self.follow(epoch);
        }
        self.at()
    }

    /// The service could not do what it was to: there is no whole copy any more. Answer with this.
    pub fn failed(&mut self) -> Told {
        self.holding = Holding::Nothing;
        Told::Elsewhere { at: None }
    }

    /// Takeover: writes right after `after`, fetched from a survivor. What the service is to do.
    pub fn fetched(&mut self, after: Version, changes: Vec<Change>) -> Vec<Apply> {
        self.append(self.promised, after, changes).0
    }

    /// What the service is to do, and what is answered once it has.
    pub fn ask(&mut self, now: Time, ask: Ask) -> (Vec<Apply>, Told) {
        let epoch = ask.epoch();
        if epoch < self.promised && holds(Guard::ReplicaEpoch) {
            return nothing(Told::Stale { promised: self.promised });
        }
        if let Ask::Leave { .. } = ask {
            return nothing(refused("this node does not own the partition"));
        }
        if let Ask::Promise { epoch } = ask {
            return nothing(Told::Promised { at: self.promise(epoch) });
        }
        self.follow(epoch);
        match ask {
            Ask::Append { number, prev, changes, .. } => match self.number(number) {
                Ok(()) => self.append(epoch, prev, changes),
                Err(late) => nothing(late),
            },
            Ask::CopyBegin { stream, since, .. } => match self.number(stream) {
                Ok(()) => self.begin(stream, since),
                Err(late) => nothing(late),
            },
            Ask::CopyChunk { stream, number, checksum, age_ms, body, .. } => {
                if xxh3_64(&body) != checksum {
                    return nothing(refused(&format!("chunk {number} is corrupt: begin the copy anew")));
                }
                let chunk = Chunk { body, age: Duration::from_millis(age_ms.into()) };
                self.chunk(now, stream, number, chunk)
            }
            Ask::CopyEnd { stream, chunks, until, .. } => nothing(self.end(stream, chunks, until)),
            Ask::Fetch { after, .. } => nothing(Told::Fetched(self.fetch(after))),
            Ask::Promise { .. } | Ask::Leave { .. } => nothing(Told::Promised { at: self.at() }),
        }
    }

    /// Follows the owner of this epoch, where it is a later one. What a former owner left half done is worth nothing: a
    /// copy that is not sharp may hold writes of that owner which the new one does not have.
    fn follow(&mut self, epoch: Epoch) {
        if epoch <= self.promised {
            return;
        }
        (self.promised, self.newest) = (epoch, 0);
        match &mut self.holding {
            Holding::Whole(whole) if whole.is_sharp() || !holds(Guard::ReplicaWhole) => {
                (whole.blurred_until, whole.stream) = (None, None)
            }
            _ => self.holding = Holding::Nothing,
        }
    }

    /// What an owner numbers comes in the order of the numbers, or late: then nobody waits for the answer any more, and
    /// what it says may be wrong by now. Above all it may not clear a copy that has been finished since.
    fn number(&mut self, number: u64) -> Result<(), Told> {
        if number < self.newest && holds(Guard::ReplicaLate) {
            return Err(refused("it was overtaken by a later message of this owner: nothing to do"));
        }
        self.newest = number;
        Ok(())
    }

    fn append(&mut self, epoch: Epoch, prev: Version, mut changes: Vec<Change>) -> (Vec<Apply>, Told) {
        let versions = || std::iter::once(prev).chain(changes.iter().map(|change| change.version));
        if let Some((before, next)) = versions().zip(versions().skip(1)).find(|(before, next)| !follows(*before, *next))
        {
            return nothing(refused(&format!("{next} cannot come right after {before}: a defect of who sent it")));
        }
        let Holding::Whole(whole) = &mut self.holding else { return nothing(Told::Elsewhere { at: None }) };
        let at = whole.log.tail();
        let last = changes.last().map_or(prev, |change| change.version);
        let already = match versions().position(|version| version == at) {
            Some(already) => already,
            None if !holds(Guard::ReplicaPrev) => changes.iter().filter(|change| change.version <= at).count(),
            // Either all of it is there, for this owner's writes are one row, or the copy is of another history.
            None if at.epoch == epoch && prev < at => return nothing(Told::At(at)),
            None => return nothing(Told::Elsewhere { at: Some(at) }),
        };
        changes.drain(..already);
        for change in &changes {
            whole.log.push(change.clone());
        }
        let apply = if changes.is_empty() { Vec::new() } else { vec![Apply::Changes(changes)] };
        (apply, Told::At(last))
    }

    fn begin(&mut self, stream: u64, since: Version) -> (Vec<Apply>, Told) {
        let again = match &self.holding {
            Holding::Arriving(incoming) => incoming.stream == stream,
            Holding::Whole(whole) => whole.stream == Some(stream),
            Holding::Nothing => false,
        };
        if again {
            return nothing(Told::Accepted);
        }
        self.holding = Holding::Arriving(Incoming::new(stream, since, self.bounds.held_max_bytes));
        let apply = if holds(Guard::ClearBeforeCopy) { vec![Apply::Clear] } else { Vec::new() };
        (apply, Told::Accepted)
    }

    fn chunk(&mut self, now: Time, stream: u64, number: u32, chunk: Chunk) -> (Vec<Apply>, Told) {
        match &mut self.holding {
            Holding::Arriving(incoming) if incoming.stream == stream => match incoming.take(now, number, chunk) {
                Ok(due) => {
                    let apply = due.into_iter().map(|Chunk { body, age }| Apply::Chunk { body, age });
                    (apply.collect(), Told::Accepted)
                }
                Err(why) => nothing(refused(&why)),
            },
            Holding::Whole(whole) if whole.stream == Some(stream) => nothing(Told::Accepted),
            _ => nothing(unknown_copy()),
        }
    }

    fn end(&mut self, stream: u64, chunks: u32, until: Version) -> Told {
        match &self.holding {
            Holding::Arriving(incoming) if incoming.stream == stream => {
                if let Err(why) = incoming.is_whole(chunks) {
                    return refused(&why);
                }
                let log = Log::starting_at(incoming.since, self.bounds.log_bytes);
                let at = log.tail();
                self.holding = Holding::Whole(Whole { log, blurred_until: Some(until), stream: Some(stream) });
                Told::At(at)
            }
            Holding::Whole(whole) if whole.stream == Some(stream) => Told::At(whole.log.tail()),
            _ => unknown_copy(),
        }
    }

    fn fetch(&self, after: Version) -> Vec<Change> {
        let Holding::Whole(whole) = &self.holding else { return Vec::new() };
        whole.log.after(after, self.bounds.batch_max_bytes).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        match &self.holding {
            Holding::Arriving(incoming) => incoming.waiting(),
            _ => (0, 0),
        }
    }
}

fn nothing(told: Told) -> (Vec<Apply>, Told) {
    (Vec::new(), told)
}

fn refused(why: &str) -> Told {
    Told::Refused(why.to_owned())
}

fn unknown_copy() -> Told {
    refused("no such copy is under way here: begin it anew")
}
