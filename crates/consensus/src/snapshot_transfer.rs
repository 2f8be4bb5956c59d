//! Snapshot Transfer: a follower that lacks what the log no longer holds gets the state itself, in
//! chunks (Raft, section 7).
//!
//! Used by every Raft in production. One chunk is on its way at a time and each is acknowledged
//! once written, so that a transfer goes on where it stopped after a lost message or connection.
//! Invariant: a snapshot is never installed over newer state: what is committed here already is
//! not replaced, and nothing is committed while the last chunk is being made the live state. Not
//! here: what a chunk holds.

use crate::leader_and_followers::RoleState;
use crate::raft::{Raft, SnapshotRead};
use crate::request_pipeline::{Sending, Sent};
use crate::{Body, Effect, Membership};
use bytes::Bytes;
use clocks::{LogIndex, LogPosition, Monotonic, NodeId, Term};
use core::time::Duration;

/// How much longer than for an append the answer to a chunk may take, since it is written first.
const PATIENCE_FACTOR: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The chunk is to be read.
    Wanted,
    /// The host reads it.
    Reading,
    /// It was sent.
    Sent(Sent),
}

/// The leader's side.
#[derive(Debug)]
pub(crate) struct OutgoingSnapshot {
    /// Known once its first chunk was read.
    position: Option<LogPosition>,
    chunk: u64,
    stage: Stage,
    /// The chunk was sent more than once: an answer that goes back is a current one.
    repeated: bool,
}

impl OutgoingSnapshot {
    pub(crate) fn new() -> OutgoingSnapshot {
        OutgoingSnapshot { position: None, chunk: 0, stage: Stage::Wanted, repeated: false }
    }

    /// The chunk to be read now, if any.
    pub(crate) fn take_wanted(&mut self) -> Option<(Option<LogPosition>, u64)> {
        let wanted = self.stage == Stage::Wanted;
        wanted.then(|| {
            self.stage = Stage::Reading;
            (self.position, self.chunk)
        })
    }

    /// The last index that the snapshot includes; 0 if none was begun.
    pub(crate) fn index(&self) -> LogIndex {
        self.position.map_or(0, |position| position.index)
    }

    pub(crate) fn unpause(&mut self, now: Monotonic, round: u64, patience: Duration) {
        let patience = patience * PATIENCE_FACTOR;
        if matches!(self.stage, Stage::Sent(sent) if sent.is_overdue(now, round, patience)) {
            self.stage = Stage::Wanted;
            self.repeated = true;
        }
    }

    pub(crate) fn send_again(&mut self) {
        if matches!(self.stage, Stage::Sent(_)) {
            self.stage = Stage::Wanted;
            self.repeated = true;
        }
    }

    /// Takes what the host read; false if it is not what was asked for.
    fn take_read(&mut self, read: &SnapshotRead, sent: Sent) -> bool {
        if self.stage != Stage::Reading {
            return false;
        }
        let continues = self.position.is_none_or(|position| position == read.position)
            && self.chunk == read.chunk;
        if !continues && read.chunk != 0 {
            *self = OutgoingSnapshot::new();
            return false;
        }
        self.position = Some(read.position);
        self.chunk = read.chunk;
        self.stage = Stage::Sent(sent);
        true
    }

    /// The follower wants chunk `next`: the following one, or where it has to resume.
    fn acknowledged(&mut self, position: LogPosition, next: u64) {
        let answers_this = self.position == Some(position) && self.stage != Stage::Reading;
        // A late answer to an earlier chunk would send the transfer back, which costs a new one:
        // what was read cannot be read again.
        let late = next < self.chunk && !self.repeated;
        if answers_this && next != self.chunk && !late {
            self.chunk = next;
            self.stage = Stage::Wanted;
            self.repeated = false;
        }
    }
}

/// A snapshot that is being received.
#[derive(Debug)]
struct Receiving {
    /// Chunks of one position are the same bytes only as long as one leader sends them.
    from: NodeId,
    term: Term,
    position: LogPosition,
    /// The next chunk wanted; while `writing`, the one being written.
    next: u64,
    writing: bool,
    /// The last chunk is being written and made the live state.
    installing: bool,
    /// Chunk 0 came again since the last progress.
    restart_seen: bool,
}

impl Receiving {
    /// Chunk 0 is being written; it may be the only one.
    fn begin(from: NodeId, term: Term, position: LogPosition, only: bool) -> Receiving {
        Receiving {
            from,
            term,
            position,
            next: 0,
            writing: true,
            installing: only,
            restart_seen: false,
        }
    }
}

/// The follower's side.
#[derive(Debug, Default)]
pub(crate) struct IncomingSnapshot {
    receiving: Option<Receiving>,
}

