//! Sockets, files, clocks and services around the core of one node.
//!
//! May not know the simulator; decides nothing that the core could decide.
#![forbid(unsafe_code)]

mod admin;
mod applied_lease_clock;
mod auto_compaction;
mod backup_file;
mod boot_clock;
mod config;
mod correlation_identifier;
mod data_directory;
mod directory_identity;
mod disaster_recovery;
pub mod etcd;
mod free_space;
mod handle;
mod injected_faults;
mod log_disk;
mod log_structured_merge_tree;
mod meters;
mod peers;
mod private_files;
mod readiness;
mod runtime;
mod state_quota;
mod tls;
mod update_queue;
mod watch_streams;

pub use auto_compaction::Retention;
pub use backup_file::{BackupDescription, BackupFile, BackupWriter};
pub use boot_clock::{monotonic_now, wall_now};
pub use config::{
    ClusterIdentity, ClusterState, InitialMember, Listen, NodeConfig, Settings, TlsConfig,
    Translated, Transport, translate,
};
pub use data_directory::DataDirectory;
pub use directory_identity::{DirectoryIdentity, KnownMember};
pub use disaster_recovery::{Refounded, restore};
pub use handle::{Identity, NodeHandle, Timings};
pub use log_disk::{LogDisk, OnCompletion, SyncForm};
pub use log_structured_merge_tree::{EngineLimits, LsmEngine};
pub use meters::{Counter, Gauge, Histogram, Meters, PeerMeters};
pub use runtime::{Addresses, Node, NodeSeat, Stopper};
pub use store::Refounding;
pub use tls::{OwnCertificate, Purpose, TlsPort, Versions};
pub use watch_streams::{WatchDelivery, WatchReceiver, WatchSender};

use replica::LogEvent;
use tokio::sync::OwnedSemaphorePermit;

/// An event for the log machine, and what its sender gets back once the machine has taken it.
#[derive(Debug)]
pub(crate) struct LogInput {
    pub(crate) event: LogEvent,
    /// Backpressure: room of the connection that the event came from.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl From<LogEvent> for LogInput {
    fn from(event: LogEvent) -> LogInput {
        LogInput { event, room: None }
    }
}
