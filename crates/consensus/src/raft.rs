//! Raft: one member of one group (Ongaro & Ousterhout 2014; Ongaro's thesis).
//!
//! The host feeds what happened (`handle_*`) and what clients want (commands), calls
//! [`Raft::flush`] once its input queue is drained, and then takes every effect in order. Time is
//! an argument and never runs backwards.

use crate::high_water_mark::HighWaterMark;
use crate::leader_and_followers::{Follower, RoleState};
use crate::leader_lease::LeasePromise;
use crate::outbox::Outbox;
use crate::replicated_log::ReplicatedLog;
use crate::snapshot_transfer::IncomingSnapshot;
use crate::timers::{Jitter, Timer, Timers};
use crate::{
    Body, Config, Effect, Entry, Membership, MembershipError, Message, Payload, PeerProgress,
    PersistToken, ProposeError, ReadToken, Recovered, Role, TransferError,
};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use bytes::Bytes;
use clocks::{LogIndex, LogPosition, Monotonic, NodeId, Term};

/// The membership that a change leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipChange {
    /// All voters afterwards.
    pub voters: BTreeSet<NodeId>,
    /// All learners afterwards.
    pub learners: BTreeSet<NodeId>,
}

/// One chunk of a snapshot, read for a peer: the answer to `Effect::ReadSnapshot`. The chunks of a
/// position are the same bytes however often they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRead {
    /// Last entry that the snapshot includes.
    pub position: LogPosition,
    /// The members at that entry.
    pub membership: Membership,
    /// Which chunk; 0 if the snapshot asked for is gone and this is another.
    pub chunk: u64,
    /// Opaque.
    pub data: Bytes,
    /// Whether this is the last chunk.
    pub done: bool,
}

/// Committed entries not yet handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// None, or a snapshot is being installed.
    Nothing,
    /// The next ones, at least one, consecutive.
    Entries(Vec<Entry>),
    /// The next ones left the cache: read them from the own log.
    OnDisk {
        /// First.
        from: LogIndex,
        /// Last.
        to: LogIndex,
    },
}

/// What the host was last told by effects.
#[derive(Debug)]
struct Announced {
    role: (Role, Term, Option<NodeId>),
    committed: LogIndex,
    membership: Membership,
}

/// One member of one group.
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) log: ReplicatedLog,
    pub(crate) mark: HighWaterMark,
    pub(crate) role: RoleState,
    pub(crate) promise: LeasePromise,
    pub(crate) incoming: IncomingSnapshot,
    pub(crate) outbox: Outbox,
    pub(crate) timers: Timers,
    pub(crate) jitter: Jitter,
    /// Names this start, should the member be damaged.
    pub(crate) nonce: u64,
    /// The entry with which a damaged member is whole again.
    pub(crate) whole_at: Option<LogPosition>,
    announced: Announced,
}

impl Raft {
    /// Starts from what was recovered; a first start is `Recovered::first_start`. `seed` drives
    /// the randomised timeouts and must differ between members and between starts.
    ///
    /// # Panics
    /// If `config` is not valid.
    #[must_use]
    pub fn recover(config: Config, recovered: Recovered, now: Monotonic, seed: u64) -> Raft {
        config.validate().expect("the host validated the settings");
        let Recovered { hard_state, log, memberships, tail, applied, log_reset, term_raised } =
            recovered;
        let (start, last) = (log.start(), log.last());
        let start_membership = hard_state.membership.clone();
        let log = ReplicatedLog::new(
            log,
            start_membership.clone(),
            memberships,
            tail,
            config.cache_bytes,
        );
        let mut jitter = Jitter::new(seed ^ config.node.0.rotate_left(32));
        let nonce = jitter.draw();
        let mut outbox = Outbox::new(config.group, config.node, hard_state, last.index);
        if log_reset {
            outbox.restarted_after(start, start_membership);
        }
        if term_raised {
            outbox.term_or_vote_changed();
        }
        let term = outbox.term();
        let mut raft = Raft {
            promise: LeasePromise::renewed(now, term, config.longest_lease),
            mark: HighWaterMark::new(applied.index),
            role: RoleState::Follower(Follower::default()),
            incoming: IncomingSnapshot::default(),
            timers: Timers::default(),
            announced: Announced {
                role: (Role::Follower, term, None),
                committed: applied.index,
                membership: log.membership().clone(),
            },
            whole_at: None,
            config,
            log,
            outbox,
            jitter,
            nonce,
        };
        raft.restart_election_timer(now);
        if raft.is_sole_voter() {
            // Nobody else could lead.
            raft.timers.set(Timer::Election, now);
        }
        raft
    }

