//! Why a command was not accepted, by what the caller does next.

use clocks::{LogIndex, LogPosition, NodeId};
use core::fmt;

/// Why a proposal or a read was not accepted. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// Retry at `leader`, or wait for one.
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Too much is waiting; back off.
    Overloaded,
    /// Leadership is being handed over; retry soon, wherever the leader is then.
    Transferring,
}

/// Why a membership change was not accepted. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipError {
    /// Retry at `leader`, or wait for one.
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over; retry soon.
    Transferring,
    /// The leader has not yet committed an entry of its own term; retry soon. (Without this rule
    /// two changes by different leaders could overlap: thesis, section 4.1, erratum.)
    NotReady,
    /// Another change is under way; retry once it is complete.
    InProgress,
    /// The change itself is wrong, for the reason given.
    Invalid(&'static str),
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// Only the leader can hand over.
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Another transfer is under way.
    InProgress,
    /// The target is not a voter.
    NotAVoter,
}

/// Why the recovered log makes no sense: corruption, or files of different members mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryError {
    /// Entries between two indexes are missing.
    Gap {
        /// The last index before the gap.
        after: LogIndex,
        /// The index found instead of the next one.
        found: LogIndex,
    },
    /// An entry's term is below that of the entry before it.
    TermRegressed {
        /// The entry.
        at: LogPosition,
    },
    /// The state machine's position is before the start of the log: entries that it lacks are gone.
    StateBehindLog {
        /// The state machine's position.
        applied: LogPosition,
        /// Where the log begins.
        log_start: LogPosition,
    },
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryError::Gap { after, found } => {
                write!(f, "the log goes from entry {after} straight to entry {found}")
            }
            RecoveryError::TermRegressed { at } => {
                write!(f, "the term of entry {at} is below that of the entry before it")
            }
            RecoveryError::StateBehindLog { applied, log_start } => write!(
                f,
                "the state ends at entry {applied}, but the log begins only after {log_start}"
            ),
        }
    }
}

impl core::error::Error for RecoveryError {}

macro_rules! display_as_sentence {
    ($error:ty { $($pattern:pat => $sentence:expr,)* }) => {
        impl fmt::Display for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($pattern => $sentence,)* })
            }
        }
        impl core::error::Error for $error {}
    };
}

display_as_sentence!(ProposeError {
    ProposeError::NotLeader { .. } => "this member does not lead the group",
    ProposeError::Overloaded => "too much is waiting",
    ProposeError::Transferring => "leadership is being handed over",
});
display_as_sentence!(MembershipError {
    MembershipError::NotLeader { .. } => "this member does not lead the group",
    MembershipError::Transferring => "leadership is being handed over",
    MembershipError::NotReady => "the leader has not yet committed an entry of its own term",
    MembershipError::InProgress => "another membership change is under way",
    MembershipError::Invalid(reason) => reason,
});
display_as_sentence!(TransferError {
    TransferError::NotLeader { .. } => "this member does not lead the group",
    TransferError::InProgress => "another transfer of leadership is under way",
    TransferError::NotAVoter => "leadership can be handed only to a voter",
});
