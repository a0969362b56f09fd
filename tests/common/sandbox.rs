//! A folder in which the README's commands run as they are written, on ports of their own.
//!
//! In: one shell line of the README. Documented ports become free ones; `cargo run` starts the program that is already
//! built; NATS keeps its store in the folder. Out: what a command printed, or a process that goes on until dropped.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)] // shared by tests

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group};

use super::cli::{nats_cli, nats_server};
use super::server_conf::{ConfFolder, PortMap};

/// Stands in for the project's root while a section of the README is run.
pub struct Sandbox {
    folder: ConfFolder,
    running: Vec<Running>,
    /// Whether there is a `nats` command line.
    pub has_cli: bool,
}

/// A command that goes on in the background, in a process group of its own.
struct Running {
    line: String,
    child: Child,
    log: PathBuf,
}

impl Sandbox {
    /// `what` names the section in case something has to be skipped.
    pub fn new(what: &str) -> Self {
        let folder = ConfFolder::new();
        let cli = nats_cli(what);
        let sandbox = Self { folder, running: Vec::new(), has_cli: cli.is_some() };
        fs::create_dir(sandbox.path().join("bin")).unwrap();
        // curl answers with the status below the body, and never hangs.
        let curlrc = "silent\nshow-error\nmax-time = 30\nnoproxy = \"*\"\nwrite-out = \"\\nHTTP %{http_code}\\n\"\n";
        fs::write(sandbox.path().join(".curlrc"), curlrc).unwrap();
        let (server, port) = (nats_server(), sandbox.ports().get(4222));
        sandbox.shim(
            "nats-server",
            &format!(
                "case \"$*\" in *-c*) exec '{}' \"$@\" ;; esac\nexec '{}' -a 127.0.0.1 -p {port} -sd nats/.data/plain \"$@\"",
                server.display(),
                server.display()
            ),
        );
        let program = env!("CARGO_BIN_EXE_nats-ring");
        let example = example("counter");
        sandbox.shim(
            "cargo",
            &format!(
                "case \"$*\" in\n'build --release --bin nats-ring') exit 0 ;;\n'run --release -- '*) shift 3; \
                 exec '{program}' \"$@\" ;;\n'run --example counter') exec '{example}' ;;\nesac\necho \"the README says 'cargo $*', which its test does not know\" >&2\nexit 99"
            ),
        );
        sandbox.shim("nats-ring", &format!("exec '{program}' \"$@\""));
        if let Some(cli) = cli {
            sandbox.shim("nats", &format!("exec '{}' \"$@\"", cli.display()));
        }
        sandbox
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn ports(&self) -> &PortMap {
        &self.folder.ports
    }

    /// Runs a command to its end; what it printed. Fails where it fails.
    pub fn run(&self, line: &str) -> String {
        let output = self.shell(line).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`{line}` failed ({}):\n{text}\n{}", output.status, self.logs());
        text
    }

    /// Starts a command that goes on.
    pub fn start(&mut self, line: &str) {
        let command = self.shell(line);
        self.start_command(line, command);
    }

    /// Starts any command under the sandbox's care.
    pub fn start_command(&mut self, line: &str, mut command: Command) {
        let log = self.path().join(format!("{}.log", self.running.len()));
        let output = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("`{line}`: {e}"));
        self.running.push(Running { line: line.to_owned(), child, log });
    }

    /// What the last started command has printed so far.
    pub fn last_log(&self) -> String {
        fs::read_to_string(&self.running.last().unwrap().log).unwrap_or_default()
    }

    /// As Ctrl-C does: a signal to all processes of the last started command.
    pub fn interrupt_last(&self) {
        let group = Pid::from_child(&self.running.last().unwrap().child);
        kill_process_group(group, Signal::INT).unwrap();
    }

    /// Whether the last started command has ended.
    pub fn last_has_ended(&mut self) -> bool {
        self.running.last_mut().unwrap().child.try_wait().unwrap().is_some()
    }

    /// Whether the running command with this in its line has ended, as asked; it is then forgotten. Fails where it ended
    /// otherwise.
    pub fn has_ended_well(&mut self, part: &str) -> bool {
        let at = self.running.iter().position(|r| r.line.contains(part)).unwrap();
        let Some(status) = self.running[at].child.try_wait().unwrap() else { return false };
        assert!(status.success(), "`{}` ended with {status}:\n{}", self.running[at].line, self.logs());
        self.running.remove(at);
        true
    }

    /// Fails where a command that should go on has ended.
    pub fn assert_all_running(&mut self) {
        let ended = self.running.iter_mut().find_map(|r| r.child.try_wait().unwrap().map(|s| (r.line.clone(), s)));
        assert!(ended.is_none(), "ended by itself: {ended:?}\n{}", self.logs());
    }

    /// The logs of all commands that were started.
    pub fn logs(&self) -> String {
        let log = |r: &Running| format!("---- {}\n{}", r.line, fs::read_to_string(&r.log).unwrap_or_default());
        self.running.iter().map(log).collect::<Vec<_>>().join("\n")
    }

    /// The environment in which commands run: our programs first on PATH, the sandbox as home and working folder.
    pub fn environment(&self, command: &mut Command) {
        let path = format!("{}:{}", self.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
        let nats = format!("nats://127.0.0.1:{}", self.ports().get(4222));
        command.env("PATH", path).env("HOME", self.path()).env("CURL_HOME", self.path());
        command.env("NO_COLOR", "1").env("NATS_URL", &nats).env("NATS_RING_NATS", &nats);
        command.env_remove("XDG_CONFIG_HOME").env_remove("CARGO").env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    }

    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-e", "-o", "pipefail", "-c", &self.ports().rewrite(line)]).current_dir(self.path());
        self.environment(&mut command);
        command
    }

    fn shim(&self, name: &str, body: &str) {
        let path = self.path().join("bin").join(name);
        fs::write(&path, format!("#!/usr/bin/env bash\n{body}\n")).unwrap();
        let mut rights = File::open(&path).unwrap().metadata().unwrap().permissions();
        rights.set_mode(0o755);
        fs::set_permissions(&path, rights).unwrap();
    }
}

/// Where cargo puts an example, which it builds along with all tests.
fn example(name: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(built.is_file(), "{} is not there: cargo build --example {name}", built.display());
    built.display().to_string()
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for running in self.running.iter_mut().rev() {
            // The group is gone where the command has ended.
            let _ = kill_process_group(Pid::from_child(&running.child), Signal::KILL);
            let _ = running.child.wait();
        }
    }
}
