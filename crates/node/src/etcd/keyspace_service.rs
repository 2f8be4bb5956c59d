//! The KV service: every call is validated and translated, then asked of the core or read beside
//! it.
//!
//! Reads take a snapshot of the engine after their barrier. Small ones run where the call runs;
//! large ones beside it, few at once, so that a scan delays no other call of the connection
//! (bulkhead).

use super::admission::Admitted;
use super::deadline::Deadline;
use super::limits::{
    INLINE_PAIRS, LARGE_READS, RANGE_PART_BYTES, RANGE_STREAMS, REPLY_BUDGET_BYTES,
};
use super::refusal;
use super::reply_budget::ReplyBudget;
use super::services::etcdserverpb::kv_server::Kv;
use super::streamed_reply::{StreamedReply, streamed};
use crate::NodeHandle;
use clocks::{GroupId, Term};
use prost::Message;
use std::sync::Arc;
use std::time::Instant;
use store::command::{Command, Txn, TxnOp};
use store::range::{KeyRange, Range, Revision};
use store::reply::{Outcome, StoreError};
use store::{RangeCursor, Reader, StoreFailure, StreamError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use wire::etcd::errors::{NOT_SUPPORTED_FOR_LEARNER, TOO_MANY_REQUESTS};
use wire::etcd::keyspace_reply::Answerer;
use wire::etcd::keyspace_request::{self as request, Consistency, TxnPlan};
use wire::etcd::{ProtocolError, pb};

/// What a read of the local state gives: an answer, a refusal, or the end of the node.
type ReadResult<T> = Result<Result<T, StoreError>, StoreFailure>;

/// Serves the KV calls of one runtime's connections.
pub(super) struct KeyspaceService {
    handle: NodeHandle,
    pub(super) large_reads: Arc<Semaphore>,
    pub(super) range_streams: Arc<Semaphore>,
    replies: ReplyBudget,
}

impl KeyspaceService {
    pub(super) fn new(handle: NodeHandle) -> KeyspaceService {
        let large_reads = Arc::new(Semaphore::new(LARGE_READS));
        let range_streams = Arc::new(Semaphore::new(RANGE_STREAMS));
        let replies = ReplyBudget::new(REPLY_BUDGET_BYTES);
        KeyspaceService { handle, large_reads, range_streams, replies }
    }

    pub(super) fn answerer(&self) -> Answerer {
        Answerer { cluster_id: self.handle.cluster_id(), member: self.handle.member_id() }
    }

    pub(super) fn term(&self) -> Term {
        self.handle.term(GroupId::KEYSPACE)
    }

    /// Has a command applied on behalf of a call, for as long as it may take.
    pub(super) async fn write(
        &self,
        metadata: &MetadataMap,
        admitted: &Admitted,
        command: Command,
    ) -> Result<Outcome, Status> {
        let deadline = Deadline::of(metadata, &self.handle);
        let (caller, group) = (admitted.caller(), GroupId::KEYSPACE);
        let outcome = self.handle.write_as(caller, group, command, deadline.timeout).await;
        outcome.map_err(|error| refusal::status(deadline.explain(error)))
    }

    /// How long a call with these headers may take.
    pub(super) fn deadline(&self, metadata: &MetadataMap) -> Deadline {
        Deadline::of(metadata, &self.handle)
    }

    /// Waits until local reads are as current as asked for. Returns what is left of the call's
    /// time.
    pub(super) async fn settle(
        &self,
        deadline: Deadline,
        consistency: Consistency,
    ) -> Result<Deadline, Status> {
        match consistency {
            Consistency::Serializable => Ok(deadline),
            Consistency::Linearizable => {
                let begun = Instant::now();
                let barrier = self.handle.read_barrier(GroupId::KEYSPACE, deadline.timeout).await;
                barrier.map_err(|error| refusal::status(deadline.explain(error)))?;
                Ok(deadline.after(begun.elapsed()))
            }
        }
    }

    /// Reads from a snapshot taken now; a large read waits for its turn as long as the call may.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        deadline: Deadline,
        size: impl FnOnce(&Reader) -> Result<ReadSize, StoreFailure>,
        read: impl FnOnce(&Reader) -> ReadResult<T> + Send + 'static,
    ) -> Result<T, Status> {
        let result = match self.read_here(size, read) {
            Ok(result) => result,
            Err(read) => {
                let permit = self.turn(&self.large_reads, deadline).await?;
                let handle = self.handle.clone();
                let run = move || {
                    // Until it ends, whoever waits for it.
                    let _permit = permit;
                    read(&handle.reader(GroupId::KEYSPACE)?)
                };
                let beside = tokio::task::spawn_blocking(run).await;
                beside
                    .map_err(|error| Status::internal(format!("quorate: a read died: {error}")))?
            }
        };
        result
            .map_err(|failure| refusal::failed_read(&failure))?
            .map_err(|error| refusal::status(error.into()))
    }

    /// Waits for one of few places, as long as the call may take.
    async fn turn(
        &self,
        places: &Arc<Semaphore>,
        deadline: Deadline,
    ) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(places).acquire_owned();
        let place = tokio::time::timeout(deadline.timeout, place).await;
        let place = place.map_err(|_| refusal::status(deadline.over(TOO_MANY_REQUESTS)))?;
        place.map_err(|_| Status::unavailable("quorate: stopping"))
    }

    /// Answers with what may be large.
    pub(super) fn admit<T: Message>(&self, reply: T) -> Result<Response<T>, Status> {
        let bytes = reply.encoded_len();
        self.replies.admit(reply, bytes)
    }

    /// Reads where the call runs, or gives a large read back.
    fn read_here<T, F: FnOnce(&Reader) -> ReadResult<T>>(
        &self,
        size: impl FnOnce(&Reader) -> Result<ReadSize, StoreFailure>,
        read: F,
    ) -> Result<ReadResult<T>, F> {
        let reader = match self.handle.reader(GroupId::KEYSPACE) {
            Ok(reader) => reader,
            Err(failure) => return Ok(Err(failure)),
        };
        match size(&reader) {
            Ok(ReadSize::Small) => Ok(read(&reader)),
            Ok(ReadSize::Large) => Err(read),
            Err(failure) => Ok(Err(failure)),
        }
    }
}

