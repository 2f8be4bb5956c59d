//! Agreement: replicas of a group commit the same log, reach the same state, and follow one leader
//! per term; what was committed stays.
//!
//! A white-box checker that watches every node from outside, as TigerBeetle's state checker does.
//! Each report costs O(log n); memory holds what some replica has yet to confirm. The invariants
//! are those of Raft (Ongaro & Ousterhout, 2014, figure 3): election safety, leader completeness,
//! state machine safety.
//!
//! Not here: what clients saw (`linearizability`), what the state should be.

use std::collections::BTreeMap;
use std::fmt;

/// A node, as the caller numbers them.
pub type Node = u64;
/// A replication group.
pub type Group = u64;
/// A position in a group's log.
pub type Index = u64;
/// A leadership.
pub type Term = u64;
/// A hash of an entry or a state, by any function that is the same on all nodes.
pub type Digest = u64;

/// How much to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries and states per group that some replica has not confirmed yet. Beyond it the oldest
    /// are forgotten, and what a straggler says about them is counted in [`Summary::unchecked`].
    pub unconfirmed_max: usize,
    /// Terms per group whose leader is remembered.
    pub terms_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { unconfirmed_max: 1 << 20, terms_max: 1 << 14 }
    }
}

/// What has been compared so far; a run in which nothing was compared proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Reports about entries that another replica, or the same one earlier, had reported too.
    pub entries_compared: u64,
    /// The same for states.
    pub states_compared: u64,
    /// Terms in which somebody led.
    pub leaders: u64,
    /// Reports about what had been forgotten (see [`Limits`]).
    pub unchecked: u64,
}

/// Two reports that cannot both be true of a correct system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two replicas committed different entries at one index.
    EntriesDiffer {
        /// The group.
        group: Group,
        /// The index.
        index: Index,
        /// Who said so first, the entry's term and hash.
        first: (Node, Term, Digest),
        /// Who contradicts, the entry's term and hash.
        second: (Node, Term, Digest),
    },
    /// Two replicas applied the same prefix and hold different states.
    StatesDiffer {
        /// The group.
        group: Group,
        /// The applied index.
        index: Index,
        /// Who said so first, and the state's hash.
        first: (Node, Digest),
        /// Who contradicts, and the state's hash.
        second: (Node, Digest),
    },
    /// Terms of committed entries never decrease along the log.
    TermWentBack {
        /// The group.
        group: Group,
        /// The entry whose term is out of order with a neighbour's.
        index: Index,
        /// Its term.
        term: Term,
        /// The term of that neighbour, an entry before or after it.
        neighbour: (Index, Term),
    },
    /// Two nodes led in one term.
    TwoLeaders {
        /// The group.
        group: Group,
        /// The term.
        term: Term,
        /// The first to say so.
        first: Node,
        /// The other.
        second: Node,
    },
    /// A new leader lacks an entry that had been committed.
    LeaderLacksCommitted {
        /// The group.
        group: Group,
        /// The new leader.
        leader: Node,
        /// Its term.
        term: Term,
        /// The last entry of its log: index and term.
        last: (Index, Term),
        /// The last committed entry: index and term.
        committed: (Index, Term),
    },
    /// A node threw away an entry that it had reported as committed.
    CommittedTruncated {
        /// The group.
        group: Group,
        /// Who.
        node: Node,
        /// The last entry that it kept.
        kept: Index,
        /// What it had reported as committed.
        committed: Index,
    },
}

/// Watches all replicas of all groups. Report events in the order in which they happen.
#[derive(Clone, Debug, Default)]
pub struct Agreement {
    limits: Limits,
    groups: BTreeMap<Group, GroupState>,
    summary: Summary,
}

#[derive(Clone, Debug, Default)]
struct GroupState {
    members: BTreeMap<Node, Member>,
    /// By index: who reported it first, term, hash. Below `forgotten` nothing is kept.
    entries: BTreeMap<Index, (Node, Term, Digest)>,
    states: BTreeMap<Index, (Node, Digest)>,
    /// Everything at or below has been dropped.
    forgotten: Index,
    /// The last committed entry of all: index and term.
    committed: (Index, Term),
    leaders: BTreeMap<Term, Node>,
    /// Terms below it have been dropped.
    leaders_from: Term,
}

