//! Nothing is said before what it promises is durable.
//!
//! The term, the vote and the log are written before any message that relies on them (Raft,
//! figure 2). Writes are asynchronous: they are gathered into numbered [`Persist`]s, and a message
//! is held until the one that it relies on, and every one before, is complete. A completion counts
//! only for the entries that the log still holds: once an entry is replaced, the write of its
//! predecessor no longer covers its index, however late that write completes (the ABA race).
//!
//! Invariant: every message held is of the current term; leaving a term drops them.

use crate::config::MAX_HELD_MESSAGES;
use crate::replicated_log::ReplicatedLog;
use crate::{Body, Effect, HardState, Membership, Message, Persist, PersistToken};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use clocks::{GroupId, LogIndex, LogPosition, NodeId, Term};
use mutants::{Bug, planted};

/// A write that was emitted and not yet reported complete, or not all before it were.
#[derive(Debug)]
struct InFlight {
    token: PersistToken,
    complete: bool,
    /// The log is durable up to here once this is complete; lowered when entries are replaced.
    covers: LogIndex,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    group: GroupId,
    node: NodeId,
    hard_state: HardState,
    hard_state_changed: bool,
    /// Entries from here on go into the next write.
    first_unwritten: LogIndex,
    reset: Option<LogPosition>,
    in_flight: VecDeque<InFlight>,
    /// Everything up to this token is durable.
    complete: PersistToken,
    /// The token of the next write.
    next: PersistToken,
    /// The write that carries the current term and vote.
    vote: PersistToken,
    /// By token, then in the order in which they were said.
    held: VecDeque<(PersistToken, Message)>,
    effects: VecDeque<Effect>,
}

