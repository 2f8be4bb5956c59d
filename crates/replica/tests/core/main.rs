//! Node cores together, through their public surface only.

mod accounts_before_events;
mod cluster;
mod durable_registration;
mod expired_session;
mod golden;
mod hostile_forwards;
mod incoming_snapshot;
mod membership;
mod thinnest_thread;
