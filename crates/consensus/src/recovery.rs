//! From what a restart finds on disk to what Raft needs in memory, in one pass over the log and in
//! bounded memory.
//!
//! The state machine may be ahead of the log: an entry is applied once it is durable on a quorum,
//! which need not include this member. The log then begins anew after the applied position.

use crate::term_table::TermTable;
use crate::{Entry, HardState, Membership, Payload, RecoveryError};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use clocks::{LogIndex, LogPosition};

/// What the state machine holds durably; the host stores both fields with the applied data, in one
/// batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied.
    pub position: LogPosition,
    /// The members as of that entry: those of the last `Payload::Membership` applied (or of the
    /// snapshot installed), else those that the group was founded with.
    pub membership: Membership,
}

/// Collects a replay of the log's records, in the order in which they were written. A reader that
/// skips what later records replaced gets the same result.
#[derive(Clone, Debug)]
pub struct Recovery {
    hard_state: HardState,
    /// Entries found so far; `None` before the first, when any index may come.
    entries: Option<TermTable>,
    memberships: Vec<(LogPosition, Membership)>,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    tail_bytes_limit: usize,
}

impl Recovery {
    /// Begins a replay. `initial` counts if the log holds no hard state: the founding members for a
    /// member of a new group, `HardState::default()` for one that waits to be added. `tail_bytes`
    /// bounds the entries kept in memory (use `Config::cache_bytes`).
    #[must_use]
    pub fn new(initial: HardState, tail_bytes: usize) -> Recovery {
        Recovery {
            hard_state: initial,
            entries: None,
            memberships: Vec::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_bytes_limit: tail_bytes,
        }
    }

    /// A hard state record: replaces the one before.
    pub fn replay_hard_state(&mut self, state: HardState) {
        self.hard_state = state;
    }

    /// An entry record: replaces whatever the log held from its index on.
    ///
    /// # Errors
    /// If entries before it are missing, or its term is below that of the entry before.
    pub fn replay_entry(&mut self, entry: Entry) -> Result<(), RecoveryError> {
        let position = entry.position;
        let fresh = || TermTable::new(LogPosition::new(clocks::Term::ZERO, position.index - 1));
        if position.index == 0 {
            return Err(RecoveryError::Gap { after: 0, found: 0 });
        }
        let table = self.entries.get_or_insert_with(fresh);
        if position.index <= table.start().index {
            *table = fresh();
            self.drop_after(position.index - 1);
        } else if position.index <= table.last().index {
            table.truncate_after(position.index - 1);
            self.drop_after(position.index - 1);
        }
        let table = self.entries.get_or_insert_with(fresh);
        let last = table.last();
        if position.index != last.index + 1 {
            return Err(RecoveryError::Gap { after: last.index, found: position.index });
        }
        if position.term < last.term {
            return Err(RecoveryError::TermRegressed { at: position });
        }
        table.push(position);
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push((position, membership.clone()));
        }
        self.tail_bytes += entry.weight();
        self.tail.push_back(entry);
        while self.tail_bytes > self.tail_bytes_limit {
            let Some(dropped) = self.tail.pop_front() else { break };
            self.tail_bytes -= dropped.weight();
        }
        Ok(())
    }

    /// A reset record: a snapshot through `start` replaced the whole log.
    pub fn replay_reset(&mut self, start: LogIndex) {
        self.entries = Some(TermTable::new(LogPosition::new(clocks::Term::ZERO, start)));
        self.memberships.clear();
        self.tail.clear();
        self.tail_bytes = 0;
    }

    /// Ends the replay and puts the log and the state machine together.
    ///
    /// # Errors
    /// If entries are missing between the start of the log, its entries and the applied position.
    pub fn finish(self, applied: Applied) -> Result<Recovered, RecoveryError> {
        let log_start = self.hard_state.log_start;
        if applied.position.index < log_start.index {
            return Err(RecoveryError::StateBehindLog { applied: applied.position, log_start });
        }
        let mut log = TermTable::new(log_start);
        if let Some(found) = &self.entries {
            // A reset whose hard state was torn off: the installed state is ahead of the log.
            let reset_is_newer = found.start().index > log_start.index;
            if reset_is_newer && applied.position.index < found.start().index {
                let found = found.start().index + 1;
                return Err(RecoveryError::Gap { after: log_start.index, found });
            }
            if !reset_is_newer {
                for index in log_start.index + 1..=found.last().index {
                    let position = found.position_at(index).expect("within the table");
                    if position.term < log.last().term {
                        return Err(RecoveryError::TermRegressed { at: position });
                    }
                    log.push(position);
                }
            }
        }
        // Damage took the entries up to the start, and left the record of the start: whatever
        // follows would leave a gap in the files.
        let found_last = self.entries.as_ref().map_or(0, |found| found.last().index);
        let log_reset = !log.contains(applied.position) || found_last < log_start.index;
        Ok(self.assemble(log, applied, log_reset))
    }

    fn assemble(self, mut log: TermTable, applied: Applied, log_reset: bool) -> Recovered {
        let mut hard_state = self.hard_state;
        let mut memberships = self.memberships;
        let mut tail = self.tail;
        if log_reset {
            log = TermTable::new(applied.position);
            hard_state.log_start = applied.position;
            hard_state.membership = applied.membership;
            memberships.clear();
            tail.clear();
        }
        let start = log.start().index;
        memberships.retain(|(position, _)| position.index > start);
        tail.retain(|entry| entry.position.index > start);
        let term = hard_state.term.max(log.last().term);
        let term_raised = term > hard_state.term;
        if term_raised {
            // The log was written under a term whose record is lost with the entries after it:
            // nothing was said under that term, so no vote was given either.
            hard_state.term = term;
            hard_state.voted_for = None;
        }
        let applied = applied.position;
        Recovered { hard_state, log, memberships, tail, applied, log_reset, term_raised }
    }

    fn drop_after(&mut self, index: LogIndex) {
        while self.memberships.last().is_some_and(|(position, _)| position.index > index) {
            self.memberships.pop();
        }
        while self.tail.back().is_some_and(|entry| entry.position.index > index) {
            let dropped = self.tail.pop_back().expect("there is a last one");
            self.tail_bytes -= dropped.weight();
        }
    }
}