    /// A message arrived. Any content is safe.
    pub fn handle_message(&mut self, now: Monotonic, message: Message) {
        let addressed = message.group == self.config.group
            && message.to == self.config.node
            && message.from != self.config.node
            && message.from != NodeId(0);
        if !addressed || !message.is_well_formed() || self.holds_back_vote(now, &message) {
            return;
        }
        let Message { from, term, body, .. } = message;
        match body {
            // Neither says anything about the term that the sender is in.
            Body::PreVote { last } => return self.handle_pre_vote(now, from, term, last),
            Body::PreVoteReply { granted: true } => {
                return self.handle_pre_vote_reply(now, from, term);
            }
            _ => {}
        }
        if term < self.outbox.term() {
            return self.answer_older_term(from, body);
        }
        if term > self.outbox.term() {
            self.enter_term(now, term);
        }
        self.handle_body(now, from, body);
    }

    /// A message of the current term.
    fn handle_body(&mut self, now: Monotonic, from: NodeId, body: Body) {
        match body {
            Body::PreVote { .. } | Body::PreVoteReply { .. } => {}
            Body::Vote { last, .. } => self.handle_vote(now, from, last),
            Body::VoteReply { granted } => self.handle_vote_reply(now, from, granted),
            Body::Append { previous, entries, committed } => {
                self.handle_append(now, from, previous, entries, committed);
            }
            Body::AppendOk { matched } => self.handle_append_ok(now, from, matched, true),
            Body::AppendHeld { matched } => self.handle_append_ok(now, from, matched, false),
            Body::AppendConflict { refused, hint } => {
                self.handle_append_conflict(now, from, refused, hint);
            }
            Body::Heartbeat { round, committed, lease } => {
                self.handle_heartbeat(now, from, round, committed, lease);
            }
            Body::HeartbeatReply { round } => self.handle_heartbeat_reply(now, from, round),
            Body::Returned { nonce } => self.handle_returned(now, from, nonce),
            Body::ReturnHeard { nonce, position } => self.handle_return_heard(nonce, position),
            Body::SnapshotChunk { position, membership, chunk, data, done } => {
                let read = SnapshotRead { position, membership, chunk, data, done };
                self.handle_snapshot_chunk(now, from, read);
            }
            Body::SnapshotAck { position, next } => {
                self.handle_snapshot_ack(now, from, position, next);
            }
            Body::TimeoutNow => self.handle_timeout_now(now, from),
        }
    }

    /// Whoever asks under an older term learns of the current one; answers need no answer.
    fn answer_older_term(&mut self, from: NodeId, body: Body) {
        let answer = match body {
            Body::Vote { .. } => Body::VoteReply { granted: false },
            Body::Heartbeat { round, .. } => Body::HeartbeatReply { round },
            Body::Append { previous, .. } => {
                Body::AppendConflict { refused: previous, hint: LogPosition::ZERO }
            }
            Body::SnapshotChunk { position, .. } => Body::SnapshotAck { position, next: 0 },
            _ => return,
        };
        self.outbox.send(from, answer);
    }

