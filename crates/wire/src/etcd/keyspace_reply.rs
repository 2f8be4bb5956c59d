//! Replies of the KV service, from what `store` answered.

use super::errors::{Code, ProtocolError};
use super::{mvccpb, pb};
use clocks::{NodeId, Term};
use pb::response_op::Response;
use store::range::{KeyValue, Revision};
use store::reply::{Outcome, RangeReply, TxnOpReply, TxnReply};
use store::{RangeChunk, RangeEnd};

/// Who answers: what every reply's header says besides the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answerer {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The member that the client talks to.
    pub member: NodeId,
}

impl Answerer {
    /// A reply's header.
    #[must_use]
    pub fn header(&self, revision: Revision, term: Term) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member.0,
            revision,
            raft_term: term.0,
        }
    }

    /// Answers a Range.
    #[must_use]
    pub fn range(&self, term: Term, reply: RangeReply) -> pb::RangeResponse {
        let header = self.header(reply.revision, term);
        range_response(Some(header), reply)
    }

    /// Answers a part of a RangeStream on a snapshot of `revision`.
    #[must_use]
    pub fn range_part(
        &self,
        term: Term,
        revision: Revision,
        chunk: RangeChunk,
    ) -> pb::RangeStreamResponse {
        let kvs = key_values(chunk.pairs);
        let part = match chunk.end {
            None => pb::RangeResponse { kvs, ..pb::RangeResponse::default() },
            Some(RangeEnd { more, count }) => {
                let header = Some(self.header(revision, term));
                pb::RangeResponse { header, kvs, more, count }
            }
        };
        pb::RangeStreamResponse { range_response: Some(part) }
    }

    /// Answers a Put.
    pub fn put(&self, term: Term, outcome: Outcome) -> Result<pb::PutResponse, ProtocolError> {
        let Outcome::Put { revision, previous } = outcome else { return Err(other_command()) };
        let header = Some(self.header(revision, term));
        Ok(pb::PutResponse { header, prev_kv: previous.map(key_value) })
    }

    /// Answers a DeleteRange.
    pub fn delete_range(
        &self,
        term: Term,
        outcome: Outcome,
    ) -> Result<pb::DeleteRangeResponse, ProtocolError> {
        let Outcome::DeleteRange { revision, deleted, previous } = outcome else {
            return Err(other_command());
        };
        let header = Some(self.header(revision, term));
        Ok(pb::DeleteRangeResponse { header, deleted, prev_kvs: key_values(previous) })
    }

    /// Answers a Txn that was proposed.
    pub fn txn(&self, term: Term, outcome: Outcome) -> Result<pb::TxnResponse, ProtocolError> {
        let Outcome::Txn { revision, reply } = outcome else { return Err(other_command()) };
        Ok(self.txn_reply(term, revision, reply))
    }

    /// Answers a Txn that ran on a snapshot of `revision`.
    #[must_use]
    pub fn txn_reply(&self, term: Term, revision: Revision, reply: TxnReply) -> pb::TxnResponse {
        // Steps before the first change see, and say, the revision before the transaction's.
        let before = if changes(&reply) { revision - 1 } else { revision };
        let mut steps = Steps { before, after: revision, changed: false };
        let header = Some(self.header(revision, term));
        steps.txn(header, reply)
    }

    /// The header of the answer to a change of users and roles.
    pub fn auth_changed(
        &self,
        term: Term,
        outcome: Outcome,
    ) -> Result<Option<pb::ResponseHeader>, ProtocolError> {
        let Outcome::AuthChanged { revision } = outcome else { return Err(other_command()) };
        Ok(Some(self.header(revision, term)))
    }

    /// Answers a Compact.
    pub fn compact(
        &self,
        term: Term,
        outcome: Outcome,
    ) -> Result<pb::CompactionResponse, ProtocolError> {
        let Outcome::Compacted { revision } = outcome else { return Err(other_command()) };
        Ok(pb::CompactionResponse { header: Some(self.header(revision, term)) })
    }
}

/// A version of a key, as clients see it.
#[must_use]
pub fn key_value(pair: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: pair.key,
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        version: pair.version,
        value: pair.value,
        lease: pair.lease,
    }
}

fn key_values(pairs: Vec<KeyValue>) -> Vec<mvccpb::KeyValue> {
    pairs.into_iter().map(key_value).collect()
}

fn range_response(header: Option<pb::ResponseHeader>, reply: RangeReply) -> pb::RangeResponse {
    pb::RangeResponse { header, kvs: key_values(reply.pairs), more: reply.more, count: reply.count }
}

/// An outcome may come from a peer, so that a wrong one is the world's fault and no panic.
fn other_command() -> ProtocolError {
    ProtocolError::of(Code::Unknown, "quorate: the outcome belongs to another command")
}

fn changes(reply: &TxnReply) -> bool {
    reply.replies.iter().any(|step| match step {
        TxnOpReply::Range(_) => false,
        TxnOpReply::Put { .. } => true,
        TxnOpReply::DeleteRange { deleted, .. } => *deleted > 0,
        TxnOpReply::Txn(nested) => changes(nested),
    })
}

/// Walks the steps of a transaction; their headers carry a revision and nothing else, as in etcd.
struct Steps {
    before: Revision,
    after: Revision,
    changed: bool,
}

impl Steps {
    fn txn(&mut self, header: Option<pb::ResponseHeader>, reply: TxnReply) -> pb::TxnResponse {
        let succeeded = reply.succeeded;
        let responses = reply.replies.into_iter().map(|step| self.step(step)).collect();
        pb::TxnResponse { header, succeeded, responses }
    }

    fn step(&mut self, step: TxnOpReply) -> pb::ResponseOp {
        let response = match step {
            TxnOpReply::Range(reply) => {
                let header = Some(self.header());
                Response::ResponseRange(range_response(header, reply))
            }
            TxnOpReply::Put { previous } => {
                self.changed = true;
                let header = Some(self.header());
                let prev_kv = previous.map(key_value);
                Response::ResponsePut(pb::PutResponse { header, prev_kv })
            }
            TxnOpReply::DeleteRange { deleted, previous } => {
                self.changed |= deleted > 0;
                let header = Some(self.header());
                let prev_kvs = key_values(previous);
                Response::ResponseDeleteRange(pb::DeleteRangeResponse { header, deleted, prev_kvs })
            }
            TxnOpReply::Txn(nested) => {
                let header = Some(pb::ResponseHeader::default());
                Response::ResponseTxn(self.txn(header, nested))
            }
        };
        pb::ResponseOp { response: Some(response) }
    }

    fn header(&self) -> pb::ResponseHeader {
        let revision = if self.changed { self.after } else { self.before };
        pb::ResponseHeader { revision, ..pb::ResponseHeader::default() }
    }
}
