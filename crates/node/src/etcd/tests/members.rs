//! Cluster, Maintenance and Health over the wire.

use super::fake_core::{FakeCore, MEMBER, TERM, block_on};
use crate::etcd::services::etcdserverpb::cluster_client::ClusterClient;
use crate::etcd::services::etcdserverpb::kv_client::KvClient;
use crate::etcd::services::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::etcd::services::health::health_client::HealthClient;
use bytes::Bytes;
use std::time::Duration;
use store::command::{Command, Member, MembershipCommand};
use tonic::Code;
use wire::etcd::pb;
use wire::proto::health::HealthCheckRequest;
use wire::proto::health::health_check_response::ServingStatus;

#[test]
fn the_member_list_says_where_members_are() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = ClusterClient::new(core.channel().await);
        let request = pb::MemberListRequest { linearizable: true };
        let reply = client.member_list(request).await.unwrap().into_inner();
        let member = &reply.members[0];
        assert_eq!((member.id, member.name.as_str()), (MEMBER.0, "n1"));
        assert_eq!(member.peer_ur_ls, ["http://127.0.0.1:2380"]);
        assert_eq!(member.client_ur_ls, ["http://127.0.0.1:2379"]);
        let unstarted = &reply.members[1];
        assert_eq!((unstarted.id, unstarted.name.as_str()), (MEMBER.0 + 1, ""));
        assert_eq!(unstarted.peer_ur_ls, ["http://127.0.0.1:12380"]);
        assert!(unstarted.client_ur_ls.is_empty());
    });
}

#[test]
fn members_are_changed_with_etcds_answers() {
    let core = FakeCore::start();
    block_on(async {
        // As the leader does before the first change.
        let group = clocks::GroupId::CONSISTENT_CORE;
        let founders = core.handle.identity().founders.clone().into_iter();
        let founder =
            |(id, address)| Member { id, peer_addresses: vec![address], ..Member::default() };
        let found = MembershipCommand::Found { founders: founders.map(founder).collect() };
        let found = core.handle.write(group, Command::Membership(found), Duration::from_secs(5));
        found.await.unwrap();
        let mut client = ClusterClient::new(core.channel().await);
        let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let add = |peer_ur_ls, is_learner| pb::MemberAddRequest { peer_ur_ls, is_learner };
        let bad = client.member_add(add(urls(&["10.0.0.4:2380"]), false)).await.unwrap_err();
        assert_eq!(bad.code(), Code::InvalidArgument);
        assert_eq!(bad.message(), "etcdserver: given member URLs are invalid");

        let learner = add(urls(&["https://10.0.0.4:2380"]), true);
        let added = client.member_add(learner.clone()).await.unwrap().into_inner();
        let member = added.member.unwrap();
        assert!(member.id != 0 && member.is_learner && member.name.is_empty());
        assert_eq!(member.peer_ur_ls, ["https://10.0.0.4:2380"]);
        assert_eq!(added.members.len(), 3);
        let twice = client.member_add(learner).await.unwrap_err();
        assert_eq!(twice.message(), "etcdserver: Peer URLs already exists");

        let id = member.id;
        let peer_ur_ls = urls(&["http://10.0.0.5:2380"]);
        let update = pb::MemberUpdateRequest { id, peer_ur_ls };
        let updated = client.member_update(update).await.unwrap().into_inner();
        let moved = updated.members.iter().find(|member| member.id == id).unwrap();
        // Trap: an update must not promote.
        assert!(moved.is_learner, "{moved:?}");
        assert_eq!(moved.peer_ur_ls, ["http://10.0.0.5:2380"]);

        let removed = client.member_remove(pb::MemberRemoveRequest { id }).await.unwrap();
        assert!(removed.into_inner().members.iter().all(|member| member.id != id));
        let gone = client.member_promote(pb::MemberPromoteRequest { id }).await.unwrap_err();
        assert_eq!((gone.code(), gone.message()), (Code::NotFound, "etcdserver: member not found"));
        let voter = pb::MemberPromoteRequest { id: MEMBER.0 };
        let refused = client.member_promote(voter).await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: can only promote a learner member");
    });
}

#[test]
fn who_joins_as_a_learner_refuses_until_the_table_names_it_a_voter() {
    let core = FakeCore::start();
    core.handle.shared.learner.store(true, std::sync::atomic::Ordering::Release);
    core.handle.shared.note_standing();
    assert!(core.handle.is_learner(), "there is no table of members yet");
    block_on(async {
        let found = Command::Membership(MembershipCommand::Found { founders: Vec::new() });
        let (group, patience) = (clocks::GroupId::CONSISTENT_CORE, Duration::from_secs(5));
        core.handle.write(group, found, patience).await.unwrap();
    });
    core.handle.shared.note_standing();
    assert!(!core.handle.is_learner(), "whoever had registered is a voter");
}

