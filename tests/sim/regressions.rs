//! Seeds that found a defect, and what it was.
//!
//! A seed means another run once the generator draws otherwise: each of these has a test of its own as well, or says why not.

/// Seed, and what it broke.
pub(crate) const SEEDS: &[(u64, &str)] = &[];
