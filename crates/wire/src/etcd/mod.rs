//! The etcd v3 protocol: what a client sends becomes a command, a range or a watch of `store`;
//! what `store` answers becomes what a client of etcd 3.6 expects, error texts byte for byte.
//!
//! Not here: sockets, deadlines, who serves what (`node`), and the meaning of a command (`store`).

pub mod auth;
pub mod errors;
pub mod keyspace_reply;
pub mod keyspace_request;
pub mod lease;
pub mod limits;
pub mod lock;
pub mod membership;
pub mod overlap;
pub mod watch;

pub use crate::proto::etcdserverpb as pb;
pub use crate::proto::mvccpb;
pub use errors::{Code, ProtocolError};

/// The version of etcd whose behaviour is served. Clients parse it: kube-apiserver switches
/// progress requests off below 3.4.31, Patroni takes its parts for integers.
pub const SERVED_VERSION: &str = "3.6.14";

/// The cluster version that goes with it.
pub const SERVED_CLUSTER_VERSION: &str = "3.6.0";