#[tonic::async_trait]
impl Kv for KeyspaceService {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        if self.handle.is_learner() && !message.serializable {
            return Err(refusal::status(NOT_SUPPORTED_FOR_LEARNER));
        }
        let (range, consistency) = request::range(message).map_err(refusal::status)?;
        let deadline = self.settle(self.deadline(&metadata), consistency).await?;
        let asked = range.clone();
        let size = move |reader: &Reader| ReadSize::of_range(reader, &asked);
        let handle = self.handle.clone();
        let read = move |reader: &Reader| match admitted
            .check(&handle, reader, |caller| caller.may_read(&range.keys))?
        {
            Ok(()) => reader.range(&range),
            Err(refusal) => Ok(Err(refusal)),
        };
        let reply = self.read(deadline, size, read).await?;
        self.admit(self.answerer().range(self.term(), reply))
    }

    type RangeStreamStream = StreamedReply<pb::RangeStreamResponse>;

    /// Reads part by part from one snapshot, no faster than the client takes them.
    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        if self.handle.is_learner() && !message.serializable {
            return Err(refusal::status(NOT_SUPPORTED_FOR_LEARNER));
        }
        let (range, consistency) = request::range_stream(message).map_err(refusal::status)?;
        let (deadline, begun) = (self.deadline(&metadata), Instant::now());
        let permit = self.turn(&self.range_streams, deadline).await?;
        self.settle(deadline.after(begun.elapsed()), consistency).await?;
        let reader = self.handle.reader(GroupId::KEYSPACE);
        let reader = reader.map_err(|failure| refusal::failed_read(&failure))?;
        admitted
            .check(&self.handle, &reader, |caller| caller.may_read(&range.keys))
            .map_err(|failure| refusal::failed_read(&failure))?
            .map_err(|error| refusal::status(error.into()))?;
        let cursor = reader.stream(&range).map_err(|error| match error {
            StreamError::Store(error) => refusal::status(error.into()),
            StreamError::NotInKeyOrder => unreachable!("refused above"),
        })?;
        let (answerer, term) = (self.answerer(), self.term());
        let read = move |(reader, cursor): &mut (Reader, RangeCursor)| {
            let chunk = reader.next_chunk(cursor, RANGE_PART_BYTES)?;
            Ok(chunk.map(|chunk| answerer.range_part(term, reader.revision(), chunk)))
        };
        Ok(Response::new(streamed(self.handle.clone(), permit, (reader, cursor), read)))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let command = request::put(message).map_err(refusal::status)?;
        let outcome = self.write(&metadata, &admitted, command).await?;
        answer(self.answerer().put(self.term(), outcome))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let command = request::delete_range(message).map_err(refusal::status)?;
        let outcome = self.write(&metadata, &admitted, command).await?;
        answer(self.answerer().delete_range(self.term(), outcome))
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        match request::txn(message).map_err(refusal::status)? {
            TxnPlan::Write(command) => {
                let outcome = self.write(&metadata, &admitted, command).await?;
                answer(self.answerer().txn(self.term(), outcome))
            }
            TxnPlan::Read(txn, consistency) => {
                let deadline = self.settle(self.deadline(&metadata), consistency).await?;
                let asked = txn.clone();
                let size = move |reader: &Reader| ReadSize::of_txn(reader, &asked);
                let handle = self.handle.clone();
                let read =
                    move |reader: &Reader| match admitted
                        .check(&handle, reader, |caller| caller.may_read_txn(&txn))?
                    {
                        Ok(()) => {
                            let reply = reader.read_txn(&txn)?;
                            Ok(reply.map(|reply| (reader.revision(), reply)))
                        }
                        Err(refusal) => Ok(Err(refusal)),
                    };
                let (revision, reply) = self.read(deadline, size, read).await?;
                self.admit(self.answerer().txn_reply(self.term(), revision, reply))
            }
        }
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let begun = Instant::now();
        let outcome = self.write(&metadata, &admitted, request::compact(&message)).await?;
        if message.physical {
            let deadline = self.deadline(&metadata).after(begun.elapsed());
            let done = self.handle.physically_compacted(message.revision, deadline.timeout).await;
            done.map_err(|error| refusal::status(deadline.explain(error)))?;
        }
        answer(self.answerer().compact(self.term(), outcome))
    }
}

