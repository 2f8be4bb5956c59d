//! What can be set, and how the settings must relate.

use alloc::string::String;
use clocks::{ClockBound, GroupId, LogIndex, NodeId, Term};
use core::time::Duration;

/// Most members that a membership may name; bounds every per-member table.
pub const MAX_MEMBERS: usize = 64;
/// Highest term taken from a peer: far beyond any cluster's life, far below overflow.
pub(crate) const MAX_TERM: Term = Term(1 << 62);
/// Highest log index taken from a peer, for the same reason.
pub(crate) const MAX_INDEX: LogIndex = 1 << 62;
/// A closed connection to the leader starts a pre-vote within this time.
pub(crate) const DISCONNECT_JITTER: Duration = Duration::from_millis(50);
/// Most messages held until a write completes. Beyond, while a disk hangs, they are dropped: any
/// message may be lost.
pub(crate) const MAX_HELD_MESSAGES: usize = 4096;
/// Rounds of heartbeats that may be under way for reads alone; more reads wait for the next.
pub(crate) const READ_ROUNDS_IN_FLIGHT: usize = 2;
/// Rounds whose send time is remembered; an answer to an older one extends no lease.
pub(crate) const ROUNDS_REMEMBERED: usize = 256;

const _: () = core::assert!(READ_ROUNDS_IN_FLIGHT < ROUNDS_REMEMBERED);

/// Whether the leader serves reads from a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseMode {
    /// Every read is confirmed by a round of heartbeats.
    Off,
    /// A round answered by a quorum is relied upon for this long, less the clocks' drift.
    For(Duration),
}

impl LeaseMode {
    /// The promise asked of followers; zero when off.
    #[must_use]
    pub fn length(self) -> Duration {
        match self {
            LeaseMode::Off => Duration::ZERO,
            LeaseMode::For(length) => length,
        }
    }
}

/// Settings of one member of one group. Those marked *cluster* must agree on every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This member.
    pub node: NodeId,
    /// The group it belongs to.
    pub group: GroupId,
    /// Time between rounds of heartbeats; rounds of all groups fall on one grid.
    pub heartbeat_interval: Duration,
    /// Silence after which a follower doubts the leader; randomised up to twice this.
    pub election_timeout: Duration,
    /// Whether reads may rely on a lease.
    pub lease: LeaseMode,
    /// *Cluster.* The longest lease that any member uses; a restart renews the promise for it.
    pub longest_lease: Duration,
    /// *Cluster.* How far monotonic clocks may drift apart.
    pub clock_bound: ClockBound,
    /// Most bytes of entries in one append; one larger entry still goes, alone.
    pub max_append_bytes: usize,
    /// Most entries in one append.
    pub max_append_entries: usize,
    /// Most appends on the way to one follower.
    pub max_inflight_messages: usize,
    /// Most bytes of entries on the way to one follower.
    pub max_inflight_bytes: usize,
    /// Most bytes of durable entries kept in memory.
    pub cache_bytes: usize,
    /// Most bytes (by weight) proposed and not yet committed; beyond, proposals are refused.
    pub max_uncommitted_bytes: usize,
    /// Most reads waiting for confirmation; beyond, reads are refused.
    pub max_waiting_reads: usize,
}

impl Config {
    /// The defaults (heartbeat 100 ms, election timeout 1 s, lease 200 ms) for `node` in `group`.
    #[must_use]
    pub fn new(node: NodeId, group: GroupId) -> Config {
        Config {
            node,
            group,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            lease: LeaseMode::For(Duration::from_millis(200)),
            longest_lease: Duration::from_millis(200),
            clock_bound: ClockBound { drift_ppm: 500 },
            max_append_bytes: 1 << 20,
            max_append_entries: 4096,
            max_inflight_messages: 64,
            max_inflight_bytes: 8 << 20,
            cache_bytes: 16 << 20,
            max_uncommitted_bytes: 64 << 20,
            max_waiting_reads: 1 << 16,
        }
    }

    /// Checks every setting and how they relate.
    ///
    /// # Errors
    /// One plain sentence about the first that is wrong.
    pub fn validate(&self) -> Result<(), String> {
        let rules = [
            (self.node != NodeId(0), "the node id must not be zero"),
            (!self.heartbeat_interval.is_zero(), "the heartbeat interval must not be zero"),
            (
                self.election_timeout >= self.heartbeat_interval * 2,
                "the election timeout must be at least twice the heartbeat interval",
            ),
            (
                self.election_timeout <= Duration::from_secs(3600),
                "the election timeout must be at most an hour",
            ),
            (
                self.lease != LeaseMode::For(Duration::ZERO),
                "a lease must not be of zero length; switch it off instead",
            ),
            (
                self.lease.length() <= self.longest_lease,
                "the lease must not exceed the cluster's longest lease",
            ),
            (
                self.longest_lease < self.election_timeout,
                "the longest lease must be shorter than the election timeout",
            ),
            (
                self.clock_bound.drift_ppm < 100_000,
                "the clocks' drift must be below 100000 parts per million",
            ),
            (self.max_append_bytes > 0, "an append must have room for some bytes"),
            (self.max_append_entries > 0, "an append must have room for an entry"),
            (self.max_inflight_messages > 0, "the window must have room for a message"),
            (
                self.max_inflight_bytes >= self.max_append_bytes,
                "the window must have room for a full append",
            ),
            (self.max_uncommitted_bytes > 0, "there must be room for uncommitted bytes"),
            (self.max_waiting_reads > 0, "there must be room for a waiting read"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, sentence)) => Err(String::from(*sentence)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_contradictions_are_named() {
        let valid = Config::new(NodeId(1), GroupId(0));
        assert_eq!(valid.validate(), Ok(()));
        let too_long = Duration::from_millis(300);
        let lease = Config { lease: LeaseMode::For(too_long), ..valid.clone() };
        assert!(lease.validate().unwrap_err().contains("longest lease"));
        let lease = Config { longest_lease: valid.election_timeout, ..valid.clone() };
        assert!(lease.validate().unwrap_err().contains("election timeout"));
        let timeout = Config { election_timeout: valid.heartbeat_interval, ..valid.clone() };
        assert!(timeout.validate().unwrap_err().contains("heartbeat interval"));
        let window = Config { max_inflight_bytes: 1, ..valid };
        assert!(window.validate().unwrap_err().contains("window"));
    }
}
