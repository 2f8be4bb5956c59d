//! Messages of node cores to each other. Forwarded commands are slices of the frame that brought
//! them.

use super::consensus_codec::{get_body, get_message, put_body, put_bytes, put_length, put_message};
use super::cursor::{Cursor, DecodeError};
use super::frame::{Frame, encode_frame};
use super::kind;
use super::limits::{BEATS_MAX, HASHES_MAX, MEMBERS_MAX, PROPOSED_COMMANDS_MAX};
use bytes::{BufMut, Bytes, BytesMut};
use clocks::{GroupId, NodeId, Term};
use consensus::{Beat, Body, PeerHeartbeats};
use replica::PeerMessage;

/// The least that a beat takes: group, term, body and a round.
const BEAT_BYTES_MIN: usize = 4 + 8 + 1 + 8;
/// The least that a command takes: its length.
const COMMAND_BYTES_MIN: usize = 4;
/// An index and a hash.
const HASH_BYTES: usize = 8 + 8;
const NODE_BYTES: usize = 8;

/// Appends a message as a frame.
///
/// # Panics
/// If the message exceeds a bound of [`limits`](super::limits): senders bound what they put into
/// one.
pub fn encode_message(out: &mut BytesMut, message: &PeerMessage) {
    encode_frame(out, kind_of(message), |out| match message {
        PeerMessage::Consensus(message) => put_message(out, message),
        PeerMessage::Heartbeats(heartbeats) => put_heartbeats(out, heartbeats),
        PeerMessage::Propose { group, commands } => {
            assert!(commands.len() <= PROPOSED_COMMANDS_MAX, "too many commands in one message");
            out.put_u32(group.0);
            put_length(out, commands.len());
            commands.iter().for_each(|command| put_bytes(out, command));
        }
        PeerMessage::ProposeRefused { group, term } => {
            out.put_u32(group.0);
            out.put_u64(term.0);
        }
        PeerMessage::ReadIndex { group, round } => {
            out.put_u32(group.0);
            out.put_u64(*round);
        }
        PeerMessage::ReadIndexReply { group, round, index } => {
            out.put_u32(group.0);
            out.put_u64(*round);
            out.put_u8(u8::from(index.is_some()));
            index.iter().for_each(|index| out.put_u64(*index));
        }
        PeerMessage::StateHashes { group, hashes } => {
            assert!(hashes.len() <= HASHES_MAX, "too many hashes in one message");
            out.put_u32(group.0);
            put_length(out, hashes.len());
            for (index, hash) in hashes {
                out.put_u64(*index);
                out.put_u64(*hash);
            }
        }
        PeerMessage::MemberCondition { short_of_space } => out.put_u8(u8::from(*short_of_space)),
        PeerMessage::LearnersInSync { group, term, learners } => {
            assert!(learners.len() <= MEMBERS_MAX, "too many learners in one message");
            out.put_u32(group.0);
            out.put_u64(term.0);
            put_length(out, learners.len());
            learners.iter().for_each(|learner| out.put_u64(learner.0));
        }
        PeerMessage::Removed => {}
    });
}

/// Reads a message off a frame that came after the handshake.
///
/// # Errors
/// If the payload is not what the kind says; the sender is broken or hostile: close.
pub fn decode_message(frame: Frame) -> Result<PeerMessage, DecodeError> {
    let mut payload = Cursor::new(frame.payload);
    let input = &mut payload;
    let message = match frame.kind {
        kind::CONSENSUS => PeerMessage::Consensus(get_message(input)?),
        kind::HEARTBEATS => PeerMessage::Heartbeats(get_heartbeats(input)?),
        kind::PROPOSE => {
            PeerMessage::Propose { group: get_group(input)?, commands: get_commands(input)? }
        }
        kind::PROPOSE_REFUSED => PeerMessage::ProposeRefused {
            group: get_group(input)?,
            term: Term(input.u64("the term")?),
        },
        kind::READ_INDEX => {
            PeerMessage::ReadIndex { group: get_group(input)?, round: input.u64("the round")? }
        }
        kind::READ_INDEX_REPLY => PeerMessage::ReadIndexReply {
            group: get_group(input)?,
            round: input.u64("the round")?,
            index: match input.flag("whether there is an index")? {
                true => Some(input.u64("the index")?),
                false => None,
            },
        },
        kind::STATE_HASHES => {
            PeerMessage::StateHashes { group: get_group(input)?, hashes: get_hashes(input)? }
        }
        kind::MEMBER_CONDITION => {
            PeerMessage::MemberCondition { short_of_space: input.flag("the shortage of space")? }
        }
        kind::LEARNERS_IN_SYNC => PeerMessage::LearnersInSync {
            group: get_group(input)?,
            term: Term(input.u64("the term")?),
            learners: get_learners(input)?,
        },
        kind::REMOVED => PeerMessage::Removed,
        tag => return Err(DecodeError::UnknownTag { field: "the frame's kind", tag }),
    };
    payload.finish()?;
    Ok(message)
}