fn answer<T>(reply: Result<T, ProtocolError>) -> Result<Response<T>, Status> {
    reply.map(Response::new).map_err(refusal::status)
}

/// Where a read runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadSize {
    /// Where the call runs.
    Small,
    /// Beside it.
    Large,
}

impl ReadSize {
    fn of_range(reader: &Reader, range: &Range) -> Result<ReadSize, StoreFailure> {
        // A limit bounds what is returned, not what is looked at: the rest is counted, or sorted.
        ReadSize::of_keys(reader, &range.keys, range.revision)
    }

    fn of_keys(
        reader: &Reader,
        keys: &KeyRange,
        revision: Revision,
    ) -> Result<ReadSize, StoreFailure> {
        let small = match keys {
            KeyRange::Key(_) => true,
            // The past may hold any number of keys that are gone.
            KeyRange::Span { .. } | KeyRange::From(_) => {
                revision <= 0 && !reader.holds_more_than(keys, INLINE_PAIRS)?
            }
        };
        Ok(if small { ReadSize::Small } else { ReadSize::Large })
    }

    fn of_txn(reader: &Reader, txn: &Txn) -> Result<ReadSize, StoreFailure> {
        for compare in &txn.compare {
            if ReadSize::of_keys(reader, &compare.keys, 0)? == ReadSize::Large {
                return Ok(ReadSize::Large);
            }
        }
        for operation in txn.success.iter().chain(&txn.failure) {
            let size = match operation {
                TxnOp::Range(range) => ReadSize::of_range(reader, range)?,
                TxnOp::Put(_) | TxnOp::DeleteRange(_) | TxnOp::Txn(_) => ReadSize::Large,
            };
            if size == ReadSize::Large {
                return Ok(ReadSize::Large);
            }
        }
        Ok(ReadSize::Small)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use clocks::{LogPosition, NodeId};
    use store::command::{Compare, CompareResult, CompareTarget, Envelope, Put, SessionId};
    use store::{Content, MachineKind, MemEngine, StateMachine, StoreLimits, ToApply};

    /// A keyspace with one key more than is read inline, all of them below "b".
    fn reader() -> Reader {
        let (engine, kind) = (Arc::new(MemEngine::new()), MachineKind::Keyspace);
        let machine = StateMachine::open(engine, GroupId::KEYSPACE, kind, StoreLimits::default());
        let mut machine = machine.expect("memory does not fail");
        let session = SessionId { member: NodeId(1), incarnation: 1 };
        let puts = (0..=INLINE_PAIRS).map(|number| {
            let key = Bytes::from(format!("a{number:04}"));
            Command::Put(Put { key, value: Bytes::from_static(b"v"), ..Put::default() })
        });
        let entries = std::iter::once(Command::OpenSession).chain(puts).zip(0u64..).map(
            |(command, sequence)| {
                let (answered_below, advisory_time_ms) = (0, 0);
                let envelope = Envelope {
                    session,
                    sequence,
                    answered_below,
                    advisory_time_ms,
                    caller: None,
                    command,
                };
                let position = LogPosition::new(Term(1), sequence + 1);
                ToApply { position, content: Content::Command(envelope.encode()) }
            },
        );
        machine.apply(entries.collect()).expect("memory does not fail");
        machine.reader()
    }

    fn span(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::Span { start: Bytes::from(start), end: Bytes::from(end) }
    }

    fn size_of(range: &Range) -> ReadSize {
        ReadSize::of_range(&reader(), range).expect("memory does not fail")
    }

    #[test]
    fn a_read_is_as_large_as_what_it_looks_at_whatever_its_limit() {
        let all = Range { limit: 1, ..Range::of(span("a", "b")) };
        assert_eq!(size_of(&all), ReadSize::Large, "the rest is counted");
        assert_eq!(size_of(&Range::of(span("a0001", "b"))), ReadSize::Small);
        assert_eq!(size_of(&Range::of(KeyRange::Key(Bytes::from("a0000")))), ReadSize::Small);
        let past = Range { revision: 3, ..Range::of(span("a0001", "a0002")) };
        assert_eq!(size_of(&past), ReadSize::Large);
    }

    #[test]
    fn a_transaction_is_as_large_as_its_largest_part() {
        let reader = reader();
        let size = |txn: &Txn| ReadSize::of_txn(&reader, txn).expect("memory does not fail");
        let compare = |keys| Compare {
            keys,
            result: CompareResult::Equal,
            target: CompareTarget::Version(1),
        };
        let get = TxnOp::Range(Range::of(KeyRange::Key(Bytes::from("a0000"))));
        let small =
            Txn { compare: vec![compare(span("a0001", "b"))], success: vec![get], failure: vec![] };
        assert_eq!(size(&small), ReadSize::Small);
        let compares_all = Txn { compare: vec![compare(span("a", "b"))], ..small.clone() };
        assert_eq!(size(&compares_all), ReadSize::Large);
        let reads_all = Txn { failure: vec![TxnOp::Range(Range::of(span("a", "b")))], ..small };
        assert_eq!(size(&reads_all), ReadSize::Large);
    }
}
