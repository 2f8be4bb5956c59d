//! Returning Member: one that found part of its log lost to corruption, and may have acknowledged
//! what it lost.
//!
//! After protocol-aware recovery (Alagappan et al., FAST 2018): such a member must not help to vote
//! away what it once held. Until it holds a committed entry that a leader appended after hearing of
//! its return it neither votes, nor campaigns, nor promises, nor counts for the high-water mark; it
//! copies the log like a learner. Whatever it had acknowledged before is in the log up to there.

use crate::leader_and_followers::RoleState;
use crate::raft::Raft;
use crate::{Body, Payload};
use clocks::{LogPosition, Monotonic, NodeId};

impl Raft {
    /// Leader: a damaged member is back.
    pub(crate) fn handle_returned(&mut self, now: Monotonic, from: NodeId, nonce: u64) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        let round = leader.rounds.latest();
        let known = peer.returned.filter(|(heard, _)| *heard == nonce);
        let position = match known {
            Some((_, position)) => position,
            None => self.append_own(Payload::Barrier),
        };
        if let RoleState::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&from)
        {
            peer.returned = Some((nonce, position));
        }
        self.outbox.send(from, Body::ReturnHeard { nonce, position });
        self.unpause(now, from, round);
    }

    /// Damaged member: the leader knows, and appended `position` since.
    pub(crate) fn handle_return_heard(&mut self, nonce: u64, position: LogPosition) {
        if self.outbox.hard_state().damaged && nonce == self.nonce {
            self.whole_at = Some(position);
            self.recover_standing();
        }
    }

    /// A damaged member is whole once that entry is committed and durable here.
    pub(crate) fn recover_standing(&mut self) {
        let Some(position) = self.whole_at else { return };
        let held = position.index <= self.mark.committed().min(self.log.durable());
        let start = self.log.start();
        // An entry that was cut is known to be this one only if its leader still wrote the start.
        let was_cut = position.index < start.index && position.term == start.term;
        let same = was_cut || self.log.contains(position);
        if held && same && self.outbox.hard_state().damaged {
            self.whole_at = None;
            self.outbox.clear_damaged();
        }
    }
}
