//! What `dev` and `demo` stand on: a temporary folder, logs, the keeper, and a private NATS server.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use tempfile::TempDir;

use super::keeper::Keeper;
use super::server::{self, Found, Server};
use crate::cli::exit::Failure;

/// Begins of variables that say which NATS, and how to log in there: nothing for nodes on a private server.
const ABOUT_NATS: [&str; 3] = ["NATS_RING_NATS", "NATS_RING_CONTEXT", "NATS_RING_CONFIG"];
/// Those that could log nodes in as somebody else than `dev`, which looks at neither.
const LEFT_ASIDE: [&str; 2] = ["NATS_RING_CONTEXT", "NATS_RING_CONFIG"];

/// Gone with everything in it when dropped.
pub(super) struct Base {
    folder: TempDir,
    pub(super) logs: PathBuf,
    /// Whether the logs outlive this.
    pub(super) keeps_logs: bool,
    /// This program, of which each node is one process.
    pub(super) program: PathBuf,
}

impl Base {
    /// A folder, and a keeper that removes it should nobody else.
    pub(super) fn open(logs: Option<PathBuf>) -> Result<(Self, Keeper), Failure> {
        let fail = |error: std::io::Error| Failure::internal("the folder for logs and stores cannot be had", error);
        let program = std::env::current_exe().map_err(|error| Failure::internal("this program is not found", error))?;
        let folder = tempfile::Builder::new().prefix("nats-ring-dev-").tempdir().map_err(fail)?;
        let keeps_logs = logs.is_some();
        let logs = logs.unwrap_or_else(|| folder.path().join("logs"));
        std::fs::create_dir_all(&logs).map_err(fail)?;
        let mut keeper = Keeper::start(&program)?;
        keeper.folder(folder.path());
        Ok((Self { folder, logs, keeps_logs, program }, keeper))
    }

    /// Starts a server and waits until it is ready.
    pub(super) async fn start_server(&self, found: &Found, port: u16, keeper: &mut Keeper) -> Result<Server, Failure> {
        let mut server = Server::spawn(found, port, self.folder.path(), self.logs.join("nats-server.log"))?;
        keeper.server(server.pid);
        match server.wait_ready().await {
            Ok(()) => Ok(server),
            Err(failure) => {
                server.end().await;
                Err(failure)
            }
        }
    }

    /// Variables that nodes do not get: on the private server all about NATS, else those that `dev` itself leaves aside.
    pub(super) fn forget(on_private_server: bool) -> Vec<OsString> {
        let names = std::env::vars_os().map(|(name, _)| name);
        let begins: &[&str] = if on_private_server { &ABOUT_NATS } else { &LEFT_ASIDE };
        let about = |name: &OsString| begins.iter().any(|begin| name.to_string_lossy().starts_with(begin));
        names.filter(about).collect()
    }
}

/// A server that will do, and where it shall listen.
pub(super) async fn find_server(asked: u16) -> Result<(Found, u16), Failure> {
    Ok((server::find().await?, server::choose_port(asked)?))
}

/// A line for people. Who reads it may be gone: that must not keep anything from being ended.
pub(super) fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
