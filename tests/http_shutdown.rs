//! The end of HTTP: idle keep-alive connections are closed at once, and no answer under way is cut.
#![allow(clippy::unwrap_used)]

#[path = "common/one_node.rs"]
mod one_node;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nats_ring::cache::{CacheClient, Limits};
use nats_ring::http::{AppState, ConnectionLimits, RequestLimits, ServeEnd, app, bind, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use one_node::{Fake, Mood};

/// What each wait of these tests may take at most.
const LIMIT: Duration = Duration::from_secs(20);
/// A value that no socket's buffers hold.
const LARGE_BYTES: usize = 12 << 20;

struct Served {
    address: SocketAddr,
    fake: Arc<Fake>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<ServeEnd>,
}

async fn start(value_max_bytes: usize, drain_timeout: Duration) -> Served {
    let fake = Fake::with_values_up_to(value_max_bytes).await;
    let client = CacheClient::new(fake.clone(), Limits { max_value_bytes: value_max_bytes });
    let app = app(AppState::new(client, fake.clone(), RequestLimits::default()));
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let limits = ConnectionLimits { drain_timeout, ..ConnectionLimits::default() };
    let serving = tokio::spawn(serve(listener, app, limits, async { drop(stopped.await) }));
    Served { address, fake, stop, serving }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

async fn send(stream: &mut TcpStream, head: &str, body: &[u8]) {
    let head = format!("{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
}

/// Reads one answer: its head in lower case, and its body.
async fn answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        (head, body)
    };
    timeout(LIMIT, reading).await.unwrap()
}

/// Waits until the other side has closed, with nothing more to read.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

async fn drained(serving: JoinHandle<ServeEnd>) {
    assert_eq!(timeout(LIMIT, serving).await.unwrap().unwrap(), ServeEnd::Drained);
}

#[tokio::test]
async fn idle_connections_are_closed_and_a_request_under_way_gets_its_answer_and_is_told_the_end() {
    let served = start(1000, LIMIT).await;
    let (mut idle, mut fresh, mut busy) = (served.connect().await, served.connect().await, served.connect().await);
    for stream in [&mut idle, &mut busy] {
        send(stream, "PUT /v1/keys/k", b"value").await;
        let (head, _) = answer(stream).await;
        assert!(head.starts_with("http/1.1 20") && !head.contains("connection: close"), "{head}");
    }
    let permits = Arc::new(Semaphore::new(0));
    served.fake.becomes(Mood::Waits(permits.clone()));
    send(&mut busy, "GET /v1/keys/k", b"").await;
    // The call has reached the cache.
    timeout(LIMIT, served.fake.wait_until_asked(3)).await.unwrap();
    served.stop.send(()).unwrap();
    closed(&mut idle).await;
    closed(&mut fresh).await;
    assert!(TcpStream::connect(served.address).await.is_err(), "a new connection was accepted");
    assert!(!served.serving.is_finished());
    permits.add_permits(1);
    let (head, body) = answer(&mut busy).await;
    assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    assert_eq!(body, b"value");
    closed(&mut busy).await;
    drained(served.serving).await;
}

#[tokio::test]
async fn an_answer_whose_reader_is_slow_is_sent_to_its_last_byte() {
    let served = start(LARGE_BYTES, LIMIT).await;
    let mut stream = served.connect().await;
    let value: Vec<u8> = (0..LARGE_BYTES).map(|n| (n % 251) as u8).collect();
    send(&mut stream, "PUT /v1/keys/k", &value).await;
    assert!(answer(&mut stream).await.0.starts_with("http/1.1 201"));
    send(&mut stream, "GET /v1/keys/k", b"").await;
    // It has begun, and cannot have ended: nobody has read it.
    let mut first = [0; 1];
    timeout(LIMIT, stream.peek(&mut first)).await.unwrap().unwrap();
    served.stop.send(()).unwrap();
    tokio::task::yield_now().await;
    assert!(!served.serving.is_finished());
    assert!(answer(&mut stream).await.1 == value);
    closed(&mut stream).await;
    drained(served.serving).await;
}

#[tokio::test]
async fn a_body_that_is_still_being_sent_is_read_stored_and_answered() {
    let served = start(1000, LIMIT).await;
    let mut stream = served.connect().await;
    let head = "PUT /v1/keys/k HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Its body is being read.
    assert!(answer(&mut stream).await.0.starts_with("http/1.1 100"));
    stream.write_all(b"01234").await.unwrap();
    served.stop.send(()).unwrap();
    tokio::task::yield_now().await;
    stream.write_all(b"56789").await.unwrap();
    let (head, _) = answer(&mut stream).await;
    assert!(head.starts_with("http/1.1 201") && head.contains("connection: close"), "{head}");
    closed(&mut stream).await;
    drained(served.serving).await;
    assert_eq!(served.fake.cache.stats().entries, 1);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut_and_said_to_be() {
    let served = start(1000, Duration::from_millis(200)).await;
    let mut stream = served.connect().await;
    served.fake.becomes(Mood::Hangs);
    send(&mut stream, "GET /v1/keys/k", b"").await;
    timeout(LIMIT, served.fake.wait_until_asked(1)).await.unwrap();
    served.stop.send(()).unwrap();
    assert_eq!(timeout(LIMIT, served.serving).await.unwrap().unwrap(), ServeEnd::Cut);
}
