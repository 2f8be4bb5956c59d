//! One node's core: groups of consensus, one shared log, their state machines.
//!
//! Two sans-IO machines joined by queues: [`LogMachine`] (consensus and log) and [`Applier`] (state
//! machines, waiting reads and writes). The host gives each a thread, or interleaves them at
//! random. May not use sockets, a runtime or a protocol.
#![forbid(unsafe_code)]

#[macro_use]
extern crate mutants;

mod applier;
mod config;
mod divergence;
mod event;
mod follower_reads;
mod group_log;
mod lease_clock;
mod limits;
mod log_replay;
mod membership_reconciler;
mod persistence;
mod request;
mod request_waiting_list;
mod single_socket_channel;
mod singular_update_queue;

pub use applier::Applier;
pub use config::{AppliedState, CoreConfig, ReplicationWindow};
pub use event::{ApplierEffect, ApplierEvent, LogEffect, LogEvent};
pub use limits::{COMMAND_BYTES, ReplicaLimits};
pub use log_replay::{LogContents, apply_whole_log, check_whole_log};
pub use request::{Ask, GroupStatus, NodeStatus, Reply, Request, RequestError, RequestId};
pub use single_socket_channel::PeerMessage;
pub use singular_update_queue::LogMachine;
