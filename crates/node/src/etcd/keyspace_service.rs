//! The KV service: every call is validated and translated, then asked of the core or read beside
//! it.
//!
//! Reads take a snapshot of the engine after their barrier. Small ones run where the call runs;
//! large ones beside it, few at once, so that a scan delays no other call of the connection
//! (bulkhead).

use super::deadline::Deadline;
use super::limits::{INLINE_PAIRS, LARGE_READS};
use super::refusal;
use super::services::etcdserverpb::kv_server::Kv;
use crate::NodeHandle;
use clocks::{GroupId, Term};
use std::sync::Arc;
use store::Reader;
use store::StoreFailure;
use store::command::{Command, Txn};
use store::range::{KeyRange, Projection, Range};
use store::reply::{Outcome, StoreError};
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use wire::etcd::keyspace_reply::Answerer;
use wire::etcd::keyspace_request::{self as request, Consistency, TxnPlan};
use wire::etcd::{ProtocolError, pb};

/// What a read of the local state gives: an answer, a refusal, or the end of the node.
type ReadResult<T> = Result<Result<T, StoreError>, StoreFailure>;

/// Serves the KV calls of one runtime's connections.
pub(super) struct KeyspaceService {
    handle: NodeHandle,
    large_reads: Arc<Semaphore>,
}

impl KeyspaceService {
    pub(super) fn new(handle: NodeHandle) -> KeyspaceService {
        KeyspaceService { handle, large_reads: Arc::new(Semaphore::new(LARGE_READS)) }
    }

    fn answerer(&self) -> Answerer {
        Answerer { cluster_id: self.handle.cluster_id(), member: self.handle.member_id() }
    }

    fn term(&self) -> Term {
        self.handle.term(GroupId::KEYSPACE)
    }

    async fn write(&self, metadata: &MetadataMap, command: Command) -> Result<Outcome, Status> {
        let deadline = Deadline::of(metadata, &self.handle);
        let outcome = self.handle.write(GroupId::KEYSPACE, command, deadline.timeout).await;
        outcome.map_err(|error| refusal::status(deadline.explain(error)))
    }

    /// Waits until local reads are as current as asked for.
    async fn settle(&self, metadata: &MetadataMap, consistency: Consistency) -> Result<(), Status> {
        match consistency {
            Consistency::Serializable => Ok(()),
            Consistency::Linearizable => {
                let deadline = Deadline::of(metadata, &self.handle);
                let barrier = self.handle.read_barrier(GroupId::KEYSPACE, deadline.timeout).await;
                barrier.map_err(|error| refusal::status(deadline.explain(error)))
            }
        }
    }

    /// Reads from a snapshot taken now.
    async fn read<T: Send + 'static>(
        &self,
        size: ReadSize,
        read: impl FnOnce(&Reader) -> ReadResult<T> + Send + 'static,
    ) -> Result<T, Status> {
        let handle = self.handle.clone();
        let run = move || read(&handle.reader(GroupId::KEYSPACE)?);
        let result = match size {
            ReadSize::Small => run(),
            ReadSize::Large => {
                let permit = Arc::clone(&self.large_reads).acquire_owned().await;
                let _permit = permit.map_err(|_| Status::unavailable("quorate: stopping"))?;
                let beside = tokio::task::spawn_blocking(run).await;
                beside
                    .map_err(|error| Status::internal(format!("quorate: a read died: {error}")))?
            }
        };
        result
            .map_err(|failure| refusal::failed_read(&failure))?
            .map_err(|error| refusal::status(error.into()))
    }
}

#[tonic::async_trait]
impl Kv for KeyspaceService {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let (range, consistency) = request::range(message).map_err(refusal::status)?;
        self.settle(&metadata, consistency).await?;
        let size = ReadSize::of_range(&range);
        let reply = self.read(size, move |reader| reader.range(&range)).await?;
        Ok(Response::new(self.answerer().range(self.term(), reply)))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let command = request::put(message).map_err(refusal::status)?;
        let outcome = self.write(&metadata, command).await?;
        answer(self.answerer().put(self.term(), outcome))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let command = request::delete_range(message).map_err(refusal::status)?;
        let outcome = self.write(&metadata, command).await?;
        answer(self.answerer().delete_range(self.term(), outcome))
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        match request::txn(message).map_err(refusal::status)? {
            TxnPlan::Write(command) => {
                let outcome = self.write(&metadata, command).await?;
                answer(self.answerer().txn(self.term(), outcome))
            }
            TxnPlan::Read(txn, consistency) => {
                self.settle(&metadata, consistency).await?;
                let size = ReadSize::of_txn(&txn);
                let (revision, reply) = self
                    .read(size, move |reader| {
                        let reply = reader.read_txn(&txn)?;
                        Ok(reply.map(|reply| (reader.revision(), reply)))
                    })
                    .await?;
                Ok(Response::new(self.answerer().txn_reply(self.term(), revision, reply)))
            }
        }
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let outcome = self.write(&metadata, request::compact(&message)).await?;
        if message.physical {
            let deadline = Deadline::of(&metadata, &self.handle);
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
enum ReadSize {
    /// Where the call runs.
    Small,
    /// Beside it.
    Large,
}

impl ReadSize {
    fn of_range(range: &Range) -> ReadSize {
        let counts_all = range.projection == Projection::CountOnly;
        match range.keys {
            KeyRange::Key(_) => ReadSize::Small,
            KeyRange::Span { .. } | KeyRange::From(_)
                if (1..=INLINE_PAIRS).contains(&range.limit) && !counts_all =>
            {
                ReadSize::Small
            }
            KeyRange::Span { .. } | KeyRange::From(_) => ReadSize::Large,
        }
    }

    fn of_txn(txn: &Txn) -> ReadSize {
        use store::command::TxnOp;
        let small = |op: &TxnOp| match op {
            TxnOp::Range(range) => ReadSize::of_range(range) == ReadSize::Small,
            TxnOp::Put(_) | TxnOp::DeleteRange(_) | TxnOp::Txn(_) => false,
        };
        let compares = |keys: &KeyRange| matches!(keys, KeyRange::Key(_));
        let all_small = txn.success.iter().chain(&txn.failure).all(small)
            && txn.compare.iter().all(|compare| compares(&compare.keys));
        if all_small { ReadSize::Small } else { ReadSize::Large }
    }
}
