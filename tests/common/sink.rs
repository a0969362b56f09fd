//! The external store that `examples/fenced_writer.rs` writes to: keeps the highest token per partition, refuses what that
//! does not admit, and remembers every attempt.
//!
//! In: lines of the example over TCP. Out: verdicts; the attempts in the order in which they were judged.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // shared by tests: none uses all of it

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use nats_ring::types::FencingToken;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A write that arrived, and what was said to it.
#[derive(Debug, Clone)]
pub struct Write {
    pub partition: u64,
    pub token: FencingToken,
    pub value: Value,
    pub accepted: bool,
}

/// What a writer of this value waits for before it may go.
pub type HoldUp = dyn Fn(&Value) -> BoxFuture<'static, ()> + Send + Sync;

/// The external store.
pub struct Sink {
    judged: Mutex<Judged>,
    /// Values whose writers asked whether they may go.
    asked: Mutex<Vec<Value>>,
    hold_up: Box<HoldUp>,
}

#[derive(Default)]
struct Judged {
    highest: HashMap<u64, FencingToken>,
    writes: Vec<Write>,
}

impl Sink {
    /// Listens until the runtime ends; gives the address.
    pub async fn listen(hold_up: Box<HoldUp>) -> (Arc<Self>, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let sink = Arc::new(Self { judged: Mutex::default(), asked: Mutex::default(), hold_up });
        let accepting = Arc::clone(&sink);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&accepting).serve(connection));
            }
        });
        (sink, address)
    }

    async fn serve(self: Arc<Self>, connection: TcpStream) {
        let mut lines = BufReader::new(connection).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            // A writer that was killed in the middle of a line has not written.
            let Ok(said) = serde_json::from_str::<Value>(&line) else { return };
            let answer = match said.get("ask") {
                Some(value) => self.may_go(value.clone()).await,
                None => json!({ "accepted": self.judge(&said) }).to_string(),
            };
            if lines.get_mut().write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn may_go(&self, value: Value) -> String {
        let held_up = (self.hold_up)(&value);
        self.asked.lock().unwrap().push(value);
        held_up.await;
        "go".to_owned()
    }

    fn judge(&self, said: &Value) -> bool {
        let partition = said["partition"].as_u64().unwrap();
        let token: FencingToken = serde_json::from_value(said["token"].clone()).unwrap();
        let mut judged = self.judged.lock().unwrap();
        let accepted = judged.highest.get(&partition).is_none_or(|highest| highest.admits(&token));
        if accepted {
            judged.highest.insert(partition, token.clone());
        }
        judged.writes.push(Write { partition, token, value: said["value"].clone(), accepted });
        accepted
    }

    /// Whether the writer of this value asked whether it may go.
    pub fn was_asked(&self, value: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == value)
    }

    /// All attempts so far, in the order in which they were judged.
    pub fn writes(&self) -> Vec<Write> {
        self.judged.lock().unwrap().writes.clone()
    }

    /// The attempt to write this value.
    pub fn write_of(&self, value: &str) -> Result<Write, String> {
        let writes = self.writes();
        writes.iter().find(|write| write.value == value).cloned().ok_or_else(|| format!("{} writes", writes.len()))
    }
}

/// The example's program: beside the folder of the tests' own.
pub fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().and_then(|deps| deps.parent()).unwrap().join("examples/fenced_writer");
    assert!(program.is_file(), "{} is missing: cargo build --example fenced_writer", program.display());
    program
}
