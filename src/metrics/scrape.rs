//! The state of the moment, asked for at each scrape rather than kept up to date in between.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::PREFIX;

type Labels = Vec<(&'static str, &'static str)>;

/// One figure of the service, with what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    name: &'static str,
    help: &'static str,
    value: Value,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Counter(u64),
    Gauge(f64),
    Gauges(&'static str, Vec<(&'static str, f64)>),
}

impl Figure {
    /// One that only grows.
    pub const fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, value: Value::Counter(value) }
    }

    /// One that goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, value: Value::Gauge(value) }
    }

    /// Several that go up and down, told apart by this label.
    pub const fn gauges_by(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: Vec<(&'static str, f64)>,
    ) -> Self {
        Self { name, help, value: Value::Gauges(label, values) }
    }
}

/// The state of a node and of its ring, as far as it is a figure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gauges {
    /// Partitions of the ring.
    pub partitions: usize,
    /// Those this node owns.
    pub owned_partitions: usize,
    /// How many partitions are in which state.
    pub partitions_by_state: Vec<(&'static str, usize)>,
    /// How many members are in which state.
    pub members_by_state: Vec<(&'static str, usize)>,
    /// Moves this node has under way as the giving side.
    pub moves_under_way: usize,
    /// Partitions owned here with fewer copies than are asked for, and than there are nodes for.
    pub under_replicated: usize,
    /// Copies that this node brings up to date.
    pub learners: usize,
    /// Bytes of copies that this node has made for others.
    pub copied_bytes: u64,
    /// Bytes of writes sent to nodes that had missed them.
    pub difference_bytes: u64,
    /// How many partitions wait for what, every copy of them lost.
    pub waiting_partitions: Vec<(&'static str, usize)>,
    /// The plan's version.
    pub plan_version: u64,
    /// How long this node may act without a further heartbeat.
    pub lease_margin: Duration,
    /// Whether that is over for now.
    pub suspended: bool,
    /// How long it may then go on with what its copies confirm, in seconds.
    pub suspension_margin: f64,
    /// Whether this node is ready.
    pub ready: bool,
    /// Messages dropped so far because their reader was too slow.
    pub dropped_messages: u64,
    /// How often this node has sent a request to its owner again because no answer came.
    pub resends: u64,
    /// Figures of the cache, named without a prefix.
    pub cache: Vec<Figure>,
}

impl Gauges {
    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        let to = &mut registry;
        count(to, "partitions", "Partitions of the ring", self.partitions);
        count(to, "owned_partitions", "Partitions this node owns", self.owned_partitions);
        let seen = "Partitions by state, as this node sees them";
        counts_by(to, ("partitions_by_state", "state"), seen, &self.partitions_by_state);
        counts_by(to, ("members", "state"), "Members of the ring by state", &self.members_by_state);
        let waiting = "Partitions of which every copy is lost, by what they wait for";
        counts_by(to, ("waiting_partitions", "waits_for"), waiting, &self.waiting_partitions);
        count(to, "moves_under_way", "Planned moves that this node has under way", self.moves_under_way);
        let under = "Partitions owned here with fewer copies in sync than asked for, and than there are nodes for";
        count(to, "under_replicated_partitions", under, self.under_replicated);
        count(to, "learners", "Copies at other nodes that this node brings up to date", self.learners);
        let copied = "Copies of partitions made for other nodes, as acknowledged";
        to.register_with_unit("copied", copied, Unit::Bytes, ConstCounter::new(self.copied_bytes));
        let missed =
            "Writes sent to nodes that had missed them: what bringing them up to date took beside whole copies";
        to.register_with_unit("difference", missed, Unit::Bytes, ConstCounter::new(self.difference_bytes));
        count(to, "plan_version", "Version of the plan this node follows", self.plan_version);
        let margin = ConstGauge::new(self.lease_margin.as_secs_f64());
        to.register_with_unit(
            "lease_margin",
            "Time this node may act without a further heartbeat",
            Unit::Seconds,
            margin,
        );
        count(to, "suspended", "1 where the lease of this node ran out for now", u8::from(self.suspended));
        let margin = ConstGauge::new(self.suspension_margin);
        let with_copies = "Time this node, suspended, goes on with what its copies confirm; 0 where it does not";
        to.register_with_unit("suspension_margin", with_copies, Unit::Seconds, margin);
        count(to, "ready", "1 where this node is ready", u8::from(self.ready));
        let dropped = "Messages dropped because their reader in this process was too slow";
        to.register("dropped_messages", dropped, ConstCounter::new(self.dropped_messages));
        let resends = "Requests sent to their owner again because no answer came";
        to.register("router_resends", resends, ConstCounter::new(self.resends));
        let cache = to.sub_registry_with_prefix("cache");
        for Figure { name, help, value } in &self.cache {
            match value {
                Value::Counter(value) => cache.register(*name, *help, ConstCounter::new(*value)),
                Value::Gauge(value) => cache.register(*name, *help, ConstGauge::new(*value)),
                Value::Gauges(label, values) => {
                    let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
                    for (of, value) in values {
                        family.get_or_create(&vec![(*label, *of)]).set(*value);
                    }
                    cache.register(*name, *help, family);
                }
            }
        }
        registry
    }
}

fn count<N: TryInto<i64>>(to: &mut Registry, name: &str, help: &str, value: N) {
    to.register(name, help, ConstGauge::new(value.try_into().unwrap_or(i64::MAX)));
}

fn counts_by(to: &mut Registry, (name, label): (&str, &'static str), help: &str, counts: &[(&'static str, usize)]) {
    let family = Family::<Labels, Gauge>::default();
    for (of, number) in counts {
        family.get_or_create(&vec![(label, *of)]).set(i64::try_from(*number).unwrap_or(i64::MAX));
    }
    to.register(name, help, family);
}
