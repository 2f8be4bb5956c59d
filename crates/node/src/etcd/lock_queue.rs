//! Lock: leases stand in line, and whose key was created first has it. Each waits for the one
//! directly before it alone, so that a release wakes one waiter and not all.
//!
//! As in Chubby's and ZooKeeper's recipes; etcd's server does it so too. Invariants: a place is
//! held only while its lease lives and its key is there; a caller who leaves while waiting leaves
//! the line, whatever was under way. A holder may believe in its lock longer than it has it: only
//! the fencing token, the revision at which its key was created, tells (docs/locks.md).
//! Everything is asked of the KV service on the caller's behalf, so that its permissions count.

use super::admission::Admitted;
use super::deadline;
use super::key_watch::KeyWatch;
use super::keyspace_service::KeyspaceService;
use super::lease_service::LeaseService;
use super::refusal;
use super::services::etcdserverpb::kv_server::Kv;
use super::services::etcdserverpb::lease_server::Lease;
use crate::NodeHandle;
use std::sync::Arc;
use std::time::Duration;
use store::EventKind;
use store::command::Caller;
use store::range::KeyRange;
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};
use wire::etcd::errors::{CANCELED, DEADLINE_EXCEEDED, STOPPED};
use wire::etcd::keyspace_request::key_range;
use wire::etcd::lock::{Entered, Line, Place, SESSION_TTL_S, session_expired};
use wire::etcd::{ProtocolError, pb};

/// On whose behalf something is asked.
#[derive(Clone)]
pub(super) struct OnBehalf {
    metadata: MetadataMap,
    extensions: Extensions,
}

impl OnBehalf {
    /// Of the caller of a request.
    pub(super) fn of<T>(request: Request<T>) -> (OnBehalf, T) {
        let (metadata, extensions, message) = request.into_parts();
        (OnBehalf { metadata, extensions }, message)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    /// Who that is, as it was let in.
    pub(super) fn caller(&self) -> Option<Caller> {
        self.extensions.get::<Admitted>().and_then(Admitted::caller)
    }

    /// How long the caller waits, if it said so.
    fn patience(&self) -> Option<Duration> {
        deadline::asked(&self.metadata)
    }

    /// For what is to be done even if the caller waits no longer.
    fn without_deadline(mut self) -> OnBehalf {
        self.metadata.remove("grpc-timeout");
        self
    }
}

/// The lines of one runtime's callers; clones share everything.
#[derive(Clone)]
pub(super) struct LockQueue {
    handle: NodeHandle,
    keyspace: Arc<KeyspaceService>,
    leases: Arc<LeaseService>,
}

/// Somebody's turn has come.
pub(super) struct Turn {
    pub(super) place: Place,
    /// Of the reply that showed it.
    pub(super) header: Option<pb::ResponseHeader>,
}

impl LockQueue {
    pub(super) fn new(
        handle: NodeHandle,
        keyspace: Arc<KeyspaceService>,
        leases: Arc<LeaseService>,
    ) -> LockQueue {
        LockQueue { handle, keyspace, leases }
    }

    pub(super) fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// The caller's lease, or a fresh one that lives for a minute.
    pub(super) async fn lease(&self, caller: &OnBehalf, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = pb::LeaseGrantRequest { id: 0, ttl: SESSION_TTL_S };
        let granted = self.leases.lease_grant(caller.request(grant)).await?;
        Ok(granted.into_inner().id)
    }

