//! Node cores together, through their public surface only.

mod cluster;
mod golden;
mod thinnest_thread;