#[derive(Clone, Copy, Debug, Default)]
struct Member {
    /// Highest index that it has ever reported.
    reported: Index,
    /// Highest index that it has reported as committed and cannot have lost in a crash since.
    holds: Index,
}

impl Agreement {
    /// One with these limits.
    pub fn new(limits: Limits) -> Self {
        Agreement { limits, ..Agreement::default() }
    }

    /// Announces a replica, so that what it has yet to confirm is remembered. Reporting anything
    /// announces it too.
    pub fn join(&mut self, node: Node, group: Group) {
        self.groups.entry(group).or_default().members.entry(node).or_default();
    }

    /// Forgets a replica that was removed for good, so that nothing waits for it.
    pub fn leave(&mut self, node: Node, group: Group) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        state.members.remove(&node);
        state.forget(self.limits);
    }

    /// A replica learned that an entry is committed. Every index is to be reported, in order;
    /// after a restart or a snapshot it may start anywhere.
    pub fn committed(
        &mut self,
        node: Node,
        group: Group,
        index: Index,
        term: Term,
        digest: Digest,
    ) -> Result<(), Violation> {
        let state = self.groups.entry(group).or_default();
        let member = state.members.entry(node).or_default();
        member.reported = index.max(member.reported);
        member.holds = index.max(member.holds);
        if index <= state.forgotten {
            self.summary.unchecked += 1;
            return Ok(());
        }
        match state.entries.get(&index) {
            Some(&(_, known_term, known)) if (known_term, known) == (term, digest) => {
                self.summary.entries_compared += 1;
            }
            Some(&first) => {
                let second = (node, term, digest);
                return Err(Violation::EntriesDiffer { group, index, first, second });
            }
            None => {
                state.check_term_order(group, index, term)?;
                state.entries.insert(index, (node, term, digest));
                state.committed = state.committed.max((index, term));
            }
        }
        state.forget(self.limits);
        Ok(())
    }

    /// A replica has applied up to `index`, which gave a state with this hash. Need not be reported
    /// at every index, only at the same ones by several replicas (say, multiples of 1,024).
    pub fn applied(
        &mut self,
        node: Node,
        group: Group,
        index: Index,
        digest: Digest,
    ) -> Result<(), Violation> {
        let state = self.groups.entry(group).or_default();
        let member = state.members.entry(node).or_default();
        member.reported = index.max(member.reported);
        match state.states.get(&index) {
            Some(&(_, known)) if known == digest => self.summary.states_compared += 1,
            Some(&first) => {
                let second = (node, digest);
                return Err(Violation::StatesDiffer { group, index, first, second });
            }
            None if index <= state.forgotten => self.summary.unchecked += 1,
            None => {
                state.states.insert(index, (node, digest));
            }
        }
        state.forget(self.limits);
        Ok(())
    }

    /// A node became leader; `last` is the last entry of its log then, index and term. To be
    /// reported before anything that it commits.
    pub fn leader(
        &mut self,
        node: Node,
        group: Group,
        term: Term,
        last: (Index, Term),
    ) -> Result<(), Violation> {
        let state = self.groups.entry(group).or_default();
        state.members.entry(node).or_default();
        match state.leaders.get(&term) {
            Some(first) if *first != node => {
                let first = *first;
                return Err(Violation::TwoLeaders { group, term, first, second: node });
            }
            Some(_) => return Ok(()),
            None if term < state.leaders_from => {
                self.summary.unchecked += 1;
                return Ok(());
            }
            None => {}
        }
        let newest = state.leaders.keys().next_back().is_none_or(|newest| *newest < term);
        state.leaders.insert(term, node);
        self.summary.leaders += 1;
        while state.leaders.len() > self.limits.terms_max {
            state.leaders.pop_first();
            state.leaders_from = state.leaders.keys().next().copied().unwrap_or(term);
        }
        // Votes for an old term may arrive late; only the leader of a later term than that of every
        // commit so far must hold what they committed.
        let ((last_index, last_term), committed) = (last, state.committed);
        if newest && (last_index < committed.0 || last_term < committed.1) {
            return Err(Violation::LeaderLacksCommitted {
                group,
                leader: node,
                term,
                last,
                committed,
            });
        }
        Ok(())
    }

    /// A node came back with a log that ends at `last`: what it knew to be committed, but had not
    /// synced itself, it may have lost.
    pub fn restarted(&mut self, node: Node, group: Group, last: Index) {
        let member = self.groups.entry(group).or_default().members.entry(node).or_default();
        member.holds = member.holds.min(last);
    }

    /// A node dropped its log's entries after `kept`, because a leader has others.
    pub fn truncated(&mut self, node: Node, group: Group, kept: Index) -> Result<(), Violation> {
        let state = self.groups.entry(group).or_default();
        let committed = state.members.get(&node).map_or(0, |member| member.holds);
        if kept < committed {
            return Err(Violation::CommittedTruncated { group, node, kept, committed });
        }
        Ok(())
    }

    /// The last committed entry that anybody reported: index and term, (0, 0) before any.
    pub fn last_committed(&self, group: Group) -> (Index, Term) {
        self.groups.get(&group).map_or((0, 0), |state| state.committed)
    }

    /// How much has been compared.
    pub fn summary(&self) -> Summary {
        self.summary
    }
}

