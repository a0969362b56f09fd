//! The steps, in order. Each says what it did, or why it did not hold.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::sleep;

use super::cast::Cast;
use super::entries::{self, Entries, Found};
use super::load::{Load, Tally};
use crate::cli::dev::member::{State, seconds};
use crate::cli::exit::Failure;
use crate::types::{BootClock, Clock};

const NODES: usize = 5;
/// The second node drains, the third is killed, the fourth stands still for a while.
const DRAINED: usize = 1;
const KILLED: usize = 2;
const FROZEN: usize = 3;
/// How long partitions of a killed node may go without an answer: a lease is 3 s, a machine may be busy.
const HEAL_LIMIT: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Tells it; a sentence that sums it up.
pub(super) async fn tell(cast: &mut Cast) -> Result<String, Failure> {
    let entries = Entries::new();
    gather(cast).await?;
    fill(cast, &entries).await?;
    let joined = join(cast, &entries).await?;
    let drained = drain(cast, &entries).await?;
    let gap = kill(cast, &entries).await?;
    read_all(cast, &entries).await?;
    freeze(cast, &entries).await?;
    read_all(cast, &entries).await?;
    Ok(format!(
        "{} requests while nodes joined and drained, 0 failed. kill -9 cost 0 of {} entries, and all 64 partitions answered \
         again after {}.",
        joined.requests + drained.requests,
        entries.all().len(),
        seconds(gap)
    ))
}

async fn gather(cast: &mut Cast) -> Result<(), Failure> {
    for _ in 0..NODES {
        cast.fleet.add(None).map_err(|refusal| cast.failed(&refusal.to_string()))?;
    }
    let took = cast.until("five nodes are ready and balanced", |fleet, board| {
        let ready = fleet.members.iter().all(|member| member.state == State::Ready);
        let shares = fleet.members.iter().map(|member| board.held(&member.name));
        ready && board.is_complete() && balanced(shares)
    });
    let took = took.await?;
    let shares: Vec<String> = cast.shares().iter().map(ToString::to_string).collect();
    cast.say(&format!(
        "{NODES} nodes in zones a and b are ready after {}; they own {} partitions",
        seconds(took),
        shares.join(", ")
    ));
    Ok(())
}

fn balanced(shares: impl Iterator<Item = usize> + Clone) -> bool {
    shares.clone().max().unwrap_or(0) <= shares.min().unwrap_or(0) + 1
}

async fn fill(cast: &mut Cast, entries: &Entries) -> Result<(), Failure> {
    let (all, nodes) = (entries.all(), cast.addresses(None));
    entries::set(&cast.http, &nodes, &all).await.map_err(|reason| cast.failed(&reason))?;
    cast.say(&format!("{} entries set, through all nodes in turn", all.len()));
    read_all(cast, entries).await
}

/// Every entry from every node.
async fn read_all(cast: &mut Cast, entries: &Entries) -> Result<(), Failure> {
    let (all, nodes) = (entries.all(), cast.addresses(None));
    let found = entries::get(&cast.http, &nodes, &all).await;
    expect_right(cast, &found, all.len() * nodes.len())?;
    cast.say(&format!("{} gets: every entry from each of {} nodes, all right", found.right, nodes.len()));
    Ok(())
}

fn expect_right(cast: &Cast, found: &Found, wanted: usize) -> Result<(), Failure> {
    if found.right == wanted {
        return Ok(());
    }
    let first = found.wrong.first().or(found.missing.first()).map_or("", String::as_str);
    let (missing, wrong) = (found.missing.len(), found.wrong.len());
    Err(cast.failed(&format!("of {wanted} gets {missing} found nothing and {wrong} failed, such as {first}")))
}

/// Nothing may fail in a planned change.
fn expect_none_failed(cast: &Cast, what: &str, tally: &Tally) -> Result<(), Failure> {
    match tally.failures.first() {
        None => Ok(()),
        Some(first) => {
            let text =
                format!("{what}: {} of {} requests failed, such as {first}", tally.failures.len(), tally.requests);
            Err(cast.failed(&text))
        }
    }
}

