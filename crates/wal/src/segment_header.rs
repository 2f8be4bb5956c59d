//! Bytes at the head of a segment: its header, and the opening that repeats every group's state.
//! Layout in docs/formats.md, "Segment header".

use crate::batch_codec;
use crate::record_codec::{self, Belonging, FoundRecord, u32_at, u64_at};
use crate::{Damage, FileId, limits};
use bytes::Bytes;

/// The only version there is.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Bytes of the fixed part: one disk sector, which tears whole or not at all. The same in every
/// version to come: magic, version, checksum of this sector, incarnation.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 512;

const MAGIC: [u8; 8] = *b"QUOR-WAL";

/// Where the segment before this one ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PreviousEnd {
    /// Its number.
    pub(crate) segment: u64,
    /// Byte offset after its last batch; what stands there or later was never acknowledged.
    pub(crate) end: u64,
    /// Sequence of the last batch before this segment.
    pub(crate) sequence: u64,
}

/// The head of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The segment's number, which is its file's number and never used again.
    pub(crate) incarnation: u64,
    /// Sequence of its first batch.
    pub(crate) base_sequence: u64,
    /// None in the first segment of all.
    pub(crate) previous: Option<PreviousEnd>,
    /// Low-water mark: the oldest segment still needed.
    pub(crate) oldest: u64,
    /// Set while earlier damage has not been made good.
    pub(crate) damage: Option<Damage>,
    /// Newest batch before this segment that holds a group's state; 0 if there is none.
    pub(crate) state_sequence: u64,
}

/// A segment's head, read back.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    /// The fixed part.
    pub(crate) header: SegmentHeader,
    /// The sector and the records after it.
    pub(crate) bytes: Bytes,
    /// Every group's state and released mark.
    pub(crate) records: Vec<FoundRecord>,
    /// Where the first batch begins.
    pub(crate) first_batch: u64,
}

/// What the first sector of a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sector {
    /// A segment of ours, with the length and number of its opening records.
    Segment(SegmentHeader, u32, u32),
    /// A segment of another format.
    UnknownVersion(u32),
    /// No header of this file: never written, torn, rotten, or left over from another segment.
    Other,
}

impl SegmentHeader {
    /// Header and opening in whole blocks; `opening` holds `count` unsealed records.
    pub(crate) fn encode(&self, opening: &[u8], count: u32) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let previous = self.previous.unwrap_or(PreviousEnd { segment: 0, end: 0, sequence: 0 });
        let damage = self.damage.clone().unwrap_or(Damage { file: FileId(0), offset: 0 });
        let words = [
            self.incarnation,
            self.base_sequence,
            previous.segment,
            previous.end,
            previous.sequence,
            self.oldest,
            damage.file.0,
            damage.offset,
            self.state_sequence,
        ];
        for (word, at) in words.iter().zip((16..).step_by(8)) {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let opening_len = u32::try_from(opening.len()).expect("openings are below 4 GiB");
        bytes[88..92].copy_from_slice(&opening_len.to_le_bytes());
        bytes[92..96].copy_from_slice(&count.to_le_bytes());
        let checksum = sector_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(opening);
        record_codec::seal(&mut bytes, SEGMENT_HEADER_BYTES, &self.belonging());
        let len = limits::round_up_to_block(bytes.len() as u64);
        bytes.resize(usize::try_from(len).expect("openings are below 4 GiB"), 0);
        bytes
    }

    fn belonging(&self) -> Belonging {
        Belonging { incarnation: self.incarnation, sequence: self.base_sequence, base: 0 }
    }

