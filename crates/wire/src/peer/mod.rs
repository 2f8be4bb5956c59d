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
mod frame;
mod handshake;
pub mod limits;

pub use cursor::DecodeError;
pub use frame::{FRAME_HEADER_BYTES, Frame, FrameError, decode_frame};
pub use handshake::{
    Hello, LocalMember, NotAPeer, PREAMBLE, PROTOCOL_VERSION, Refusal, RefusalReason,
    check_preamble,
};

use bytes::BytesMut;
use consensus::Message;
use cursor::Cursor;
use frame::encode_frame;

/// What a frame's payload is.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const REFUSAL: u8 = 2;
    pub(super) const CONSENSUS: u8 = 3;
}

/// Appends a message of the replicated log as a frame.
///
/// # Panics
/// If the message exceeds a bound of [`limits`]: senders bound what they put into one.
pub fn encode_message(out: &mut BytesMut, message: &Message) {
    encode_frame(out, kind::CONSENSUS, |out| consensus_codec::put_message(out, message));
}

/// Reads a message off a frame that came after the handshake.
///
/// # Errors
/// If the payload is not what the kind says; the sender is broken or hostile: close.
pub fn decode_message(frame: Frame) -> Result<Message, DecodeError> {
    let mut input = Cursor::new(frame.payload);
    let message = match frame.kind {
        kind::CONSENSUS => consensus_codec::get_message(&mut input)?,
        tag => return Err(DecodeError::UnknownTag { field: "the frame's kind", tag }),
    };
    input.finish()?;
    Ok(message)
}
