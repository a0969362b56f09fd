//! What is counted as it happens.

use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Gauges, Hook, MoveEnd, Outcome, PREFIX};

/// Label of operations that nobody registered.
const OTHER: &str = "other";

const LATENCY_BUCKETS_SECONDS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const PAUSE_BUCKETS_SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
const MOVE_BUCKETS_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

type Labels = Vec<(&'static str, &'static str)>;

/// The counters and histograms of a node. Recording takes an atomic addition, for histograms a short lock.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    operations: Vec<Operation>,
    epoch_changes: Counter,
    moves: [Counter; MoveEnd::ALL.len()],
    move_duration: Histogram,
    switch_pause: Histogram,
    hook_failures: [Counter; Hook::ALL.len()],
    evictions_seen: Counter,
    task_restarts: Counter,
    confirmed_requests: Counter,
}

#[derive(Debug)]
struct Operation {
    name: &'static str,
    outcomes: [Counter; Outcome::ALL.len()],
    latency: Histogram,
}

impl Metrics {
    /// All at zero. Requests are told apart by these operations; any other is counted as `other`.
    pub fn new(operations: &[&'static str]) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let known = operations.iter().copied().filter(|name| *name != OTHER);
        let operations = register_operations(&mut registry, known.chain([OTHER]));
        let moves = register_family(&mut registry, "moves", MOVES_HELP, "end", MoveEnd::ALL.map(MoveEnd::label));
        let hooks = register_family(&mut registry, "hook_failures", HOOKS_HELP, "hook", Hook::ALL.map(Hook::label));
        Self {
            operations,
            moves,
            hook_failures: hooks,
            epoch_changes: register_counter(&mut registry, "epoch_changes", EPOCHS_HELP),
            move_duration: register_seconds(&mut registry, "move_duration", MOVE_DURATION_HELP, &MOVE_BUCKETS_SECONDS),
            switch_pause: register_seconds(&mut registry, "switch_pause", PAUSE_HELP, &PAUSE_BUCKETS_SECONDS),
            evictions_seen: register_counter(&mut registry, "evictions_seen", EVICTIONS_HELP),
            task_restarts: register_counter(&mut registry, "task_restarts", RESTARTS_HELP),
            confirmed_requests: register_counter(&mut registry, "confirmed_requests", CONFIRMED_HELP),
            registry,
        }
    }

    /// A request was answered, or given up.
    pub fn record_request(&self, operation: &str, outcome: Outcome, elapsed: Duration) {
        let found = self.operations.iter().find(|known| known.name == operation).or(self.operations.last());
        if let Some(operation) = found {
            operation.outcomes[outcome as usize].inc();
            operation.latency.observe(elapsed.as_secs_f64());
        }
    }

    /// This node became a partition's owner, at a new epoch.
    pub fn record_epoch_change(&self) {
        self.epoch_changes.inc();
    }

    /// A planned move away from here is done: how long it took altogether, and how long requests were parked.
    pub fn record_move(&self, duration: Duration, pause: Duration) {
        self.moves[MoveEnd::Done as usize].inc();
        self.move_duration.observe(duration.as_secs_f64());
        self.switch_pause.observe(pause.as_secs_f64());
    }

    /// A planned move away from here was given up; requests were parked for so long.
    pub fn record_move_abandoned(&self, pause: Duration) {
        self.moves[MoveEnd::Abandoned as usize].inc();
        self.switch_pause.observe(pause.as_secs_f64());
    }

    /// A hook of the service failed, or did not end in time.
    pub fn record_hook_failure(&self, hook: Hook) {
        self.hook_failures[hook as usize].inc();
    }

    /// A member was evicted, by whomever.
    pub fn record_eviction_seen(&self) {
        self.evictions_seen.inc();
    }

    /// A background task failed and was started again.
    pub fn record_task_restart(&self) {
        self.task_restarts.inc();
    }

    /// A request was answered with what all copies had confirmed, while this node's lease was suspended.
    pub fn record_confirmed_request(&self) {
        self.confirmed_requests.inc();
    }

    /// Everything as OpenMetrics text, together with the state of the moment.
    pub fn encode(&self, gauges: &Gauges) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let state = gauges.registry();
        // Writing into a string does not fail.
        let _ = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &state))
            .and_then(|()| encode_eof(&mut text));
        text
    }
}

