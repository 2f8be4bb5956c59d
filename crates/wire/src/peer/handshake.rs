//! The first words of a connection: who calls, whom, of which cluster, in which version. A call
//! that cannot work is refused with a plain reason before anything else is read.
//!
//! Both sides send the preamble; the caller then sends a hello, the called one answers with its
//! own hello, and the caller ends with a welcome. Either may send a refusal instead and close.

use super::cursor::{Cursor, DecodeError};
use super::frame::{Frame, encode_frame};
use super::kind;
use super::limits::REFUSAL_TEXT_BYTES_MAX;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use clocks::NodeId;
use std::fmt;

/// The first bytes of every connection, either way: tells a stranger from a peer.
pub const PREAMBLE: [u8; 8] = *b"quorate\x01";

/// The version of everything after the preamble.
pub const PROTOCOL_VERSION: u16 = 1;

/// Takes the preamble off the front of `buffer`; `Ok(false)` while it is not complete.
///
/// # Errors
/// As soon as a byte differs: this is no peer.
pub fn check_preamble(buffer: &mut BytesMut) -> Result<bool, NotAPeer> {
    let have = buffer.len().min(PREAMBLE.len());
    if buffer[..have] != PREAMBLE[..have] {
        return Err(NotAPeer);
    }
    if have < PREAMBLE.len() {
        return Ok(false);
    }
    buffer.advance(PREAMBLE.len());
    Ok(true)
}

/// What called does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPeer;

impl fmt::Display for NotAPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is the port for members of the cluster; clients use the etcd port")
    }
}

impl std::error::Error for NotAPeer {}

/// Who speaks, and to whom it believes to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version the sender speaks.
    pub protocol_version: u16,
    /// The cluster that the sender belongs to.
    pub cluster_id: u64,
    /// The sender.
    pub sender: NodeId,
    /// Whom it wants to reach.
    pub receiver: NodeId,
    /// The highest feature level that the sender speaks.
    pub feature_level: u32,
    /// Identity of the sender's data directory, by which an emptied one is noticed.
    pub directory_id: u128,
}

impl Hello {
    /// Appends the hello as a frame.
    pub fn encode(&self, out: &mut BytesMut) {
        encode_frame(out, kind::HELLO, |out| {
            out.put_u16(self.protocol_version);
            out.put_u64(self.cluster_id);
            out.put_u64(self.sender.0);
            out.put_u64(self.receiver.0);
            out.put_u32(self.feature_level);
            out.put_u128(self.directory_id);
        });
    }

    /// Reads the first frame that a caller sends, or the answer to it. The fields after the
    /// version are read in this version's shape only; another version is refused by its number.
    pub fn decode(frame: Frame) -> Result<Result<Hello, Refusal>, DecodeError> {
        match frame.kind {
            kind::HELLO => {
                let mut input = Cursor::new(frame.payload);
                let protocol_version = input.u16("the hello's version")?;
                if protocol_version != PROTOCOL_VERSION {
                    return Ok(Err(Refusal::version(protocol_version)));
                }
                let hello = Hello {
                    protocol_version,
                    cluster_id: input.u64("the hello's cluster id")?,
                    sender: input.node("the hello's sender")?,
                    receiver: input.node("the hello's receiver")?,
                    feature_level: input.u32("the hello's feature level")?,
                    directory_id: input.u128("the hello's directory id")?,
                };
                input.finish()?;
                Ok(Ok(hello))
            }
            kind::REFUSAL => Refusal::decode(frame.payload).map(Err),
            tag => Err(DecodeError::UnknownTag { field: "the first frame's kind", tag }),
        }
    }
}

/// Appends the caller's last word of the handshake: messages follow.
pub fn encode_welcome(out: &mut BytesMut) {
    encode_frame(out, kind::WELCOME, |_| {});
}

