//! Election: how a leader is chosen, and what keeps a needless election from happening.
//!
//! Raft, section 5.2, with pre-vote (thesis, section 9.6): before it disturbs anybody, a member
//! asks whether a quorum would vote for it. Members that hear their leader would not (stickiness),
//! so neither a member that was cut off nor one that was removed can depose a leader. A closed
//! connection to the leader ends the stickiness at once. Of members that notice together, all but
//! one let another go first.

use crate::config::DISCONNECT_JITTER;
use crate::leader_and_followers::{Candidate, Follower, PreCandidate, RoleState};
use crate::raft::Raft;
use crate::timers::Timer;
use crate::{Body, Message};
use alloc::collections::BTreeSet;
use clocks::{LogPosition, Monotonic, NodeId, Term};
use mutants::{Bug, planted};

impl Raft {
    /// The leader was silent for too long, or the election came to nothing.
    pub(crate) fn handle_election_timeout(&mut self, now: Monotonic) {
        if self.is_promotable() {
            self.become_pre_candidate(now);
        } else {
            self.become_follower(now, Follower::default());
        }
    }

    /// The connection to the leader was closed: it has probably crashed.
    pub(crate) fn suspect_leader(&mut self, now: Monotonic) {
        let RoleState::Follower(follower) = &mut self.role else { return };
        *follower = Follower::default();
        let soon = now.after(self.jitter.below(DISCONNECT_JITTER));
        self.timers.set(Timer::Election, soon);
    }

    fn become_pre_candidate(&mut self, now: Monotonic) {
        assert!(!matches!(self.role, RoleState::Leader(_)), "a leader does not campaign");
        let granted = BTreeSet::from([self.config.node]);
        self.role = RoleState::PreCandidate(PreCandidate { granted, won: false });
        self.timers.clear_role();
        self.ask_again(now);
        self.count_pre_votes(now);
    }

    /// Enters the next term and votes for itself. With `transfer`, the old leader asked for it.
    pub(crate) fn become_candidate(&mut self, now: Monotonic, transfer: bool) {
        assert!(self.is_promotable(), "only a voter campaigns");
        let term = self.outbox.term().next();
        assert!(!self.promise.forbids_vote(now, term, transfer), "a promise binds its giver too");
        self.outbox.enter_term(term);
        self.outbox.vote_for(self.config.node);
        let (granted, answered) = (BTreeSet::new(), BTreeSet::new());
        self.role = RoleState::Candidate(Candidate { granted, answered, transfer });
        self.timers.clear_role();
        self.restart_election_timer(now);
        self.ask_again(now);
    }

    /// Asks every voter that has not answered.
    pub(crate) fn ask_again(&mut self, now: Monotonic) {
        let last = self.log.last();
        let next_term = self.outbox.term().next();
        let membership = self.log.membership();
        let voters = membership.voters.union(&membership.outgoing).copied();
        for voter in voters.filter(|voter| *voter != self.config.node) {
            match &self.role {
                RoleState::PreCandidate(candidate) if !candidate.granted.contains(&voter) => {
                    self.outbox.send_about_term(voter, next_term, Body::PreVote { last });
                }
                RoleState::Candidate(candidate) if !candidate.answered.contains(&voter) => {
                    let transfer = candidate.transfer;
                    self.outbox.send(voter, Body::Vote { last, transfer });
                }
                _ => {}
            }
        }
        let pause = self.config.election_timeout / 4;
        self.timers.set(Timer::AskAgain, now.after(pause + self.jitter.below(pause)));
    }

    pub(crate) fn handle_pre_vote(
        &mut self,
        now: Monotonic,
        from: NodeId,
        term: Term,
        last: LogPosition,
    ) {
        let would_refuse = match &self.role {
            RoleState::Leader(_) => true,
            RoleState::Follower(follower) => {
                follower.heard.is_some_and(|heard| now.since(heard) < self.config.election_timeout)
            }
            // About to campaign itself.
            RoleState::PreCandidate(candidate) => candidate.won,
            RoleState::Candidate(_) => false,
        };
        let granted = !would_refuse
            && term > self.outbox.term()
            && last >= self.log.last()
            && !self.outbox.hard_state().damaged;
        if granted {
            self.let_go_first(now, from, last);
            self.outbox.send_about_term(from, term, Body::PreVoteReply { granted });
        } else {
            self.outbox.send(from, Body::PreVoteReply { granted });
        }
    }

