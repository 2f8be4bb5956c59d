//! Choices of a workload from a seed (SplitMix64, Steele, Lea & Flood 2014).
//!
//! Real processes do not repeat themselves; the seed only makes the load's mix repeatable.

/// A stream of choices.
#[derive(Debug, Clone)]
pub(crate) struct SeededChoice {
    state: u64,
}

impl SeededChoice {
    /// Streams with different names are independent.
    pub(crate) fn new(seed: u64, stream: u64) -> SeededChoice {
        let mut choice = SeededChoice { state: seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15) };
        choice.next();
        choice
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is small beside 2^64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing to choose from");
        self.next() % bound
    }
}
