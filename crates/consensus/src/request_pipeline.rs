//! Request Pipeline: appends are sent ahead of their answers, within a window of messages and of
//! bytes.
//!
//! Used by Raft (thesis, section 10.2.1), Kafka producers and HTTP/2. Invariants: `matched < next`
//! while replicating; the window's bytes are the sum of what is in it; `vouched` never regresses
//! within a leadership. Not here: composing the messages (`append_entries`).

use crate::snapshot_transfer::OutgoingSnapshot;
use crate::{Config, PeerProgress, ProgressState};
use alloc::collections::VecDeque;
use clocks::{LogIndex, LogPosition, Monotonic, NodeId};
use core::time::Duration;

/// An append on the way.
#[derive(Clone, Copy, Debug)]
struct Request {
    last: LogIndex,
    bytes: usize,
    sent: Sent,
}

/// When something was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The latest heartbeat round then.
    pub(crate) round: u64,
    pub(crate) at: Monotonic,
}

impl Sent {
    /// Whether a peer that answered `round` just now should have answered this too.
    pub(crate) fn is_overdue(self, now: Monotonic, round: u64, patience: Duration) -> bool {
        self.round < round && now.since(self.at) >= patience
    }
}

/// The one append that asks where the logs meet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) previous: LogPosition,
    pub(crate) committed: LogIndex,
    pub(crate) sent: Sent,
}

#[derive(Debug)]
pub(crate) enum Sending {
    /// One append at a time; `None` if none is on the way.
    Probe(Option<Probe>),
    /// A window of appends.
    Replicate,
    /// A snapshot, chunk by chunk.
    Snapshot(OutgoingSnapshot),
}

/// A leader's view of one other member.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) sending: Sending,
    /// The logs are equal up to here, durably at the peer. Lowered if the peer lost its log.
    pub(crate) matched: LogIndex,
    /// As `matched`, as far as the peer said so as a voter in full standing: counts for quorums.
    pub(crate) vouched: LogIndex,
    /// The next entry to send.
    pub(crate) next: LogIndex,
    window: VecDeque<Request>,
    window_bytes: usize,
    /// Entries from here are being read from the own log's files for it.
    pub(crate) reading: Option<LogIndex>,
    /// The highest mark that the peer was told and could use.
    pub(crate) told: LogIndex,
    /// When it last answered.
    pub(crate) heard: Monotonic,
    /// The latest heartbeat round that it answered.
    pub(crate) answered_round: u64,
    /// When the latest round that counts for the lease and that it answered was sent.
    pub(crate) promised_from: Option<Monotonic>,
    /// When the window was last checked for lost appends.
    checked: Monotonic,
    /// The damaged member's return that was heard, and the entry appended after it.
    pub(crate) returned: Option<(u64, LogPosition)>,
}

impl Peer {
    /// A peer about which nothing is known; the first append goes out from `next`.
    pub(crate) fn new(next: LogIndex, now: Monotonic) -> Peer {
        Peer {
            sending: Sending::Probe(None),
            matched: 0,
            vouched: 0,
            next,
            window: VecDeque::new(),
            window_bytes: 0,
            reading: None,
            told: 0,
            heard: now,
            answered_round: 0,
            promised_from: None,
            checked: now,
            returned: None,
        }
    }

