//! Single-Socket Channel, heartbeats: those of all groups to one peer travel as one message, so
//! that their number grows with the peers and not with the groups.
//!
//! As in Redpanda's heartbeat manager and CockroachDB's coalesced heartbeats. It works because the
//! heartbeats of all groups fall on one grid of deadlines (see `heartbeat`). Not here: encoding.

use crate::{Body, Message};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use clocks::{GroupId, NodeId, Term};

/// One group's part: a `Heartbeat` or a `HeartbeatReply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub group: GroupId,
    /// The sender's term in that group.
    pub term: Term,
    /// `Body::Heartbeat` or `Body::HeartbeatReply`, nothing else.
    pub body: Body,
}

/// The heartbeats of many groups from one node to another; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHeartbeats {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// In the order in which they were said.
    pub beats: Vec<Beat>,
}

impl PeerHeartbeats {
    /// The messages merged, in order. What a peer slipped in besides heartbeats is left out.
    pub fn into_messages(self) -> impl Iterator<Item = Message> {
        let (from, to) = (self.from, self.to);
        self.beats.into_iter().filter(|beat| is_heartbeat(&beat.body)).map(move |beat| Message {
            group: beat.group,
            from,
            to,
            term: beat.term,
            body: beat.body,
        })
    }
}

fn is_heartbeat(body: &Body) -> bool {
    matches!(body, Body::Heartbeat { .. } | Body::HeartbeatReply { .. })
}

/// Collects what one drain of the groups' effects sends.
#[derive(Debug, Default)]
pub struct HeartbeatCoalescer {
    waiting: BTreeMap<(NodeId, NodeId), Vec<Beat>>,
}

impl HeartbeatCoalescer {
    /// Nothing collected.
    #[must_use]
    pub fn new() -> HeartbeatCoalescer {
        HeartbeatCoalescer::default()
    }

    /// Keeps a heartbeat until [`HeartbeatCoalescer::drain`]; gives any other message back, to be
    /// sent at once.
    pub fn offer(&mut self, message: Message) -> Option<Message> {
        if !is_heartbeat(&message.body) {
            return Some(message);
        }
        let Message { group, from, to, term, body } = message;
        self.waiting.entry((from, to)).or_default().push(Beat { group, term, body });
        None
    }

    /// One message per pair of nodes with everything collected since the last call. Call it at the
    /// end of every drain: a heartbeat kept longer would shorten the lease that it carries.
    pub fn drain(&mut self) -> impl Iterator<Item = PeerHeartbeats> {
        core::mem::take(&mut self.waiting).into_iter().map(|((from, to), beats)| PeerHeartbeats {
            from,
            to,
            beats,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clocks::LogPosition;

    fn message(group: u32, to: u64, body: Body) -> Message {
        Message { group: GroupId(group), from: NodeId(1), to: NodeId(to), term: Term(4), body }
    }

    #[test]
    fn heartbeats_of_all_groups_to_a_peer_are_one_message() {
        let mut coalescer = HeartbeatCoalescer::new();
        let beat = |group, to| message(group, to, Body::HeartbeatReply { round: 7 });
        for group in 0..3 {
            for to in [2, 3] {
                assert_eq!(coalescer.offer(beat(group, to)), None);
            }
        }
        let merged: Vec<PeerHeartbeats> = coalescer.drain().collect();
        assert_eq!(merged.len(), 2);
        let said: Vec<Message> =
            merged.into_iter().flat_map(PeerHeartbeats::into_messages).collect();
        let expected: Vec<Message> =
            [2, 3].iter().flat_map(|to| (0..3).map(|group| beat(group, *to))).collect();
        assert_eq!(said, expected);
        assert_eq!(coalescer.drain().count(), 0, "everything was handed out");
    }

    #[test]
    fn other_messages_pass() {
        let mut coalescer = HeartbeatCoalescer::new();
        let other = message(0, 2, Body::Vote { last: LogPosition::ZERO, transfer: false });
        assert_eq!(coalescer.offer(other.clone()), Some(other.clone()));
        // What a peer slips in is not taken for a heartbeat of another group.
        let beats = alloc::vec![Beat { group: other.group, term: other.term, body: other.body }];
        let slipped = PeerHeartbeats { from: NodeId(1), to: NodeId(2), beats };
        assert_eq!(slipped.into_messages().count(), 0);
    }
}