/// Reads what the caller says to the hello that answered its own.
///
/// # Errors
/// If it is neither a welcome nor a refusal.
pub fn decode_welcome(frame: Frame) -> Result<Result<(), Refusal>, DecodeError> {
    match frame.kind {
        kind::WELCOME => Cursor::new(frame.payload).finish().map(Ok),
        kind::REFUSAL => Refusal::decode(frame.payload).map(Err),
        tag => Err(DecodeError::UnknownTag { field: "the kind of the caller's second frame", tag }),
    }
}

/// What the called one knows about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalMember {
    /// Its cluster.
    pub cluster_id: u64,
    /// Itself.
    pub id: NodeId,
    /// What its cluster has raised the feature level to.
    pub cluster_feature_level: u32,
}

impl LocalMember {
    /// Checks a caller's hello (or the answer to ours).
    ///
    /// # Errors
    /// If the two must not talk; send the refusal and close.
    pub fn check(&self, hello: &Hello) -> Result<(), Refusal> {
        let refuse = |reason, text: String| Err(Refusal { reason, text });
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(Refusal::version(hello.protocol_version));
        }
        if hello.cluster_id != self.cluster_id {
            return refuse(
                RefusalReason::OtherCluster,
                format!(
                    "member {} belongs to cluster {:x}, this member to cluster {:x}",
                    hello.sender, hello.cluster_id, self.cluster_id
                ),
            );
        }
        if hello.receiver != self.id {
            return refuse(
                RefusalReason::OtherMember,
                format!("member {} was called, but {} answers here", hello.receiver, self.id),
            );
        }
        if hello.sender == self.id || hello.sender == NodeId(0) {
            return refuse(
                RefusalReason::ImpossibleSender,
                format!("member id {} cannot be the caller's", hello.sender),
            );
        }
        if hello.feature_level < self.cluster_feature_level {
            return refuse(
                RefusalReason::FeatureLevel,
                format!(
                    "member {} speaks feature level {}, the cluster already uses {}: \
                     start a newer version",
                    hello.sender, hello.feature_level, self.cluster_feature_level
                ),
            );
        }
        Ok(())
    }
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalReason {
    /// The versions differ.
    Version = 1,
    /// The caller belongs to another cluster.
    OtherCluster = 2,
    /// Another member was meant.
    OtherMember = 3,
    /// The caller gives the called one's id, or none.
    ImpossibleSender = 4,
    /// The caller is too old for what the cluster has agreed to write.
    FeatureLevel = 5,
    /// The caller is no member that is known here (yet).
    NotAMember = 6,
    /// The caller's data directory is not the one known under its id: it was emptied or replaced.
    OtherDirectory = 7,
    /// The caller was a member and has been removed from the cluster; it never will be again.
    Removed = 8,
}

/// A refusal; the connection is closed after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: RefusalReason,
    /// For people.
    pub text: String,
}

impl Refusal {
    pub(super) fn version(theirs: u16) -> Refusal {
        let text =
            format!("protocol version {theirs} was offered, {PROTOCOL_VERSION} is spoken here");
        Refusal { reason: RefusalReason::Version, text }
    }