    /// Time passed; a no-op before [`Raft::deadline`].
    pub fn handle_deadline(&mut self, now: Monotonic) {
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Election => self.handle_election_timeout(now),
                Timer::AskAgain => self.ask_again(now),
                Timer::Campaign => self.campaign_after_promise(now),
                Timer::HeldVotes => self.release_votes(now),
                Timer::Heartbeat => self.begin_round(now),
                Timer::CheckQuorum => self.check_quorum(now),
                Timer::Transfer => self.abort_transfer(),
            }
        }
    }

    /// When `handle_deadline` is to be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        self.timers.next()
    }

    /// Everything in that `Effect::Persist` is durable.
    ///
    /// # Panics
    /// If it was never emitted.
    pub fn handle_persisted(&mut self, now: Monotonic, token: PersistToken) {
        let durable = self.outbox.written(token);
        if durable > self.log.durable() {
            self.log.durable_through(durable);
        }
        self.recover_standing();
        self.count_votes(now);
    }

    /// Answer to `Effect::ReadLog`: consecutive entries from the index asked for; empty if the log
    /// no longer holds it.
    pub fn handle_log_read(&mut self, now: Monotonic, peer: NodeId, entries: Vec<Entry>) {
        self.forward_log_read(now, peer, entries);
    }

    /// Answer to `Effect::ReadSnapshot`.
    pub fn handle_snapshot_read(&mut self, now: Monotonic, peer: NodeId, read: SnapshotRead) {
        self.forward_snapshot_read(now, peer, read);
    }

    /// Answer to `Effect::WriteSnapshot`; with `done`, the snapshot is the live state, durably, and
    /// committed entries go on after it.
    pub fn handle_snapshot_written(
        &mut self,
        _now: Monotonic,
        position: LogPosition,
        membership: Membership,
        chunk: u64,
        _done: bool,
    ) {
        self.snapshot_chunk_written(position, membership, chunk);
    }

    /// Answer to `Effect::WriteSnapshot` for a chunk that makes no sense: nothing was written.
    pub fn handle_snapshot_refused(&mut self, _now: Monotonic, position: LogPosition, chunk: u64) {
        self.snapshot_chunk_refused(position, chunk);
    }

    /// A connection to `peer` was opened: whatever was on the way to it is taken for lost.
    pub fn handle_peer_connected(&mut self, _now: Monotonic, peer: NodeId) {
        if let RoleState::Leader(leader) = &mut self.role
            && let Some(progress) = leader.peers.get_mut(&peer)
        {
            progress.reconnected();
            self.repeat_round(peer);
        }
    }

    /// The connection to `peer` was closed, by either side or by a fault. If that is the leader,
    /// it has probably crashed: an election is prepared at once. Lease promises stay.
    pub fn handle_peer_disconnected(&mut self, now: Monotonic, peer: NodeId) {
        if self.leader() == Some(peer) {
            self.suspect_leader(now);
        }
    }

    /// Appends `commands` (at least one) and returns the last one's position; it is committed if
    /// that very position (term included) is.
    ///
    /// # Errors
    /// Nothing was appended.
    ///
    /// # Panics
    /// Without commands.
    pub fn propose(
        &mut self,
        _now: Monotonic,
        commands: Vec<Bytes>,
    ) -> Result<LogPosition, ProposeError> {
        assert!(!commands.is_empty(), "a proposal has commands");
        let leader_known = self.leader();
        let RoleState::Leader(leader) = &mut self.role else {
            return Err(ProposeError::NotLeader { leader: leader_known });
        };
        if leader.transfer.is_some() {
            return Err(ProposeError::Transferring);
        }
        let entries: Vec<Payload> = commands.into_iter().map(Payload::Command).collect();
        let bytes: usize = entries.iter().map(Payload::weight).sum();
        let total = leader.uncommitted_bytes.saturating_add(bytes);
        if total > self.config.max_uncommitted_bytes && leader.uncommitted_bytes > 0 {
            return Err(ProposeError::Overloaded);
        }
        leader.uncommitted_bytes = total;
        for payload in entries {
            self.append_own(payload);
        }
        let last = self.log.last();
        if let RoleState::Leader(leader) = &mut self.role {
            leader.uncommitted.push_back((last.index, bytes));
        }
        Ok(last)
    }

    /// Begins a membership change and returns its first entry's position (or, if nothing would
    /// change, that of the membership in force). A change of voters goes through a joint
    /// configuration, which the leader leaves by itself; the change is complete once `membership()`
    /// is as asked and committed. A leader that is no voter afterwards steps down.
    ///
    /// # Errors
    /// Nothing was appended.
    pub fn propose_membership(
        &mut self,
        now: Monotonic,
        change: MembershipChange,
    ) -> Result<LogPosition, MembershipError> {
        self.begin_membership_change(now, change)
    }

    /// Hands leadership to `to`, as soon as it has the whole log; gives up after an election
    /// timeout. Success shows as `Effect::RoleChanged`.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn transfer_leadership(&mut self, now: Monotonic, to: NodeId) -> Result<(), TransferError> {
        self.begin_transfer(now, to)
    }

    /// Asks up to which index a linearizable read that arrives now must see the state; answered by
    /// `Effect::ReadReady` (at once, if a lease holds at `now`) or `Effect::ReadRefused`.
    ///
    /// # Errors
    /// No answer will come.
    pub fn read_index(&mut self, now: Monotonic, token: ReadToken) -> Result<(), ProposeError> {
        let leader_known = self.leader();
        let RoleState::Leader(leader) = &mut self.role else {
            return Err(ProposeError::NotLeader { leader: leader_known });
        };
        if leader.reads.len() >= self.config.max_waiting_reads {
            return Err(ProposeError::Overloaded);
        }
        leader.reads.push(token);
        self.answer_reads(now);
        Ok(())
    }

    /// Ends a drain of the host's input queue; must follow every other call before effects are
    /// taken. Sends what can be sent, starts one heartbeat round for all waiting reads, and emits
    /// at most one `Effect::Persist` (after the sends, so that disk and followers work in
    /// parallel). `now` is sampled after the drain.
    pub fn flush(&mut self, now: Monotonic) {
        self.advance_mark(now);
        self.answer_reads(now);
        if let RoleState::Leader(leader) = &self.role
            && leader.reads.wants_round()
            && self.has_committed_own_term()
        {
            self.begin_round(now);
            // A sole voter is a quorum by itself.
            self.answer_reads(now);
        }
        self.drive_transfer();
        self.replicate(now);
        self.outbox.write(&self.log);
        self.announce();
    }

    /// Tells the host what changed since the last flush.
    fn announce(&mut self) {
        let role = (self.role(), self.term(), self.leader());
        if role != self.announced.role {
            self.announced.role = role;
            let (role, term, leader) = role;
            self.outbox.emit(Effect::RoleChanged { role, term, leader });
        }
        if *self.log.membership() != self.announced.membership {
            self.announced.membership = self.log.membership().clone();
            self.outbox.emit(Effect::MembershipChanged(self.announced.membership.clone()));
        }
        let committed = self.mark.committed();
        if committed != self.announced.committed {
            self.announced.committed = committed;
            self.outbox.emit(Effect::Committed(committed));
        }
    }

    /// The committed entries after those handed over, up to `max_bytes` (at least one entry).
    #[must_use]
    pub fn next_committed(&mut self, max_bytes: usize) -> Committed {
        self.committed_entries(max_bytes)
    }

    /// The host has taken every committed entry up to `index`.
    ///
    /// # Panics
    /// If that is not committed, or before what was handed over already.
    pub fn handed_over(&mut self, index: LogIndex) {
        self.mark.hand_over(index);
    }

    /// The state machine is durable up to `through`: the log may begin after it (if it does not
    /// begin later already). How many entries to keep for slow followers is the host's decision.
    /// The host cuts its files only once the `Persist` that carries the new `log_start` is durable.
    ///
    /// # Panics
    /// If `through` was not handed over, or is not in the log.
    pub fn compact_log(&mut self, through: LogPosition) {
        if through.index <= self.log.start().index {
            return;
        }
        assert!(through.index <= self.mark.handed_over(), "only what was applied can be flushed");
        let membership = self.log.compact(through).clone();
        self.outbox.set_log_start(through, membership);
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.outbox.poll_effect()
    }
}

