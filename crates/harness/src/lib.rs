//! Real processes: local clusters, load, faults, and what faults may not do to a promise.
//!
//! Speaks to servers only as their clients do, so that a stock etcd can take the place of ours and
//! show that the harness is right. Not here: anything that decides inside a server.

pub mod bench;
pub mod client_access;
pub mod cluster_admission;
pub mod cluster_users;
pub mod dev_cluster;
pub mod dev_directory;
pub mod failover_run;
pub mod local_certificates;
pub mod local_cluster;
pub mod member_client;
pub mod member_process;
pub mod port_plan;
pub mod proto;
pub mod sequence;
pub mod status_report;
pub mod watch_recorder;

mod failover_load;
mod failover_verdict;
mod first_contact;
mod rolling_upgrade;
mod seeded_choice;
