//! AppendEntries: how a follower's log is made equal to the leader's (Raft, section 5.3).
//!
//! The leader says what it sends and what comes before; the follower takes it only if it holds
//! that. If it does not, it answers with the last entry that could be common, so that the leader
//! skips a whole term of entries at once (Raft, end of section 5.3). A follower truncates only
//! where the logs differ, never below the high-water mark, and takes the mark only as far as it
//! has verified. Not here: windows and modes (`request_pipeline`).

use crate::leader_and_followers::{Leader, RoleState};
use crate::outbox::Outbox;
use crate::raft::Raft;
use crate::replicated_log::ReplicatedLog;
use crate::request_pipeline::{Peer, Probe, Sending, Sent};
use crate::{Body, Config, Effect, Entry};
use alloc::vec::Vec;
use clocks::{LogIndex, LogPosition, Monotonic, NodeId};

/// What an append is composed from.
struct Source<'a> {
    log: &'a ReplicatedLog,
    config: &'a Config,
    committed: LogIndex,
    sent: Sent,
}

impl Raft {
    /// Sends every peer what its window allows.
    pub(crate) fn replicate(&mut self, now: Monotonic) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Leader { peers, rounds, .. } = leader.as_mut();
        let (log, config) = (&self.log, &self.config);
        let committed = self.mark.committed();
        let sent = Sent { round: rounds.latest(), at: now };
        let source = Source { log, config, committed, sent };
        for (node, peer) in peers {
            while send_next(*node, peer, &source, &mut self.outbox) {}
        }
    }

    /// Entries read from the own log for a peer.
    pub(crate) fn forward_log_read(
        &mut self,
        now: Monotonic,
        node: NodeId,
        mut entries: Vec<Entry>,
    ) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Leader { peers, rounds, .. } = leader.as_mut();
        let Some(peer) = peers.get_mut(&node) else { return };
        let Some(from) = peer.reading.take() else { return };
        let (log, config) = (&self.log, &self.config);
        let committed = self.mark.committed();
        let sent = Sent { round: rounds.latest(), at: now };
        let source = Source { log, config, committed, sent };
        if from != peer.next {
            return;
        }
        // The log may have been cut, or was it read before entries were replaced?
        let current = entries
            .iter()
            .zip(from..)
            .take_while(|(entry, index)| log.position_at(*index) == Some(entry.position))
            .count();
        entries.truncate(current.min(config.max_append_entries));
        // Where the log starts, the position is known but not the entry before.
        let follows = log.position_at(from - 1).is_some();
        if entries.is_empty() || !follows {
            peer.needs_snapshot();
        } else if !matches!(peer.sending, Sending::Snapshot(_)) && peer.has_room(config) {
            send_entries(node, peer, entries, &source, &mut self.outbox);
        }
    }

    pub(crate) fn handle_append(
        &mut self,
        now: Monotonic,
        from: NodeId,
        previous: LogPosition,
        mut entries: Vec<Entry>,
        committed: LogIndex,
    ) {
        // While a snapshot replaces the state, nothing else may move it; the leader asks again.
        if !self.hear_leader(now, from) || self.incoming.is_installing() {
            return;
        }
        let mark = self.committed_position();
        let mut anchor = previous;
        if previous.index < mark.index {
            // Committed entries are equal everywhere; only what comes after them is new.
            let skip = usize::try_from(mark.index - previous.index).unwrap_or(usize::MAX);
            if entries.len() < skip {
                return self.acknowledge(from, mark);
            }
            anchor = entries[skip - 1].position;
            entries.drain(..skip);
        }
        if anchor.index == mark.index && anchor != mark {
            return self.outbox.emit(Effect::Contradicted { index: mark.index });
        }
        if !self.log.contains(anchor) {
            let bound = LogPosition::new(anchor.term, anchor.index);
            let hint = self.log.floor(bound).filter(|at| at.index > mark.index).unwrap_or(mark);
            return self.outbox.send(from, Body::AppendConflict { refused: previous, hint });
        }
        let matched = entries.last().map_or(anchor, |entry| entry.position);
        self.take_entries(entries);
        self.commit_as_follower(committed.min(matched.index));
        self.acknowledge(from, matched);
    }

    /// Appends what the log lacks, and first drops what contradicts it.
    fn take_entries(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if self.log.contains(entry.position) {
                continue;
            }
            let before = entry.position.index - 1;
            assert!(before >= self.mark.committed(), "no committed entry is replaced");
            if before < self.log.last().index {
                self.log.truncate_after(before);
                self.outbox.truncated_after(before);
            }
            self.log.append(entry);
        }
    }

    /// Says that the log is equal to the leader's up to `matched`, once it is durable up to there.
    pub(crate) fn acknowledge(&mut self, to: NodeId, matched: LogPosition) {
        let body = if self.outbox.hard_state().damaged {
            Body::AppendHeld { matched }
        } else {
            Body::AppendOk { matched }
        };
        self.outbox.send_once_durable(to, body, matched.index, &self.log);
    }

    /// The peer holds everything up to `matched`; `vouches` unless it is damaged.
    pub(crate) fn handle_append_ok(
        &mut self,
        now: Monotonic,
        from: NodeId,
        matched: LogPosition,
        vouches: bool,
    ) {
        let start = self.log.start();
        let plausible = matched.index < start.index || self.log.contains(matched);
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        if !plausible {
            return;
        }
        if vouches {
            peer.heard = now;
            peer.vouched = peer.vouched.max(matched.index);
        }
        peer.acknowledged(matched.index, start.index);
    }

    /// The peer lacks `refused`; its log may meet ours at `hint`.
    pub(crate) fn handle_append_conflict(
        &mut self,
        now: Monotonic,
        from: NodeId,
        refused: LogPosition,
        hint: LogPosition,
    ) {
        let start = self.log.start();
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        peer.heard = now;
        let current = match &peer.sending {
            // An answer to anything but the probe on its way is late.
            Sending::Probe(probe) => probe.is_some_and(|probe| probe.previous == refused),
            Sending::Replicate => true,
            Sending::Snapshot(_) => false,
        };
        if !current || hint.index > refused.index {
            return;
        }
        let meeting = self.log.floor(hint);
        match meeting {
            Some(meeting) if meeting.index < refused.index => peer.probe_from(meeting.index + 1),
            Some(_) => return,
            // Before the start of the log: found out when the next append is composed.
            None => peer.probe_from(start.index),
        }
        // Either this is late, and the probe restores the match, or the peer lost its log.
        peer.matched = peer.matched.min(hint.index);
    }
}

