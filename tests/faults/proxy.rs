//! A TCP proxy between one node and NATS, to do to a link what networks do: cut it, stall it, slow it down.
//!
//! In: where to forward to, and the state of the link, changed at any time. Bounded: so many connections, so many
//! chunks on their way in each.

use std::net::SocketAddr;
use std::sync::Arc;
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
    /// Half-open: connections stay, new ones are accepted, nothing gets through.
    Stalled,
    /// Connections are closed, and new ones as soon as they come.
    Cut,
}

/// A proxy, gone when dropped.
pub struct Proxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// To a port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, state) = watch::channel(Link::Open);
        let accepting = tokio::spawn(accept(listener, port, state));
        Self { address, link, accepting }
    }

    /// What a node is told to connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on the link is like this.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Link::Cut);
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, link: watch::Receiver<Link>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let Ok((client, _)) = listener.accept().await else { return };
        let (mut cut, link) = (link.clone(), link.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = cut.wait_for(|link| *link == Link::Cut) => {}
                () = connection(client, port, link) => {}
            }
            drop(place);
        });
    }
}

async fn connection(client: TcpStream, port: u16, link: watch::Receiver<Link>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // The end of one direction ends both.
    tokio::select! {
        () = direction(from_client, to_server, link.clone()) => {}
        () = direction(from_server, to_client, link) => {}
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
        let delay = match *link.borrow() {
            Link::Slow(delay) => delay,
            _ => Duration::ZERO,
        };
        if queue.send((Instant::now() + delay, Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
            return;
        }
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