impl GroupState {
    fn check_term_order(&self, group: Group, index: Index, term: Term) -> Result<(), Violation> {
        let before = self.entries.range(..index).next_back();
        let after = self.entries.range(index..).next();
        let wrong = before
            .filter(|(_, (_, before, _))| *before > term)
            .or(after.filter(|(_, (_, after, _))| *after < term));
        match wrong {
            Some((other, (_, other_term, _))) => {
                let neighbour = (*other, *other_term);
                Err(Violation::TermWentBack { group, index, term, neighbour })
            }
            None => Ok(()),
        }
    }

    /// Drops what every member has confirmed, and the oldest of too much.
    fn forget(&mut self, limits: Limits) {
        // The last one that everybody confirmed is kept to order terms and to be compared again.
        let confirmed = self.members.values().map(|member| member.reported).min();
        let confirmed = confirmed.unwrap_or_default().saturating_sub(1);
        let mut floor = self.forgotten.max(confirmed);
        let overfull = |floor: &Index, count: usize, oldest: Option<Index>| match oldest {
            Some(oldest) if count > limits.unconfirmed_max => oldest.max(*floor),
            _ => *floor,
        };
        floor = overfull(&floor, self.entries.len(), self.entries.keys().next().copied());
        floor = overfull(&floor, self.states.len(), self.states.keys().next().copied());
        while self.entries.first_key_value().is_some_and(|(index, _)| *index <= floor) {
            self.entries.pop_first();
        }
        while self.states.first_key_value().is_some_and(|(index, _)| *index <= floor) {
            self.states.pop_first();
        }
        self.forgotten = floor;
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Violation::EntriesDiffer { group, index, first, second } => write!(
                f,
                "group {group}: node {} committed entry {:016x} of term {} at index {index}, but \
                 node {} committed entry {:016x} of term {} there",
                first.0, first.2, first.1, second.0, second.2, second.1
            ),
            Violation::StatesDiffer { group, index, first, second } => write!(
                f,
                "group {group}: after applying index {index} node {} holds state {:016x}, but \
                 node {} holds state {:016x}",
                first.0, first.1, second.0, second.1
            ),
            Violation::TermWentBack { group, index, term, neighbour: (other, other_term) } => {
                write!(
                    f,
                    "group {group}: committed entry {index} has term {term}, but entry {other} has \
                     term {other_term}; terms never decrease along a log"
                )
            }
            Violation::TwoLeaders { group, term, first, second } => {
                write!(f, "group {group}: nodes {first} and {second} both led in term {term}")
            }
            Violation::LeaderLacksCommitted { group, leader, term, last, committed } => write!(
                f,
                "group {group}: node {leader} became leader of term {term} with a log that ends at \
                 index {} of term {}, although index {} of term {} had been committed",
                last.0, last.1, committed.0, committed.1
            ),
            Violation::CommittedTruncated { group, node, kept, committed } => write!(
                f,
                "group {group}: node {node} dropped its log after index {kept}, although it had \
                 committed up to {committed}"
            ),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_members() -> Agreement {
        let mut agreement = Agreement::default();
        (1..=3).for_each(|node| agreement.join(node, 7));
        agreement
    }

    #[test]
    fn the_same_log_everywhere_is_fine_and_takes_no_memory() {
        let mut agreement = three_members();
        agreement.leader(1, 7, 1, (0, 0)).unwrap();
        for index in 1..=1_000 {
            for node in 1..=3 {
                agreement.committed(node, 7, index, 1, index * 31).unwrap();
                agreement.applied(node, 7, index, index * 37).unwrap();
            }
        }
        let summary = agreement.summary();
        assert_eq!((summary.entries_compared, summary.states_compared), (2_000, 2_000));
        assert_eq!(summary.unchecked, 0);
        assert!(agreement.groups[&7].entries.len() <= 2);
        assert!(agreement.groups[&7].states.len() <= 2);
        assert_eq!(agreement.last_committed(7), (1_000, 1));
    }

    #[test]
    fn different_entries_at_one_index_are_found_after_any_lag() {
        let mut agreement = three_members();
        for index in 1..=500 {
            agreement.committed(1, 7, index, 1, index).unwrap();
            agreement.committed(2, 7, index, 1, index).unwrap();
        }
        agreement.committed(3, 7, 1, 1, 1).unwrap();
        let violation = agreement.committed(3, 7, 2, 1, 99).unwrap_err();
        let (first, second) = ((1, 1, 2), (3, 1, 99));
        assert_eq!(violation, Violation::EntriesDiffer { group: 7, index: 2, first, second });
        assert!(violation.to_string().contains("node 1 committed entry 0000000000000002"));
    }

    #[test]
    fn one_hash_under_two_terms_is_two_entries() {
        let mut agreement = three_members();
        agreement.committed(1, 7, 1, 1, 5).unwrap();
        assert!(agreement.committed(2, 7, 1, 2, 5).is_err());
    }

    #[test]
    fn a_node_that_contradicts_itself_after_a_restart_is_found() {
        let mut agreement = three_members();
        agreement.committed(1, 7, 1, 1, 5).unwrap();
        agreement.committed(1, 7, 2, 1, 6).unwrap();
        agreement.committed(1, 7, 1, 1, 5).unwrap();
        assert!(agreement.committed(1, 7, 2, 1, 7).is_err());
    }

    #[test]
    fn groups_do_not_mix() {
        let mut agreement = three_members();
        agreement.leader(1, 7, 1, (0, 0)).unwrap();
        agreement.committed(1, 7, 1, 1, 5).unwrap();
        agreement.committed(1, 8, 1, 1, 6).unwrap();
        agreement.leader(2, 8, 1, (1, 1)).unwrap();
    }

    #[test]
    fn different_states_at_one_index_are_found() {
        let mut agreement = three_members();
        agreement.applied(1, 7, 1_024, 5).unwrap();
        agreement.applied(2, 7, 1_024, 5).unwrap();
        let violation = agreement.applied(3, 7, 1_024, 6).unwrap_err();
        assert!(violation.to_string().contains("node 3 holds state 0000000000000006"));
    }

    #[test]
    fn terms_that_go_back_are_found_from_both_sides() {
        let mut agreement = three_members();
        agreement.committed(1, 7, 5, 3, 0).unwrap();
        assert!(matches!(
            agreement.committed(1, 7, 6, 2, 0),
            Err(Violation::TermWentBack { index: 6, neighbour: (5, 3), .. })
        ));
        assert!(matches!(
            agreement.committed(2, 7, 4, 4, 0),
            Err(Violation::TermWentBack { index: 4, neighbour: (5, 3), .. })
        ));
    }

    #[test]
    fn two_leaders_in_one_term_are_found() {
        let mut agreement = three_members();
        agreement.leader(1, 7, 2, (0, 0)).unwrap();
        agreement.leader(1, 7, 2, (0, 0)).unwrap();
        let violation = agreement.leader(2, 7, 2, (0, 0)).unwrap_err();
        assert_eq!(violation.to_string(), "group 7: nodes 1 and 2 both led in term 2");
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let mut agreement = three_members();
        agreement.leader(1, 7, 2, (0, 0)).unwrap();
        agreement.committed(1, 7, 1, 2, 5).unwrap();
        agreement.leader(3, 7, 4, (1, 2)).unwrap();
        assert!(matches!(
            agreement.leader(2, 7, 5, (0, 0)),
            Err(Violation::LeaderLacksCommitted { leader: 2, committed: (1, 2), .. })
        ));
        // A long log of an old term is no better.
        assert!(agreement.leader(2, 7, 6, (9, 1)).is_err());
    }

    #[test]
    fn a_late_winner_of_an_old_term_need_not_hold_what_came_after() {
        let mut agreement = three_members();
        agreement.leader(1, 7, 5, (0, 0)).unwrap();
        agreement.committed(1, 7, 1, 5, 5).unwrap();
        agreement.leader(2, 7, 4, (0, 0)).unwrap();
    }

    #[test]
    fn dropping_what_was_committed_is_found() {
        let mut agreement = three_members();
        agreement.committed(1, 7, 4, 1, 5).unwrap();
        agreement.truncated(1, 7, 4).unwrap();
        agreement.truncated(2, 7, 0).unwrap();
        assert!(matches!(
            agreement.truncated(1, 7, 3),
            Err(Violation::CommittedTruncated { node: 1, kept: 3, committed: 4, .. })
        ));
    }

    #[test]
    fn what_a_crash_took_may_be_replaced() {
        let mut agreement = three_members();
        agreement.committed(1, 7, 4, 1, 5).unwrap();
        agreement.restarted(1, 7, 2);
        agreement.truncated(1, 7, 2).unwrap();
        assert!(agreement.truncated(1, 7, 1).is_err());
    }

    #[test]
    fn a_straggler_costs_bounded_memory_and_what_it_says_too_late_is_counted() {
        let limits = Limits { unconfirmed_max: 10, terms_max: 2 };
        let mut agreement = Agreement::new(limits);
        (1..=3).for_each(|node| agreement.join(node, 7));
        for index in 1..=100 {
            agreement.committed(1, 7, index, 1, index).unwrap();
            agreement.applied(1, 7, index, index).unwrap();
            assert!(agreement.groups[&7].entries.len() <= limits.unconfirmed_max);
            assert!(agreement.groups[&7].states.len() <= limits.unconfirmed_max);
        }
        agreement.committed(3, 7, 5, 1, 5).unwrap();
        agreement.applied(3, 7, 5, 5).unwrap();
        assert_eq!(agreement.summary().unchecked, 2);
        assert!(agreement.committed(3, 7, 95, 1, 0).is_err());

        (1..=5).for_each(|term| agreement.leader(1, 7, term, (100, 1)).unwrap());
        assert_eq!(agreement.groups[&7].leaders.len(), 2);
        agreement.leader(2, 7, 1, (100, 1)).unwrap();
        assert_eq!(agreement.summary().unchecked, 3);
        assert!(agreement.leader(2, 7, 5, (100, 1)).is_err());
    }

    #[test]
    fn a_removed_replica_holds_nothing_up() {
        let mut agreement = three_members();
        for index in 1..=100 {
            agreement.committed(1, 7, index, 1, index).unwrap();
            agreement.committed(2, 7, index, 1, index).unwrap();
        }
        assert_eq!(agreement.groups[&7].entries.len(), 100);
        agreement.leave(3, 7);
        assert!(agreement.groups[&7].entries.len() <= 2);
    }
}
