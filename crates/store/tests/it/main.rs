//! The state machines, seen from outside.

mod support;
mod versioned_value;
