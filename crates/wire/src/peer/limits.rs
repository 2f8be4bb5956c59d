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

/// Addresses of one member.
pub const ADDRESSES_MAX: usize = 16;

/// Bytes of an address.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// Bytes of a member's name.
pub const NAME_BYTES_MAX: usize = 256;

const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(REFUSAL_TEXT_BYTES_MAX < FRAME_BYTES_MAX);
// The largest command fits a frame with room for whatever wraps it.
const _: () = assert!(2 * replica::COMMAND_BYTES < FRAME_BYTES_MAX);
// An answer about the most members that there may be fits a frame.
const _: () = assert!(
    MEMBERS_MAX * (NAME_BYTES_MAX + ADDRESSES_MAX * (ADDRESS_BYTES_MAX + 4) + 64) < FRAME_BYTES_MAX
);
