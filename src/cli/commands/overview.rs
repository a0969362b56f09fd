//! `status`, `nodes`, `ring`: how the ring is, in a few lines, per node, per partition.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde::Serialize;

use super::super::exit::{Code, Failure};
use super::super::told;
use super::client::ClientArgs;
use super::output::{Cell, Done, Output, Table};
use super::picture;
use crate::admin::{
    ConfigView, NodeOverview, NodeState, Overview, PartitionMove, PartitionOverview, PlacesKeptFor, Told,
};
use crate::types::NodeName;

pub(super) const STATUS_EXAMPLES: &str = "\
Healthy: every partition has an owner that lives. At rest: the one it should have. A node that crashed counts as living until
its lease runs out; --observe sees it before.

Examples:
  nats-ring status
  nats-ring status --observe 3s                   # also whether all nodes renew their leases
  nats-ring status --check || alert               # exit code 11 where it is not healthy
  nats-ring status --json | jq .healthy
  nats-ring status --platform sessions --nats nats://nats-1:4222";
pub(super) const NODES_EXAMPLES: &str = "\
Examples:
  nats-ring nodes
  nats-ring nodes --all                           # also those that have left
  nats-ring nodes --json | jq -r '.nodes[] | select(.state == \"active\") | .node'";
pub(super) const RING_EXAMPLES: &str = "\
One letter per partition, that of its owner; a dot where nobody owns it.

Examples:
  nats-ring ring
  nats-ring ring --partitions                     # who owns, who has copies in sync, who is brought up to date
  nats-ring ring --color always | less -R
  nats-ring ring --json | jq '.partitions[17].owner'";

/// So many moves, and copies under way, are listed one by one.
const MOVES_LISTED: usize = 8;

#[derive(Args)]
pub(in crate::cli) struct OverviewArgs {
    /// Look this long whether nodes renew their leases: those that do not are suspects
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    observe: Duration,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub(in crate::cli) struct StatusArgs {
    /// Ends with exit code 11 where the ring is not healthy
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    overview: OverviewArgs,
}

#[derive(Args)]
pub(in crate::cli) struct NodesArgs {
    /// Also nodes that have left or were evicted (JSON has them always)
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    overview: OverviewArgs,
}

#[derive(Args)]
pub(in crate::cli) struct RingArgs {
    /// One line per partition: owner, epoch, copies in sync, and who is brought up to date (JSON has them always)
    #[arg(long)]
    partitions: bool,
    #[command(flatten)]
    overview: OverviewArgs,
}

/// What `status --json` says.
#[derive(Serialize)]
struct Summary<'a> {
    ring: &'a str,
    healthy: bool,
    at_rest: bool,
    partitions: u16,
    unowned: usize,
    orphaned: usize,
    /// Owned by nodes that were not seen to renew their leases.
    suspect: usize,
    moving: usize,
    /// With fewer live copies in sync than asked for, and than there are nodes for.
    under_replicated: usize,
    /// Whose copies are being made or dropped.
    copying: usize,
    /// For nodes that are away and may come back.
    places_kept: &'a [PlacesKeptFor],
    copies_wanted: usize,
    plan_version: u64,
    coordinator: Option<&'a NodeName>,
    config: &'a ConfigView,
    nodes: &'a [NodeOverview],
    warnings: &'a [String],
    /// What the nodes say of themselves.
    #[serde(flatten)]
    told: &'a Told,
}

/// What `nodes --json` says, its fields in the order that `status --json` has them in.
#[derive(Serialize)]
struct Nodes<'a> {
    ring: &'a str,
    nodes: &'a [NodeOverview],
}

impl<'a> Summary<'a> {
    fn of(overview: &'a Overview, told: &'a Told) -> Self {
        let (unowned, orphaned) = (overview.unowned.len(), overview.orphaned.len());
        let suspects: Vec<_> = overview.nodes.iter().filter(|node| node.state == NodeState::Suspect).collect();
        Self {
            ring: overview.ring.as_str(),
            healthy: unowned + orphaned == 0 && suspects.is_empty(),
            at_rest: overview.plan_current && overview.moves.is_empty() && overview.copying.is_empty(),
            partitions: overview.partition_count.get(),
            unowned,
            orphaned,
            suspect: suspects.iter().map(|node| node.owned).sum(),
            moving: overview.moves.len(),
            under_replicated: overview.under_replicated.len(),
            copying: overview.copying.len(),
            places_kept: &overview.places_kept,
            copies_wanted: overview.copies_wanted,
            plan_version: overview.plan_version,
            coordinator: overview.coordinator.as_ref(),
            config: &overview.config,
            nodes: &overview.nodes,
            warnings: &overview.warnings,
            told,
        }
    }
}

