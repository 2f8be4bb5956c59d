//! The gRPC health checking protocol: load balancers and probes ask it.

use super::services::health::health_server::Health;
use crate::NodeHandle;
use std::pin::Pin;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use wire::proto::health::health_check_response::ServingStatus;
use wire::proto::health::{HealthCheckRequest, HealthCheckResponse};

/// The services that can be asked about; the empty name is the whole server.
const SERVICES: [&str; 5] = [
    "",
    "etcdserverpb.Cluster",
    "etcdserverpb.KV",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Watch",
];

/// Serves the Health calls.
pub(super) struct HealthService {
    handle: NodeHandle,
}

impl HealthService {
    pub(super) fn new(handle: NodeHandle) -> HealthService {
        HealthService { handle }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("unknown service"));
        }
        let serves = !self.handle.is_stopping();
        Ok(Response::new(reply(if serves {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        })))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = SERVICES.contains(&request.get_ref().service.as_str());
        let first = match known {
            true if self.handle.is_stopping() => ServingStatus::NotServing,
            true => ServingStatus::Serving,
            false => ServingStatus::ServiceUnknown,
        };
        let handle = self.handle.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        // Ends with the client or with the node.
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = handle.stopping() => {
                    let _ = sender.send(Ok(reply(ServingStatus::NotServing))).await;
                }
            }
        });
        let changes = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let stream = tokio_stream::once(Ok(reply(first))).chain(changes);
        Ok(Response::new(Box::pin(stream)))
    }
}

fn reply(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}