/// What a member starts from; made by [`Recovery::finish`].
#[derive(Clone, Debug)]
pub struct Recovered {
    pub(crate) hard_state: HardState,
    pub(crate) log: TermTable,
    pub(crate) memberships: Vec<(LogPosition, Membership)>,
    /// The newest entries, up to the end of the log.
    pub(crate) tail: VecDeque<Entry>,
    pub(crate) applied: LogPosition,
    /// The log found did not reach the applied position or its own start, or contradicted the
    /// state: it begins anew.
    pub(crate) log_reset: bool,
    /// The term was found in the log only.
    pub(crate) term_raised: bool,
}

impl Recovered {
    /// A member that starts for the first time: `hard_state.membership` holds the founders (or
    /// nobody, for a member that waits to be added), and the log is empty.
    #[must_use]
    pub fn first_start(hard_state: HardState) -> Recovered {
        let applied =
            Applied { position: hard_state.log_start, membership: hard_state.membership.clone() };
        let recovery = Recovery::new(hard_state, 0);
        recovery.finish(applied).expect("an empty log has no gap")
    }

    /// Where the log begins, for the host to check against its files.
    #[must_use]
    pub fn log_start(&self) -> LogPosition {
        self.log.start()
    }

    /// Where the log ends.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        self.log.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clocks::{NodeId, Term};

    fn entry(index: LogIndex, term: u64) -> Entry {
        Entry { position: LogPosition::new(Term(term), index), payload: Payload::Barrier }
    }

    fn applied(index: LogIndex, term: u64) -> Applied {
        let membership = Membership::of_voters([NodeId(7)]);
        Applied { position: LogPosition::new(Term(term), index), membership }
    }

    /// Term 2, founded by member 1, entries 1@1 2@1 3@2.
    fn replay() -> Recovery {
        let membership = Membership::of_voters([NodeId(1)]);
        let initial = HardState { membership, ..HardState::default() };
        let mut recovery = Recovery::new(initial.clone(), 1000);
        let voted_for = Some(NodeId(1));
        recovery.replay_hard_state(HardState { term: Term(2), voted_for, ..initial });
        for (index, term) in [(1, 1), (2, 1), (3, 2)] {
            recovery.replay_entry(entry(index, term)).expect("consecutive");
        }
        recovery
    }

