//! The state machines, seen from outside.

mod scripts;
mod state_watch;
mod support;
mod versioned_value;
