//! The program: its command line, the node it runs, and how it ends.
//!
//! In: arguments, environment, signals. Out: log lines on stderr, an exit code, and after a failure one last line
//! `nats-ring: <what happened>: <what to do>`. `args` and `nats_args` are the command line, `login` the way into NATS, `start` what a
//! node is put together from, `serve` its life, `exit` the codes; `commands` asks or changes a ring that runs, `dev` is a whole ring to play with.

mod args;
mod commands;
mod dev;
mod exit;
mod logging;
mod login;
mod nats_args;
mod serve;
mod signals;
mod start;
mod told;

use std::ffi::OsString;
use std::io::ErrorKind::BrokenPipe;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{Error, ErrorKind};

pub use exit::{Code, Failure};

use crate::config::Config;
use args::{Cli, Command};

/// Runs the program to its end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let ended = match Cli::try_parse_from(arguments) {
        Ok(cli) => match cli.into_command() {
            Command::Serve(args) => args.into_config().map_err(Failure::from).and_then(run_node),
            Command::Client(command) => commands::run(*command),
            Command::Dev(args) => dev::dev(*args),
            Command::Demo(args) => dev::demo(args),
        },
        Err(said) => usage(&said),
    };
    let code = match ended {
        Ok(()) => Code::Ok,
        Err(failure) => {
            eprintln!("{failure}");
            failure.code
        }
    };
    ExitCode::from(code as u8)
}

fn run_node(config: Config) -> Result<(), Failure> {
    logging::start(config.log_format)?;
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| Failure::internal("the runtime did not start", error))?;
    let ended = runtime.block_on(serve::serve(config));
    // What still runs must not keep a process from ending that has nothing left to do.
    runtime.shutdown_background();
    ended
}

/// Help and version are asked for; anything else is a mistake, told in one line.
fn usage(said: &Error) -> Result<(), Failure> {
    if matches!(said.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match said.print() {
            // Whoever reads may have gone (`| head`), which is no failure.
            Err(error) if error.kind() != BrokenPipe => Err(Failure::internal("the help cannot be printed", error)),
            _ => Ok(()),
        };
    }
    let text = said.to_string();
    // What follows are hints that read badly in one line.
    let ends = |line: &str| line.starts_with("Usage:") || line.starts_with("tip:");
    let lines = text.lines().map(str::trim).take_while(|line| !ends(line));
    let words: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    let what = words.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    // `nats-ring --nats URL status`: which is where other programs have such flags.
    let misplaced = said.kind() == ErrorKind::ArgumentConflict && what.starts_with("the subcommand");
    let hint = if misplaced { ": flags stand behind the command" } else { "" };
    Err(Failure::new(Code::Usage, format!("{what}{hint}: see nats-ring --help")))
}
