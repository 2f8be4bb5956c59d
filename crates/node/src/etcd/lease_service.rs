//! The Lease service.
//!
//! Invariant: a time to live is answered only as far as it can still be kept. A lease outlives its
//! time by the slack from the moment at which its renewal was proposed, which is after the request
//! for it was read here; an answer that is given later than the slack promises that much less.
//! Not here: why a lease does not end earlier (`replica`'s lease clock), what it means (`store`).

use super::admission::Admitted;
use super::keyspace_service::{KeyspaceService, ReadSize};
use super::lease_renewals::{LeaseRenewals, Renewed};
use super::limits::STREAM_RENEWALS_MAX;
use super::refusal;
use super::services::etcdserverpb::lease_server::Lease;
use super::watch_service::leaderless;
use crate::data_directory::random_bytes;
use crate::{NodeHandle, monotonic_now};
use bytes::Bytes;
use clocks::Monotonic;
use replica::RequestError;
use std::pin::pin;
use std::sync::Arc;
use store::command::Command;
use store::range::KeyRange;
use store::reply::{AuthError, Outcome, StoreError};
use store::{Reader, Standing, StoreFailure};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use wire::etcd::errors::{LEASE_EXISTS, NO_LEADER, STOPPED, TIMEOUT};
use wire::etcd::keyspace_request::Consistency;
use wire::etcd::lease::{self, Found};
use wire::etcd::pb;

/// Serves the Lease calls of one runtime's connections.
pub(super) struct LeaseService {
    handle: NodeHandle,
    keyspace: Arc<KeyspaceService>,
    renewals: LeaseRenewals,
}

impl LeaseService {
    pub(super) fn new(handle: NodeHandle, keyspace: Arc<KeyspaceService>) -> LeaseService {
        let renewals = LeaseRenewals::new(handle.clone());
        LeaseService { handle, keyspace, renewals }
    }

    /// Grants a lease under the id asked for, or (0) one that nobody has.
    async fn grant(
        &self,
        metadata: &MetadataMap,
        admitted: &Admitted,
        asked: i64,
        ttl_s: u64,
    ) -> Result<Outcome, Status> {
        loop {
            let id = if asked == 0 { random_id()? } else { asked };
            let command = Command::LeaseGrant { id, ttl_s };
            let granted = self.keyspace.write(metadata, admitted, command).await;
            let taken = |status: &Status| status.message() == LEASE_EXISTS.message;
            match granted {
                // Drawn from 2^63, so that this ends.
                Err(status) if asked == 0 && taken(&status) => {}
                granted => return granted,
            }
        }
    }
}

/// As etcd's ids, positive.
fn random_id() -> Result<i64, Status> {
    let drawn = random_bytes::<8>().map_err(|error| {
        Status::internal(format!("quorate: no lease id can be drawn from /dev/urandom: {error}"))
    })?;
    Ok((u64::from_be_bytes(drawn) >> 1).max(1).cast_signed())
}

#[tonic::async_trait]
impl Lease for LeaseService {
    type LeaseKeepAliveStream = ReceiverStream<Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let arrived = monotonic_now();
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let ttl_min_s = lease::ttl_min_s(self.handle.timings().election_timeout);
        let ttl_s = lease::granted_ttl_s(&message, ttl_min_s).map_err(refusal::status)?;
        let Outcome::LeaseGranted { revision, id, ttl_s } =
            self.grant(&metadata, &admitted, message.id, ttl_s).await?
        else {
            return Err(Status::unknown("quorate: the outcome belongs to another command"));
        };
        let ttl = lease::promised_ttl_s(ttl_s, monotonic_now().since(arrived));
        let ttl = ttl.ok_or_else(|| refusal::status(TIMEOUT))?;
        let (answerer, term) = (self.keyspace.answerer(), self.keyspace.term());
        Ok(Response::new(answerer.lease_granted(term, (revision, id), ttl)))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let outcome = self.keyspace.write(&metadata, &admitted, lease::revoke(&message)).await?;
        let answered = self.keyspace.answerer().lease_revoked(self.keyspace.term(), outcome);
        answered.map(Response::new).map_err(refusal::status)
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let requires_leader = super::dispatch::requires_leader(request.metadata().as_ref());
        let (asked, waiting) = mpsc::channel(STREAM_RENEWALS_MAX);
        let (replies, stream) = mpsc::channel(1);
        let session = KeepAliveSession {
            handle: self.handle.clone(),
            keyspace: Arc::clone(&self.keyspace),
            renewals: self.renewals.clone(),
            admitted: Admitted::of(&request),
        };
        let requests = request.into_inner();
        tokio::spawn(session.run(requests, (asked, waiting), replies, requires_leader));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let (admitted, handle) = (Admitted::of(&request), self.handle.clone());
        let (metadata, _, pb::LeaseTimeToLiveRequest { id, keys }) = request.into_parts();
        let deadline = self.keyspace.deadline(&metadata);
        let deadline = self.keyspace.settle(deadline, Consistency::Linearizable).await?;
        let clock_ms = self.handle.lease_clock_ms();
        let size = if keys { ReadSize::Large } else { ReadSize::Small };
        let (revision, found) = self
            .keyspace
            .read(
                deadline,
                move |_| Ok(size),
                move |reader| {
                    let Some(lease) = reader.lease(id)? else {
                        return Ok(Ok((reader.revision(), None)));
                    };
                    let clock_ms = clock_ms.max(reader.lease_clock_ms()?);
                    let keys = if keys { reader.lease_keys(id)? } else { Vec::new() };
                    let may = admitted.check(&handle, reader, |caller| may_read(caller, &keys))?;
                    if let Err(refusal) = may {
                        return Ok(Err(refusal));
                    }
                    Ok(Ok((reader.revision(), Some(Found { lease, clock_ms, keys }))))
                },
            )
            .await?;
        let (answerer, term) = (self.keyspace.answerer(), self.keyspace.term());
        self.keyspace.admit(answerer.lease_time_to_live(term, (revision, id), found))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let (admitted, handle) = (Admitted::of(&request), self.handle.clone());
        let (metadata, _, _) = request.into_parts();
        let deadline = self.keyspace.deadline(&metadata);
        let deadline = self.keyspace.settle(deadline, Consistency::Linearizable).await?;
        let (revision, leases) = self
            .keyspace
            .read(
                deadline,
                |_| Ok(ReadSize::Large),
                move |reader| {
                    let leases = reader.leases().collect::<Result<Vec<_>, _>>()?;
                    if let Err(refusal) = may_know(&admitted, &handle, reader, &leases)? {
                        return Ok(Err(refusal));
                    }
                    Ok(Ok((reader.revision(), leases)))
                },
            )
            .await?;
        let (answerer, term) = (self.keyspace.answerer(), self.keyspace.term());
        self.keyspace.admit(answerer.leases(term, revision, leases))
    }
}

