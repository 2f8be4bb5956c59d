//! Leadership Transfer: the leader lets a follower that has the whole log campaign at once (thesis,
//! section 3.10), for planned restarts and for keeping the leaders of groups together.
//!
//! While it lasts the leader takes no proposals, so that the target can catch up. Once it has said
//! `TimeoutNow` the leader uses no lease again in its term, whatever comes of it, because the
//! election that follows does not wait for lease promises.

use crate::leader_and_followers::RoleState;
use crate::raft::Raft;
use crate::timers::Timer;
use crate::{Body, TransferError};
use clocks::{Monotonic, NodeId};
use mutants::{Bug, planted};

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) to: NodeId,
    /// `TimeoutNow` was said in this heartbeat round; said again in later ones, as it may be lost.
    said_in_round: Option<u64>,
}

impl Raft {
    pub(crate) fn begin_transfer(
        &mut self,
        now: Monotonic,
        to: NodeId,
    ) -> Result<(), TransferError> {
        let leader_known = self.leader();
        let is_voter = self.log.membership().voters.contains(&to);
        let RoleState::Leader(leader) = &mut self.role else {
            return Err(TransferError::NotLeader { leader: leader_known });
        };
        if leader.transfer.is_some() {
            return Err(TransferError::InProgress);
        }
        if !is_voter {
            return Err(TransferError::NotAVoter);
        }
        if to != self.config.node {
            leader.transfer = Some(Transfer { to, said_in_round: None });
            self.timers.set(Timer::Transfer, now.after(self.config.election_timeout));
        }
        Ok(())
    }

    /// The target did not take over in time: the leader goes on.
    pub(crate) fn abort_transfer(&mut self) {
        if let RoleState::Leader(leader) = &mut self.role {
            leader.transfer = None;
        }
        self.timers.clear(Timer::Transfer);
    }

    /// Lets the target campaign once it has the whole log.
    pub(crate) fn drive_transfer(&mut self) {
        let last = self.log.last().index;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let Some(peer) = leader.peers.get(&transfer.to) else {
            return self.abort_transfer();
        };
        let round = leader.rounds.latest();
        if peer.vouched == last && transfer.said_in_round.is_none_or(|said| said < round) {
            transfer.said_in_round = Some(round);
            if !planted(Bug::LeaseKeptInTransfer) {
                leader.lease.give_up();
            }
            let to = transfer.to;
            self.outbox.send(to, Body::TimeoutNow);
        }
    }

    /// A leader that is no longer a member leaves: the best follower may take over at once.
    pub(crate) fn resign(&mut self, now: Monotonic) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let voters = &self.log.membership().voters;
        let candidates = leader.peers.iter().filter(|(node, _)| voters.contains(node));
        let best = candidates.max_by_key(|(_, peer)| peer.vouched).map(|(node, _)| *node);
        leader.lease.give_up();
        if let Some(best) = best {
            self.outbox.send(best, Body::TimeoutNow);
        }
        self.become_follower(now, crate::leader_and_followers::Follower::default());
    }

    /// The leader asks this member to take over.
    pub(crate) fn handle_timeout_now(&mut self, now: Monotonic, from: NodeId) {
        let follows = matches!(&self.role, RoleState::Follower(f) if f.leader == Some(from));
        let next = self.outbox.term().next();
        if follows && self.is_promotable() && !self.promise.forbids_vote(now, next, true) {
            self.become_candidate(now, true);
        }
    }
}
