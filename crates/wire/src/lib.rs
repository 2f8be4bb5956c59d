//! Protocol messages to requests and back, one folder per protocol, all of one shape: messages,
//! error texts, validation and translation, replies, limits.
//!
//! May not know tonic, a runtime or a socket; protocols may not know each other. Hostile bytes
//! give an `Err`, never a panic and never an allocation beyond what they themselves weigh.
#![forbid(unsafe_code)]

pub mod etcd;
pub mod peer;

pub mod proto;
