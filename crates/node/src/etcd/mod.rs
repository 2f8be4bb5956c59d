//! The etcd face: stock etcd clients talk to one port, over gRPC and plain HTTP/1.1.
//!
//! ```text
//! listener ─▶ front_end ─▶ dispatch ─┬─▶ the services: keyspace, watch, lease, cluster and so on
//! (one per runtime)                  └─▶ http_endpoints: /version /health /livez /readyz /metrics
//! ```
//! Everything here is shared-nothing between runtimes: a connection lives and dies on the one that
//! accepted it. What is served, and what is not, stands in docs/etcd.md. Not here: validation,
//! translation and error texts (`wire::etcd`), what a command means (`store`).

mod access_guard;
mod admission;
mod auth_service;
mod authentication;
mod call_meters;
mod client_common_name;
mod cluster_service;
mod complaints;
mod deadline;
mod dispatch;
mod election_service;
mod front_end;
mod health_service;
mod http_endpoints;
mod key_watch;
mod keyspace_service;
mod lease_renewals;
mod lease_service;
mod lenient_authority;
mod limits;
mod lock_queue;
mod lock_service;
mod maintenance_service;
mod passwords;
mod probe;
mod reflection;
mod refusal;
mod reply_budget;
mod services;
mod streamed_reply;
mod tokens;
mod watch_service;

#[cfg(test)]
mod tests;

pub use authentication::{AuthSettings, Authentication};
pub use front_end::EtcdFrontEnd;
pub(crate) use limits::BLOCKING_THREADS;
pub use tokens::TokenSettings;
