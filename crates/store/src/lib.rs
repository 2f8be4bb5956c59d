//! Deterministic state machines over an `Engine`: the same entries in the same order give the same
//! state, bit for bit, on every member.
//!
//! May not know consensus, the log, a wall clock or a concrete engine.
#![forbid(unsafe_code)]

#[macro_use]
extern crate mutants;

mod auth;
mod chain_hash;
pub mod command;
mod consistent_core;
mod engine;
mod envelope;
mod event;
mod failure;
mod idempotent_receiver;
mod key_layout;
mod lease;
pub mod limits;
mod mem_engine;
mod member_table;
mod overlay;
pub mod range;
mod reader;
pub mod reply;
mod snapshot;
mod state_machine;
mod state_watch;
mod txn;
mod versioned_value;

pub use auth::{Accounts, ROOT, Role, Standing, User};
pub use engine::{Engine, EngineError, EngineSnapshot, Pair, WriteBatch};
pub use envelope::DecodeError;
pub use event::{Event, EventKind, RevisionEvents};
pub use failure::StoreFailure;
pub use lease::{Lease, LeaseStatus};
pub use limits::{StoreLimits, WatchLimits};
pub use mem_engine::MemEngine;
pub use member_table::{ListedMember, MemberTable, MembershipCommand, MembershipRefusal};
pub use reader::{History, KeyspaceHash, Previous, Reader};
pub use snapshot::{
    SnapshotChunk, SnapshotInspector, SnapshotReader, SnapshotRefusal, SnapshotSummary,
    SnapshotWrite,
};
pub use state_machine::{
    Applied, Content, MachineKind, Refounding, StateMachine, ToApply, refound_core,
};
pub use state_watch::{NO_WATCH, StreamId, WatchHub, WatchRequest, WatchResponse, WatchStats};
pub use versioned_value::range_read::{RangeChunk, RangeCursor, RangeEnd, StreamError};
