//! Lamport Clock: a counter that respects causality ("Time, Clocks, and the Ordering of Events in
//! a Distributed System", Lamport 1978).
//!
//! Used where order matters and time does not: MongoDB's operation log, versions in replicated
//! registers. Invariant: an event that could have influenced another has the smaller stamp.

/// The clock of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LamportClock {
    latest: u64,
}

impl LamportClock {
    /// A clock that continues after `latest`, for instance after a restart.
    #[must_use]
    pub const fn starting_after(latest: u64) -> LamportClock {
        LamportClock { latest }
    }

    /// Stamps a local event, such as a send.
    pub fn stamp(&mut self) -> u64 {
        self.latest = self.latest.checked_add(1).expect("2^64 events never happen");
        self.latest
    }

    /// Takes note of a stamp that came with a message, before the receipt itself is stamped.
    /// A hostile stamp could exhaust the counter, so one that would is refused.
    pub fn observe(&mut self, received: u64) -> Result<(), FromTheFuture> {
        if received > u64::MAX / 2 {
            return Err(FromTheFuture(received));
        }
        self.latest = self.latest.max(received);
        Ok(())
    }

    /// The latest stamp issued or observed.
    #[must_use]
    pub const fn latest(&self) -> u64 {
        self.latest
    }
}

/// A received stamp that no honest process can have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromTheFuture(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_later_than_its_send() {
        let (mut sender, mut receiver) =
            (LamportClock::starting_after(41), LamportClock::default());
        let sent = sender.stamp();
        receiver.observe(sent).unwrap();
        assert!(receiver.stamp() > sent);
    }

    #[test]
    fn an_old_stamp_changes_nothing() {
        let mut clock = LamportClock::starting_after(9);
        clock.observe(3).unwrap();
        assert_eq!(clock.stamp(), 10);
    }

    #[test]
    fn a_hostile_stamp_is_refused() {
        let mut clock = LamportClock::default();
        assert_eq!(clock.observe(u64::MAX), Err(FromTheFuture(u64::MAX)));
        assert_eq!(clock.stamp(), 1);
    }
}
