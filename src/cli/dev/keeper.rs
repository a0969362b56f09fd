//! Nothing stays behind, even where `dev` itself is killed: a small process of its own that holds the other end of a
//! pipe, and ends what it was told of once that pipe closes without a word.
//!
//! In: one line per change on stdin (`node PID`, `server PID`, `ended PID`, `folder PATH`, at last `done`). A parent's
//! death signal would need code that runs between fork and exec, and a frozen node could not notice by itself.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::cli::exit::Failure;
use crate::types::{BootClock, Clock};

/// How long processes may take to end by themselves, and how long killed ones are waited for. Where nobody asks how they
/// ended, as in some containers, they look alive to the last.
const TERM_LIMIT: Duration = Duration::from_secs(4);
const KILL_LIMIT: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The handle that `dev` holds.
pub(super) struct Keeper {
    process: Child,
}

impl Keeper {
    /// Starts it, out of reach of Ctrl-C.
    pub(super) fn start(program: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(["dev", "keeper"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.process_group(0).spawn();
        let process = process.map_err(|error| Failure::internal("the keeper of processes did not start", error))?;
        Ok(Self { process })
    }

    pub(super) fn node(&mut self, pid: u32) {
        self.tell(&format!("node {pid}"));
    }

    pub(super) fn server(&mut self, pid: u32) {
        self.tell(&format!("server {pid}"));
    }

    pub(super) fn ended(&mut self, pid: u32) {
        self.tell(&format!("ended {pid}"));
    }

    pub(super) fn folder(&mut self, path: &Path) {
        self.tell(&format!("folder {}", path.display()));
    }

    /// A keeper that is gone leaves `dev` to end its processes itself, as it does whenever it can.
    fn tell(&mut self, line: &str) {
        if let Some(pipe) = &mut self.process.stdin {
            let _ = writeln!(pipe, "{line}");
        }
    }
}

impl Drop for Keeper {
    /// Everything has been ended: it has nothing to do. It ends as soon as it reads that.
    fn drop(&mut self) {
        self.tell("done");
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// What the keeper has been told of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kept {
    nodes: BTreeSet<i32>,
    servers: BTreeSet<i32>,
    folder: Option<PathBuf>,
    done: bool,
}

impl Kept {
    fn hear(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, rest.parse::<i32>()) {
            ("node", Ok(pid)) => drop(self.nodes.insert(pid)),
            ("server", Ok(pid)) => drop(self.servers.insert(pid)),
            ("ended", Ok(pid)) => {
                self.nodes.remove(&pid);
                self.servers.remove(&pid);
            }
            ("folder", _) => self.folder = Some(rest.into()),
            ("done", _) => self.done = true,
            _ => {}
        }
    }
}

/// The keeper's own life: listens until the pipe closes, then cleans up unless told that all is done.
pub(super) fn keep() {
    let mut kept = Kept::default();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        kept.hear(&line);
    }
    if kept.done {
        return;
    }
    end(&kept.nodes);
    end(&kept.servers);
    if let Some(folder) = kept.folder {
        let _ = fs::remove_dir_all(folder);
    }
}

/// TERM, so that nodes leave a ring on a shared NATS properly; KILL for those that do not manage in time.
fn end(pids: &BTreeSet<i32>) {
    for (signal, limit) in [(Signal::TERM, TERM_LIMIT), (Signal::KILL, KILL_LIMIT)] {
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = kill_process(pid, signal);
            // A frozen process takes no other signal until it goes on.
            let _ = kill_process(pid, Signal::CONT);
        }
        let begin = BootClock.now();
        while pids.iter().any(|pid| lives(*pid)) && BootClock.now().since(begin) < limit {
            // No runtime here: nobody else waits for this thread.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn lives(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_forgotten_and_a_folder_may_have_spaces() {
        let mut kept = Kept::default();
        for line in ["node 12", "node 13", "server 14", "folder /tmp/a b", "ended 12", "ended 99", "nonsense"] {
            kept.hear(line);
        }
        let expected = Kept { nodes: [13].into(), servers: [14].into(), folder: Some("/tmp/a b".into()), done: false };
        assert_eq!(kept, expected);
        kept.hear("done");
        assert!(kept.done);
    }
}
