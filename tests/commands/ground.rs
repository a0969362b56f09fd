//! What the commands are run on: a NATS server, three nodes in two zones, and the program as a process with an end.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::common::eventually::eventually;
use super::common::http::Http;
use super::common::nats_server::NatsServer;
use super::common::node::NodeProcess;

/// How long nodes may take to get ready: the machine may be busy with other tests.
pub(crate) const READY: Duration = Duration::from_secs(60);

/// A ring of three nodes: `a-1` and `a-2` in zone `a`, `b-1` in zone `b`.
pub(crate) struct Ground {
    pub(crate) nodes: Vec<NodeProcess>,
    pub(crate) server: NatsServer,
}

impl Ground {
    /// Started, and every partition served.
    pub(crate) async fn start() -> Self {
        let server = NatsServer::start();
        let nodes: Vec<NodeProcess> = [("a-1", "a"), ("a-2", "a"), ("b-1", "b")]
            .into_iter()
            .map(|(name, zone)| NodeProcess::spawn(name, &server.url(), &["--zone", zone, "--lease", "2s"]))
            .collect();
        let ring = Self { nodes, server };
        for node in &ring.nodes {
            node.wait_ready(READY).await;
        }
        eventually(READY, "all nodes see the partitions shared out evenly, with their copies", || ring.shared_out())
            .await;
        ring
    }

    /// Who owns each partition, as a node's HTTP says.
    pub(crate) async fn owners(&self, node: usize) -> Vec<Option<String>> {
        let url = self.nodes[node].url("/ring").await;
        let body = Http::new().get(&url).await.unwrap().json();
        let partitions = body["partitions"].as_array().unwrap();
        partitions.iter().map(|one| one["owner"].as_str().map(str::to_owned)).collect()
    }

    /// How many copies in sync each partition has, as a node's HTTP says.
    pub(crate) async fn copies(&self) -> Vec<usize> {
        let body = Http::new().get(&self.nodes[0].url("/ring").await).await.unwrap().json();
        body["partitions"].as_array().unwrap().iter().map(|one| one["replicas"].as_array().unwrap().len()).collect()
    }

    async fn shared_out(&self) -> Result<(), Vec<Option<String>>> {
        let first = self.owners(0).await;
        let mut even = first.iter().all(Option::is_some);
        for (number, node) in self.nodes.iter().enumerate() {
            let count = first.iter().flatten().filter(|owner| **owner == node.name).count();
            even &= (21..=22).contains(&count) && self.owners(number).await == first;
        }
        even &= self.copies().await.iter().all(|copies| *copies == self.nodes.len());
        if even { Ok(()) } else { Err(first) }
    }

    /// The program with these arguments, to be run on this ring.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.env("NATS_RING_NATS", self.server.url());
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Run {
        finish(self.command(arguments), "").await
    }

    /// Runs it with `--json`, which must succeed with one document.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let run = self.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(run.code, Some(0), "{arguments:?}: {run:?}");
        assert_eq!(run.out.lines().count(), 1, "{arguments:?}: {run:?}");
        run.documents().remove(0)
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Every line of its output, as JSON.
    #[track_caller]
    pub(crate) fn documents(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:?}"))).collect()
    }

    /// Asserts that it failed with this code and one line on stderr that holds all of `says`.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("nats-ring: "), "{self:?}");
        for text in says {
            assert!(self.err.contains(text), "'{text}' is not in: {}", self.err);
        }
    }

    /// Asserts that it succeeded and that its output holds all of `says`.
    #[track_caller]
    pub(crate) fn assert_says(&self, says: &[&str]) {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        for text in says {
            assert!(self.out.contains(text), "'{text}' is not in:\n{}", self.out);
        }
    }
}

/// The program, free of what this process's environment says about rings.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(arguments).env_remove("RUST_LOG").env_remove("NO_COLOR");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NATS_")) {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end with this on its stdin.
pub(crate) async fn finish(mut command: Command, stdin: &str) -> Run {
    let stdin = stdin.to_owned();
    let wait = move || -> Output {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(wait).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
