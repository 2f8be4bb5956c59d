//! Features: what a seed exercises beside keys and watches.
//!
//! Each has a workload, a checker and a planted bug. A seed draws a few, since one that does
//! everything does little of each; none shifts what another draws.

use crate::profile::Profile;
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
    /// Leaders hand their groups over.
    Handovers,
    /// Disks read wrong what was synced, and removed files come back.
    Rot,
    /// Members are in regions far from each other.
    Wan,
    /// Links form rings and bridges, clog, or lose one kind of message.
    Tangles,
    /// Processes crash at chosen steps.
    Ambushes,
    /// Counters are counted and amounts transferred, on conditions, in nested transactions.
    Counters,
    /// Keys come and go under ranges.
    Churn,
    /// History is compacted at the edge of the present.
    CompactionRaces,
    /// Many leases begin and end together.
    LeaseStorms,
    /// All clients want the same few keys.
    HotKeys,
    /// Some values are large.
    BigValues,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 17] = [
        Feature::RollingUpgrade,
        Feature::Leases,
        Feature::Locks,
        Feature::Membership,
        Feature::Accounts,
        Feature::Operator,
        Feature::Handovers,
        Feature::Rot,
        Feature::Wan,
        Feature::Tangles,
        Feature::Ambushes,
        Feature::Counters,
        Feature::Churn,
        Feature::CompactionRaces,
        Feature::LeaseStorms,
        Feature::HotKeys,
        Feature::BigValues,
    ];

    /// Whether it brings requests of its own, many a second.
    pub(crate) const fn asks_for_much(self) -> bool {
        matches!(
            self,
            Feature::RollingUpgrade
                | Feature::Leases
                | Feature::Locks
                | Feature::Membership
                | Feature::Accounts
                | Feature::Operator
                | Feature::Counters
                | Feature::Churn
                | Feature::CompactionRaces
        )
    }

    /// Whether everything that it finds is explained; the others are left to `Profile::Frontier`.
    const fn is_settled(self) -> bool {
        matches!(
            self,
            Feature::RollingUpgrade
                | Feature::Leases
                | Feature::Locks
                | Feature::Membership
                | Feature::Accounts
                | Feature::Operator
        )
    }

    const fn chance(self) -> Chance {
        match self {
            Feature::RollingUpgrade => Chance::percent(25),
            Feature::Leases => Chance::percent(40),
            Feature::Locks => Chance::percent(25),
            Feature::Membership | Feature::Accounts => Chance::percent(25),
            Feature::Operator | Feature::Handovers => Chance::percent(20),
            Feature::Rot | Feature::Tangles | Feature::Ambushes => Chance::percent(30),
            Feature::Counters | Feature::Churn => Chance::percent(25),
            Feature::CompactionRaces | Feature::LeaseStorms => Chance::percent(15),
            Feature::Wan | Feature::HotKeys | Feature::BigValues => Chance::percent(10),
        }
    }

    /// Those that a seed exercises in worlds of this kind.
    pub(crate) fn draw(seed: Seed, profile: Profile) -> BTreeSet<Feature> {
        let drawn = |feature: &Feature| {
            if profile != Profile::Frontier && !feature.is_settled() {
                return false;
            }
            let rng = &mut seed.stream("feature", *feature as u64);
            rng.chance(feature.chance())
        };
        let mut drawn: BTreeSet<Feature> = Feature::ALL.into_iter().filter(drawn).collect();
        if drawn.contains(&Feature::Operator) {
            // One of them at a time.
            drawn.remove(&Feature::Membership);
        }
        if drawn.contains(&Feature::RollingUpgrade) {
            // An old build that is started by mistake may be all that is left of a quorum.
            drawn.remove(&Feature::Membership);
        }
        if drawn.contains(&Feature::Operator) || drawn.contains(&Feature::Membership) {
            // Who lost a disk for good, and who joins, has nothing to spare either.
            drawn.remove(&Feature::Rot);
        }
        if drawn.contains(&Feature::Churn) {
            drawn.remove(&Feature::CompactionRaces);
        }
        drawn
    }
}
