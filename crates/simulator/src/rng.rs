//! Randomness of a run: one seed, split into named streams, integers only.
//!
//! Invariant: what one stream draws never shifts what another draws, so that switching a fault on
//! or adding a draw leaves the rest of a run as it was. No floating point: every build, debug or
//! release, on every machine draws the same.

/// A seed from which independent streams are split by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    /// The stream of this name and number (for one stream per node, client or link).
    #[must_use]
    pub(crate) fn stream(self, name: &str, number: u64) -> Rng {
        let mut state = self.0 ^ 0x6a09_e667_f3bc_c908;
        for byte in name.bytes() {
            state = mix(state ^ u64::from(byte));
        }
        Rng { state: mix(state ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) }
    }
}

/// A probability in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chance(pub(crate) u32);

impl Chance {
    /// `percent` in a hundred.
    #[must_use]
    pub(crate) const fn percent(percent: u32) -> Chance {
        Chance(percent * 10_000)
    }
}

/// One stream (SplitMix64, Steele et al. 2014).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `bound`, which must not be zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below zero");
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the product's upper half fits")
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range");
        low + self.below(high - low + 1)
    }

    /// An index into something of `len` elements, which must not be zero.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }

    /// One of the elements.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// Whether something of this probability happens now.
    pub(crate) fn chance(&mut self, chance: Chance) -> bool {
        chance.0 > 0 && self.below(1_000_000) < u64::from(chance.0)
    }

    /// A fair coin.
    pub(crate) fn flip(&mut self) -> bool {
        self.bits() & 1 == 1
    }

    /// An exponentially distributed number with this mean, at most 40 times the mean.
    pub(crate) fn exponential(&mut self, mean: u64) -> u64 {
        // -log2(u) for u in (0, 1] in 1/1024ths: whole part by leading zeros, rest linearly.
        let bits = self.bits() | 1;
        let zeros = u64::from(bits.leading_zeros());
        let mantissa = (bits << zeros) >> 53 & 0x3ff;
        let log2_1024 = zeros * 1024 + (1023 - mantissa);
        // Times ln 2.
        let scaled = u128::from(mean) * u128::from(log2_1024) * 710 / (1024 * 1024);
        u64::try_from(scaled).unwrap_or(u64::MAX).min(mean.saturating_mul(40))
    }
}

/// The finaliser of SplitMix64: every input bit changes every output bit with probability 1/2.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let seed = Seed(7);
        let draw = |name, number| seed.stream(name, number).bits();
        assert_eq!(draw("network", 0), draw("network", 0));
        assert_ne!(draw("network", 0), draw("network", 1));
        assert_ne!(draw("network", 0), draw("disk", 0));
        assert_ne!(draw("network", 0), Seed(8).stream("network", 0).bits());
    }

    #[test]
    fn chances_come_out_near_their_rate() {
        let mut rng = Seed(1).stream("chance", 0);
        let hits = (0..100_000).filter(|_| rng.chance(Chance::percent(30))).count();
        assert!((29_000..31_000).contains(&hits), "{hits}");
        assert!((0..1_000).all(|_| !rng.chance(Chance(0))));
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut rng = Seed(2).stream("range", 0);
        let mut seen = [false; 4];
        for _ in 0..1_000 {
            seen[usize::try_from(rng.between(3, 6)).unwrap() - 3] = true;
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn the_exponential_distribution_has_its_mean() {
        let mut rng = Seed(3).stream("exponential", 0);
        let sum: u64 = (0..100_000).map(|_| rng.exponential(1_000)).sum();
        let mean = sum / 100_000;
        assert!((950..1_050).contains(&mean), "{mean}");
    }
}