    /// What stands at the head of `file`, from its first sector.
    pub(crate) fn decode(bytes: &[u8], file: FileId) -> Sector {
        if bytes.len() < SEGMENT_HEADER_BYTES || bytes[0..8] != MAGIC {
            return Sector::Other;
        }
        let bytes = &bytes[..SEGMENT_HEADER_BYTES];
        if sector_checksum(bytes) != u32_at(bytes, 12) || u64_at(bytes, 16) != file.0 {
            return Sector::Other;
        }
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Sector::UnknownVersion(version);
        }
        let previous = PreviousEnd {
            segment: u64_at(bytes, 32),
            end: u64_at(bytes, 40),
            sequence: u64_at(bytes, 48),
        };
        let damage = Damage { file: FileId(u64_at(bytes, 64)), offset: u64_at(bytes, 72) };
        let header = SegmentHeader {
            incarnation: file.0,
            base_sequence: u64_at(bytes, 24),
            previous: (previous.segment != 0).then_some(previous),
            oldest: u64_at(bytes, 56),
            damage: (damage.file.0 != 0).then_some(damage),
            state_sequence: u64_at(bytes, 80),
        };
        // Numbers grow from one segment to the next, so that walking back always ends.
        let grows = header.previous.is_none_or(|previous| {
            previous.segment < file.0 && previous.sequence < header.base_sequence
        });
        let possible = (1..u64::MAX / 2).contains(&header.base_sequence);
        if !grows || !possible || header.oldest > file.0 {
            return Sector::Other;
        }
        Sector::Segment(header, u32_at(bytes, 88), u32_at(bytes, 92))
    }

    /// The records of the opening in `bytes`, which begin with the header.
    ///
    /// # Errors
    /// Offset of the first thing that is not as it was written.
    pub(crate) fn opening(
        &self,
        bytes: &[u8],
        opening_len: u32,
        count: u32,
    ) -> Result<Vec<FoundRecord>, usize> {
        let end = SEGMENT_HEADER_BYTES + opening_len as usize;
        batch_codec::records(bytes, SEGMENT_HEADER_BYTES, end, count, &self.belonging())
    }
}

fn sector_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[0..12]), &bytes[16..SEGMENT_HEADER_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_codec::{RecordHeader, RecordKind};
    use clocks::GroupId;
    use proptest::prelude::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            incarnation: 5,
            base_sequence: 100,
            previous: Some(PreviousEnd { segment: 4, end: 65536, sequence: 99 }),
            oldest: 3,
            damage: Some(Damage { file: FileId(2), offset: 8192 }),
            state_sequence: 77,
        }
    }

    fn encoded() -> Vec<u8> {
        let mut opening = Vec::new();
        let record = RecordHeader::mark(RecordKind::State, GroupId(1), 0);
        record_codec::encode(&mut opening, &record, b"vote");
        header().encode(&opening, 1)
    }

    #[test]
    fn a_header_and_its_opening_are_read_back() {
        let bytes = encoded();
        let Sector::Segment(read, len, count) = SegmentHeader::decode(&bytes, FileId(5)) else {
            panic!("the header is not recognised");
        };
        assert_eq!(read, header());
        let records = read.opening(&bytes, len, count).expect("the opening is whole");
        assert_eq!(&bytes[records[0].payload.clone()], b"vote");
    }

    #[test]
    fn a_leftover_of_another_incarnation_is_no_header() {
        assert_eq!(SegmentHeader::decode(&encoded(), FileId(6)), Sector::Other);
    }

    #[test]
    fn a_version_from_the_future_is_recognised_as_one() {
        let mut bytes = encoded();
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        let torn = SegmentHeader::decode(&bytes, FileId(5));
        assert_eq!(torn, Sector::Other, "a flipped bit is no new version");
        let checksum = sector_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes, FileId(5)), Sector::UnknownVersion(2));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes = encoded();
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&rotten, FileId(5)), Sector::Other, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_header(tail in proptest::collection::vec(any::<u8>(), 0..1024)) {
            prop_assert_eq!(SegmentHeader::decode(&tail, FileId(5)), Sector::Other);
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&tail);
            prop_assert_eq!(SegmentHeader::decode(&bytes, FileId(5)), Sector::Other);
        }
    }
}
