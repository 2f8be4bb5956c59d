//! Two Clocks: elections and leases run on a monotonic clock, people read a wall clock, and the
//! types keep one from being taken for the other.
//!
//! The monotonic clock (CLOCK_BOOTTIME) has a bounded rate error and no steps; it means nothing on
//! another node. The wall clock may do anything and decides nothing.

use core::time::Duration;

/// A reading of this node's monotonic clock, in nanoseconds since an unspecified start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// The reading `duration` later; saturates after 584 years.
    #[must_use]
    pub fn after(self, duration: Duration) -> Monotonic {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Monotonic(self.0.saturating_add(nanos))
    }

    /// Time since `earlier`, zero if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Monotonic) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A reading of the wall clock, in milliseconds since the Unix epoch. For people and logs only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

/// How far two nodes' monotonic clocks may differ in rate: over a true second each advances by
/// one second ± `drift_ppm` microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockBound {
    /// Parts per million of rate error that each clock may have.
    pub drift_ppm: u32,
}

impl ClockBound {
    /// How much of a promise of `length`, made on another node's clock, can be relied upon when it
    /// is measured on ours: ours may run slow while theirs runs fast.
    #[must_use]
    pub fn reliable_part(self, length: Duration) -> Duration {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let ppm = u64::from(self.drift_ppm);
        // (1 - d) / (1 + d) >= 1 - 2d
        let lost = nanos / 1_000_000 * 2 * ppm + (nanos % 1_000_000 * 2 * ppm).div_ceil(1_000_000);
        Duration::from_nanos(nanos.saturating_sub(lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_shrinks_by_both_clocks_drift() {
        let bound = ClockBound { drift_ppm: 500 };
        let relied = bound.reliable_part(Duration::from_millis(200));
        assert_eq!(relied, Duration::from_micros(199_800));
    }

    #[test]
    fn time_never_runs_backwards_in_since() {
        assert_eq!(Monotonic(3).since(Monotonic(5)), Duration::ZERO);
        assert_eq!(Monotonic(u64::MAX).after(Duration::from_secs(1)), Monotonic(u64::MAX));
    }
}
