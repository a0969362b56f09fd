//! The NATS servers of a round, one or three, and the proxies on the routes between them.

use std::path::Path;
use std::time::Duration;

use crate::common::nats_server::{NatsCluster, NatsServer, ServerOptions, free_ports};
use crate::common::proxy::{Link, Proxy};
use crate::observer::connect;
use crate::schedule::Topology;

/// How long the servers are asked for the leader of a stream.
const ASKED: Duration = Duration::from_secs(2);

/// The servers.
pub struct Servers {
    running: Running,
    /// On the way from one server to another, by their numbers.
    routes: Vec<(usize, usize, Proxy)>,
    killed: Vec<usize>,
}

enum Running {
    One(NatsServer),
    Three(NatsCluster),
}

impl Servers {
    /// Starts them; their logs go into this folder.
    pub async fn start(topology: Topology, logs: &Path) -> Self {
        if topology == Topology::Single {
            let options = ServerOptions { log: Some(logs.join("server-0.log")), ..ServerOptions::default() };
            return Self {
                running: Running::One(NatsServer::start_with(options)),
                routes: Vec::new(),
                killed: Vec::new(),
            };
        }
        let ports = free_ports(3);
        let mut routes = Vec::new();
        for (from, to) in (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to) {
            routes.push((from, to, Proxy::to(ports[to]).await));
        }
        let urls: Vec<Vec<String>> = (0..3)
            .map(|server| routes.iter().filter(|(from, ..)| *from == server).map(|(.., proxy)| proxy.url()).collect())
            .collect();
        let cluster = tokio::task::block_in_place(|| NatsCluster::start_routed(&ports, &urls, logs));
        Self { running: Running::Three(cluster), routes, killed: Vec::new() }
    }

    pub fn count(&self) -> usize {
        match self.running {
            Running::One(_) => 1,
            Running::Three(_) => 3,
        }
    }

    fn server(&mut self, number: usize) -> &mut NatsServer {
        match &mut self.running {
            Running::One(server) => server,
            Running::Three(cluster) => cluster.server(number),
        }
    }

    /// The addresses past all proxies, comma-separated.
    pub fn urls(&self) -> String {
        match &self.running {
            Running::One(server) => server.url(),
            Running::Three(cluster) => cluster.url(),
        }
    }

    /// A proxy to each server, in their order.
    pub async fn proxies(&mut self) -> Vec<Proxy> {
        let mut proxies = Vec::new();
        for number in 0..self.count() {
            proxies.push(Proxy::to(self.server(number).port()).await);
        }
        proxies
    }

    pub fn kill9(&mut self, number: usize) {
        self.server(number).kill9();
        self.killed.push(number);
    }

    /// Starts those again that were killed, with their files; returns when they are ready.
    pub fn start_killed(&mut self) {
        // One after the other: each is ready by itself, whether the others are there or not.
        let killed = std::mem::take(&mut self.killed);
        tokio::task::block_in_place(|| killed.iter().for_each(|number| self.server(*number).start_again()));
    }

    /// State of all routes of one server.
    pub fn set_routes(&self, server: usize, link: Link) {
        let of = self.routes.iter().filter(|(from, to, _)| *from == server || *to == server);
        of.for_each(|(.., proxy)| proxy.set(link));
    }

    /// How many connections between servers the proxies ever carried.
    pub fn routed(&self) -> usize {
        self.routes.iter().map(|(.., proxy)| proxy.accepted()).sum()
    }

    /// The number of the server that leads this stream, if the servers say.
    pub async fn leader(&self, stream: &str) -> Option<usize> {
        let asking = async {
            let jetstream = async_nats::jetstream::new(connect(&self.urls()).await);
            let stream = jetstream.get_stream(stream).await.ok()?;
            let name = stream.cached_info().cluster.as_ref()?.leader.clone()?;
            name.rsplit('-').next()?.parse().ok()
        };
        tokio::time::timeout(ASKED, asking).await.ok().flatten()
    }
}
