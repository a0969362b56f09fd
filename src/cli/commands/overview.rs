//! `status`, `nodes`, `ring`: how the ring is, in a few lines, per node, per partition.

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::super::exit::Failure;
use super::client::ClientArgs;
use super::output::{Cell, Done, Output, Table};
use super::picture;
use crate::types::{Epoch, NodeName, PartitionId};

pub(super) const STATUS_EXAMPLES: &str = "\
Examples:
  nats-ring status
  nats-ring status --json | jq .unowned
  nats-ring status --platform sessions --nats nats://nats-1:4222";
pub(super) const NODES_EXAMPLES: &str = "\
Examples:
  nats-ring nodes
  nats-ring nodes --json | jq -r '.nodes[] | select(.state == \"active\") | .node'";
pub(super) const RING_EXAMPLES: &str = "\
One letter per partition, that of its owner; a dot where nobody owns it.

Examples:
  nats-ring ring
  nats-ring ring --color always | less -R
  nats-ring ring --json | jq '.partitions[17].owner'";

#[derive(Args)]
pub(in crate::cli) struct OverviewArgs {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Deserialize, Serialize)]
struct Overview {
    version: u64,
    partitions: Vec<Partition>,
    nodes: Vec<Node>,
}

#[derive(Deserialize, Serialize)]
struct Partition {
    partition: PartitionId,
    owner: Option<NodeName>,
    epoch: Epoch,
    state: String,
}

#[derive(Deserialize, Serialize)]
struct Node {
    node: NodeName,
    state: String,
    zone: Option<String>,
    weight: u32,
    http: Option<String>,
    version: String,
    owned: usize,
    coordinator: bool,
}

/// What `status --json` says.
#[derive(Serialize)]
struct Summary<'a> {
    ring: &'a str,
    healthy: bool,
    partitions: usize,
    unowned: usize,
    orphaned: usize,
    plan_version: u64,
    coordinator: Option<&'a NodeName>,
    nodes: &'a [Node],
}

async fn look(args: &ClientArgs) -> Result<Overview, Failure> {
    let answer = args.ask("ring", "{}".to_owned()).await?;
    serde_json::from_str(answer.get()).map_err(|error| Failure::internal("a node's answer cannot be read", error))
}

impl Overview {
    fn in_state(&self, state: &str) -> usize {
        self.partitions.iter().filter(|p| p.state == state).count()
    }

    fn summary<'a>(&'a self, ring: &'a str) -> Summary<'a> {
        let (unowned, orphaned) = (self.in_state("unowned"), self.in_state("orphaned"));
        Summary {
            ring,
            healthy: unowned + orphaned == 0,
            partitions: self.partitions.len(),
            unowned,
            orphaned,
            plan_version: self.version,
            coordinator: self.nodes.iter().find(|node| node.coordinator).map(|node| &node.node),
            nodes: &self.nodes,
        }
    }

    /// For each partition the number of its owner among the nodes.
    fn owners(&self) -> Vec<Option<usize>> {
        let number = |owner: &NodeName| self.nodes.iter().position(|node| node.node == *owner);
        self.partitions.iter().map(|partition| partition.owner.as_ref().and_then(number)).collect()
    }
}

pub(super) async fn status(args: OverviewArgs) -> Done {
    let overview = look(&args.client).await?;
    let mut output = args.client.output();
    let summary = overview.summary(args.client.platform.as_str());
    if output.json { output.document(&summary) } else { write_status(&summary, &mut output) }
}