/// What can be asked.
impl Raft {
    /// What this member is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role.role()
    }

    /// The latest term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.outbox.term()
    }

    /// The leader of this term, itself included, if known and believed to be there.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            RoleState::Leader(_) => Some(self.config.node),
            RoleState::Follower(follower) => follower.leader,
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
        }
    }

    /// This member's name.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// The high-water mark, as of the last flush.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        self.mark.committed()
    }

    /// The end of the log.
    #[must_use]
    pub fn last_position(&self) -> LogPosition {
        self.log.last()
    }

    /// Everything up to here is durable on this member.
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        self.log.durable()
    }

    /// The position of an index in the log (or of its start), for outside checkers.
    #[must_use]
    pub fn position_at(&self, index: LogIndex) -> Option<LogPosition> {
        self.log.position_at(index)
    }

    /// The first index that the log holds (or will hold).
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.log.start().index + 1
    }

    /// The membership in force.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// Whether the membership in force is committed.
    #[must_use]
    pub fn membership_is_committed(&self) -> bool {
        self.log.membership_index() <= self.mark.committed()
    }

    /// Whether this member lost part of its log and is not yet in full standing.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.outbox.hard_state().damaged
    }

    /// The leader's view of the other members, in order; empty elsewhere.
    #[must_use]
    pub fn progress(&self) -> Vec<PeerProgress> {
        match &self.role {
            RoleState::Leader(leader) => {
                leader.peers.iter().map(|(node, peer)| peer.progress(*node)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Checks the inequalities between the positions, and what every part promises of itself.
    /// To be called after a flush.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check_invariants(&self) {
        let (start, last) = (self.log.start().index, self.log.last().index);
        let (handed, committed) = (self.mark.handed_over(), self.mark.committed());
        assert!(start <= handed && handed <= committed, "start <= handed over <= committed");
        assert!(committed <= last, "committed <= last");
        assert!(self.log.last().term <= self.term(), "no entry is of a later term");
        self.log.check_invariants();
        self.outbox.check_invariants(&self.log);
        if let RoleState::Leader(leader) = &self.role {
            let hard_state = self.outbox.hard_state();
            assert!(hard_state.voted_for == Some(self.config.node), "a leader voted for itself");
            assert!(!leader.peers.contains_key(&self.config.node), "a leader is not its own peer");
            let bytes: usize = leader.uncommitted.iter().map(|(_, bytes)| bytes).sum();
            assert!(bytes == leader.uncommitted_bytes, "the leader knows what is uncommitted");
            for peer in leader.peers.values() {
                peer.check_invariants(last, &self.config);
            }
        }
    }
}
