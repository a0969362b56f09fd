//! Real NATS servers for tests: started on free ports with a store of their own, stopped, killed, frozen, restarted
//! with their files, and gone when dropped.

#![allow(clippy::print_stderr)] // a test that is skipped says so

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nats_ring::connect::{ConnectOptions, Connection};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

/// How long a server may take to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Where in its directory a server keeps its streams.
const STORE: &str = "jetstream";
/// Detects a frozen client or server within six seconds.
const PINGS: &str = "ping_interval: \"2s\"\nping_max: 2\n";

/// How to start a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// With JetStream.
    pub jetstream: bool,
    /// Further lines of its configuration.
    pub extra: String,
    /// Another server than the one that tests run.
    pub program: Option<PathBuf>,
    /// Where all it logs is kept.
    pub log: Option<PathBuf>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { jetstream: true, extra: String::new(), program: None, log: None }
    }
}

/// One server.
#[derive(Debug)]
pub struct NatsServer {
    dir: TempDir,
    options: ServerOptions,
    name: String,
    port: Option<u16>,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts a server with JetStream and returns when it is ready.
    pub fn start() -> Self {
        Self::start_with(ServerOptions::default())
    }

    /// Starts a server and returns when it is ready.
    pub fn start_with(options: ServerOptions) -> Self {
        let mut server = Self::prepared("test-server", options);
        server.launch().wait_ready(&mut server.port);
        server
    }

    fn prepared(name: &str, options: ServerOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("nats-ring-test-").tempdir().unwrap();
        Self { dir, options, name: name.to_owned(), port: None, child: None }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// The port clients connect to; stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port.expect("server was never ready")
    }

    /// Options for a connection to this server.
    pub fn connect_options(&self) -> ConnectOptions {
        ConnectOptions { wait: Duration::from_secs(20), ..ConnectOptions::new([self.url()]) }
    }

    /// A connection to this server.
    pub async fn connect(&self) -> Connection {
        Connection::open(&self.connect_options()).await.unwrap()
    }

    /// Ends it the way an operator would; its files stay.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Ends it at once; its files stay.
    pub fn kill9(&mut self) {
        self.end(Signal::KILL);
    }

    /// Starts it again, on the same port and with its files, ending it first if it runs.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill9`], on the same port and with its files.
    pub fn start_again(&mut self) {
        self.launch().wait_ready(&mut self.port);
    }

    /// A copy of its files, to be taken while it is stopped.
    pub fn copy_files(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(&self.dir.path().join(STORE), copy.path());
        copy
    }

    /// Puts such a copy in the place of its files while it is stopped: all writes since are lost.
    pub fn restore_files(&self, copy: TempDir) {
        let store = self.dir.path().join(STORE);
        std::fs::remove_dir_all(&store).unwrap();
        copy_dir(copy.path(), &store);
    }

    /// Freezes it: connections stay open, nothing is answered.
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        // The signal only asks for it.
        waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("server is not running"))
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        let pid = Pid::from_child(&child);
        let _ = kill_process(pid, signal);
        // A frozen process takes no other signal until it goes on.
        let _ = kill_process(pid, Signal::CONT);
        let _ = child.wait();
    }

    fn launch(&mut self) -> Starting {
        let config = self.dir.path().join("server.conf");
        let port = self.port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let store = self.dir.path().join(STORE);
        let jetstream =
            if self.options.jetstream { format!("jetstream {{ store_dir: {store:?} }}\n") } else { String::new() };
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: {}\n{PINGS}{jetstream}{}\n",
            self.name, self.options.extra
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(self.options.program.clone().unwrap_or_else(binary))
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nats-server cannot be started");
        let (tx, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut file =
            self.options.log.as_ref().map(|file| OpenOptions::new().create(true).append(true).open(file).unwrap());
        // Read to the end, so that the server never waits for a full pipe.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(file) = &mut file {
                    // A full disk costs the log, not the test.
                    let _ = file.write_all(format!("{line}\n").as_bytes());
                }
                let _ = tx.send(line);
            }
        });
        self.child = Some(child);
        Starting { lines }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A server on its way up.
struct Starting {
    lines: mpsc::Receiver<String>,
}