const REQUESTS_HELP: &str = "Requests by operation and outcome; the outcome is ok or the error code";
const LATENCY_HELP: &str = "Time from a request's arrival to its answer, by operation";
const EPOCHS_HELP: &str = "How often this node became a partition's owner, at a new epoch";
const MOVES_HELP: &str = "Planned moves of partitions away from this node, by how they ended";
const MOVE_DURATION_HELP: &str = "Time of a planned move, from its first step to the target's claim";
const PAUSE_HELP: &str = "How long a partition's requests were parked during a planned move";
const HOOKS_HELP: &str = "Hooks of the service that failed or did not end in time";
const EVICTIONS_HELP: &str = "Evictions of members seen by this node";
const CONFIRMED_HELP: &str = "Requests answered while the lease was suspended, with what all copies had confirmed";
const RESTARTS_HELP: &str = "Background tasks that failed and were started again";

fn register_operations(registry: &mut Registry, names: impl Iterator<Item = &'static str>) -> Vec<Operation> {
    let requests = Family::<Labels, Counter>::default();
    let seconds: fn() -> Histogram = || Histogram::new(LATENCY_BUCKETS_SECONDS);
    let latency = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(seconds);
    registry.register("requests", REQUESTS_HELP, requests.clone());
    registry.register_with_unit("request_duration", LATENCY_HELP, Unit::Seconds, latency.clone());
    let one = |name| Operation {
        name,
        outcomes: Outcome::ALL
            .map(|outcome| requests.get_or_create_owned(&vec![("operation", name), ("outcome", outcome.label())])),
        latency: latency.get_or_create_owned(&vec![("operation", name)]),
    };
    names.map(one).collect()
}

/// One counter per label value, each shown from the start, at zero.
fn register_family<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: [&'static str; N],
) -> [Counter; N] {
    let family = Family::<Labels, Counter>::default();
    registry.register(name, help, family.clone());
    values.map(|value| family.get_or_create_owned(&vec![(label, value)]))
}

