//! The two clocks of a real node: CLOCK_BOOTTIME, which no one sets and which runs on while the
//! machine sleeps, and the wall clock, which decides nothing. Both may be told to lie
//! (`injected_faults`).

use crate::injected_faults::injected;
use clocks::{Monotonic, WallTime};
use rustix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};

/// Monotonic time since the machine booted.
#[must_use]
pub fn monotonic_now() -> Monotonic {
    let real = real_monotonic_now();
    injected().map_or(real, |faults| faults.monotonic(real))
}

/// The same without any lie.
pub(crate) fn real_monotonic_now() -> Monotonic {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("the time since boot is not negative");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds are not negative");
    Monotonic(seconds * 1_000_000_000 + nanos)
}

/// What the wall clock shows; a time before 1970 counts as 1970.
#[must_use]
pub fn wall_now() -> WallTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let real = WallTime(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX));
    injected().map_or(real, |faults| faults.wall(real))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn monotonic_time_passes() {
        let before = monotonic_now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(monotonic_now().since(before) >= Duration::from_millis(2));
        assert!(wall_now().0 > 1_700_000_000_000);
    }
}
