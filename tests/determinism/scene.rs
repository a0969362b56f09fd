//! A ring of caches under load to which everything happens, by a seed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
use nats_ring::testing::{BusFaults, FaultKind, Link, StoreFaults, TestRing};
use nats_ring::types::{Chance, NodeName};

use crate::trace::{History, Trace, Traced};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const NAMES: [&str; 4] = ["node-1", "node-2", "node-3", "node-4"];
const LIMITS: Limits = Limits { max_value_bytes: 1024 };
const CALLERS: usize = 4;
const STEPS: usize = 12;

/// On a runtime of its own, whose clock stands from the start: timers of two runs in one would not tick alike.
pub(crate) fn play(seed: u64) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(run(seed))
}

async fn run(seed: u64) -> History {
    let trace = Arc::new(Trace::default());
    let ring = TestRing::builder().seed(seed).partitions(8).store_delay(5 * MS).observer(trace.clone()).build();
    let chance = ring.chance();
    for name in &NAMES[..3] {
        add(&ring, name, &trace).await;
    }
    ring.settled().await;
    let callers = (0..CALLERS).map(|n| call_for_ever(&ring, n, chance.fork()));
    tokio::select! {
        biased;
        () = happen(&ring, &trace, &chance) => {}
        _ = futures::future::join_all(callers) => {}
    }
    if let Err(unsettled) = ring.settles_within(120 * SECOND).await {
        panic!("seed {seed}: {unsettled}");
    }
    let fired = ring.fired();
    drop(ring);
    History { lines: trace.take(), fired }
}

async fn add(ring: &TestRing, name: &str, trace: &Arc<Trace>) {
    let node = NodeName::new(name).unwrap();
    let config = CacheConfig { memory_bytes: 16 << 20, max_value_bytes: LIMITS.max_value_bytes, node };
    let inner = CacheService::within(config, ring.clock(), ring.process(), ring.chance());
    let (node, trace, clock) = (name.to_owned(), Arc::clone(trace), ring.clock());
    ring.add_node(name, Arc::new(Traced { inner, node, trace, clock })).await;
}

/// Calls through whichever node takes part, one after the other.
async fn call_for_ever(ring: &TestRing, caller: usize, chance: Chance) {
    let mut count = 0u64;
    loop {
        count += 1;
        let key = Bytes::from(format!("key-{}", chance.up_to(40)));
        if ring.takes_part().is_empty() {
            ring.advance(SECOND).await;
            continue;
        }
        let cache = CacheClient::new(ring.caller(), LIMITS);
        // What comes of it is in the trace.
        let value = Bytes::from(format!("{caller}{count}"));
        match chance.up_to(3) {
            0 => drop(cache.get(key).await),
            1 => drop(cache.set(key, value, Some(SECOND * 5)).await),
            2 => drop(cache.set(key, value, None).await),
            _ => drop(ring.plain("get", format!(r#"{{"key":"key-{count}"}}"#)).await),
        }
        ring.advance(MS * u32::try_from(10 + chance.up_to(40)).unwrap()).await;
    }
}

/// A join under load; then whatever can go wrong, one after the other; then nothing any more.
async fn happen(ring: &TestRing, trace: &Arc<Trace>, chance: &Chance) {
    add(ring, NAMES[3], trace).await;
    ring.settled().await;
    for _ in 0..STEPS {
        one_thing(ring, trace, chance).await;
        ring.advance(MS * u32::try_from(200 + chance.up_to(2000)).unwrap()).await;
    }
    ring.set_store_faults(StoreFaults::default());
    ring.set_bus_faults(BusFaults::default());
    ring.advance(SECOND).await;
}

async fn one_thing(ring: &TestRing, trace: &Arc<Trace>, chance: &Chance) {
    let span = MS * u32::try_from(300 + chance.up_to(4000)).unwrap();
    let nodes = ring.nodes();
    let name = nodes[usize::try_from(chance.up_to(nodes.len() as u64 - 1)).unwrap()].to_string();
    let kind = FaultKind::ALL[usize::try_from(chance.up_to(FaultKind::ALL.len() as u64 - 1)).unwrap()];
    trace.add(ring.elapsed(), &format!("{kind:?} {name} {span:?}"));
    match kind {
        FaultKind::Crash => {
            ring.crash(&name).await;
            ring.advance(span).await;
            add(ring, &name, trace).await;
        }
        FaultKind::Pause => during(ring, span, || ring.pause(&name), || ring.resume(&name)).await,
        FaultKind::Wedge => during(ring, span, || ring.wedge(&name), || ring.unwedge(&name)).await,
        FaultKind::LinkDown | FaultKind::LinkMute | FaultKind::LinkDeaf | FaultKind::LinkSilent => {
            let link = match kind {
                FaultKind::LinkDown => Link::Down,
                FaultKind::LinkMute => Link::Mute,
                FaultKind::LinkDeaf => Link::Deaf,
                _ => Link::Silent,
            };
            during(ring, span, || ring.set_link(&name, link), || ring.set_link(&name, Link::Up)).await;
        }
        FaultKind::DataLinkAlone => {
            during(ring, span, || ring.set_data_link(&name, Link::Down), || ring.set_data_link(&name, Link::Up)).await;
        }
        FaultKind::HeartbeatLinkAlone => {
            let end = || ring.set_heartbeat_link(&name, Link::Up);
            during(ring, span, || ring.set_heartbeat_link(&name, Link::Silent), end).await;
        }
        FaultKind::NatsAway => {
            let link = if chance.hits(0.5) { Link::Down } else { Link::Silent };
            during(ring, span, || ring.set_away(link), || ring.set_away(Link::Up)).await;
        }
        FaultKind::JetStreamSilent => {
            during(ring, span, || ring.set_jetstream_silent(true), || ring.set_jetstream_silent(false)).await;
        }
        FaultKind::Rollback => ring.roll_back(usize::try_from(1 + chance.up_to(10)).unwrap()),
        FaultKind::StoreRecreated => ring.recreate_store(),
        FaultKind::CleanUp => {
            ring.clean_up(&format!("member.{name}")).await;
        }
        FaultKind::MessageDelayed | FaultKind::MessageReordered | FaultKind::SubscribedLate => {
            let (delay, delay_in, subscribe) = (30 * MS, 5 * MS, 30 * MS);
            ring.set_bus_faults(BusFaults { delay, delay_in, subscribe, ..BusFaults::default() });
            ring.set_bus_delay(&name, 20 * MS);
        }
        FaultKind::MessageDuplicated | FaultKind::MessageLost | FaultKind::MessageSwallowed => {
            ring.set_bus_faults(BusFaults { loss: 0.01, duplicate: 0.01, ..BusFaults::default() });
        }
        _ => ring.set_store_faults(StoreFaults {
            write_lost: 0.02,
            write_unanswered: 0.02,
            write_late: 0.05,
            late_by: 3 * SECOND,
            write_conflict: 0.02,
            watch_lag: 50 * MS,
            watch_repeat: 0.05,
            watch_gap: 0.02,
        }),
    }
}

async fn during(ring: &TestRing, span: Duration, begin: impl FnOnce(), end: impl FnOnce()) {
    begin();
    ring.advance(span).await;
    end();
}
