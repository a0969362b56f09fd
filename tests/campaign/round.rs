//! One round: everything started anew, a schedule of faults under clients, everything healed, judged.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

use crate::checker::ownership::Ownership;
use crate::checker::{Evidence, judge};
use crate::clients::{CACHE_RING, Clients, WRITERS_RING, read_all};
use crate::common::sink::{HoldUp, Sink};
use crate::ground::Ground;
use crate::history::{Clock, History};
use crate::observer::Observer;
use crate::plant::{Plant, Recorded, planted};
use crate::report::{Figures, KeptRound, Outcome};
use crate::schedule::{LEASE, Step, Topology, steps};

/// How often it is said how it goes.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// One write to the sink in so many is held up, so that some are under way when their writer is stopped or killed.
const HELD_UP_ONE_IN: u32 = 10;
/// More than fit in a round.
const STEPS_MAX: usize = 100;
/// Of both rings.
pub const PARTITIONS: usize = 64;

/// What to run.
pub struct Round {
    pub seed: u64,
    pub topology: Topology,
    pub length: Duration,
    pub kept: KeptRound,
    /// What is put into its record, to see that the campaign fails then.
    pub plant: Option<Plant>,
}

/// What goes on, for the line that is printed.
type Now = Arc<Mutex<(String, String)>>;

impl Round {
    pub async fn run(self) -> Outcome {
        let (clock, history, began) = (Clock::start(), History::default(), Instant::now());
        let (sink, address) = Sink::listen(hold_up(self.seed)).await;
        let mut ground = Ground::start(self.topology, &address, self.kept.path(), clock).await;
        let urls = ground.servers.urls();
        let observers = (Observer::start(&urls, CACHE_RING).await, Observer::start(&urls, WRITERS_RING).await);
        let clients = Clients::start(self.seed, &ground.client_urls(), &ground.doors, clock, &history).await;
        let now = Now::default();
        let telling = tell(began, history.clone(), Arc::clone(&now));
        let mut figures = Figures::new(self.topology, clock.now());
        let length = self.length;
        for step in steps(self.seed, self.topology, STEPS_MAX) {
            if began.elapsed() >= length {
                break;
            }
            let whole_after = self.step(&mut ground, &step, &now).await;
            figures.count(&step, whole_after);
        }
        *now.lock().unwrap() = ("none, waiting until all is whole".to_owned(), ground.names());
        ground.whole().await;
        ground.left().await;
        // Nothing is wrong any more: whoever would evict now has the time to.
        tokio::time::sleep(LEASE * 2).await;
        clients.stop().await;
        figures.ended = clock.now();
        let doors = ground.doors.read().unwrap().clone();
        for (name, base) in &doors {
            let unanswered = read_all(name, base, clock, &history).await;
            if unanswered > 0 {
                ground.wrong.push(format!("{unanswered} keys cannot be read through {name} with all healed"));
            }
        }
        telling.abort();
        self.judged(ground, figures, history, &sink, (&observers.0, &observers.1))
    }

    /// A fault, what is planned beside it, and the time after it; how long it took until all was whole, if that was waited
    /// for.
    async fn step(&self, ground: &mut Ground, step: &Step, now: &Now) -> Option<Duration> {
        let planned = step.planned.as_ref().map_or(String::new(), |planned| format!(", {planned:?}"));
        let (kind, nodes) = (step.fault.kind, step.fault.nodes.join(" "));
        let what = format!("{kind:?} {nodes}{planned}");
        self.kept.note(&format!("{what}, for {:?}", step.lasts));
        ground.inject(&step.fault, step.lasts).await;
        if let Some(planned) = &step.planned {
            ground.begin(planned).await;
        }
        *now.lock().unwrap() = (what, ground.names());
        tokio::time::sleep(step.lasts).await;
        ground.heal(&step.fault).await;
        self.kept.note("healed");
        *now.lock().unwrap() = ("none".to_owned(), ground.names());
        let whole_after = if step.patient { Some(ground.whole().await) } else { None };
        tokio::time::sleep(step.rest).await;
        ground.open_doors();
        ground.look_after().await;
        whole_after
    }

    fn judged(
        self,
        ground: Ground,
        mut figures: Figures,
        history: History,
        sink: &Sink,
        observers: (&Observer, &Observer),
    ) -> Outcome {
        let mut recorded = Recorded {
            operations: history.operations(),
            cache: observers.0.changes(),
            writers: observers.1.changes(),
            writes: sink.writes(),
        };
        if let Some(plant) = self.plant {
            recorded = plant.put_into(&recorded, PARTITIONS).expect("a place for it");
        }
        let Recorded { operations, writes, .. } = &recorded;
        let (cache, writers) = (Ownership::of(&recorded.cache), Ownership::of(&recorded.writers));
        let evidence = Evidence { operations, partitions: PARTITIONS, cache: &cache, writers: &writers, writes };
        let mut wrong = ground.wrong.clone();
        let unaccepted = judge(&evidence);
        if unaccepted.is_empty() {
            let (found, blind) = planted(&recorded, PARTITIONS);
            figures.planted = found;
            wrong.extend(blind);
        }
        wrong.extend(unaccepted);
        for ownership in [&cache, &writers] {
            let unexplained = ground.unexplained(&ownership.evictions);
            wrong.extend(unexplained.iter().map(|e| format!("{} was evicted at {} for nothing", e.node, e.at)));
        }
        if self.topology == Topology::Cluster && ground.servers.routed() == 0 {
            wrong.push("no connection between servers went through a proxy: routes were never broken".to_owned());
        }
        figures.measure(&evidence);
        if !wrong.is_empty() {
            self.kept.keep(&recorded, &wrong);
        }
        Outcome { figures, counts: history.counts(), wrong }
    }
}

/// Some writes to the sink wait, for so long as the seed says.
fn hold_up(seed: u64) -> Box<HoldUp> {
    let rng = Mutex::new(StdRng::seed_from_u64(seed));
    Box::new(move |_| {
        let mut rng = rng.lock().unwrap();
        let waits = if rng.random_ratio(1, HELD_UP_ONE_IN) { rng.random_range(50..1000) } else { 0 };
        Box::pin(tokio::time::sleep(Duration::from_millis(waits)))
    })
}

/// Says every ten seconds how it goes.
fn tell(began: Instant, history: History, now: Now) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SAID_EVERY).await;
            let (fault, nodes) = now.lock().unwrap().clone();
            let (counts, elapsed) = (history.counts(), began.elapsed());
            eprintln!(
                "{:4.0} s  ok {} fail {} unknown {}  fault: {fault}  nodes: {nodes}",
                elapsed.as_secs_f64(),
                counts.ok,
                counts.fail,
                counts.unknown
            );
        }
    })
}
