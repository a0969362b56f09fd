//! What a ring under test is made with, and what a node of it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::clock::SimulatedClock;
use super::observer::Observer;
use super::ring::TestRing;
use crate::node::{Copying, DEFAULT_LEASE, Returning};
use crate::ring::Timing;
use crate::rpc::server::ServerLimits;
use crate::types::{KeyHash, NodeName, PartitionCount, RingName};

const DEFAULT_PARTITIONS: u16 = 16;
const DEFAULT_STORE_DELAY: Duration = Duration::from_millis(1);

/// Settings of a [`TestRing`]. Each has a default.
#[derive(Clone)]
pub struct TestRingBuilder {
    pub(super) name: RingName,
    pub(super) partitions: PartitionCount,
    pub(super) key_hash: KeyHash,
    pub(super) timing: Timing,
    pub(super) copying: Copying,
    pub(super) returning: Returning,
    pub(super) seed: u64,
    pub(super) store_delay: Duration,
    pub(super) observer: Option<Arc<dyn Observer>>,
}

impl Default for TestRingBuilder {
    fn default() -> Self {
        Self {
            name: ring_name("test-ring"),
            partitions: partition_count(DEFAULT_PARTITIONS),
            key_hash: KeyHash::default(),
            timing: Timing::for_lease(DEFAULT_LEASE),
            copying: Copying::default(),
            returning: Returning::default(),
            seed: 1,
            store_delay: DEFAULT_STORE_DELAY,
            observer: None,
        }
    }
}

impl TestRingBuilder {
    /// The ring's name, first token of its subjects; `test-ring` by default.
    ///
    /// # Panics
    /// Where a ring cannot be named so.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = ring_name(name);
        self
    }

    /// Partitions of the ring; 16 by default, few enough to be quick.
    ///
    /// # Panics
    /// Where a ring cannot have so many, or so few.
    #[must_use]
    pub fn partitions(mut self, count: u16) -> Self {
        self.partitions = partition_count(count);
        self
    }

    /// How keys map to partitions; as in production by default.
    #[must_use]
    pub fn key_hash(mut self, key_hash: KeyHash) -> Self {
        self.key_hash = key_hash;
        self
    }

    /// Length of the lease, and the defaults that go with it; 3 s by default. See [`TestRingBuilder::timing`].
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.timing = Timing::for_lease(lease);
        self
    }

    /// How long everything may take, the limits of hooks included.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Bounds of the copies that nodes make for each other.
    #[must_use]
    pub fn copying(mut self, copying: Copying) -> Self {
        self.copying = copying;
        self
    }

    /// What is done for nodes that come back soon.
    #[must_use]
    pub fn returning(mut self, returning: Returning) -> Self {
        self.returning = returning;
        self
    }

    /// Where chance comes from; 1 by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How long one way to the store takes at most, in whole milliseconds of simulated time; each is chance. 1 ms by
    /// default; zero makes every write immediate.
    #[must_use]
    pub fn store_delay(mut self, up_to: Duration) -> Self {
        self.store_delay = up_to;
        self
    }

    /// Who is told of everything that can be seen from outside; nobody by default.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The ring, without nodes. Its time stands at zero, and tokio's clock is paused from now on.
    ///
    /// # Panics
    /// Outside a tokio runtime of one thread.
    pub fn build(self) -> TestRing {
        TestRing::make(self, SimulatedClock::start())
    }
}

impl fmt::Debug for TestRingBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestRingBuilder")
            .field("name", &self.name)
            .field("partitions", &self.partitions)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

fn ring_name(name: &str) -> RingName {
    RingName::new(name).unwrap_or_else(|error| panic!("a ring under test cannot be named {name:?}: {error}"))
}

fn partition_count(count: u16) -> PartitionCount {
    let most = PartitionCount::MAX;
    PartitionCount::new(count).unwrap_or_else(|| panic!("a ring has 1 to {most} partitions, not {count}"))
}

/// A node to be added to a [`TestRing`]: a name, and what else is not as usual. `"node-1".into()` is one.
#[derive(Debug, Clone)]
pub struct TestNode {
    pub(super) name: NodeName,
    pub(super) zone: Option<String>,
    pub(super) weight: u32,
    pub(super) clock_rate: f64,
    pub(super) limits: ServerLimits,
}

impl TestNode {
    /// A node of this name, in no zone, of weight 1, whose clock is true.
    ///
    /// # Panics
    /// Where a node cannot be named so.
    pub fn new(name: &str) -> Self {
        Self { name: node_name(name), zone: None, weight: 1, clock_rate: 1.0, limits: ServerLimits::default() }
    }

    /// Its failure zone.
    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    /// Its share of the partitions, relative to the others'.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// How fast its clock runs: 1.04 gains 4 %. The ring promises to bear 5 %.
    ///
    /// # Panics
    /// Outside 0.5 to 2.
    #[must_use]
    pub fn clock_rate(mut self, rate: f64) -> Self {
        assert!((0.5..=2.0).contains(&rate), "a clock that runs at {rate} times true time is no clock: 0.5 to 2");
        self.clock_rate = rate;
        self
    }

    /// How many requests it executes and holds back at the most.
    #[must_use]
    pub fn limits(mut self, limits: ServerLimits) -> Self {
        self.limits = limits;
        self
    }
}

impl From<&str> for TestNode {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

pub(super) fn node_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap_or_else(|error| panic!("a node cannot be named {name:?}: {error}"))
}
