//! `watch`: what happens to the ring, live.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Args;
use futures::StreamExt;
use serde::Serialize;
use time::OffsetDateTime;

use super::super::exit::{Code, Failure};
use super::super::signals::Signals;
use super::client::ClientArgs;
use super::output::{Done, Output};
use super::picture;
use crate::admin::{ConfigView, RingEvent, RingEvents};
use crate::types::NodeName;

pub(super) const EXAMPLES: &str = "\
Ends on Ctrl-C, after --count events, or after --for, whichever comes first; the exit code is 0 each time.

Examples:
  nats-ring watch
  nats-ring watch --json | jq -c 'select(.type | startswith(\"member\"))'
  nats-ring watch --count 1 --for 30s             # waits for something to happen, half a minute at the most";

#[derive(Args)]
pub(in crate::cli) struct WatchArgs {
    /// End after so many events; the first one, that changes are told from now on, does not count
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time, such as 30s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    at_most: Option<Duration>,
    #[command(flatten)]
    client: ClientArgs,
}

/// An event and when it was seen here, as `watch --json` writes it.
#[derive(Serialize)]
struct SeenEvent<'a> {
    at: &'a str,
    #[serde(flatten)]
    event: &'a RingEvent,
}

pub(super) async fn watch(args: WatchArgs) -> Done {
    let mut signals = Signals::listen()?;
    let mut output = args.client.output();
    let events = args.client.admin().await?.watch().await?;
    let ended = async {
        match args.at_most {
            Some(at_most) => tokio::time::sleep(at_most).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        done = follow(events, args.count, &mut output) => done,
        () = ended => Ok(()),
        _ = signals.next() => Ok(()),
    }
}

async fn follow(mut events: RingEvents, count: Option<u64>, output: &mut Output) -> Done {
    let mut told = 0;
    while let Some(event) = events.next().await {
        let at = timestamp(OffsetDateTime::now_utc());
        if output.json {
            output.document(&SeenEvent { at: &at, event: &event })?;
        } else {
            let (style, text) = told_as(&event);
            output.line(&format!("{at}  {}", output.paint(style, &text)))?;
        }
        told += u64::from(!matches!(event, RingEvent::Watching { .. }));
        if count.is_some_and(|count| told >= count) {
            return Ok(());
        }
    }
    let message = "the ring's bucket is not what it was, and nothing more is told: start watch again";
    Err(Failure::new(Code::Nats, message).into())
}

/// RFC 3339 in UTC, always to the millisecond, so that columns line up.
fn timestamp(at: OffsetDateTime) -> String {
    let (hour, minute, second, milli) = at.time().as_hms_milli();
    format!("{}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", at.date())
}

/// One line for people.
fn told_as(event: &RingEvent) -> (Style, String) {
    let (good, attention) = (AnsiColor::Green.on_default(), AnsiColor::Yellow.on_default());
    match event {
        RingEvent::Watching { plan_version, members } => {
            (Style::new().dimmed(), format!("watching: plan {plan_version}, members {}", names(members)))
        }
        RingEvent::MemberStarted { node, start } => (Style::new(), format!("{node} started (start {start})")),
        RingEvent::MemberJoined { node, .. } => (good, format!("{node} joined")),
        RingEvent::MemberDraining { node, .. } => (attention, format!("{node} drains")),
        RingEvent::MemberLeft { node, .. } => (attention, format!("{node} left")),
        RingEvent::MemberEvicted { node, .. } => (picture::alarm(), format!("{node} was evicted")),
        RingEvent::PartitionOwned { partition, from, to, epoch } => {
            let from = from.as_ref().filter(|from| *from != to).map_or_else(String::new, |from| format!("{from} -> "));
            (Style::new(), format!("partition {partition}: {from}{to} (epoch {epoch})"))
        }
        RingEvent::PartitionReleased { partition, from, epoch } => {
            (attention, format!("partition {partition}: {from} -> nobody (epoch {epoch})"))
        }
        RingEvent::PlanWritten { version, author, members, moves } => (
            AnsiColor::Cyan.on_default(),
            format!("plan {version} by {author}: {moves} to move, members {}", names(members)),
        ),
        RingEvent::ConfigChanged { config } => {
            let cordoned: Vec<NodeName> = config.cordoned.iter().cloned().collect();
            let paused = if config.paused { "paused" } else { "not paused" };
            let ConfigView { replicas, consistency, on_loss, .. } = config;
            let text = format!(
                "configuration: {paused}, cordoned {}, {} pinned, {replicas} copies, {consistency}, on loss {on_loss}",
                names(&cordoned),
                config.pins.len()
            );
            (AnsiColor::Cyan.on_default(), text)
        }
        RingEvent::Unreadable { key, reason } => (picture::alarm(), format!("key {key} cannot be read: {reason}")),
        RingEvent::StoreReset { reason } => (picture::alarm(), format!("the ring's bucket was reset: {reason}")),
    }
}

fn names(nodes: &[NodeName]) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::output::Stop;
    use super::super::output::tests::Written;
    use super::*;

    fn events() -> RingEvents {
        let node = NodeName::new("a").unwrap();
        let events = [
            RingEvent::Watching { plan_version: 3, members: vec![node.clone()] },
            RingEvent::MemberDraining { node: node.clone(), start: 2 },
            RingEvent::MemberLeft { node, start: 2 },
        ];
        futures::stream::iter(events).boxed()
    }

    #[tokio::test]
    async fn it_ends_after_as_many_events_as_asked_for_not_counting_the_first() {
        let written = Written::default();
        follow(events(), Some(1), &mut written.output(false, false, false)).await.unwrap();
        let text = written.text();
        let said: Vec<&str> = text.lines().map(|line| line.split_once("Z  ").unwrap().1).collect();
        assert_eq!(said, ["watching: plan 3, members a", "a drains"]);
    }

    #[tokio::test]
    async fn as_json_every_event_says_when_and_what() {
        let written = Written::default();
        follow(events(), Some(2), &mut written.output(true, false, false)).await.unwrap();
        let lines: Vec<serde_json::Value> =
            written.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let types: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["watching", "member_draining", "member_left"]);
        assert_eq!(lines[0]["at"].as_str().unwrap().len(), "2026-01-02T03:04:05.670Z".len());
        assert_eq!(timestamp(OffsetDateTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    }

    #[tokio::test]
    async fn a_bucket_that_is_gone_ends_it_with_a_failure() {
        let done = follow(events(), None, &mut Written::default().output(true, false, false)).await;
        assert!(matches!(done, Err(Stop::Failed(Failure { code: Code::Nats, .. }))), "{done:?}");
    }
}
