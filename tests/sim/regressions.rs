//! Seeds that found a defect, and what it was.
//!
//! A seed means another run once the generator draws otherwise: each of these has a test of its own as well, or says why not.

/// Seed, and what it broke.
pub(crate) const SEEDS: &[(u64, &str)] = &[
    // `coord::mem::tests::a_watch_knows_that_the_store_went_back_while_it_was_cut_off`
    (
        444,
        "the store's twin: a watch cut off while the store went back did not tell, and its node beat in vain for ever",
    ),
    (820, "the same"),
    // `ring::machine::tests::lease::a_newcomer_right_after_a_reset_...`
    (2103, "who came right after a reset did not hold off, and owned beside a node whose loop stood still"),
    (2679, "the same"),
    // `ring::machine::tests::coordinate::an_elder_whose_lease_was_removed_...`
    (2201, "nobody planned for as long as an elder's lease, removed by a clean-up, was waited for"),
    // `a_watch_of_a_reader_that_saw_more_than_there_is_begins_with_a_reset` of the store's conformance suite, and
    // `coord::mem::tests::a_rollback_is_noticed_by_any_watch_...`
    (2246, "a lease lost in a rollback was evicted in vain for ever: the watch that had seen it was over"),
    // `ring::machine::tests::coordinate::a_live_lease_that_is_not_among_all_leases_any_more_...`
    (529, "a name whose lease had been removed was evicted in vain, and planned for, for ever"),
    // No test of its own: how often a request may be passed on.
    (462, "a request was refused that met a partition which moved three times while it was on its way"),
    // No test of its own: what the executor does is seen in whole nodes only.
    (7, "a slow discard took away a copy that had been begun since, and the in-sync set named who held nothing"),
    (35, "the same"),
    (82, "the same"),
    // The same.
    (
        13,
        "an owner was not asked whether a copy may go in the turn that first saw its claim, and the copy stayed for ever",
    ),
    (197, "an owner had agreed that a copy may go, something of it was on its way, and the copy stayed for ever"),
    // No test of its own: it was this simulation that was wrong.
    (362, "requests had to succeed while a heartbeat that was swallowed before everything healed was still waited for"),
    (5018, "the same"),
    // The same.
    (
        235,
        "who had failed to own and given back was taken for an owner, once a ring without that one's number began in its place",
    ),
    // The same; what the store cannot refuse is said in docs/decisions/0009.
    (
        316,
        "a write that was sent before the store was replaced, and taken after it, was judged as if somebody had chosen it",
    ),
    // No test of its own: the same.
    (
        344,
        "a member that took over in a store which had lost a heartbeat nobody knew of was taken for one that begins with nothing",
    ),
    // `coord::mem::tests::a_watch_that_nobody_asked_while_it_was_cut_off_...`
    (
        5516,
        "the store's twin: a process stopped for longer than its connection was away lost what was on its way to a watch, and \
         never saw the lease it waited for",
    ),
    // `who_finds_that_the_store_went_back_says_so_before_its_service_has_let_go_...` of tests/returning.rs
    (
        1699,
        "two nodes knew that the store had gone back, and told nobody for 14 s, while their services let go of what they held",
    ),
    (
        4462,
        "the same, of a bucket made anew: meanwhile a newcomer found it empty, and began a ring that waited for nobody",
    ),
    (5644, "the same"),
    // No test of its own: it takes another store while a service lets go.
    (4987, "a node agreed on a generation, let go for 14 s, and began it in a store that had been made anew meanwhile"),
    // No test of its own: it was this simulation that was wrong.
    (4043, "a suspended owner in a ring begun in a bucket made anew was taken for replaced by the ring before"),
    (
        5988,
        "requests had to succeed while a slow watch had yet to tell that the store had gone back before everything healed",
    ),
    (3221, "a partition whose whole set had died was to be served before the eleven leases of its wait were over"),
    // `replica::tests::following::what_is_let_go_is_not_brought_back_...`
    (4830, "a replaced owner that went on after it had stood still brought back a copy that had been let go, for ever"),
    // `ring::machine::tests::recovery::what_the_last_node_gave_back_...`
    (
        3798,
        "what the last node had given back as it left began empty, where operators had said that a loss waits for them",
    ),
    // No test of its own: it was this simulation that was wrong.
    (2990, "a write was lost in a takeover and executed anew when it was sent again, and judged as executed twice"),
    (3361, "the same, where the partition began with nothing"),
    (5417, "the same"),
    // The same.
    (5547, "what an owner had written as it gave a move up was taken for what all members have"),
    // The same; docs/protocol.md says that it is not promised.
    (3456, "a write that had waited with a frozen process lived longer there"),
];
