//! The project's NATS configurations, run as they are but for their ports and folder, so that tests can run at once.
//!
//! In: the files of `nats/`. Out: copies whose ports are free ones, and servers running with them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // shared by tests: none uses all of it

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::cli::{free_ports, nats_server, root};
use super::eventually::eventually;

/// The ports that the documentation and the configurations name.
const DOCUMENTED_PORTS: [u16; 16] =
    [4222, 4223, 4224, 4322, 6222, 6223, 6224, 8080, 8081, 8082, 8083, 8084, 8222, 8223, 8224, 8322];

/// Free ports in place of the documented ones, the same for the same.
#[derive(Debug, Clone)]
pub struct PortMap(BTreeMap<u16, u16>);

impl PortMap {
    pub fn new() -> Self {
        Self(DOCUMENTED_PORTS.into_iter().zip(free_ports(DOCUMENTED_PORTS.len())).collect())
    }

    /// What stands in for the documented port.
    pub fn get(&self, documented: u16) -> u16 {
        self.0[&documented]
    }

    /// The text with each documented port replaced.
    pub fn rewrite(&self, text: &str) -> String {
        let mut out = String::new();
        let mut digits = String::new();
        for c in text.chars().chain(['\n']) {
            if c.is_ascii_digit() {
                digits.push(c);
                continue;
            }
            let replaced = digits.parse().ok().and_then(|port| self.0.get(&port));
            out.push_str(&replaced.map_or_else(|| digits.clone(), u16::to_string));
            digits.clear();
            out.push(c);
        }
        out.pop();
        out
    }
}

/// A folder that stands in for the project's root: `nats/*.conf` in it, with free ports.
pub struct ConfFolder {
    folder: tempfile::TempDir,
    pub ports: PortMap,
}

impl ConfFolder {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = PortMap::new();
        fs::create_dir(folder.path().join("nats")).unwrap();
        for entry in fs::read_dir(root().join("nats")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "conf") {
                let text = ports.rewrite(&fs::read_to_string(&path).unwrap());
                fs::write(folder.path().join("nats").join(path.file_name().unwrap()), text).unwrap();
            }
        }
        Self { folder, ports }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A running `nats-server`; dropping it kills it.
pub struct Server {
    child: Child,
    url: String,
    log: PathBuf,
    folder: PathBuf,
}

impl Server {
    /// Starts it with one of the configurations, as the documentation says: from the project's root.
    pub fn start(folder: &ConfFolder, name: &str) -> Self {
        let text = fs::read_to_string(folder.path().join("nats").join(name)).unwrap();
        let listen = text.lines().find_map(|line| line.strip_prefix("listen: ")).unwrap().trim_matches('"').to_owned();
        let log = folder.path().join(format!("{name}.log"));
        let child = Command::new(nats_server())
            .args(["-c", &format!("nats/{name}")])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, url: format!("nats://{listen}"), log, folder: folder.path().to_owned() }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// A connection, as soon as it takes one.
    pub async fn connect(&self, limit: Duration) -> async_nats::Client {
        eventually(limit, &format!("a connection to {}", self.url), || async {
            async_nats::connect(&self.url).await.map_err(|e| format!("{e}; its log:\n{}", self.log()))
        })
        .await
    }

    pub fn folder_of_store_exists(&self, name: &str) -> bool {
        self.folder.join("nats/.data").join(name).join("jetstream").is_dir()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
