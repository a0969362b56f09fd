//! The command line: flags, their environment variables, and what `--help` says.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::commands::ClientCommand;
use super::dev::{DemoArgs, DevArgs};
use super::nats_args::NatsArgs;
use crate::config::{Config, ConfigError, Settings};

const AFTER_HELP: &str = "\
Without a command it runs a node. Flags win over environment variables, those over the file of --config, that over the
context, that over the defaults.

Examples:
  nats-server -js                                     # NATS, in another terminal
  nats-ring --node node-1 --http :8081                # a ring of one node
  nats-ring --node node-2 --http :8082                # and a second
  nats-ring --config ring.toml --zone a --weight 2
  nats-ring --context prod --node node-1              # servers, login and TLS as the nats command line has them
  NATS_RING_NATS=nats://a:4222,nats://b:4222 nats-ring --node node-1 --http 0.0.0.0:8080
  nats-ring status                                    # how it goes; every command's --help has examples

Signals:
  TERM or INT once drains: partitions move away, entries included, then it exits. Twice ends it at once.

Exit codes:
  0    ended as asked: drained and left
  1    something unforeseen
  2    a flag, variable or file is wrong
  3    no usable NATS within --wait: absent, without JetStream, too old, TLS
  4    NATS refused the credentials, or does not permit what is needed
  5    the HTTP address cannot be bound
  6    a live node holds this name
  7    the ring was created with other values
  8    the drain did not finish
  9    the node left by itself: a hook hung, or a task kept failing
  10   there is no such key, node or partition
  11   not safe now: safe-to-stop, a drain that nobody could take over, status --check of a ring that is not healthy
  12   there is no such ring, or no node of it answers
  13   refused for now, surely not done: try again
  14   no answer in time: it may have been done
  130  a signal ended it before it was done: for a node, a second one";

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "nats-ring",
    version,
    about = "A node of a partitioned ring on NATS, with a distributed cache on it",
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true
)]
pub(super) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run a node (what happens without a command)
    #[command(after_help = AFTER_HELP)]
    Serve(Box<ServeArgs>),
    #[command(flatten)]
    Client(Box<ClientCommand>),
    /// A ring to play with: a private NATS server and some nodes, live in the terminal
    Dev(Box<DevArgs>),
    /// A story of five nodes that are joined, drained and killed, told as it happens; in under a minute
    #[command(after_help = "Examples:\n  nats-ring demo")]
    Demo(DemoArgs),
}

impl Cli {
    /// What to do: without a command, to serve.
    pub(super) fn into_command(self) -> Command {
        self.command.unwrap_or_else(|| Command::Serve(Box::new(self.serve)))
    }
}

