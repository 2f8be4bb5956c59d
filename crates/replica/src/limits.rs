//! Every bound of the node core, and how they relate.

use std::time::Duration;

/// Largest command that may be proposed, in encoded bytes: etcd's 1.5 MiB request, doubled for the
/// worst growth of a transaction in our encoding.
pub const COMMAND_BYTES: usize = 3 << 20;

/// Bounds of one node core. The defaults are production's; simulation shrinks them on purpose.
#[derive(Clone, Debug)]
pub struct ReplicaLimits {
    /// Requests of one group that may wait for their outcome at once.
    pub waiting_requests: usize,
    /// And their commands' bytes.
    pub waiting_bytes: usize,
    /// Bytes of entries handed to the applier and not yet applied, per group.
    pub unapplied_bytes: usize,
    /// Committed entries handed over at a time, in bytes.
    pub apply_batch_bytes: usize,
    /// Entries kept in the log below the flushed applied index, so that a member that was away for
    /// a moment does not need a snapshot. None of the consistent core: its snapshots are small, and
    /// its few entries would hold every file of the shared log.
    pub retained_entries: u64,
    /// Bytes of the log's files above which no entry is kept for absent members: whoever was away
    /// gets a snapshot.
    pub retained_log_bytes: u64,
    /// Applied bytes after which the engine is flushed, so that the log can be cut.
    pub flush_bytes: u64,
    /// Time after which an unanswered forwarded request is sent again.
    pub forward_retry: Duration,
    /// Interval at which members tell each other their condition.
    pub condition_interval: Duration,
    /// Open snapshots for lagging members, per group; never fewer than the group has members.
    pub open_snapshots: usize,
    /// Indexes whose state hashes are kept for comparison.
    pub compared_hashes: usize,
}

impl Default for ReplicaLimits {
    fn default() -> ReplicaLimits {
        ReplicaLimits {
            waiting_requests: 16 << 10,
            waiting_bytes: 64 << 20,
            unapplied_bytes: 16 << 20,
            apply_batch_bytes: 1 << 20,
            retained_entries: 10_000,
            retained_log_bytes: 512 << 20,
            flush_bytes: 64 << 20,
            forward_retry: Duration::from_millis(500),
            condition_interval: Duration::from_secs(1),
            open_snapshots: 4,
            compared_hashes: 64,
        }
    }
}

/// When a new leader first logs its lease clock while there are leases.
pub(crate) const LEASE_FIRST_TICK: Duration = Duration::from_millis(250);
/// Longest interval at which it goes on to: what its successor may lack.
pub(crate) const LEASE_TICK_INTERVAL: Duration = Duration::from_secs(1);
/// Leases and keys that one tick revokes; the last lease may bring more keys.
pub(crate) const LEASE_REVOKE_MAX: u32 = 512;
/// Pause between ticks while leases are due; never less than the last tick took, so that half of
/// the machine is left to everything else.
pub(crate) const LEASE_REVOKE_PACE: Duration = Duration::from_millis(10);

const _: () = core::assert!(COMMAND_BYTES > (3 << 20) / 2);
