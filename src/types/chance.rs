//! Where chance comes from: injected, so that a simulated run is the same twice.
//!
//! In the product it is the operating system's; a [`Chance::seeded`] one answers the same each time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// A source of chance. Clones draw from the same.
#[derive(Debug, Clone, Default)]
pub struct Chance {
    seeded: Option<Arc<Mutex<SmallRng>>>,
}

impl Chance {
    /// The operating system's.
    pub fn real() -> Self {
        Self::default()
    }

    /// One that everything about is decided by `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self { seeded: Some(Arc::new(Mutex::new(SmallRng::seed_from_u64(seed)))) }
    }

    /// Another source, which this one decides: what is drawn there changes nothing here.
    #[must_use]
    pub fn fork(&self) -> Self {
        match &self.seeded {
            Some(_) => Self::seeded(self.number()),
            None => Self::real(),
        }
    }

    /// Any number.
    pub fn number(&self) -> u64 {
        match &self.seeded {
            Some(seeded) => locked(seeded).random(),
            None => rand::random(),
        }
    }

    /// A number from zero up to `most`.
    pub fn up_to(&self, most: u64) -> u64 {
        match &self.seeded {
            _ if most == 0 => 0,
            Some(seeded) => locked(seeded).random_range(0..=most),
            None => rand::random_range(0..=most),
        }
    }

    /// Whether something of this probability, 0 to 1, happens. What cannot happen draws nothing.
    pub fn hits(&self, probability: f64) -> bool {
        let probability = probability.min(1.0);
        match &self.seeded {
            _ if probability <= 0.0 => false,
            Some(seeded) => locked(seeded).random_bool(probability),
            None => rand::random_bool(probability),
        }
    }

    /// Between the half and the whole of a pause, so that not all who wait come back in one moment.
    pub fn jittered(&self, pause: Duration) -> Duration {
        let share = match &self.seeded {
            Some(seeded) => locked(seeded).random_range(0.5..1.0),
            None => rand::random_range(0.5..1.0),
        };
        pause.mul_f64(share)
    }

    /// An identifier that nothing else has.
    pub fn uuid(&self) -> Uuid {
        let high = u128::from(self.number()) << 64;
        uuid::Builder::from_random_bytes((high | u128::from(self.number())).to_be_bytes()).into_uuid()
    }
}

fn locked(seeded: &Mutex<SmallRng>) -> MutexGuard<'_, SmallRng> {
    seeded.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_the_real_source_repeats_nothing() {
        let draw = |chance: Chance| (chance.number(), chance.uuid(), chance.up_to(1000), chance.fork().number());
        assert_eq!(draw(Chance::seeded(7)), draw(Chance::seeded(7)));
        assert_ne!(draw(Chance::seeded(7)), draw(Chance::seeded(8)));
        assert_ne!(draw(Chance::real()), draw(Chance::real()));
    }

    #[test]
    fn an_identifier_is_a_random_one_by_its_version() {
        assert_eq!(Chance::seeded(1).uuid().get_version_num(), 4);
        assert_eq!(Chance::real().uuid().get_version_num(), 4);
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        let (chance, pause) = (Chance::seeded(1), Duration::from_secs(1));
        assert!((0..100).all(|_| (pause / 2..=pause).contains(&chance.jittered(pause))));
    }
}
