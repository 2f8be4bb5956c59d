//! Locks and elections, said in KV requests: keys of one prefix stand in line, each tied to a
//! lease; whose key was created first holds the lock, or leads.
//!
//! The same keys as etcd's server and its Go client write, so that all of them wait in one line.
//! The revision at which a key was created is its fencing token (docs/locks.md).

use super::errors::{Code, ProtocolError};
use super::{mvccpb, pb};
use bytes::{BufMut, Bytes, BytesMut};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use pb::response_op::Response;
use store::range::Revision;

/// Time to live in seconds of the lease of a caller that brings none (etcd's session).
pub const SESSION_TTL_S: i64 = 60;

/// Nobody leads this election (etcd's text and code).
#[must_use]
pub fn no_leader() -> ProtocolError {
    ProtocolError::of(Code::Unknown, "election: no leader")
}

/// The caller does not lead, or no longer.
#[must_use]
pub fn not_leader() -> ProtocolError {
    ProtocolError::of(Code::Unknown, "election: not leader")
}

/// The caller's lease ended while it waited.
#[must_use]
pub fn session_expired() -> ProtocolError {
    ProtocolError::of(Code::Unknown, "mutex: session is expired")
}

/// A request of an election names no leader.
#[must_use]
pub fn missing_leader() -> ProtocolError {
    ProtocolError::of(Code::Unknown, "\"leader\" field must be provided")
}

/// A line in which lease holders stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Of every key in it.
    prefix: Bytes,
}

/// A place in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The key.
    pub key: Bytes,
    /// The revision at which it was created: the fencing token.
    pub created: Revision,
}

/// What entering a line answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Entered {
    /// The reply's header.
    pub header: Option<pb::ResponseHeader>,
    /// Where the caller stands.
    pub place: Place,
    /// What the key held already, if the caller stood in the line before.
    pub found: Option<Bytes>,
    /// Whether nobody stands before it.
    pub is_first: bool,
}

impl Line {
    /// The line of a lock or an election of this name.
    #[must_use]
    pub fn of(name: &[u8]) -> Line {
        let mut prefix = BytesMut::with_capacity(name.len() + 1);
        prefix.put_slice(name);
        prefix.put_u8(b'/');
        Line { prefix: prefix.freeze() }
    }

    /// The key of a lease's holder: the lease in hexadecimal, as Go writes it.
    #[must_use]
    pub fn key(&self, lease: i64) -> Bytes {
        let sign = if lease < 0 { "-" } else { "" };
        let mut key = BytesMut::from(&self.prefix[..]);
        key.put_slice(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
        key.freeze()
    }

    /// Behind every key of the line.
    #[must_use]
    pub fn end(&self) -> Bytes {
        let mut end = BytesMut::from(&self.prefix[..]);
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end.freeze()
    }

    /// The first key of the line.
    #[must_use]
    pub fn prefix(&self) -> Bytes {
        self.prefix.clone()
    }

    /// Enters the line, unless the lease stands in it already.
    #[must_use]
    pub fn enter(&self, lease: i64, value: Bytes) -> pb::TxnRequest {
        let key = self.key(lease);
        let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let first = || operation(Request::RequestRange(self.first()));
        pb::TxnRequest {
            compare: vec![created_at(key, 0)],
            success: vec![operation(Request::RequestPut(put)), first()],
            failure: vec![operation(Request::RequestRange(get)), first()],
        }
    }

    /// Reads the answer to [`Line::enter`]; `None` if it is of another request.
    #[must_use]
    pub fn entered(&self, lease: i64, reply: pb::TxnResponse) -> Option<Entered> {
        let mut ranges = reply.responses.into_iter().map(|op| match op.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let (own, first) = (ranges.next()?, ranges.next()?);
        let created = match (&own, reply.succeeded) {
            (Some(own), false) => own.create_revision,
            (None, true) => reply.header.as_ref()?.revision,
            _ => return None,
        };
        Some(Entered {
            place: Place { key: self.key(lease), created },
            found: own.map(|own| own.value),
            is_first: first?.create_revision == created,
            header: reply.header,
        })
    }

    /// Who holds the lock, or leads.
    #[must_use]
    pub fn first(&self) -> pb::RangeRequest {
        self.one(SortOrder::Ascend)
    }

    /// Who stands directly before a place.
    #[must_use]
    pub fn before(&self, place: &Place) -> pb::RangeRequest {
        let max_create_revision = place.created - 1;
        pb::RangeRequest { max_create_revision, ..self.one(SortOrder::Descend) }
    }

    fn one(&self, order: SortOrder) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.prefix(),
            range_end: self.end(),
            limit: 1,
            sort_order: order.into(),
            sort_target: SortTarget::Create.into(),
            ..Default::default()
        }
    }
}

