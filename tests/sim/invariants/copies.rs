//! Copies, judged by what the members of the recorded in-sync sets really hold: whoever is in a set has all that was committed, and
//! a partition goes on from such a member for as long as one lives.
//!
//! In: claims as they are written, the owners' writes and what of them was told committed, and the caches themselves. A write counts as
//! committed from the moment its owner's log says so. Where the store goes back everything is void until a later generation; what is
//! left of it is known all the same: a claim applies to the one it was compared with.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use nats_ring::cache::{CacheService, Version};
use nats_ring::coord::{Claim, ClaimState, OnLoss, PlanRecord, Revision};
use nats_ring::testing::NodeProcess;
use nats_ring::types::{Epoch, Generation, NodeId, PartitionId};

use super::leases::Leases;
use super::{Held, ensure};
use crate::history::{CopyDone, Term};

const HOLDS: &str = "who is in the in-sync set has everything that was committed";
const BY_MEMBER: &str = "a partition goes on from a member of its set while one lives";
const WAITS: &str = "a partition that is lost waits for its operators where they said so";

/// A write of an owner.
#[derive(Debug, Clone)]
struct Wrote {
    version: Version,
    key: Bytes,
    /// It deletes.
    deletes: bool,
}

/// What is known of a partition.
#[derive(Debug, Default)]
struct Place {
    claim: Option<Claim>,
    /// The newest committed write of each key, and whether it left an entry.
    committed: BTreeMap<Bytes, (Version, bool)>,
    /// Writes that are not known to be committed, in their order.
    tail: VecDeque<Wrote>,
    /// By key the newest write that may have taken its entry away.
    may_be_gone: HashMap<Bytes, Version>,
    /// The latest epoch that began with nothing.
    empty_since: Epoch,
    /// The latest epoch that a member took it over at, until it owns.
    taken_over: Option<Epoch>,
    /// The epoch of the first claim since the store went back.
    first_since: Option<Epoch>,
}

/// A claim as it was written.
pub(crate) struct Written<'a> {
    pub(crate) claim: &'a Claim,
    /// The revision that it replaced, and its own.
    pub(crate) expected: Revision,
    pub(crate) revision: Revision,
}

/// How an epoch of a partition began, for who judges what is read in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// With nothing.
    pub(crate) empty: bool,
    /// What was told before counts for nothing: it may be there, or not.
    pub(crate) anew: bool,
}

/// See the [module](self).
pub(crate) struct Copies {
    places: Vec<Place>,
    caches: HashMap<NodeProcess, Arc<CacheService>>,
    processes: HashMap<NodeId, NodeProcess>,
    /// By revision, of all that ever were taken: the store's own is the last one that was taken there.
    recorded: HashMap<(PartitionId, Revision), Claim>,
    /// Claims of no later generation count for nothing.
    void: Option<Generation>,
    newest: Generation,
    /// Takeovers by a member, and of what nobody had any more.
    pub(crate) takeovers: u32,
    pub(crate) lost: u32,
    /// Chunks that copies were made of, and changes they followed.
    pub(crate) chunks: u64,
    pub(crate) changes: u64,
}

/// How a new epoch came to its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// The same epoch goes on, or a switch: nothing is lost.
    Whole,
    /// A takeover: what was not committed may be lost.
    TakenOver,
    /// It begins with nothing.
    Empty,
}

