//! The two clocks of one simulated machine.
//!
//! Monotonic: a rate error that may change and stays within the profile's bound, no steps while
//! the machine is up, runs on while the process is paused; starts anew when the machine does.
//! Wall: any offset, steps at any time.

use crate::event_heap::{Instant, MILLISECOND};
use clocks::{Monotonic, WallTime};

/// Clocks of one machine.
#[derive(Clone, Debug)]
pub(crate) struct NodeClock {
    since: Instant,
    reading: u64,
    /// Parts per million that the clock runs fast (or slow).
    rate_error: i64,
    /// Milliseconds between the world's wall time and this machine's.
    wall_offset: i64,
}

/// Wall time at the world's start, in milliseconds since the Unix epoch.
const WORLD_EPOCH: i64 = 1_790_000_000_000;

impl NodeClock {
    /// A machine switched on at `now`, whose monotonic clock reads `reading` nanoseconds.
    #[must_use]
    pub(crate) fn new(now: Instant, reading: u64, rate_error: i64, wall_offset: i64) -> NodeClock {
        NodeClock { since: now, reading, rate_error, wall_offset }
    }

    /// What the monotonic clock reads.
    #[must_use]
    pub(crate) fn monotonic(&self, now: Instant) -> Monotonic {
        let elapsed = i128::from(now.0 - self.since.0);
        let shown = elapsed + elapsed * i128::from(self.rate_error) / 1_000_000;
        Monotonic(self.reading + u64::try_from(shown).expect("a clock never runs backwards"))
    }

    /// Since when it runs as it does.
    #[must_use]
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// What the wall clock reads.
    #[must_use]
    pub(crate) fn wall(&self, now: Instant) -> WallTime {
        let millis = i64::try_from(now.0 / MILLISECOND).expect("a run is short");
        WallTime(u64::try_from(WORLD_EPOCH + millis + self.wall_offset).unwrap_or(0))
    }

    /// The first true time at which the monotonic clock reads `reading` or more.
    #[must_use]
    pub(crate) fn when(&self, now: Instant, reading: Monotonic) -> Instant {
        let Some(left) = reading.0.checked_sub(self.reading) else { return now };
        let rate = u128::try_from(1_000_000 + self.rate_error).expect("a clock runs forwards");
        let elapsed = (u128::from(left) * 1_000_000).div_ceil(rate);
        let at = Instant(self.since.0 + u64::try_from(elapsed).unwrap_or(u64::MAX / 2));
        // Rounding in `monotonic` may show one nanosecond less.
        let at = if self.monotonic(at.max(self.since)) < reading { at.after(1) } else { at };
        at.max(now)
    }

    /// From now on the monotonic clock runs with this error; its reading does not jump.
    pub(crate) fn change_rate(&mut self, now: Instant, rate_error: i64) {
        self.reading = self.monotonic(now).0;
        self.since = now;
        self.rate_error = rate_error;
    }

    /// Steps the wall clock.
    pub(crate) fn step_wall(&mut self, millis: i64) {
        self.wall_offset = self.wall_offset.saturating_add(millis);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_heap::SECOND;

    #[test]
    fn a_fast_clock_gains_its_rate_and_does_not_jump_when_the_rate_changes() {
        let mut clock = NodeClock::new(Instant(0), 1_000, 500, 0);
        let second = Instant(SECOND);
        assert_eq!(clock.monotonic(second), Monotonic(1_000 + SECOND + 500_000));
        clock.change_rate(second, -500);
        assert_eq!(clock.monotonic(second), Monotonic(1_000 + SECOND + 500_000));
        let third = Instant(3 * SECOND);
        assert_eq!(clock.monotonic(third), Monotonic(1_000 + 3 * SECOND - 500_000));
    }

    #[test]
    fn when_is_the_inverse_of_monotonic() {
        for rate in [-500, -1, 0, 3, 500] {
            let clock = NodeClock::new(Instant(77), 13, rate, 0);
            for reading in [14, 1_000, 123_456_789, 60 * SECOND] {
                let at = clock.when(Instant(77), Monotonic(reading));
                assert!(clock.monotonic(at) >= Monotonic(reading), "{rate} {reading}");
                assert!(at.0 < 77 + reading + reading / 1_000 + 2);
            }
        }
    }

    #[test]
    fn the_wall_clock_steps_both_ways() {
        let mut clock = NodeClock::new(Instant(0), 0, 0, 5);
        let before = clock.wall(Instant(0));
        clock.step_wall(-3_600_000);
        assert_eq!(clock.wall(Instant(0)).0, before.0 - 3_600_000);
    }
}
