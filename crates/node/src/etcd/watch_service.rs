//! The Watch service: one stream of the hub per gRPC stream.
//!
//! A client that does not read stops being read from: responses leave the stream's account only
//! once the transport took them, and requests wait while the account is full. Not here: who gets
//! which event (`store`), the hub's thread (`watch_streams`).

use super::admission::Admitted;
use super::dispatch::requires_leader;
use super::limits::LEADERLESS_TICKS;
use super::refusal;
use super::services::etcdserverpb::watch_server::Watch;
use crate::NodeHandle;
use crate::watch_streams::{WatchReceiver, WatchSender};
use clocks::GroupId;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use store::command::Caller;
use store::range::KeyRange;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use wire::etcd::ProtocolError;
use wire::etcd::errors::{NO_LEADER, STOPPED};
use wire::etcd::keyspace_reply::Answerer;
use wire::etcd::pb;
use wire::etcd::watch::{self, WatchAsk};

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
    type WatchStream = WatchReplies;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let requires_leader = requires_leader(request.metadata().as_ref());
        let (sender, receiver) = self.handle.open_watch_stream();
        let (end, ended) = oneshot::channel();
        let admitted = Admitted::of(&request);
        let handle = self.handle.clone();
        let session = Session { handle, sender, requires_leader, admitted };
        let requests = request.into_inner();
        let reading = tokio::spawn(async move {
            let status = session.run(requests).await;
            // Whoever would hear it may have hung up first.
            let _ = end.send(status);
        });
        Ok(Response::new(WatchReplies {
            answerer: Answerer {
                cluster_id: self.handle.cluster_id(),
                member: self.handle.member_id(),
            },
            handle: self.handle.clone(),
            receiver,
            ended: Some(ended),
            reading: reading.abort_handle(),
        }))
    }
}

/// The reading side of a stream.
struct Session {
    handle: NodeHandle,
    sender: WatchSender,
    requires_leader: bool,
    admitted: Admitted,
}

impl Session {
    /// Passes requests on until the stream has to end, and says why. A client that only stops
    /// asking is served on.
    async fn run(self, mut requests: Streaming<pb::WatchRequest>) -> Status {
        let mut stopping = pin!(self.handle.stopping());
        let mut leaderless = pin!(leaderless(&self.handle, self.requires_leader));
        let mut asks = pin!(self.pass_on(&mut requests));
        tokio::select! {
            status = &mut asks => status,
            () = &mut stopping => refusal::status(STOPPED),
            () = &mut leaderless => refusal::status(NO_LEADER),
        }
    }

    async fn pass_on(&self, requests: &mut Streaming<pb::WatchRequest>) -> Status {
        loop {
            match requests.message().await {
                Ok(Some(request)) => match watch::ask(request) {
                    Some(WatchAsk::Create(request)) => match self.permit(&request.keys) {
                        Ok(caller) => self.sender.create(caller, request).await,
                        Err(refusal) => {
                            self.sender.refuse(watch::cancel_reason(&refusal)).await;
                        }
                    },
                    Some(WatchAsk::Cancel { watch_id }) => self.sender.cancel(watch_id).await,
                    Some(WatchAsk::Progress) => self.sender.request_progress().await,
                    None => {}
                },
                Ok(None) => return std::future::pending().await,
                Err(status) => return status,
            }
        }
    }

    /// Whether these keys may be watched, and by whom. The hub asks again, and whenever users or
    /// roles change.
    fn permit(&self, keys: &KeyRange) -> Result<Option<Caller>, ProtocolError> {
        let caller = self.admitted.again()?.caller();
        self.handle.accounts().standing(caller.as_ref())?.may_read(keys)?;
        Ok(caller)
    }
}

/// Returns once a client that requires a leader has gone without one for three elections.
pub(super) async fn leaderless(handle: &NodeHandle, requires_leader: bool) {
    if !requires_leader {
        std::future::pending::<()>().await;
    }
    let mut ticks = 0;
    while ticks < LEADERLESS_TICKS {
        tokio::time::sleep(handle.timings().election_timeout).await;
        let leaderless = handle.leader(GroupId::KEYSPACE).is_none();
        ticks = if leaderless { ticks + 1 } else { 0 };
    }
}

/// The answering side of a stream.
pub(super) struct WatchReplies {
    answerer: Answerer,
    handle: NodeHandle,
    receiver: WatchReceiver,
    /// Why the stream ends; taken once it has.
    ended: Option<oneshot::Receiver<Status>>,
    reading: AbortHandle,
}

impl Stream for WatchReplies {
    type Item = Result<pb::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(ended) = &mut self.ended else { return Poll::Ready(None) };
        if let Poll::Ready(status) = Pin::new(ended).poll(context) {
            self.ended = None;
            let status = status.unwrap_or_else(|_| refusal::status(STOPPED));
            return Poll::Ready(Some(Err(status)));
        }
        match self.receiver.poll_next(context) {
            Poll::Ready(Some(delivery)) => {
                // The transport asks only when it has room, so that this one counts as taken.
                let term = self.handle.term(GroupId::KEYSPACE);
                Poll::Ready(Some(Ok(self.answerer.watch(term, &delivery.response))))
            }
            Poll::Ready(None) => {
                self.ended = None;
                Poll::Ready(Some(Err(refusal::status(STOPPED))))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for WatchReplies {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
