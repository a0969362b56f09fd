//! `drain`, `cordon`, `uncordon`, `safe-to-stop`: what is done with one node.

use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::super::exit::{Code, Failure};
use super::super::signals::Signals;
use super::change::ChangeArgs;
use super::client::ClientArgs;
use super::output::{Done, Output};
use crate::admin::{DrainOptions, DrainStep, DrainSteps};
use crate::types::{BootClock, Clock, NodeName};

pub(super) const CORDON_EXAMPLES: &str = "\
It keeps what it has and gets nothing new. `uncordon` undoes it.

Examples:
  nats-ring cordon node-2";
pub(super) const UNCORDON_EXAMPLES: &str = "\
Examples:
  nats-ring uncordon node-2
  nats-ring uncordon node-2 --wait 1m             # until it has its share";
pub(super) const DRAIN_EXAMPLES: &str = "\
Its partitions move to the others, entries included, then its process ends with code 0: what TERM does, from afar. Ends once it
has left. Code 8 where that takes longer than --for, or the node broke off; Ctrl-C only ends the watching, with code 130.

Examples:
  nats-ring drain node-2
  nats-ring drain node-2 --json | jq -c '[.type, .left]'    # one line per change
  nats-ring drain node-2 && echo 'node-2 has left'";
pub(super) const SAFE_EXAMPLES: &str = "\
Code 0: it can be stopped with TERM and nothing is lost or refused. 11: not now, and the line on stderr says why. Meant for
rolling restarts, one node after the other.

Examples:
  nats-ring safe-to-stop node-2
  nats-ring safe-to-stop node-2 --json | jq -r '.reasons[].code'
  nats-ring safe-to-stop node-2 && echo 'go on'";

/// How often the elapsed time is drawn anew.
const REDRAW_EVERY: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(in crate::cli) struct NodeArgs {
    /// The node's name
    node: NodeName,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub(in crate::cli) struct CordonArgs {
    /// The node's name
    node: NodeName,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args)]
pub(in crate::cli) struct DrainArgs {
    /// The node's name
    node: NodeName,
    /// Also where nobody can take its partitions: what it holds for them is lost
    #[arg(long)]
    force: bool,
    /// It does not come back: its copies are made elsewhere before it goes, although it has --keep
    #[arg(long)]
    for_good: bool,
    /// How long to watch it; it goes on beyond
    #[arg(long = "for", value_name = "DURATION", default_value = "90s", value_parser = humantime::parse_duration)]
    limit: Duration,
    #[command(flatten)]
    client: ClientArgs,
}

/// A step and its time, as `drain --json` writes it.
#[derive(Serialize)]
struct TimedStep<'a> {
    #[serde(flatten)]
    step: &'a DrainStep,
    elapsed_seconds: f64,
}

pub(super) async fn cordon(args: CordonArgs) -> Done {
    let admin = args.change.admin().await?;
    let change = admin.cordon(&args.node).await?;
    args.change.report(&admin, &change, &format!("{} keeps what it has and gets nothing new", args.node)).await
}

pub(super) async fn uncordon(args: CordonArgs) -> Done {
    let admin = args.change.admin().await?;
    let change = admin.uncordon(&args.node).await?;
    args.change.report(&admin, &change, &format!("{} gets its share of the partitions", args.node)).await
}

pub(super) async fn safe_to_stop(args: NodeArgs) -> Done {
    let mut output = args.client.output();
    let safety = args.client.admin().await?.safe_to_stop(&args.node).await?;
    if output.json {
        output.document(&safety)?;
    }
    if !safety.safe {
        let reasons: Vec<&str> = safety.reasons.iter().map(|reason| reason.message.as_str()).collect();
        let message = format!("{} is not safe to stop now: {}", args.node, reasons.join("; "));
        return Err(Failure::new(Code::NotSafe, message).into());
    }
    if output.json { Ok(()) } else { output.line(&format!("{} can be stopped", args.node)) }
}

pub(super) async fn drain(args: DrainArgs) -> Done {
    let mut signals = Signals::listen()?;
    let mut output = args.client.output();
    let admin = args.client.admin().await?;
    let steps =
        admin.drain(&args.node, DrainOptions { force: args.force, limit: args.limit, for_good: args.for_good }).await?;
    tokio::select! {
        done = follow(steps, &args.node, &mut output) => done,
        _ = signals.next() => {
            let message = format!("not watched any more: {} goes on draining", args.node);
            Err(Failure::new(Code::Interrupted, message).into())
        }
    }
}

