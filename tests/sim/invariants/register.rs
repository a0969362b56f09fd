//! Nothing acknowledged is lost in planned moves, and no read is stale: each key as a register, judged by versions.
//!
//! Values are unique and versions order the writes of a key, so a request is judged by what was known to be done before it
//! began: it may find a later state of the key, never an earlier one. What was acknowledged at quorum or strong is done for good;
//! what was so at eventual is done until a member of the set takes over without the owner's copy.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use nats_ring::cache::Version;
use nats_ring::types::{Epoch, PartitionId};

use super::frozen::Frozen;
use super::{Beginning, Held, ensure};
use crate::history::{Answered, Asked, ProcessId, Term};

pub(super) const NO_LOSS: &str = "nothing acknowledged is lost in a planned move";
const ONCE: &str = "a write executes once";
const NO_STALE: &str = "no read is stale, no write goes back";

const IN_TIME: &str = "no entry outlives its time to live";

/// Clocks are off by so much at the most, each.
const CLOCKS: f64 = 1.055;
/// An entry handed over lives longer by the ways of the messages that it was in, two of each chunk.
const ON_THE_WAY: Duration = Duration::from_millis(300);

/// The latest state of a key that is surely behind a request that begins now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Floor {
    version: Version,
    there: bool,
    /// When the request that showed it began.
    began: Duration,
    /// Where it has an end: from when on it may be gone.
    may_end: Option<Duration>,
}

/// A value that is to live for a time.
#[derive(Debug, Clone, Copy)]
struct Life {
    ttl: Duration,
    /// When its write began, and as which version it was surely done by when.
    began: Duration,
    done: Option<(Version, Duration)>,
    /// [`Frozen::until`] as it began.
    frozen: Duration,
}

#[derive(Default)]
struct Key {
    /// Of all that was answered, and of what outlives a takeover.
    floor: Option<Floor>,
    firm: Option<Floor>,
    values: HashMap<Version, u64>,
    versions: HashMap<u64, BTreeSet<Version>>,
    lives: HashMap<u64, Life>,
    /// Deletes that may still land, or have: when they began, and until when they may.
    deletes: Vec<(Duration, Duration)>,
}

/// What was known when a request began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Began {
    at: Duration,
    floor: Option<Floor>,
    firm: Option<Floor>,
    /// Its answer says what outlives a takeover.
    is_firm: bool,
    /// How often the key's partition had been taken over.
    takeovers: u32,
    empty_since: Epoch,
    /// How often what is known of the key's partition had been thrown away.
    resets: u32,
}

#[derive(Debug, Clone, Copy)]
struct Own {
    process: ProcessId,
    term: Term,
}

#[derive(Debug, Clone, Copy, Default)]
struct Partition {
    owned: Option<Own>,
    restored: Option<Own>,
    /// The latest epoch that began without what was there before.
    empty_since: Epoch,
    resets: u32,
    /// Times that it went on from a copy that may not have had all that its owner had.
    takeovers: u32,
}

/// What an epoch of a partition began without: of the epochs before it all that is beyond a version.
#[derive(Debug, Clone, Copy)]
struct Lost {
    since: Epoch,
    beyond: Version,
}

impl Lost {
    /// Whether it took the write at `before` away, so that the same one was executed anew at `after`.
    fn is_between(&self, before: Version, after: Version) -> bool {
        before > self.beyond && before.epoch < self.since && self.since <= after.epoch
    }
}

/// Every key of the work load.
pub(crate) struct Register {
    keys: Vec<Key>,
    partition_of: Vec<PartitionId>,
    partitions: Vec<Partition>,
    lost: Vec<Vec<Lost>>,
    pub(super) frozen: Frozen,
    generation: u64,
    /// Messages may come twice, and writes with them.
    pub(crate) duplicates: bool,
    /// The store went back: terms of partitions that nobody alive holds may begin again.
    went_back: bool,
    /// Times that a partition began empty though it had had an owner.
    pub(crate) losses: u32,
}

