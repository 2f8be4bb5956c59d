//! Quota of the state: above it whatever puts is refused, until compaction and deletion have
//! brought the state below it again.
//!
//! As etcd's `--quota-backend-bytes`, but soft (the size is looked at once a second), none by
//! default, and with nothing to disarm. Not here: refusing (`replica`, disk space), which tells
//! members of each other's condition and lets through what makes room.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the state may take; shared by whoever watches and whoever reports.
#[derive(Debug, Default)]
pub(crate) struct StateQuota {
    /// Zero: none was set.
    bytes: u64,
    /// Bytes that the disk still has above the reserve, as of about a second ago.
    room: AtomicU64,
}

/// The state must shrink by this part of the quota below it before it no longer counts as full.
const HYSTERESIS: u64 = 16;

impl StateQuota {
    pub(crate) fn new(bytes: u64) -> StateQuota {
        StateQuota { bytes, room: AtomicU64::new(0) }
    }

    /// The quota set; zero if none was.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes note of free disk space above the reserve.
    pub(crate) fn note_room(&self, bytes: u64) {
        self.room.store(bytes, Ordering::Relaxed);
    }

    /// What a state of `size` bytes may grow to: the quota, or else the disk.
    pub(crate) fn ceiling(&self, size: u64) -> u64 {
        let disk = size.saturating_add(self.room.load(Ordering::Relaxed));
        if self.bytes == 0 { disk } else { self.bytes }
    }

    /// Whether a state of `size` bytes is too large, given whether it was.
    pub(crate) fn is_exceeded(&self, size: u64, was_exceeded: bool) -> bool {
        let hysteresis = if was_exceeded { self.bytes / HYSTERESIS } else { 0 };
        self.bytes > 0 && size > self.bytes - hysteresis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_too_large_without_a_quota() {
        let none = StateQuota::new(0);
        assert!(!none.is_exceeded(u64::MAX, false));
        none.note_room(100);
        assert_eq!(none.ceiling(50), 150, "the disk is the quota");
    }

    #[test]
    fn a_state_is_full_above_the_quota_until_it_is_clearly_below() {
        let quota = StateQuota::new(1600);
        assert!(!quota.is_exceeded(1600, false));
        assert!(quota.is_exceeded(1601, false));
        assert!(quota.is_exceeded(1501, true));
        assert!(!quota.is_exceeded(1500, true));
        assert_eq!(quota.ceiling(50), 1600);
    }
}