/// Sends the next append to a peer, or asks for what it takes. Returns whether there may be more.
fn send_next(node: NodeId, peer: &mut Peer, source: &Source<'_>, outbox: &mut Outbox) -> bool {
    let Source { log, config, committed, sent } = *source;
    match &mut peer.sending {
        Sending::Snapshot(snapshot) => {
            if let Some((position, chunk)) = snapshot.take_wanted() {
                outbox.emit(Effect::ReadSnapshot { peer: node, position, chunk });
            }
            return false;
        }
        Sending::Probe(Some(_)) => return false,
        Sending::Probe(None) | Sending::Replicate => {}
    }
    if peer.reading.is_some() {
        return false;
    }
    let Some(previous) = peer.next.checked_sub(1).and_then(|index| log.position_at(index)) else {
        peer.needs_snapshot();
        return true;
    };
    let (next, last) = (peer.next, log.last().index);
    if next <= last {
        if !peer.has_room(config) {
            return false;
        }
        let max_bytes = peer.room_bytes(config);
        let Some(entries) = log.cached(next, last, max_bytes, config.max_append_entries) else {
            peer.reading = Some(next);
            outbox.emit(Effect::ReadLog { peer: node, from: next, max_bytes });
            return false;
        };
        send_entries(node, peer, entries, source, outbox);
        return matches!(peer.sending, Sending::Replicate);
    }
    let entries = Vec::new();
    // Tell of the mark at once, unless an answer is due that will bring us back here.
    let tell = peer.told < committed && peer.is_idle();
    match &mut peer.sending {
        Sending::Probe(probe) => {
            *probe = Some(Probe { previous, committed, sent });
            outbox.send(node, Body::Append { previous, entries, committed });
        }
        Sending::Replicate if tell => {
            peer.told = committed;
            outbox.send(node, Body::Append { previous, entries, committed });
        }
        Sending::Replicate | Sending::Snapshot(_) => {}
    }
    false
}

/// Sends `entries`, which begin at the peer's `next`.
fn send_entries(
    node: NodeId,
    peer: &mut Peer,
    entries: Vec<Entry>,
    source: &Source<'_>,
    outbox: &mut Outbox,
) {
    let Source { log, committed, sent, .. } = *source;
    let previous = log.position_at(peer.next - 1).expect("entries follow the log's start");
    let last = entries.last().expect("there is at least one").position.index;
    match &mut peer.sending {
        Sending::Probe(probe) => *probe = Some(Probe { previous, committed, sent }),
        Sending::Replicate => {
            let bytes = entries.iter().map(Entry::weight).sum();
            peer.sent(last, bytes, sent);
            peer.told = peer.told.max(committed.min(last));
        }
        Sending::Snapshot(_) => return,
    }
    outbox.send(node, Body::Append { previous, entries, committed });
}