impl Register {
    pub(crate) fn new(partition_of: Vec<PartitionId>, partitions: u16) -> Self {
        let keys = partition_of.iter().map(|_| Key::default()).collect();
        let lost = vec![Vec::new(); usize::from(partitions)];
        let partitions = vec![Partition::default(); usize::from(partitions)];
        let (generation, went_back, duplicates, losses) = (0, false, false, 0);
        let frozen = Frozen::default();
        Self { keys, partition_of, partitions, lost, frozen, generation, went_back, duplicates, losses }
    }

    /// State was handed over.
    pub(crate) fn restored(&mut self, process: ProcessId, partition: PartitionId, term: Term) {
        self.partitions[partition.index()].restored = Some(Own { process, term });
    }

    /// What the owner held is gone.
    pub(crate) fn dropped(&mut self, process: ProcessId, partition: PartitionId) {
        let known = &mut self.partitions[partition.index()];
        known.owned = known.owned.filter(|own| own.process != process);
    }

    /// Somebody is the owner from now on: with what was there before, or with nothing, where the answer is `true`.
    pub(super) fn owned(&mut self, process: ProcessId, partition: PartitionId, term: Term) -> bool {
        let known = self.partitions[partition.index()];
        let handed = known.restored.is_some_and(|own| own.process == process && own.term == term);
        let kept = known.owned.is_some_and(|own| own.process == process);
        let begins_empty = !handed && !kept;
        self.begins((process, partition), term, Beginning { empty: begins_empty, anew: begins_empty })
    }

    /// The same, where it is known how it begins.
    pub(super) fn begins(
        &mut self,
        (process, partition): (ProcessId, PartitionId),
        term: Term,
        Beginning { empty, anew }: Beginning,
    ) -> bool {
        if term.generation.get() > self.generation {
            self.generation = term.generation.get();
            (0..self.partitions.len()).for_each(|p| self.begin_again(p));
        } else if anew && self.went_back {
            self.begin_again(partition.index());
        }
        let known = &mut self.partitions[partition.index()];
        known.owned = Some(Own { process, term });
        if empty {
            known.empty_since = known.empty_since.max(term.epoch);
            self.lost[partition.index()].push(Lost { since: term.epoch, beyond: Version::default() });
            self.losses += u32::from(term.epoch > Epoch::new(1));
        }
        empty && term.epoch > Epoch::new(1)
    }

    /// A member took the partition over: of what was answered at eventual, anything may be lost.
    pub(super) fn taken_over(&mut self, partition: PartitionId) {
        self.partitions[partition.index()].takeovers += 1;
        for (key, of) in self.keys.iter_mut().zip(&self.partition_of) {
            if *of == partition {
                key.floor = key.firm;
            }
        }
    }

    /// This epoch goes on from a member's copy, which had everything up to there.
    pub(super) fn kept(&mut self, partition: PartitionId, epoch: Epoch, upto: Version) {
        self.lost[partition.index()].push(Lost { since: epoch, beyond: upto });
    }

    /// The store went back, or was made anew.
    pub(crate) fn store_went_back(&mut self) {
        self.went_back = true;
    }

    /// What is known of a partition's keys counts no more.
    fn begin_again(&mut self, partition: usize) {
        let known = &mut self.partitions[partition];
        self.lost[partition].clear();
        *known = Partition { resets: known.resets + 1, takeovers: known.takeovers, ..Partition::default() };
        for (key, of) in self.keys.iter_mut().zip(&self.partition_of) {
            if of.index() == partition {
                // What was asked for stays known: it may have landed after what made all else void.
                let (lives, deletes) = (std::mem::take(&mut key.lives), std::mem::take(&mut key.deletes));
                *key = Key { lives, deletes, ..Key::default() };
            }
        }
    }