impl Starting {
    fn wait_ready(self, port: &mut Option<u16>) {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut log = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if let Some((_, address)) = line.split_once("Listening for client connections on ") {
                *port = address.rsplit(':').next().and_then(|text| text.trim().parse().ok());
            }
            if line.contains("Server is ready") {
                return;
            }
            log.push(line);
        }
        panic!("nats-server did not become ready:\n{}", log.join("\n"));
    }
}

/// Three servers with a replicated JetStream.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts three servers and returns when each is ready; a leader may still have to be found.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same, with further lines of configuration for each server.
    pub fn start_with(extra: &str) -> Self {
        let ports = free_ports(3);
        let routes = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect::<Vec<_>>().join(", ");
        Self::launch((0..3).map(|n| {
            let listen = format!("listen: \"127.0.0.1:{}\"", ports[n]);
            let extra = format!("cluster {{ name: test, {listen}, routes: [{routes}] }}\n{extra}");
            ServerOptions { extra, ..ServerOptions::default() }
        }))
    }

    /// Three servers that reach each other by these routes alone, `routes[n]` being those of server `n`, and that tell neither
    /// clients nor each other of further addresses: whatever is between them stays between them.
    pub fn start_routed(ports: &[u16], routes: &[Vec<String>], logs: &Path) -> Self {
        Self::launch((0..3).map(|n| {
            let routes = routes[n].iter().map(|url| format!("\"{url}\"")).collect::<Vec<_>>().join(", ");
            // Nobody listens there: servers hear of one another's addresses by gossip as well.
            let told = "no_advertise: true, advertise: \"127.0.0.1:1\"";
            let listen = format!("listen: \"127.0.0.1:{}\"", ports[n]);
            let extra = format!("cluster {{ name: test, {listen}, {told}, routes: [{routes}] }}\n");
            ServerOptions { extra, log: Some(logs.join(format!("server-{n}.log"))), ..ServerOptions::default() }
        }))
    }

    fn launch(options: impl Iterator<Item = ServerOptions>) -> Self {
        let mut servers: Vec<_> =
            options.enumerate().map(|(n, options)| NatsServer::prepared(&format!("server-{n}"), options)).collect();
        let starting: Vec<_> = servers.iter_mut().map(NatsServer::launch).collect();
        for (server, starting) in servers.iter_mut().zip(starting) {
            starting.wait_ready(&mut server.port);
        }
        Self { servers }
    }

    /// One of the servers, 0 to 2.
    pub fn server(&mut self, n: usize) -> &mut NatsServer {
        &mut self.servers[n]
    }

    /// All addresses, comma-separated.
    pub fn url(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// Options for a connection to any of the servers.
    pub fn connect_options(&self) -> ConnectOptions {
        ConnectOptions { wait: Duration::from_secs(30), ..ConnectOptions::new([self.url()]) }
    }

    /// A connection to any of the servers, once JetStream has a leader.
    pub async fn connect(&self) -> Connection {
        Connection::open(&self.connect_options()).await.unwrap()
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Ports that were free a moment ago, outside the range from which the system takes ports for outgoing connections.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut held: Vec<TcpListener> = Vec::new();
    while held.len() < count {
        held.extend(TcpListener::bind(("127.0.0.1", rand::random_range(10_000..32_000))).ok());
    }
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Another version of the server, as `nats/install.sh --old-servers` brings it, or `None` after saying that `what` is
/// skipped. The checks of every change set `NATS_RING_REQUIRE_OLD_SERVERS=1`: there it must be there.
pub fn old_server(version: &str, what: &str) -> Option<PathBuf> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("nats/.bin").join(version).join("nats-server");
    if file.is_file() {
        return Some(file);
    }
    let required = std::env::var("NATS_RING_REQUIRE_OLD_SERVERS").is_ok_and(|v| v == "1");
    assert!(!required, "{what}: no nats-server {version}, and NATS_RING_REQUIRE_OLD_SERVERS=1");
    eprintln!("\n**** SKIPPED: {what}: no nats-server {version} (nats/install.sh --old-servers brings it) ****\n");
    None
}

/// The server's program: named by the environment, fetched by the install script, or on PATH.
fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("NATS_RING_NATS_SERVER") {
        return named.into();
    }
    let fetched = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("nats/.bin/nats-server");
    let on_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut candidates = std::iter::once(fetched).chain(on_path.map(|dir| dir.join("nats-server")));
    candidates.find(|file| file.is_file()).expect("no nats-server found: run nats/install.sh")
}
