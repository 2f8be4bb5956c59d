//! Reading a segment from front to back, during recovery only: synchronous, a window at a time.

use crate::batch_codec::BatchHeader;
use crate::limits::{BLOCK, READ_AHEAD_BYTES, round_up_to_block};
use crate::record_codec::FoundRecord;
use crate::segment_header::{Opening, SEGMENT_HEADER_BYTES, Sector, SegmentHeader};
use crate::{Disk, DiskError, DiskOp, FileInfo, WalError};
use bytes::Bytes;

/// A file, and the part of it that was read last.
pub(crate) struct SegmentReader<'a> {
    disk: &'a mut dyn Disk,
    file: FileInfo,
    read_ahead: u64,
    window_start: u64,
    window: Bytes,
}

/// A batch that verified.
pub(crate) struct FoundBatch {
    /// Its head.
    pub(crate) header: BatchHeader,
    /// All of it, without the padding.
    pub(crate) bytes: Bytes,
    /// Its records, by their place in `bytes`.
    pub(crate) records: Vec<FoundRecord>,
}

/// Why there is no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoBatch {
    /// No header that was written to this place.
    Header,
    /// A header, but not its records; `at` is the file offset of the first bad one.
    Records { header: BatchHeader, at: u64 },
}

impl<'a> SegmentReader<'a> {
    /// Reads `file` of `disk` from front to back.
    pub(crate) fn new(disk: &'a mut dyn Disk, file: FileInfo) -> SegmentReader<'a> {
        // A file of an allocation cut short may end within a block, where nothing was written.
        let file = FileInfo { len: file.len - file.len % BLOCK, ..file };
        SegmentReader {
            disk,
            file,
            read_ahead: READ_AHEAD_BYTES,
            window_start: 0,
            window: Bytes::new(),
        }
    }

    /// Reads only the head of `file`.
    pub(crate) fn head(disk: &'a mut dyn Disk, file: FileInfo) -> SegmentReader<'a> {
        SegmentReader { read_ahead: BLOCK, ..SegmentReader::new(disk, file) }
    }

    /// The bytes `offset..offset + len`; none if the file is shorter.
    fn bytes(&mut self, offset: u64, len: u64) -> Result<Option<Bytes>, WalError> {
        let Some(end) = offset.checked_add(len).filter(|&end| end <= self.file.len) else {
            return Ok(None);
        };
        let window_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || end > window_end {
            let start = offset - offset % BLOCK;
            let wanted = round_up_to_block(end - start).max(self.read_ahead);
            let len = wanted.min(self.file.len - start);
            self.window =
                self.disk.run(DiskOp::Read { file: self.file.file, offset: start, len })?;
            self.window_start = start;
            if self.window.len() as u64 != len {
                let words = format!("file {} gave too few bytes", self.file.file.0);
                return Err(WalError::Disk(DiskError::Failed(words)));
            }
        }
        let place = |at: u64| usize::try_from(at - self.window_start).expect("windows fit memory");
        Ok(Some(self.window.slice(place(offset)..place(end))))
    }

    /// The segment's head, or none if the file is no (whole) segment of ours.
    ///
    /// # Errors
    /// A segment of an unknown format, or a failed read.
    pub(crate) fn opening(&mut self) -> Result<Option<Opening>, WalError> {
        let file = self.file.file;
        let Some(sector) = self.bytes(0, SEGMENT_HEADER_BYTES as u64)? else { return Ok(None) };
        let (header, opening_len, count) = match SegmentHeader::decode(&sector, file) {
            Sector::Segment(header, len, count) => (header, len, count),
            Sector::UnknownVersion(version) => {
                return Err(WalError::UnknownVersion { file, version });
            }
            Sector::Other => return Ok(None),
        };
        let len = SEGMENT_HEADER_BYTES as u64 + u64::from(opening_len);
        let Some(bytes) = self.bytes(0, len)? else { return Ok(None) };
        let Ok(records) = header.opening(&bytes, opening_len, count) else { return Ok(None) };
        Ok(Some(Opening { header, bytes, records, first_batch: round_up_to_block(len) }))
    }

    /// The batch at `offset`.
    ///
    /// # Errors
    /// A failed read; that there is no (whole) batch is an answer.
    pub(crate) fn batch(&mut self, offset: u64) -> Result<Result<FoundBatch, NoBatch>, WalError> {
        let Some(header) = self.batch_header(offset)? else { return Ok(Err(NoBatch::Header)) };
        let Some(bytes) = self.bytes(offset, header.len())? else {
            return Ok(Err(NoBatch::Records { header, at: self.file.len }));
        };
        match header.records(&bytes) {
            Ok(records) => Ok(Ok(FoundBatch { header, bytes, records })),
            Err(at) => Ok(Err(NoBatch::Records { header, at: offset + at as u64 })),
        }
    }

    fn batch_header(&mut self, offset: u64) -> Result<Option<BatchHeader>, WalError> {
        let bytes = self.bytes(offset, BLOCK)?;
        Ok(bytes.and_then(|bytes| BatchHeader::decode(&bytes, self.file.file.0, offset)))
    }

    /// Offset of the first block at or after `offset` that begins as a batch does, and that
    /// batch's head; it may have been written for another place.
    ///
    /// # Errors
    /// A failed read.
    pub(crate) fn next_header(
        &mut self,
        offset: u64,
    ) -> Result<Option<(u64, BatchHeader)>, WalError> {
        let mut offset = round_up_to_block(offset);
        while let Some(bytes) = self.bytes(offset, BLOCK)? {
            if let Some(header) = BatchHeader::decode_anywhere(&bytes) {
                return Ok(Some((offset, header)));
            }
            offset += BLOCK;
        }
        Ok(None)
    }
}
