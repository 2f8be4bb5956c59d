//! Hybrid Clock: physical time where it helps, a logical counter where it does not ("Logical
//! Physical Clocks", Kulkarni et al. 2014).
//!
//! Used by CockroachDB, MongoDB and YugabyteDB. Invariants: stamps of one clock strictly increase;
//! a receipt is later than its send; and a wall clock that is ahead of the quorum's by more than
//! the bound cannot drag the cluster's time with it: such a node advances logically and says so.
//! Received stamps are never refused for their time, since refusing a committed entry would make
//! replicas differ.

use crate::WallTime;
use core::time::Duration;

/// Wall milliseconds (48 bits used) and a logical counter, ordered in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HybridTimestamp {
    /// Largest wall time known, in milliseconds since the Unix epoch.
    pub wall: WallTime,
    /// Distinguishes stamps of the same millisecond.
    pub logical: u32,
}

/// Whether the local wall clock could be followed when a stamp was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// The wall clock agrees with the quorum's within the bound.
    Within,
    /// The wall clock is ahead of the quorum's by this much: the stamp advanced logically.
    Ahead(Duration),
}

/// The clock of one node.
#[derive(Clone, Copy, Debug)]
pub struct HybridClock {
    latest: HybridTimestamp,
    max_ahead: Duration,
}

impl HybridClock {
    /// A clock that continues after `latest`; `max_ahead` bounds how far the local wall clock is
    /// followed beyond the quorum's.
    #[must_use]
    pub const fn new(latest: HybridTimestamp, max_ahead: Duration) -> HybridClock {
        HybridClock { latest, max_ahead }
    }

    /// Issues a stamp later than every stamp issued or observed. `quorum_wall` is the wall time
    /// that a quorum of members has reached, if known.
    pub fn issue(
        &mut self,
        local_wall: WallTime,
        quorum_wall: Option<WallTime>,
    ) -> (HybridTimestamp, Skew) {
        let ahead = quorum_wall.map_or(0, |quorum| local_wall.0.saturating_sub(quorum.0));
        let ahead = Duration::from_millis(ahead);
        let skew = if ahead > self.max_ahead { Skew::Ahead(ahead) } else { Skew::Within };
        self.latest = match skew {
            Skew::Within if local_wall > self.latest.wall => {
                HybridTimestamp { wall: local_wall, logical: 0 }
            }
            Skew::Within | Skew::Ahead(_) => successor(self.latest),
        };
        (self.latest, skew)
    }

    /// Takes note of a stamp that came with a message or an entry.
    pub fn observe(&mut self, received: HybridTimestamp) {
        self.latest = self.latest.max(received);
    }

    /// The latest stamp issued or observed.
    #[must_use]
    pub const fn latest(&self) -> HybridTimestamp {
        self.latest
    }
}

fn successor(stamp: HybridTimestamp) -> HybridTimestamp {
    match stamp.logical.checked_add(1) {
        Some(logical) => HybridTimestamp { logical, ..stamp },
        None => HybridTimestamp { wall: WallTime(stamp.wall.0 + 1), logical: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn stamps_increase_when_the_wall_clock_steps_back() {
        let mut clock = HybridClock::new(HybridTimestamp::default(), SECOND);
        let (first, _) = clock.issue(WallTime(10_000), None);
        let (second, _) = clock.issue(WallTime(3_000), None);
        assert!(second > first);
        assert_eq!(second.wall, WallTime(10_000));
    }

    #[test]
    fn a_receipt_is_later_than_its_send() {
        let mut sender = HybridClock::new(HybridTimestamp::default(), SECOND);
        let mut receiver = sender;
        let (sent, _) = sender.issue(WallTime(9_000), None);
        receiver.observe(sent);
        assert!(receiver.issue(WallTime(8_500), None).0 > sent);
    }

    #[test]
    fn a_fast_wall_clock_advances_only_logically_and_is_reported() {
        let mut clock = HybridClock::new(HybridTimestamp::default(), SECOND);
        clock.issue(WallTime(10_000), Some(WallTime(10_000)));
        let (stamp, skew) = clock.issue(WallTime(60_000), Some(WallTime(10_100)));
        assert_eq!(stamp, HybridTimestamp { wall: WallTime(10_000), logical: 1 });
        assert_eq!(skew, Skew::Ahead(Duration::from_millis(49_900)));
    }

    #[test]
    fn an_exhausted_counter_borrows_a_millisecond() {
        let full = HybridTimestamp { wall: WallTime(7), logical: u32::MAX };
        let mut clock = HybridClock::new(full, SECOND);
        let (stamp, _) = clock.issue(WallTime(7), None);
        assert_eq!(stamp, HybridTimestamp { wall: WallTime(8), logical: 0 });
    }
}
