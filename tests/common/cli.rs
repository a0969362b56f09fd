//! The NATS programs that tests run: where they are, and what happens where one is missing.
//!
//! `nats-server` is required. The `nats` command line is required where `NATS_RING_REQUIRE_NATS_CLI=1` is set (the
//! checks of every change set it); elsewhere a test that needs it says loudly that it skips.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)] // shared by tests

use std::env;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The project's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The server: `NATS_RING_NATS_SERVER`, else the one of `nats/install.sh`, else the one on PATH.
pub fn nats_server() -> PathBuf {
    find("nats-server", "NATS_RING_NATS_SERVER").unwrap_or_else(|| panic!("no nats-server: run nats/install.sh"))
}

/// The `nats` command line, or `None` after saying that `what` is skipped.
pub fn nats_cli(what: &str) -> Option<PathBuf> {
    let found = find("nats", "NATS_RING_NATS_CLI");
    if found.is_none() {
        let required = env::var("NATS_RING_REQUIRE_NATS_CLI").is_ok_and(|v| v == "1");
        assert!(!required, "{what}: no nats command line, and NATS_RING_REQUIRE_NATS_CLI=1: run nats/install.sh");
        eprintln!("\n**** SKIPPED: {what}: there is no nats command line (nats/install.sh builds it with Go) ****\n");
    }
    found
}

fn find(program: &str, variable: &str) -> Option<PathBuf> {
    if let Some(named) = env::var_os(variable) {
        return Some(PathBuf::from(named));
    }
    let installed = root().join("nats/.bin").join(program);
    let on_path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&on_path).map(|folder| folder.join(program)).collect::<Vec<_>>();
    [installed].into_iter().chain(on_path).find(|candidate| candidate.is_file())
}

/// Ports that nothing listened on just now, each given once per process. They lie below the range from which systems
/// take the ports of outgoing connections, so that none of those takes one of them before it is used.
pub fn free_ports(count: usize) -> Vec<u16> {
    const FIRST: u32 = 10_000;
    const RANGE: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(64);
    let candidates = (0..RANGE).map(|_| begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % RANGE + FIRST);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    candidates.map(|port| u16::try_from(port).unwrap()).filter(free).take(count).collect()
}
