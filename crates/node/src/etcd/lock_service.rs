//! The Lock service. The reply's revision, and the one at which the key was created, are fencing
//! tokens: each holder's are greater than those of every holder before (docs/locks.md).

use super::lock_queue::{LOST_LOCK, LockQueue, OnBehalf};
use super::services::v3lockpb::lock_server::Lock;
use bytes::Bytes;
use tonic::{Request, Response, Status};
use wire::etcd::lock::Line;
use wire::etcd::pb;
use wire::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

/// Serves the Lock calls of one runtime's connections.
pub(super) struct LockService {
    queue: LockQueue,
}

impl LockService {
    pub(super) fn new(queue: LockQueue) -> LockService {
        LockService { queue }
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (caller, LockRequest { name, lease }) = OnBehalf::of(request);
        let lease = self.queue.lease(&caller, lease).await?;
        let wanted = (Line::of(&name), lease, Bytes::new());
        let turn = self.queue.wait_for_turn(caller, wanted, LOST_LOCK).await?;
        Ok(Response::new(LockResponse { header: turn.header, key: turn.place.key }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let (caller, UnlockRequest { key }) = OnBehalf::of(request);
        let delete = pb::DeleteRangeRequest { key, ..Default::default() };
        let header = self.queue.delete(&caller, delete).await?.header;
        Ok(Response::new(UnlockResponse { header }))
    }
}