    /// Appends the refusal as a frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let end = self.text.floor_char_boundary(REFUSAL_TEXT_BYTES_MAX);
        encode_frame(out, kind::REFUSAL, |out| {
            out.put_u8(self.reason as u8);
            out.put_slice(&self.text.as_bytes()[..end]);
        });
    }

    pub(super) fn decode(payload: Bytes) -> Result<Refusal, DecodeError> {
        let field = "the refusal's reason";
        let mut input = Cursor::new(payload);
        let reason = match input.u8(field)? {
            1 => RefusalReason::Version,
            2 => RefusalReason::OtherCluster,
            3 => RefusalReason::OtherMember,
            4 => RefusalReason::ImpossibleSender,
            5 => RefusalReason::FeatureLevel,
            6 => RefusalReason::NotAMember,
            7 => RefusalReason::OtherDirectory,
            8 => RefusalReason::Removed,
            tag => return Err(DecodeError::UnknownTag { field, tag }),
        };
        let text = input.rest();
        let text = &text[..text.len().min(REFUSAL_TEXT_BYTES_MAX)];
        // It ends up on somebody's terminal.
        let printable = String::from_utf8_lossy(text).replace(char::is_control, " ");
        Ok(Refusal { reason, text: printable })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::decode_frame;

    const LOCAL: LocalMember =
        LocalMember { cluster_id: 0xc1, id: NodeId(1), cluster_feature_level: 2 };
    const CALLER: Hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: 0xc1,
        sender: NodeId(2),
        receiver: NodeId(1),
        feature_level: 2,
        directory_id: 0xd1,
    };

    fn refused(hello: Hello) -> RefusalReason {
        let refusal = LOCAL.check(&hello).unwrap_err();
        let mut wire = BytesMut::new();
        refusal.encode(&mut wire);
        let frame = decode_frame(&mut wire).unwrap().unwrap();
        assert_eq!(Hello::decode(frame), Ok(Err(refusal.clone())), "the caller reads another");
        refusal.reason
    }

    #[test]
    fn a_member_of_the_same_cluster_is_let_in() {
        let mut wire = BytesMut::new();
        CALLER.encode(&mut wire);
        let frame = decode_frame(&mut wire).unwrap().unwrap();
        assert_eq!(Hello::decode(frame), Ok(Ok(CALLER)));
        assert_eq!(LOCAL.check(&CALLER), Ok(()));
        assert_eq!(LOCAL.check(&Hello { feature_level: 9, ..CALLER }), Ok(()));
    }

    #[test]
    fn everybody_else_is_refused_with_a_reason() {
        use RefusalReason as R;
        assert_eq!(refused(Hello { cluster_id: 0xc2, ..CALLER }), R::OtherCluster);
        assert_eq!(refused(Hello { receiver: NodeId(3), ..CALLER }), R::OtherMember);
        assert_eq!(refused(Hello { sender: NodeId(1), ..CALLER }), R::ImpossibleSender);
        assert_eq!(refused(Hello { sender: NodeId(0), ..CALLER }), R::ImpossibleSender);
        assert_eq!(refused(Hello { feature_level: 1, ..CALLER }), R::FeatureLevel);
        assert_eq!(refused(Hello { protocol_version: 7, ..CALLER }), R::Version);
    }

    #[test]
    fn the_caller_ends_with_a_welcome_or_a_refusal() {
        let mut wire = BytesMut::new();
        encode_welcome(&mut wire);
        let refusal = Refusal { reason: RefusalReason::OtherDirectory, text: "emptied".to_owned() };
        refusal.encode(&mut wire);
        CALLER.encode(&mut wire);
        let mut next = || decode_welcome(decode_frame(&mut wire).unwrap().unwrap());
        assert_eq!(next(), Ok(Ok(())));
        assert_eq!(next(), Ok(Err(refusal)));
        assert!(next().is_err(), "a second hello");
    }

    #[test]
    fn another_version_is_refused_by_its_number_whatever_follows_it() {
        let frame = Frame { kind: kind::HELLO, payload: Bytes::from_static(&[0, 9, 1, 2, 3]) };
        let refusal = Hello::decode(frame).unwrap().unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::Version);
        assert!(refusal.text.contains("version 9"), "{refusal}");
    }

    #[test]
    fn an_http_client_on_the_peer_port_is_told_apart_at_its_first_byte() {
        let mut buffer = BytesMut::from(&b"G"[..]);
        assert_eq!(check_preamble(&mut buffer), Err(NotAPeer));
        let mut partial = BytesMut::from(&PREAMBLE[..5]);
        assert_eq!(check_preamble(&mut partial), Ok(false));
        partial.put_slice(&PREAMBLE[5..]);
        partial.put_u8(42);
        assert_eq!(check_preamble(&mut partial), Ok(true));
        assert_eq!(&partial[..], [42]);
    }

    #[test]
    fn a_refusal_prints_no_control_characters() {
        let payload = Bytes::from_static(b"\x02\x1b[2Jgone\xff");
        let frame = Frame { kind: kind::REFUSAL, payload };
        let refusal = Hello::decode(frame).unwrap().unwrap_err();
        assert_eq!(refusal.text, " [2Jgone\u{fffd}");
    }
}