impl Copies {
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            places: (0..partitions).map(|_| Place::default()).collect(),
            caches: HashMap::new(),
            processes: HashMap::new(),
            recorded: HashMap::new(),
            void: None,
            newest: Generation::default(),
            takeovers: 0,
            lost: 0,
            chunks: 0,
            changes: 0,
        }
    }

    pub(crate) fn partitions(&self) -> u16 {
        u16::try_from(self.places.len()).unwrap_or(0)
    }

    /// A process begins, which holds what it holds in there.
    pub(crate) fn started(&mut self, process: NodeProcess, cache: Arc<CacheService>) {
        self.caches.insert(process, cache);
    }

    /// It ended, and what it held with it.
    pub(crate) fn ended(&mut self, process: &NodeProcess) {
        self.caches.remove(process);
    }

    /// The process holds a lease as this incarnation.
    pub(crate) fn is(&mut self, id: NodeId, process: &NodeProcess) {
        self.processes.entry(id).or_insert_with(|| process.clone());
    }

    /// The store went back, or is another one.
    pub(crate) fn store_went_back(&mut self) {
        self.void = Some(self.newest);
        self.places.iter_mut().for_each(|place| *place = Place::default());
    }

    /// How this epoch of a partition began.
    pub(crate) fn began(&self, partition: PartitionId, epoch: Epoch) -> Beginning {
        let place = &self.places[partition.index()];
        let empty = place.empty_since == epoch;
        Beginning { empty, anew: empty || place.first_since == Some(epoch) }
    }

    /// A claim was written; how its epoch came to the state.
    pub(crate) fn wrote(
        &mut self,
        partition: PartitionId,
        written: &Written<'_>,
        (leases, plan): (&Leases, Option<&PlanRecord>),
    ) -> Result<Came, super::Broken> {
        let claim = written.claim;
        let replaced = self.recorded.get(&(partition, written.expected));
        let replaced = replaced.filter(|before| before.generation == claim.generation).cloned();
        self.recorded.insert((partition, written.revision), claim.clone());
        self.newest = self.newest.max(claim.generation);
        if self.void.is_some_and(|void| claim.generation <= void) {
            return Ok(self.wrote_in_the_void(partition, claim, replaced));
        }
        let place = &mut self.places[partition.index()];
        let before = place.claim.replace(claim.clone()).filter(|before| before.generation == claim.generation);
        let Some(before) = before else {
            *place = Place { claim: place.claim.take(), empty_since: claim.epoch, ..Place::default() };
            return Ok(Came::Empty);
        };
        let came = came(&before, claim);
        let lives = |id: &&NodeId| leases.is_live(id) == Some(true);
        match came {
            Came::Empty => {
                self.lost += 1;
                let survivor = before.replicas.iter().find(lives);
                ensure(survivor.is_none(), BY_MEMBER, || {
                    format!("partition {partition}: {claim:?} begins empty, though {survivor:?} lives of {before:?}")
                })?;
                let waits = plan.is_some_and(|plan| plan.config.on_loss == OnLoss::Wait);
                ensure(!waits, WAITS, || format!("partition {partition}: {claim:?} after {before:?}"))?;
                *place = Place { claim: place.claim.take(), empty_since: claim.epoch, ..Place::default() };
            }
            Came::TakenOver => {
                self.takeovers += 1;
                place.taken_over = Some(claim.epoch);
                ensure(before.replicas.contains(&claim.owner), BY_MEMBER, || {
                    format!("partition {partition}: {} takes over, and was no member of {before:?}", claim.owner)
                })?;
            }
            // A switch: every member has the owner's last write.
            Came::Whole if before.epoch != claim.epoch && before.owner != claim.owner => place.commit(None),
            Came::Whole => {}
        }
        for id in claim.replicas.iter().filter(lives) {
            self.has_all(partition, id, claim)?;
        }
        Ok(came)
    }

    /// The store went back, and nobody may have noticed: nothing is promised.
    fn wrote_in_the_void(&mut self, partition: PartitionId, claim: &Claim, replaced: Option<Claim>) -> Came {
        let place = &mut self.places[partition.index()];
        let first = place.claim.replace(claim.clone()).is_none();
        let came = replaced.map_or(Came::Empty, |before| came(&before, claim));
        let empty_since = if came == Came::Empty { claim.epoch } else { place.empty_since };
        let first_since = if first { Some(claim.epoch) } else { place.first_since };
        *place = Place { claim: place.claim.take(), empty_since, first_since, ..Place::default() };
        came
    }

    /// A member holds every committed write, or a later one of its key.
    fn has_all(&self, partition: PartitionId, id: &NodeId, claim: &Claim) -> Held {
        let Some(cache) = self.processes.get(id).and_then(|process| self.caches.get(process)) else { return Ok(()) };
        let place = &self.places[partition.index()];
        let lacking = place.committed.iter().find(|(key, (version, there))| match cache.held(partition, key) {
            Some((held, _)) => held < *version,
            None => *there && place.may_be_gone.get(*key).is_none_or(|gone| gone < version),
        });
        ensure(lacking.is_none(), HOLDS, || {
            let (key, committed) = lacking.map(|(key, written)| (key.clone(), *written)).unwrap_or_default();
            let held = cache.held(partition, &key).map(|(version, _)| version);
            let key = String::from_utf8_lossy(&key);
            format!("partition {partition}: key {key} was committed as {committed:?}, {id} has {held:?}, in {claim:?}")
        })
    }

    /// A process is the owner from now on: it holds all that was committed. Where it took the partition over, what else it holds
    /// is at all members; answers up to where it has everything then. An owner that gave a move up goes on as before: what some
    /// member lacked is still on its way there.
    pub(crate) fn owned(
        &mut self,
        partition: PartitionId,
        term: Term,
        by: &NodeProcess,
    ) -> Result<Option<Version>, super::Broken> {
        if self.void.is_some_and(|void| term.generation <= void) {
            return Ok(None);
        }
        let (Some(place), Some(cache)) = (self.places.get_mut(partition.index()), self.caches.get(by)) else {
            return Ok(None);
        };
        let Some(claim) = place.claim.clone().filter(|claim| claim.is_of(term)) else { return Ok(None) };
        let held = |key: &Bytes| cache.held(partition, key).map(|(version, _)| version);
        let mut kept = None;
        if let Some(epoch) = place.taken_over.filter(|epoch| *epoch <= term.epoch && claim.owner.node == by.node) {
            place.taken_over = None;
            kept = Some(place.kept(held));
            let (former, later): (VecDeque<_>, _) = place.tail.drain(..).partition(|wrote| wrote.version.epoch < epoch);
            place.tail = later;
            for wrote in former {
                if !wrote.deletes && held(&wrote.key).is_some_and(|held| held >= wrote.version) {
                    place.note(wrote);
                }
            }
        }
        self.has_all(partition, &claim.owner, &claim)?;
        Ok(kept)
    }

    /// The owner wrote: `may_end` where the entry has a time to live.
    pub(crate) fn appended(&mut self, partition: PartitionId, term: Term, version: Version, what: (Bytes, bool, bool)) {
        let (key, deletes, may_end) = what;
        let void = self.void.is_some_and(|void| term.generation <= void);
        let place = &mut self.places[partition.index()];
        if void || !place.claim.as_ref().is_some_and(|claim| claim.is_of(term)) {
            return;
        }
        if deletes || may_end {
            place.may_be_gone.insert(key.clone(), version);
        }
        place.tail.push_back(Wrote { version, key, deletes });
    }

    /// The owner was told that every member has all up to this version.
    pub(crate) fn committed(&mut self, partition: PartitionId, term: Term, version: Version) {
        let place = &mut self.places[partition.index()];
        if place.claim.as_ref().is_some_and(|claim| claim.is_of(term)) {
            place.commit(Some(version));
        }
    }

    /// Something is done to a copy.
    pub(crate) fn did(&mut self, done: CopyDone) {
        match done {
            CopyDone::Chunk(_) => self.chunks += 1,
            CopyDone::Changes(_) => self.changes += 1,
            CopyDone::Cleared | CopyDone::Follows => {}
        }
    }

    /// At rest: each claim's members hold what is committed.
    pub(crate) fn all_hold(&self, leases: &Leases) -> Held {
        for (n, place) in self.places.iter().enumerate() {
            let Some(claim) = &place.claim else { continue };
            let partition = PartitionId::new(u16::try_from(n).unwrap_or(0));
            for id in claim.replicas.iter().filter(|id| leases.is_live(id) == Some(true)) {
                self.has_all(partition, id, claim)?;
            }
        }
        Ok(())
    }

    /// What this member holds of a key.
    pub(crate) fn held(&self, id: &NodeId, partition: PartitionId, key: &[u8]) -> Option<(Version, Bytes)> {
        self.caches.get(self.processes.get(id)?)?.held(partition, key)
    }
}

