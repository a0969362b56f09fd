//! The command lines of `dev` and `demo`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::types::{Consistency, Factor, OnLoss};

/// More would be a ring to measure, not to look at.
const NODES_MAX: i64 = 32;

const AFTER_DEV: &str = "\
Keys in the live view: arrows or 1-9 select a node; a add, s stop, k kill -9, r restart, f freeze or thaw; t what to
try; q quit. Without a terminal (or with --plain) it prints one line per event, and the commands below do the same.

Examples:
  nats-ring dev                                       # a private NATS and three nodes in three zones, on :8081 to :8083
  nats-ring dev --nodes 5 --zones 2 -- --lease 1s     # what follows -- goes to each node
  nats-ring dev --replicas 2 --consistency quorum     # two copies of each partition, each write acknowledged by both
  nats-ring dev --nats nats://localhost:4222          # on a NATS that runs already
  nats-ring dev kill node-2                           # from a second terminal; --nats where it is not on :4222
  nats-ring dev status --json

Environment:
  NATS_SERVER   the nats-server to start; else the first of PATH and nats/.bin that is 2.11 or newer

Exit codes: 0 ended as asked; 1 something did not start; 3 no usable NATS, or it ended, or no dev answers there; 6 a dev runs for
this ring already; 10 there is no such node; 14 no answer in time; 2, 4, 5 and 13 as for nats-ring serve";

const AFTER_DEMO: &str = "\
It needs a nats-server (PATH, nats/.bin, or NATS_SERVER) and nothing else: free ports, a ring of its own, a temporary
folder that is removed. Exit codes: 0 every step held; 1 one did not, and the last line says which";

/// `nats-ring dev`.
#[derive(Args)]
#[command(after_help = AFTER_DEV, args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct DevArgs {
    #[command(subcommand)]
    pub(super) command: Option<DevCommand>,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

/// What runs, and how it is shown.
#[derive(Args)]
pub(super) struct RunArgs {
    /// How many nodes to start
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=NODES_MAX))]
    pub(super) nodes: u16,
    /// Over how many zones they are spread [default: 3, or one a node where there are fewer]
    #[arg(long, value_name = "Z", value_parser = clap::value_parser!(u16).range(1..=26))]
    pub(super) zones: Option<u16>,
    /// HTTP port of the first node, the others follow; 0: free ones
    #[arg(long, default_value_t = 8081, value_name = "PORT")]
    pub(super) http_from: u16,
    /// Port of the private NATS server; where it is taken, a free one; 0: any free one
    #[arg(long, default_value_t = 4222, value_name = "PORT", conflicts_with = "nats")]
    pub(super) nats_port: u16,
    /// One line per event, also on a terminal
    #[arg(long)]
    pub(super) plain: bool,
    /// Keep the logs in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    pub(super) logs: Option<PathBuf>,
    #[command(flatten)]
    pub(super) at: RingArgs,
    /// Copies of each partition, 1 to 7, where this is the ring's first node; never more are kept than there are nodes
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    replicas: Option<Factor>,
    /// eventual, quorum or strong, where a request does not say, likewise
    #[arg(long, value_name = "LEVEL")]
    consistency: Option<Consistency>,
    /// Where every copy of a partition is lost: accept (it starts empty) or wait, likewise
    #[arg(long, value_name = "CHOICE")]
    on_loss: Option<OnLoss>,
    /// Further flags for each node
    #[arg(last = true, value_name = "NODE_FLAGS")]
    node_flags: Vec<String>,
}

impl RunArgs {
    /// What each node is started with.
    pub(super) fn flags(&self) -> Vec<String> {
        let given = [
            ("--replicas", self.replicas.map(|copies| copies.to_string())),
            ("--consistency", self.consistency.map(|level| level.to_string())),
            ("--on-loss", self.on_loss.map(|choice| choice.to_string())),
        ];
        let ours = given.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?])).flatten();
        ours.chain(self.node_flags.iter().cloned()).collect()
    }
}

/// Which ring, on which NATS.
#[derive(Args)]
pub(super) struct RingArgs {
    // Not from NATS_RING_NATS: a ring to play with must not land on a NATS that was set for something else.
    /// Servers of one NATS that runs already, comma-separated; credentials for it are read from NATS_RING_NATS_…
    #[arg(long, value_name = "URLS")]
    pub(super) nats: Option<String>,
    /// The ring's name: first token of its subjects [default: cache-platform]
    #[arg(long, env = "NATS_RING_PLATFORM", value_name = "NAME")]
    pub(super) platform: Option<String>,
}

/// What a second terminal may ask of a running `nats-ring dev`.
#[derive(Subcommand)]
pub(super) enum DevCommand {
    /// Start one more node; answers when it is ready
    Add {
        /// Its name [default: the next free node-N]
        name: Option<String>,
        #[command(flatten)]
        how: AskArgs,
    },
    /// TERM: the node hands everything over and leaves; answers when it has ended
    Stop(OneNode),
    /// kill -9: the others take over, with the copies they have
    Kill(OneNode),
    /// End it if it runs, start it again; answers when it is ready
    Restart(OneNode),
    /// SIGSTOP: the process stands still; past its lease the others take over
    Freeze(OneNode),
    /// SIGCONT: it goes on
    Thaw(OneNode),
    /// Nodes, partitions held, last events
    Status(AskArgs),
    /// Ends what a killed dev left behind; dev starts it by itself
    #[command(hide = true)]
    Keeper,
}

#[derive(Args)]
pub(super) struct OneNode {
    /// Which node
    pub(super) node: String,
    #[command(flatten)]
    pub(super) how: AskArgs,
}

#[derive(Args)]
pub(super) struct AskArgs {
    /// The answer as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) at: RingArgs,
}

/// `nats-ring demo`.
#[derive(Args)]
#[command(after_help = AFTER_DEMO)]
pub(in crate::cli) struct DemoArgs {
    /// Keep the logs in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    pub(super) logs: Option<PathBuf>,
}
