//! Frames: length, checksum, kind, payload.
//!
//! The checksum covers the kind and the payload; the length is checked by it in effect, since a
//! wrong length covers other bytes. A frame whose checksum fails ends the connection: nothing
//! after it can be trusted to begin where it seems to.

use super::limits::FRAME_BYTES_MAX;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;

/// Bytes before a frame's payload: length u32, checksum u32, kind u8.
pub const FRAME_HEADER_BYTES: usize = 9;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: u8,
    /// A slice of the buffer it was read from.
    pub payload: Bytes,
}

/// Why bytes are not a frame; the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length is above [`FRAME_BYTES_MAX`].
    TooLong {
        /// The length read.
        length: u32,
    },
    /// The checksum does not match.
    Checksum,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong { length } => {
                write!(f, "a frame of {length} bytes is above the bound of {FRAME_BYTES_MAX}")
            }
            FrameError::Checksum => f.write_str("a frame's checksum does not match its content"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Takes the next frame off the front of `buffer`, or nothing while it is not complete.
///
/// # Errors
/// If the bytes are not a frame.
pub fn decode_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(mut header) = buffer.get(..FRAME_HEADER_BYTES) else { return Ok(None) };
    let length = header.get_u32();
    let checksum = header.get_u32();
    let kind = header.get_u8();
    // `FRAME_BYTES_MAX` is below 2^32, so that nothing is lost.
    let length_bytes = length as usize;
    if length_bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { length });
    }
    let Some(payload) = buffer.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length_bytes) else {
        return Ok(None);
    };
    if checksum != checksum_of(kind, payload) {
        return Err(FrameError::Checksum);
    }
    buffer.advance(FRAME_HEADER_BYTES);
    Ok(Some(Frame { kind, payload: buffer.split_to(length_bytes).freeze() }))
}

/// Appends a frame whose payload `write` appends.
///
/// # Panics
/// If the payload exceeds [`FRAME_BYTES_MAX`]: senders bound what they put into one message.
pub(super) fn encode_frame(out: &mut BytesMut, kind: u8, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, FRAME_HEADER_BYTES);
    write(out);
    let payload = &out[start + FRAME_HEADER_BYTES..];
    assert!(payload.len() <= FRAME_BYTES_MAX, "a frame of kind {kind} is too long");
    let length = u32::try_from(payload.len()).expect("the bound is below 2^32");
    let checksum = checksum_of(kind, payload);
    let mut header = &mut out[start..start + FRAME_HEADER_BYTES];
    header.put_u32(length);
    header.put_u32(checksum);
    header.put_u8(kind);
}

fn checksum_of(kind: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(kind: u8, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        encode_frame(&mut out, kind, |out| out.put_slice(payload));
        out
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut stream = framed(1, b"one");
        stream.unsplit(framed(2, b""));
        let mut buffer = BytesMut::new();
        let mut kinds = Vec::new();
        for byte in stream {
            buffer.put_u8(byte);
            while let Some(frame) = decode_frame(&mut buffer).unwrap() {
                kinds.push((frame.kind, frame.payload));
            }
        }
        assert_eq!(kinds, [(1, Bytes::from("one")), (2, Bytes::new())]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_changed_bit_anywhere_is_found() {
        let sound = framed(3, b"payload");
        for bit in 0..sound.len() * 8 {
            let mut bent = sound.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            // A longer length waits for more; it never yields the frame.
            assert!(!matches!(decode_frame(&mut bent), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_its_bytes_are_awaited() {
        let mut hostile = BytesMut::from(&b"\xff\xff\xff\xff\0\0\0\0\0"[..]);
        assert_eq!(decode_frame(&mut hostile), Err(FrameError::TooLong { length: u32::MAX }));
        let mut largest = BytesMut::new();
        largest.put_u32(16 * 1024 * 1024);
        largest.put_bytes(0, 5);
        assert_eq!(decode_frame(&mut largest), Ok(None));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode_frame(&mut buffer) {}
        }
    }
}
