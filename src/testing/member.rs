//! A node under test: the twins it is made of, and the ends of it that the ring keeps.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;

use super::builder::{TestNode, TestRingBuilder};
use super::clock::SimulatedClock;
use super::faults::FaultKind;
use super::link::Link;
use super::observer::{NodeProcess, Observed, ProcessChange};
use super::wire::{Line, Wired};
use super::world::World;
use crate::coord::mem::MemStore;
use crate::node::{CreatedWith, NodeParts, Ring};
use crate::rpc::Message;
use crate::rpc::mem::{MemBus, MemSwitch, Tap};
use crate::rpc::server::RequestObserver;
use crate::service::Service;
use crate::types::{Chance, PartitionId, Process};

/// Most bytes of state on their way to a node: as the program has it.
const STAGING_BYTES: usize = 256 * 1024 * 1024;

/// What of a node the ring can get hold of.
pub(super) struct Member {
    pub(super) ring: Ring,
    ends: Ends,
    pub(super) frozen: bool,
    wedged: bool,
}

/// The ends of a node's twins.
pub(super) struct Ends {
    world: Arc<World>,
    pub(super) of: NodeProcess,
    pub(super) process: Process,
    stores: [MemStore; 2],
    pub(super) lines: [Arc<Line>; 2],
    pub(super) bus: MemBus,
    connected: watch::Sender<bool>,
    /// What is wrong with both connections, and with each by itself: that for all but heartbeats, and that for them.
    own: Link,
    alone: [Link; 2],
    /// How each is, with what is wrong with NATS as a whole.
    links: [Link; 2],
}

impl std::ops::Deref for Member {
    type Target = Ends;
    fn deref(&self) -> &Ends {
        &self.ends
    }
}

/// Tells whoever watches what a node, or a client, publishes.
pub(super) struct Published {
    pub(super) world: Arc<World>,
    pub(super) by: Option<NodeProcess>,
    pub(super) clock: SimulatedClock,
}

impl Tap for Published {
    fn published(&self, message: &Message) {
        let at = self.world.clock.elapsed();
        let local = self.clock.at(at);
        self.world.saw_at(at, &Observed::Published { by: self.by.as_ref(), local, message });
    }

    fn unheard(&self, message: &Message) {
        self.world.saw(&Observed::Unheard { by: self.by.as_ref(), message });
    }
}

/// Tells whoever watches how many requests a node holds back.
struct HeldBack {
    world: Arc<World>,
    by: NodeProcess,
}

impl RequestObserver for HeldBack {
    fn answered(&self, _: &str, _: &str, _: Duration) {}

    fn held_back(&self, partition: PartitionId, held: usize) {
        self.world.saw(&Observed::HeldBack { by: &self.by, partition, held });
    }
}

/// What a node is started with, and the ends that are kept.
pub(super) fn twins(
    settings: &TestRingBuilder,
    (world, switch): (&Arc<World>, &MemSwitch),
    (node, number): (TestNode, u32),
    service: Arc<dyn Service>,
    chance: Chance,
) -> (NodeParts, Ends) {
    let of = NodeProcess { node: node.name.clone(), number };
    let clock = world.clock.at_rate(node.clock_rate);
    let (sender, connected) = watch::channel(true);
    let stores = [world.store.connect(), world.store.connect()];
    let line = |heartbeat| {
        let delay = (Duration::ZERO, settings.store_delay);
        let line = Arc::new(Line::new(of.clone(), heartbeat, clock.clone(), delay));
        world.add_line(&line);
        line
    };
    let lines = [line(false), line(true)];
    let bus = tapped(world, switch, Some(of.clone()), clock.clone());
    let wired = |n: usize, bus: Option<MemBus>| Wired {
        world: Arc::clone(world),
        line: Arc::clone(&lines[n]),
        store: stores[n].clone(),
        bus,
    };
    let process = Process::simulated();
    let parts = NodeParts {
        ring: settings.name.clone(),
        node: node.name,
        zone: node.zone,
        weight: node.weight,
        http: None,
        partitions: settings.partitions,
        key_hash: settings.key_hash,
        created_with: CreatedWith::default(),
        timing: settings.timing.clone(),
        service,
        store: Arc::new(wired(0, Some(bus.clone()))),
        heartbeat_store: Arc::new(wired(1, None)),
        bus: Arc::new(bus.clone()),
        connected,
        clock: Arc::new(clock),
        process: process.clone(),
        chance,
        limits: node.limits,
        observer: Arc::new(HeldBack { world: Arc::clone(world), by: of.clone() }),
        staging_bytes: STAGING_BYTES,
        copying: settings.copying,
        returning: settings.returning.clone(),
        queries: Vec::new(),
    };
    let world = Arc::clone(world);
    let (own, alone, links) = (Link::Up, [Link::Up; 2], [Link::Up; 2]);
    (parts, Ends { world, of, process, stores, lines, bus, connected: sender, own, alone, links })
}

