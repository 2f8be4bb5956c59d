//! Every bound of this crate in one place, with compile-time checks of how they relate.

/// Format version of everything that the state machines keep in the engine.
pub const STATE_FORMAT: u16 = 1;
/// Version of the envelope that carries a command (docs/formats.md, Commands).
pub const ENVELOPE_VERSION: u8 = 1;
/// Version of the envelope that also says on whose behalf.
pub const ENVELOPE_VERSION_WITH_CALLER: u8 = 2;
/// Version of the chunks of a snapshot (docs/formats.md, State).
pub const SNAPSHOT_VERSION: u8 = 1;
/// Deepest nesting of transactions that a decoder follows; front ends allow less.
pub const TXN_DEPTH_MAX: usize = 128;
/// Most comparisons and operations, all levels together, that a decoder takes from one command.
pub const TXN_ITEMS_MAX: usize = 1 << 16;
/// Most addresses or URLs of one member.
pub const MEMBER_ADDRESSES_MAX: usize = 64;
/// Most leases renewed by one command.
pub const LEASE_RENEW_MAX: usize = 1024;
/// Longest time to live of a lease in seconds (etcd's `MaxLeaseTTL`).
pub const LEASE_TTL_MAX_S: u64 = 9_000_000_000;
/// By how much a lease outlives its time to live on the lease clock: as long may pass between the
/// moment at which a renewal was proposed and its answer.
pub const LEASE_SLACK_MS: u64 = 1000;
/// Most members of a cluster, learners included.
pub const MEMBERS_MAX: usize = 32;
/// Most members that only receive the log (etcd's default).
pub const LEARNERS_MAX: usize = 1;
/// Most users.
pub const USERS_MAX: usize = 1 << 16;
/// Most roles.
pub const ROLES_MAX: usize = 1 << 16;
/// Most roles of one user.
pub const USER_ROLES_MAX: usize = 1 << 10;
/// Most permissions of one role.
pub const ROLE_PERMISSIONS_MAX: usize = 1 << 12;
/// The chain hash is handed out at every multiple of this index, for comparison among voters.
pub const HASH_INTERVAL: u64 = 1024;

/// Bounds of one state machine. Those of the first block change what is decided at apply, so they
/// are the same on every member for a given feature level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most sessions open; the one used longest ago gives way.
    pub sessions_max: usize,
    /// Most gaps in one session's applied sequences; a session that needs more has expired.
    pub session_gaps_max: usize,
    /// Most members of which the highest incarnation is remembered.
    pub incarnations_max: usize,

    /// A chunk of a snapshot ends before it exceeds this many bytes (but holds one record).
    pub snapshot_chunk_bytes: usize,
}

impl Default for StoreLimits {
    fn default() -> StoreLimits {
        StoreLimits {
            sessions_max: 1024,
            session_gaps_max: 1024,
            incarnations_max: 4096,
            snapshot_chunk_bytes: 256 * 1024,
        }
    }
}

/// Bounds of the watch hub of one node; they may differ between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchLimits {
    /// Bytes that one stream may have queued or handed out and not yet consumed; beyond it, its
    /// watchers wait and catch up from history. One response beyond it is possible.
    pub stream_bytes_max: usize,
    /// Bytes of events after which a response that holds several revisions ends, and above which
    /// a response to a watcher that asked for fragments is split.
    pub response_bytes_max: usize,
    /// Watchers of one stream.
    pub stream_watchers_max: usize,
    /// Watchers that one pass over history serves.
    pub catch_up_watchers_max: usize,
    /// Bytes of events that one pass over history reads before it ends with its revision.
    pub catch_up_bytes_max: usize,
}

impl Default for WatchLimits {
    fn default() -> WatchLimits {
        WatchLimits {
            stream_bytes_max: 1024 * 1024,
            response_bytes_max: 512 * 1024,
            stream_watchers_max: 1 << 17,
            catch_up_watchers_max: 512,
            catch_up_bytes_max: 4 * 1024 * 1024,
        }
    }
}

const _: () = {
    core::assert!(TXN_DEPTH_MAX <= TXN_ITEMS_MAX);
    core::assert!(LEASE_TTL_MAX_S < u64::MAX / 1000 - LEASE_SLACK_MS);
    core::assert!(LEARNERS_MAX < MEMBERS_MAX);
    core::assert!(HASH_INTERVAL.is_power_of_two());
};
