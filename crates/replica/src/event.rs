//! What goes into and comes out of the machines of a node core. Each effect names its receiver, so
//! that a host only routes; queues between the machines keep their order.
//!
//! ```text
//! front ends ─Request─▶ ┌────────────┐ ─ApplierEvent─▶ ┌─────────┐ ─▶ watch hub
//! peers ─────Peer─────▶ │ LogMachine │                 │ Applier │ ─▶ front ends
//! disk ──────Disk─────▶ └────────────┘ ◀───LogEvent─── └─────────┘
//! ```

use crate::{PeerMessage, Reply, Request, RequestError, RequestId};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, NodeId, Term};
use consensus::{Entry, Membership, Role, SnapshotRead};
use std::sync::Arc;
use store::command::SessionId;
use store::range::Revision;
use store::reply::Outcome;
use store::{Accounts, LeaseStatus, MemberTable, RevisionEvents};
use wal::DiskCompletion;

/// Input of the log machine.
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// A front end wants something.
    Request(Request),
    /// A message of a peer arrived.
    Peer {
        /// The sender, as authenticated by the handshake.
        from: NodeId,
        /// What it said.
        message: PeerMessage,
    },
    /// The connection to a peer is up.
    Connected(NodeId),
    /// The connection to a peer closed.
    Disconnected(NodeId),
    /// The disk finished an operation of the log.
    Disk(DiskCompletion),
    /// Free disk space fell below the reserve, or rose above it again.
    ShortOfSpace(bool),
    /// From the applier: entries were applied.
    Applied {
        /// Whose.
        group: GroupId,
        /// Up to here.
        index: LogIndex,
        /// Weight of the entries applied.
        weight: usize,
        /// Own requests that got their outcome.
        answered: Vec<u64>,
        /// Chain hashes at the indexes that are compared between members.
        hashes: Vec<(LogIndex, u64)>,
        /// Where the group's leases stand after them.
        leases: LeaseStatus,
    },
    /// From the applier: the session was opened, or refused as unknown.
    Session {
        /// Whose.
        group: GroupId,
        /// Which.
        session: SessionId,
        /// Whether it is open.
        open: bool,
    },
    /// From the applier: the state up to here is durable in the engine.
    Flushed {
        /// Whose.
        group: GroupId,
        /// The low-water mark may rise to here.
        position: LogPosition,
    },
    /// From the applier: part of a snapshot for a lagging peer.
    SnapshotRead {
        /// Whose.
        group: GroupId,
        /// Who lags.
        peer: NodeId,
        /// The part.
        read: SnapshotRead,
    },
    /// From the applier: part of a snapshot was written; when `done`, it is the state now.
    SnapshotWritten {
        /// Whose.
        group: GroupId,
        /// Of which position.
        position: LogPosition,
        /// The members at that position.
        membership: Membership,
        /// Which part.
        chunk: u64,
        /// Whether it was the last.
        done: bool,
    },
    /// From the applier: part of a snapshot makes no sense; the transfer is to begin anew.
    SnapshotRefused {
        /// Whose.
        group: GroupId,
        /// Of which position.
        position: LogPosition,
        /// Which part.
        chunk: u64,
    },
    /// A peer refused to talk: this member was removed from the cluster.
    Removed,
    /// From the applier: who is to be a member of every group, and whenever what is known of one
    /// has changed.
    MemberTable(MemberTable),
    /// From the applier: an own change of membership is applied to the member table. It is
    /// answered once every group has adopted it.
    MembershipApplied {
        /// Whom to answer.
        request: RequestId,
        /// Its number, within the session of the consistent core.
        sequence: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// From the applier: what the consistent core says of feature levels.
    FeatureLevel {
        /// Formats and commands up to this level may be written.
        level: u32,
        /// Every member speaks this one, at least `level`.
        possible: u32,
    },
}

