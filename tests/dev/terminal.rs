//! `nats-ring dev` on a terminal: a pseudo-terminal of the test's own, read as a person would see it and typed on.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::common::eventually::eventually;
use super::{LIMIT, dev_command};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// What takes the terminal over, and gives it back.
const ALTERNATE_SCREEN: &str = "\u{1b}[?1049h";
const USUAL_SCREEN: &str = "\u{1b}[?1049l";

const ROWS: u16 = 32;
const COLUMNS: u16 = 100;

/// What a person sees after all this was written: cursor moves and text, everything else has no width.
fn screen(written: &str) -> String {
    let mut cells = vec![vec![' '; usize::from(COLUMNS)]; usize::from(ROWS)];
    let (mut row, mut column) = (0, 0);
    let shown = written.rsplit(ALTERNATE_SCREEN).next().unwrap();
    let mut rest = shown.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            let mut code = String::new();
            while !code.ends_with(|c: char| c.is_ascii_alphabetic()) {
                let Some(next) = rest.next() else { break };
                code.push(next);
            }
            if let Some(place) = code.strip_prefix('[').and_then(|code| code.strip_suffix('H')) {
                let numbers: Vec<usize> = place.split(';').filter_map(|n| n.parse().ok()).collect();
                (row, column) = (numbers.first().map_or(0, |n| n - 1), numbers.get(1).map_or(0, |n| n - 1));
            }
        } else if let Some(cell) = cells.get_mut(row).and_then(|line| line.get_mut(column)) {
            *cell = c;
            column += 1;
        }
    }
    cells.into_iter().map(|line| line.into_iter().collect::<String>()).collect::<Vec<_>>().join("\n")
}

/// A program on a terminal.
struct Typed {
    child: Child,
    keyboard: File,
    /// Everything that was written, as it came: a read may end within a character.
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Typed {
    fn start(mut command: Command) -> Self {
        let keyboard = File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        tcsetwinsize(&keyboard, Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let terminal = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
        command.stdin(terminal()).stdout(terminal()).stderr(terminal());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let child = command.spawn().unwrap();
        // The command holds the terminal open until it is dropped here.
        drop(command);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, shown) = (keyboard.try_clone().unwrap(), seen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Reading fails once nobody has the terminal any more.
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                shown.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, keyboard, seen }
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    async fn wait_seen(&self, text: &str) {
        eventually(LIMIT, &format!("the terminal shows {text:?}"), || async {
            let seen = self.seen();
            if seen.contains(text) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// Waits until a person sees it.
    async fn wait_screen(&self, text: &str) {
        eventually(LIMIT, &format!("a person sees {text:?}"), || async {
            let seen = screen(&self.seen());
            if seen.contains(text) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// How often it has been shown so far.
    fn count(&self, text: &str) -> usize {
        self.seen().matches(text).count()
    }

    fn press(&mut self, key: &str) {
        self.keyboard.write_all(key.as_bytes()).unwrap();
    }

    /// Whether typed keys are shown and collected into lines: the usual state.
    fn is_usual(&self) -> bool {
        tcgetattr(&self.keyboard).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    async fn wait_exit(&mut self, limit: Duration) -> Option<i32> {
        let child = Mutex::new(&mut self.child);
        eventually(limit, "it has ended", || async { child.lock().unwrap().try_wait().unwrap().ok_or("still running") })
            .await
            .code()
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_view_draws_the_ring_keys_act_on_it_and_q_gives_the_terminal_back() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = dev_command(temporary.path());
    command.args(["--nodes", "2", "--http-from", "0", "--nats-port", "0"]);
    let mut dev = Typed::start(command);
    assert!(dev.is_usual());
    dev.wait_seen(ALTERNATE_SCREEN).await;
    dev.wait_screen("╭ 64 partitions, all served ─").await;
    dev.wait_screen("▸ 1  node-1     a    ready ").await;
    dev.wait_screen("  2  node-2     b    ready ").await;
    dev.wait_screen("all 64 partitions are served").await;
    dev.wait_screen("s stop · k kill · r restart").await;
    assert!(!dev.is_usual(), "keys come one by one, unseen");
    // Numbers of the two owners on their colours.
    dev.wait_seen("48;5;6m 1 ").await;
    dev.wait_seen("48;5;3m 2 ").await;

    dev.press("a");
    dev.wait_screen("  3  node-3     a    ready ").await;
    dev.wait_seen("48;5;2m 3 ").await;
    dev.press("3");
    dev.wait_screen("▸ 3  node-3 ").await;
    dev.press("k");
    dev.wait_screen("▸ 3  node-3     a    ended ").await;
    dev.wait_screen("all 64 partitions are served again after ").await;
    dev.press("f");
    dev.wait_screen("node 'node-3' has ended already").await;

    dev.press("q");
    assert_eq!(dev.wait_exit(LIMIT).await, Some(0));
    dev.wait_seen("all ended").await;
    assert!(dev.is_usual(), "the terminal is as it was");
    assert_eq!((dev.count(ALTERNATE_SCREEN), dev.count(USUAL_SCREEN)), (1, 1));
    let seen = dev.seen();
    assert!(seen.rfind(USUAL_SCREEN) < seen.rfind("all ended"), "what it says at the end stays to be read");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn control_c_in_the_view_ends_it_and_plain_lines_need_no_terminal() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = dev_command(temporary.path());
    command.args(["--nodes", "1", "--http-from", "0", "--nats-port", "0"]);
    let mut dev = Typed::start(command);
    dev.wait_seen("48;5;6m 1 ").await;
    dev.press("\u{3}");
    assert_eq!(dev.wait_exit(LIMIT).await, Some(0));
    assert!(dev.is_usual());

    let mut command = dev_command(temporary.path());
    command.args(["--plain", "--nodes", "1", "--http-from", "0", "--nats-port", "0"]);
    let mut plain = Typed::start(command);
    plain.wait_seen("Ctrl-C ends all").await;
    assert_eq!(plain.count("\u{1b}"), 0);
    rustix::process::kill_process(rustix::process::Pid::from_child(&plain.child), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(plain.wait_exit(LIMIT).await, Some(0));
}
