//! The Election service: a line of candidates whose first leads. The leader key's `rev`, at which
//! it was created, is the leader's fencing token (docs/locks.md).

use super::key_watch::KeyWatch;
use super::lock_queue::{LockQueue, OnBehalf, keys_of};
use super::refusal;
use super::services::v3electionpb::election_server::Election;
use super::watch_service::leaderless;
use store::EventKind;
use store::range::{KeyRange, Revision};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wire::etcd::errors::{NO_LEADER, STOPPED};
use wire::etcd::keyspace_reply::key_value;
use wire::etcd::lock::{Line, Place, missing_leader, no_leader, not_leader};
use wire::etcd::{mvccpb, pb};
use wire::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};

/// Serves the Election calls of one runtime's connections.
pub(super) struct ElectionService {
    queue: LockQueue,
}

impl ElectionService {
    pub(super) fn new(queue: LockQueue) -> ElectionService {
        ElectionService { queue }
    }
}

fn place(leader: Option<LeaderKey>) -> Result<(Place, i64), Status> {
    let leader = leader.ok_or_else(|| refusal::status(missing_leader()))?;
    Ok((Place { key: leader.key, created: leader.rev }, leader.lease))
}

#[tonic::async_trait]
impl Election for ElectionService {
    type ObserveStream = ReceiverStream<Result<LeaderResponse, Status>>;

    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let (caller, CampaignRequest { name, lease, value }) = OnBehalf::of(request);
        let lease = self.queue.lease(&caller, lease).await?;
        let wanted = (Line::of(&name), lease, value);
        let turn = self.queue.wait_for_turn(caller, wanted, not_leader).await?;
        let Place { key, created } = turn.place;
        let leader = Some(LeaderKey { name, key, rev: created, lease });
        Ok(Response::new(CampaignResponse { header: turn.header, leader }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let (caller, ProclaimRequest { leader, value }) = OnBehalf::of(request);
        let (place, lease) = place(leader)?;
        let lease = self.queue.lease(&caller, lease).await?;
        let reply = self.queue.txn(&caller, place.proclaim(lease, value)).await?;
        if !reply.succeeded {
            return Err(refusal::status(not_leader()));
        }
        Ok(Response::new(ProclaimResponse { header: reply.header }))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let (caller, LeaderRequest { name }) = OnBehalf::of(request);
        let found = self.queue.range(&caller, Line::of(&name).first()).await?;
        let kv = found.kvs.into_iter().next().ok_or_else(|| refusal::status(no_leader()))?;
        Ok(Response::new(LeaderResponse { header: found.header, kv: Some(kv) }))
    }

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let requires_leader = super::dispatch::requires_leader(request.metadata().as_ref());
        let (caller, LeaderRequest { name }) = OnBehalf::of(request);
        let (replies, stream) = mpsc::channel(1);
        let observer = Observer { queue: self.queue.clone(), caller, line: Line::of(&name) };
        tokio::spawn(observer.run(replies, requires_leader));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let (caller, ResignRequest { leader }) = OnBehalf::of(request);
        let (place, _) = place(leader)?;
        let header = self.queue.txn(&caller, place.leave()).await?.header;
        Ok(Response::new(ResignResponse { header }))
    }
}

type Replies = mpsc::Sender<Result<LeaderResponse, Status>>;

/// Tells one client who leads and what they proclaim; the latest always, every one perhaps not.
struct Observer {
    queue: LockQueue,
    caller: OnBehalf,
    line: Line,
}

impl Observer {
    async fn run(self, replies: Replies, requires_leader: bool) {
        let handle = self.queue.handle().clone();
        let ended = tokio::select! {
            ended = self.observe(&replies) => ended,
            () = handle.stopping() => Err(refusal::status(STOPPED)),
            () = leaderless(&handle, requires_leader) => Err(refusal::status(NO_LEADER)),
            () = replies.closed() => Ok(()),
        };
        if let Err(status) = ended {
            // The client may have left.
            let _ = replies.send(Err(status)).await;
        }
    }

    async fn observe(&self, replies: &Replies) -> Result<(), Status> {
        loop {
            let found = self.queue.range(&self.caller, self.line.first()).await?;
            let mut header = found.header.unwrap_or_default();
            let leader = match found.kvs.into_iter().next() {
                Some(leader) => leader,
                None => match self.first_candidate(&mut header).await {
                    Some(leader) => leader,
                    None => continue,
                },
            };
            let key = leader.key.clone();
            if !tell(replies, header, leader).await {
                return Ok(());
            }
            let watched = [KeyRange::Key(key)];
            let mut watch = self.watch(watched, header.revision + 1).await;
            while let Some((event, revision)) = watch.next().await {
                if event.kind == EventKind::Delete {
                    break;
                }
                header.revision = revision;
                if !tell(replies, header, key_value(event.pair)).await {
                    return Ok(());
                }
            }
        }
    }

    /// On the observer's own behalf: it ends with their permission, and the next look says why.
    async fn watch(&self, keys: [KeyRange; 1], start: Revision) -> KeyWatch {
        KeyWatch::open(self.queue.handle(), self.caller.caller(), keys, start).await
    }

    /// Waits in an empty line for somebody to enter it.
    async fn first_candidate(&self, header: &mut pb::ResponseHeader) -> Option<mvccpb::KeyValue> {
        let watched = [keys_of(&self.line)];
        let mut watch = self.watch(watched, header.revision + 1).await;
        loop {
            let (event, _) = watch.next().await?;
            if event.kind == EventKind::Put {
                header.revision = event.pair.mod_revision;
                return Some(key_value(event.pair));
            }
        }
    }
}

/// Whether the client is still there.
async fn tell(replies: &Replies, header: pb::ResponseHeader, leader: mvccpb::KeyValue) -> bool {
    replies.send(Ok(LeaderResponse { header: Some(header), kv: Some(leader) })).await.is_ok()
}
