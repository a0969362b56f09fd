//! Figures of a campaign, and the folder that holds its history and logs if it fails.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::checker::Evidence;
use crate::history::{Action, Counts, Moment, Outcome as Told};
use crate::plant::{Plant, Recorded};
use crate::schedule::{Kind, Planned, Step, Topology};

/// So many reasons are printed.
const REASONS: usize = 12;

/// What a round came to.
pub struct Outcome {
    pub figures: Figures,
    pub counts: Counts,
    /// What must not be.
    pub wrong: Vec<String>,
}

/// Figures of a round.
#[derive(Debug)]
pub struct Figures {
    topology: Topology,
    began: Moment,
    /// When the clients stopped.
    pub ended: Moment,
    faults: BTreeMap<Kind, usize>,
    /// The longest time from the end of such a fault until all was whole.
    whole_after: BTreeMap<Kind, Duration>,
    /// Why operations were not answered well, how often.
    reasons: BTreeMap<String, usize>,
    joins: usize,
    drains: usize,
    /// The longest time without an answered operation, by partition.
    gaps: Vec<Duration>,
    /// Time that clients spent on operations which were not answered well, of all.
    lost: (Duration, Duration),
    owners_changed: usize,
    losses: usize,
    evictions: usize,
    appends: (usize, usize),
    /// What was planted into its record, and found.
    pub planted: Vec<Plant>,
}

impl Figures {
    pub fn new(topology: Topology, began: Moment) -> Self {
        Self {
            topology,
            began,
            ended: began,
            faults: BTreeMap::new(),
            whole_after: BTreeMap::new(),
            reasons: BTreeMap::new(),
            joins: 0,
            drains: 0,
            gaps: Vec::new(),
            lost: Default::default(),
            owners_changed: 0,
            losses: 0,
            evictions: 0,
            appends: (0, 0),
            planted: Vec::new(),
        }
    }

    pub fn count(&mut self, step: &Step, whole_after: Option<Duration>) {
        *self.faults.entry(step.fault.kind).or_default() += 1;
        if let Some(whole_after) = whole_after {
            let longest = self.whole_after.entry(step.fault.kind).or_default();
            *longest = whole_after.max(*longest);
        }
        match step.planned {
            Some(Planned::Join(_)) => self.joins += 1,
            Some(Planned::Drain(_)) => self.drains += 1,
            None => {}
        }
    }

    /// From everything that was seen.
    pub fn measure(&mut self, evidence: &Evidence<'_>) {
        let mut answered: Vec<Vec<Moment>> = vec![vec![self.began]; evidence.partitions];
        for operation in evidence.operations.iter().filter(|operation| operation.asked <= self.ended) {
            let took = Duration::from_nanos(operation.answered - operation.asked);
            let ok = matches!(operation.outcome, Told::Ok { .. });
            self.lost.0 += if ok { Duration::ZERO } else { took };
            self.lost.1 += took;
            if let Some(reason) = reason(&operation.outcome) {
                *self.reasons.entry(reason).or_default() += 1;
            }
            if ok && !matches!(operation.action, Action::Append(_)) {
                answered[operation.key % evidence.partitions].push(operation.answered);
            }
        }
        self.gaps = answered.into_iter().map(|answered| longest_gap(answered, self.ended)).collect();
        self.owners_changed = evidence.cache.changes() + evidence.writers.changes();
        self.losses = (0..evidence.partitions).map(|p| evidence.cache.losses(p).len()).sum();
        self.evictions = evidence.cache.evictions.len() + evidence.writers.evictions.len();
        let accepted = evidence.writes.iter().filter(|write| write.accepted).count();
        self.appends = (accepted, evidence.writes.len() - accepted);
    }

    fn print(&self, counts: Counts) {
        let Self { topology, owners_changed, losses, evictions, .. } = self;
        let (sum, length) = (counts.all(), Duration::from_nanos(self.ended - self.began));
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        let (median, longest) = (gaps.get(gaps.len() / 2), gaps.last());
        eprintln!("\n{topology:?}, {length:.0?}: {sum} operations, {:.2} % ok ({counts:?})", counts.share_ok() * 100.0);
        eprintln!(
            "  longest time a partition answered nothing: {:.1?}, median of partitions {:.1?}; {:.1} % of clients' waiting was for nothing",
            longest.unwrap_or(&Duration::ZERO),
            median.unwrap_or(&Duration::ZERO),
            100.0 * self.lost.0.as_secs_f64() / self.lost.1.as_secs_f64().max(f64::MIN_POSITIVE)
        );
        eprintln!("  faults: {:?}, joins {}, drains {}", self.faults, self.joins, self.drains);
        eprintln!(
            "  changes of owner {owners_changed}, of them without a handover {losses}; evictions {evictions}; sink: {} taken, {} refused",
            self.appends.0, self.appends.1
        );
        eprintln!("  planted into the record, and found: {:?}", self.planted);
        eprintln!("  whole again at the latest after: {:.1?}", self.whole_after);
        let mut reasons: Vec<_> = self.reasons.iter().map(|(reason, count)| (count, reason)).collect();
        reasons.sort_unstable();
        reasons.iter().rev().take(REASONS).for_each(|(count, reason)| eprintln!("  {count:5} {reason}"));
    }
}

