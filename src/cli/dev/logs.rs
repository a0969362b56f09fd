//! The log files of what was started: read again, to learn an address or a reason.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::Path;

/// Enough for the last line and for what is said at a start.
const READ_MAX_BYTES: u64 = 256 * 1024;
const LAST_BYTES: u64 = 4096;

/// Bytes the file has by now.
pub(super) fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |about| about.len())
}

/// The text from this byte on; empty where there is none.
pub(super) fn since(file: &Path, from: u64) -> String {
    let read = || {
        let mut open = File::open(file)?;
        open.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        open.take(READ_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// The last line that says something.
pub(super) fn last_line(file: &Path) -> String {
    let tail = since(file, length(file).saturating_sub(LAST_BYTES));
    let last = tail.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.map_or_else(
        || format!("its log {} is empty", file.display()),
        |line| line.trim_start_matches("nats-ring: ").to_owned(),
    )
}

/// The address in a node's line `… http listening address=127.0.0.1:40123 …`.
pub(super) fn listening_address(log: &str) -> Option<SocketAddr> {
    let (_, after) = log.split_once("http listening")?;
    let of_address = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']');
    after.lines().next()?.split(|c| !of_address(c)).find_map(|word| word.parse().ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_says_something_is_found_and_an_absent_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.log");
        assert!(last_line(&file).contains("is empty"));
        std::fs::write(&file, "first\nnats-ring: port taken\n\n").unwrap();
        assert_eq!(last_line(&file), "port taken");
        assert_eq!(since(&file, 6), "nats-ring: port taken\n\n");
    }

    #[test]
    fn the_address_is_found_in_text_and_json_lines() {
        let port = |line: &str| listening_address(line).map(|a| a.port());
        assert_eq!(port("INFO x: http listening address=127.0.0.1:40123 node=dead\nnext"), Some(40123));
        assert_eq!(port(r#"{"message":"http listening","address":"[::1]:8081"}"#), Some(8081));
        assert_eq!(port("INFO nats connected address=127.0.0.1:4222"), None);
    }
}
