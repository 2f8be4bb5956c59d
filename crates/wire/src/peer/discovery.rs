//! What one who is no member yet may ask: who the members are, and under which id it was added.
//!
//! The caller sends the preamble and a question in place of a hello; the called one sends the
//! preamble and an answer, or a refusal, and closes. Nothing in it is a promise: the id becomes the
//! caller's only once it is recorded in its data directory.

use super::cursor::{Cursor, DecodeError};
use super::frame::{Frame, encode_frame};
use super::handshake::{PROTOCOL_VERSION, Refusal};
use super::kind;
use super::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, MEMBERS_MAX, NAME_BYTES_MAX};
use bytes::{BufMut, Bytes, BytesMut};
use clocks::NodeId;

/// The least that a member takes in an answer: id, name, flags, addresses.
const MEMBER_BYTES_MIN: usize = 8 + 4 + 1 + 4;

/// Who am I, if peers reach me at these addresses?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The highest feature level that the caller speaks.
    pub feature_level: u32,
    /// Where its peers are to reach it (`host:port`).
    pub addresses: Vec<String>,
}

/// The members as the called one knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The cluster.
    pub cluster_id: u64,
    /// What the cluster has raised the feature level to.
    pub cluster_feature_level: u32,
    /// Ascending by id.
    pub members: Vec<DiscoveredMember>,
}

/// One member of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveredMember {
    /// Its id.
    pub id: NodeId,
    /// Its name; empty until it has started once.
    pub name: String,
    /// It does not vote yet.
    pub is_learner: bool,
    /// It has started once: its data directory is known.
    pub has_started: bool,
    /// Where its peers reach it (`host:port`).
    pub addresses: Vec<String>,
}

impl Question {
    /// Appends the question as a frame.
    pub fn encode(&self, out: &mut BytesMut) {
        encode_frame(out, kind::QUESTION, |out| {
            out.put_u16(PROTOCOL_VERSION);
            out.put_u32(self.feature_level);
            put_addresses(out, &self.addresses);
        });
    }

    /// Whether a caller's first frame is a question rather than a hello.
    #[must_use]
    pub fn is_asked_by(frame: &Frame) -> bool {
        frame.kind == kind::QUESTION
    }

    /// Reads a caller's first frame; a question of another version is refused by its number.
    pub fn decode(frame: Frame) -> Result<Result<Question, Refusal>, DecodeError> {
        let mut input = Cursor::new(frame.payload);
        let version = input.u16("the question's version")?;
        if version != PROTOCOL_VERSION {
            return Ok(Err(Refusal::version(version)));
        }
        let feature_level = input.u32("the question's feature level")?;
        let addresses = addresses(&mut input)?;
        input.finish()?;
        Ok(Ok(Question { feature_level, addresses }))
    }
}

impl Answer {
    /// The member whose peers reach it at one of these addresses.
    #[must_use]
    pub fn member_at(&self, addresses: &[String]) -> Option<&DiscoveredMember> {
        let shares = |member: &&DiscoveredMember| {
            member.addresses.iter().any(|address| addresses.contains(address))
        };
        self.members.iter().find(shares)
    }

    /// Appends the answer as a frame.
    pub fn encode(&self, out: &mut BytesMut) {
        encode_frame(out, kind::ANSWER, |out| {
            out.put_u64(self.cluster_id);
            out.put_u32(self.cluster_feature_level);
            let members = &self.members[..self.members.len().min(MEMBERS_MAX)];
            out.put_u32(u32::try_from(members.len()).expect("the bound is below 2^32"));
            for member in members {
                out.put_u64(member.id.0);
                put_text(out, &member.name, NAME_BYTES_MAX);
                out.put_u8(u8::from(member.is_learner) | (u8::from(member.has_started) << 1));
                put_addresses(out, &member.addresses);
            }
        });
    }

    /// Reads what was answered to a question.
    pub fn decode(frame: Frame) -> Result<Result<Answer, Refusal>, DecodeError> {
        match frame.kind {
            kind::ANSWER => {}
            kind::REFUSAL => return Refusal::decode(frame.payload).map(Err),
            tag => {
                let field = "the kind of what was answered";
                return Err(DecodeError::UnknownTag { field, tag });
            }
        }
        let mut input = Cursor::new(frame.payload);
        let cluster_id = input.u64("the answer's cluster id")?;
        let cluster_feature_level = input.u32("the answer's feature level")?;
        let count = input.count("the answer's members", MEMBER_BYTES_MIN, MEMBERS_MAX)?;
        let members = (0..count).map(|_| member(&mut input)).collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Ok(Answer { cluster_id, cluster_feature_level, members }))
    }
}