    /// Reads on the caller's behalf.
    pub(super) async fn range(
        &self,
        caller: &OnBehalf,
        range: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Status> {
        Ok(self.keyspace.range(caller.request(range)).await?.into_inner())
    }

    /// Compares and writes on the caller's behalf.
    pub(super) async fn txn(
        &self,
        caller: &OnBehalf,
        txn: pb::TxnRequest,
    ) -> Result<pb::TxnResponse, Status> {
        Ok(self.keyspace.txn(caller.request(txn)).await?.into_inner())
    }

    /// Deletes a key on the caller's behalf.
    pub(super) async fn delete(
        &self,
        caller: &OnBehalf,
        delete: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        Ok(self.keyspace.delete_range(caller.request(delete)).await?.into_inner())
    }

    /// Enters a line and returns once it is the lease's turn. A caller who drops this leaves the
    /// line. `lost` is what is answered if the place is gone before.
    pub(super) async fn wait_for_turn(
        &self,
        caller: OnBehalf,
        (line, lease, value): (Line, i64, bytes::Bytes),
        lost: fn() -> ProtocolError,
    ) -> Result<Turn, Status> {
        let (answer, answered) = oneshot::channel();
        let queue = self.clone();
        tokio::spawn(async move { queue.serve(caller, (line, lease, value), lost, answer).await });
        answered.await.unwrap_or_else(|_| Err(refusal::status(STOPPED)))
    }

    /// In a task of its own: a caller who leaves must not leave a key of unknown outcome behind.
    async fn serve(
        self,
        caller: OnBehalf,
        (line, lease, value): (Line, i64, bytes::Bytes),
        lost: fn() -> ProtocolError,
        mut answer: oneshot::Sender<Result<Turn, Status>>,
    ) {
        let entered = self.enter(&caller, (&line, lease, value)).await;
        let Entered { header, place, is_first, .. } = match entered {
            Ok(entered) => entered,
            Err(status) => {
                // The caller may have left.
                let _ = answer.send(Err(status));
                return;
            }
        };
        let turn = if is_first {
            Ok(Turn { place: place.clone(), header })
        } else {
            tokio::select! {
                turn = self.wait(&caller, (&line, &place), lost) => turn,
                () = patience(caller.patience()) => Err(refusal::status(DEADLINE_EXCEEDED)),
                () = answer.closed() => Err(refusal::status(CANCELED)),
                () = self.handle.stopping() => Err(refusal::status(STOPPED)),
            }
        };
        let failed = turn.is_err();
        let unheard = answer.send(turn).is_err();
        if failed || unheard {
            let caller = caller.without_deadline();
            if let Err(status) = self.txn(&caller, place.leave()).await {
                // Its lease will take it away.
                tracing::debug!(%status, "a place in a line could not be given up");
            }
        }
    }

    async fn enter(
        &self,
        caller: &OnBehalf,
        (line, lease, value): (&Line, i64, bytes::Bytes),
    ) -> Result<Entered, Status> {
        let reply = self.txn(caller, line.enter(lease, value.clone())).await?;
        let entered = line.entered(lease, reply);
        let entered = entered.ok_or_else(|| Status::unknown("quorate: an answer to nothing"))?;
        if entered.found.as_ref().is_some_and(|found| *found != value) {
            let proclaim = entered.place.proclaim(lease, value);
            if !self.txn(caller, proclaim).await?.succeeded {
                return Err(refusal::status(wire::etcd::lock::not_leader()));
            }
        }
        Ok(entered)
    }

    /// Waits until nobody stands before `place`.
    async fn wait(
        &self,
        caller: &OnBehalf,
        (line, place): (&Line, &Place),
        lost: fn() -> ProtocolError,
    ) -> Result<Turn, Status> {
        // The caller's time bounds the whole, not each step.
        let caller = caller.clone().without_deadline();
        loop {
            let before = self.range(&caller, line.before(place)).await?;
            let Some(before_us) = before.kvs.into_iter().next() else { break };
            let start = before.header.map_or(0, |header| header.revision) + 1;
            let keys = [before_us.key, place.key.clone()].map(KeyRange::Key);
            let cluster = Some(Caller::Cluster);
            // A place that is lost is noticed at once, and not when its turn comes.
            let mut watch = KeyWatch::open(&self.handle, cluster, keys, start).await;
            self.still_there(&caller, place, lost).await?;
            while let Some((event, _)) = watch.next().await {
                if event.kind == EventKind::Delete {
                    break;
                }
            }
        }
        let header = self.still_there(&caller, place, lost).await?;
        Ok(Turn { place: place.clone(), header })
    }

    async fn still_there(
        &self,
        caller: &OnBehalf,
        place: &Place,
        lost: fn() -> ProtocolError,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let found = self.range(caller, place.look()).await?;
        match place.is(found.kvs.first()) {
            true => Ok(found.header),
            false => Err(refusal::status(lost())),
        }
    }
}

async fn patience(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// What a lock answers of a place that is gone.
pub(super) const LOST_LOCK: fn() -> ProtocolError = session_expired;

/// The keys of a line.
pub(super) fn keys_of(line: &Line) -> KeyRange {
    key_range(line.prefix(), line.end())
}
