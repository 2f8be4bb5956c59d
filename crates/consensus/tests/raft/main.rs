//! Raft from outside: whole members with a disk that forgets what was not synced.

mod golden;
mod host;
mod hostile_peers;
mod random_simulation;
mod traps;
