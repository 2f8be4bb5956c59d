//! Every bound of the peer protocol, and how they relate.

/// The largest payload of a frame. Bounds what a hostile length can make the receiver wait for.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Entries of one append: in memory an entry takes about ten times its least encoding.
pub const APPEND_ENTRIES_MAX: usize = 1 << 16;

/// Bytes of a refusal's text.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 512;

const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(REFUSAL_TEXT_BYTES_MAX < FRAME_BYTES_MAX);
// The largest request of a client fits a frame with room for whatever wraps it.
const _: () = assert!(2 * crate::etcd::limits::MESSAGE_BYTES_MAX < FRAME_BYTES_MAX);
