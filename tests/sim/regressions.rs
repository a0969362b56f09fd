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
];
