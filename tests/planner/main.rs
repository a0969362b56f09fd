//! The planner against random member histories: every plan is compared with an optimum found by other means.
//!
//! [`world`] makes histories from seeds, [`rules`] checks one plan against the rules, [`optimum`] finds the least cost
//! as a minimum-cost flow ([`flow`]), which brute force confirms on tiny rings. A failure names its seed;
//! `PLANNER_SEED=<seed> cargo test --test planner <test>` replays that history alone.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod flow;
mod optimum;
mod rules;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use nats_ring::ring::plan::{Assignment, Candidate, CurrentRow, PlanError, PlanInput, plan};
use nats_ring::types::{NodeName, PartitionCount, PartitionId};
use rules::Case;
use world::{Profile, Random, World};

fn check_event(world: &World, random: &mut Random) -> Result<Assignment, String> {
    let planned = plan(&world.input()).map_err(|error| error.to_string())?;
    Case { input: world.input(), plan: &planned }.check()?;
    let (candidates, current, absent) = world.shuffled(random);
    let shuffled = PlanInput { candidates: &candidates, current: &current, absent: &absent, ..world.input() };
    let shuffled = plan(&shuffled);
    if shuffled.as_ref() != Ok(&planned) {
        return Err("another order of candidates gave another plan".to_owned());
    }
    let settled = world::rows_of(&planned);
    let again = plan(&PlanInput { current: &settled, ..world.input() });
    if again.as_ref() != Ok(&planned) {
        return Err("planning again on the plan's own result changed it".to_owned());
    }
    Ok(planned)
}

fn run_history(profile: Profile, seed: u64) -> Result<usize, String> {
    let mut random = Random::new(seed);
    let mut world = World::new(profile, &mut random);
    let events = random.between(2, 6);
    for event in 0..events {
        let what = world.change(&mut random);
        let planned =
            check_event(&world, &mut random).map_err(|error| format!("event {event} ({what}): {error}\n{world:?}"))?;
        world.apply(&planned, &mut random);
    }
    Ok(events)
}

fn run_histories(profile: Profile, histories: u64) {
    let started = Instant::now();
    let replay: Option<u64> = std::env::var("PLANNER_SEED").ok().map(|text| text.parse().unwrap());
    let seeds = replay.map_or(0..histories, |seed| seed..seed + 1);
    let mut events = 0;
    for seed in seeds {
        match run_history(profile, seed) {
            Ok(count) => events += count,
            Err(error) => panic!("PLANNER_SEED={seed} {profile:?}: {error}"),
        }
    }
    eprintln!("{profile:?}: {histories} histories, {events} events checked in {:.1?}", started.elapsed());
}

#[test]
fn histories_of_equal_nodes_stay_within_one_with_the_minimum_of_moves() {
    run_histories(Profile::Equal, 3_700);
}

#[test]
fn histories_of_weighted_nodes_stay_within_quota_with_the_minimum_of_moves() {
    run_histories(Profile::Weighted, 3_700);
}

#[test]
fn histories_with_exclusions_and_frozen_nodes_come_as_close_as_possible() {
    run_histories(Profile::Constrained, 1_500);
}

#[test]
fn replicated_histories_keep_zones_apart_and_copy_the_least() {
    run_histories(Profile::Replicated, 1_200);
}

#[test]
fn histories_of_nodes_that_may_come_back_keep_their_places_and_move_no_copies_meanwhile() {
    run_histories(Profile::Returning, 600);
}

#[test]
fn histories_under_operators_bind_what_is_pinned_cordoned_or_paused_and_balance_the_rest() {
    run_histories(Profile::Operated, 1_000);
}

#[test]
fn the_independent_optimum_agrees_with_brute_force_on_tiny_rings() {
    let mut random = Random::new(1);
    for round in 0..1_500 {
        let mut world = World::tiny(&mut random);
        let what = world.change(&mut random);
        let brute = optimum::owners_by_brute_force(&world.input());
        assert_eq!(optimum::owners_by_flow(&world.input()), brute, "round {round}, {what}: {world:?}");
    }
}

