//! Features: what a seed exercises beside keys and watches.
//!
//! Each has a workload, a checker and a planted bug. A seed draws a few, since one that does
//! everything does little of each; none shifts what another draws.

use crate::rng::{Chance, Seed};
use std::collections::BTreeSet;

/// Something that the service offers, or that is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Members of an old build are replaced one by one.
    RollingUpgrade,
    /// Leases are granted, kept alive, revoked and left to expire.
    Leases,
    /// A lock is taken in turns, and fences what it guards.
    Locks,
    /// Members are replaced, one machine after the other.
    Membership,
    /// Users come and go, and what they may do changes.
    Accounts,
    /// Members come and go, and the cluster grows and shrinks.
    Operator,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 6] = [
        Feature::RollingUpgrade,
        Feature::Leases,
        Feature::Locks,
        Feature::Membership,
        Feature::Accounts,
        Feature::Operator,
    ];

    const fn chance(self) -> Chance {
        match self {
            Feature::RollingUpgrade => Chance::percent(25),
            Feature::Leases => Chance::percent(40),
            Feature::Locks => Chance::percent(25),
            Feature::Membership | Feature::Accounts => Chance::percent(25),
            Feature::Operator => Chance::percent(20),
        }
    }

    /// Those that a seed exercises.
    pub(crate) fn draw(seed: Seed) -> BTreeSet<Feature> {
        let drawn = |feature: &Feature| {
            let rng = &mut seed.stream("feature", *feature as u64);
            rng.chance(feature.chance())
        };
        let mut drawn: BTreeSet<Feature> = Feature::ALL.into_iter().filter(drawn).collect();
        if drawn.contains(&Feature::Operator) {
            // One of them at a time.
            drawn.remove(&Feature::Membership);
        }
        drawn
    }
}
