//! What a member knows of its group at the moment, for people and for metrics.

use clocks::{LogIndex, Monotonic, NodeId};

/// How a leader sends to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// One append at a time, until the logs are known to meet.
    Probe,
    /// A window of appends.
    Replicate,
    /// A snapshot: the log no longer holds what the member lacks.
    Snapshot,
}

/// A leader's view of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// Who.
    pub node: NodeId,
    /// How the leader sends to it.
    pub state: ProgressState,
    /// Everything up to here is durable there; the lag is the leader's last index less this.
    pub matched: LogIndex,
    /// As `matched`, as far as it counts for quorums: not while the member is damaged.
    pub vouched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// Appends on the way.
    pub inflight_messages: usize,
    /// Bytes of entries on the way.
    pub inflight_bytes: usize,
    /// When it last answered under this leadership (or when that began).
    pub heard: Monotonic,
}
