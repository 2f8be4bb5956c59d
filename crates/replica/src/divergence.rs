//! Finds members whose state machines diverge: chain hashes of the state at equal indexes are
//! compared among all voters.
//!
//! As in etcd's corruption check and CockroachDB's consistency queue, but continuous. A member that
//! a majority of all voters contradicts stops; it does not matter who leads. This finds diverging
//! logic, not rot inside the engine.
//! Invariant: at most `limit` indexes are remembered, the newest ones.

use clocks::{LogIndex, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Hashes of one group's state, by index and member.
pub(crate) struct StateHashes {
    us: NodeId,
    limit: usize,
    known: BTreeMap<LogIndex, BTreeMap<NodeId, u64>>,
}

/// A majority of all voters agrees on a state that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Diverged {
    pub(crate) index: LogIndex,
    pub(crate) ours: u64,
    pub(crate) theirs: u64,
}

impl StateHashes {
    pub(crate) fn new(us: NodeId, limit: usize) -> StateHashes {
        assert!(limit > 0);
        StateHashes { us, limit, known: BTreeMap::new() }
    }

    /// Takes note of one member's hash, and judges the index.
    pub(crate) fn record(
        &mut self,
        member: NodeId,
        index: LogIndex,
        hash: u64,
        voters: &BTreeSet<NodeId>,
    ) -> Option<Diverged> {
        if member != self.us && !voters.contains(&member) {
            return None;
        }
        self.known.entry(index).or_default().insert(member, hash);
        while self.known.len() > self.limit {
            self.known.pop_first();
        }
        self.judge(index, voters)
    }

    /// Whether every voter has told its state at `index`, and no majority agrees.
    pub(crate) fn is_undecided(&self, index: LogIndex, voters: &BTreeSet<NodeId>) -> bool {
        let Some(hashes) = self.known.get(&index) else { return false };
        let told: Vec<u64> = voters.iter().filter_map(|voter| hashes.get(voter)).copied().collect();
        let votes = |hash: &u64| told.iter().filter(|other| *other == hash).count();
        told.len() == voters.len() && !told.iter().any(|hash| votes(hash) > voters.len() / 2)
    }

    fn judge(&self, index: LogIndex, voters: &BTreeSet<NodeId>) -> Option<Diverged> {
        let hashes = self.known.get(&index)?;
        let &ours = hashes.get(&self.us)?;
        let mut count: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, hash) in hashes.iter().filter(|(member, _)| voters.contains(member)) {
            *count.entry(*hash).or_default() += 1;
        }
        let majority = voters.len() / 2 + 1;
        let (&theirs, _) = count.iter().find(|&(_, &votes)| votes >= majority)?;
        (theirs != ours).then_some(Diverged { index, ours, theirs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters() -> BTreeSet<NodeId> {
        [1, 2, 3].map(NodeId).into()
    }

    #[test]
    fn the_contradicted_member_finds_out_and_the_others_do_not() {
        let mut odd = StateHashes::new(NodeId(1), 8);
        let mut even = StateHashes::new(NodeId(2), 8);
        for (member, hash) in [(1, 77), (2, 5)] {
            assert_eq!(odd.record(NodeId(member), 1024, hash, &voters()), None);
            assert_eq!(even.record(NodeId(member), 1024, hash, &voters()), None);
        }
        let verdict = odd.record(NodeId(3), 1024, 5, &voters());
        assert_eq!(verdict, Some(Diverged { index: 1024, ours: 77, theirs: 5 }));
        assert_eq!(even.record(NodeId(3), 1024, 5, &voters()), None);
    }

    #[test]
    fn voters_of_whom_no_majority_agrees_are_undecided_once_all_have_told() {
        let pair: BTreeSet<NodeId> = [1, 2].map(NodeId).into();
        let mut hashes = StateHashes::new(NodeId(1), 8);
        hashes.record(NodeId(1), 1024, 1, &pair);
        assert!(!hashes.is_undecided(1024, &pair), "the other one has yet to tell");
        hashes.record(NodeId(2), 1024, 2, &pair);
        assert!(hashes.is_undecided(1024, &pair));
        assert!(!hashes.is_undecided(2048, &pair));
        // The voters of now count: a third may decide it, and one alone agrees with itself.
        hashes.record(NodeId(3), 1024, 2, &voters());
        assert!(!hashes.is_undecided(1024, &voters()));
        assert!(!hashes.is_undecided(1024, &[NodeId(1)].into()));
    }

    #[test]
    fn outsiders_have_no_say_and_memory_is_bounded() {
        let mut hashes = StateHashes::new(NodeId(1), 2);
        hashes.record(NodeId(1), 1024, 1, &voters());
        for outsider in 10..20 {
            assert_eq!(hashes.record(NodeId(outsider), 1024, 2, &voters()), None);
        }
        for index in 1..100 {
            hashes.record(NodeId(2), index * 1024, 1, &voters());
        }
        assert_eq!(hashes.known.len(), 2);
    }
}