/// A bus whose messages are seen by whoever watches the ring.
pub(super) fn tapped(world: &Arc<World>, switch: &MemSwitch, by: Option<NodeProcess>, clock: SimulatedClock) -> MemBus {
    match world.watched().0 {
        Some(_) => switch.tapped_bus(Arc::new(Published { world: Arc::clone(world), by, clock })),
        None => switch.bus(),
    }
}

impl Ends {
    /// What happens to this process is told.
    pub(super) fn tell(&self, change: ProcessChange) {
        self.world.saw(&Observed::Process { of: &self.of, change });
    }

    fn apply(&mut self, links: [Link; 2]) {
        if links == self.links {
            return;
        }
        self.links = links;
        for (n, link) in links.into_iter().enumerate() {
            self.lines[n].set_link(link);
            self.stores[n].set_connected(link != Link::Down);
        }
        let [link, heartbeat] = links;
        let connected = link != Link::Down;
        self.bus.set_connected(connected);
        self.bus.set_carries(link.carries_out(), link.carries_in());
        self.connected.send_if_modified(|known| std::mem::replace(known, connected) != connected);
        self.world.saw(&Observed::Connection { of: &self.of, link, heartbeat });
    }

    /// As SIGKILL and the closing of its connections do.
    pub(super) fn kill(&mut self) {
        self.process.kill();
        self.apply([Link::Down; 2]);
    }

    pub(super) fn set_away(&mut self, away: Link) {
        self.apply(self.alone.map(|alone| alone.and(self.own).and(away)));
    }
}

impl Member {
    pub(super) fn new(ring: Ring, ends: Ends) -> Self {
        Self { ring, ends, frozen: false, wedged: false }
    }

    pub(super) fn set_link(&mut self, link: Link, away: Link) {
        let kind = match link {
            Link::Up => None,
            Link::Mute => Some(FaultKind::LinkMute),
            Link::Deaf => Some(FaultKind::LinkDeaf),
            Link::Silent => Some(FaultKind::LinkSilent),
            Link::Down => Some(FaultKind::LinkDown),
        };
        if let Some(kind) = kind.filter(|_| link != self.own) {
            self.world.fire(kind);
        }
        self.ends.own = link;
        self.ends.set_away(away);
    }

    /// What of one connection works, whatever is wrong with both: that for all but heartbeats, or that for them.
    pub(super) fn set_link_alone(&mut self, heartbeat: bool, link: Link, away: Link) {
        let known = &mut self.ends.alone[usize::from(heartbeat)];
        if std::mem::replace(known, link) != link && link != Link::Up {
            self.world.fire(if heartbeat { FaultKind::HeartbeatLinkAlone } else { FaultKind::DataLinkAlone });
        }
        self.ends.set_away(away);
    }

    pub(super) fn set_away(&mut self, away: Link) {
        self.ends.set_away(away);
    }

    pub(super) fn set_frozen(&mut self, frozen: bool) {
        if std::mem::replace(&mut self.frozen, frozen) == frozen {
            return;
        }
        if frozen {
            self.world.fire(FaultKind::Pause);
            self.process.freeze();
            self.tell(ProcessChange::Paused);
        } else {
            self.tell(ProcessChange::Resumed);
            self.process.thaw();
        }
    }

    pub(super) fn set_wedged(&mut self, wedged: bool) {
        if std::mem::replace(&mut self.wedged, wedged) == wedged {
            return;
        }
        self.process.set_wedged(wedged);
        if wedged {
            self.world.fire(FaultKind::Wedge);
        }
        self.tell(if wedged { ProcessChange::Wedged } else { ProcessChange::Unwedged });
    }

    /// Neither frozen nor wedged nor cut off nor ended by itself.
    pub(super) fn takes_part(&self) -> bool {
        !self.frozen && !self.wedged && self.links == [Link::Up; 2] && !self.has_ended()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ring.wait().now_or_never().is_some()
    }

    pub(super) fn kill(&mut self) {
        self.ends.kill();
    }
}
