//! Deterministic state machines over an `Engine`: the same entries in the same order give the same
//! state, bit for bit, on every member.
//!
//! May not know consensus, the log, a wall clock or a concrete engine.
#![forbid(unsafe_code)]

pub mod command;
mod engine;
pub mod range;
pub mod reply;

pub use engine::{Engine, EngineError, EngineSnapshot, Pair, WriteBatch};
