//! Messages of the replicated log. Entries of an append follow its `previous` without gaps, so
//! that only their terms are written; commands are slices of the frame that brought them.

use super::cursor::{Cursor, DecodeError};
use super::limits::{APPEND_ENTRIES_MAX, MEMBERS_MAX};
use bytes::{BufMut, Bytes, BytesMut};
use clocks::{GroupId, LogPosition, NodeId, Term};
use consensus::{Body, Entry, Membership, Message, Payload};
use std::collections::BTreeSet;
use std::time::Duration;

mod body {
    pub(super) const PRE_VOTE: u8 = 1;
    pub(super) const PRE_VOTE_REPLY: u8 = 2;
    pub(super) const VOTE: u8 = 3;
    pub(super) const VOTE_REPLY: u8 = 4;
    pub(super) const APPEND: u8 = 5;
    pub(super) const APPEND_OK: u8 = 6;
    pub(super) const APPEND_CONFLICT: u8 = 7;
    pub(super) const HEARTBEAT: u8 = 8;
    pub(super) const HEARTBEAT_REPLY: u8 = 9;
    pub(super) const SNAPSHOT_CHUNK: u8 = 10;
    pub(super) const SNAPSHOT_ACK: u8 = 11;
    pub(super) const TIMEOUT_NOW: u8 = 12;
    pub(super) const APPEND_HELD: u8 = 13;
    pub(super) const RETURNED: u8 = 14;
    pub(super) const RETURN_HEARD: u8 = 15;
}

mod payload {
    pub(super) const BARRIER: u8 = 1;
    pub(super) const COMMAND: u8 = 2;
    pub(super) const MEMBERSHIP: u8 = 3;
}

/// The least that an entry takes: term and tag.
const ENTRY_BYTES_MIN: usize = 9;

/// Appends the message.
pub(super) fn put_message(out: &mut BytesMut, message: &Message) {
    out.put_u32(message.group.0);
    out.put_u64(message.from.0);
    out.put_u64(message.to.0);
    out.put_u64(message.term.0);
    put_body(out, &message.body);
}

/// Reads a message.
pub(super) fn get_message(input: &mut Cursor) -> Result<Message, DecodeError> {
    Ok(Message {
        group: GroupId(input.u32("the group")?),
        from: input.node("the sender")?,
        to: input.node("the receiver")?,
        term: Term(input.u64("the term")?),
        body: get_body(input)?,
    })
}

pub(super) fn put_body(out: &mut BytesMut, message: &Body) {
    match message {
        Body::PreVote { last } => {
            out.put_u8(body::PRE_VOTE);
            put_position(out, *last);
        }
        Body::PreVoteReply { granted } => {
            out.put_slice(&[body::PRE_VOTE_REPLY, u8::from(*granted)]);
        }
        Body::Vote { last, transfer } => {
            out.put_u8(body::VOTE);
            put_position(out, *last);
            out.put_u8(u8::from(*transfer));
        }
        Body::VoteReply { granted } => {
            out.put_slice(&[body::VOTE_REPLY, u8::from(*granted)]);
        }
        Body::Append { previous, entries, committed } => {
            out.put_u8(body::APPEND);
            put_position(out, *previous);
            out.put_u64(*committed);
            put_entries(out, *previous, entries);
        }
        Body::AppendOk { matched } => {
            out.put_u8(body::APPEND_OK);
            put_position(out, *matched);
        }
        Body::AppendConflict { refused, hint } => {
            out.put_u8(body::APPEND_CONFLICT);
            put_position(out, *refused);
            put_position(out, *hint);
        }
        Body::Heartbeat { round, committed, lease } => {
            out.put_u8(body::HEARTBEAT);
            [*round, *committed, nanos(*lease)].iter().for_each(|number| out.put_u64(*number));
        }
        Body::HeartbeatReply { round } => {
            out.put_u8(body::HEARTBEAT_REPLY);
            out.put_u64(*round);
        }
        Body::SnapshotChunk { position, membership, chunk, data, done } => {
            out.put_u8(body::SNAPSHOT_CHUNK);
            put_position(out, *position);
            put_membership(out, membership);
            out.put_u64(*chunk);
            out.put_u8(u8::from(*done));
            put_bytes(out, data);
        }
        Body::SnapshotAck { position, next } => {
            out.put_u8(body::SNAPSHOT_ACK);
            put_position(out, *position);
            out.put_u64(*next);
        }
        Body::TimeoutNow => out.put_u8(body::TIMEOUT_NOW),
        Body::AppendHeld { matched } => {
            out.put_u8(body::APPEND_HELD);
            put_position(out, *matched);
        }
        Body::Returned { nonce } => {
            out.put_u8(body::RETURNED);
            out.put_u64(*nonce);
        }
        Body::ReturnHeard { nonce, position } => {
            out.put_u8(body::RETURN_HEARD);
            out.put_u64(*nonce);
            put_position(out, *position);
        }
    }
}

