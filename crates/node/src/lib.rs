//! Sockets, files, clocks and services around the core of one node.
//!
//! May not know the simulator; decides nothing that the core could decide.
#![forbid(unsafe_code)]

mod boot_clock;
mod log_structured_merge_tree;
mod update_queue;

pub use boot_clock::{monotonic_now, wall_now};
pub use log_structured_merge_tree::{EngineLimits, LsmEngine};
