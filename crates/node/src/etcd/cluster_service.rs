//! The Cluster service: who the members are, and changes of that. A change is answered once every
//! group has adopted it.

use super::admission::Admitted;
use super::deadline::Deadline;
use super::refusal;
use super::services::etcdserverpb::cluster_server::Cluster;
use crate::NodeHandle;
use crate::data_directory::random_bytes;
use clocks::{GroupId, NodeId};
use store::ListedMember;
use store::command::{Command, Member};
use store::reply::Outcome;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use wire::etcd::keyspace_reply::Answerer;
use wire::etcd::{membership, pb};

/// Serves the Cluster calls.
pub(super) struct ClusterService {
    handle: NodeHandle,
}

impl ClusterService {
    pub(super) fn new(handle: NodeHandle) -> ClusterService {
        ClusterService { handle }
    }

    /// etcd leaves the revision out of these.
    fn header(&self) -> Option<pb::ResponseHeader> {
        let handle = &self.handle;
        let answerer = Answerer { cluster_id: handle.cluster_id(), member: handle.member_id() };
        Some(answerer.header(0, handle.term(GroupId::CONSISTENT_CORE)))
    }

    /// Those that the consistent core knows, and as long as nothing was changed, the founders that
    /// have yet to say who they are: listed without a name or client URLs, as etcd lists members
    /// that never started.
    fn members(&self) -> Result<Vec<pb::Member>, Status> {
        let reader = self.handle.reader(GroupId::CONSISTENT_CORE);
        let read = reader.and_then(|reader| Ok((reader.listed_members()?, reader.member_table()?)));
        let (mut members, table) = read.map_err(|failure| refusal::failed_read(&failure))?;
        let founders = self.handle.identity().founders.iter().filter(|_| table.is_none());
        for (id, address) in founders {
            if members.iter().all(|listed| listed.member.id != *id) {
                let peer_addresses = vec![address.clone()];
                let member = Member { id: *id, peer_addresses, ..Member::default() };
                members.push(ListedMember { member, learner: false });
            }
        }
        members.sort_by_key(|listed| listed.member.id);
        Ok(self.listed(members))
    }

    fn listed(&self, members: Vec<ListedMember>) -> Vec<pb::Member> {
        let scheme = self.handle.identity().peer_scheme;
        members.into_iter().map(|member| membership::member(member, scheme)).collect()
    }

    /// Has the change made; returns the members after it.
    async fn change(
        &self,
        admitted: &Admitted,
        metadata: &MetadataMap,
        command: Command,
    ) -> Result<Vec<pb::Member>, Status> {
        let deadline = Deadline::of(metadata, &self.handle);
        // Users are the keyspace's: where this is applied, nobody knows them.
        let deadline = admitted.require_root_now(&self.handle, deadline).await?;
        let group = GroupId::CONSISTENT_CORE;
        match self.handle.write(group, command, deadline.timeout).await {
            Ok(Outcome::Members(members)) => Ok(self.listed(members)),
            Ok(_) => Err(Status::internal("quorate: the outcome belongs to another command")),
            Err(error) => Err(refusal::status(deadline.explain(error))),
        }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        if message.linearizable {
            let deadline = Deadline::of(&metadata, &self.handle);
            let group = GroupId::CONSISTENT_CORE;
            let barrier = self.handle.read_barrier(group, deadline.timeout).await;
            barrier.map_err(|error| refusal::status(deadline.explain(error)))?;
        }
        let (header, members) = (self.header(), self.members()?);
        Ok(Response::new(pb::MemberListResponse { header, members }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let (id, scheme) = (draw_id()?, self.handle.identity().peer_scheme);
        let command = membership::add(id, &message, scheme).map_err(refusal::status)?;
        let members = self.change(&admitted, &metadata, command).await?;
        let member = members.iter().find(|member| member.id == id.0).cloned();
        let header = self.header();
        Ok(Response::new(pb::MemberAddResponse { header, member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let members = self.change(&admitted, &metadata, membership::remove(&message)).await?;
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header(), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let scheme = self.handle.identity().peer_scheme;
        let command = membership::update(&message, scheme).map_err(refusal::status)?;
        let members = self.change(&admitted, &metadata, command).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header(), members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let members = self.change(&admitted, &metadata, membership::promote(&message)).await?;
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header(), members }))
    }
}

/// An id that nobody ever had, as far as 64 random bits go; the consistent core refuses one that
/// somebody did have.
fn draw_id() -> Result<NodeId, Status> {
    let drawn = random_bytes()
        .map_err(|error| Status::internal(format!("quorate: cannot read /dev/urandom: {error}")))?;
    Ok(NodeId(u64::from_be_bytes(drawn).max(1)))
}
