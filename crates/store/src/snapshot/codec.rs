//! The bytes of a snapshot's chunks (docs/formats.md, State): records, and a checksum that covers
//! which chunk of which snapshot they are.

use crate::chain_hash::ChainHash;
use crate::envelope::{DecodeError, get_bytes, get_u8, get_u64, put_bytes};
use crate::key_layout::{EventId, Space, StateRecord};
use crate::limits::SNAPSHOT_VERSION;
use crate::state_machine::MachineKind;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use clocks::LogPosition;

/// What a chunk is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// First of all.
    Header { kind: MachineKind, state: StateRecord, membership: Option<Bytes> },
    /// A single record of the state machine, besides those of the header.
    Single { name: u8, value: Bytes },
    /// A record of the spaces of [`PAIR_TAGS`], as it lies in the engine.
    Pair { space: Space, name: Bytes, value: Bytes },
    /// A retained event.
    Event { id: EventId, record: Bytes },
    /// Last of all: the checksum of every record before it.
    Trailer { checksum: u64 },
}

const HEADER: u8 = 1;
const EVENT: u8 = 4;
const TRAILER: u8 = 5;
const SINGLE: u8 = 12;

/// How pairs are told apart; numbers are never reused.
const PAIR_TAGS: [(u8, Space); 7] = [
    (2, Space::Members),
    (3, Space::Sessions),
    (6, Space::Leases),
    (7, Space::LeaseKeys),
    (11, Space::RemovedMembers),
    (16, Space::Users),
    (17, Space::Roles),
];

pub(super) struct ChunkWriter {
    out: BytesMut,
    checksum: ChainHash,
}

/// Version byte, and the CRC-32C at the end.
const FRAME: usize = 5;

impl ChunkWriter {
    pub(super) fn new(checksum: u64) -> ChunkWriter {
        let mut out = BytesMut::new();
        out.put_u8(SNAPSHOT_VERSION);
        ChunkWriter { out, checksum: ChainHash(checksum) }
    }

    pub(super) fn length(&self) -> usize {
        self.out.len() + FRAME - 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length() == FRAME
    }

    /// The whole's checksum up to here.
    pub(super) fn checksum(&self) -> u64 {
        self.checksum.0
    }

    pub(super) fn put(&mut self, record: &Record) {
        let start = self.out.len();
        record.encode(&mut self.out);
        self.checksum.note("record", &self.out[start..]);
    }

    pub(super) fn put_trailer(&mut self) {
        Record::Trailer { checksum: self.checksum.0 }.encode(&mut self.out);
    }

    pub(super) fn finish(mut self, position: LogPosition, chunk: u64) -> Bytes {
        let checksum = chunk_checksum(&self.out, position, chunk);
        self.out.put_u32(checksum);
        self.out.freeze()
    }
}

fn chunk_checksum(bytes: &[u8], position: LogPosition, chunk: u64) -> u32 {
    let mut place = BytesMut::with_capacity(24);
    place.put_u64(position.term.0);
    place.put_u64(position.index);
    place.put_u64(chunk);
    crc32c::crc32c_append(crc32c::crc32c(&place), bytes)
}

/// A chunk of these records and bytes, as a peer may send it.
#[cfg(test)]
pub(super) fn seal(records: &[Record], bytes: &[u8], position: LogPosition, chunk: u64) -> Bytes {
    let mut writer = ChunkWriter::new(0);
    records.iter().for_each(|record| writer.put(record));
    writer.out.put_slice(bytes);
    writer.finish(position, chunk)
}

/// Why a chunk cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkError {
    /// Its checksum is wrong.
    Damaged,
    /// Its sender wrote something else than this version reads.
    Foreign(&'static str),
}

impl From<DecodeError> for ChunkError {
    fn from(error: DecodeError) -> ChunkError {
        ChunkError::Foreign(error.0)
    }
}

/// The records of a chunk, and the whole's checksum after them.
pub(super) fn read_chunk(
    data: &[u8],
    position: LogPosition,
    chunk: u64,
    checksum: &mut u64,
) -> Result<Vec<Record>, ChunkError> {
    let Some((bytes, stored)) = data.split_last_chunk::<4>() else {
        return Err(ChunkError::Damaged);
    };
    if u32::from_be_bytes(*stored) != chunk_checksum(bytes, position, chunk) {
        return Err(ChunkError::Damaged);
    }
    let mut input = Bytes::copy_from_slice(bytes);
    if get_u8(&mut input)? != SNAPSHOT_VERSION {
        return Err(ChunkError::Foreign("the snapshot's version is unknown"));
    }
    let mut hash = ChainHash(*checksum);
    let mut records = Vec::new();
    while input.has_remaining() {
        let before = input.clone();
        let record = Record::decode(&mut input)?;
        match &record {
            Record::Trailer { checksum } if *checksum != hash.0 => {
                return Err(ChunkError::Foreign("the snapshot's checksum is wrong"));
            }
            Record::Trailer { .. } => {}
            _ => hash.note("record", &before[..before.len() - input.len()]),
        }
        records.push(record);
    }
    *checksum = hash.0;
    Ok(records)
}

impl Record {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Record::Header { kind, state, membership } => {
                out.put_u8(HEADER);
                out.put_u8(kind.code());
                // Only retained events travel, so that the receiver has nothing to compact.
                let compaction_next = EventId { main: state.compacted + 1, sub: 0 };
                let state = StateRecord { compaction_next, ..*state };
                put_bytes(out, &state.encode());
                out.put_u8(u8::from(membership.is_some()));
                put_bytes(out, membership.as_deref().unwrap_or_default());
            }
            Record::Pair { space, name, value } => {
                let tag = PAIR_TAGS.iter().find(|(_, known)| known == space);
                out.put_u8(tag.expect("only the spaces of the list are sent").0);
                put_bytes(out, name);
                put_bytes(out, value);
            }
            Record::Single { name, value } => {
                out.put_u8(SINGLE);
                out.put_u8(*name);
                put_bytes(out, value);
            }
            Record::Event { id, record } => {
                out.put_u8(EVENT);
                out.put_i64(id.main);
                out.put_u32(id.sub);
                put_bytes(out, record);
            }
            Record::Trailer { checksum } => {
                out.put_u8(TRAILER);
                out.put_u64(*checksum);
            }
        }
    }

    fn decode(input: &mut Bytes) -> Result<Record, DecodeError> {
        Ok(match get_u8(input)? {
            HEADER => {
                let kind = MachineKind::from_code(get_u8(input)?)?;
                let state = StateRecord::decode(get_bytes(input)?)?;
                let present = get_u8(input)? != 0;
                let membership = Some(get_bytes(input)?).filter(|_| present);
                Record::Header { kind, state, membership }
            }
            SINGLE => Record::Single { name: get_u8(input)?, value: get_bytes(input)? },
            EVENT => {
                let main = crate::envelope::get_i64(input)?;
                let id = EventId { main, sub: crate::envelope::get_u32(input)? };
                Record::Event { id, record: get_bytes(input)? }
            }
            TRAILER => Record::Trailer { checksum: get_u64(input)? },
            tag => {
                let known = PAIR_TAGS.iter().find(|(known, _)| *known == tag);
                let &(_, space) =
                    known.ok_or(DecodeError("a record of the snapshot is unknown"))?;
                Record::Pair { space, name: get_bytes(input)?, value: get_bytes(input)? }
            }
        })
    }
}
