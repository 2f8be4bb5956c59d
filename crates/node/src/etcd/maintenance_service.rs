//! The Maintenance service: status, alarms, hashes and backups of this member.

use super::admission::Admitted;
use super::deadline::Deadline;
use super::limits::BACKUPS;
use super::refusal;
use super::services::etcdserverpb::maintenance_server::Maintenance;
use super::streamed_reply::{StreamedReply, streamed};
use crate::{BackupWriter, NodeHandle};
use clocks::{GroupId, NodeId};
use replica::{NodeStatus, RequestError};
use std::sync::Arc;
use store::KeyspaceHash;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use wire::etcd::keyspace_reply::Answerer;
use wire::etcd::{SERVED_CLUSTER_VERSION, SERVED_VERSION, errors, pb};

/// Serves the Maintenance calls.
pub(super) struct MaintenanceService {
    handle: NodeHandle,
    hashes: Arc<Semaphore>,
    backups: Arc<Semaphore>,
}

impl MaintenanceService {
    pub(super) fn new(handle: NodeHandle) -> MaintenanceService {
        let hashes = Arc::new(Semaphore::new(1));
        MaintenanceService { handle, hashes, backups: Arc::new(Semaphore::new(BACKUPS)) }
    }

    /// Asks for the role of root, of the cluster as long as it is known who leads it. Without a
    /// leader this member says itself who is root: what is asked for then is what it holds alone.
    /// Returns what is left of the call's time.
    async fn require_root<T>(&self, request: &Request<T>) -> Result<Deadline, Status> {
        let admitted = Admitted::of(request);
        let deadline = Deadline::of(request.metadata(), &self.handle);
        if self.handle.leader(GroupId::KEYSPACE).is_none() {
            return admitted.require_root(&self.handle).map(|()| deadline);
        }
        admitted.require_root_now(&self.handle, deadline).await
    }

    fn header(&self, revision: i64) -> Option<pb::ResponseHeader> {
        let handle = &self.handle;
        let answerer = Answerer { cluster_id: handle.cluster_id(), member: handle.member_id() };
        Some(answerer.header(revision, handle.term(GroupId::KEYSPACE)))
    }

    fn revision(&self) -> Result<i64, Status> {
        let reader = self.handle.reader(GroupId::KEYSPACE);
        Ok(reader.map_err(|failure| refusal::failed_read(&failure))?.revision())
    }

    async fn node_status(&self, deadline: Deadline) -> Result<NodeStatus, Status> {
        let status = self.handle.status(deadline.timeout).await;
        status.map_err(|error| refusal::status(deadline.explain(error)))
    }

