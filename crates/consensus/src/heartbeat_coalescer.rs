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