impl OverviewArgs {
    async fn look(&self) -> Result<Overview, Failure> {
        Ok(self.client.admin().await?.overview(self.observe).await?)
    }
}

pub(super) async fn status(args: StatusArgs) -> Done {
    let OverviewArgs { client, observe } = &args.overview;
    let mut output = client.output();
    let looked = async {
        let admin = client.admin().await?;
        let overview = admin.overview(*observe).await?;
        let told = admin.ask_nodes(&overview).await;
        Ok((overview, told))
    };
    let (overview, told) = match looked.await {
        Ok(looked) => looked,
        Err(failure) => return Err(client.with_word_of_a_node(failure).await.into()),
    };
    let summary = Summary::of(&overview, &told);
    if output.json { output.document(&summary) } else { write_status(&summary, &mut output) }?;
    if args.check && !summary.healthy {
        let why = format!("ring '{}' is not healthy: {}", summary.ring, partitions(&summary));
        return Err(Failure::new(Code::NotSafe, why).into());
    }
    Ok(())
}

fn write_status(summary: &Summary<'_>, output: &mut Output) -> Done {
    let (style, word) = match (summary.healthy, summary.at_rest) {
        (true, true) => (AnsiColor::Green.on_default().bold(), "healthy"),
        (true, false) => (AnsiColor::Yellow.on_default().bold(), "healthy, moving"),
        (false, _) => (picture::alarm(), "not healthy"),
    };
    output.line(&format!("{}: {}", summary.ring, output.paint(style, word)))?;
    let mut table = Table::default();
    table.row(vec!["partitions".into(), partitions(summary).into()]);
    table.row(vec!["copies".into(), copies(summary).into()]);
    for kept in summary.places_kept {
        table.row(vec!["kept".into(), places_kept(kept).into()]);
    }
    if let Some(text) = told::copies_together(&summary.told.copies_under_way) {
        table.row(vec!["copying".into(), text.into()]);
    }
    table.row(vec!["nodes".into(), counted(summary.nodes).into()]);
    if let Some(text) = told::suspended_nodes(&summary.told.suspended) {
        table.row(vec!["suspended".into(), text.into()]);
    }
    let coordinator = summary.coordinator.map_or("none", NodeName::as_str);
    table.row(vec!["plan".into(), format!("version {}, coordinator {coordinator}", summary.plan_version).into()]);
    for (name, text) in asked(summary.config) {
        table.row(vec![name.into(), text.into()]);
    }
    output.table(&table)?;
    for line in told::copy_lines(&summary.told.copies_under_way, MOVES_LISTED) {
        output.line(&format!("            {line}"))?;
    }
    for line in told::waiting_lines(summary.told) {
        output.line(&output.paint(picture::alarm(), &line))?;
    }
    if !summary.told.silent.is_empty() {
        let silent = told::names(&summary.told.silent);
        let text = format!("not asked for copies and waits: {silent} (no answer within a second)");
        output.line(&output.paint(AnsiColor::Yellow.on_default(), &text))?;
    }
    for warning in summary.warnings {
        output.line(&output.paint(AnsiColor::Yellow.on_default(), &format!("warning: {warning}")))?;
    }
    Ok(())
}

