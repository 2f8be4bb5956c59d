//! What orders things: logical clocks, the two physical time lines, terms, log positions and the
//! names of nodes and groups.
//!
//! May not use `std`: nothing here can read a clock, so every reading is an argument.
#![no_std]
#![forbid(unsafe_code)]

mod generation_clock;
mod hybrid_clock;
mod identity;
mod lamport_clock;
mod log_position;
mod two_clocks;

pub use generation_clock::Term;
pub use hybrid_clock::{HybridClock, HybridTimestamp, Skew};
pub use identity::{GroupId, NodeId};
pub use lamport_clock::LamportClock;
pub use log_position::{LogIndex, LogPosition};
pub use two_clocks::{ClockBound, Monotonic, WallTime};