/// Texts throughout: they are checked where those of the file are, with the same messages.
#[derive(Args)]
pub(super) struct ServeArgs {
    /// This node's name: one live process each [default: node-1]
    #[arg(long, env = "NATS_RING_NODE", value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    nats: NatsArgs,
    /// :PORT binds loopback, 0.0.0.0:PORT all interfaces, :0 picks a port and logs it [default: :8080]
    #[arg(long, env = "NATS_RING_HTTP", value_name = "ADDRESS")]
    http: Option<String>,
    /// Fixed when the ring is created [default: 64]
    #[arg(long, env = "NATS_RING_PARTITIONS", value_name = "COUNT", allow_negative_numbers = true)]
    partitions: Option<String>,
    /// xxh3 or nats; nats is what NATS servers compute in a mapping. Fixed when the ring is created [default: xxh3]
    #[arg(long, env = "NATS_RING_KEY_HASH", value_name = "HASH")]
    key_hash: Option<String>,
    /// The ring's name: first token of its subjects [default: cache-platform]
    #[arg(long, env = "NATS_RING_PLATFORM", value_name = "NAME")]
    platform: Option<String>,
    /// Failure zone [default: none]
    #[arg(long, env = "NATS_RING_ZONE", value_name = "ZONE")]
    zone: Option<String>,
    /// Share of the partitions, relative to the other nodes [default: 1]
    #[arg(long, env = "NATS_RING_WEIGHT", value_name = "NUMBER", allow_negative_numbers = true)]
    weight: Option<String>,
    /// How long the others wait before they take over [default: 3s]
    #[arg(long, env = "NATS_RING_LEASE", value_name = "DURATION")]
    lease: Option<String>,
    /// Bound on the cache's memory [default: 1GiB]
    #[arg(long, env = "NATS_RING_MEMORY", value_name = "SIZE")]
    memory: Option<String>,
    /// Copies of each partition, 1 to 7, the owner's included; never more are kept than there are nodes. The ring's: taken
    /// when it is created, changed by `nats-ring replicas` [default: 3]
    #[arg(long, env = "NATS_RING_REPLICAS", value_name = "COUNT", allow_negative_numbers = true)]
    replicas: Option<String>,
    /// eventual, quorum or strong, where a request does not say. The ring's, changed by `nats-ring consistency`
    /// [default: eventual]
    #[arg(long, env = "NATS_RING_CONSISTENCY", value_name = "LEVEL")]
    consistency: Option<String>,
    /// Where every copy of a partition is lost: accept (it starts empty) or wait. The ring's, changed by `nats-ring on-loss`
    /// [default: accept]
    #[arg(long, env = "NATS_RING_ON_LOSS", value_name = "CHOICE")]
    on_loss: Option<String>,
    /// Copies of partitions that this node makes for others at once, 1 to 64 [default: 4]
    #[arg(long, env = "NATS_RING_COPY_PARALLEL", value_name = "COUNT", allow_negative_numbers = true)]
    copy_parallel: Option<String>,
    /// Bytes a second that all of them may take together [default: 100MB]
    #[arg(long, env = "NATS_RING_COPY_RATE", value_name = "SIZE")]
    copy_rate: Option<String>,
    /// A node that comes back within this time is brought up to date by what it missed, instead of copied anew; 0s is off
    /// [default: 30s]
    #[arg(long, env = "NATS_RING_RETURN_DELAY", value_name = "DURATION")]
    return_delay: Option<String>,
    /// Once this node was evicted, its copies are not made elsewhere for so long: frozen or cut off, it comes back with them [default:
    /// 0s, at once]
    #[arg(long, env = "NATS_RING_EVICTED_DELAY", value_name = "DURATION")]
    evicted_delay: Option<String>,
    /// A folder in which a node that drains leaves its copies for its next start, at most 4 GB. They hold the entries as they are
    /// [default: none are left]
    #[arg(long, env = "NATS_RING_KEEP", value_name = "FOLDER")]
    keep: Option<String>,
    /// Copies of the ring's bucket [default: 3 on a JetStream cluster, else 1]
    #[arg(long, env = "NATS_RING_KV_REPLICAS", value_name = "COUNT", allow_negative_numbers = true)]
    kv_replicas: Option<String>,
    /// How long to wait at start for NATS [default: 30s]
    #[arg(long, env = "NATS_RING_WAIT", value_name = "DURATION")]
    wait: Option<String>,
    /// text or json; what is logged says RUST_LOG [default: text]
    #[arg(long, env = "NATS_RING_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<String>,
    /// A file with these settings, by the flags' names: .toml, .yaml or .json
    #[arg(long, env = "NATS_RING_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ServeArgs {
    /// The settings of the node to run.
    ///
    /// # Errors
    /// [`ConfigError`] where one of them cannot be used.
    pub(super) fn into_config(self) -> Result<Config, ConfigError> {
        let file = self.config.as_deref().map_or_else(|| Ok(Settings::default()), Settings::from_file)?;
        let given = Settings {
            node: self.node,
            http: self.http,
            partitions: self.partitions,
            key_hash: self.key_hash,
            platform: self.platform,
            zone: self.zone,
            weight: self.weight,
            lease: self.lease,
            memory: self.memory,
            replicas: self.replicas,
            consistency: self.consistency,
            on_loss: self.on_loss,
            copy_parallel: self.copy_parallel,
            copy_rate: self.copy_rate,
            return_delay: self.return_delay,
            evicted_delay: self.evicted_delay,
            keep: self.keep,
            kv_replicas: self.kv_replicas,
            wait: self.wait,
            log_format: self.log_format,
            ..self.nats.settings()
        };
        Config::new(given.or(file))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The words of a line of shell up to its first operator or comment; `None` where it does not call the program.
    fn call(line: &str) -> Option<Vec<String>> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                '|' | '>' | '<' | '#' | '&' if !quoted => break,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let program = words.iter().position(|word| word == "nats-ring")?;
        let variables = words[..program].iter().all(|word| word.contains('='));
        variables.then(|| words[program..].to_vec())
    }

    #[test]
    fn every_command_has_examples_and_every_example_parses() {
        let mut seen = 0;
        let program = Cli::command();
        for command in std::iter::once(&program).chain(program.get_subcommands()) {
            let name = command.get_name();
            let help = command.get_after_help().unwrap_or_else(|| panic!("{name} has no examples")).to_string();
            let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name} has no examples"));
            let calls: Vec<_> = examples.lines().take_while(|line| !line.is_empty()).filter_map(call).collect();
            assert!(!calls.is_empty(), "{name}: no example calls the program");
            for words in calls {
                let parsed = Cli::try_parse_from(&words);
                assert!(parsed.is_ok(), "{words:?}: {}", parsed.err().unwrap());
                let own = name == "nats-ring" || name == "serve" || words[1] == name;
                assert!(own, "{name} has an example of another command: {words:?}");
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen} examples found");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_all_flags_of_a_node_stand_at_the_top() {
        let program = Cli::command();
        let flags = |command: &clap::Command| -> Vec<String> {
            command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
        };
        assert_eq!(flags(&program), flags(program.find_subcommand("serve").unwrap()));
    }
}
