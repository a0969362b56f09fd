//! The commands that ask or change a ring that runs, over NATS alone: they need no node's address and start none.
//!
//! In: arguments. Out: text or JSON on stdout, and where it fails one line on stderr with an exit code of `exit`. One
//! file per noun; `client` is what all share, `output` how they write.

mod balance;
mod change;
mod client;
mod completion;
mod copies;
mod keys;
mod members;
mod output;
mod overview;
mod picture;
mod plan;
mod watch;

use clap::Subcommand;

use super::exit::Failure;
use super::logging;
use output::{Done, Stop};

#[derive(Subcommand)]
pub(super) enum ClientCommand {
    /// How the ring is
    #[command(after_help = overview::STATUS_EXAMPLES)]
    Status(overview::StatusArgs),
    /// Its nodes
    #[command(after_help = overview::NODES_EXAMPLES)]
    Nodes(overview::NodesArgs),
    /// A picture of the partitions by owner
    #[command(after_help = overview::RING_EXAMPLES)]
    Ring(overview::RingArgs),
    /// The value of a key
    #[command(after_help = keys::GET_EXAMPLES)]
    Get(keys::LevelKeyArgs),
    /// Store a value
    #[command(after_help = keys::SET_EXAMPLES)]
    Set(keys::SetArgs),
    /// Forget a key
    #[command(after_help = keys::DELETE_EXAMPLES)]
    Delete(keys::LevelKeyArgs),
    /// Add to a number
    #[command(after_help = keys::INCR_EXAMPLES)]
    Incr(keys::IncrArgs),
    /// The value of a key, stored where there is none
    #[command(after_help = keys::GET_OR_SET_EXAMPLES)]
    GetOrSet(keys::SetArgs),
    /// Who owns a key
    #[command(after_help = keys::OWNER_EXAMPLES)]
    Owner(keys::KeyArgs),
    /// An entry's owner, version, age, ttl and size
    #[command(after_help = keys::INSPECT_EXAMPLES)]
    Inspect(keys::KeyArgs),
    /// Move everything off a node and end it
    #[command(after_help = members::DRAIN_EXAMPLES)]
    Drain(members::DrainArgs),
    /// Give a node nothing new
    #[command(after_help = members::CORDON_EXAMPLES)]
    Cordon(members::CordonArgs),
    /// Give a node its share again
    #[command(after_help = members::UNCORDON_EXAMPLES)]
    Uncordon(members::CordonArgs),
    /// Rebalance nothing for now
    #[command(after_help = balance::PAUSE_EXAMPLES)]
    Pause(change::ChangeArgs),
    /// Rebalance again
    #[command(after_help = balance::RESUME_EXAMPLES)]
    Resume(change::ChangeArgs),
    /// Move a partition to a node and pin it there
    #[command(after_help = balance::MOVE_EXAMPLES)]
    Move(balance::MoveArgs),
    /// Leave a partition to the planner again
    #[command(after_help = balance::UNPIN_EXAMPLES)]
    Unpin(balance::UnpinArgs),
    /// How many copies of each partition are kept
    #[command(after_help = copies::REPLICAS_EXAMPLES)]
    Replicas(copies::ReplicasArgs),
    /// What has to have a write before it is answered
    #[command(after_help = copies::CONSISTENCY_EXAMPLES)]
    Consistency(copies::ConsistencyArgs),
    /// What becomes of a partition whose copies are all gone
    #[command(after_help = copies::ON_LOSS_EXAMPLES)]
    OnLoss(copies::OnLossArgs),
    /// What would move if a node went or came
    #[command(after_help = plan::EXAMPLES)]
    Plan(plan::PlanArgs),
    /// Whether a node can be stopped now
    #[command(after_help = members::SAFE_EXAMPLES)]
    SafeToStop(members::NodeArgs),
    /// What happens, live
    #[command(after_help = watch::EXAMPLES)]
    Watch(watch::WatchArgs),
    /// A script for a shell to complete commands and flags
    #[command(after_help = completion::EXAMPLES)]
    Completion(completion::CompletionArgs),
}

/// Runs one command to its end.
///
/// # Errors
/// [`Failure`]: what did not work, with the exit code that tells.
pub(super) fn run(command: ClientCommand) -> Result<(), Failure> {
    logging::start_if_asked()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal("the runtime did not start", error))?;
    let ended = runtime.block_on(dispatch(command));
    runtime.shutdown_background();
    match ended {
        Ok(()) | Err(Stop::PipeClosed) => Ok(()),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

async fn dispatch(command: ClientCommand) -> Done {
    match command {
        ClientCommand::Status(args) => overview::status(args).await,
        ClientCommand::Nodes(args) => overview::nodes(args).await,
        ClientCommand::Ring(args) => overview::ring(args).await,
        ClientCommand::Get(args) => keys::get(args).await,
        ClientCommand::Set(args) => keys::set(args).await,
        ClientCommand::Delete(args) => keys::delete(args).await,
        ClientCommand::Incr(args) => keys::incr(args).await,
        ClientCommand::GetOrSet(args) => keys::get_or_set(args).await,
        ClientCommand::Owner(args) => keys::owner(args).await,
        ClientCommand::Inspect(args) => keys::inspect(args).await,
        ClientCommand::Drain(args) => members::drain(args).await,
        ClientCommand::Cordon(args) => members::cordon(args).await,
        ClientCommand::Uncordon(args) => members::uncordon(args).await,
        ClientCommand::Pause(args) => balance::pause(args).await,
        ClientCommand::Resume(args) => balance::resume(args).await,
        ClientCommand::Move(args) => balance::pin(args).await,
        ClientCommand::Unpin(args) => balance::unpin(args).await,
        ClientCommand::Replicas(args) => copies::replicas(args).await,
        ClientCommand::Consistency(args) => copies::consistency(args).await,
        ClientCommand::OnLoss(args) => copies::on_loss(args).await,
        ClientCommand::Plan(args) => plan::plan(args).await,
        ClientCommand::SafeToStop(args) => members::safe_to_stop(args).await,
        ClientCommand::Watch(args) => watch::watch(args).await,
        ClientCommand::Completion(args) => completion::completion(&args),
    }
}
