//! What the machine wants done. The host takes effects in order; completions come back as
//! `handle_*` calls, in any order and at any later time, or never after a crash.

use crate::{Entry, Membership, Message, Role};
use alloc::vec::Vec;
use bytes::Bytes;
use clocks::{LogIndex, LogPosition, NodeId, Term};

/// Names one [`Persist`]; grows with every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersistToken(pub u64);

/// Names a read-index request; chosen by the host, unique while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadToken(pub u64);

/// What Raft persists besides entries (Raft, figure 2), and what a restart needs of the log that
/// entries alone do not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Whom this node voted for in that term.
    pub voted_for: Option<NodeId>,
    /// The log begins after this position: what came before is in the snapshot.
    pub log_start: LogPosition,
    /// The membership in force at `log_start`.
    pub membership: Membership,
    /// Set (and synced) by the host when it found part of the log lost to corruption: the member
    /// neither votes nor vouches until it holds a committed entry that a leader appended after
    /// hearing of its return; Raft then clears it.
    pub damaged: bool,
}

/// Writes that belong together: after a crash either a prefix of `entries` is there or all of
/// them, and `hard_state` is never older than they need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Give it back to `handle_persisted` once everything is durable.
    pub token: PersistToken,
    /// Set when it changed.
    pub hard_state: Option<HardState>,
    /// Replace whatever the log holds from the first entry's index on. Empty: no change.
    pub entries: Vec<Entry>,
    /// Set when an installed snapshot replaced the whole log: drop every entry first.
    pub reset: Option<LogPosition>,
}

/// One thing to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send now; may be lost. Whatever had to be durable before it is.
    Send(Message),
    /// Make durable, then call `handle_persisted`.
    Persist(Persist),
    /// The high-water mark moved: `next_committed` has more.
    Committed(LogIndex),
    /// Reads up to here may be served once `index` is applied.
    ReadReady {
        /// The request.
        token: ReadToken,
        /// Apply at least up to here first.
        index: LogIndex,
    },
    /// The read was not confirmed: leadership was lost. Ask the new leader.
    ReadRefused {
        /// The request.
        token: ReadToken,
    },
    /// Read entries `from..` (at most `max_bytes`) of the own log for `peer`, whose next entries
    /// left the cache; answer with `handle_log_read`.
    ReadLog {
        /// Who lacks them.
        peer: NodeId,
        /// First index wanted.
        from: LogIndex,
        /// Bound on the sum of weights; at least one entry is returned.
        max_bytes: usize,
    },
    /// `peer` lacks entries that the log no longer holds: open a snapshot of the state machine (at
    /// any applied position at or after `log_start`; reuse one that is open for this peer and
    /// still has chunk `chunk`), and answer with `handle_snapshot_read`.
    ReadSnapshot {
        /// Who lacks it.
        peer: NodeId,
        /// The snapshot in progress, or none to begin one.
        position: Option<LogPosition>,
        /// The chunk wanted, from 0.
        chunk: u64,
    },
    /// Write this chunk of a snapshot beside the live state, then `handle_snapshot_written`. Chunk
    /// 0 discards every earlier unfinished one.
    WriteSnapshot {
        /// Position the snapshot is of.
        position: LogPosition,
        /// The members at that position; becomes part of the live state.
        membership: Membership,
        /// Number of the chunk.
        chunk: u64,
        /// Opaque.
        data: Bytes,
        /// The last one: make the snapshot the live state, durably, before answering.
        done: bool,
    },
    /// Whoever leads contradicts an entry that this member knows committed: safety is broken, by a
    /// defect or by lost disks. The host stops the group and says so; nothing was changed.
    Contradicted {
        /// Which entry.
        index: LogIndex,
    },
    /// Role, term or known leader changed.
    RoleChanged {
        /// What this node is now.
        role: Role,
        /// In which term.
        term: Term,
        /// Whom it follows, itself included.
        leader: Option<NodeId>,
    },
    /// The membership in force changed (on append, or back on truncation).
    MembershipChanged(Membership),
}
