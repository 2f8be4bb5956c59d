//! Replicated-log protocols, sans-IO: messages and deadlines in, effects out.
//!
//! May not use `std`, a clock, entropy, a thread or storage: the compiler and `tidy` see to it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[macro_use]
extern crate mutants;
#[cfg(test)]
extern crate std;

mod append_entries;
mod config;
mod effect;
mod election;
mod entry;
mod errors;
mod heartbeat;
mod heartbeat_coalescer;
mod high_water_mark;
mod leader_and_followers;
mod leader_lease;
mod leadership_transfer;
mod majority_quorum;
mod membership_change;
mod message;
mod outbox;
mod raft;
mod read_index;
mod recovery;
mod replicated_log;
mod request_pipeline;
mod returning_member;
mod snapshot_transfer;
mod status;
mod term_table;
mod timers;

pub use config::{Config, LeaseMode, MAX_MEMBERS};
pub use effect::{Effect, HardState, Persist, PersistToken, ReadToken};
pub use entry::{Entry, Payload};
pub use errors::{MembershipError, ProposeError, RecoveryError, TransferError};
pub use heartbeat_coalescer::{Beat, HeartbeatCoalescer, PeerHeartbeats};
pub use majority_quorum::Membership;
pub use message::{Body, Message};
pub use raft::{Committed, MembershipChange, Raft, SnapshotRead};
pub use recovery::{Applied, Recovered, Recovery};
pub use status::{PeerProgress, ProgressState};

/// What a member is to its group at the moment (Raft, section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether an election would succeed (thesis, section 9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Orders the log.
    Leader,
}
