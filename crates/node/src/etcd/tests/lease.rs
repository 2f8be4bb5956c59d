//! Leases over the wire.

use super::fake_core::{CLUSTER, FakeCore, MEMBER, block_on};
use crate::etcd::lease_renewals::LeaseRenewals;
use crate::etcd::limits::RENEWALS_WAITING_MAX;
use crate::etcd::services::etcdserverpb::kv_client::KvClient;
use crate::etcd::services::etcdserverpb::lease_client::LeaseClient;
use bytes::Bytes;
use clocks::GroupId;
use replica::RequestError;
use std::collections::BTreeSet;
use std::time::Duration;
use store::command::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use wire::etcd::pb;

/// Longer than any answer takes, shorter than a test may.
const PATIENCE: Duration = Duration::from_secs(20);

async fn client(core: &FakeCore) -> LeaseClient<Channel> {
    LeaseClient::new(core.channel().await)
}

fn grant(id: i64, ttl: i64) -> pb::LeaseGrantRequest {
    pb::LeaseGrantRequest { id, ttl }
}

async fn attach(core: &FakeCore, key: &'static str, lease: i64) -> Result<i64, Status> {
    let put = pb::PutRequest { key: Bytes::from(key), lease, ..Default::default() };
    let put = KvClient::new(core.channel().await).put(put).await?.into_inner();
    Ok(put.header.expect("a header").revision)
}

async fn exists(core: &FakeCore, key: &'static str) -> bool {
    let get = pb::RangeRequest { key: Bytes::from(key), ..Default::default() };
    KvClient::new(core.channel().await).range(get).await.unwrap().into_inner().count == 1
}

/// As the leader of a real core does.
async fn tick(core: &FakeCore, clock_ms: u64) {
    let command = Command::LeaseTick { clock_ms, revoke_max: 1000 };
    core.handle.write(GroupId::KEYSPACE, command, PATIENCE).await.unwrap();
}

/// A stream of keep-alives.
struct KeepingAlive {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    replies: Streaming<pb::LeaseKeepAliveResponse>,
}

impl KeepingAlive {
    async fn open(core: &FakeCore, requires_leader: bool) -> KeepingAlive {
        let (requests, receiver) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if requires_leader {
            request.metadata_mut().insert("hasleader", "true".parse().expect("ascii"));
        }
        let replies = client(core).await.lease_keep_alive(request).await.unwrap().into_inner();
        KeepingAlive { requests, replies }
    }

    async fn ask(&self, id: i64) {
        self.requests.send(pb::LeaseKeepAliveRequest { id }).await.expect("the stream is open");
    }

    async fn next(&mut self) -> Result<Option<pb::LeaseKeepAliveResponse>, Status> {
        tokio::time::timeout(PATIENCE, self.replies.message()).await.expect("an answer in time")
    }

    async fn ttl(&mut self) -> (i64, i64) {
        let reply = self.next().await.expect("no error").expect("no end");
        (reply.id, reply.ttl)
    }
}

#[test]
fn leases_are_kept_alive_on_a_stream_that_is_opened_between_two_leaders() {
    let core = FakeCore::start();
    block_on(async {
        client(&core).await.lease_grant(grant(7, 60)).await.unwrap();
        let leader = core.handle.leader(GroupId::KEYSPACE);
        core.set_leader(None);
        let mut keeping = KeepingAlive::open(&core, true).await;
        core.set_leader(leader);
        keeping.ask(7).await;
        assert_eq!(keeping.ttl().await, (7, 60));
    });
}

#[test]
fn a_lease_is_granted_attached_to_listed_and_revoked_with_its_keys() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        let granted = client.lease_grant(grant(7, 60)).await.unwrap().into_inner();
        let header = granted.header.unwrap();
        assert_eq!((header.cluster_id, header.member_id, header.revision), (CLUSTER, MEMBER.0, 1));
        assert_eq!((granted.id, granted.ttl, &*granted.error), (7, 60, ""));
        assert_eq!(attach(&core, "b", 7).await.unwrap(), 2);
        assert_eq!(attach(&core, "a", 7).await.unwrap(), 3);
        client.lease_grant(grant(8, 30)).await.unwrap();

        let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
        let found = client.lease_time_to_live(ask).await.unwrap().into_inner();
        assert_eq!((found.id, found.granted_ttl), (7, 60));
        assert!((58..=60).contains(&found.ttl), "{}", found.ttl);
        assert_eq!(found.keys, ["a", "b"].map(Bytes::from));
        let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: false };
        assert!(client.lease_time_to_live(ask).await.unwrap().into_inner().keys.is_empty());

        let leases = client.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner();
        let ids: Vec<_> = leases.leases.iter().map(|lease| lease.id).collect();
        assert_eq!(ids, [8, 7], "what ends first comes first");

        let revoke = pb::LeaseRevokeRequest { id: 7 };
        let revoked = client.lease_revoke(revoke).await.unwrap().into_inner();
        assert_eq!(revoked.header.unwrap().revision, 4);
        assert!(!exists(&core, "a").await && !exists(&core, "b").await);
        let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
        let lost = client.lease_time_to_live(ask).await.unwrap().into_inner();
        assert_eq!((lost.id, lost.ttl, lost.granted_ttl), (7, -1, 0));
    });
}