fn kind_of(message: &PeerMessage) -> u8 {
    match message {
        PeerMessage::Consensus(_) => kind::CONSENSUS,
        PeerMessage::Heartbeats(_) => kind::HEARTBEATS,
        PeerMessage::Propose { .. } => kind::PROPOSE,
        PeerMessage::ProposeRefused { .. } => kind::PROPOSE_REFUSED,
        PeerMessage::ReadIndex { .. } => kind::READ_INDEX,
        PeerMessage::ReadIndexReply { .. } => kind::READ_INDEX_REPLY,
        PeerMessage::StateHashes { .. } => kind::STATE_HASHES,
        PeerMessage::MemberCondition { .. } => kind::MEMBER_CONDITION,
        PeerMessage::LearnersInSync { .. } => kind::LEARNERS_IN_SYNC,
        PeerMessage::Removed => kind::REMOVED,
    }
}

fn get_group(input: &mut Cursor) -> Result<GroupId, DecodeError> {
    Ok(GroupId(input.u32("the group")?))
}

fn put_heartbeats(out: &mut BytesMut, heartbeats: &PeerHeartbeats) {
    assert!(heartbeats.beats.len() <= BEATS_MAX, "too many heartbeats in one message");
    out.put_u64(heartbeats.from.0);
    out.put_u64(heartbeats.to.0);
    put_length(out, heartbeats.beats.len());
    for beat in &heartbeats.beats {
        out.put_u32(beat.group.0);
        out.put_u64(beat.term.0);
        put_body(out, &beat.body);
    }
}

fn get_heartbeats(input: &mut Cursor) -> Result<PeerHeartbeats, DecodeError> {
    let from = input.node("the sender")?;
    let to = input.node("the receiver")?;
    let count = input.count("the heartbeats", BEAT_BYTES_MIN, BEATS_MAX)?;
    let mut beats = Vec::with_capacity(count);
    for _ in 0..count {
        let group = get_group(input)?;
        let term = Term(input.u64("the term")?);
        let body = get_body(input)?;
        let (Body::Heartbeat { .. } | Body::HeartbeatReply { .. }) = body else {
            return Err(DecodeError::Invalid { field: "a heartbeat's body" });
        };
        beats.push(Beat { group, term, body });
    }
    Ok(PeerHeartbeats { from, to, beats })
}

fn get_commands(input: &mut Cursor) -> Result<Vec<Bytes>, DecodeError> {
    let count = input.count("the commands", COMMAND_BYTES_MIN, PROPOSED_COMMANDS_MAX)?;
    (0..count).map(|_| input.bytes("a command")).collect()
}

fn get_learners(input: &mut Cursor) -> Result<Vec<NodeId>, DecodeError> {
    let count = input.count("the learners", NODE_BYTES, MEMBERS_MAX)?;
    (0..count).map(|_| input.node("a learner")).collect()
}

fn get_hashes(input: &mut Cursor) -> Result<Vec<(u64, u64)>, DecodeError> {
    let count = input.count("the hashes", HASH_BYTES, HASHES_MAX)?;
    (0..count).map(|_| Ok((input.u64("an index")?, input.u64("a hash")?))).collect()
}
