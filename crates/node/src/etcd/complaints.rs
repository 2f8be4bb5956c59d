//! Complaints about clients in the log: one in a while, so that nobody can fill it.

use super::limits::COMPLAINT_INTERVAL;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// When somebody was last complained about.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Mutex<Option<Instant>>,
}

impl Complaints {
    /// Whether one more may be told now.
    pub(super) fn may_tell(&self) -> bool {
        self.may_tell_at(Instant::now())
    }

    fn may_tell_at(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAINT_INTERVAL);
        if may {
            *last = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_in_a_while() {
        let (complaints, begin) = (Complaints::default(), Instant::now());
        assert!(complaints.may_tell_at(begin));
        assert!(!complaints.may_tell_at(begin + COMPLAINT_INTERVAL / 2));
        assert!(complaints.may_tell_at(begin + COMPLAINT_INTERVAL));
        assert!(!complaints.may_tell_at(begin + COMPLAINT_INTERVAL));
    }
}
