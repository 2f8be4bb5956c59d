//! Which term wrote which entry, in a few bytes per leadership: the answer to every question about
//! terms without the entries themselves, so that no such question ever waits for the disk.
//!
//! Invariant: runs ascend in first index and in term, and lie after `start` and up to `last`.

use alloc::vec::Vec;
use clocks::{LogIndex, LogPosition, Term};

/// The shape of a log: where it begins, where it ends, and the term of everything between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TermTable {
    start: LogPosition,
    /// First index of every term's entries, and the term.
    runs: Vec<(LogIndex, Term)>,
    last: LogIndex,
}

impl TermTable {
    /// An empty log that begins after `start`.
    pub(crate) fn new(start: LogPosition) -> TermTable {
        TermTable { start, runs: Vec::new(), last: start.index }
    }

    pub(crate) fn start(&self) -> LogPosition {
        self.start
    }

    pub(crate) fn last(&self) -> LogPosition {
        LogPosition::new(self.last_term(), self.last)
    }

    fn last_term(&self) -> Term {
        self.runs.last().map_or(self.start.term, |(_, term)| *term)
    }

    /// The position at `index`, if that is `start` or an entry.
    pub(crate) fn position_at(&self, index: LogIndex) -> Option<LogPosition> {
        if index < self.start.index || index > self.last {
            return None;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        let term = if run == 0 { self.start.term } else { self.runs[run - 1].1 };
        Some(LogPosition::new(term, index))
    }

    /// Whether the log holds exactly this entry, or begins after it.
    pub(crate) fn contains(&self, position: LogPosition) -> bool {
        self.position_at(position.index) == Some(position)
    }

    /// The last position whose index and term are both not above those of `bound`; `None` if that
    /// lies before the log.
    pub(crate) fn floor(&self, bound: LogPosition) -> Option<LogPosition> {
        let mut position = self.position_at(bound.index.min(self.last))?;
        while position.term > bound.term {
            let run = self.runs.partition_point(|(first, _)| *first <= position.index);
            // Before the first run there is only `start`, whose own predecessors are unknown.
            let (first, _) = *self.runs.get(run.checked_sub(1)?)?;
            position = self.position_at(first - 1)?;
        }
        Some(position)
    }

    /// Appends the entry after the last one.
    pub(crate) fn push(&mut self, position: LogPosition) {
        assert!(position.index == self.last + 1, "entries are consecutive");
        assert!(position.term >= self.last_term(), "terms never regress along the log");
        if self.runs.last().is_none_or(|(_, term)| *term < position.term) {
            self.runs.push((position.index, position.term));
        }
        self.last = position.index;
    }

    /// Drops every entry after `index`.
    pub(crate) fn truncate_after(&mut self, index: LogIndex) {
        assert!(index >= self.start.index, "only entries can be dropped");
        self.last = self.last.min(index);
        self.runs.retain(|(first, _)| *first <= index);
    }

    /// The log now begins after `through`, which it holds.
    pub(crate) fn compact(&mut self, through: LogPosition) {
        assert!(self.contains(through), "the log begins at an entry that it held");
        let last_dropped = self.runs.partition_point(|(first, _)| *first <= through.index);
        if last_dropped > 0 {
            // What is left of the run that `through` stands in begins after it.
            let term = self.runs[last_dropped - 1].1;
            self.runs.drain(..last_dropped);
            let run_goes_on = match self.runs.first() {
                Some((first, _)) => *first > through.index + 1,
                None => self.last > through.index,
            };
            if run_goes_on {
                self.runs.insert(0, (through.index + 1, term));
            }
        }
        self.start = through;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The terms of all entries, one by one.
    #[derive(Clone, Debug)]
    struct Naive {
        start: LogPosition,
        terms: Vec<Term>,
    }

    impl Naive {
        fn last(&self) -> LogIndex {
            self.start.index + self.terms.len() as u64
        }

        fn position_at(&self, index: LogIndex) -> Option<LogPosition> {
            if index == self.start.index {
                return Some(self.start);
            }
            let place = usize::try_from(index.checked_sub(self.start.index + 1)?).ok()?;
            self.terms.get(place).map(|term| LogPosition::new(*term, index))
        }

        fn floor(&self, bound: LogPosition) -> Option<LogPosition> {
            (self.start.index..=bound.index.min(self.last()))
                .rev()
                .filter_map(|index| self.position_at(index))
                .find(|position| position.term <= bound.term)
        }
    }

    #[derive(Clone, Debug)]
    enum Change {
        Push { term_step: u64 },
        Truncate(u64),
        Compact(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            6 => prop_oneof![5 => Just(0), 1 => 1..3_u64]
                .prop_map(|term_step| Change::Push { term_step }),
            1 => any::<u64>().prop_map(Change::Truncate),
            1 => any::<u64>().prop_map(Change::Compact),
        ]
    }

    proptest! {
        #[test]
        fn equals_a_list_of_terms(changes in prop::collection::vec(change(), 1..60)) {
            let start = LogPosition::new(Term(2), 5);
            let mut naive = Naive { start, terms: Vec::new() };
            let mut table = TermTable::new(start);
            for change in changes {
                let (first, last) = (naive.start.index, naive.last());
                match change {
                    Change::Push { term_step } => {
                        let term = Term(table.last().term.0 + term_step);
                        naive.terms.push(term);
                        table.push(LogPosition::new(term, last + 1));
                    }
                    Change::Truncate(draw) => {
                        let index = first + draw % (last - first + 1);
                        naive.terms.truncate((index - first) as usize);
                        table.truncate_after(index);
                    }
                    Change::Compact(draw) => {
                        let index = first + draw % (last - first + 1);
                        let through = naive.position_at(index).expect("in range");
                        naive.terms.drain(..(index - first) as usize);
                        naive.start = through;
                        table.compact(through);
                    }
                }
                prop_assert_eq!(Some(table.last()), naive.position_at(naive.last()));
                for index in 0..naive.last() + 3 {
                    prop_assert_eq!(table.position_at(index), naive.position_at(index));
                    for term in 0..table.last().term.0 + 2 {
                        let bound = LogPosition::new(Term(term), index);
                        prop_assert_eq!(table.floor(bound), naive.floor(bound), "{}", bound);
                    }
                }
            }
        }
    }
}
