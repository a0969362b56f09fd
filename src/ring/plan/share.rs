//! A node's share by weight, and what one partition more or less costs the balance.
//!
//! The cost of holding `c` partitions is `d * d / weight`, `d` being the distance of `c` from the quota rounded down or
//! up, whichever is nearer. It is convex: each further partition costs strictly more than the one before.

use std::cmp::Ordering;

/// How many places a node should hold.
pub(super) struct Share {
    /// The quota rounded down.
    pub(super) floor: usize,
    /// The quota rounded up.
    pub(super) ceil: usize,
    weight: u32,
}

/// The cost of one further place: an exact fraction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marginal {
    numerator: i64,
    weight: i64,
}

impl Share {
    /// The shares of `places` among nodes of these weights.
    pub(super) fn of(places: usize, weights: &[u32]) -> Vec<Self> {
        let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
        weights.iter().map(|&weight| Self::new(places as u128 * u128::from(weight), total, weight)).collect()
    }

    fn new(numerator: u128, total: u128, weight: u32) -> Self {
        // At most the number of places, which is a usize.
        let whole = |value: u128| usize::try_from(value).unwrap_or(usize::MAX);
        Self { floor: whole(numerator / total), ceil: whole(numerator.div_ceil(total)), weight }
    }

    /// What one place more costs a node that holds `count`.
    pub(super) fn add(&self, count: usize) -> Marginal {
        // (d + 1)^2 - d^2 above the quota, d^2 - (d + 1)^2 below it.
        let odd = |distance: usize| i64::try_from(2 * distance + 1).unwrap_or(i64::MAX);
        let numerator = if count < self.floor {
            -odd(self.floor - count - 1)
        } else if count < self.ceil {
            0
        } else {
            odd(count - self.ceil)
        };
        Marginal { numerator, weight: i64::from(self.weight) }
    }

    /// What one place less saves a node that holds `count`; nothing can be taken from a node that holds none.
    pub(super) fn remove(&self, count: usize) -> Option<Marginal> {
        count.checked_sub(1).map(|less| self.add(less))
    }
}

impl Ord for Marginal {
    fn cmp(&self, other: &Self) -> Ordering {
        // A numerator is at most twice the places there are (2^12 partitions on 2^16 nodes), a weight below 2^32.
        (self.numerator * other.weight).cmp(&(other.numerator * self.weight))
    }
}

impl PartialOrd for Marginal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Marginal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Marginal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_further_place_costs_more_than_the_one_before() {
        for share in Share::of(64, &[1, 3, 7, u32::MAX]) {
            assert!((0..80).all(|count| share.add(count) < share.add(count + 1)));
        }
    }

    #[test]
    fn shares_are_the_quota_rounded_down_and_up() {
        let bounds: Vec<_> = Share::of(64, &[1, 1, 1]).iter().map(|s| (s.floor, s.ceil)).collect();
        assert_eq!(bounds, [(21, 22); 3]);
        let bounds: Vec<_> = Share::of(64, &[1, 3]).iter().map(|s| (s.floor, s.ceil)).collect();
        assert_eq!(bounds, [(16, 16), (48, 48)]);
    }
}