#[test]
fn refusals_have_etcds_texts() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        client.lease_grant(grant(7, 60)).await.unwrap();
        let exists = client.lease_grant(grant(7, 60)).await.unwrap_err();
        assert_eq!(exists.code(), Code::FailedPrecondition);
        assert_eq!(exists.message(), "etcdserver: lease already exists");
        let too_large = client.lease_grant(grant(9, 9_000_000_001)).await.unwrap_err();
        assert_eq!(too_large.code(), Code::OutOfRange);
        assert_eq!(too_large.message(), "etcdserver: too large lease TTL");
        let unknown = client.lease_revoke(pb::LeaseRevokeRequest { id: 9 }).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        assert_eq!(unknown.message(), "etcdserver: requested lease not found");
        let unattached = attach(&core, "k", 9).await.unwrap_err();
        assert_eq!(unattached.message(), "etcdserver: requested lease not found");
    });
}

#[test]
fn a_short_time_to_live_is_made_longer_and_ids_are_drawn() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        let mut ids = BTreeSet::new();
        for _ in 0..3 {
            let granted = client.lease_grant(grant(0, 0)).await.unwrap().into_inner();
            assert_eq!(granted.ttl, 1, "an election timeout of 100 ms and a half, in seconds");
            assert!(granted.id > 0);
            ids.insert(granted.id);
        }
        assert_eq!(ids.len(), 3);
    });
}

#[test]
fn many_leases_are_kept_alive_on_one_stream_and_a_lost_one_has_no_time() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        client.lease_grant(grant(7, 60)).await.unwrap();
        client.lease_grant(grant(8, 5)).await.unwrap();
        attach(&core, "k", 8).await.unwrap();
        let mut stream = KeepingAlive::open(&core, false).await;
        for id in [7, 8, 9] {
            stream.ask(id).await;
        }
        assert_eq!([stream.ttl().await, stream.ttl().await], [(7, 60), (8, 5)]);
        assert_eq!(stream.ttl().await, (9, 0), "as etcd says that a lease is lost");
        tick(&core, 5_999).await;
        assert!(exists(&core, "k").await);
        stream.ask(8).await;
        assert_eq!(stream.ttl().await, (8, 5));
        tick(&core, 6_000).await;
        assert!(exists(&core, "k").await, "it was renewed");
        tick(&core, 11_999).await;
        assert!(!exists(&core, "k").await);
        stream.ask(8).await;
        assert_eq!(stream.ttl().await, (8, 0));
        drop(stream.requests);
        let end = tokio::time::timeout(PATIENCE, stream.replies.message()).await.unwrap();
        assert_eq!(end.unwrap(), None, "a client that asks no more is answered and let go");
    });
}

#[test]
fn a_stream_that_cannot_renew_ends_with_the_reason() {
    let core = FakeCore::start();
    block_on(async {
        let mut stream = KeepingAlive::open(&core, false).await;
        core.feel(|mood| mood.refuse = Some(RequestError::TimedOut));
        stream.ask(7).await;
        let ended = stream.next().await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable);
        assert_eq!(ended.message(), "etcdserver: request timed out");
    });
}

#[test]
fn a_stream_that_requires_a_leader_ends_without_one() {
    let core = FakeCore::start();
    block_on(async {
        let mut patient = KeepingAlive::open(&core, false).await;
        let mut stream = KeepingAlive::open(&core, true).await;
        core.set_leader(None);
        let ended = stream.next().await.unwrap_err();
        assert_eq!(ended.message(), "etcdserver: no leader");
        core.set_leader(Some(MEMBER));
        patient.ask(7).await;
        assert_eq!(patient.ttl().await, (7, 0));
    });
}

#[test]
fn renewals_that_gather_travel_in_one_entry() {
    let core = FakeCore::start();
    let entries = || core.handle.reader(GroupId::KEYSPACE).unwrap().applied().index;
    block_on(async {
        let mut client = client(&core).await;
        client.lease_grant(grant(7, 60)).await.unwrap();
        let before = entries();
        let renewals = LeaseRenewals::new(core.handle.clone());
        let mut asked = Vec::new();
        for id in 0..1000 {
            // In one go: nothing else runs before the last of them has asked.
            asked.push((id, tokio::task::unconstrained(renewals.renew(id)).await));
        }
        for (id, renewed) in asked {
            assert_eq!(renewed.await.unwrap().unwrap().ttl_s, if id == 7 { 60 } else { 0 });
        }
        assert_eq!(entries() - before, 1);
    });
}

#[test]
fn renewals_beyond_the_bound_wait_for_a_place() {
    let core = FakeCore::start();
    core.feel(|mood| mood.refuse = Some(RequestError::Overloaded));
    block_on(async {
        let renewals = LeaseRenewals::new(core.handle.clone());
        let mut asked = Vec::new();
        for _ in 0..RENEWALS_WAITING_MAX {
            asked.push(renewals.renew(7).await);
        }
        let waits = tokio::time::timeout(Duration::from_millis(100), renewals.renew(8)).await;
        assert!(waits.is_err(), "a place that was not there");
        // Whoever waited for a place and left took none: all are there again.
        core.feel(|mood| mood.refuse = None);
        drop(asked);
        for _ in 0..RENEWALS_WAITING_MAX {
            let place = tokio::time::timeout(PATIENCE, renewals.renew(8)).await;
            drop(place.expect("a place in time"));
        }
    });
}

#[test]
fn an_overloaded_log_is_waited_for() {
    let core = FakeCore::start();
    core.feel(|mood| mood.refuse = Some(RequestError::Overloaded));
    block_on(async {
        client(&core).await.lease_grant(grant(7, 60)).await.unwrap_err();
        let mut stream = KeepingAlive::open(&core, false).await;
        stream.ask(7).await;
        let early = tokio::time::timeout(Duration::from_millis(100), stream.replies.message());
        assert!(early.await.is_err(), "an answer, or an end, while the log is overloaded");
        core.feel(|mood| mood.refuse = None);
        assert_eq!(stream.ttl().await, (7, 0));
    });
}