fn register_counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn register_seconds(registry: &mut Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let histogram = Histogram::new(buckets.iter().copied());
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

#[cfg(test)]
mod tests {
    use super::super::Figure;
    use super::*;

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|l| l == line)
    }

    #[test]
    fn requests_are_counted_by_operation_and_outcome_with_their_latency() {
        let metrics = Metrics::new(&["get", "set"]);
        metrics.record_request("get", Outcome::Ok, Duration::from_micros(300));
        metrics.record_request("get", Outcome::of_error("unknown"), Duration::from_secs(2));
        metrics.record_request("set", Outcome::of_error("something new"), Duration::ZERO);
        let text = metrics.encode(&Gauges::default());
        assert!(has(&text, r#"nats_ring_requests_total{operation="get",outcome="ok"} 1"#), "{text}");
        assert!(has(&text, r#"nats_ring_requests_total{operation="get",outcome="unknown"} 1"#));
        assert!(has(&text, r#"nats_ring_requests_total{operation="set",outcome="failed"} 1"#));
        assert!(has(&text, r#"nats_ring_request_duration_seconds_bucket{le="0.0005",operation="get"} 1"#));
        assert!(has(&text, r#"nats_ring_request_duration_seconds_count{operation="get"} 2"#));
    }

    #[test]
    fn an_unknown_operation_adds_no_time_series() {
        let metrics = Metrics::new(&["get", "other"]);
        let lines = metrics.encode(&Gauges::default()).lines().count();
        for number in 0..100 {
            metrics.record_request(&format!("op{number}\"\n"), Outcome::Ok, Duration::ZERO);
        }
        let text = metrics.encode(&Gauges::default());
        assert_eq!(text.lines().count(), lines);
        assert!(has(&text, r#"nats_ring_requests_total{operation="other",outcome="ok"} 100"#));
    }

    #[test]
    fn events_show_up_in_their_counters_and_histograms() {
        let metrics = Metrics::new(&[]);
        metrics.record_epoch_change();
        metrics.record_move(Duration::from_millis(40), Duration::from_millis(4));
        metrics.record_move_abandoned(Duration::from_secs(4));
        metrics.record_hook_failure(Hook::Restore);
        metrics.record_eviction_seen();
        metrics.record_task_restart();
        metrics.record_confirmed_request();
        let text = metrics.encode(&Gauges::default());
        for line in [
            "nats_ring_epoch_changes_total 1",
            r#"nats_ring_moves_total{end="done"} 1"#,
            r#"nats_ring_moves_total{end="abandoned"} 1"#,
            "nats_ring_move_duration_seconds_count 1",
            "nats_ring_switch_pause_seconds_count 2",
            r#"nats_ring_switch_pause_seconds_bucket{le="0.005"} 1"#,
            r#"nats_ring_hook_failures_total{hook="restore"} 1"#,
            r#"nats_ring_hook_failures_total{hook="on_own"} 0"#,
            "nats_ring_evictions_seen_total 1",
            "nats_ring_task_restarts_total 1",
            "nats_ring_confirmed_requests_total 1",
        ] {
            assert!(has(&text, line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_state_of_the_moment_stands_beside_what_was_counted() {
        let gauges = Gauges {
            partitions: 64,
            owned_partitions: 21,
            members_by_state: vec![("active", 2), ("unreachable", 1)],
            partitions_by_state: vec![("serving", 64)],
            moves_under_way: 3,
            under_replicated: 2,
            learners: 4,
            copied_bytes: 1234,
            difference_bytes: 56,
            waiting_partitions: vec![("empty_start", 2), ("acceptance", 0)],
            plan_version: 7,
            lease_margin: Duration::from_millis(1500),
            suspended: true,
            suspension_margin: 20.5,
            ready: true,
            dropped_messages: 5,
            resends: 6,
            cache: vec![
                Figure::counter("hits", "Reads that found a live entry", 12),
                Figure::gauge("bytes", "What the entries weigh", 4096.0),
                Figure::gauges_by("held_bytes", "What the entries weigh", "held_as", vec![("copied", 96.0)]),
            ],
        };
        let text = Metrics::new(&[]).encode(&gauges);
        for line in [
            "nats_ring_partitions 64",
            "nats_ring_owned_partitions 21",
            r#"nats_ring_members{state="unreachable"} 1"#,
            r#"nats_ring_partitions_by_state{state="serving"} 64"#,
            "nats_ring_moves_under_way 3",
            "nats_ring_under_replicated_partitions 2",
            "nats_ring_learners 4",
            "nats_ring_copied_bytes_total 1234",
            "nats_ring_difference_bytes_total 56",
            "nats_ring_plan_version 7",
            "nats_ring_lease_margin_seconds 1.5",
            "nats_ring_ready 1",
            r#"nats_ring_waiting_partitions{waits_for="empty_start"} 2"#,
            "nats_ring_suspended 1",
            "nats_ring_suspension_margin_seconds 20.5",
            r#"nats_ring_cache_held_bytes{held_as="copied"} 96.0"#,
            "nats_ring_dropped_messages_total 5",
            "nats_ring_router_resends_total 6",
            "nats_ring_cache_hits_total 12",
            "nats_ring_cache_bytes 4096.0",
            "# TYPE nats_ring_cache_hits counter",
            "# HELP nats_ring_cache_hits Reads that found a live entry.",
        ] {
            assert!(has(&text, line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    }
}
