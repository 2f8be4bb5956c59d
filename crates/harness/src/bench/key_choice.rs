//! Which key a client asks for next.

use crate::seeded_choice::SeededChoice;

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Every key as often as every other.
    Uniform,
    /// Few keys often, most seldom: exponent 1, as in YCSB (Cooper et al. 2010) nearly.
    Zipf,
    /// One after the other; every client begins elsewhere.
    Sequential,
}

/// The choices of one client.
#[derive(Debug, Clone)]
pub(crate) struct KeyChoice {
    distribution: Distribution,
    keys: u64,
    next: u64,
    choice: SeededChoice,
}

impl KeyChoice {
    /// `keys` is above 0.
    pub(crate) fn new(
        distribution: Distribution,
        keys: u64,
        client: u64,
        choice: SeededChoice,
    ) -> KeyChoice {
        let next = client.wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys;
        KeyChoice { distribution, keys, next, choice }
    }

    /// A number below `keys`.
    pub(crate) fn next(&mut self) -> u64 {
        match self.distribution {
            Distribution::Uniform => self.choice.below(self.keys),
            Distribution::Sequential => {
                let key = self.next;
                self.next = (self.next + 1) % self.keys;
                key
            }
            Distribution::Zipf => {
                // The inverse of the integral of 1/x from 1 to keys + 1.
                let uniform = self.choice.below(1 << 53) as f64 / (1_u64 << 53) as f64;
                let rank = ((self.keys + 1) as f64).powf(uniform) as u64;
                rank.clamp(1, self.keys) - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(distribution: Distribution) -> Vec<u64> {
        let mut keys = KeyChoice::new(distribution, 1_000, 3, SeededChoice::new(1, 3));
        (0..10_000).map(|_| keys.next()).collect()
    }

    #[test]
    fn every_distribution_stays_within_the_keys_and_has_its_shape() {
        let share = |keys: &[u64]| keys.iter().filter(|key| **key < 10).count();
        let uniform = drawn(Distribution::Uniform);
        let zipf = drawn(Distribution::Zipf);
        for keys in [&uniform, &zipf, &drawn(Distribution::Sequential)] {
            assert!(keys.iter().all(|key| *key < 1_000));
        }
        assert!((50..200).contains(&share(&uniform)), "{}", share(&uniform));
        // ln 11 / ln 1001 of all.
        assert!((3_000..4_000).contains(&share(&zipf)), "{}", share(&zipf));
    }

    #[test]
    fn a_sequence_visits_every_key_in_turn() {
        let keys = drawn(Distribution::Sequential);
        assert!(keys.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 1_000));
    }
}