    /// A request begins; `is_firm` at quorum and strong.
    pub(crate) fn began(&mut self, key: usize, asked: Asked, (is_firm, at): (bool, Duration)) -> Began {
        let Partition { empty_since, resets, takeovers, .. } = self.partitions[self.partition_of[key].index()];
        let known = &mut self.keys[key];
        match asked {
            Asked::Delete => known.deletes.push((at, Duration::MAX)),
            Asked::Set(value, Some(ttl)) => {
                let life = Life { ttl, began: at, done: None, frozen: self.frozen.until(at) };
                known.lives.insert(value, life);
            }
            Asked::Set(..) | Asked::Get => {}
        }
        Began { at, floor: known.floor, firm: known.firm, is_firm, takeovers, empty_since, resets }
    }

    /// It was answered, or given up by its client.
    pub(crate) fn ended(
        &mut self,
        key: usize,
        asked: Asked,
        mut began: Began,
        (answered, at): (Answered, Duration),
    ) -> Held {
        let known = self.partitions[self.partition_of[key].index()];
        if began.resets != known.resets {
            return Ok(());
        }
        if began.takeovers != known.takeovers {
            began.floor = began.firm;
        }
        let refused = matches!(answered, Answered::Refused | Answered::TooFew);
        if asked == Asked::Delete && answered != Answered::Unknown {
            let known = &mut self.keys[key];
            let mine = known.deletes.iter().position(|(from, until)| *from == began.at && *until == Duration::MAX);
            match mine {
                Some(n) if refused => drop(known.deletes.remove(n)),
                Some(n) => known.deletes[n].1 = at,
                None => {}
            }
        }
        match (asked, answered) {
            (_, Answered::Unknown | Answered::Refused | Answered::TooFew) => Ok(()),
            (Asked::Set(value, _), Answered::Stored(version)) => {
                self.not_before(key, began, version, true)?;
                self.is_of(key, version, value)?;
                let may_end = self.done(key, value, (version, at));
                self.raise(key, began, Floor { version, there: true, began: began.at, may_end });
                Ok(())
            }
            (_, Answered::Found(value, version)) => {
                self.not_before(key, began, version, false)?;
                self.is_of(key, version, value)?;
                let may_end = self.done(key, value, (version, at));
                self.is_in_time(key, value, began)?;
                self.raise(key, began, Floor { version, there: true, began: began.at, may_end });
                Ok(())
            }
            (_, Answered::Deleted(version)) => {
                self.not_before(key, began, version, true)?;
                self.raise(key, began, Floor { version, there: false, began: began.at, may_end: None });
                Ok(())
            }
            (_, Answered::Missing) => self.may_be_missing(key, began, at),
            (_, Answered::Stored(_)) => Ok(()),
        }
    }

    fn raise(&mut self, key: usize, began: Began, floor: Floor) {
        // Answered across a takeover, it may be what was lost in it.
        let stands = began.takeovers == self.partitions[self.partition_of[key].index()].takeovers;
        let known = &mut self.keys[key];
        for (known, raised) in [(&mut known.floor, stands || began.is_firm), (&mut known.firm, began.is_firm)] {
            if raised && known.is_none_or(|before| before.version < floor.version) {
                *known = Some(floor);
            }
        }
    }

    /// What is found, or written, is not older than what was done before it began.
    fn not_before(&self, key: usize, began: Began, version: Version, write: bool) -> Held {
        let ahead = began
            .floor
            .is_none_or(|floor| version > floor.version || version == floor.version && !write && floor.there);
        ensure(ahead, NO_STALE, || format!("key {key}: {version} after {:?} was done", began.floor))?;
        ensure(version.epoch >= began.empty_since, NO_STALE, || {
            format!("key {key}: {version}, though its partition was lost before epoch {}", began.empty_since)
        })
    }

    /// One version, one value; and one write, one version. But a write and its name are lost together (docs/decisions/0012): where
    /// the owner's copy was, and the one it goes on from did not have it yet, or none is left, a write that was not answered is
    /// executed when it is sent again, though others may have read it meanwhile.
    fn is_of(&mut self, key: usize, version: Version, value: u64) -> Held {
        let first = *self.keys[key].values.entry(version).or_insert(value);
        ensure(first == value, NO_STALE, || format!("key {key}: {version} is {first} and {value}"))?;
        let lost = &self.lost[self.partition_of[key].index()];
        let written = self.keys[key].versions.entry(value).or_default();
        written.insert(version);
        let mut in_turn = written.iter().zip(written.iter().skip(1));
        let again = in_turn.find(|(before, after)| !lost.iter().any(|lost| lost.is_between(**before, **after)));
        ensure(again.is_none() || self.duplicates, ONCE, || {
            let (before, after) = again.unwrap_or((&version, &version));
            format!("key {key}: the write of {value} is version {before} and version {after}")
        })
    }

