//! What goes wrong, how often, and for how long. Applying a fault to the world is in `cluster`.
//!
//! Every fault here is one that the design tolerates: whatever the mixture, nothing acknowledged
//! may be lost. Faults beyond that (a lying disk, clocks out of bound) are planted bugs (`mutant`).

use crate::event_heap::{MILLISECOND, SECOND};
use crate::mark::Mark;
use crate::network::Slot;
use crate::rng::{Chance, Rng};
use serde::Serialize;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// One process is killed and restarted.
    Kill,
    /// One machine loses power and restarts, sometimes again in the middle of its recovery.
    PowerLoss,
    /// Every machine loses power at the same moment.
    PowerLossOfAll,
    /// Links are blocked, in one direction or both.
    Partition,
    /// A process stands still while its queues fill and its clock runs on.
    Pause,
    /// A monotonic clock changes its rate, within the bound.
    ClockRate,
    /// A wall clock steps by up to hours.
    WallStep,
    /// A connection breaks and is made anew.
    ConnectionReset,
    /// The next operation of a disk fails for good: the node must stop by itself.
    DiskError,
    /// A disk has no room for another file for a while.
    DiskFull,
    /// A process is stopped and another build started in its place.
    Upgrade,
    /// A member is removed for good, and another added in its place.
    Replacement,
    /// Synced sectors of a disk read as something else from now on.
    Corruption,
    /// Links form a ring or a bridge, clog, or lose one kind of message, for a while.
    Tangle,
    /// A process will crash at a step chosen for it.
    Ambush,
}

impl FaultKind {
    /// Those that any seed may draw; the others come with a feature.
    pub const ALL: [FaultKind; 10] = [
        FaultKind::Kill,
        FaultKind::PowerLoss,
        FaultKind::PowerLossOfAll,
        FaultKind::Partition,
        FaultKind::Pause,
        FaultKind::ClockRate,
        FaultKind::WallStep,
        FaultKind::ConnectionReset,
        FaultKind::DiskError,
        FaultKind::DiskFull,
    ];

    /// Nanoseconds between two of the kind, on average, at the highest rate.
    #[must_use]
    pub(crate) const fn mean_interval(self) -> u64 {
        match self {
            FaultKind::PowerLossOfAll | FaultKind::DiskError => 12 * SECOND,
            FaultKind::DiskFull | FaultKind::Corruption => 8 * SECOND,
            FaultKind::Upgrade | FaultKind::Replacement => 5 * SECOND,
            FaultKind::Kill | FaultKind::PowerLoss => 6 * SECOND,
            FaultKind::Partition
            | FaultKind::Pause
            | FaultKind::WallStep
            | FaultKind::Tangle
            | FaultKind::Ambush => 4 * SECOND,
            FaultKind::ClockRate | FaultKind::ConnectionReset => 2 * SECOND,
        }
    }
}

impl FaultKind {
    /// Whether some clients get no answers for a while.
    pub(crate) const fn is_outage(self) -> bool {
        match self {
            FaultKind::Kill
            | FaultKind::PowerLoss
            | FaultKind::PowerLossOfAll
            | FaultKind::Partition
            | FaultKind::Pause
            | FaultKind::DiskError
            | FaultKind::DiskFull
            | FaultKind::Upgrade
            | FaultKind::Tangle
            | FaultKind::Ambush
            | FaultKind::Replacement => true,
            FaultKind::ClockRate
            | FaultKind::WallStep
            | FaultKind::ConnectionReset
            | FaultKind::Corruption => false,
        }
    }
}

/// How long a process stays down after a crash.
pub(crate) fn downtime(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => 5 * MILLISECOND,
        1 => rng.exponential(200 * MILLISECOND),
        2 => rng.exponential(SECOND),
        _ => rng.exponential(3 * SECOND),
    }
    .min(10 * SECOND)
}

/// How long a pause lasts.
pub(crate) fn pause_length(rng: &mut Rng) -> u64 {
    let mean = rng.pick(&[20, 300, 1_500, 3_000]) * MILLISECOND;
    rng.exponential(mean).min(10 * SECOND)
}

/// How long a disk is full.
pub(crate) fn full_length(rng: &mut Rng) -> u64 {
    rng.exponential(SECOND).min(5 * SECOND)
}

/// Effects that a process still hands out before a crash in the middle of a step.
pub(crate) fn last_effects(rng: &mut Rng) -> u32 {
    u32::try_from(rng.between(1, 40)).expect("small")
}

/// How long a partition lasts.
pub(crate) fn partition_length(rng: &mut Rng) -> u64 {
    let mean = rng.pick(&[100, 1_000, 3_000]) * MILLISECOND;
    rng.exponential(mean).min(12 * SECOND)
}

/// Milliseconds by which a wall clock steps: seconds or hours, either way.
pub(crate) fn wall_step(rng: &mut Rng) -> i64 {
    let millis = if rng.flip() { rng.below(5_000) } else { rng.below(8 * 3_600_000) };
    let millis = i64::try_from(millis).expect("hours");
    if rng.flip() { millis } else { -millis }
}

