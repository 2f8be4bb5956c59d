//! Node cores together, through their public surface only.

mod cluster;
mod expired_session;
mod golden;
mod hostile_forwards;
mod overtaken_read;
mod thinnest_thread;