/// `60 of 64 have an owner that lives, 3 move; 4 without an owner`.
fn partitions(summary: &Summary<'_>) -> String {
    let held = usize::from(summary.partitions).saturating_sub(summary.unowned + summary.orphaned + summary.suspect);
    let mut text = format!("{held} of {} have an owner that lives", summary.partitions);
    for (count, what) in [
        (summary.unowned, "without an owner"),
        (summary.orphaned, "with one that is gone"),
        (summary.suspect, "with one that does not renew its lease"),
        (summary.moving, "on their way to another"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// `2 of each (3 with more nodes), 5 partitions under-replicated, 7 being copied; consistency quorum, on loss wait`.
fn copies(summary: &Summary<'_>) -> String {
    let ConfigView { replicas, consistency, on_loss, .. } = summary.config;
    let mut text = format!("{} of each", summary.copies_wanted);
    if summary.copies_wanted < replicas.get() {
        text.push_str(&format!(" ({replicas} with more nodes)"));
    }
    for (count, what) in [(summary.under_replicated, "under-replicated"), (summary.copying, "being copied")] {
        if count > 0 {
            text.push_str(&format!(", {count} partitions {what}"));
        }
    }
    format!("{text}; consistency {consistency}, on loss {on_loss}")
}

/// `the places of node-3 in 48 partitions, for 30s since it left: it may come back`.
fn places_kept(kept: &PlacesKeptFor) -> String {
    let PlacesKeptFor { node, places, for_ms } = kept;
    let limit = humantime::format_duration(Duration::from_millis(*for_ms));
    format!("the places of {node} in {places} partitions, for {limit} since it was gone: it may come back")
}

/// `3 active, 1 draining in zones a, b`.
fn counted(nodes: &[NodeOverview]) -> String {
    let mut states: Vec<(&str, usize)> = Vec::new();
    let live: Vec<&NodeOverview> = nodes.iter().filter(|node| node.state.is_live()).collect();
    for node in &live {
        let name = node.state.as_str();
        match states.iter_mut().find(|(state, _)| *state == name) {
            Some((_, count)) => *count += 1,
            None => states.push((name, 1)),
        }
    }
    if states.is_empty() {
        return "none alive".to_owned();
    }
    let states: Vec<String> = states.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
    let mut zones: Vec<&str> = live.iter().filter_map(|node| node.zone.as_deref()).collect();
    zones.sort_unstable();
    zones.dedup();
    let zones = match zones.as_slice() {
        [] => String::new(),
        [zone] => format!(" in zone {zone}"),
        zones => format!(" in zones {}", zones.join(", ")),
    };
    format!("{}{zones}", states.join(", "))
}

/// What operators have asked for, where that is anything.
fn asked(config: &ConfigView) -> Vec<(&'static str, String)> {
    let mut asked = Vec::new();
    if config.paused {
        asked.push(("paused", "nothing moves between healthy nodes until resume".to_owned()));
    }
    if !config.cordoned.is_empty() {
        let nodes: Vec<&str> = config.cordoned.iter().map(NodeName::as_str).collect();
        asked.push(("cordoned", nodes.join(", ")));
    }
    if !config.pins.is_empty() {
        let pins: Vec<String> = config.pins.iter().map(|(partition, node)| format!("{partition} to {node}")).collect();
        asked.push(("pinned", pins.join(", ")));
    }
    asked
}

pub(super) async fn nodes(args: NodesArgs) -> Done {
    let overview = args.overview.look().await?;
    let mut output = args.overview.client.output();
    if output.json {
        return output.document(&Nodes { ring: overview.ring.as_str(), nodes: &overview.nodes });
    }
    let shown = overview.nodes.iter().filter(|node| args.all || node.state.is_live() || node.owned > 0);
    output.table(&nodes_table(shown))
}

fn nodes_table<'a>(nodes: impl Iterator<Item = &'a NodeOverview>) -> Table {
    let mut table = Table::titled(&["node", "state", "zone", "weight", "partitions", "http", "version", ""]);
    for node in nodes {
        let notes = [
            (node.coordinator, "coordinator"),
            (node.cordoned, "cordoned"),
            (!node.excluded.is_empty(), "could not start some partitions"),
        ];
        let notes: Vec<&str> = notes.into_iter().filter_map(|(is, note)| is.then_some(note)).collect();
        let owned = match node.planned == node.owned {
            true => node.owned.to_string(),
            false => format!("{} -> {}", node.owned, node.planned),
        };
        table.row(vec![
            node.node.as_str().into(),
            Cell::from(node.state.as_str()).styled(state_style(node.state)),
            node.zone.as_deref().unwrap_or("-").into(),
            Cell::number(node.weight.map_or_else(|| "-".to_owned(), |weight| weight.to_string())),
            Cell::number(owned),
            node.http.as_deref().unwrap_or("-").into(),
            node.version.as_deref().unwrap_or("-").into(),
            notes.join(", ").into(),
        ]);
    }
    table
}

fn state_style(state: NodeState) -> Style {
    match state {
        NodeState::Active => AnsiColor::Green.on_default(),
        NodeState::Joining | NodeState::Draining => AnsiColor::Yellow.on_default(),
        NodeState::Left => Style::new().dimmed(),
        NodeState::Suspect | NodeState::Evicted => picture::alarm(),
    }
}

pub(super) async fn ring(args: RingArgs) -> Done {
    let overview = args.overview.look().await?;
    let mut output = args.overview.client.output();
    match (output.json, args.partitions) {
        (true, _) => output.document(&overview),
        (false, true) => output.table(&partitions_table(&overview.partitions)),
        (false, false) => write_ring(&overview, &mut output),
    }
}

fn partitions_table(partitions: &[PartitionOverview]) -> Table {
    let mut table = Table::titled(&["partition", "owner", "epoch", "in sync", "learning", ""]);
    let names = |names: &[NodeName]| match names {
        [] => "-".to_owned(),
        names => names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" "),
    };
    for one in partitions {
        table.row(vec![
            Cell::number(one.partition),
            one.owner.as_ref().map_or("-", NodeName::as_str).into(),
            Cell::number(one.epoch),
            names(&one.replicas).into(),
            names(&one.learners).into(),
            if one.under_replicated { "under-replicated" } else { "" }.into(),
        ]);
    }
    table
}

fn write_ring(overview: &Overview, output: &mut Output) -> Done {
    let shown: Vec<&NodeOverview> =
        overview.nodes.iter().filter(|node| node.state.is_live() || node.owned > 0).collect();
    let number = |owner: &NodeName| shown.iter().position(|node| node.node == *owner);
    let owners: Vec<Option<usize>> =
        overview.partitions.iter().map(|partition| partition.owner.as_ref().and_then(number)).collect();
    for row in picture::rows(&owners, output) {
        output.line(&row)?;
    }
    output.line("")?;
    write_legend(&shown, output)?;
    if !overview.unowned.is_empty() {
        let text = format!("        .  {} without an owner", overview.unowned.len());
        output.line(&output.paint(picture::alarm(), &text))?;
    }
    if !overview.under_replicated.is_empty() {
        let text = format!("        {} under-replicated: see --partitions", overview.under_replicated.len());
        output.line(&output.paint(AnsiColor::Yellow.on_default(), &text))?;
    }
    write_moves(&overview.moves, output)
}

fn write_legend(nodes: &[&NodeOverview], output: &mut Output) -> Done {
    let most = nodes.iter().map(|node| node.owned).max().unwrap_or(0);
    let mut table = Table::default();
    for (number, node) in nodes.iter().enumerate() {
        let state = if node.state == NodeState::Active { "" } else { node.state.as_str() };
        table.row(vec![
            "      ".into(),
            Cell::from(picture::symbol(number)).styled(picture::style(number)),
            node.node.as_str().into(),
            node.zone.as_ref().map_or_else(String::new, |zone| format!("zone {zone}")).into(),
            Cell::number(node.owned),
            picture::bar(node.owned, most).into(),
            Cell::from(state).styled(state_style(node.state)),
        ]);
    }
    output.table(&table)
}

fn write_moves(moves: &[PartitionMove], output: &mut Output) -> Done {
    let name = |node: &Option<NodeName>| node.as_ref().map_or_else(|| "nobody".to_owned(), NodeName::to_string);
    if !moves.is_empty() {
        output.line("")?;
    }
    for one in moves.iter().take(MOVES_LISTED) {
        output.line(&format!("{:>6}  {} -> {}", one.partition.get(), name(&one.from), name(&one.to)))?;
    }
    match moves.len().saturating_sub(MOVES_LISTED) {
        0 => Ok(()),
        more => output.line(&format!("        and {more} more on their way")),
    }
}

#[cfg(test)]
mod tests;
