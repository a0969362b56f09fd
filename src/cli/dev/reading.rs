//! What a node says of itself and of the ring, read from its `/stats`, `/ring` and `/metrics`.

use std::net::SocketAddr;
use std::str;

use serde::Deserialize;

use super::http::{Answer, Http};
use crate::rpc::status::{LearnerStatus, Suspended, Waits};

/// One look at one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reading {
    /// Why it is not ready; `None` when it is.
    pub(super) not_ready: Option<String>,
    /// `joining`, `active`, `suspended`, `draining`, `left`.
    pub(super) phase: String,
    pub(super) partitions: Vec<PartitionSeen>,
    pub(super) moves: Vec<MoveSeen>,
    /// What it does while it is suspended; `None` where it is not.
    pub(super) suspended: Option<Suspended>,
    /// Requests executed or refused there since its start.
    pub(super) requests: u64,
}

/// One partition, as that node sees it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct PartitionSeen {
    pub(super) owner: Option<String>,
    pub(super) epoch: u64,
    pub(super) state: String,
    /// Whom its owner brings up to date: known there only.
    #[serde(default)]
    pub(super) learners: Vec<LearnerStatus>,
    /// What it waits for, every copy of it lost.
    pub(super) waits: Option<Waits>,
}

/// A move that node has under way as the giving side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct MoveSeen {
    pub(super) partition: u32,
    pub(super) to: String,
}

#[derive(Deserialize)]
struct Stats {
    node: NodePart,
    ring: RingPart,
}

#[derive(Deserialize)]
struct NodePart {
    phase: String,
    not_ready: Option<String>,
    suspended: Option<Suspended>,
}

#[derive(Deserialize)]
struct RingPart {
    moves: Vec<MoveSeen>,
}

#[derive(Deserialize)]
struct Ring {
    partitions: Vec<PartitionSeen>,
}

/// Looks at a node.
pub(super) async fn take(http: &Http, node: SocketAddr) -> Result<Reading, String> {
    let Stats { node: about, ring } = parse(&http.get(node, "/stats").await?)?;
    let Ring { partitions } = parse(&http.get(node, "/ring").await?)?;
    let metrics = http.get(node, "/metrics").await?;
    let requests = str::from_utf8(&metrics.body).map_or(0, count_requests);
    let NodePart { phase, not_ready, suspended } = about;
    Ok(Reading { not_ready, phase, partitions, moves: ring.moves, suspended, requests })
}

fn parse<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, String> {
    if answer.status != 200 {
        return Err(format!("HTTP {}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|error| error.to_string())
}

/// The sum over operations and outcomes.
fn count_requests(metrics: &str) -> u64 {
    let counters = metrics.lines().filter(|line| line.starts_with("nats_ring_requests_total"));
    counters.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_over_operations_and_outcomes() {
        let text = "# TYPE nats_ring_requests counter\nnats_ring_requests_total{operation=\"get\",outcome=\"ok\"} 7\n\
                    nats_ring_requests_total{operation=\"set\",outcome=\"ok\"} 5\nnats_ring_ready 1\n# EOF\n";
        assert_eq!(count_requests(text), 12);
    }

    #[test]
    fn what_is_not_used_of_an_answer_is_ignored_and_an_error_is_told() {
        let body =
            r#"{"version":3,"partitions":[{"partition":0,"owner":null,"epoch":0,"state":"unowned"}],"nodes":[]}"#;
        let ring: Ring = parse(&Answer { status: 200, body: body.into() }).unwrap();
        assert_eq!(ring.partitions, [PartitionSeen { state: "unowned".into(), ..PartitionSeen::default() }]);
        assert_eq!(parse::<Ring>(&Answer { status: 503, body: body.into() }).err(), Some("HTTP 503".to_owned()));
    }
}
