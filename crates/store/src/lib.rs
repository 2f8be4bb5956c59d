//! Deterministic state machines over an `Engine`: the same entries in the same order give the same
//! state, bit for bit, on every member.
//!
//! May not know consensus, the log, a wall clock or a concrete engine.
#![forbid(unsafe_code)]

pub mod command;
mod engine;
mod envelope;
mod event;
mod failure;
pub mod limits;
mod mem_engine;
pub mod range;
pub mod reply;

pub use engine::{Engine, EngineError, EngineSnapshot, Pair, WriteBatch};
pub use envelope::DecodeError;
pub use event::{Event, EventKind, RevisionEvents};
pub use failure::StoreFailure;
pub use limits::{StoreLimits, WatchLimits};
pub use mem_engine::MemEngine;