/// Writes each step as it comes; on a terminal, the time as well.
async fn follow(mut steps: DrainSteps, node: &NodeName, output: &mut Output) -> Done {
    let began = BootClock.now();
    let mut progress = Progress { node, left: 0, of: 0 };
    let mut redraw = tokio::time::interval(REDRAW_EVERY);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let step = tokio::select! {
            step = steps.next() => step,
            _ = redraw.tick(), if output.redraws() && progress.of > 0 => {
                output.progress(&progress.text(BootClock.now().since(began)))?;
                continue;
            }
        };
        let elapsed = BootClock.now().since(began);
        let Some(step) = step.transpose()? else {
            return Err(Failure::internal("the drain is not told on", "its steps ended").into());
        };
        if output.json {
            output.document(&TimedStep { step: &step, elapsed_seconds: elapsed.as_secs_f64() })?;
        } else {
            match &step {
                DrainStep::Acknowledged { partitions, .. } => progress.at(*partitions, *partitions),
                DrainStep::Progress { left, of } => progress.at(*left, *of),
                DrainStep::Left { .. } => output.line(&format!("{node} has left after {}", shown(elapsed)))?,
            }
            if !matches!(step, DrainStep::Left { .. }) {
                output.progress(&progress.text(elapsed))?;
            }
        }
        if matches!(step, DrainStep::Left { .. }) {
            return Ok(());
        }
    }
}

/// Where a drain is.
struct Progress<'a> {
    node: &'a NodeName,
    left: usize,
    of: usize,
}

impl Progress<'_> {
    fn at(&mut self, left: usize, of: usize) {
        (self.left, self.of) = (left, of);
    }

    fn text(&self, elapsed: Duration) -> String {
        let Self { node, left, of } = self;
        format!("draining {node}: {left} of {of} partitions left, {}", shown(elapsed))
    }
}

/// To the tenth of a second.
fn shown(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::output::Stop;
    use super::super::output::tests::Written;
    use super::*;
    use crate::admin::AdminError;

    fn steps(end: Result<DrainStep, AdminError>) -> DrainSteps {
        let node = NodeName::new("a").unwrap();
        let begin =
            [Ok(DrainStep::Acknowledged { node, start: 3, partitions: 2 }), Ok(DrainStep::Progress { left: 1, of: 2 })];
        futures::stream::iter(begin.into_iter().chain([end])).boxed()
    }

    async fn followed(steps: DrainSteps, json: bool, redraw: bool) -> (Done, String) {
        let written = Written::default();
        let done = follow(steps, &NodeName::new("a").unwrap(), &mut written.output(json, false, redraw)).await;
        (done, written.text())
    }

    fn left() -> Result<DrainStep, AdminError> {
        Ok(DrainStep::Left { node: NodeName::new("a").unwrap() })
    }

    #[tokio::test]
    async fn a_drain_says_what_is_left_in_lines_or_in_one_line_drawn_over() {
        let (done, lines) = followed(steps(left()), false, false).await;
        assert!(done.is_ok());
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("draining a: 1 of 2 partitions left, 0."), "{lines:?}");
        assert!(lines[2].starts_with("a has left after 0."), "{lines:?}");

        let (_, drawn) = followed(steps(left()), false, true).await;
        assert_eq!(drawn.lines().count(), 1, "{drawn:?}");
        assert!(drawn.contains("\u{1b}[2Kdraining a: 1 of 2"), "{drawn:?}");
    }

    #[tokio::test]
    async fn as_json_each_step_is_a_line_with_its_time() {
        let (_, text) = followed(steps(left()), true, true).await;
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[1]["type"], "progress");
        assert_eq!((&lines[1]["left"], &lines[1]["of"]), (&1.into(), &2.into()));
        assert!(lines[1]["elapsed_seconds"].as_f64().unwrap() < 60.0);
        assert_eq!(lines[2]["type"], "left");
    }

    #[tokio::test]
    async fn a_drain_that_breaks_off_has_the_code_of_one_that_did_not_finish() {
        let node = NodeName::new("a").unwrap();
        let (done, _) = followed(steps(Err(AdminError::DrainBroken { node, how: "evicted" })), false, false).await;
        assert!(matches!(done, Err(Stop::Failed(Failure { code: Code::DrainIncomplete, .. }))), "{done:?}");
    }
}
