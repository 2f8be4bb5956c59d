//! Single-Socket Channel: what two members say over the one connection between them.
//!
//! Used by Kafka between brokers, ZooKeeper's ZAB and TigerBeetle. One connection per ordered pair
//! keeps messages in order; the byte tables are in docs/formats.md, section "Peer protocol".
//! Invariant: `decode(encode(m)) == m`. A peer is not trusted: hostile bytes give an error that
//! says what is wrong, never a panic, and memory only for what has arrived.
//!
//! Not here: sockets, queues and reconnecting (`node`), the meaning of a message (`consensus`,
//! `replica`).

mod consensus_codec;
mod cursor;
mod discovery;
mod frame;
mod handshake;
pub mod limits;
mod replica_codec;

pub use cursor::DecodeError;
pub use discovery::{Answer, DiscoveredMember, Question};
pub use frame::{FRAME_HEADER_BYTES, Frame, FrameError, decode_frame};
pub use handshake::{
    Hello, LocalMember, NotAPeer, PREAMBLE, PROTOCOL_VERSION, Refusal, RefusalReason,
    check_preamble, decode_welcome, encode_welcome,
};
pub use replica_codec::{decode_message, encode_message};

/// What a frame's payload is.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const REFUSAL: u8 = 2;
    pub(super) const CONSENSUS: u8 = 3;
    pub(super) const HEARTBEATS: u8 = 4;
    pub(super) const PROPOSE: u8 = 5;
    pub(super) const PROPOSE_REFUSED: u8 = 6;
    pub(super) const READ_INDEX: u8 = 7;
    pub(super) const READ_INDEX_REPLY: u8 = 8;
    pub(super) const STATE_HASHES: u8 = 9;
    pub(super) const MEMBER_CONDITION: u8 = 10;
    pub(super) const WELCOME: u8 = 11;
    pub(super) const LEARNERS_IN_SYNC: u8 = 12;
    pub(super) const REMOVED: u8 = 13;
    pub(super) const QUESTION: u8 = 14;
    pub(super) const ANSWER: u8 = 15;
}
