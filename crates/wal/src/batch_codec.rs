//! Bytes of one batch: what one write makes durable, whole or not at all. Layout in
//! docs/formats.md, "Batch".
//!
//! The header has a checksum of its own and each record its own: together they cover every byte
//! but the padding. A batch counts only if exactly its records fill it and all of them verify.

use crate::record_codec::{self, Belonging, FoundRecord, u32_at, u64_at};

/// Bytes before the first record of a batch.
pub(crate) const BATCH_HEADER_BYTES: usize = 72;

const MAGIC: [u8; 4] = *b"QBAT";

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Incarnation of the segment it was written to.
    pub(crate) incarnation: u64,
    /// Byte offset it was written to.
    pub(crate) offset: u64,
    /// Sequence of the first batch of that segment.
    pub(crate) base_sequence: u64,
    /// Grows by one with every batch of the log.
    pub(crate) sequence: u64,
    /// Highest batch known synced when this one was formed: what proves that a bad batch before
    /// it is corruption, and no torn write.
    pub(crate) synced: u64,
    /// Low-water mark: the oldest segment still needed.
    pub(crate) oldest: u64,
    /// Newest batch before this one that holds a group's state; 0 if there is none.
    pub(crate) state_sequence: u64,
    /// Bytes of all records.
    pub(crate) body_len: u32,
    /// Number of records.
    pub(crate) records: u32,
}

impl BatchHeader {
    /// Bytes of the batch without its padding.
    pub(crate) fn len(&self) -> u64 {
        BATCH_HEADER_BYTES as u64 + u64::from(self.body_len)
    }

    /// Where its records belong, seen from the batch's first byte.
    pub(crate) fn belonging(&self) -> Belonging {
        Belonging { incarnation: self.incarnation, sequence: self.sequence, base: self.offset }
    }

    /// Writes the header over the first bytes of `buffer`.
    pub(crate) fn encode(&self, buffer: &mut [u8]) {
        buffer[4..8].copy_from_slice(&MAGIC);
        let words = [
            self.incarnation,
            self.offset,
            self.base_sequence,
            self.sequence,
            self.synced,
            self.oldest,
            self.state_sequence,
        ];
        for (word, at) in words.iter().zip((8..).step_by(8)) {
            buffer[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        buffer[64..68].copy_from_slice(&self.body_len.to_le_bytes());
        buffer[68..72].copy_from_slice(&self.records.to_le_bytes());
        let checksum = crc32c::crc32c(&buffer[4..BATCH_HEADER_BYTES]);
        buffer[0..4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The header at the start of `bytes`, if one is there that was written to this very place.
    pub(crate) fn decode(bytes: &[u8], incarnation: u64, offset: u64) -> Option<BatchHeader> {
        let header = BatchHeader::decode_anywhere(bytes)?;
        (header.incarnation == incarnation && header.offset == offset).then_some(header)
    }

    /// The header at the start of `bytes`, wherever it was written to.
    pub(crate) fn decode_anywhere(bytes: &[u8]) -> Option<BatchHeader> {
        if bytes.len() < BATCH_HEADER_BYTES || bytes[4..8] != MAGIC {
            return None;
        }
        if crc32c::crc32c(&bytes[4..BATCH_HEADER_BYTES]) != u32_at(bytes, 0) {
            return None;
        }
        let header = BatchHeader {
            incarnation: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            base_sequence: u64_at(bytes, 24),
            sequence: u64_at(bytes, 32),
            synced: u64_at(bytes, 40),
            oldest: u64_at(bytes, 48),
            state_sequence: u64_at(bytes, 56),
            body_len: u32_at(bytes, 64),
            records: u32_at(bytes, 68),
        };
        let possible = header.synced < header.sequence && header.sequence < u64::MAX / 2;
        possible.then_some(header)
    }

    /// The records of the batch in `bytes`, which begin with its header.
    ///
    /// # Errors
    /// Offset in `bytes` of the first thing that is not as it was written.
    pub(crate) fn records(&self, bytes: &[u8]) -> Result<Vec<FoundRecord>, usize> {
        let end = BATCH_HEADER_BYTES + self.body_len as usize;
        records(bytes, BATCH_HEADER_BYTES, end, self.records, &self.belonging())
    }
}

/// Exactly `count` records in `bytes[from..to]`.
///
/// # Errors
/// Offset in `bytes` of the first thing that is not as it was written.
pub(crate) fn records(
    bytes: &[u8],
    from: usize,
    to: usize,
    count: u32,
    belonging: &Belonging,
) -> Result<Vec<FoundRecord>, usize> {
    let mut found = Vec::new();
    let mut at = from;
    while at < to {
        let record = record_codec::verify(bytes, at, to, belonging).ok_or(at)?;
        at = record.payload.end;
        found.push(record);
    }
    if found.len() as u64 == u64::from(count) { Ok(found) } else { Err(to) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: BatchHeader = BatchHeader {
        incarnation: 2,
        offset: 8192,
        base_sequence: 31,
        sequence: 40,
        synced: 39,
        oldest: 1,
        state_sequence: 12,
        body_len: 0,
        records: 0,
    };

    #[test]
    fn a_header_is_read_back_and_every_flipped_bit_is_found() {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        HEADER.encode(&mut bytes);
        assert_eq!(BatchHeader::decode(&bytes, 2, 8192), Some(HEADER));
        assert_eq!(BatchHeader::decode(&bytes, 3, 8192), None, "another incarnation");
        assert_eq!(BatchHeader::decode(&bytes, 2, 4096), None, "a misdirected write");
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes;
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&rotten, 2, 8192), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_batch(mut bytes: Vec<u8>, body_len: u32, count: u32) {
            prop_assert_eq!(BatchHeader::decode(&bytes, 2, 8192), None);
            if bytes.len() >= 8 {
                bytes[4..8].copy_from_slice(&MAGIC);
                prop_assert_eq!(BatchHeader::decode(&bytes, 2, 8192), None);
            }
            let header = BatchHeader { body_len, records: count, ..HEADER };
            let nothing = body_len == 0 && count == 0;
            prop_assert_eq!(header.records(&bytes).is_ok(), nothing);
        }
    }
}