async fn join(cast: &mut Cast, entries: &Entries) -> Result<Tally, Failure> {
    let before: Vec<Option<String>> = cast.board.cells.iter().map(|cell| cell.owner.clone()).collect();
    let load = Load::start(&cast.bus, &cast.http, &cast.addresses(None));
    let (at, _) = cast.fleet.add(None).map_err(|refusal| cast.failed(&refusal.to_string()))?;
    let took = cast.until("a sixth node joins and gets its share", |fleet, board| {
        let shares = fleet.members.iter().map(|member| board.held(&member.name));
        fleet.members[at].state == State::Ready && board.is_complete() && board.moves.is_empty() && balanced(shares)
    });
    let took = took.await;
    let tally = load.stop().await;
    let took = took?;
    expect_none_failed(cast, "a node joins", &tally)?;
    let name = cast.fleet.members[at].name.clone();
    let moved = cast.board.cells.iter().zip(&before).filter(|(cell, owner)| cell.owner != **owner).count();
    if moved != cast.board.held(&name) {
        let held = cast.board.held(&name);
        return Err(cast.failed(&format!("{moved} partitions changed owner for {held} that {name} got")));
    }
    cast.say(&format!("{name} joined under load after {}: {moved} partitions moved to it and no other", seconds(took)));
    tell_load(cast, &tally);
    read_all(cast, entries).await?;
    Ok(tally)
}

fn tell_load(cast: &Cast, tally: &Tally) {
    let slowest = tally.slowest.as_millis();
    cast.say(&format!(
        "  meanwhile {} requests over HTTP and plain NATS, 0 failed, the slowest set and get took {slowest} ms",
        tally.requests
    ));
}

async fn drain(cast: &mut Cast, entries: &Entries) -> Result<Tally, Failure> {
    // Over NATS also the node that drains is asked; over HTTP a client goes to one that stays.
    let load = Load::start(&cast.bus, &cast.http, &cast.addresses(Some(DRAINED)));
    let name = cast.fleet.members[DRAINED].name.clone();
    cast.fleet.stop(DRAINED).map_err(|refusal| cast.failed(&refusal.to_string()))?;
    let took = cast.until("a node drains and ends with exit code 0", |fleet, board| {
        matches!(fleet.members[DRAINED].state, State::Ended(_)) && board.is_complete()
    });
    let took = took.await;
    let tally = load.stop().await;
    let took = took?;
    expect_none_failed(cast, "a node drains", &tally)?;
    if cast.fleet.members[DRAINED].failed {
        let how = cast.fleet.members[DRAINED].state.detail().unwrap_or_default().to_owned();
        return Err(cast.failed(&format!("{name} did not drain: {how}")));
    }
    cast.say(&format!(
        "{name} drained under load (TERM): it handed all over and ended with exit code 0 after {}",
        seconds(took)
    ));
    tell_load(cast, &tally);
    read_all(cast, entries).await?;
    Ok(tally)
}

/// How long some partition did not answer.
async fn kill(cast: &mut Cast, entries: &Entries) -> Result<Duration, Failure> {
    let name = cast.fleet.members[KILLED].name.clone();
    let owners: Vec<Option<String>> = cast.board.cells.iter().map(|cell| cell.owner.clone()).collect();
    let of_killed = |partition: usize| owners[partition].as_deref() == Some(name.as_str());
    let of_its = entries.of_partitions(of_killed);
    let begin = BootClock.now();
    cast.fleet.kill(KILLED).map_err(|refusal| cast.failed(&refusal.to_string()))?;
    let held = owners.iter().filter(|owner| owner.as_deref() == Some(name.as_str())).count();
    cast.say(&format!("{name} killed (kill -9) with {held} partitions and {} entries", of_its.len()));
    let nodes = cast.addresses(Some(KILLED));
    // Not before: it could still answer.
    cast.until("a killed node is gone", |fleet, _| matches!(fleet.members[KILLED].state, State::Ended(_))).await?;
    answered_by_all(cast, &nodes, &entries.one_each()).await?;
    let gap = BootClock.now().since(begin);
    cast.until("the others own what a killed node had", |_, board| board.is_complete()).await?;
    cast.say(&format!("all {} partitions answered again after {}", owners.len(), seconds(gap)));

    let found = entries::get(&cast.http, &nodes[..1], &entries.all()).await;
    expect_right(cast, &found, entries.all().len())?;
    cast.say(&format!("lost: nothing. The {} entries that {name} had were there as copies", of_its.len()));
    Ok(gap)
}

