//! The Watch service. Not built yet.

use super::refusal;
use super::services::etcdserverpb::watch_server::Watch;
use crate::NodeHandle;
use tokio_stream::Empty;
use tonic::{Request, Response, Status, Streaming};
use wire::etcd::pb;

/// Serves the Watch calls.
pub(super) struct WatchService {
    handle: NodeHandle,
}

impl WatchService {
    pub(super) fn new(handle: NodeHandle) -> WatchService {
        WatchService { handle }
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Empty<Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        _: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let _ = &self.handle;
        Err(refusal::unimplemented("Watch"))
    }
}