fn member(input: &mut Cursor) -> Result<DiscoveredMember, DecodeError> {
    let id = input.node("a member's id")?;
    let name = text(input.bytes("a member's name")?, NAME_BYTES_MAX, "a member's name")?;
    let field = "a member's flags";
    let flags = match input.u8(field)? {
        flags @ 0..=3 => flags,
        tag => return Err(DecodeError::UnknownTag { field, tag }),
    };
    let (is_learner, has_started) = (flags & 1 != 0, flags & 2 != 0);
    Ok(DiscoveredMember { id, name, is_learner, has_started, addresses: addresses(input)? })
}

fn addresses(input: &mut Cursor) -> Result<Vec<String>, DecodeError> {
    let field = "an address";
    let count = input.count("the number of addresses", 4, ADDRESSES_MAX)?;
    (0..count).map(|_| text(input.bytes(field)?, ADDRESS_BYTES_MAX, field)).collect()
}

/// It ends up in files and on terminals.
fn text(bytes: Bytes, max: usize, field: &'static str) -> Result<String, DecodeError> {
    match String::from_utf8(bytes.to_vec()) {
        Ok(text) if text.len() <= max && !text.contains(|c: char| c.is_control() || c == ' ') => {
            Ok(text)
        }
        _ => Err(DecodeError::Invalid { field }),
    }
}

fn put_addresses(out: &mut BytesMut, addresses: &[String]) {
    let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
    out.put_u32(u32::try_from(addresses.len()).expect("the bound is below 2^32"));
    for address in addresses {
        put_text(out, address, ADDRESS_BYTES_MAX);
    }
}

fn put_text(out: &mut BytesMut, text: &str, max: usize) {
    let end = text.floor_char_boundary(max);
    out.put_u32(u32::try_from(end).expect("the bound is below 2^32"));
    out.put_slice(&text.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::decode_frame;
    use proptest::prelude::*;

    fn framed(encode: impl FnOnce(&mut BytesMut)) -> Frame {
        let mut wire = BytesMut::new();
        encode(&mut wire);
        decode_frame(&mut wire).unwrap().unwrap()
    }

    fn answer() -> Answer {
        let started = DiscoveredMember {
            id: NodeId(1),
            name: "n1".to_owned(),
            has_started: true,
            addresses: vec!["10.0.0.1:2380".to_owned()],
            ..DiscoveredMember::default()
        };
        let added = DiscoveredMember {
            id: NodeId(2),
            is_learner: true,
            addresses: vec!["10.0.0.2:2380".to_owned(), "[::2]:2380".to_owned()],
            ..DiscoveredMember::default()
        };
        Answer { cluster_id: 0xc1, cluster_feature_level: 2, members: vec![started, added] }
    }

    #[test]
    fn questions_and_answers_come_out_as_they_went_in() {
        let question = Question { feature_level: 2, addresses: vec!["[::2]:2380".to_owned()] };
        let frame = framed(|out| question.encode(out));
        assert!(Question::is_asked_by(&frame));
        assert_eq!(Question::decode(frame), Ok(Ok(question.clone())));
        assert_eq!(Answer::decode(framed(|out| answer().encode(out))), Ok(Ok(answer())));
        let found = answer();
        assert_eq!(found.member_at(&question.addresses).map(|member| member.id), Some(NodeId(2)));
        assert_eq!(found.member_at(&["10.0.0.3:2380".to_owned()]), None);
    }

    #[test]
    fn a_question_of_another_version_is_refused_by_its_number_whatever_follows_it() {
        let frame = Frame { kind: kind::QUESTION, payload: Bytes::from_static(&[0, 9, 1, 2]) };
        let refusal = Question::decode(frame).unwrap().unwrap_err();
        let frame = framed(|out| refusal.encode(out));
        assert_eq!(Answer::decode(frame), Ok(Err(refusal)));
    }

    #[test]
    fn control_characters_and_spaces_are_refused() {
        let mut hostile = answer();
        hostile.members[0].addresses[0] = "a:1\nmember 00".to_owned();
        let refused = Answer::decode(framed(|out| hostile.encode(out)));
        assert_eq!(refused, Err(DecodeError::Invalid { field: "an address" }));
    }

    proptest! {
        #[test]
        fn hostile_payloads_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let payload = Bytes::from(bytes);
            let _ = Question::decode(Frame { kind: kind::QUESTION, payload: payload.clone() });
            let _ = Answer::decode(Frame { kind: kind::ANSWER, payload });
        }
    }
}
