//! The lease clock as this member has applied it, and the time since: how much of a lease is left
//! between two ticks. For answers to people and clients who ask; what ends a lease is the log.

use crate::monotonic_now;
use clocks::Monotonic;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// While there are leases and a leader, the next tick is no further away. Without a leader time
/// does not count.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// Published by the applier thread.
#[derive(Debug, Default)]
pub(crate) struct AppliedLeaseClock {
    /// A value, and when it was applied.
    applied: Mutex<(u64, Monotonic)>,
}

impl AppliedLeaseClock {
    /// Entries were applied, and the clock shows this now.
    pub(crate) fn applied(&self, clock_ms: u64) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if clock_ms > applied.0 {
            *applied = (clock_ms, monotonic_now());
        }
    }

    /// What it probably shows.
    pub(crate) fn estimate_ms(&self) -> u64 {
        let (clock_ms, at) = *self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        estimate(clock_ms, monotonic_now().since(at))
    }
}

fn estimate(clock_ms: u64, elapsed: Duration) -> u64 {
    let elapsed = elapsed.min(TICK_INTERVAL).as_millis();
    clock_ms.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_on_until_the_next_tick_and_waits_for_it_there() {
        assert_eq!(estimate(5_000, Duration::from_millis(300)), 5_300);
        assert_eq!(estimate(5_000, Duration::from_secs(60)), 6_000);
        assert_eq!(estimate(u64::MAX, Duration::from_secs(1)), u64::MAX);
    }

    #[test]
    fn late_news_does_not_put_it_back() {
        let clock = AppliedLeaseClock::default();
        clock.applied(5_000);
        clock.applied(4_000);
        assert!(clock.estimate_ms() >= 5_000);
    }
}
