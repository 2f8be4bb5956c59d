//! Names of nodes and of replication groups; both are chosen elsewhere and only compared here.

use core::fmt;

/// A member of the cluster, unique for ever: a replaced member gets a new one. Never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A replication group: one replicated log and the state machine that applies it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The consistent core: cluster metadata only.
    pub const CONSISTENT_CORE: GroupId = GroupId(0);
    /// The etcd keyspace.
    pub const KEYSPACE: GroupId = GroupId(1);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}