#[test]
fn a_learner_serves_its_status_and_serializable_ranges_and_nothing_else() {
    let core = FakeCore::start();
    core.handle.shared.learner.store(true, std::sync::atomic::Ordering::Release);
    block_on(async {
        let channel = core.channel().await;
        let mut maintenance = MaintenanceClient::new(channel.clone());
        let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
        assert!(status.is_learner);
        let mut keyspace = KvClient::new(channel.clone());
        let key = Bytes::from("k");
        let range = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let refused = keyspace.range(range.clone()).await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: rpc not supported for learner");
        keyspace.range(pb::RangeRequest { serializable: true, ..range }).await.unwrap();
        let put = pb::PutRequest { key, ..Default::default() };
        let refused = keyspace.put(put).await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: rpc not supported for learner");
        let list = pb::MemberListRequest { linearizable: false };
        let refused = ClusterClient::new(channel).member_list(list).await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: rpc not supported for learner");
    });
}

#[test]
fn the_status_has_a_version_that_clients_parse_and_names_the_leader() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = MaintenanceClient::new(core.channel().await);
        let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
        let parts: Vec<u32> = status.version.split('.').map(|part| part.parse().unwrap()).collect();
        assert_eq!(parts[..2], [3, 6]);
        assert_eq!(parts.len(), 3);
        assert_eq!((status.leader, status.raft_term), (MEMBER.0, TERM.0));
        assert!(status.raft_applied_index > 0 && status.db_size > 0);
        assert!(status.errors.is_empty(), "{:?}", status.errors);

        core.set_leader(None);
        core.feel(|mood| mood.short_of_space = vec![MEMBER]);
        let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.leader, 0);
        assert_eq!(status.errors, ["etcdserver: no leader", "memberID:161 alarm:NOSPACE "]);
    });
}

#[test]
fn alarms_can_be_listed_as_etcdctl_endpoint_health_does() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = MaintenanceClient::new(core.channel().await);
        let list = client.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner();
        assert!(list.alarms.is_empty());
        core.feel(|mood| mood.short_of_space = vec![MEMBER]);
        let list = client.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner();
        assert_eq!(list.alarms[0].member_id, MEMBER.0);
        assert_eq!(list.alarms[0].alarm, pb::AlarmType::Nospace as i32);
        let ask = |action: pb::alarm_request::AlarmAction, member_id, alarm: pb::AlarmType| {
            pb::AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 }
        };
        use pb::AlarmType::{Corrupt, Nospace};
        use pb::alarm_request::AlarmAction::{Activate, Deactivate, Get};
        // What etcd answers to a disarming, and the alarm stays as long as its cause.
        let disarm = ask(Deactivate, MEMBER.0, Nospace);
        let disarmed = client.alarm(disarm).await.unwrap().into_inner();
        assert_eq!(disarmed.alarms, list.alarms);
        for other in [ask(Deactivate, MEMBER.0, Corrupt), ask(Deactivate, 7, Nospace)] {
            assert!(client.alarm(other).await.unwrap().into_inner().alarms.is_empty());
        }
        for get in [ask(Get, 0, Nospace), ask(Get, 7, Nospace)] {
            assert_eq!(client.alarm(get).await.unwrap().into_inner().alarms.len(), 1);
        }
        assert!(client.alarm(ask(Get, 0, Corrupt)).await.unwrap().into_inner().alarms.is_empty());
        let set = client.alarm(ask(Activate, MEMBER.0, Nospace)).await.unwrap_err();
        assert_eq!(set.code(), Code::Unimplemented);
        core.feel(|mood| mood.short_of_space.clear());
        let list = client.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner();
        assert!(list.alarms.is_empty(), "it went with its cause");
    });
}

#[test]
fn hashes_are_of_a_revision() {
    let core = FakeCore::start();
    block_on(async {
        let mut keyspace = KvClient::new(core.channel().await);
        let mut client = MaintenanceClient::new(core.channel().await);
        let put = |value: &'static str| pb::PutRequest {
            key: Bytes::from("k"),
            value: Bytes::from(value),
            ..Default::default()
        };
        keyspace.put(put("1")).await.unwrap();
        let hash_at = |revision| pb::HashKvRequest { revision };
        let first = client.hash_kv(hash_at(0)).await.unwrap().into_inner();
        assert_eq!((first.hash_revision, first.header.unwrap().revision), (2, 2));
        keyspace.put(put("2")).await.unwrap();
        let then = client.hash_kv(hash_at(2)).await.unwrap().into_inner();
        assert_eq!((then.hash, then.hash_revision), (first.hash, 2));
        let now = client.hash(pb::HashRequest {}).await.unwrap().into_inner();
        assert_ne!(now.hash, first.hash);
        let refused = client.hash_kv(hash_at(9)).await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: mvcc: required revision is a future revision");
    });
}

#[test]
fn grpc_health_is_served_and_turns_when_the_node_stops() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = HealthClient::new(core.channel().await);
        let about = |service: &str| HealthCheckRequest { service: service.into() };
        let reply = client.check(about("")).await.unwrap().into_inner();
        assert_eq!(reply.status, ServingStatus::Serving as i32);
        let refused = client.check(about("nobody")).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);

        let mut changes = client.watch(about("etcdserverpb.KV")).await.unwrap().into_inner();
        let first = changes.message().await.unwrap().unwrap();
        assert_eq!(first.status, ServingStatus::Serving as i32);
        core.handle.shared.stopping.send_replace(true);
        let last = changes.message().await.unwrap().unwrap();
        assert_eq!(last.status, ServingStatus::NotServing as i32);
    });
}