/// The rate error of a clock, within `max` parts per million and often at the bound.
pub(crate) fn rate_error(rng: &mut Rng, max: u32) -> i64 {
    let max = i64::from(max);
    match rng.below(3) {
        0 => max,
        1 => -max,
        _ => {
            let spread = u64::try_from(2 * max + 1).expect("positive");
            i64::try_from(rng.below(spread)).expect("small") - max
        }
    }
}

/// The links (from, to) that a partition blocks.
pub(crate) fn partition(rng: &mut Rng, nodes: usize) -> Vec<(Slot, Slot)> {
    let one = rng.index(nodes);
    let all = || (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
    let links = all().filter(|(from, to)| from != to);
    match rng.below(5) {
        // One node hears nobody, or is heard by nobody.
        0 => links.filter(|(_, to)| *to == one).collect(),
        1 => links.filter(|(from, _)| *from == one).collect(),
        // One node is cut off.
        2 => links.filter(|(from, to)| *from == one || *to == one).collect(),
        // Two halves.
        3 => {
            let sides: Vec<bool> = (0..nodes).map(|_| rng.flip()).collect();
            links.filter(|(from, to)| sides[*from] != sides[*to]).collect()
        }
        // Links at random, each direction by itself: rings, bridges and stranger things.
        _ => links.filter(|_| rng.chance(Chance::percent(35))).collect(),
    }
}

/// What becomes of the links in a tangle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tangle {
    /// These are blocked: what is left is a ring, or a bridge.
    Blocked(Vec<(Slot, Slot)>),
    /// These take so many nanoseconds longer.
    Clogged(Vec<(Slot, Slot)>, u64),
    /// These lose one kind of message, drawn from those that are heard.
    Filtered(Vec<(Slot, Slot)>, Mark),
}

/// One of the kinds, among these machines.
pub(crate) fn tangle(rng: &mut Rng, nodes: usize) -> Tangle {
    let all = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
    let links = all.filter(|(from, to)| from != to);
    let one = rng.index(nodes);
    match rng.below(4) {
        // Everybody hears the next one only, in one direction or in both.
        0 => {
            let one_way = rng.flip();
            let is_in_ring = |(from, to): &(Slot, Slot)| {
                (from + 1) % nodes == *to || (!one_way && (to + 1) % nodes == *from)
            };
            Tangle::Blocked(links.filter(|link| !is_in_ring(link)).collect())
        }
        // Two halves, and one that both can talk to.
        1 => {
            let half = |slot: Slot| (slot + nodes - one) % nodes <= nodes / 2;
            let apart =
                |(from, to): &(Slot, Slot)| *from != one && *to != one && half(*from) != half(*to);
            Tangle::Blocked(links.filter(apart).collect())
        }
        2 => {
            let slow = links.filter(|_| rng.flip()).collect();
            Tangle::Clogged(slow, rng.pick(&[20, 150, 600]) * MILLISECOND)
        }
        _ => {
            let kinds = Mark::HEARD;
            let lossy = links.filter(|(from, to)| *from == one || *to == one).collect();
            Tangle::Filtered(lossy, rng.pick(kinds))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    #[test]
    fn partitions_are_of_every_kind_and_never_block_a_node_from_itself() {
        let mut rng = Seed(1).stream("faults", 0);
        let (mut asymmetric, mut symmetric) = (0, 0);
        for _ in 0..200 {
            let links = partition(&mut rng, 5);
            assert!(links.iter().all(|(from, to)| from != to && *from < 5 && *to < 5));
            let mirrored = links.iter().all(|(from, to)| links.contains(&(*to, *from)));
            *(if mirrored { &mut symmetric } else { &mut asymmetric }) += 1;
        }
        assert!(asymmetric > 50 && symmetric > 50, "{asymmetric} {symmetric}");
    }

    #[test]
    fn a_ring_leaves_one_way_round_and_a_bridge_one_who_talks_to_all() {
        let mut rng = Seed(3).stream("faults", 0);
        let (mut rings, mut bridges, mut others) = (0, 0, 0);
        for _ in 0..400 {
            let Tangle::Blocked(links) = tangle(&mut rng, 5) else {
                others += 1;
                continue;
            };
            let open = |from: Slot, to: Slot| from != to && !links.contains(&(from, to));
            let rings_on = (0..5).all(|slot| open(slot, (slot + 1) % 5));
            let bridge = (0..5).find(|one| {
                (0..5).filter(|other| other != one).all(|o| open(*one, o) && open(o, *one))
            });
            if rings_on && bridge.is_none() {
                rings += 1;
            } else {
                assert!(bridge.is_some(), "neither a ring nor a bridge: {links:?}");
                bridges += 1;
            }
        }
        assert!(rings > 50 && bridges > 50 && others > 100, "{rings} {bridges} {others}");
    }

    #[test]
    fn rate_errors_stay_within_the_bound_and_reach_it() {
        let mut rng = Seed(2).stream("faults", 0);
        let drawn: Vec<i64> = (0..100).map(|_| rate_error(&mut rng, 500)).collect();
        assert!(drawn.iter().all(|error| error.abs() <= 500));
        assert!(drawn.contains(&500) && drawn.contains(&-500));
    }
}
