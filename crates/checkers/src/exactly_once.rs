//! Exactly once: a request numbered by its session takes effect at most once, however often it is
//! sent.
//!
//! The white-box side of the idempotent receiver (Joshi, 2023; Raft thesis, section 6.3): fed with
//! what replicas *executed*, not with what they saw and recognised as a duplicate.
//!
//! Not here: whether an acknowledged request took effect at all (`durability`).

use std::collections::BTreeMap;
use std::fmt;

use crate::agreement::{Group, Index};

/// A client's or a member's session, as the caller numbers them.
pub type Session = u64;

/// A request that took effect when it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It took effect at two places of one log.
    Twice {
        /// The group.
        group: Group,
        /// The session.
        session: Session,
        /// The request's number in it.
        sequence: u64,
        /// Where it was known to take effect.
        first: Index,
        /// Where it did so as well.
        second: Index,
    },
    /// It took effect under a session that had expired before.
    AfterExpiry {
        /// The group.
        group: Group,
        /// The session.
        session: Session,
        /// The request's number in it.
        sequence: u64,
        /// Where the session expired.
        expired: Index,
        /// Where the request took effect.
        index: Index,
    },
}

/// Watches all groups. Replicas, and a replica after a restart, may report the same again.
#[derive(Clone, Debug, Default)]
pub struct ExactlyOnce {
    sessions: BTreeMap<(Group, Session), State>,
    applied: u64,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Where each request took effect. 16 bytes a request are cheap against missing one.
    applied: BTreeMap<u64, Index>,
    expired: Option<Index>,
}

impl ExactlyOnce {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A replica executed request `sequence` of `session`, which stands at `index` of the log.
    pub fn applied(
        &mut self,
        group: Group,
        session: Session,
        sequence: u64,
        index: Index,
    ) -> Result<(), Violation> {
        let state = self.sessions.entry((group, session)).or_default();
        if let Some(expired) = state.expired.filter(|expired| *expired < index) {
            return Err(Violation::AfterExpiry { group, session, sequence, expired, index });
        }
        let first = *state.applied.entry(sequence).or_insert_with(|| {
            self.applied += 1;
            index
        });
        if first != index {
            return Err(Violation::Twice { group, session, sequence, first, second: index });
        }
        Ok(())
    }

    /// A session expired at `index` of the log; a request that stands after it must be refused.
    pub fn expired(&mut self, group: Group, session: Session, index: Index) {
        let state = self.sessions.entry((group, session)).or_default();
        state.expired = Some(state.expired.map_or(index, |known| known.min(index)));
    }

    /// How many different requests took effect: none means that nothing was checked.
    pub fn distinct_applied(&self) -> u64 {
        self.applied
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Twice { group, session, sequence, first, second } => write!(
                f,
                "group {group}: request {sequence} of session {session} took effect twice, at \
                 index {first} and at index {second}"
            ),
            Violation::AfterExpiry { group, session, sequence, expired, index } => write!(
                f,
                "group {group}: request {sequence} of session {session} took effect at index \
                 {index}, although the session had expired at index {expired}"
            ),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_applied_twice_is_found() {
        let mut checker = ExactlyOnce::new();
        checker.applied(1, 5, 1, 10).unwrap();
        checker.applied(1, 5, 2, 11).unwrap();
        // Another replica, or the same one again after a restart.
        checker.applied(1, 5, 1, 10).unwrap();
        let violation = checker.applied(1, 5, 1, 12).unwrap_err();
        assert_eq!(
            violation.to_string(),
            "group 1: request 1 of session 5 took effect twice, at index 10 and at index 12"
        );
        assert_eq!(checker.distinct_applied(), 2);
    }

    #[test]
    fn sessions_and_groups_number_for_themselves() {
        let mut checker = ExactlyOnce::new();
        checker.applied(1, 5, 1, 10).unwrap();
        checker.applied(1, 6, 1, 11).unwrap();
        checker.applied(2, 5, 1, 12).unwrap();
        assert_eq!(checker.distinct_applied(), 3);
    }

    #[test]
    fn a_request_under_an_expired_session_is_found_at_whatever_time_it_is_told() {
        let mut checker = ExactlyOnce::new();
        checker.applied(1, 5, 1, 10).unwrap();
        checker.expired(1, 5, 20);
        // A replica that lags behind still applies what stands before.
        checker.applied(1, 5, 2, 19).unwrap();
        let violation = checker.applied(1, 5, 3, 21).unwrap_err();
        assert!(matches!(violation, Violation::AfterExpiry { expired: 20, index: 21, .. }));
        assert!(violation.to_string().contains("had expired at index 20"));
    }
}
