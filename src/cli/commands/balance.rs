//! `pause`, `resume`, `move`, `unpin`: where partitions are to be.

use clap::Args;

use super::change::ChangeArgs;
use super::output::Done;
use crate::types::{NodeName, PartitionId};

pub(super) const PAUSE_EXAMPLES: &str = "\
Nothing moves between healthy nodes until `resume`. What loses its owner is still taken over.

Examples:
  nats-ring pause";
pub(super) const RESUME_EXAMPLES: &str = "\
Examples:
  nats-ring resume
  nats-ring resume --wait 1m                      # until all is balanced again";
pub(super) const MOVE_EXAMPLES: &str = "\
The partition is pinned: it stays there while the node can own it, until `unpin`.

Examples:
  nats-ring move 17 node-2
  nats-ring move 17 node-2 --wait 30s             # until it is there";
pub(super) const UNPIN_EXAMPLES: &str = "\
Examples:
  nats-ring unpin 17";

#[derive(Args)]
pub(in crate::cli) struct MoveArgs {
    /// The partition's number
    partition: u16,
    /// Where to
    node: NodeName,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
pub(in crate::cli) struct UnpinArgs {
    /// The partition's number
    partition: u16,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn pause(args: ChangeArgs) -> Done {
    let admin = args.admin().await?;
    let change = admin.pause().await?;
    args.report(&admin, &change, "nothing moves between healthy nodes until resume").await
}

pub(super) async fn resume(args: ChangeArgs) -> Done {
    let admin = args.admin().await?;
    let change = admin.resume().await?;
    args.report(&admin, &change, "partitions are balanced among the nodes").await
}

pub(super) async fn pin(args: MoveArgs) -> Done {
    let admin = args.change.admin().await?;
    let change = admin.pin(PartitionId::new(args.partition), &args.node).await?;
    args.change.report(&admin, &change, &format!("partition {} belongs to {}", args.partition, args.node)).await
}

pub(super) async fn unpin(args: UnpinArgs) -> Done {
    let admin = args.change.admin().await?;
    let change = admin.unpin(PartitionId::new(args.partition)).await?;
    args.change.report(&admin, &change, &format!("partition {} is left to the planner", args.partition)).await
}