static NO_PINS: BTreeMap<PartitionId, NodeName> = BTreeMap::new();

fn equal_candidates(names: &[&str]) -> Vec<Candidate> {
    let candidate = |name: &&str| Candidate {
        node: NodeName::new(name).unwrap(),
        zone: None,
        weight: 1,
        draining: false,
        frozen: false,
        cordoned: false,
        excluded: BTreeSet::new(),
    };
    names.iter().map(candidate).collect()
}

fn input<'a>(candidates: &'a [Candidate], current: &'a [CurrentRow], replicas: usize) -> PlanInput<'a> {
    let partitions = PartitionCount::new(u16::try_from(current.len()).unwrap()).unwrap();
    PlanInput { partitions, replicas, candidates, current, paused: false, pins: &NO_PINS, absent: &[] }
}

fn owned_by(plan: &Assignment, node: &str) -> Vec<usize> {
    let owns = |row: &Vec<NodeName>| row.first().is_some_and(|owner| owner.as_str() == node);
    (0..plan.rows.len()).filter(|&p| owns(&plan.rows[p])).collect()
}

#[test]
fn a_new_node_is_filled_exactly_to_its_share_and_nothing_else_moves() {
    for (weight, share) in [(1, 16), (3, 32), (5, 40)] {
        let mut candidates = equal_candidates(&["a", "b", "c"]);
        let before = plan(&input(&candidates, &vec![CurrentRow::default(); 64], 1)).unwrap();
        candidates.push(Candidate { weight, ..equal_candidates(&["d"]).remove(0) });
        let after = plan(&input(&candidates, &world::rows_of(&before), 1)).unwrap();
        assert_eq!(owned_by(&after, "d").len(), share);
        let moved: Vec<usize> = (0..64).filter(|&p| before.rows[p] != after.rows[p]).collect();
        assert_eq!(moved, owned_by(&after, "d"));
    }
}

#[test]
fn an_exclusion_is_met_by_a_chain_of_moves_and_not_by_imbalance() {
    // `a` must give up partition 0, but `b` excludes it: `c` takes it, and passes one on to keep the balance.
    let mut candidates = equal_candidates(&["a", "b", "c"]);
    let before = plan(&input(&candidates, &vec![CurrentRow::default(); 6], 1)).unwrap();
    let lost = PartitionId::new(u16::try_from(owned_by(&before, "a")[0]).unwrap());
    candidates[0].excluded.insert(lost);
    candidates[1].excluded.insert(lost);
    let after = plan(&input(&candidates, &world::rows_of(&before), 1)).unwrap();
    assert_eq!(after.rows[lost.index()][0].as_str(), "c");
    assert!(["a", "b", "c"].iter().all(|node| owned_by(&after, node).len() == 2));
    assert_eq!((0..6).filter(|&p| before.rows[p] != after.rows[p]).count(), 2);
}

#[test]
fn freezing_a_node_moves_nothing() {
    let mut candidates = equal_candidates(&["a", "b", "c"]);
    candidates[1].weight = 3;
    let before = plan(&input(&candidates, &vec![CurrentRow::default(); 64], 1)).unwrap();
    for frozen in 0..3 {
        candidates[frozen].frozen = true;
        assert_eq!(plan(&input(&candidates, &world::rows_of(&before), 1)).unwrap(), before);
    }
}

