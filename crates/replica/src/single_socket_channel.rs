//! Single-Socket Channel: everything that one node tells another travels on one ordered
//! connection, so that a closed connection says something about all of it. Encoding and handshake
//! live in `wire::peer`, sockets in `node`.
//!
//! Used by ZooKeeper (leader to follower) and Kafka (fetchers). Messages may still be lost, when a
//! connection breaks or a queue overflows.

use bytes::Bytes;
use clocks::{GroupId, LogIndex, NodeId, Term};
use consensus::{Message, PeerHeartbeats};

/// One message between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// Of one group's consensus, other than heartbeats and their replies.
    Consensus(Message),
    /// The heartbeats, or replies, of every group between the two, in one message.
    Heartbeats(PeerHeartbeats),
    /// Commands (encoded envelopes) for the leader to propose; repeating them is harmless.
    Propose {
        /// For which group.
        group: GroupId,
        /// In the order of their sequence numbers.
        commands: Vec<Bytes>,
    },
    /// The leader did not propose what it was sent: the receiver repeats it later, or elsewhere.
    ProposeRefused {
        /// For which group.
        group: GroupId,
        /// The refusing node's term.
        term: Term,
    },
    /// A follower asks up to where it must have applied for its reads to be linearizable.
    ReadIndex {
        /// Of which group.
        group: GroupId,
        /// Number of this question; never reused by a process, and every retry is a new one.
        round: u64,
    },
    /// The answer, or none if the asked node does not lead.
    ReadIndexReply {
        /// Of which group.
        group: GroupId,
        /// The question answered.
        round: u64,
        /// Apply up to here first.
        index: Option<LogIndex>,
    },
    /// Chain hashes of the state at certain indexes, to find diverging members.
    StateHashes {
        /// Of which group.
        group: GroupId,
        /// Index and hash, ascending.
        hashes: Vec<(LogIndex, u64)>,
    },
    /// Sent about once a second.
    MemberCondition {
        /// Whether free disk space is below the reserve.
        short_of_space: bool,
    },
    /// From a group's leader to that of the consistent core, about once a second.
    LearnersInSync {
        /// Which group.
        group: GroupId,
        /// Of which leadership.
        term: Term,
        /// The learners that have nearly the whole log and answer.
        learners: Vec<NodeId>,
    },
    /// The receiver is no member any more.
    Removed,
}