/// Why it was not answered well, without names and numbers.
fn reason(outcome: &Told) -> Option<String> {
    let (how, why) = match outcome {
        Told::Ok { .. } => return None,
        Told::Fail(why) => ("fail", why),
        Told::Unknown(why) | Told::Absurd(why) => ("unknown", why),
    };
    let plain = |c: char| if c.is_ascii_digit() { '#' } else { c };
    let mut text: String = why.chars().map(plain).take(160).collect();
    while text.contains("##") {
        text = text.replace("##", "#");
    }
    Some(format!("{how}: {text}"))
}

fn longest_gap(mut answered: Vec<Moment>, ended: Moment) -> Duration {
    answered.push(ended);
    answered.sort_unstable();
    let longest = answered.windows(2).map(|two| two[1] - two[0]).max();
    Duration::from_nanos(longest.unwrap_or(0))
}

/// All rounds.
#[derive(Default)]
pub struct Summary(Vec<Outcome>);

impl Summary {
    pub fn add(&mut self, outcome: Outcome) {
        outcome.figures.print(outcome.counts);
        outcome.wrong.iter().for_each(|why| eprintln!("  WRONG: {why}"));
        self.0.push(outcome);
    }

    fn counts(&self) -> Counts {
        self.0.iter().fold(Counts::default(), |sum, outcome| sum.plus(outcome.counts))
    }

    pub fn print(&self) {
        let mut faults: BTreeMap<Kind, usize> = BTreeMap::new();
        for (kind, count) in self.0.iter().flat_map(|outcome| &outcome.figures.faults) {
            *faults.entry(*kind).or_default() += count;
        }
        let (counts, longest) = (self.counts(), self.0.iter().flat_map(|outcome| &outcome.figures.gaps).max());
        eprintln!(
            "\nall: {} operations, {:.2} % ok; longest gap {:.1?}; faults {faults:?}",
            counts.all(),
            counts.share_ok() * 100.0,
            longest.unwrap_or(&Duration::ZERO)
        );
    }

    /// What must not be, this share of operations included.
    pub fn wrong(&self, share_ok: f64) -> Vec<String> {
        let mut wrong: Vec<String> = self.0.iter().flat_map(|outcome| outcome.wrong.clone()).collect();
        if self.counts().share_ok() < share_ok {
            wrong.push(format!(
                "{:.1} % of operations were ok, not {:.0} %",
                self.counts().share_ok() * 100.0,
                share_ok * 100.0
            ));
        }
        wrong
    }
}

/// The folder of a campaign.
pub struct Kept(PathBuf);

impl Kept {
    /// `target/faults/<seed>`, empty.
    pub fn under(seed: u64) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("faults").join(seed.to_string());
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn round(&self, number: u64, topology: Topology) -> KeptRound {
        let path = self.0.join(format!("{number}-{topology:?}").to_lowercase());
        fs::create_dir_all(&path).unwrap();
        KeptRound(path)
    }

    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The folder of a round.
pub struct KeptRound(PathBuf);

impl KeptRound {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A line of what was done, with its time.
    pub fn note(&self, what: &str) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let mut file = OpenOptions::new().create(true).append(true).open(self.0.join("faults.log")).unwrap();
        writeln!(file, "{at} {what}").unwrap();
    }

    /// Everything that was judged.
    pub fn keep(&self, recorded: &Recorded, wrong: &[String]) {
        let json =
            recorded.operations.iter().map(|operation| serde_json::to_string(operation).unwrap()).collect::<Vec<_>>();
        fs::write(self.0.join("history.jsonl"), json.join("\n")).unwrap();
        fs::write(self.0.join("cache-records.txt"), lines(&recorded.cache)).unwrap();
        fs::write(self.0.join("writers-records.txt"), lines(&recorded.writers)).unwrap();
        fs::write(self.0.join("sink.txt"), lines(&recorded.writes)).unwrap();
        fs::write(self.0.join("wrong.txt"), wrong.join("\n")).unwrap();
    }
}

fn lines<T: Debug>(items: &[T]) -> String {
    items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join("\n")
}
