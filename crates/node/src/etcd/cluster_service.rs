//! The Cluster service: who the members are. Changing them is not built yet.

use super::deadline::Deadline;
use super::refusal;
use super::services::etcdserverpb::cluster_server::Cluster;
use crate::NodeHandle;
use clocks::GroupId;
use store::command::Member;
use tonic::{Request, Response, Status};
use wire::etcd::keyspace_reply::Answerer;
use wire::etcd::pb;

/// Serves the Cluster calls.
pub(super) struct ClusterService {
    handle: NodeHandle,
}

impl ClusterService {
    pub(super) fn new(handle: NodeHandle) -> ClusterService {
        ClusterService { handle }
    }

    /// Those that have said who they are, and the founders that have yet to: listed without a name
    /// or client URLs, as etcd lists members that never started.
    fn members(&self) -> Result<Vec<Member>, Status> {
        let mut members = self
            .handle
            .reader(GroupId::CONSISTENT_CORE)
            .and_then(|reader| reader.members())
            .map_err(|failure| refusal::failed_read(&failure))?;
        for (id, address) in &self.handle.identity().founders {
            if members.iter().all(|member| member.id != *id) {
                let peer_addresses = vec![address.clone()];
                members.push(Member { id: *id, peer_addresses, ..Member::default() });
            }
        }
        members.sort_by_key(|member| member.id);
        Ok(members)
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
        let answerer =
            Answerer { cluster_id: self.handle.cluster_id(), member: self.handle.member_id() };
        // etcd leaves the revision out of this header.
        let header = Some(answerer.header(0, self.handle.term(GroupId::CONSISTENT_CORE)));
        let scheme = self.handle.identity().peer_scheme;
        let members = self.members()?.into_iter().map(|member| listed(member, scheme)).collect();
        Ok(Response::new(pb::MemberListResponse { header, members }))
    }

    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(refusal::unimplemented("MemberAdd"))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(refusal::unimplemented("MemberRemove"))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(refusal::unimplemented("MemberUpdate"))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(refusal::unimplemented("MemberPromote"))
    }
}

fn listed(member: Member, peer_scheme: &str) -> pb::Member {
    // Those that were added are known by the URL that was given, founders by their address.
    let url = |address: &String| match address.contains("://") {
        true => address.clone(),
        false => format!("{peer_scheme}://{address}"),
    };
    let peer_urls = member.peer_addresses.iter().map(url);
    pb::Member {
        id: member.id.0,
        name: member.name,
        peer_ur_ls: peer_urls.collect(),
        client_ur_ls: member.client_urls,
        is_learner: false,
    }
}