#[test]
fn cordoning_a_node_moves_nothing_and_uncordoning_fills_it_to_its_share() {
    let mut candidates = equal_candidates(&["a", "b", "c"]);
    let before = plan(&input(&candidates, &vec![CurrentRow::default(); 64], 1)).unwrap();
    candidates[0].cordoned = true;
    assert_eq!(plan(&input(&candidates, &world::rows_of(&before), 1)).unwrap(), before);
    candidates.push(Candidate { cordoned: true, ..equal_candidates(&["d"]).remove(0) });
    assert_eq!(plan(&input(&candidates, &world::rows_of(&before), 1)).unwrap(), before, "it joins cordoned");
    let gone: Vec<Candidate> = candidates.iter().filter(|c| c.node.as_str() != "b").cloned().collect();
    let without = plan(&input(&gone, &world::rows_of(&before), 1)).unwrap();
    assert_eq!(owned_by(&without, "a"), owned_by(&before, "a"));
    assert_eq!(owned_by(&without, "d").len(), 0, "c takes all that b had");
    candidates[3].cordoned = false;
    let half = plan(&input(&candidates, &world::rows_of(&before), 1)).unwrap();
    assert_eq!(owned_by(&half, "a"), owned_by(&before, "a"), "the cordoned one keeps what it has");
    let rest = 64 - owned_by(&before, "a").len();
    assert!(["b", "c", "d"].iter().all(|node| owned_by(&half, node).len() == rest / 3), "the rest is even: {half:?}");
    candidates[0].cordoned = false;
    let after = plan(&input(&candidates, &world::rows_of(&half), 1)).unwrap();
    assert!(["a", "b", "c", "d"].iter().all(|node| owned_by(&after, node).len() == 16));
}

#[test]
fn where_only_cordoned_nodes_are_left_they_take_what_nobody_owns_evenly() {
    let mut candidates = equal_candidates(&["a", "b"]);
    candidates.iter_mut().for_each(|candidate| candidate.cordoned = true);
    let planned = plan(&input(&candidates, &vec![CurrentRow::default(); 64], 1)).unwrap();
    assert_eq!((owned_by(&planned, "a").len(), owned_by(&planned, "b").len()), (32, 32));
}

#[test]
fn a_paused_ring_moves_nothing_but_what_has_no_owner() {
    let mut candidates = equal_candidates(&["a", "b", "c"]);
    let before = plan(&input(&candidates, &vec![CurrentRow::default(); 63], 1)).unwrap();
    let current = world::rows_of(&before);
    candidates.push(equal_candidates(&["d"]).remove(0));
    candidates[0].weight = 5;
    let paused = PlanInput { paused: true, ..input(&candidates, &current, 1) };
    assert_eq!(plan(&paused).unwrap(), before);
    candidates[1].draining = true;
    let draining = plan(&PlanInput { paused: true, ..input(&candidates, &current, 1) }).unwrap();
    let moved: Vec<usize> = (0..63).filter(|&p| before.rows[p] != draining.rows[p]).collect();
    assert_eq!(moved, owned_by(&before, "b"));
}

#[test]
fn a_pin_moves_one_partition_and_one_back_and_holds_over_joins_cordon_and_pause() {
    let mut candidates = equal_candidates(&["a", "b", "c"]);
    let before = plan(&input(&candidates, &vec![CurrentRow::default(); 63], 1)).unwrap();
    let pinned = owned_by(&before, "a")[0];
    let pins = BTreeMap::from([(PartitionId::new(u16::try_from(pinned).unwrap()), candidates[1].node.clone())]);
    let with_pin = |candidates: &[Candidate], current: &[CurrentRow], paused| {
        plan(&PlanInput { pins: &pins, paused, ..input(candidates, current, 1) }).unwrap()
    };
    let after = with_pin(&candidates, &world::rows_of(&before), false);
    assert_eq!(after.rows[pinned][0].as_str(), "b");
    assert_eq!((0..63).filter(|&p| before.rows[p] != after.rows[p]).count(), 2, "b gives one back for it");
    assert!(["a", "b", "c"].iter().all(|node| owned_by(&after, node).len() == 21));
    let paused = with_pin(&candidates, &world::rows_of(&before), true);
    assert_eq!((0..63).filter(|&p| before.rows[p] != paused.rows[p]).collect::<Vec<_>>(), [pinned]);
    candidates[1].cordoned = true;
    assert_eq!(with_pin(&candidates, &world::rows_of(&before), false).rows[pinned][0].as_str(), "b");
    candidates.push(equal_candidates(&["d"]).remove(0));
    let joined = with_pin(&candidates, &world::rows_of(&after), false);
    assert_eq!(joined.rows[pinned][0].as_str(), "b");
    let away: Vec<Candidate> = candidates.iter().filter(|c| c.node.as_str() != "b").cloned().collect();
    assert_ne!(with_pin(&away, &world::rows_of(&joined), false).rows[pinned], Vec::<NodeName>::new());
}

