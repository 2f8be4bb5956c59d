//! Generation Clock: a number that grows with every leadership, so that a message of an old
//! leader is recognised as old.
//!
//! Used by Raft (term), Kafka (leader epoch), ZooKeeper (epoch) and Viewstamped Replication (view).
//! Invariant: a node's term never regresses, across restarts neither; the owner persists it before
//! it answers anything under it.

use core::fmt;

/// The generation of a leadership (Raft, section 5.1). Term 0 precedes every leadership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// The term before the first election.
    pub const ZERO: Term = Term(0);

    /// The term of the next candidacy.
    ///
    /// # Panics
    /// After 2^64 elections.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0.checked_add(1).expect("terms are never exhausted"))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
