//! The commands that ask or change a ring that runs, over NATS alone: they need no node's address and start none.
//!
//! In: arguments. Out: text or JSON on stdout, and where it fails one line on stderr with an exit code of `exit`. One
//! file per noun; `client` is what all share, `output` how they write.

mod client;
mod completion;
mod keys;
mod output;
mod overview;
mod picture;

use clap::Subcommand;

use super::exit::Failure;
use super::logging;
use output::{Done, Stop};

#[derive(Subcommand)]
pub(super) enum ClientCommand {
    /// How the ring is
    #[command(after_help = overview::STATUS_EXAMPLES)]
    Status(overview::OverviewArgs),
    /// Its nodes
    #[command(after_help = overview::NODES_EXAMPLES)]
    Nodes(overview::OverviewArgs),
    /// A picture of the partitions by owner
    #[command(after_help = overview::RING_EXAMPLES)]
    Ring(overview::OverviewArgs),
    /// The value of a key
    #[command(after_help = keys::GET_EXAMPLES)]
    Get(keys::KeyArgs),
    /// Store a value
    #[command(after_help = keys::SET_EXAMPLES)]
    Set(keys::SetArgs),
    /// Forget a key
    #[command(after_help = keys::DELETE_EXAMPLES)]
    Delete(keys::KeyArgs),
    /// Who owns a key
    #[command(after_help = keys::OWNER_EXAMPLES)]
    Owner(keys::KeyArgs),
    /// An entry's owner, version, age, ttl and size
    #[command(after_help = keys::INSPECT_EXAMPLES)]
    Inspect(keys::KeyArgs),
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
        ClientCommand::Owner(args) => keys::owner(args).await,
        ClientCommand::Inspect(args) => keys::inspect(args).await,
        ClientCommand::Completion(args) => completion::completion(&args),
    }
}
