//! `plan`: what would move if a node went or came. Nothing is changed.

use std::collections::BTreeMap;

use clap::Args;

use super::client::ClientArgs;
use super::output::{Cell, Done, Output, Table};
use super::picture;
use crate::admin::Preview;
use crate::types::NodeName;

pub(super) const EXAMPLES: &str = "\
Nothing is changed. What the ring has planned already and not carried out yet is part of the answer.

Examples:
  nats-ring plan --without node-2
  nats-ring plan --with node-4:zone-b
  nats-ring plan --with node-4 --weight 2 --json | jq '.moves | length'";

#[derive(Args)]
pub(in crate::cli) struct PlanArgs {
    /// If this node went
    #[arg(long, value_name = "NODE", required_unless_present = "with")]
    without: Option<NodeName>,
    /// If this node came, in this failure zone
    #[arg(long, value_name = "NAME[:ZONE]", conflicts_with = "without", value_parser = newcomer)]
    with: Option<(NodeName, Option<String>)>,
    /// Its weight
    #[arg(long, value_name = "NUMBER", default_value_t = 1, conflicts_with = "without",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: u32,
    #[command(flatten)]
    client: ClientArgs,
}

/// `node-4:zone-b`, or `node-4` alone.
fn newcomer(text: &str) -> Result<(NodeName, Option<String>), String> {
    let (name, zone) = text.split_once(':').map_or((text, None), |(name, zone)| (name, Some(zone)));
    if zone == Some("") {
        return Err("the zone after ':' is empty: give NAME:ZONE, or NAME alone".to_owned());
    }
    let name = NodeName::new(name).map_err(|error| error.to_string())?;
    Ok((name, zone.map(str::to_owned)))
}

pub(super) async fn plan(args: PlanArgs) -> Done {
    let mut output = args.client.output();
    let admin = args.client.admin().await?;
    let preview = match (&args.without, &args.with) {
        (Some(node), _) => admin.plan_without(node).await?,
        (None, Some((node, zone))) => admin.plan_with(node, zone.as_deref(), args.weight).await?,
        // The command line asks for one of them.
        (None, None) => return Ok(()),
    };
    if output.json { output.document(&preview) } else { write(&preview, &mut output) }
}

fn write(preview: &Preview, output: &mut Output) -> Done {
    let count = preview.moves.len();
    output.line(&format!("{count} partition{} would move", if count == 1 { "" } else { "s" }))?;
    if preview.paused {
        output.line("note: rebalancing is paused: only what must move does")?;
    }
    if !preview.stranded.is_empty() {
        let text = format!("{} partitions could be owned by nobody", preview.stranded.len());
        output.line(&output.paint(picture::alarm(), &text))?;
    }
    let mut ways: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let name = |node: &Option<NodeName>| node.as_ref().map_or_else(|| "nobody".to_owned(), NodeName::to_string);
    for one in &preview.moves {
        ways.entry((name(&one.from), name(&one.to))).or_default().push(one.partition.to_string());
    }
    let mut table = Table::titled(&["from", "to", "count", "partitions"]);
    for ((from, to), partitions) in &ways {
        table.row(vec![
            from.as_str().into(),
            to.as_str().into(),
            Cell::number(partitions.len()),
            partitions.join(" ").into(),
        ]);
    }
    if !ways.is_empty() {
        output.table(&table)?;
    }
    output.line("")?;
    let mut shares = Table::titled(&["node", "now", "then"]);
    for share in &preview.nodes {
        shares.row(vec![share.node.as_str().into(), Cell::number(share.before), Cell::number(share.after)]);
    }
    output.table(&shares)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::output::tests::Written;
    use super::*;
    use crate::admin::{NodeShare, PartitionMove};
    use crate::types::PartitionId;

    #[test]
    fn a_newcomer_has_a_name_and_perhaps_a_zone() {
        let name = NodeName::new("n-4").unwrap();
        assert_eq!(newcomer("n-4:zone b:1"), Ok((name.clone(), Some("zone b:1".to_owned()))));
        assert_eq!(newcomer("n-4"), Ok((name, None)));
        assert!(newcomer("n-4:").unwrap_err().contains("zone"));
        assert!(newcomer("n.4:b").unwrap_err().contains("n.4"));
    }

    #[test]
    fn moves_are_told_by_their_way_and_shares_before_and_after() {
        let node = |name: &str| NodeName::new(name).unwrap();
        let one = |partition, from: Option<&str>, to: &str| PartitionMove {
            partition: PartitionId::new(partition),
            from: from.map(node),
            to: Some(node(to)),
        };
        let preview = Preview {
            moves: vec![one(1, Some("a"), "b"), one(4, Some("a"), "b"), one(2, None, "b")],
            nodes: vec![NodeShare { node: node("a"), before: 2, after: 0 }],
            stranded: vec![],
            paused: false,
        };
        let written = Written::default();
        write(&preview, &mut written.output(false, false, false)).unwrap();
        let expected = "3 partitions would move\n\
                        from    to  count  partitions\n\
                        a       b       2  1 4\n\
                        nobody  b       1  2\n\
                        \n\
                        node  now  then\n\
                        a       2     0\n";
        assert_eq!(written.text(), expected);
    }
}