fn write_status(summary: &Summary<'_>, output: &mut Output) -> Done {
    let good = summary.healthy;
    let style = if good { AnsiColor::Green.on_default().bold() } else { picture::alarm() };
    let word = output.paint(style, if good { "healthy" } else { "not healthy" });
    let coordinator = summary.coordinator.map_or("none", NodeName::as_str);
    output.line(&format!("{}: {word}", summary.ring))?;
    let mut table = Table::default();
    let served = summary.partitions - summary.unowned - summary.orphaned;
    let mut partitions = format!("{served} of {} have an owner that lives", summary.partitions);
    if !good {
        partitions
            .push_str(&format!(": {} without an owner, {} with one that is gone", summary.unowned, summary.orphaned));
    }
    table.row(vec!["partitions".into(), partitions.into()]);
    table.row(vec!["nodes".into(), counted(summary.nodes).into()]);
    table.row(vec!["plan".into(), format!("version {}, coordinator {coordinator}", summary.plan_version).into()]);
    output.table(&table)
}

/// `3 active, 1 draining in 2 zones`.
fn counted(nodes: &[Node]) -> String {
    let mut states: Vec<(&str, usize)> = Vec::new();
    for node in nodes {
        match states.iter_mut().find(|(state, _)| *state == node.state) {
            Some((_, count)) => *count += 1,
            None => states.push((&node.state, 1)),
        }
    }
    let states: Vec<String> = states.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
    let mut zones: Vec<&str> = nodes.iter().filter(|n| n.state == "active").filter_map(|n| n.zone.as_deref()).collect();
    zones.sort_unstable();
    zones.dedup();
    let zones = match zones.len() {
        0 => String::new(),
        1 => format!(" in zone {}", zones[0]),
        _ => format!(" in zones {}", zones.join(", ")),
    };
    format!("{}{zones}", states.join(", "))
}

pub(super) async fn nodes(args: OverviewArgs) -> Done {
    let overview = look(&args.client).await?;
    let mut output = args.client.output();
    if output.json {
        return output.document(&serde_json::json!({ "nodes": overview.nodes }));
    }
    let mut table = Table::titled(&["node", "state", "zone", "weight", "partitions", "http", "version", ""]);
    for node in &overview.nodes {
        let coordinator = if node.coordinator { "coordinator" } else { "" };
        table.row(vec![
            node.node.as_str().into(),
            Cell::from(node.state.as_str()).styled(state_style(&node.state)),
            node.zone.as_deref().unwrap_or("-").into(),
            Cell::number(node.weight),
            Cell::number(node.owned),
            node.http.as_deref().unwrap_or("-").into(),
            node.version.as_str().into(),
            coordinator.into(),
        ]);
    }
    output.table(&table)
}

fn state_style(state: &str) -> Style {
    match state {
        "active" => AnsiColor::Green.on_default(),
        "left" => Style::new().dimmed(),
        "unreachable" => picture::alarm(),
        _ => AnsiColor::Yellow.on_default(),
    }
}

pub(super) async fn ring(args: OverviewArgs) -> Done {
    let overview = look(&args.client).await?;
    let mut output = args.client.output();
    if output.json { output.document(&overview) } else { write_ring(&overview, &mut output) }
}

fn write_ring(overview: &Overview, output: &mut Output) -> Done {
    for row in picture::rows(&overview.owners(), output) {
        output.line(&row)?;
    }
    output.line("")?;
    let most = overview.nodes.iter().map(|node| node.owned).max().unwrap_or(0);
    let mut table = Table::default();
    for (number, node) in overview.nodes.iter().enumerate().filter(|(_, node)| node.owned > 0 || node.state != "left") {
        table.row(vec![
            Cell::from(format!("{:>6}  {}", "", picture::symbol(number))),
            node.node.as_str().into(),
            node.zone.as_ref().map_or_else(String::new, |zone| format!("zone {zone}")).into(),
            Cell::number(node.owned),
            picture::bar(node.owned, most).into(),
        ]);
    }
    let nobodys = overview.partitions.iter().filter(|partition| partition.owner.is_none()).count();
    output.table(&table)?;
    if nobodys > 0 {
        let text = format!("        .  {nobodys} without an owner");
        output.line(&output.paint(picture::alarm(), &text))?;
    }
    Ok(())
}