    /// Hashes walk the whole keyspace, so they run beside the calls.
    async fn hash(&self, revision: i64) -> Result<KeyspaceHash, Status> {
        let handle = self.handle.clone();
        // It reads the whole keyspace: one at a time.
        let permit = Arc::clone(&self.hashes).acquire_owned().await;
        let permit = permit.map_err(|_| Status::unavailable("quorate: stopping"))?;
        let read = move || {
            let _permit = permit;
            handle.reader(GroupId::KEYSPACE)?.hash_kv(revision)
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| Status::internal(format!("quorate: a read died: {error}")))?
            .map_err(|failure| refusal::failed_read(&failure))?
            .map_err(|error| refusal::status(error.into()))
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.node_status(Deadline::of(request.metadata(), &self.handle)).await?;
        let handle = &self.handle;
        let leader = handle.leader(GroupId::KEYSPACE);
        let mut errors = Vec::new();
        if leader.is_none() {
            errors.push(errors::NO_LEADER.to_string());
        }
        errors.extend(alarms(&status).iter().map(described));
        let keyspace = status.groups.iter().find(|group| group.group == GroupId::KEYSPACE);
        let size = i64::try_from(handle.engine_bytes()).unwrap_or(i64::MAX);
        let quota = i64::try_from(handle.quota_bytes()).unwrap_or(i64::MAX);
        Ok(Response::new(pb::StatusResponse {
            header: self.header(self.revision()?),
            version: SERVED_VERSION.to_owned(),
            db_size: size,
            leader: leader.map_or(0, |leader| leader.0),
            raft_index: keyspace.map_or(0, |group| group.committed),
            raft_term: handle.term(GroupId::KEYSPACE).0,
            raft_applied_index: keyspace.map_or(0, |group| group.applied),
            errors,
            db_size_in_use: size,
            is_learner: handle.is_learner(),
            storage_version: SERVED_CLUSTER_VERSION.to_owned(),
            db_size_quota: quota,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    /// Alarms come and go with their cause here. To disarm one is answered as by etcd, with the
    /// alarm; it is listed on while its cause lasts. Setting them is refused: they would not stay.
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction;
        let deadline = match request.get_ref().action == AlarmAction::Get as i32 {
            true => Deadline::of(request.metadata(), &self.handle),
            false => self.require_root(&request).await?,
        };
        let message = request.into_inner();
        let status = self.node_status(deadline).await?;
        let mut alarms = alarms(&status);
        match AlarmAction::try_from(message.action) {
            // As in etcd, whichever member is named.
            Ok(AlarmAction::Get) => {
                let every = message.alarm == pb::AlarmType::None as i32;
                alarms.retain(|alarm| every || message.alarm == alarm.alarm);
            }
            Ok(AlarmAction::Deactivate) => alarms.retain(|alarm| {
                message.alarm == alarm.alarm && message.member_id == alarm.member_id
            }),
            Ok(AlarmAction::Activate) => {
                return Err(Status::unimplemented(
                    "quorate: alarms begin and end with their cause; they cannot be set",
                ));
            }
            Err(_) => alarms.clear(),
        }
        Ok(Response::new(pb::AlarmResponse { header: self.header(self.revision()?), alarms }))
    }

    async fn hash(
        &self,
        request: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        self.require_root(&request).await?;
        let hash = self.hash(0).await?;
        let header = self.header(hash.revision);
        Ok(Response::new(pb::HashResponse { header, hash: hash.hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        self.require_root(&request).await?;
        let hash = self.hash(request.get_ref().revision).await?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.header(self.revision()?),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.revision,
        }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.require_root(&request).await?;
        // Space is reclaimed while the engine runs; there is nothing left to do, and nobody waits.
        Ok(Response::new(pb::DefragmentResponse::default()))
    }

    type SnapshotStream = StreamedReply<pb::SnapshotResponse>;

    /// As of what this member has: a backup of the last members is taken when there is no majority.
    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.require_root(&request).await?;
        let permit = Arc::clone(&self.backups).try_acquire_owned();
        let permit = permit.map_err(|_| refusal::status(errors::TOO_MANY_REQUESTS))?;
        let handle = &self.handle;
        let writer = BackupWriter::open(handle.engine(), handle.cluster_id(), handle.member_id());
        let writer = writer.map_err(|failure| refusal::failed_read(&failure))?;
        let writer = measured(writer, handle).await?;
        let position = writer.description().position;
        tracing::info!(%position, bytes = writer.remaining(), "a client takes a backup");
        let read = |writer: &mut BackupWriter| {
            let part = writer.next_part()?;
            Ok(part.map(|blob| pb::SnapshotResponse {
                header: None,
                remaining_bytes: writer.remaining(),
                blob,
                version: SERVED_CLUSTER_VERSION.to_owned(),
            }))
        };
        Ok(Response::new(streamed(self.handle.clone(), permit, writer, read)))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        if self.handle.leader(GroupId::KEYSPACE) != Some(self.handle.member_id()) {
            return Err(refusal::status(errors::NOT_LEADER));
        }
        let deadline = Deadline::of(request.metadata(), &self.handle);
        let admitted = Admitted::of(&request);
        let deadline = admitted.require_root_now(&self.handle, deadline).await?;
        let to = NodeId(request.get_ref().target_id);
        let transferred = self.handle.transfer_leadership(Some(to), deadline.timeout).await;
        transferred.map_err(|error| match error {
            RequestError::TimedOut => refusal::status(errors::TIMEOUT_LEADER_TRANSFER),
            error => refusal::status(error.into()),
        })?;
        // etcd sends no header.
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        _: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(refusal::unimplemented("Downgrade"))
    }
}

/// Measures a backup beside the calls, chunk by chunk, so that a node that stops need not wait.
async fn measured(mut writer: BackupWriter, handle: &NodeHandle) -> Result<BackupWriter, Status> {
    loop {
        let measuring = tokio::task::spawn_blocking(move || {
            let more = writer.measure();
            (writer, more)
        });
        let more;
        (writer, more) = measuring
            .await
            .map_err(|error| Status::internal(format!("quorate: a read died: {error}")))?;
        if !more.map_err(|failure| refusal::failed_read(&failure))? {
            return Ok(writer);
        }
        if handle.is_stopping() {
            return Err(refusal::status(errors::STOPPED));
        }
    }
}

/// Members short of space, and a state on which no majority agrees, in etcd's words.
pub(super) fn alarms(status: &NodeStatus) -> Vec<pb::AlarmMember> {
    let alarm = |member_id, kind: pb::AlarmType| pb::AlarmMember { member_id, alarm: kind as i32 };
    let short = status.short_of_space.iter().map(|id| alarm(id.0, pb::AlarmType::Nospace));
    // Nobody can say whose state is wrong; etcd then says member 0, too.
    let corrupt = (!status.corrupt.is_empty()).then(|| alarm(0, pb::AlarmType::Corrupt));
    short.chain(corrupt).collect()
}

/// As etcd prints an alarm among a status's errors.
fn described(alarm: &pb::AlarmMember) -> String {
    let kind = pb::AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
    format!("memberID:{} alarm:{kind} ", alarm.member_id)
}
