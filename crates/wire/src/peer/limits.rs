//! Every bound of the peer protocol, and how they relate.

/// The largest payload of a frame. Bounds what a hostile length can make the receiver wait for.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Entries of one append: in memory an entry takes about ten times its least encoding.
pub const APPEND_ENTRIES_MAX: usize = 1 << 16;

/// Voters, outgoing voters or learners of a group.
pub const MEMBERS_MAX: usize = 1 << 10;

/// Heartbeats in one message: one or two per group that two members share.
pub const BEATS_MAX: usize = 1 << 16;

/// Commands forwarded in one message.
pub const PROPOSED_COMMANDS_MAX: usize = 1 << 16;

/// State hashes in one message.
pub const HASHES_MAX: usize = 1 << 10;

/// Bytes of a refusal's text.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 512;

const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(REFUSAL_TEXT_BYTES_MAX < FRAME_BYTES_MAX);
// The largest command fits a frame with room for whatever wraps it.
const _: () = assert!(2 * replica::COMMAND_BYTES < FRAME_BYTES_MAX);
