//! The state machines, seen from outside.

mod state_watch;
mod support;
mod versioned_value;
