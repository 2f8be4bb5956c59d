//! Raft: one member of one group (Ongaro & Ousterhout 2014; Ongaro's thesis).
//!
//! The host feeds what happened (`handle_*`) and what clients want (commands), calls
//! [`Raft::flush`] once its input queue is drained, and then takes every effect in order. Time is
//! an argument and never runs backwards.

use crate::{
    Config, Effect, Entry, HardState, Membership, MembershipError, Message, PeerProgress,
    PersistToken, ProposeError, ReadToken, Recovered, Role, TransferError,
};
use alloc::collections::{BTreeSet, VecDeque};
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

/// One member of one group.
#[derive(Debug)]
pub struct Raft {
    config: Config,
    hard_state: HardState,
    last: LogPosition,
    effects: VecDeque<Effect>,
}

impl Raft {
    /// Starts from what was recovered; a first start is `Recovered::first_start`. `seed` drives
    /// the randomised timeouts and must differ between members and between starts.
    ///
    /// # Panics
    /// If `config` is not valid.
    #[must_use]
    pub fn recover(config: Config, recovered: Recovered, _now: Monotonic, _seed: u64) -> Raft {
        config.validate().expect("the host validated the settings");
        Raft {
            config,
            last: recovered.log.last(),
            hard_state: recovered.hard_state,
            effects: VecDeque::new(),
        }
    }

    /// A message arrived. Any content is safe.
    pub fn handle_message(&mut self, _now: Monotonic, _message: Message) {}

    /// Time passed; a no-op before [`Raft::deadline`].
    pub fn handle_deadline(&mut self, _now: Monotonic) {}

    /// When `handle_deadline` is to be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        None
    }

    /// Everything in that `Effect::Persist` is durable.
    pub fn handle_persisted(&mut self, _now: Monotonic, _token: PersistToken) {}

    /// Answer to `Effect::ReadLog`: consecutive entries from the index asked for; empty if the log
    /// no longer holds it.
    pub fn handle_log_read(&mut self, _now: Monotonic, _peer: NodeId, _entries: Vec<Entry>) {}

    /// Answer to `Effect::ReadSnapshot`.
    pub fn handle_snapshot_read(&mut self, _now: Monotonic, _peer: NodeId, _read: SnapshotRead) {}

    /// Answer to `Effect::WriteSnapshot`; with `done`, the snapshot is the live state, durably.
    pub fn handle_snapshot_written(
        &mut self,
        _now: Monotonic,
        _position: LogPosition,
        _membership: Membership,
        _chunk: u64,
        _done: bool,
    ) {
    }

    /// A connection to `peer` was opened.
    pub fn handle_peer_connected(&mut self, _now: Monotonic, _peer: NodeId) {}

    /// The connection to `peer` was closed, by either side or by a fault.
    pub fn handle_peer_disconnected(&mut self, _now: Monotonic, _peer: NodeId) {}

    /// Appends `commands` (at least one) and returns the last one's position; it is committed if
    /// that very position (term included) is.
    ///
    /// # Errors
    /// Nothing was appended.
    pub fn propose(
        &mut self,
        _now: Monotonic,
        _commands: Vec<Bytes>,
    ) -> Result<LogPosition, ProposeError> {
        Err(ProposeError::NotLeader { leader: None })
    }

    /// Begins a membership change and returns its first entry's position. A change of voters goes
    /// through a joint configuration, which the leader leaves by itself; it is complete once
    /// `membership()` is as asked and that entry is committed.
    ///
    /// # Errors
    /// Nothing was appended.
    pub fn propose_membership(
        &mut self,
        _now: Monotonic,
        _change: MembershipChange,
    ) -> Result<LogPosition, MembershipError> {
        Err(MembershipError::NotLeader { leader: None })
    }

    /// Hands leadership to `to`, as soon as it has the whole log; gives up after an election
    /// timeout. Success shows as `Effect::RoleChanged`.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn transfer_leadership(
        &mut self,
        _now: Monotonic,
        _to: NodeId,
    ) -> Result<(), TransferError> {
        Err(TransferError::NotLeader { leader: None })
    }

    /// Asks up to which index a linearizable read that arrives now must see the state; answered by
    /// `Effect::ReadReady` or `Effect::ReadRefused`.
    ///
    /// # Errors
    /// No answer will come.
    pub fn read_index(&mut self, _now: Monotonic, _token: ReadToken) -> Result<(), ProposeError> {
        Err(ProposeError::NotLeader { leader: None })
    }

    /// Ends a drain of the host's input queue: sends what can be sent, starts one heartbeat round
    /// for all waiting reads, and emits at most one `Effect::Persist` (after the sends, so that
    /// disk and followers work in parallel). `now` is sampled after the drain.
    pub fn flush(&mut self, _now: Monotonic) {}

    /// The committed entries after those handed over, up to `max_bytes` (at least one entry).
    #[must_use]
    pub fn next_committed(&mut self, _max_bytes: usize) -> Committed {
        Committed::Nothing
    }

    /// The host has taken every committed entry up to `index`.
    pub fn handed_over(&mut self, _index: LogIndex) {}

    /// The state machine is durable up to `through`: the log may begin after it. How many entries
    /// to keep for slow followers is the host's decision. The host cuts its files only once the
    /// `Persist` that carries the new `log_start` is durable.
    pub fn compact_log(&mut self, _through: LogPosition) {}

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What this member is.
    #[must_use]
    pub fn role(&self) -> Role {
        Role::Follower
    }

    /// The latest term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// The leader of this term, itself included, if known and believed to be there.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        None
    }

    /// This member's name.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// The high-water mark.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        self.hard_state.log_start.index
    }

    /// The end of the log.
    #[must_use]
    pub fn last_position(&self) -> LogPosition {
        self.last
    }

    /// The first index that the log holds (or will hold).
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.hard_state.log_start.index + 1
    }

    /// The membership in force.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.hard_state.membership
    }

    /// The leader's view of the other members, in order; empty elsewhere.
    #[must_use]
    pub fn progress(&self) -> Vec<PeerProgress> {
        Vec::new()
    }

    /// Checks the inequalities between the positions, and more.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check_invariants(&self) {
        assert!(self.hard_state.log_start.index <= self.last.index, "log_start <= last");
    }
}
