//! Real processes: local clusters, load, faults, and what faults may not do to a promise.
//!
//! Speaks to servers only as their clients do, so that a stock etcd can take the place of ours and
//! show that the harness is right. Not here: anything that decides inside a server.

pub mod bench;
pub mod chaos_plan;
pub mod chaos_run;
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

mod chaos_load;
mod chaos_report;
mod client_load;
mod cluster_observer;
mod evidence;
mod fault_effect;
mod fault_endpoint;
mod fault_injector;
mod first_contact;
mod journal;
mod latency_chart;
mod link_proxy;
mod log_rot;
mod open_loop;
mod rolling_upgrade;
mod seeded_choice;
mod socket_owner;
mod timeline_chart;
mod verdict;