trait IsOf {
    fn is_of(&self, term: Term) -> bool;
}

impl IsOf for Claim {
    fn is_of(&self, term: Term) -> bool {
        self.generation == term.generation && self.epoch == term.epoch
    }
}

impl Place {
    /// Everything up to there is committed; `None`: everything.
    fn commit(&mut self, upto: Option<Version>) {
        while self.tail.front().is_some_and(|wrote| upto.is_none_or(|upto| wrote.version <= upto)) {
            self.tail.pop_front().into_iter().for_each(|wrote| self.note(wrote));
        }
    }

    /// Up to where a copy has everything, going by what it holds of each key: copies are prefixes of what was written.
    fn kept(&self, held: impl Fn(&Bytes) -> Option<Version>) -> Version {
        let committed = self.committed.iter().flat_map(|(key, (version, _))| [Some(*version), held(key)]);
        let tail = self.tail.iter().map(|wrote| held(&wrote.key));
        committed.chain(tail).flatten().max().unwrap_or_default()
    }

    fn note(&mut self, wrote: Wrote) {
        self.committed.insert(wrote.key, (wrote.version, !wrote.deletes));
    }
}

fn came(before: &Claim, claim: &Claim) -> Came {
    let member = before.replicas.contains(&claim.owner);
    match claim.state {
        _ if claim.epoch == before.epoch => Came::Whole,
        ClaimState::Released => Came::Whole,
        ClaimState::Recovering => Came::TakenOver,
        ClaimState::Held if member => Came::Whole,
        ClaimState::Held => Came::Empty,
    }
}
