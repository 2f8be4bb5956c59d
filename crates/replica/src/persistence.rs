//! How consensus state and entries stand in the log. Byte tables: docs/formats.md, "Records of a
//! group".

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use clocks::{LogPosition, NodeId, Term};
use consensus::{Entry, HardState, Membership, Payload};
use std::collections::BTreeSet;
use std::fmt;
use wal::{EntryRecord, GroupState};

const STATE_VERSION: u8 = 1;
const KIND_BARRIER: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// The bytes passed their checksum and still make no sense: another version wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable(String);

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (was it written by a newer version of quorate?)", self.0)
    }
}

impl From<TryGetError> for Undecodable {
    fn from(_: TryGetError) -> Undecodable {
        Undecodable("a record of the log ends too early".into())
    }
}

pub(crate) fn encode_state(state: &HardState) -> GroupState {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(STATE_VERSION);
    out.put_u64(state.term.0);
    out.put_u64(state.voted_for.map_or(0, |node| node.0));
    out.put_u64(state.log_start.term.0);
    out.put_u64(state.log_start.index);
    out.put_u8(u8::from(state.damaged));
    put_membership(&mut out, &state.membership);
    GroupState(out.freeze())
}

pub(crate) fn decode_state(state: &GroupState) -> Result<HardState, Undecodable> {
    let mut input = state.0.clone();
    let version = input.try_get_u8()?;
    if version != STATE_VERSION {
        return Err(Undecodable(format!("group state has format version {version}")));
    }
    Ok(HardState {
        term: Term(input.try_get_u64()?),
        voted_for: Some(NodeId(input.try_get_u64()?)).filter(|node| node.0 != 0),
        log_start: LogPosition::new(Term(input.try_get_u64()?), input.try_get_u64()?),
        damaged: input.try_get_u8()? != 0,
        membership: get_membership(&mut input)?,
    })
}

pub(crate) fn encode_entry(entry: Entry) -> EntryRecord {
    let (kind, payload) = match entry.payload {
        Payload::Barrier => (KIND_BARRIER, Bytes::new()),
        Payload::Command(command) => (KIND_COMMAND, command),
        Payload::Membership(membership) => (KIND_MEMBERSHIP, encode_membership(&membership)),
    };
    EntryRecord { position: entry.position, kind, payload }
}

pub(crate) fn decode_entry(record: EntryRecord) -> Result<Entry, Undecodable> {
    let payload = match record.kind {
        KIND_BARRIER => Payload::Barrier,
        KIND_COMMAND => Payload::Command(record.payload),
        KIND_MEMBERSHIP => Payload::Membership(decode_membership(record.payload)?),
        kind => return Err(Undecodable(format!("log entry has unknown kind {kind}"))),
    };
    Ok(Entry { position: record.position, payload })
}

pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + 8 * membership.len());
    put_membership(&mut out, membership);
    out.freeze()
}

pub(crate) fn decode_membership(mut bytes: Bytes) -> Result<Membership, Undecodable> {
    get_membership(&mut bytes)
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    for role in [&membership.voters, &membership.outgoing, &membership.learners] {
        out.put_u16(u16::try_from(role.len()).expect("far fewer than 65,536 members"));
        for node in role {
            out.put_u64(node.0);
        }
    }
}

fn get_membership(input: &mut Bytes) -> Result<Membership, Undecodable> {
    let mut role = || -> Result<BTreeSet<NodeId>, Undecodable> {
        let count = input.try_get_u16()?;
        (0..count).map(|_| Ok(NodeId(input.try_get_u64()?))).collect()
    };
    Ok(Membership { voters: role()?, outgoing: role()?, learners: role()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn joint() -> Membership {
        Membership { voters: nodes(&[1, 2, 4]), outgoing: nodes(&[1, 2, 3]), learners: nodes(&[5]) }
    }

    #[test]
    fn a_hard_state_survives_the_round_trip() {
        for voted_for in [None, Some(NodeId(7))] {
            let state = HardState {
                term: Term(9),
                voted_for,
                log_start: LogPosition::new(Term(8), 100),
                damaged: voted_for.is_some(),
                membership: joint(),
            };
            assert_eq!(decode_state(&encode_state(&state)), Ok(state));
        }
    }

    #[test]
    fn entries_survive_the_round_trip() {
        let payloads =
            [Payload::Barrier, Payload::Command("x".into()), Payload::Membership(joint())];
        for payload in payloads {
            let entry = Entry { position: LogPosition::new(Term(2), 3), payload };
            assert_eq!(decode_entry(encode_entry(entry.clone())), Ok(entry));
        }
    }

    #[test]
    fn an_unknown_version_and_every_truncation_are_refused() {
        let good = encode_state(&HardState { membership: joint(), ..HardState::default() }).0;
        let mut newer = BytesMut::from(&good[..]);
        newer[0] = 9;
        let refusal = decode_state(&GroupState(newer.freeze())).unwrap_err();
        assert!(refusal.to_string().contains("version 9"), "{refusal}");
        for cut in 0..good.len() {
            assert!(decode_state(&GroupState(good.slice(..cut))).is_err(), "cut at {cut}");
        }
    }
}