    #[test]
    fn the_log_goes_on_where_the_state_is_in_it() {
        let recovered = replay().finish(applied(2, 1)).expect("they meet");
        assert!(!recovered.log_reset);
        assert_eq!(recovered.last(), LogPosition::new(Term(2), 3));
        assert_eq!(recovered.hard_state.voted_for, Some(NodeId(1)));
        assert_eq!(recovered.tail.len(), 3);
    }

    #[test]
    fn the_log_begins_anew_after_state_that_is_ahead_of_it() {
        let recovered = replay().finish(applied(5, 2)).expect("state ahead is no error");
        assert_eq!(recovered.log_start(), LogPosition::new(Term(2), 5));
        assert_eq!(recovered.hard_state.membership, Membership::of_voters([NodeId(7)]));
        assert_eq!(recovered.hard_state.voted_for, Some(NodeId(1)));
    }

    #[test]
    fn the_log_begins_anew_if_damage_took_the_entries_before_its_start() {
        let mut recovery = replay();
        let membership = Membership::of_voters([NodeId(1)]);
        let log_start = LogPosition::new(Term(2), 5);
        recovery.replay_hard_state(HardState {
            term: Term(2),
            damaged: true,
            log_start,
            membership,
            ..HardState::default()
        });
        let recovered = recovery.finish(applied(5, 2)).expect("the state is there");
        assert!(recovered.log_reset, "the files end with entry 3, entry 6 would leave a gap");
        assert_eq!(recovered.log_start(), log_start);
    }

    #[test]
    fn the_log_begins_anew_after_state_that_contradicts_it() {
        // Entry 3 was replaced by one of term 4, which was applied; the replacement was not
        // durable here, nor was term 4.
        let recovered = replay().finish(applied(3, 4)).expect("the state is committed");
        assert!(recovered.log_reset);
        assert_eq!(recovered.last(), LogPosition::new(Term(4), 3));
        assert_eq!(recovered.hard_state.term, Term(4));
        assert_eq!(recovered.hard_state.voted_for, None, "no vote was given in term 4");
    }

    #[test]
    fn a_record_replaces_what_comes_after_it() {
        let mut recovery = replay();
        recovery.replay_entry(entry(2, 2)).expect("it follows 1");
        let recovered = recovery.finish(applied(0, 0)).expect("no gap");
        assert_eq!(recovered.last(), LogPosition::new(Term(2), 2));
        assert_eq!(recovered.tail.len(), 2);
    }

    #[test]
    fn gaps_and_falling_terms_are_reported() {
        let gap = replay().replay_entry(entry(5, 2));
        assert_eq!(gap, Err(RecoveryError::Gap { after: 3, found: 5 }));
        let at = LogPosition::new(Term(1), 4);
        let fall = replay().replay_entry(entry(4, 1));
        assert_eq!(fall, Err(RecoveryError::TermRegressed { at }));
        // The log was cut up to 2, and the state ends at 1.
        let mut recovery = replay();
        let log_start = LogPosition::new(Term(1), 2);
        recovery.replay_hard_state(HardState { log_start, ..HardState::default() });
        let applied = applied(1, 1);
        let position = applied.position;
        let behind = recovery.finish(applied).expect_err("entry 2 is gone");
        assert_eq!(behind, RecoveryError::StateBehindLog { applied: position, log_start });
        // The first segments are gone, but the log is said to begin earlier.
        let mut recovery = Recovery::new(HardState::default(), 1000);
        recovery.replay_entry(entry(4, 1)).expect("any entry may be the first");
        let gap = recovery.finish(Applied::default()).expect_err("1 to 3 are missing");
        assert_eq!(gap, RecoveryError::Gap { after: 0, found: 4 });
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut recovery = Recovery::new(HardState::default(), 100);
        for index in 1..1000 {
            recovery.replay_entry(entry(index, 1)).expect("consecutive");
            assert!(recovery.tail_bytes <= 100);
        }
        let recovered = recovery.finish(Applied::default()).expect("no gap");
        assert_eq!(recovered.tail.len(), 3);
    }
}
