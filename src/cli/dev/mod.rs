//! A ring on one machine, to play with and to look at: `nats-ring dev`, and the story that `nats-ring demo` tells.
//!
//! In: flags, keys, commands from a second terminal. Out: a private NATS server and nodes as child processes, shown live
//! or one line per event, and none of it left behind.
//!
//! `run` is the loop of `dev`; `fleet` has the nodes, `member` what is known of one, `node` its process, `reading` what it
//! says of itself; `board` is the ring as all of them see it; `view` and `screen` draw it; `control`, `command` and
//! `pending` are for a second terminal; `server` is NATS; `keeper` ends what a killed `dev` left; `demo` is the story.

mod args;
mod base;
mod board;
mod command;
mod control;
mod demo;
mod fleet;
mod hints;
mod http;
mod keeper;
mod logs;
mod member;
mod node;
mod pending;
mod reading;
mod run;
mod screen;
mod server;
mod status;
mod view;

use std::future::Future;

use clap::Parser;

use args::{AskArgs, DevCommand};
pub(super) use args::{DemoArgs, DevArgs};
use command::{Command, Verb};

use super::exit::Failure;
use super::nats_args::NatsArgs;
use crate::config::Settings;

/// `nats-ring dev`, or one command to one that runs.
pub(super) fn dev(args: DevArgs) -> Result<(), Failure> {
    match args.command {
        None => block_on(run::run(args.run)),
        Some(DevCommand::Keeper) => {
            keeper::keep();
            Ok(())
        }
        Some(DevCommand::Add { name, how }) => ask(&Command::Add(name), &how),
        Some(DevCommand::Stop(one)) => ask(&Command::Do(Verb::Stop, one.node), &one.how),
        Some(DevCommand::Kill(one)) => ask(&Command::Do(Verb::Kill, one.node), &one.how),
        Some(DevCommand::Restart(one)) => ask(&Command::Do(Verb::Restart, one.node), &one.how),
        Some(DevCommand::Freeze(one)) => ask(&Command::Do(Verb::Freeze, one.node), &one.how),
        Some(DevCommand::Thaw(one)) => ask(&Command::Do(Verb::Thaw, one.node), &one.how),
        Some(DevCommand::Status(how)) => ask(&Command::Status, &how),
    }
}

fn ask(command: &Command, how: &AskArgs) -> Result<(), Failure> {
    block_on(control::ask(command, how, &mut std::io::stdout()))
}

/// One thread is enough: the nodes are processes of their own.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::internal("the runtime did not start", error))?;
    let ended = runtime.block_on(work);
    runtime.shutdown_background();
    ended
}

/// Credentials for a NATS that runs already: from where nodes have them, the environment.
#[derive(Parser)]
struct FromEnvironment {
    #[command(flatten)]
    nats: NatsArgs,
}

fn credentials() -> Result<Settings, Failure> {
    let read = FromEnvironment::try_parse_from(["nats-ring"]);
    let nats = read.map_err(|error| Failure::internal("the environment cannot be used", error))?.nats;
    // Where it is must be said on purpose: a ring to play with never lands in a place that is set for something else.
    Ok(NatsArgs { nats: None, context: None, ..nats }.settings())
}

/// `nats-ring demo`.
pub(super) fn demo(args: DemoArgs) -> Result<(), Failure> {
    block_on(demo::run(args))
}