    /// The write of this value is done; answers from when on it may be gone by its time to live.
    fn done(&mut self, key: usize, value: u64, by: (Version, Duration)) -> Option<Duration> {
        let life = self.keys[key].lives.get_mut(&value)?;
        // Executed anew, it begins to live then.
        if life.done.is_none_or(|(version, _)| version < by.0) {
            life.done = Some(by);
        }
        Some(life.began + life.ttl.div_f64(CLOCKS))
    }

    /// No entry outlives its time, whatever became of it: handed over, its time runs on. Who takes in what came while its process
    /// was frozen cannot tell how long it waited (docs/protocol.md, what is not promised): it lives longer by that.
    fn is_in_time(&self, key: usize, value: u64, began: Began) -> Held {
        let Some(life) = self.keys[key].lives.get(&value).copied() else { return Ok(()) };
        let Life { ttl, done: Some((_, done)), frozen, .. } = life else { return Ok(()) };
        let waited = self.frozen.until(began.at).saturating_sub(frozen);
        let over = done + ttl.mul_f64(CLOCKS) + ON_THE_WAY + waited;
        ensure(began.at <= over, IN_TIME, || {
            format!("key {key}: {value} is found at {:?}, stored by {done:?} for {ttl:?}", began.at)
        })
    }

    /// What was acknowledged is there, unless it was deleted since, or lost with its holder, or its time is over.
    fn may_be_missing(&self, key: usize, began: Began, at: Duration) -> Held {
        let Some(floor) = began.floor.filter(|floor| floor.there) else { return Ok(()) };
        let lost = self.partitions[self.partition_of[key].index()].empty_since > floor.version.epoch;
        let deleted = self.keys[key].deletes.iter().any(|(_, until)| *until >= floor.began);
        // A later write that nobody heard of may have given it an end.
        let later = self.keys[key].lives.values().filter(|life| life.done.is_none_or(|(_, done)| done >= floor.began));
        let replaced = later.into_iter().any(|life| at >= life.began + life.ttl.div_f64(CLOCKS));
        let over = replaced || floor.may_end.is_some_and(|end| at >= end);
        ensure(lost || deleted || over, NO_LOSS, || format!("key {key}: missing after {floor:?} was done"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId::new(0);

    fn v(epoch: u64, sequence: u64) -> Version {
        Version { epoch: Epoch::new(epoch), sequence }
    }

    fn answered(register: &mut Register, asked: Asked, answer: Answered) -> Held {
        let began = register.began(0, asked, (false, Duration::ZERO));
        register.ended(0, asked, began, (answer, Duration::ZERO))
    }

    /// What others have read as 1.5 is 2.1 to who wrote it, after a takeover that kept everything up to `kept`.
    fn executed_anew(kept: Option<Version>) -> Held {
        let mut register = Register::new(vec![P], 1);
        answered(&mut register, Asked::Get, Answered::Found(7, v(1, 5)))?;
        if let Some(kept) = kept {
            register.taken_over(P);
            register.kept(P, Epoch::new(2), kept);
        }
        answered(&mut register, Asked::Set(7, None), Answered::Stored(v(2, 1)))
    }

    #[test]
    fn a_write_is_executed_anew_only_where_its_first_execution_was_lost() {
        let once = |held: Held| held.map_err(|broken| broken.invariant);
        assert_eq!(once(executed_anew(None)), Err(ONCE));
        assert_eq!(once(executed_anew(Some(v(1, 5)))), Err(ONCE));
        assert_eq!(once(executed_anew(Some(v(1, 4)))), Ok(()));
    }
}