#[test]
fn nobody_to_hold_a_partition_gives_empty_rows_and_not_an_error() {
    let mut candidates = equal_candidates(&["a"]);
    candidates[0].draining = true;
    let owned = CurrentRow { owner: Some(candidates[0].node.clone()), replicas: vec![] };
    let planned = plan(&input(&candidates, &vec![owned; 4], 2)).unwrap();
    assert_eq!(planned.rows, vec![Vec::<NodeName>::new(); 4]);
    assert_eq!(plan(&input(&[], &vec![CurrentRow::default(); 4], 1)).unwrap(), planned);
}

#[test]
fn input_that_contradicts_itself_is_refused_by_kind() {
    let rows = vec![CurrentRow::default(); 4];
    let twice = equal_candidates(&["a", "a"]);
    let node = twice[0].node.clone();
    assert_eq!(plan(&input(&twice, &rows, 1)), Err(PlanError::Duplicate { node: node.clone() }));
    let weightless = [Candidate { weight: 0, ..twice[0].clone() }];
    assert_eq!(plan(&input(&weightless, &rows, 1)), Err(PlanError::ZeroWeight { node }));
    assert_eq!(plan(&input(&twice[..1], &rows, 0)), Err(PlanError::NoReplicas));
    let short = PlanInput { current: &rows[..3], ..input(&twice[..1], &rows, 1) };
    assert_eq!(plan(&short), Err(PlanError::Rows { given: 3, partitions: 4 }));
}

fn checked(input: &PlanInput<'_>, plan: &Assignment) -> Result<(), String> {
    Case { input: *input, plan }.check()
}

#[test]
fn the_checker_catches_plans_that_are_wrong_in_one_thing() {
    let candidates = equal_candidates(&["a", "b", "c"]);
    let settled = plan(&input(&candidates, &vec![CurrentRow::default(); 9], 2)).unwrap();
    let current = world::rows_of(&settled);
    let input = input(&candidates, &current, 2);
    assert_eq!(checked(&input, &settled), Ok(()));
    let wrong = |change: &dyn Fn(&mut Vec<Vec<NodeName>>)| {
        let mut rows = settled.rows.clone();
        change(&mut rows);
        checked(&input, &Assignment { rows, kept: vec![vec![]; 9] }).unwrap_err()
    };
    let (mine, theirs) = (owned_by(&settled, "a")[0], owned_by(&settled, "b")[0]);
    let (a, b) = (candidates[0].node.clone(), candidates[1].node.clone());
    let needless = wrong(&|rows| (rows[mine], rows[theirs]) = (vec![b.clone(), a.clone()], vec![a.clone(), b.clone()]));
    assert!(needless.contains("optimum"), "{needless}");
    let unbalanced = wrong(&|rows| rows[theirs] = vec![a.clone(), b.clone()]);
    assert!(unbalanced.contains("quota"), "{unbalanced}");
    assert!(wrong(&|rows| rows[mine].clear()).contains("unassigned"));
    assert!(wrong(&|rows| rows[mine][1] = a.clone()).contains("distinct"));
    assert!(wrong(&|rows| rows[mine].truncate(1)).contains("copies"));
}

