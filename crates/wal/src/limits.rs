//! The limits of the log, and how they relate.

use crate::DiskOp;

/// The largest payload of one record, in bytes; a batch that fits no ordinary segment gets a
/// segment of its own size.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;

/// [`DiskOp::BLOCK`] as a file offset.
pub(crate) const BLOCK: u64 = DiskOp::BLOCK as u64;

/// Bytes that recovery reads ahead in one operation.
pub(crate) const READ_AHEAD_BYTES: u64 = 256 << 10;

/// The smallest segment: a header, a batch, and the block kept for moving the low-water mark.
const MIN_SEGMENT_BYTES: u64 = 4 * BLOCK;

const _: () = assert!(READ_AHEAD_BYTES.is_multiple_of(BLOCK));
const _: () = assert!(MAX_PAYLOAD_BYTES < u32::MAX as usize / 2, "lengths are stored as u32");

/// Settings of one log. May change between two starts of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// Length of an ordinary segment, in bytes: a multiple of the block size, at least 4 blocks.
    pub segment_bytes: u64,
    /// A batch takes no further record once it would pass this, in bytes; a larger record is a
    /// batch of its own.
    pub max_batch_bytes: usize,
    /// Released segments that are kept for their blocks.
    pub recycled_segments: usize,
    /// Batches being written at once, at least 1.
    pub writes_in_flight: usize,
    /// Bytes of each group's newest entries that recovery hands over; older ones are read.
    pub recovered_tail_bytes: usize,
}

impl Default for WalConfig {
    fn default() -> WalConfig {
        WalConfig {
            segment_bytes: 64 << 20,
            max_batch_bytes: 1 << 20,
            recycled_segments: 2,
            writes_in_flight: 1,
            recovered_tail_bytes: 4 << 20,
        }
    }
}

impl WalConfig {
    /// Says what is wrong with the settings.
    ///
    /// # Errors
    /// The first setting out of its range, in a plain sentence.
    pub fn validate(&self) -> Result<(), String> {
        if self.segment_bytes < MIN_SEGMENT_BYTES || !self.segment_bytes.is_multiple_of(BLOCK) {
            return Err(format!(
                "a log segment of {} bytes is not possible: it must be a multiple of {BLOCK} and \
                 at least {MIN_SEGMENT_BYTES}",
                self.segment_bytes
            ));
        }
        if self.max_batch_bytes == 0 || self.max_batch_bytes > MAX_PAYLOAD_BYTES {
            return Err(format!(
                "a log batch of {} bytes is not possible: it must be between 1 and \
                 {MAX_PAYLOAD_BYTES}",
                self.max_batch_bytes
            ));
        }
        if self.writes_in_flight == 0 {
            return Err("the log needs at least one write in flight".into());
        }
        Ok(())
    }
}

/// `bytes` in whole blocks.
pub(crate) fn round_up_to_block(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_said_plainly() {
        let good = WalConfig::default();
        assert_eq!(good.validate(), Ok(()));
        let smallest = WalConfig { segment_bytes: MIN_SEGMENT_BYTES, ..good.clone() };
        assert_eq!(smallest.validate(), Ok(()));
        let bad = [
            WalConfig { segment_bytes: MIN_SEGMENT_BYTES - BLOCK, ..good.clone() },
            WalConfig { segment_bytes: MIN_SEGMENT_BYTES + 1, ..good.clone() },
            WalConfig { max_batch_bytes: 0, ..good.clone() },
            WalConfig { max_batch_bytes: MAX_PAYLOAD_BYTES + 1, ..good.clone() },
            WalConfig { writes_in_flight: 0, ..good },
        ];
        for config in bad {
            let words = config.validate().expect_err("it is out of range");
            assert!(words.contains("log"), "{words}");
        }
    }
}
