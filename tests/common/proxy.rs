//! A TCP proxy on one link (node to NATS, client to NATS, server to server), to do to it what networks do: cut it, stall
//! it, swallow what is sent, slow it down, each direction by itself.
//!
//! In: where to forward to, and the state of the link, changed at any time. Bounded: so many connections, so many
//! chunks on their way in each.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::disallowed_methods)] // shared by tests

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

const CONNECTIONS_MAX: usize = 64;
const CHUNK_BYTES: usize = 16 * 1024;
const CHUNKS_MAX: usize = 64;

/// State of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// As if there were no proxy.
    Open,
    /// Each byte arrives so much later, in each direction.
    Slow(Duration),
    /// Half-open: connections stay, new ones are accepted, nothing gets through until it is open again.
    Stalled,
    /// Half-open, and nobody notices by a full socket: what is sent is taken and lost. A connection that lost something is
    /// closed once the link is open again: no TCP stream goes on with a hole.
    Swallowing,
    /// Connections are closed, and new ones as soon as they come.
    Cut,
}

/// State of both directions, as their reader sees them.
#[derive(Clone)]
struct Links {
    to_server: watch::Receiver<Link>,
    to_client: watch::Receiver<Link>,
}

/// A proxy, gone when dropped.
pub struct Proxy {
    address: SocketAddr,
    to_server: watch::Sender<Link>,
    to_client: watch::Sender<Link>,
    accepting: JoinHandle<()>,
    /// Connections that were accepted, ever.
    accepted: Arc<AtomicUsize>,
}

impl Proxy {
    /// To a port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to_server, server_state) = watch::channel(Link::Open);
        let (to_client, client_state) = watch::channel(Link::Open);
        let (links, accepted) = (Links { to_server: server_state, to_client: client_state }, Arc::default());
        let accepting = tokio::spawn(accept(listener, port, links, Arc::clone(&accepted)));
        Self { address, to_server, to_client, accepting, accepted }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What a node is told to connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on the link is like this, in both directions.
    pub fn set(&self, link: Link) {
        self.set_each(link, link);
    }

    /// From now on the link is like this, each direction by itself; cut is cut for both.
    pub fn set_each(&self, to_server: Link, to_client: Link) {
        self.to_server.send_replace(to_server);
        self.to_client.send_replace(to_client);
    }

    /// How many connections were ever accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Link::Cut);
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, links: Links, accepted: Arc<AtomicUsize>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let Ok((client, _)) = listener.accept().await else { return };
        accepted.fetch_add(1, Ordering::Relaxed);
        let (mut one, mut other, links) = (links.to_server.clone(), links.to_client.clone(), links.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = one.wait_for(|link| *link == Link::Cut) => {}
                _ = other.wait_for(|link| *link == Link::Cut) => {}
                () = connection(client, port, links) => {}
            }
            drop(place);
        });
    }
}

async fn connection(client: TcpStream, port: u16, links: Links) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // The end of one direction ends both.
    tokio::select! {
        () = direction(from_client, to_server, links.to_server) => {}
        () = direction(from_server, to_client, links.to_client) => {}
    }
}

async fn direction(from: OwnedReadHalf, to: OwnedWriteHalf, link: watch::Receiver<Link>) {
    let (queue, chunks) = mpsc::channel(CHUNKS_MAX);
    tokio::join!(take_in(from, queue, link.clone()), give_out(to, chunks, link));
}

async fn take_in(mut from: OwnedReadHalf, queue: mpsc::Sender<(Instant, Bytes)>, mut link: watch::Receiver<Link>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        if link.wait_for(|link| *link != Link::Stalled).await.is_err() {
            return;
        }
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let now = *link.borrow();
        let delay = match now {
            Link::Slow(delay) => delay,
            Link::Swallowing => return swallow(from, &mut buffer, link).await,
            _ => Duration::ZERO,
        };
        if queue.send((Instant::now() + delay, Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
            return;
        }
    }
}

/// Takes everything and passes on nothing, until the link is another: what comes then would come behind a hole.
async fn swallow(mut from: OwnedReadHalf, buffer: &mut [u8], mut link: watch::Receiver<Link>) {
    let taken = async { while let Ok(1..) = from.read(buffer).await {} };
    tokio::select! {
        () = taken => {}
        _ = link.wait_for(|link| *link != Link::Swallowing) => {}
    }
}

async fn give_out(
    mut to: OwnedWriteHalf,
    mut chunks: mpsc::Receiver<(Instant, Bytes)>,
    mut link: watch::Receiver<Link>,
) {
    while let Some((due, chunk)) = chunks.recv().await {
        tokio::time::sleep_until(due.into()).await;
        let open = link.wait_for(|link| *link != Link::Stalled).await.is_ok();
        if !open || to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}
