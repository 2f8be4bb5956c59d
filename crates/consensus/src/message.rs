//! What members of one group say to each other. Encoding lives in `wire::peer`.

use crate::config::{MAX_INDEX, MAX_MEMBERS, MAX_TERM};
use crate::{Entry, Membership, Payload};
use alloc::vec::Vec;
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, NodeId, Term};
use core::time::Duration;

/// One message between two members of a group. Messages may be lost, repeated and reordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The group both belong to.
    pub group: GroupId,
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's term; for a pre-vote, the term that the sender would campaign in.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// The content of a [`Message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "Would you vote for me?" Changes nothing at the receiver (thesis, section 9.6).
    PreVote {
        /// The last entry of the candidate's log.
        last: LogPosition,
    },
    /// Answer to a pre-vote, in the term asked about if granted, else in the receiver's own.
    PreVoteReply {
        /// Whether the receiver would vote so.
        granted: bool,
    },
    /// A candidate asks for a vote (Raft, section 5.2).
    Vote {
        /// The last entry of the candidate's log.
        last: LogPosition,
        /// Set when the old leader asked for this election (thesis, section 3.10): overrides the
        /// lease promise for exactly the term after the one it was given in.
        transfer: bool,
    },
    /// Answer to a vote request, sent once the vote is durable.
    VoteReply {
        /// Whether the vote was given.
        granted: bool,
    },
    /// Entries that follow `previous`; empty entries probe.
    Append {
        /// The entry before the first one sent.
        previous: LogPosition,
        /// Consecutive entries, bounded by count and bytes.
        entries: Vec<Entry>,
        /// The leader's high-water mark.
        committed: LogIndex,
    },
    /// Everything up to `matched` is durable at the follower and equal to the leader's log.
    AppendOk {
        /// The last entry covered by the append that this answers.
        matched: LogPosition,
    },
    /// As `AppendOk`, from a member that lost part of its log (`HardState::damaged`): it holds the
    /// entries, but does not vouch for them as a voter.
    AppendHeld {
        /// The last entry covered by the append that this answers.
        matched: LogPosition,
    },
    /// The follower's log does not hold the append's `previous`.
    AppendConflict {
        /// The `previous` that was refused; tells a stale answer from a current one.
        refused: LogPosition,
        /// The last entry that the follower holds at or below `refused.index` whose term is not
        /// above `refused.term`: the leader continues from the last entry of its own at or below.
        hint: LogPosition,
    },
    /// The leader is alive; also the one vehicle of leases, check-quorum and read index.
    Heartbeat {
        /// Number of this round within the leadership, from 1. A repeated answer changes nothing.
        round: u64,
        /// The leader's high-water mark, never above what the receiver is known to hold.
        committed: LogIndex,
        /// For how long the receiver must promise not to vote, counted on its own clock.
        lease: Duration,
    },
    /// Answer to a heartbeat; binds the lease promise.
    HeartbeatReply {
        /// The round answered.
        round: u64,
    },
    /// A damaged member's answer to a heartbeat, in place of `HeartbeatReply`: it promises nothing
    /// and counts for nothing until the leader has appended an entry after hearing this.
    Returned {
        /// Drawn at every start, so that answers to an earlier return are not taken for this one's.
        nonce: u64,
    },
    /// The leader appended `position` after hearing of the return: once the member knows that
    /// entry committed, it is a full voter again.
    ReturnHeard {
        /// The return that this answers.
        nonce: u64,
        /// An entry appended after hearing of it.
        position: LogPosition,
    },
    /// Part of the state at `position`, for a follower whose log is too short.
    SnapshotChunk {
        /// Last entry that the state includes.
        position: LogPosition,
        /// The members at that entry.
        membership: Membership,
        /// Number of this chunk, from 0.
        chunk: u64,
        /// Opaque to consensus.
        data: Bytes,
        /// Whether this is the last chunk.
        done: bool,
    },
    /// The follower wants chunk `next` of the snapshot at `position`; all before are written. Once
    /// the snapshot is installed durably it answers `AppendOk` for `position` instead.
    SnapshotAck {
        /// The snapshot this is about.
        position: LogPosition,
        /// The next chunk wanted.
        next: u64,
    },
    /// The receiver shall campaign at once (thesis, section 3.10).
    TimeoutNow,
}

impl Message {
    /// Whether the content makes sense by itself; what does not is dropped unread.
    pub(crate) fn is_well_formed(&self) -> bool {
        if self.term == Term::ZERO || self.term > MAX_TERM {
            return false;
        }
        // In a request to vote the term is that of the next candidacy, so this holds there too.
        let plausible = |position: &LogPosition| {
            position.index <= MAX_INDEX
                && position.term <= self.term
                && (position.index == 0) == (position.term == Term::ZERO)
        };
        match &self.body {
            Body::PreVote { last } | Body::Vote { last, .. } => plausible(last),
            Body::AppendOk { matched } | Body::AppendHeld { matched } => plausible(matched),
            Body::AppendConflict { refused, hint } => plausible(refused) && plausible(hint),
            Body::ReturnHeard { position, .. } => plausible(position) && position.index > 0,
            Body::Append { previous, entries, .. } => {
                plausible(previous) && entries.iter().all(|entry| plausible(&entry.position)) && {
                    let before = core::iter::once(previous).chain(entries.iter().map(position_of));
                    before.zip(entries).all(|(before, entry)| follows(*before, entry))
                }
            }
            Body::SnapshotChunk { position, membership, .. } => {
                plausible(position) && position.index > 0 && is_sound(membership)
            }
            Body::SnapshotAck { position, next } => plausible(position) && *next <= MAX_INDEX,
            Body::Heartbeat { round, committed, .. } => {
                *round <= MAX_INDEX && *committed <= MAX_INDEX
            }
            Body::PreVoteReply { .. }
            | Body::VoteReply { .. }
            | Body::HeartbeatReply { .. }
            | Body::Returned { .. }
            | Body::TimeoutNow => true,
        }
    }
}

fn position_of(entry: &Entry) -> &LogPosition {
    &entry.position
}

fn follows(before: LogPosition, entry: &Entry) -> bool {
    let sound = match &entry.payload {
        Payload::Membership(membership) => is_sound(membership),
        Payload::Barrier | Payload::Command(_) => true,
    };
    sound && entry.position.index == before.index + 1 && entry.position.term >= before.term
}

fn is_sound(membership: &Membership) -> bool {
    !membership.voters.is_empty() && membership.members().len() <= MAX_MEMBERS
}
