//! Bytes of one record. Layout in docs/formats.md, "Record".
//!
//! A record's checksum also covers where it belongs (segment incarnation, byte offset, batch
//! sequence), none of which is stored with it: a record found anywhere else does not verify.

use bytes::Bytes;
use clocks::{GroupId, LogPosition, Term};
use std::ops::Range;

/// Bytes before a record's payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 32;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A group's state.
    State = 1,
    /// An entry.
    Entry = 2,
    /// A group's log begins after `index`, and nothing of it is left.
    Reset = 3,
    /// Entries up to and including `index` are not needed any more.
    Released = 4,
    /// The damage named by the segment's header has been made good.
    DamageCleared = 5,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<RecordKind> {
        Some(match byte {
            1 => RecordKind::State,
            2 => RecordKind::Entry,
            3 => RecordKind::Reset,
            4 => RecordKind::Released,
            5 => RecordKind::DamageCleared,
            _ => return None,
        })
    }
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// What it is.
    pub(crate) kind: RecordKind,
    /// Whose it is; 0 where that means nothing.
    pub(crate) group: GroupId,
    /// The owner's kind of an entry; 0 otherwise.
    pub(crate) entry_kind: u8,
    /// Position of an entry; elsewhere the term is 0, and the index too unless the kind uses it.
    pub(crate) position: LogPosition,
}

impl RecordHeader {
    /// A record of `kind` about `index` of `group`.
    pub(crate) fn mark(kind: RecordKind, group: GroupId, index: u64) -> RecordHeader {
        RecordHeader { kind, group, entry_kind: 0, position: LogPosition::new(Term::ZERO, index) }
    }
}

/// A record found in a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundRecord {
    /// What it is.
    pub(crate) header: RecordHeader,
    /// Where its payload stands in the buffer.
    pub(crate) payload: Range<usize>,
}

impl FoundRecord {
    /// The payload, sharing the buffer.
    pub(crate) fn payload_of(&self, buffer: &Bytes) -> Bytes {
        buffer.slice(self.payload.clone())
    }
}

/// Where a run of records belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Belonging {
    /// Segment incarnation.
    pub(crate) incarnation: u64,
    /// Sequence of the batch.
    pub(crate) sequence: u64,
    /// Byte offset in the file of the buffer's first byte.
    pub(crate) base: u64,
}

impl Belonging {
    fn seed(&self, at: usize) -> u32 {
        let mut bytes = [0; 24];
        bytes[0..8].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&(self.base + at as u64).to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// Appends a record whose checksum is still missing: it belongs nowhere yet.
///
/// # Panics
/// On a payload above `MAX_PAYLOAD_BYTES`.
pub(crate) fn encode(buffer: &mut Vec<u8>, header: &RecordHeader, payload: &[u8]) {
    assert!(payload.len() <= crate::MAX_PAYLOAD_BYTES, "a payload exceeds the documented limit");
    let len = u32::try_from(payload.len()).expect("payloads are below 4 GiB");
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&len.to_le_bytes());
    buffer.extend_from_slice(&header.group.0.to_le_bytes());
    buffer.extend_from_slice(&[header.kind as u8, header.entry_kind, 0, 0]);
    buffer.extend_from_slice(&header.position.term.0.to_le_bytes());
    buffer.extend_from_slice(&header.position.index.to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// Gives every record of `buffer[from..]` the checksum of the place it now has.
pub(crate) fn seal(buffer: &mut [u8], from: usize, belonging: &Belonging) {
    let mut at = from;
    while at < buffer.len() {
        let end = at + RECORD_HEADER_BYTES + u32_at(buffer, at + 4) as usize;
        let checksum = crc32c::crc32c_append(belonging.seed(at), &buffer[at + 4..end]);
        buffer[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        at = end;
    }
}

/// Reads the record at `at`, which must end at or before `limit`, without its checksum.
/// None if there is no such record.
pub(crate) fn parse(buffer: &[u8], at: usize, limit: usize) -> Option<FoundRecord> {
    let body = at.checked_add(RECORD_HEADER_BYTES)?;
    if limit > buffer.len() || body > limit {
        return None;
    }
    let len = u32_at(buffer, at + 4) as usize;
    if len > limit - body {
        return None;
    }
    if buffer[at + 14] != 0 || buffer[at + 15] != 0 {
        return None;
    }
    let header = RecordHeader {
        kind: RecordKind::from_byte(buffer[at + 12])?,
        group: GroupId(u32_at(buffer, at + 8)),
        entry_kind: buffer[at + 13],
        position: LogPosition::new(Term(u64_at(buffer, at + 16)), u64_at(buffer, at + 24)),
    };
    Some(FoundRecord { header, payload: body..body + len })
}

/// As [`parse`], and the checksum must be that of this place.
pub(crate) fn verify(
    buffer: &[u8],
    at: usize,
    limit: usize,
    belonging: &Belonging,
) -> Option<FoundRecord> {
    let found = parse(buffer, at, limit)?;
    let checksum = crc32c::crc32c_append(belonging.seed(at), &buffer[at + 4..found.payload.end]);
    (checksum == u32_at(buffer, at)).then_some(found)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOME: Belonging = Belonging { incarnation: 3, sequence: 9, base: 8192 };

    fn sealed(payload: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        let mut header = RecordHeader::mark(RecordKind::Entry, GroupId(7), 5);
        header.entry_kind = 2;
        encode(&mut buffer, &header, payload);
        seal(&mut buffer, 0, &HOME);
        buffer
    }

    #[test]
    fn a_record_verifies_only_where_it_belongs() {
        let buffer = sealed(b"payload");
        let found = verify(&buffer, 0, buffer.len(), &HOME).expect("it is at home");
        assert_eq!(&buffer[found.payload], b"payload");
        let elsewhere = [
            Belonging { incarnation: 4, ..HOME },
            Belonging { sequence: 10, ..HOME },
            Belonging { base: 4096, ..HOME },
        ];
        for place in elsewhere {
            assert_eq!(verify(&buffer, 0, buffer.len(), &place), None, "{place:?}");
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let buffer = sealed(b"some payload of a few bytes");
        for bit in 0..buffer.len() * 8 {
            let mut rotten = buffer.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&rotten, 0, rotten.len(), &HOME), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_record(bytes: Vec<u8>, at in 0usize..80, limit in 0usize..200) {
            prop_assert_eq!(verify(&bytes, at, limit, &HOME), None);
            if let Some(found) = parse(&bytes, at, limit) {
                prop_assert!(found.payload.end <= limit);
            }
        }
    }
}
