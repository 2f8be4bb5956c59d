//! Leader and Followers: one member orders the log, the others copy it.
//!
//! Used by Raft, ZooKeeper, Kafka and most replicated databases. Each role is a type that holds
//! what only that role knows, so that leaving it drops exactly that. The transitions are here;
//! `election` decides when.

use crate::heartbeat::HeartbeatRounds;
use crate::leader_lease::LeaderLease;
use crate::leadership_transfer::Transfer;
use crate::raft::Raft;
use crate::read_index::ReadQueue;
use crate::request_pipeline::Peer;
use crate::timers::Timer;
use crate::{Effect, Entry, Payload, Role};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use clocks::{LogIndex, LogPosition, Monotonic, NodeId, Term};

#[derive(Debug)]
pub(crate) enum RoleState {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

#[derive(Debug, Default)]
pub(crate) struct Follower {
    pub(crate) leader: Option<NodeId>,
    /// When that leader was last heard. `None` once it is believed gone: pre-votes are granted.
    pub(crate) heard: Option<Monotonic>,
    /// It has already let another pre-candidate go first since it last heard a leader.
    pub(crate) yielded: bool,
}

#[derive(Debug, Default)]
pub(crate) struct PreCandidate {
    pub(crate) granted: BTreeSet<NodeId>,
    /// A quorum would vote for it; it waits for the end of its own lease promise.
    pub(crate) won: bool,
}

#[derive(Debug)]
pub(crate) struct Candidate {
    /// Itself included once its own vote is durable.
    pub(crate) granted: BTreeSet<NodeId>,
    pub(crate) answered: BTreeSet<NodeId>,
    /// The old leader asked for this election.
    pub(crate) transfer: bool,
}

#[derive(Debug)]
pub(crate) struct Leader {
    /// The first entry of this leadership.
    pub(crate) first: LogIndex,
    /// Every other member.
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) rounds: HeartbeatRounds,
    pub(crate) lease: LeaderLease,
    pub(crate) reads: ReadQueue,
    pub(crate) transfer: Option<Transfer>,
    /// Proposals not yet committed: last index and bytes of each batch.
    pub(crate) uncommitted: VecDeque<(LogIndex, usize)>,
    pub(crate) uncommitted_bytes: usize,
}

impl RoleState {
    pub(crate) fn role(&self) -> Role {
        match self {
            RoleState::Follower(_) => Role::Follower,
            RoleState::PreCandidate(_) => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }
}

impl Raft {
    /// Whether this member may lead, as far as it knows: it is a voter, or was one before a
    /// membership that is not known committed. The latter may be needed: if nobody else holds that
    /// membership, nobody else can win (thesis, section 4.2.2). Its own vote does not count then.
    pub(crate) fn is_promotable(&self) -> bool {
        let node = self.config.node;
        let is_leaving = self.log.membership_index() > self.mark.committed()
            && self.log.previous_membership().is_voter(node);
        (self.log.membership().is_voter(node) || is_leaving)
            && !self.outbox.hard_state().damaged
            && !self.incoming.is_installing()
    }

    pub(crate) fn is_sole_voter(&self) -> bool {
        let membership = self.log.membership();
        membership.is_quorum(|voter| voter == self.config.node)
    }

    /// Enters a later term as a follower of nobody yet.
    pub(crate) fn enter_term(&mut self, now: Monotonic, term: Term) {
        self.outbox.enter_term(term);
        self.become_follower(now, Follower::default());
    }

    /// Leaves whatever role it has.
    pub(crate) fn become_follower(&mut self, now: Monotonic, follower: Follower) {
        self.leave_leadership();
        self.role = RoleState::Follower(follower);
        self.timers.clear_role();
        self.restart_election_timer(now);
    }

    fn leave_leadership(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        for token in leader.reads.take_all() {
            self.outbox.emit(Effect::ReadRefused { token });
        }
    }

    pub(crate) fn restart_election_timer(&mut self, now: Monotonic) {
        let timeout = self.config.election_timeout;
        let deadline = now.after(timeout + self.jitter.below(timeout));
        self.timers.set(Timer::Election, deadline);
    }

    /// A quorum voted for this member.
    pub(crate) fn become_leader(&mut self, now: Monotonic) {
        assert!(matches!(self.role, RoleState::Candidate(_)), "only a candidate wins");
        assert!(self.outbox.vote_is_durable(), "the own vote counts once it is durable");
        let first = self.log.last().index + 1;
        self.role = RoleState::Leader(Box::new(Leader {
            first,
            peers: BTreeMap::new(),
            rounds: HeartbeatRounds::default(),
            lease: LeaderLease::new(&self.config),
            reads: ReadQueue::default(),
            transfer: None,
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
        }));
        self.timers.clear_role();
        self.timers.set(Timer::CheckQuorum, now.after(self.config.election_timeout));
        self.adopt_peers(now);
        self.append_own(Payload::Barrier);
        self.begin_round(now);
    }

    /// Lets the leader's peers be exactly the other members of the membership in force.
    pub(crate) fn adopt_peers(&mut self, now: Monotonic) {
        let next = self.log.last().index + 1;
        let mut members = self.log.membership().members();
        members.remove(&self.config.node);
        let RoleState::Leader(leader) = &mut self.role else { return };
        leader.peers.retain(|node, _| members.contains(node));
        for node in members {
            leader.peers.entry(node).or_insert_with(|| Peer::new(next, now));
        }
    }

    /// Appends an entry of the own leadership.
    pub(crate) fn append_own(&mut self, payload: Payload) -> LogPosition {
        assert!(matches!(self.role, RoleState::Leader(_)), "only a leader appends on its own");
        let position = LogPosition::new(self.outbox.term(), self.log.last().index + 1);
        self.log.append(Entry { position, payload });
        position
    }
}