    /// Puts the own candidacy off, once per lost leader, in favour of one that has as good a log:
    /// two that campaign together would split the vote.
    fn let_go_first(&mut self, now: Monotonic, other: NodeId, last: LogPosition) {
        let pause = self.config.election_timeout / 4;
        let later = now.max(self.promise.until()).after(pause + self.jitter.below(pause));
        let own = (self.log.last(), self.config.node);
        match &mut self.role {
            RoleState::Follower(follower) if !follower.yielded => {
                follower.yielded = true;
                let deadline = self.timers.get(Timer::Election).unwrap_or(later);
                self.timers.set(Timer::Election, deadline.max(later));
            }
            RoleState::PreCandidate(_) if (last, other) > own => {
                self.become_follower(now, Follower { yielded: true, ..Follower::default() });
                self.timers.set(Timer::Election, later);
            }
            _ => {}
        }
    }

    pub(crate) fn handle_pre_vote_reply(&mut self, now: Monotonic, from: NodeId, term: Term) {
        let about_next = term == self.outbox.term().next();
        let RoleState::PreCandidate(candidate) = &mut self.role else { return };
        if about_next && !candidate.won {
            candidate.granted.insert(from);
            self.count_pre_votes(now);
        }
    }

    fn count_pre_votes(&mut self, now: Monotonic) {
        let RoleState::PreCandidate(candidate) = &mut self.role else { return };
        let membership = self.log.membership();
        if membership.is_quorum(|voter| candidate.granted.contains(&voter)) {
            candidate.won = true;
            self.timers.clear(Timer::AskAgain);
            self.campaign_after_promise(now);
        }
    }

    /// A pre-candidate that has won campaigns as soon as its own lease promise allows.
    pub(crate) fn campaign_after_promise(&mut self, now: Monotonic) {
        if !self.is_promotable() {
            self.become_follower(now, Follower::default());
        } else if self.promise.forbids_vote(now, self.outbox.term().next(), false) {
            self.timers.set(Timer::Campaign, self.promise.until());
        } else {
            self.become_candidate(now, false);
        }
    }

    /// Whether a vote request has to wait for the end of the lease promise; if so, keeps it.
    pub(crate) fn holds_back_vote(&mut self, now: Monotonic, message: &Message) -> bool {
        let Body::Vote { transfer, .. } = message.body else { return false };
        let hard_state = self.outbox.hard_state();
        let repeated =
            message.term == hard_state.term && hard_state.voted_for == Some(message.from);
        let waits = message.term >= hard_state.term
            && !repeated
            && self.promise.forbids_vote(now, message.term, transfer);
        if waits {
            self.promise.hold(message.clone());
            self.timers.set(Timer::HeldVotes, self.promise.until());
        }
        waits
    }

    /// The promise may be over: looks again at the vote requests that waited for it.
    pub(crate) fn release_votes(&mut self, now: Monotonic) {
        if now < self.promise.until() {
            return self.timers.set(Timer::HeldVotes, self.promise.until());
        }
        for message in self.promise.release() {
            self.handle_message(now, message);
        }
    }

    /// A vote request of the current term.
    pub(crate) fn handle_vote(&mut self, now: Monotonic, from: NodeId, last: LogPosition) {
        let vote = self.outbox.hard_state().voted_for;
        let leaderless = match &self.role {
            RoleState::Follower(follower) => follower.leader.is_none(),
            RoleState::PreCandidate(_) => true,
            RoleState::Candidate(_) | RoleState::Leader(_) => false,
        };
        let up_to_date = last >= self.log.last();
        let gives = vote.is_none() && leaderless && up_to_date;
        let granted = (gives || vote == Some(from)) && !self.outbox.hard_state().damaged;
        if granted {
            self.outbox.vote_for(from);
            if gives {
                let own = self.timers.get(Timer::Election);
                self.become_follower(now, Follower { yielded: true, ..Follower::default() });
                if let Some(own) = own.filter(|_| planted(Bug::VoteKeepsTimer)) {
                    self.timers.set(Timer::Election, own);
                }
            }
        }
        self.outbox.send(from, Body::VoteReply { granted });
    }

    pub(crate) fn handle_vote_reply(&mut self, now: Monotonic, from: NodeId, granted: bool) {
        let RoleState::Candidate(candidate) = &mut self.role else { return };
        candidate.answered.insert(from);
        if granted {
            candidate.granted.insert(from);
        }
        self.count_votes(now);
    }

    /// Counts the votes; the own one once it is durable.
    pub(crate) fn count_votes(&mut self, now: Monotonic) {
        let RoleState::Candidate(candidate) = &mut self.role else { return };
        if !self.outbox.vote_is_durable() {
            return;
        }
        candidate.granted.insert(self.config.node);
        let membership = self.log.membership();
        if membership.is_quorum(|voter| candidate.granted.contains(&voter)) {
            self.become_leader(now);
        }
    }
}