/// A node that stands still beyond its lease is as good as dead to the others, and knows it once it goes on.
async fn freeze(cast: &mut Cast, entries: &Entries) -> Result<(), Failure> {
    let name = cast.fleet.members[FROZEN].name.clone();
    let before: Vec<(Option<String>, u64)> =
        cast.board.cells.iter().map(|cell| (cell.owner.clone(), cell.epoch)).collect();
    let had = |partition: usize| before[partition].0.as_deref() == Some(name.as_str());
    let held = cast.board.held(&name);
    cast.fleet.freeze(FROZEN).map_err(|refusal| cast.failed(&refusal.to_string()))?;
    let taken = cast
        .until("the others take over what a frozen node had", |_, board| board.held(&name) == 0 && board.is_complete());
    let taken = taken.await?;
    if let Some(at) = (0..before.len()).find(|at| had(*at) && cast.board.cells[*at].epoch <= before[*at].1) {
        return Err(cast.failed(&format!("partition {at} changed its owner, and its epoch did not grow")));
    }
    cast.say(&format!(
        "{name} frozen (SIGSTOP): after {} the others had its {held} partitions, each at a higher epoch",
        seconds(taken)
    ));
    cast.fleet.thaw(FROZEN).map_err(|refusal| cast.failed(&refusal.to_string()))?;
    let back = cast.until("a thawed node comes back", |fleet, board| {
        let shares = fleet.members.iter().filter(|member| member.process.is_some());
        let shares = shares.map(|member| board.held(&member.name));
        fleet.members[FROZEN].state == State::Ready && board.is_complete() && board.moves.is_empty() && balanced(shares)
    });
    let back = back.await?;
    // Asked of the node itself: it is to answer with what the ring has, not with what it had in memory.
    let of_its = entries.of_partitions(had);
    let itself = cast.fleet.members[FROZEN].address.map_or_else(Vec::new, |address| vec![address]);
    let found = entries::get(&cast.http, &itself, &of_its).await;
    expect_right(cast, &found, of_its.len())?;
    cast.say(&format!(
        "{name} thawed (SIGCONT): it saw that it had been evicted, began anew and was back after {}; no entry is lost",
        seconds(back)
    ));
    Ok(())
}

/// Asks for one key of every partition until each was answered, found or not.
async fn answered_by_all(cast: &Cast, nodes: &[std::net::SocketAddr], keys: &[&str]) -> Result<(), Failure> {
    let asked = keys.iter().zip(nodes.iter().cycle()).map(|(key, node)| {
        let http = cast.http.clone();
        async move {
            let begin = BootClock.now();
            loop {
                match entries::get_one(&http, *node, key).await {
                    Ok(_) => return Ok(()),
                    Err(reason) if BootClock.now().since(begin) > HEAL_LIMIT => return Err(format!("{key}: {reason}")),
                    Err(_) => sleep(ASK_AGAIN).await,
                }
            }
        }
    });
    let answers: Vec<Result<(), String>> = futures::stream::iter(asked).buffer_unordered(keys.len()).collect().await;
    let unanswered = answers.into_iter().find_map(Result::err);
    unanswered
        .map_or(Ok(()), |what| Err(cast.failed(&format!("no answer within {HEAL_LIMIT:?} after kill -9: {what}"))))
}
