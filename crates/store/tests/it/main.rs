//! The state machines, seen from outside.

mod auth;
mod envelope;
mod lease;
mod recovery;
mod refounding;
mod scripts;
mod state_watch;
mod support;
mod versioned_value;