impl Outbox {
    /// `hard_state` and the log up to `last` are durable.
    pub(crate) fn new(
        group: GroupId,
        node: NodeId,
        hard_state: HardState,
        last: LogIndex,
    ) -> Outbox {
        Outbox {
            group,
            node,
            hard_state,
            hard_state_changed: false,
            first_unwritten: last + 1,
            reset: None,
            in_flight: VecDeque::new(),
            complete: PersistToken(0),
            next: PersistToken(1),
            vote: PersistToken(0),
            held: VecDeque::new(),
            effects: VecDeque::new(),
        }
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(crate) fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Moves to a later term, in which no vote is given yet.
    pub(crate) fn enter_term(&mut self, term: Term) {
        assert!(term > self.hard_state.term, "terms never regress");
        self.hard_state.term = term;
        self.hard_state.voted_for = None;
        self.term_or_vote_changed();
        self.held.clear();
    }

    pub(crate) fn vote_for(&mut self, candidate: NodeId) {
        let vote = self.hard_state.voted_for;
        assert!(vote.is_none_or(|given| given == candidate), "one vote a term");
        if vote.is_none() {
            self.hard_state.voted_for = Some(candidate);
            self.term_or_vote_changed();
        }
    }

    /// The term, and the vote in it, have to be written (again).
    pub(crate) fn term_or_vote_changed(&mut self) {
        self.hard_state_changed = true;
        self.vote = self.next;
    }

    pub(crate) fn vote_is_durable(&self) -> bool {
        self.vote <= self.complete
    }

    pub(crate) fn set_log_start(&mut self, start: LogPosition, membership: Membership) {
        self.hard_state.log_start = start;
        self.hard_state.membership = membership;
        self.hard_state_changed = true;
        self.first_unwritten = self.first_unwritten.max(start.index + 1);
    }

    /// The member is whole again.
    pub(crate) fn clear_damaged(&mut self) {
        self.hard_state.damaged = false;
        self.term_or_vote_changed();
    }

    /// The log's entries after `index` were dropped.
    pub(crate) fn truncated_after(&mut self, index: LogIndex) {
        self.first_unwritten = self.first_unwritten.min(index + 1);
        if planted(Bug::StaleWriteCounts) {
            return;
        }
        for write in &mut self.in_flight {
            write.covers = write.covers.min(index);
        }
    }

    /// The whole log was replaced by the state at `start`.
    pub(crate) fn restarted_after(&mut self, start: LogPosition, membership: Membership) {
        self.in_flight.iter_mut().for_each(|write| write.covers = 0);
        self.first_unwritten = start.index + 1;
        self.reset = Some(start);
        self.set_log_start(start, membership);
    }

    /// Emits what is not a message.
    pub(crate) fn emit(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Says `body` in the current term, once that term and the vote in it are durable.
    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        if planted(Bug::VoteBeforeSync) && matches!(body, Body::VoteReply { .. }) {
            return self.send_after(PersistToken(0), to, self.term(), body);
        }
        self.send_after(self.vote, to, self.term(), body);
    }

    /// As `send`, in a term that was only asked about.
    pub(crate) fn send_about_term(&mut self, to: NodeId, term: Term, body: Body) {
        self.send_after(self.vote, to, term, body);
    }

    /// As `send`, once the log is durable up to `index` too.
    pub(crate) fn send_once_durable(
        &mut self,
        to: NodeId,
        body: Body,
        index: LogIndex,
        log: &ReplicatedLog,
    ) {
        let log_token = if index <= log.durable() {
            PersistToken(0)
        } else {
            let write = self.in_flight.iter().find(|write| write.covers >= index);
            write.map_or(self.next, |write| write.token)
        };
        self.send_after(log_token.max(self.vote), to, self.term(), body);
    }

    /// As `send`, once everything that is to be written now is durable.
    pub(crate) fn send_after_next_write(&mut self, to: NodeId, body: Body) {
        self.send_after(self.next, to, self.term(), body);
    }

    fn send_after(&mut self, token: PersistToken, to: NodeId, term: Term, body: Body) {
        let message = Message { group: self.group, from: self.node, to, term, body };
        if token <= self.complete {
            self.effects.push_back(Effect::Send(message));
            return;
        }
        let place = self.held.partition_point(|(held, _)| *held <= token);
        // Of two acknowledgements that wait for the same write, the later says it all.
        if let Some((held, before)) = place.checked_sub(1).and_then(|at| self.held.get_mut(at))
            && *held == token
            && supersedes(&message, before)
        {
            *before = message;
            return;
        }
        if self.held.len() < MAX_HELD_MESSAGES {
            self.held.insert(place, (token, message));
        }
    }

    /// Emits one write with everything that has to be written, if there is anything.
    pub(crate) fn write(&mut self, log: &ReplicatedLog) {
        let last = log.last().index;
        let unwritten = self.first_unwritten <= last;
        if !unwritten && !self.hard_state_changed && self.reset.is_none() {
            assert!(self.held.iter().all(|(token, _)| *token < self.next), "nothing waits in vain");
            return;
        }
        let entries = if unwritten {
            log.cached(self.first_unwritten, last, usize::MAX, usize::MAX)
                .expect("what is not durable is cached")
        } else {
            Vec::new()
        };
        let token = self.next;
        self.next = PersistToken(token.0 + 1);
        self.first_unwritten = last + 1;
        self.in_flight.push_back(InFlight { token, complete: false, covers: last });
        let hard_state = self.hard_state_changed.then(|| self.hard_state.clone());
        self.hard_state_changed = false;
        let reset = self.reset.take();
        self.effects.push_back(Effect::Persist(Persist { token, hard_state, entries, reset }));
    }

    /// A write is complete. Releases the messages that waited for it, and returns up to where the
    /// log is durable now.
    pub(crate) fn written(&mut self, token: PersistToken) -> LogIndex {
        assert!(token < self.next, "only what was emitted can be complete");
        for write in &mut self.in_flight {
            write.complete |= write.token == token;
        }
        let mut durable = 0;
        while let Some(write) = self.in_flight.pop_front_if(|write| write.complete) {
            self.complete = write.token;
            durable = durable.max(write.covers);
        }
        while let Some((_, message)) = self.held.pop_front_if(|(t, _)| *t <= self.complete) {
            self.effects.push_back(Effect::Send(message));
        }
        durable
    }

    pub(crate) fn check_invariants(&self, log: &ReplicatedLog) {
        assert!(self.first_unwritten <= log.last().index + 1, "only the log is written");
        assert!(log.durable() < self.first_unwritten, "what is durable was written");
        assert!(self.complete < self.next && self.vote <= self.next, "tokens are in order");
        assert!(self.hard_state.log_start == log.start(), "the hard state knows the log's start");
        let ascending = self.held.iter().zip(self.held.iter().skip(1)).all(|(a, b)| a.0 <= b.0);
        assert!(ascending, "messages are held in order");
    }
}

/// Whether an acknowledgement makes an earlier one needless.
fn supersedes(message: &Message, before: &Message) -> bool {
    let says_more = match (&message.body, &before.body) {
        (Body::AppendOk { matched }, Body::AppendOk { matched: earlier }) => matched >= earlier,
        (Body::HeartbeatReply { round }, Body::HeartbeatReply { round: earlier }) => {
            round >= earlier
        }
        _ => false,
    };
    says_more && message.to == before.to && message.term == before.term
}
