//! `replicas`, `consistency`, `on-loss`: what the ring keeps to with its copies.

use clap::Args;

use super::change::ChangeArgs;
use super::output::Done;
use crate::types::{Consistency, Factor, OnLoss};

pub(super) const REPLICAS_EXAMPLES: &str = "\
Copies of each partition, the owner's included: 1 to 7, and never more than there are nodes. More are made while requests go on;
those that are not asked for any more are dropped.

Examples:
  nats-ring replicas 3
  nats-ring replicas 2 --wait 5m                  # until every partition has them
  nats-ring replicas 3 --json | jq -r '.notes[]'  # whether there are nodes enough";
pub(super) const CONSISTENCY_EXAMPLES: &str = "\
For requests that name none. eventual: the owner has it. quorum: every copy in sync has it, and they are a majority of the
copies asked for. strong: the same, and they are all of them. What cannot be reached is refused, not executed.

Examples:
  nats-ring consistency quorum
  nats-ring consistency eventual --json | jq .changed";
pub(super) const ON_LOSS_EXAMPLES: &str = "\
Of a partition whose copies are all gone. accept: it starts empty. wait: it is not served until the loss is accepted, and
starts empty then: nothing that is gone comes back by waiting, but you know of it.

Examples:
  nats-ring on-loss wait
  nats-ring on-loss accept                        # also what waits now starts empty";

#[derive(Args)]
pub(in crate::cli) struct ReplicasArgs {
    /// How many: 1 to 7
    #[arg(value_name = "COUNT", allow_negative_numbers = true)]
    replicas: Factor,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
pub(in crate::cli) struct ConsistencyArgs {
    /// eventual, quorum or strong
    #[arg(value_name = "LEVEL")]
    consistency: Consistency,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
pub(in crate::cli) struct OnLossArgs {
    /// accept or wait
    #[arg(value_name = "CHOICE")]
    on_loss: OnLoss,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn replicas(args: ReplicasArgs) -> Done {
    let admin = args.change.admin().await?;
    let change = admin.set_replicas(args.replicas).await?;
    let what = match args.replicas.get() {
        1 => "1 copy of each partition is kept: its owner's".to_owned(),
        copies => format!("{copies} copies of each partition are kept, the owner's included"),
    };
    args.change.report(&admin, &change, &what).await
}

pub(super) async fn consistency(args: ConsistencyArgs) -> Done {
    let admin = args.change.admin().await?;
    let change = admin.set_consistency(args.consistency).await?;
    let what = format!("requests that name no consistency are answered at {}", args.consistency);
    args.change.report(&admin, &change, &what).await
}

pub(super) async fn on_loss(args: OnLossArgs) -> Done {
    let admin = args.change.admin().await?;
    let change = admin.set_on_loss(args.on_loss).await?;
    let what = match args.on_loss {
        OnLoss::Accept => "a partition whose copies are all gone starts empty",
        OnLoss::Wait => "a partition whose copies are all gone waits until the loss is accepted",
    };
    args.change.report(&admin, &change, what).await
}
