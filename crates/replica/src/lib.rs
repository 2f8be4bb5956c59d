//! One node's core: groups of consensus, one shared log, their state machines.
//!
//! Two sans-IO machines joined by queues: log machine and applier. The host gives each a thread, or interleaves them at
//! random. May not use sockets, a runtime or a protocol.
#![forbid(unsafe_code)]

mod event;
mod limits;
mod request;
mod single_socket_channel;

pub use event::{ApplierEffect, ApplierEvent, LogEffect, LogEvent};
pub use limits::{COMMAND_BYTES, ReplicaLimits};
pub use request::{Ask, GroupStatus, NodeStatus, Reply, Request, RequestError, RequestId};
pub use single_socket_channel::PeerMessage;