impl IncomingSnapshot {
    pub(crate) fn is_installing(&self) -> bool {
        self.receiving.as_ref().is_some_and(|receiving| receiving.installing)
    }
}

impl Raft {
    pub(crate) fn forward_snapshot_read(
        &mut self,
        now: Monotonic,
        node: NodeId,
        read: SnapshotRead,
    ) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&node) else { return };
        let Sending::Snapshot(snapshot) = &mut peer.sending else { return };
        let sent = Sent { round: leader.rounds.latest(), at: now };
        if snapshot.take_read(&read, sent) {
            let SnapshotRead { position, membership, chunk, data, done } = read;
            let body = Body::SnapshotChunk { position, membership, chunk, data, done };
            self.outbox.send(node, body);
        }
    }

    pub(crate) fn handle_snapshot_ack(
        &mut self,
        now: Monotonic,
        from: NodeId,
        position: LogPosition,
        next: u64,
    ) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        peer.heard = now;
        if let Sending::Snapshot(snapshot) = &mut peer.sending {
            snapshot.acknowledged(position, next);
        }
    }

    pub(crate) fn handle_snapshot_chunk(
        &mut self,
        now: Monotonic,
        from: NodeId,
        read: SnapshotRead,
    ) {
        if !self.hear_leader(now, from) || self.incoming.is_installing() {
            return;
        }
        let SnapshotRead { position, membership, chunk, data, done } = read;
        if position.index <= self.mark.committed() {
            return self.acknowledge(from, self.committed_position());
        }
        let term = self.outbox.term();
        let resumes = |receiving: &&mut Receiving| {
            (receiving.from, receiving.term, receiving.position) == (from, term, position)
        };
        match self.incoming.receiving.as_mut().filter(resumes) {
            // Once is a late copy. Twice without progress: the leader can no longer read where we
            // stopped, and begins anew.
            Some(receiving) if chunk == 0 && receiving.restart_seen && !receiving.writing => {
                *receiving = Receiving::begin(from, term, position, done);
            }
            Some(receiving) if receiving.next != chunk => {
                receiving.restart_seen |= chunk == 0 && receiving.next > 1;
                let next = receiving.next;
                return self.outbox.send(from, Body::SnapshotAck { position, next });
            }
            Some(receiving) if receiving.writing => return,
            Some(receiving) => {
                receiving.writing = true;
                receiving.installing = done;
            }
            None if chunk > 0 => {
                return self.outbox.send(from, Body::SnapshotAck { position, next: 0 });
            }
            None => {
                self.incoming.receiving = Some(Receiving::begin(from, term, position, done));
            }
        }
        self.write_chunk(position, membership, chunk, data, done);
    }

    fn write_chunk(
        &mut self,
        position: LogPosition,
        membership: Membership,
        chunk: u64,
        data: Bytes,
        done: bool,
    ) {
        self.outbox.emit(Effect::WriteSnapshot { position, membership, chunk, data, done });
    }

    pub(crate) fn snapshot_chunk_written(
        &mut self,
        position: LogPosition,
        membership: Membership,
        chunk: u64,
    ) {
        let Some(receiving) = &mut self.incoming.receiving else { return };
        let awaited = receiving.writing && receiving.next == chunk;
        if receiving.position != position || !awaited {
            return;
        }
        let leader = (receiving.term == self.outbox.term()).then_some(receiving.from);
        if receiving.installing {
            self.incoming.receiving = None;
            self.restart_after_snapshot(leader, position, membership);
        } else {
            receiving.writing = false;
            receiving.restart_seen = false;
            receiving.next += 1;
            let next = receiving.next;
            if let Some(leader) = leader {
                self.outbox.send(leader, Body::SnapshotAck { position, next });
            }
        }
    }

    /// The host could not take the chunk: whenever the leader repeats it, it is told to begin anew.
    pub(crate) fn snapshot_chunk_refused(&mut self, position: LogPosition, chunk: u64) {
        self.incoming.receiving.take_if(|receiving| {
            receiving.position == position && receiving.writing && receiving.next == chunk
        });
    }

    /// The snapshot at `position` is the live state: the log begins after it, and keeps what
    /// follows if it holds that very entry.
    fn restart_after_snapshot(
        &mut self,
        leader: Option<NodeId>,
        position: LogPosition,
        membership: Membership,
    ) {
        self.mark.installed(position.index);
        if self.log.contains(position) {
            let membership = self.log.compact(position).clone();
            self.outbox.set_log_start(position, membership);
        } else {
            self.log.restart_after(position, membership.clone());
            self.outbox.restarted_after(position, membership);
        }
        self.recover_standing();
        if let Some(leader) = leader {
            let body = if self.outbox.hard_state().damaged {
                Body::AppendHeld { matched: position }
            } else {
                Body::AppendOk { matched: position }
            };
            self.outbox.send_after_next_write(leader, body);
        }
    }
}