/// The keys under a lease are told only to who may read them.
fn may_read(caller: Standing<'_>, keys: &[Bytes]) -> Result<(), AuthError> {
    keys.iter().try_for_each(|key| caller.may_read(&KeyRange::Key(key.clone())))
}

/// As in etcd, all leases are told to who may read all of their keys.
fn may_know(
    admitted: &Admitted,
    handle: &NodeHandle,
    reader: &Reader,
    leases: &[store::Lease],
) -> Result<Result<(), StoreError>, StoreFailure> {
    // Most callers may do everything: no key is looked at for them.
    let everything = KeyRange::From(Bytes::from_static(b"\0"));
    if admitted.check(handle, reader, |caller| caller.may_read(&everything))?.is_ok() {
        return Ok(Ok(()));
    }
    for lease in leases {
        let keys = reader.lease_keys(lease.id)?;
        let may = admitted.check(handle, reader, |caller| may_read(caller, &keys))?;
        if may.is_err() {
            return Ok(may);
        }
    }
    admitted.check(handle, reader, |_| Ok(()))
}

/// A renewal asked for on a stream.
struct Asked {
    id: i64,
    arrived: Monotonic,
    renewed: oneshot::Receiver<Result<Renewed, RequestError>>,
}

type Replies = mpsc::Sender<Result<pb::LeaseKeepAliveResponse, Status>>;

/// One stream of renewals: read ahead of the answers, and answered in order.
struct KeepAliveSession {
    handle: NodeHandle,
    keyspace: Arc<KeyspaceService>,
    renewals: LeaseRenewals,
    admitted: Admitted,
}

impl KeepAliveSession {
    async fn run(
        self,
        requests: Streaming<pb::LeaseKeepAliveRequest>,
        (asked, waiting): (mpsc::Sender<Asked>, mpsc::Receiver<Asked>),
        replies: Replies,
        requires_leader: bool,
    ) {
        let mut served = pin!(async {
            let (read, ()) =
                tokio::join!(self.read(requests, asked), self.answer(waiting, &replies));
            read
        });
        let ended = tokio::select! {
            ended = &mut served => ended,
            () = self.handle.stopping() => Err(refusal::status(STOPPED)),
            () = leaderless(&self.handle, requires_leader) => Err(refusal::status(NO_LEADER)),
            () = replies.closed() => Ok(()),
        };
        if let Err(status) = ended {
            // The client may have left.
            let _ = replies.send(Err(status)).await;
        }
    }

    /// Passes on what the client asks for, until it stops asking.
    async fn read(
        &self,
        mut requests: Streaming<pb::LeaseKeepAliveRequest>,
        asked: mpsc::Sender<Asked>,
    ) -> Result<(), Status> {
        while let Some(pb::LeaseKeepAliveRequest { id }) = requests.message().await? {
            let arrived = monotonic_now();
            self.identify()?;
            let renewed = self.renewals.renew(id).await;
            if asked.send(Asked { id, arrived, renewed }).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Asks who calls, and nothing about the lease: as in etcd, any user may keep any lease alive.
    /// One stream carries all leases of a client, so that an answer about one must not end it.
    fn identify(&self) -> Result<(), Status> {
        let admitted = self.admitted.again().map_err(refusal::status)?;
        let accounts = self.handle.accounts();
        let standing = accounts.standing(admitted.caller().as_ref());
        standing.map(drop).map_err(|error| refusal::status(error.into()))
    }

    async fn answer(&self, mut waiting: mpsc::Receiver<Asked>, replies: &Replies) {
        while let Some(Asked { id, arrived, renewed }) = waiting.recv().await {
            let renewed = renewed.await.unwrap_or(Err(RequestError::Stopping));
            let reply = self.reply(id, arrived, renewed);
            let ends = reply.is_err();
            if replies.send(reply).await.is_err() || ends {
                return;
            }
        }
    }

    fn reply(
        &self,
        id: i64,
        arrived: Monotonic,
        renewed: Result<Renewed, RequestError>,
    ) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let Renewed { revision, ttl_s } = renewed.map_err(|error| refusal::status(error.into()))?;
        let ttl = match ttl_s {
            0 => 0,
            _ => lease::promised_ttl_s(ttl_s, monotonic_now().since(arrived))
                .ok_or_else(|| refusal::status(TIMEOUT))?,
        };
        Ok(self.keyspace.answerer().lease_kept(self.keyspace.term(), (revision, id), ttl))
    }
}
