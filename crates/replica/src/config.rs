//! What a node core is told at its start.

use crate::ReplicaLimits;
use clocks::{ClockBound, GroupId, NodeId};
use consensus::Applied;
use std::collections::BTreeMap;
use std::time::Duration;
use store::command::Member;
use store::{MachineKind, MemberTable, StoreLimits};
use wal::WalConfig;

/// Settings of one node core. `groups` and the timings must be the same on every member, and
/// `initial_voters` on every founder.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// This node.
    pub node: NodeId,
    /// The groups, and what each one's state machine is.
    pub groups: Vec<(GroupId, MachineKind)>,
    /// Who votes before any change of membership; nobody at a node that waits to be added, whatever
    /// it was started with later: it learns from the leader who the members are.
    pub initial_voters: Vec<NodeId>,
    /// What settings tell of the initial voters, their ids and peer addresses: it stands in the
    /// member table for those that never started.
    pub founders: Vec<Member>,
    /// Whom a node that waits to be added talks to until it knows the members.
    pub contacts: Vec<NodeId>,
    /// What the consistent core shall know of this node.
    pub member: Member,
    /// Interval of heartbeats.
    pub heartbeat_interval: Duration,
    /// Silence after which a follower campaigns; drawn between this and twice this.
    pub election_timeout: Duration,
    /// Length of the leader's lease; zero: reads are always confirmed by a round.
    pub lease: Duration,
    /// Longest lease that any member may have been configured with.
    pub longest_lease: Duration,
    /// How well monotonic clocks agree in rate.
    pub clock_bound: ClockBound,
    /// Bounds of replication to one member.
    pub window: ReplicationWindow,
    /// The log.
    pub wal: WalConfig,
    /// The state machines.
    pub store: StoreLimits,
    /// The core itself.
    pub limits: ReplicaLimits,
    /// Highest feature level that this build speaks.
    pub feature_level: u32,
}

/// What the state machines hold when a process starts: the log machine goes on from there.
#[derive(Clone, Debug, Default)]
pub struct AppliedState {
    /// Applied position and membership of every group.
    pub groups: BTreeMap<GroupId, Applied>,
    /// What the consistent core allows to be written.
    pub feature_level: u32,
    /// Who is to be a member of every group; `None` before the first change.
    pub member_table: Option<MemberTable>,
}

/// How much may be on its way to one member, and in one message.
#[derive(Clone, Copy, Debug)]
pub struct ReplicationWindow {
    /// Bytes of entries in one message.
    pub append_bytes: usize,
    /// Entries in one message.
    pub append_entries: usize,
    /// Unanswered messages.
    pub inflight_messages: usize,
    /// Bytes in unanswered messages.
    pub inflight_bytes: usize,
    /// Bytes of recent entries kept in memory per group.
    pub cache_bytes: usize,
    /// Bytes that a leader appends beyond the high-water mark before it refuses more.
    pub uncommitted_bytes: usize,
}

impl Default for ReplicationWindow {
    fn default() -> ReplicationWindow {
        ReplicationWindow {
            append_bytes: 1 << 20,
            append_entries: 4096,
            inflight_messages: 256,
            inflight_bytes: 16 << 20,
            cache_bytes: 64 << 20,
            uncommitted_bytes: 64 << 20,
        }
    }
}
