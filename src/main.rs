//! The program `nats-ring`: everything it does is in the library's `cli`.

use std::process::ExitCode;

/// Resident memory stays near what the cache holds: see docs/decisions/0002-memory.md for what was measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    nats_ring::cli::run(std::env::args_os())
}
