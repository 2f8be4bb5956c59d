//! The front end over loopback: generated clients against the services and a core that applies at
//! once.

mod auth;
mod election;
mod fake_core;
mod http;
mod keyspace;
mod lease;
mod lock;
mod members;
mod operations;
mod transport;
mod watch;

pub(in crate::etcd) use fake_core::{FakeCore, block_on};
