//! Heartbeat: the leader is alive, and hears from a quorum that it still leads.
//!
//! Used by Raft, Chubby, ZooKeeper and Kafka. One numbered round goes to every member, and carries
//! four things at once: the follower's election timer, the leader's check-quorum (thesis, section
//! 6.2), the lease promise, and the confirmation of reads. Rounds fall on multiples of the interval
//! on the node's clock, so that the groups of a node beat together and travel as one message
//! (`heartbeat_coalescer`). Invariant: round numbers grow within a leadership.

use crate::config::ROUNDS_REMEMBERED;
use crate::leader_and_followers::{Follower, RoleState};
use crate::raft::Raft;
use crate::timers::Timer;
use crate::{Body, Effect};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use clocks::{LogIndex, Monotonic, NodeId};
use core::time::Duration;
use mutants::{Bug, planted};

/// The rounds of one leadership.
#[derive(Debug, Default)]
pub(crate) struct HeartbeatRounds {
    latest: u64,
    /// Send times of the latest rounds, the oldest first.
    sent: VecDeque<Monotonic>,
}

impl HeartbeatRounds {
    /// The latest round begun, 0 before the first.
    pub(crate) fn latest(&self) -> u64 {
        self.latest
    }

    fn begin(&mut self, now: Monotonic) -> u64 {
        self.latest += 1;
        self.sent.push_back(now);
        if self.sent.len() > ROUNDS_REMEMBERED {
            self.sent.pop_front();
        }
        self.latest
    }

    /// When `round` was sent, if it is recent enough to be remembered.
    fn sent_at(&self, round: u64) -> Option<Monotonic> {
        let age = usize::try_from(self.latest.checked_sub(round)?).ok()?;
        self.sent.get(self.sent.len().checked_sub(age + 1)?).copied()
    }
}

/// The first multiple of `interval` after `now`.
fn next_on_grid(now: Monotonic, interval: Duration) -> Monotonic {
    let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    Monotonic((now.0 / interval).saturating_add(1).saturating_mul(interval))
}

impl Raft {
    /// Sends the next round to every member.
    pub(crate) fn begin_round(&mut self, now: Monotonic) {
        let committed = self.mark.committed();
        let reads_allowed = self.has_committed_own_term();
        let RoleState::Leader(leader) = &mut self.role else { return };
        let round = leader.rounds.begin(now);
        if reads_allowed {
            leader.reads.begin_round(round, committed);
        }
        let lease = leader.lease.promise_asked();
        for (node, peer) in &leader.peers {
            let committed = committed.min(peer.matched);
            self.outbox.send(*node, Body::Heartbeat { round, committed, lease });
        }
        self.timers.set(Timer::Heartbeat, next_on_grid(now, self.config.heartbeat_interval));
    }

    /// Repeats the latest round to one member that may have missed it.
    pub(crate) fn repeat_round(&mut self, to: NodeId) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get(&to) else { return };
        let (round, lease) = (leader.rounds.latest(), leader.lease.promise_asked());
        let committed = self.mark.committed().min(peer.matched);
        self.outbox.send(to, Body::Heartbeat { round, committed, lease });
    }

    /// Follows `from` in the current term. False if it cannot be the leader of this term.
    pub(crate) fn hear_leader(&mut self, now: Monotonic, from: NodeId) -> bool {
        let heard = Follower { leader: Some(from), heard: Some(now), yielded: false };
        match &mut self.role {
            RoleState::Leader(_) => return false,
            RoleState::Follower(follower) => {
                if follower.leader.is_some_and(|leader| leader != from) {
                    return false;
                }
                *follower = heard;
                self.restart_election_timer(now);
            }
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                self.become_follower(now, heard);
            }
        }
        true
    }

    pub(crate) fn handle_heartbeat(
        &mut self,
        now: Monotonic,
        from: NodeId,
        round: u64,
        committed: LogIndex,
        lease: Duration,
    ) {
        if !self.hear_leader(now, from) {
            return;
        }
        // The leader says no more than what this member acknowledged in this term.
        self.commit_as_follower(committed.min(self.log.last().index));
        if self.outbox.hard_state().damaged {
            self.outbox.send(from, Body::Returned { nonce: self.nonce });
        } else if lease <= self.config.longest_lease {
            // A longer promise would not survive a restart of this member: it is not given.
            self.promise.give(now, self.outbox.term(), lease);
            self.outbox.send(from, Body::HeartbeatReply { round });
        }
    }

    pub(crate) fn handle_heartbeat_reply(&mut self, now: Monotonic, from: NodeId, round: u64) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        if round > leader.rounds.latest() {
            return;
        }
        peer.heard = now;
        peer.answered_round = peer.answered_round.max(round);
        if let Some(sent) = leader.rounds.sent_at(round) {
            let sent = if planted(Bug::LeaseFromReply) { now } else { sent };
            leader.lease.answered(peer, round, sent);
        }
        self.unpause(now, from, round);
    }

    /// A heartbeat of `round` was answered: what was sent before it may be lost.
    pub(crate) fn unpause(&mut self, now: Monotonic, from: NodeId, round: u64) {
        let patience = self.config.heartbeat_interval;
        let committed = self.mark.committed();
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        if peer.unpause(now, round, patience)
            && let Some(previous) = self.log.position_at(peer.next - 1)
        {
            let entries = Vec::new();
            self.outbox.send(from, Body::Append { previous, entries, committed });
        }
    }

    /// Hands out the reads that a quorum has confirmed, or the lease.
    pub(crate) fn answer_reads(&mut self, now: Monotonic) {
        let committed = self.mark.committed();
        let own_term = self.has_committed_own_term();
        let (node, membership) = (self.config.node, self.log.membership());
        let RoleState::Leader(leader) = &mut self.role else { return };
        let latest = leader.rounds.latest();
        let answered = |voter: NodeId| {
            if voter == node {
                latest
            } else {
                leader.peers.get(&voter).map_or(0, |peer| peer.answered_round)
            }
        };
        let confirmed = membership.quorum_value(answered).unwrap_or(0);
        for (token, index) in leader.reads.confirm(confirmed) {
            self.outbox.emit(Effect::ReadReady { token, index });
        }
        if own_term
            && leader.reads.has_waiting()
            && leader.lease.holds(now, node, membership, &leader.peers)
        {
            for token in leader.reads.take_waiting() {
                self.outbox.emit(Effect::ReadReady { token, index: committed });
            }
        }
    }

    /// Steps down if no quorum has answered for an election timeout: somebody else may lead, and
    /// clients should look for them.
    pub(crate) fn check_quorum(&mut self, now: Monotonic) {
        let RoleState::Leader(leader) = &self.role else { return };
        let node = self.config.node;
        let heard = |voter: NodeId| {
            let peer = leader.peers.get(&voter);
            if voter == node { now } else { peer.map_or(Monotonic(0), |peer| peer.heard) }
        };
        let heard = self.log.membership().quorum_value(heard).unwrap_or(now);
        let deadline = heard.after(self.config.election_timeout);
        if deadline <= now {
            self.become_follower(now, Follower::default());
        } else {
            self.timers.set(Timer::CheckQuorum, deadline);
        }
    }
}