impl Place {
    /// Reads the key.
    #[must_use]
    pub fn look(&self) -> pb::RangeRequest {
        pb::RangeRequest { key: self.key.clone(), ..Default::default() }
    }

    /// Whether this, found at the key, is still the place.
    #[must_use]
    pub fn is(&self, found: Option<&mvccpb::KeyValue>) -> bool {
        found.is_some_and(|pair| pair.create_revision == self.created)
    }

    /// Puts a value there, if it is still the caller's.
    #[must_use]
    pub fn proclaim(&self, lease: i64, value: Bytes) -> pb::TxnRequest {
        let put = pb::PutRequest { key: self.key.clone(), value, lease, ..Default::default() };
        self.if_held(Request::RequestPut(put))
    }

    /// Gives it up, if it is still the caller's.
    #[must_use]
    pub fn leave(&self) -> pb::TxnRequest {
        let delete = pb::DeleteRangeRequest { key: self.key.clone(), ..Default::default() };
        self.if_held(Request::RequestDeleteRange(delete))
    }

    fn if_held(&self, request: Request) -> pb::TxnRequest {
        pb::TxnRequest {
            compare: vec![created_at(self.key.clone(), self.created)],
            success: vec![operation(request)],
            failure: Vec::new(),
        }
    }
}

fn created_at(key: Bytes, revision: Revision) -> pb::Compare {
    pb::Compare {
        key,
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

fn operation(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::keyspace_request;

    #[test]
    fn keys_are_those_of_etcds_own_clients() {
        let line = Line::of(b"lock");
        assert_eq!(&line.key(0x694d_81a3_0d41_930c)[..], b"lock/694d81a30d41930c");
        assert_eq!(&line.key(-16)[..], b"lock/-10");
        assert_eq!(&line.key(i64::MIN)[..], b"lock/-8000000000000000");
        assert_eq!((&line.prefix()[..], &line.end()[..]), (&b"lock/"[..], &b"lock0"[..]));
    }

    #[test]
    fn what_is_asked_is_sound() {
        let line = Line::of(b"");
        assert!(keyspace_request::txn(line.enter(7, Bytes::new())).is_ok());
        let place = Place { key: line.key(7), created: 5 };
        assert!(keyspace_request::txn(place.leave()).is_ok());
        assert!(keyspace_request::txn(place.proclaim(7, Bytes::new())).is_ok());
        for range in [line.first(), line.before(&place), place.look()] {
            assert!(keyspace_request::range(range).is_ok());
        }
    }

    fn found(created: Revision) -> pb::ResponseOp {
        let pair = mvccpb::KeyValue { create_revision: created, ..Default::default() };
        let range = pb::RangeResponse { kvs: vec![pair], ..Default::default() };
        pb::ResponseOp { response: Some(Response::ResponseRange(range)) }
    }

    #[test]
    fn the_place_is_where_the_key_was_created() {
        let line = Line::of(b"lock");
        let header = Some(pb::ResponseHeader { revision: 9, ..Default::default() });
        let put = pb::ResponseOp { response: Some(Response::ResponsePut(Default::default())) };
        let answer = |succeeded, responses| {
            let reply = pb::TxnResponse { header, succeeded, responses };
            line.entered(7, reply).map(|entered| (entered.place.created, entered.is_first))
        };
        assert_eq!(answer(true, vec![put.clone(), found(9)]), Some((9, true)));
        assert_eq!(answer(true, vec![put.clone(), found(4)]), Some((9, false)));
        assert_eq!(answer(false, vec![found(4), found(4)]), Some((4, true)));
        assert_eq!(answer(false, vec![found(4), found(3)]), Some((4, false)));
        assert_eq!(answer(false, vec![put]), None, "that answers something else");
        assert_eq!(answer(true, vec![]), None);
    }
}
