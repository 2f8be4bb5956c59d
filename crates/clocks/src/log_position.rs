//! Places in a replicated log.

use crate::Term;
use core::fmt;

/// Index of an entry in a group's log; the first entry is 1, and 0 stands before it.
pub type LogIndex = u64;

/// An entry's identity: two logs that hold an entry of the same term and index hold the same
/// prefix up to it (Raft, section 5.3, Log Matching).
///
/// Ordered by term, then index: exactly the order of section 5.4.1 ("at least as up-to-date").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Term in which a leader appended the entry.
    pub term: Term,
    /// Index of the entry.
    pub index: LogIndex,
}

impl LogPosition {
    /// Before the first entry.
    pub const ZERO: LogPosition = LogPosition { term: Term::ZERO, index: 0 };

    /// The position of `index` written in `term`.
    #[must_use]
    pub const fn new(term: Term, index: LogIndex) -> LogPosition {
        LogPosition { term, index }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}
