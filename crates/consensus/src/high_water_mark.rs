//! High-Water Mark: the last entry known durable on a quorum.
//!
//! Used by Raft (commit index), Kafka and BookKeeper. Clients may see everything at or below the
//! mark, nothing above. Invariants: it never regresses, and handed over <= committed <= last. A
//! leader moves it by counting only to an entry of its own term, since a later leader may still
//! replace older entries however many members hold them (Raft, section 5.4.2, figure 8).

use crate::leader_and_followers::RoleState;
use crate::raft::{Committed, Raft};
use clocks::{LogIndex, LogPosition, Monotonic, NodeId};
use mutants::{Bug, planted};

#[derive(Debug)]
pub(crate) struct HighWaterMark {
    committed: LogIndex,
    handed_over: LogIndex,
}

impl HighWaterMark {
    /// Everything up to `applied` was applied before the restart.
    pub(crate) fn new(applied: LogIndex) -> HighWaterMark {
        HighWaterMark { committed: applied, handed_over: applied }
    }

    pub(crate) fn committed(&self) -> LogIndex {
        self.committed
    }

    pub(crate) fn handed_over(&self) -> LogIndex {
        self.handed_over
    }

    /// A snapshot of everything up to `index` is the live state now.
    pub(crate) fn installed(&mut self, index: LogIndex) {
        assert!(index > self.committed, "a snapshot is never installed over newer state");
        self.committed = index;
        self.handed_over = index;
    }

    pub(crate) fn hand_over(&mut self, index: LogIndex) {
        assert!(index <= self.committed, "only committed entries are handed over");
        assert!(index >= self.handed_over, "entries are handed over once");
        self.handed_over = index;
    }
}

impl Raft {
    /// The position of the mark.
    pub(crate) fn committed_position(&self) -> LogPosition {
        self.log.position_at(self.mark.committed).expect("the log holds the mark, or begins there")
    }

    /// Whether an entry of the own term is committed: only then does a leader know the mark.
    pub(crate) fn has_committed_own_term(&self) -> bool {
        match &self.role {
            RoleState::Leader(_) if planted(Bug::ReadBeforeOwnTerm) => true,
            RoleState::Leader(leader) => self.mark.committed >= leader.first,
            _ => false,
        }
    }

    /// Leader: moves the mark to what a quorum holds durably, itself included.
    pub(crate) fn advance_mark(&mut self, now: Monotonic) {
        while let Some(index) = self.quorum_durable() {
            let of_own_term =
                self.log.position_at(index).is_some_and(|at| at.term == self.outbox.term());
            let counts = of_own_term || planted(Bug::OlderTermCounts);
            if index <= self.mark.committed || !counts {
                return;
            }
            self.mark.committed = index;
            self.settle_proposals();
            self.follow_up_membership(now);
        }
    }

    fn quorum_durable(&self) -> Option<LogIndex> {
        let RoleState::Leader(leader) = &self.role else { return None };
        let durable = |voter: NodeId| {
            if voter == self.config.node {
                self.log.durable()
            } else {
                leader.peers.get(&voter).map_or(0, |peer| peer.vouched)
            }
        };
        self.log.membership().quorum_value(durable)
    }

    /// Committed proposals make room for others.
    fn settle_proposals(&mut self) {
        let committed = self.mark.committed;
        let RoleState::Leader(leader) = &mut self.role else { return };
        while let Some((_, bytes)) = leader.uncommitted.pop_front_if(|b| b.0 <= committed) {
            leader.uncommitted_bytes -= bytes;
        }
    }

    /// Follower: the leader says that everything up to `index` is committed, and this member has
    /// verified that it holds just that.
    pub(crate) fn commit_as_follower(&mut self, index: LogIndex) {
        assert!(index <= self.log.last().index, "only what the log holds is committed");
        if !self.incoming.is_installing() {
            self.mark.committed = self.mark.committed.max(index);
        }
        self.recover_standing();
    }

    pub(crate) fn committed_entries(&self, max_bytes: usize) -> Committed {
        let (from, to) = (self.mark.handed_over + 1, self.mark.committed);
        if from > to || self.incoming.is_installing() {
            return Committed::Nothing;
        }
        match self.log.cached(from, to, max_bytes, usize::MAX) {
            Some(entries) => Committed::Entries(entries),
            None => Committed::OnDisk { from, to: to.min(self.log.cached_from() - 1) },
        }
    }
}
