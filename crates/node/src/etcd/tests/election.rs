//! Elections over the wire.

use super::fake_core::{FakeCore, block_on};
use crate::etcd::services::etcdserverpb::lease_client::LeaseClient;
use crate::etcd::services::v3electionpb::election_client::ElectionClient;
use bytes::Bytes;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use wire::etcd::pb;
use wire::proto::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
};

/// Longer than any answer takes, shorter than a test may.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Client {
    leases: LeaseClient<Channel>,
    elections: ElectionClient<Channel>,
}

fn election() -> LeaderRequest {
    LeaderRequest { name: Bytes::from("mayor") }
}

impl Client {
    async fn connect(core: &FakeCore) -> Client {
        let channel = core.channel().await;
        let mut leases = LeaseClient::new(channel.clone());
        for id in 1..=3 {
            let _ = leases.lease_grant(pb::LeaseGrantRequest { id, ttl: 60 }).await;
        }
        Client { leases, elections: ElectionClient::new(channel) }
    }

    async fn campaign(&mut self, lease: i64, value: &'static str) -> Result<LeaderKey, Status> {
        let (name, value) = (election().name, Bytes::from(value));
        let request = CampaignRequest { name, lease, value };
        let won = tokio::time::timeout(PATIENCE, self.elections.campaign(request)).await;
        Ok(won.expect("an answer in time")?.into_inner().leader.expect("a leader"))
    }

    async fn proclaim(&mut self, leader: LeaderKey, value: &'static str) -> Result<(), Status> {
        let request = ProclaimRequest { leader: Some(leader), value: Bytes::from(value) };
        self.elections.proclaim(request).await.map(drop)
    }

    async fn resign(&mut self, leader: LeaderKey) {
        let request = ResignRequest { leader: Some(leader) };
        assert!(self.elections.resign(request).await.unwrap().into_inner().header.is_some());
    }

    async fn leader(&mut self) -> Result<String, Status> {
        Ok(value_of(self.elections.leader(election()).await?.into_inner()))
    }
}

fn value_of(response: LeaderResponse) -> String {
    String::from_utf8(response.kv.expect("a leader").value.to_vec()).expect("text")
}

async fn next(stream: &mut Streaming<LeaderResponse>) -> String {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time");
    value_of(next.expect("no error").expect("no end"))
}

#[test]
fn one_leads_proclaims_and_resigns_and_the_next_follows() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        let nobody = client.leader().await.unwrap_err();
        assert_eq!((nobody.code(), nobody.message()), (Code::Unknown, "election: no leader"));

        let first = client.campaign(1, "ada").await.unwrap();
        assert_eq!((&first.name[..], &first.key[..]), (&b"mayor"[..], &b"mayor/1"[..]));
        assert_eq!((first.rev, first.lease), (2, 1));
        assert_eq!(client.leader().await.unwrap(), "ada");
        client.proclaim(first.clone(), "ada again").await.unwrap();
        assert_eq!(client.leader().await.unwrap(), "ada again");
        // Campaigning anew under the same lease is a proclamation.
        let again = client.campaign(1, "ada still").await.unwrap();
        assert_eq!(again.rev, first.rev);
        assert_eq!(client.leader().await.unwrap(), "ada still");

        let mut rival = client.clone();
        let second = tokio::spawn(async move { rival.campaign(2, "bob").await });
        client.resign(first.clone()).await;
        let second = second.await.unwrap().unwrap();
        assert!(second.rev > first.rev, "the fencing token grows");
        assert_eq!(client.leader().await.unwrap(), "bob");
        let late = client.proclaim(first.clone(), "too late").await.unwrap_err();
        assert_eq!((late.code(), late.message()), (Code::Unknown, "election: not leader"));
        client.resign(first).await;
        assert_eq!(client.leader().await.unwrap(), "bob", "who led once resigns nobody else");
    });
}

#[test]
fn a_candidate_whose_lease_is_revoked_does_not_win() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        client.campaign(1, "ada").await.unwrap();
        let mut rival = client.clone();
        let waiting = tokio::spawn(async move { rival.campaign(2, "bob").await });
        while !waiting.is_finished() {
            // Once it stands in line; before that, its campaign names a lease that is not there.
            let _ = client.leases.lease_revoke(pb::LeaseRevokeRequest { id: 2 }).await;
        }
        let lost = waiting.await.unwrap().unwrap_err();
        let texts = ["election: not leader", "etcdserver: requested lease not found"];
        assert!(texts.contains(&lost.message()), "{lost}");
        assert_eq!(client.leader().await.unwrap(), "ada");
    });
}

#[test]
fn a_request_names_its_leader() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        let nameless = ProclaimRequest { leader: None, value: Bytes::new() };
        let refused = client.elections.proclaim(nameless).await.unwrap_err();
        assert_eq!(refused.message(), "\"leader\" field must be provided");
        let refused = client.elections.resign(ResignRequest { leader: None }).await.unwrap_err();
        assert_eq!(refused.message(), "\"leader\" field must be provided");
    });
}

#[test]
fn observers_hear_of_every_leader_and_of_what_they_proclaim() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        let mut heard = client.elections.observe(election()).await.unwrap().into_inner();
        let first = client.campaign(1, "ada").await.unwrap();
        assert_eq!(next(&mut heard).await, "ada");
        client.proclaim(first.clone(), "ada again").await.unwrap();
        assert_eq!(next(&mut heard).await, "ada again");
        let mut late = client.elections.observe(election()).await.unwrap().into_inner();
        assert_eq!(next(&mut late).await, "ada again", "the latest first");
        client.resign(first).await;
        client.campaign(2, "bob").await.unwrap();
        assert_eq!(next(&mut heard).await, "bob");
        assert_eq!(next(&mut late).await, "bob");
    });
}