    /// Whether nothing is on the way that will be answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.window.is_empty()
    }

    pub(crate) fn has_room(&self, config: &Config) -> bool {
        self.window.len() < config.max_inflight_messages
            && (self.window.is_empty() || self.window_bytes < config.max_inflight_bytes)
    }

    /// How many bytes the next append may have.
    pub(crate) fn room_bytes(&self, config: &Config) -> usize {
        config.max_append_bytes.min(config.max_inflight_bytes.saturating_sub(self.window_bytes))
    }

    /// An append with entries up to `last` is on its way.
    pub(crate) fn sent(&mut self, last: LogIndex, bytes: usize, sent: Sent) {
        assert!(last >= self.next, "an append in the window has entries");
        self.window.push_back(Request { last, bytes, sent });
        self.window_bytes += bytes;
        self.next = last + 1;
    }

    /// Probes from `next` on, and forgets what was on the way.
    pub(crate) fn probe_from(&mut self, next: LogIndex) {
        self.sending = Sending::Probe(None);
        self.next = next;
        self.clear_window();
        self.reading = None;
    }

    /// The logs are equal up to `matched`.
    pub(crate) fn acknowledged(&mut self, matched: LogIndex, log_start: LogIndex) {
        self.matched = self.matched.max(matched);
        while let Some(request) = self.window.pop_front_if(|request| request.last <= matched) {
            self.window_bytes -= request.bytes;
        }
        match &self.sending {
            Sending::Replicate => self.next = self.next.max(matched + 1),
            Sending::Probe(probe) => {
                let told = probe.map_or(0, |probe| probe.committed.min(matched));
                self.replicate_after(matched, told);
            }
            Sending::Snapshot(snapshot) if matched >= log_start => {
                let told = snapshot.index().min(matched);
                self.replicate_after(matched, told);
            }
            // Installed, but meanwhile the log was cut further: it needs another.
            Sending::Snapshot(snapshot) if (1..=matched).contains(&snapshot.index()) => {
                self.needs_snapshot();
            }
            Sending::Snapshot(_) => {}
        }
    }

    fn replicate_after(&mut self, matched: LogIndex, told: LogIndex) {
        self.sending = Sending::Replicate;
        self.matched = matched;
        self.next = matched + 1;
        self.told = told;
        self.clear_window();
        self.reading = None;
    }

    /// The peer lacks what the log no longer holds.
    pub(crate) fn needs_snapshot(&mut self) {
        self.sending = Sending::Snapshot(OutgoingSnapshot::new());
        self.clear_window();
        self.reading = None;
    }

    /// The peer answered heartbeat round `round`: what was sent before that round, some time ago,
    /// and not answered may be lost (or wait for a slow disk). Returns whether an empty append
    /// should ask.
    pub(crate) fn unpause(&mut self, now: Monotonic, round: u64, patience: Duration) -> bool {
        match &mut self.sending {
            Sending::Probe(probe) => {
                probe.take_if(|probe| probe.sent.is_overdue(now, round, patience));
                false
            }
            Sending::Replicate => {
                let first = self.window.front();
                let overdue = first.is_some_and(|r| r.sent.is_overdue(now, round, patience));
                // One that is whole again has yet to say so of what it held before.
                let ask =
                    (overdue || self.vouched < self.matched) && now.since(self.checked) >= patience;
                if ask {
                    self.checked = now;
                }
                ask
            }
            Sending::Snapshot(snapshot) => {
                snapshot.unpause(now, round, patience);
                false
            }
        }
    }

    /// A connection was opened anew: whatever was on the way is lost.
    pub(crate) fn reconnected(&mut self) {
        if let Sending::Snapshot(snapshot) = &mut self.sending {
            snapshot.send_again();
        } else {
            self.probe_from(if self.matched > 0 { self.matched + 1 } else { self.next });
        }
    }

    fn clear_window(&mut self) {
        self.window.clear();
        self.window_bytes = 0;
    }

    pub(crate) fn progress(&self, node: NodeId) -> PeerProgress {
        PeerProgress {
            node,
            state: match self.sending {
                Sending::Probe(_) => ProgressState::Probe,
                Sending::Replicate => ProgressState::Replicate,
                Sending::Snapshot(_) => ProgressState::Snapshot,
            },
            matched: self.matched,
            vouched: self.vouched,
            next: self.next,
            inflight_messages: self.window.len(),
            inflight_bytes: self.window_bytes,
            heard: self.heard,
        }
    }

    pub(crate) fn check_invariants(&self, last: LogIndex, config: &Config) {
        let bytes: usize = self.window.iter().map(|request| request.bytes).sum();
        assert!(bytes == self.window_bytes, "the window knows its size");
        assert!(self.window.len() <= config.max_inflight_messages, "the window is bounded");
        assert!(self.vouched <= last && self.matched <= last, "matched <= last");
        assert!(self.next <= last + 1, "only entries of the log are sent");
        if matches!(self.sending, Sending::Replicate) {
            assert!(self.matched < self.next, "matched < next while replicating");
        }
    }
}