pub(super) fn get_body(input: &mut Cursor) -> Result<Body, DecodeError> {
    let field = "the message's body";
    Ok(match input.u8(field)? {
        body::PRE_VOTE => Body::PreVote { last: input.position("the last entry")? },
        body::PRE_VOTE_REPLY => Body::PreVoteReply { granted: input.flag("the vote")? },
        body::VOTE => Body::Vote {
            last: input.position("the last entry")?,
            transfer: input.flag("the transfer mark")?,
        },
        body::VOTE_REPLY => Body::VoteReply { granted: input.flag("the vote")? },
        body::APPEND => {
            let previous = input.position("the previous entry")?;
            let committed = input.u64("the high-water mark")?;
            Body::Append { previous, entries: get_entries(input, previous)?, committed }
        }
        body::APPEND_OK => Body::AppendOk { matched: input.position("the match")? },
        body::APPEND_CONFLICT => Body::AppendConflict {
            refused: input.position("the refused entry")?,
            hint: input.position("the hint")?,
        },
        body::HEARTBEAT => Body::Heartbeat {
            round: input.u64("the round")?,
            committed: input.u64("the high-water mark")?,
            lease: Duration::from_nanos(input.u64("the lease")?),
        },
        body::HEARTBEAT_REPLY => Body::HeartbeatReply { round: input.u64("the round")? },
        body::SNAPSHOT_CHUNK => Body::SnapshotChunk {
            position: input.position("the snapshot's position")?,
            membership: get_membership(input)?,
            chunk: input.u64("the chunk's number")?,
            done: input.flag("the last-chunk mark")?,
            data: input.bytes("the chunk")?,
        },
        body::SNAPSHOT_ACK => Body::SnapshotAck {
            position: input.position("the snapshot's position")?,
            next: input.u64("the next chunk")?,
        },
        body::TIMEOUT_NOW => Body::TimeoutNow,
        body::APPEND_HELD => Body::AppendHeld { matched: input.position("the match")? },
        body::RETURNED => Body::Returned { nonce: input.u64("the nonce")? },
        body::RETURN_HEARD => Body::ReturnHeard {
            nonce: input.u64("the nonce")?,
            position: input.position("the entry after the return")?,
        },
        tag => return Err(DecodeError::UnknownTag { field, tag }),
    })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn put_position(out: &mut BytesMut, position: LogPosition) {
    out.put_u64(position.term.0);
    out.put_u64(position.index);
}

pub(super) fn put_bytes(out: &mut BytesMut, bytes: &Bytes) {
    put_length(out, bytes.len());
    out.put_slice(bytes);
}

/// A length or a count; frames are bounded far below 2^32.
pub(super) fn put_length(out: &mut BytesMut, length: usize) {
    out.put_u32(u32::try_from(length).expect("frames are bounded below 2^32"));
}

fn put_entries(out: &mut BytesMut, previous: LogPosition, entries: &[Entry]) {
    assert!(entries.len() <= APPEND_ENTRIES_MAX, "an append has too many entries");
    put_length(out, entries.len());
    for (index, entry) in (previous.index + 1..).zip(entries) {
        assert_eq!(entry.position.index, index, "the entries of an append leave no gap");
        out.put_u64(entry.position.term.0);
        match &entry.payload {
            Payload::Barrier => out.put_u8(payload::BARRIER),
            Payload::Command(command) => {
                out.put_u8(payload::COMMAND);
                put_bytes(out, command);
            }
            Payload::Membership(membership) => {
                out.put_u8(payload::MEMBERSHIP);
                put_membership(out, membership);
            }
        }
    }
}

fn get_entries(input: &mut Cursor, previous: LogPosition) -> Result<Vec<Entry>, DecodeError> {
    let count = input.count("the entries", ENTRY_BYTES_MIN, APPEND_ENTRIES_MAX)?;
    let mut entries = Vec::with_capacity(count);
    let mut index = previous.index;
    for _ in 0..count {
        index = index.checked_add(1).ok_or(DecodeError::Invalid { field: "an entry's index" })?;
        let term = Term(input.u64("an entry's term")?);
        let field = "an entry's kind";
        let payload = match input.u8(field)? {
            payload::BARRIER => Payload::Barrier,
            payload::COMMAND => Payload::Command(input.bytes("an entry's command")?),
            payload::MEMBERSHIP => Payload::Membership(get_membership(input)?),
            tag => return Err(DecodeError::UnknownTag { field, tag }),
        };
        entries.push(Entry { position: LogPosition::new(term, index), payload });
    }
    Ok(entries)
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    for members in [&membership.voters, &membership.outgoing, &membership.learners] {
        assert!(members.len() <= MEMBERS_MAX, "a group has too many members");
        put_length(out, members.len());
        members.iter().for_each(|member| out.put_u64(member.0));
    }
}

fn get_membership(input: &mut Cursor) -> Result<Membership, DecodeError> {
    Ok(Membership {
        voters: get_members(input, "the voters")?,
        outgoing: get_members(input, "the outgoing voters")?,
        learners: get_members(input, "the learners")?,
    })
}

/// Members in ascending order, each once: one membership has one encoding.
fn get_members(input: &mut Cursor, field: &'static str) -> Result<BTreeSet<NodeId>, DecodeError> {
    let mut members = BTreeSet::new();
    for _ in 0..input.count(field, 8, MEMBERS_MAX)? {
        let member = input.node(field)?;
        if members.last().is_some_and(|last| *last >= member) {
            return Err(DecodeError::Invalid { field });
        }
        members.insert(member);
    }
    Ok(members)
}