/// Output of the log machine.
#[derive(Clone, Debug)]
pub enum LogEffect {
    /// Tell a peer; drop it if there is no connection or its queue is full.
    Send {
        /// The receiver.
        to: NodeId,
        /// The message.
        message: PeerMessage,
    },
    /// Hand to the applier, in order.
    Applier(ApplierEvent),
    /// A request ended; unknown ids are ignored.
    Reply {
        /// Which.
        request: RequestId,
        /// How.
        result: Result<Reply, RequestError>,
    },
    /// Role, term or leader of a group changed.
    RoleChanged {
        /// Whose.
        group: GroupId,
        /// What this node is now.
        role: Role,
        /// In which term.
        term: Term,
        /// The leader, itself included.
        leader: Option<NodeId>,
    },
    /// The members, or what is known of them, changed.
    Peers {
        /// Connect to exactly these.
        members: Vec<NodeId>,
        /// No group needs anybody else: who was removed may be told so.
        settled: bool,
    },
    /// This member was removed from the cluster, which its data directory must remember, and the
    /// node must stop; the sentence says so.
    Removed(String),
    /// The node must stop; the sentence says why and what to do.
    Fatal(String),
}

/// Input of the applier.
#[derive(Clone, Debug)]
pub enum ApplierEvent {
    /// Apply these committed entries.
    Apply {
        /// Whose.
        group: GroupId,
        /// Consecutive, following those before.
        entries: Vec<Entry>,
    },
    /// An own request is under way: answer it when its entry is applied.
    Expect {
        /// Whose.
        group: GroupId,
        /// Our session there.
        session: SessionId,
        /// Number within the session.
        sequence: u64,
        /// Whom to answer; the core's own requests have nobody.
        request: Option<RequestId>,
    },
    /// Nobody waits for this one any more.
    Forget {
        /// Whose.
        group: GroupId,
        /// Our session there.
        session: SessionId,
        /// Number within the session.
        sequence: u64,
    },
    /// Answer `ReadReady` once `index` is applied.
    AwaitApplied {
        /// Whom to answer.
        requests: Vec<RequestId>,
        /// Whose.
        group: GroupId,
        /// Up to where.
        index: LogIndex,
    },
    /// The callers of these reads have stopped waiting, and were told so.
    ForgetReads {
        /// Of which group.
        group: GroupId,
        /// Which.
        requests: Vec<RequestId>,
    },
    /// See `consensus::Effect::ReadSnapshot`.
    ReadSnapshot {
        /// Whose.
        group: GroupId,
        /// Who lags.
        peer: NodeId,
        /// The snapshot in progress, or none to begin one.
        position: Option<LogPosition>,
        /// The part wanted.
        chunk: u64,
    },
    /// See `consensus::Effect::WriteSnapshot`.
    WriteSnapshot {
        /// Whose.
        group: GroupId,
        /// Of which position.
        position: LogPosition,
        /// Which part.
        chunk: u64,
        /// Opaque.
        data: Bytes,
        /// Whether it is the last.
        done: bool,
    },
    /// The log takes too much space: flush the engine soon, so that it can be cut.
    FlushSoon,
    /// The engine finished the flush that `ApplierEffect::Flush` asked for.
    Flushed,
    /// Nothing else to do: time for a bounded step of background work (compaction, old
    /// generations).
    Idle,
}

/// Output of the applier.
#[derive(Clone, Debug)]
pub enum ApplierEffect {
    /// Hand to the log machine, in order.
    Log(LogEvent),
    /// A request ended; unknown ids are ignored.
    Reply {
        /// Which.
        request: RequestId,
        /// How.
        result: Result<Reply, RequestError>,
    },
    /// The keyspace changed: for the watch hub, in order.
    Watch {
        /// Whose keyspace.
        group: GroupId,
        /// Its revision now.
        revision: Revision,
        /// What happened at each revision since the last such effect.
        events: Arc<[RevisionEvents]>,
    },
    /// A snapshot replaced the keyspace: watchers must resume from history.
    WatchReset {
        /// Whose keyspace.
        group: GroupId,
        /// Its revision now.
        revision: Revision,
    },
    /// Users or roles changed: for whoever has to know who may ask, before anybody is answered, and
    /// before the events that were applied with them.
    Accounts {
        /// Whose.
        group: GroupId,
        /// All of them now.
        accounts: Arc<Accounts>,
    },
    /// Nothing that was superseded at or before this revision is stored any more.
    Compacted {
        /// Whose keyspace.
        group: GroupId,
        /// The compacted revision.
        revision: Revision,
    },
    /// Flush the engine off this thread, then hand in `ApplierEvent::Flushed`.
    Flush,
    /// More background work waits: hand in `ApplierEvent::Idle` when the queue is empty.
    WantsIdle,
    /// The node must stop; the sentence says why and what to do.
    Fatal(String),
}