#[test]
fn the_checker_catches_lost_zones_and_unbalanced_replicas() {
    let mut candidates = equal_candidates(&["a", "b", "c", "d"]);
    let settled = plan(&input(&candidates, &vec![CurrentRow::default(); 12], 2)).unwrap();
    let current = world::rows_of(&settled);
    let (a, d) = (candidates[0].node.clone(), candidates[3].node.clone());
    let mut rows = settled.rows.clone();
    rows.iter_mut().filter(|row| row[0] != d).for_each(|row| row[1] = d.clone());
    let kept = vec![vec![]; 12];
    let plan_of = |rows| Assignment { rows, kept: kept.clone() };
    let unbalanced = checked(&input(&candidates, &current, 2), &plan_of(rows)).unwrap_err();
    assert!(unbalanced.contains("replicas differ"), "{unbalanced}");
    for (candidate, zone) in candidates.iter_mut().zip(["east", "east", "west", "west"]) {
        candidate.zone = Some(zone.to_owned());
    }
    let zoned = plan(&input(&candidates, &current, 2)).unwrap();
    let mut rows = zoned.rows;
    rows.iter_mut().filter(|row| row[0] == a).for_each(|row| row[1] = candidates[1].node.clone());
    let lost = checked(&input(&candidates, &current, 2), &plan_of(rows)).unwrap_err();
    assert!(lost.contains("zones"), "{lost}");
}

#[test]
fn the_checker_catches_wishes_of_operators_that_are_not_met() {
    let mut candidates = equal_candidates(&["a", "b"]);
    let settled = plan(&input(&candidates, &vec![CurrentRow::default(); 4], 1)).unwrap();
    let current = world::rows_of(&settled);
    let (mine, theirs) = (owned_by(&settled, "a")[0], owned_by(&settled, "b")[0]);
    let mut swapped = settled.clone();
    swapped.rows.swap(mine, theirs);
    let paused = PlanInput { paused: true, ..input(&candidates, &current, 1) };
    assert_eq!(checked(&paused, &settled), Ok(()));
    assert!(checked(&paused, &swapped).unwrap_err().contains("must not own"));
    let pins = BTreeMap::from([(PartitionId::new(u16::try_from(mine).unwrap()), candidates[1].node.clone())]);
    let pinned = PlanInput { pins: &pins, ..input(&candidates, &current, 1) };
    assert!(checked(&pinned, &settled).unwrap_err().contains("must not own"));
    candidates[0].cordoned = true;
    assert!(checked(&input(&candidates, &current, 1), &swapped).unwrap_err().contains("must not own"));
}

#[test]
fn a_drained_node_is_caught_in_a_plan() {
    let mut candidates = equal_candidates(&["a", "b"]);
    let settled = plan(&input(&candidates, &vec![CurrentRow::default(); 4], 1)).unwrap();
    candidates[0].draining = true;
    let caught = checked(&input(&candidates, &world::rows_of(&settled), 1), &settled).unwrap_err();
    assert!(caught.contains("must not own"), "{caught}");
}

/// Sizes at the limit: not a bound on time (debug builds and busy machines differ), but a plan that is right.
#[test]
fn the_largest_ring_of_a_hundred_nodes_fills_a_new_node_exactly() {
    let names: Vec<String> = (0..100).map(|i| format!("node-{i:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let candidates = equal_candidates(&names);
    let timed = |what: &str, input: &PlanInput<'_>| {
        let started = Instant::now();
        let planned = plan(input).unwrap();
        eprintln!("4096 partitions, 100 nodes, {what}: {:.1?}", started.elapsed());
        planned
    };
    let before = timed("first plan", &input(&candidates[..99], &vec![CurrentRow::default(); 4096], 1));
    let current = world::rows_of(&before);
    let after = timed("one node joins", &input(&candidates, &current, 1));
    assert_eq!(owned_by(&after, "node-099").len(), 40);
    assert_eq!((0..4096).filter(|&p| before.rows[p] != after.rows[p]).count(), 40);
}
