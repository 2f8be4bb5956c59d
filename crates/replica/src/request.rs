//! Requests of front ends, and how they end, by what the caller does next.

use clocks::{GroupId, Monotonic, NodeId, Term};
use consensus::{Membership, Role};
use std::fmt;
use store::command::{Caller, Command};
use store::reply::{Outcome, StoreError};

/// Names a request of a front end; chosen by the host, unique while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A request and until when its caller waits. Expired work is dropped when it is dequeued.
#[derive(Clone, Debug)]
pub struct Request {
    /// Comes back with the reply.
    pub id: RequestId,
    /// Which group's state machine it is for.
    pub group: GroupId,
    /// When the caller stops waiting.
    pub deadline: Monotonic,
    /// On whose behalf a write is; see [`Caller`].
    pub caller: Option<Caller>,
    /// What is wanted.
    pub ask: Ask,
}

/// What a request wants.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Apply this command.
    Write(Command),
    /// Say when a read from the local state machine is linearizable.
    ReadBarrier,
    /// Where every group of this node stands.
    Status,
    /// Hand over the leadership of every group that this node leads; it must lead the request's, or
    /// any if it does not say to whom.
    TransferLeadership {
        /// To this voter, or to whom each group's log is nearest to complete at.
        to: Option<NodeId>,
    },
}

/// The good end of a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The command is applied here; so a read of this member sees it.
    Written(Outcome),
    /// Read from the state machine now.
    ReadReady,
    /// Where the node stands.
    Status(NodeStatus),
    /// This node leads no group any more, and the one it named leads those.
    LeadershipTransferred,
}

/// The other ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The state machine refused it, on every member alike; nothing changed.
    Refused(StoreError),
    /// The waiting list is full: nothing was proposed; retry after a pause.
    Overloaded,
    /// Free disk space is below the reserve at some member: nothing was proposed.
    NoSpace,
    /// A member of an older build would not understand it: nothing was proposed; upgrade them all.
    NotCapable,
    /// The deadline passed. A write may still take effect, or have done so: outcome unknown.
    TimedOut,
    /// The outcome was overtaken by a snapshot: it took effect, with a reply nobody kept (or may
    /// have, if its session has given way since).
    OutcomeUnknown,
    /// The node is stopping. A write may still take effect.
    Stopping,
    /// Only the leader can hand its leadership over.
    NotLeader,
    /// Leadership can be handed only to another voter.
    BadLeaderTransferee,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Refused(error) => write!(f, "refused: {error:?}"),
            RequestError::Overloaded => f.write_str("too many requests wait; retry later"),
            RequestError::NoSpace => f.write_str("a member is short of disk space; free some"),
            RequestError::NotCapable => {
                f.write_str("a member runs an older build that does not know this; upgrade it")
            }
            RequestError::TimedOut => f.write_str("timed out; a write may still take effect"),
            RequestError::OutcomeUnknown => {
                f.write_str("may have taken effect; its reply was lost")
            }
            RequestError::Stopping => f.write_str("the node is stopping"),
            RequestError::NotLeader => f.write_str("this member does not lead"),
            RequestError::BadLeaderTransferee => {
                f.write_str("leadership can be handed only to another voter")
            }
        }
    }
}

impl std::error::Error for RequestError {}

/// Where a node stands, for `status`, metrics and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// One per group, in order.
    pub groups: Vec<GroupStatus>,
    /// Bytes that the log takes on disk.
    pub log_bytes: u64,
    /// Members short of disk space.
    pub short_of_space: Vec<NodeId>,
    /// Groups of which all voters have told their state at some index, and no majority agrees.
    pub corrupt: Vec<GroupId>,
    /// Groups that lost part of their log to corruption and have not learnt it anew.
    pub damaged: Vec<GroupId>,
}

/// Where one group stands at this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Role of this node.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader it follows, itself included.
    pub leader: Option<NodeId>,
    /// Index of the last entry in the log.
    pub last_index: u64,
    /// The high-water mark.
    pub committed: u64,
    /// Last index applied to the state machine.
    pub applied: u64,
    /// First index still in the log.
    pub first_index: u64,
    /// At the leader: per other member, the last index known to be durable there.
    pub matched: Vec<(NodeId, u64)>,
    /// Requests of this node that wait for their outcome.
    pub waiting: usize,
    /// The members in force, as this node knows; none while it waits to be added.
    pub membership: Membership,
    /// Whether that is committed, and no change to another under way.
    pub membership_settled: bool,
}
