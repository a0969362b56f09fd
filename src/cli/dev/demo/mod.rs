//! `nats-ring demo`: five nodes in two zones, joined, drained and killed while requests go on; each step is told with its
//! time and holds, or the story ends there.
//!
//! In: a `nats-server`. Out: lines for people, and an exit code. `cast` is what runs, `entries` what is kept in the ring,
//! `load` who asks meanwhile, `story` the steps.

mod cast;
mod entries;
mod load;
mod story;

use super::args::DemoArgs;
use super::base::print;
use crate::cli::exit::{Code, Failure};
use crate::cli::signals::Signals;
use cast::Cast;

/// Tells the story; an error names the step that did not hold.
pub(super) async fn run(args: DemoArgs) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    print("nats-ring demo: five nodes in two zones share 64 partitions on a private NATS server\n");
    let mut cast = tokio::select! {
        cast = Cast::gather(args.logs) => cast?,
        _ = signals.next() => return Err(interrupted()),
    };
    let told = tokio::select! {
        told = story::tell(&mut cast) => told,
        _ = signals.next() => Err(interrupted()),
    };
    let ended = cast.end(&mut signals).await;
    let summary = told.and_then(|summary| ended.map(|seconds| (summary, seconds)));
    let (summary, seconds) = summary?;
    print(&format!("\nEvery step held, in {seconds:.1} s. {summary}"));
    Ok(())
}

fn interrupted() -> Failure {
    Failure::new(Code::Interrupted, "the demo was interrupted; everything it had started was ended")
}
