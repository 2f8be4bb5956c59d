//! Membership Change: voters are added and removed through a joint configuration, in which every
//! decision takes a majority of the old voters and one of the new (Raft, section 6; thesis, section
//! 4.3).
//!
//! A membership is in force as soon as it is in the log, and no longer in force once it is
//! truncated from it. Changing one voter at a time without a joint step is unsafe across leaders
//! unless the leader has committed an entry of its own term; here both guards hold: every change of
//! voters is joint, and none begins before that commit. One change at a time; the leader leaves the
//! joint configuration by itself, and a new leader that inherits one does too.

use crate::config::MAX_MEMBERS;
use crate::leader_and_followers::RoleState;
use crate::raft::{MembershipChange, Raft};
use crate::{Membership, MembershipError, Payload};
use alloc::collections::BTreeSet;
use clocks::{LogPosition, Monotonic, NodeId};

impl MembershipChange {
    /// The first membership on the way from `current`; the last one too, if no voter changes.
    fn first_step(self, current: &Membership) -> Result<Membership, MembershipError> {
        if self.voters.is_empty() {
            return Err(MembershipError::Invalid("a group needs at least one voter"));
        }
        if !self.voters.is_disjoint(&self.learners) {
            return Err(MembershipError::Invalid("a voter cannot be a learner as well"));
        }
        if self.voters.contains(&NodeId(0)) || self.learners.contains(&NodeId(0)) {
            return Err(MembershipError::Invalid("a node id must not be zero"));
        }
        let outgoing =
            if self.voters == current.voters { BTreeSet::new() } else { current.voters.clone() };
        let step = Membership { voters: self.voters, outgoing, learners: self.learners };
        if step.members().len() > MAX_MEMBERS {
            return Err(MembershipError::Invalid("a group has at most 64 members"));
        }
        Ok(step)
    }
}

impl Raft {
    pub(crate) fn begin_membership_change(
        &mut self,
        now: Monotonic,
        change: MembershipChange,
    ) -> Result<LogPosition, MembershipError> {
        let RoleState::Leader(leader) = &self.role else {
            return Err(MembershipError::NotLeader { leader: self.leader() });
        };
        if leader.transfer.is_some() {
            return Err(MembershipError::Transferring);
        }
        if !self.has_committed_own_term() {
            return Err(MembershipError::NotReady);
        }
        let current = self.log.membership();
        let since = self.log.membership_index();
        if current.is_joint() || since > self.mark.committed() {
            return Err(MembershipError::InProgress);
        }
        let step = change.first_step(current)?;
        if step == *current {
            return Ok(self.log.position_at(since).expect("the log holds it, or begins there"));
        }
        Ok(self.append_membership(now, step))
    }

    fn append_membership(&mut self, now: Monotonic, membership: Membership) -> LogPosition {
        let position = self.append_own(Payload::Membership(membership));
        self.adopt_peers(now);
        if let RoleState::Leader(leader) = &mut self.role {
            let round = leader.rounds.latest();
            leader.lease.membership_changed(round, &mut leader.peers);
        }
        position
    }

    /// A committed membership is followed by the next step, if there is one.
    pub(crate) fn follow_up_membership(&mut self, now: Monotonic) {
        if self.log.membership_index() > self.mark.committed() {
            return;
        }
        let membership = self.log.membership();
        if membership.is_joint() {
            let settled = Membership { outgoing: BTreeSet::new(), ..membership.clone() };
            self.append_membership(now, settled);
        } else if !membership.is_voter(self.config.node) {
            self.resign(now);
        }
    }
}
