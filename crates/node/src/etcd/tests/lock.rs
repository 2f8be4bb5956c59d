//! Locks over the wire; and why a lock without a fence is not a lock (docs/locks.md).

use super::fake_core::{FakeCore, block_on};
use crate::etcd::services::etcdserverpb::kv_client::KvClient;
use crate::etcd::services::etcdserverpb::lease_client::LeaseClient;
use crate::etcd::services::v3lockpb::lock_client::LockClient;
use bytes::Bytes;
use clocks::GroupId;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use std::time::Duration;
use store::command::Command;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use wire::etcd::pb;
use wire::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};

/// Longer than any answer takes, shorter than a test may.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client with its own connection.
#[derive(Clone)]
struct Client {
    keyspace: KvClient<Channel>,
    leases: LeaseClient<Channel>,
    locks: LockClient<Channel>,
}

impl Client {
    async fn connect(core: &FakeCore) -> Client {
        let channel = core.channel().await;
        Client {
            keyspace: KvClient::new(channel.clone()),
            leases: LeaseClient::new(channel.clone()),
            locks: LockClient::new(channel),
        }
    }

    async fn grant(&mut self, id: i64, ttl: i64) {
        self.leases.lease_grant(pb::LeaseGrantRequest { id, ttl }).await.unwrap();
    }

    async fn lock(&mut self, lease: i64) -> Result<LockResponse, Status> {
        let request = LockRequest { name: Bytes::from("lock"), lease };
        let locked = tokio::time::timeout(PATIENCE, self.locks.lock(request)).await;
        Ok(locked.expect("an answer in time")?.into_inner())
    }

    /// Waits in line beside the test.
    fn start_lock(&self, lease: i64) -> JoinHandle<Result<LockResponse, Status>> {
        let mut client = self.clone();
        tokio::spawn(async move { client.lock(lease).await })
    }

    async fn unlock(&mut self, key: Bytes) {
        self.locks.unlock(UnlockRequest { key }).await.unwrap();
    }

    /// The keys that stand in line.
    async fn line(&mut self) -> Vec<String> {
        let (key, range_end) = (Bytes::from("lock/"), Bytes::from("lock0"));
        let range = pb::RangeRequest { key, range_end, ..Default::default() };
        let found = self.keyspace.range(range).await.unwrap().into_inner();
        let text = |pair: wire::etcd::mvccpb::KeyValue| String::from_utf8(pair.key.to_vec());
        found.kvs.into_iter().map(|pair| text(pair).expect("text")).collect()
    }

    /// Returns once so many stand in line.
    async fn line_of(&mut self, length: usize) {
        let grown = async {
            while self.line().await.len() != length {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, grown).await.expect("in time");
    }

    async fn count(&mut self) -> i64 {
        let get = pb::RangeRequest { key: Bytes::from("count"), ..Default::default() };
        let found = self.keyspace.range(get).await.unwrap().into_inner();
        let digits = found.kvs.first().map_or("0", |pair| str::from_utf8(&pair.value).unwrap());
        digits.parse().expect("a number")
    }
}

fn put_count(count: i64) -> pb::PutRequest {
    let (key, value) = (Bytes::from("count"), Bytes::from(count.to_string()));
    pb::PutRequest { key, value, ..Default::default() }
}

/// Sets the count only while the lock's key is the one that was created with this lock.
fn put_count_fenced(lock: &LockResponse, created: i64, count: i64) -> pb::TxnRequest {
    let held = pb::Compare {
        key: lock.key.clone(),
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        target_union: Some(TargetUnion::CreateRevision(created)),
        ..Default::default()
    };
    let put = pb::request_op::Request::RequestPut(put_count(count));
    pb::TxnRequest {
        compare: vec![held],
        success: vec![pb::RequestOp { request: Some(put) }],
        failure: Vec::new(),
    }
}

/// As the leader of a real core does when time passes.
async fn tick(core: &FakeCore, clock_ms: u64) {
    let command = Command::LeaseTick { clock_ms, revoke_max: 1000 };
    core.handle.write(GroupId::KEYSPACE, command, PATIENCE).await.unwrap();
}

#[test]
fn a_free_lock_is_had_at_once_and_again_by_the_same_lease() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        client.grant(0x2a, 60).await;
        let locked = client.lock(0x2a).await.unwrap();
        assert_eq!(&locked.key[..], b"lock/2a", "where etcd's clients look for it");
        assert_eq!(locked.header.unwrap().revision, 2);
        let again = client.lock(0x2a).await.unwrap();
        assert_eq!(again.key, locked.key);
        client.unlock(locked.key).await;
        assert!(client.line().await.is_empty());
    });
}

#[test]
fn who_waits_gets_the_lock_in_the_order_of_asking_with_growing_revisions() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        for lease in 1..=3 {
            client.grant(lease, 60).await;
        }
        let first = client.lock(1).await.unwrap();
        let second = client.start_lock(2);
        client.line_of(2).await;
        let third = client.start_lock(3);
        client.line_of(3).await;
        client.unlock(first.key).await;
        let second = second.await.unwrap().unwrap();
        assert_eq!(&second.key[..], b"lock/2");
        assert!(!third.is_finished());
        client.unlock(second.key).await;
        let third = third.await.unwrap().unwrap();
        let tokens = [first.header, second.header, third.header].map(|header| header.unwrap());
        assert!(tokens.is_sorted_by(|a, b| a.revision < b.revision));
    });
}

#[test]
fn a_lock_whose_lease_ends_passes_on() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        client.grant(1, 5).await;
        client.grant(2, 60).await;
        client.lock(1).await.unwrap();
        let second = client.start_lock(2);
        client.line_of(2).await;
        tick(&core, 6_000).await;
        assert_eq!(&second.await.unwrap().unwrap().key[..], b"lock/2");
    });
}

#[test]
fn a_lease_is_needed_and_one_that_ends_while_waiting_ends_the_wait() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        let unknown = client.lock(9).await.unwrap_err();
        assert_eq!(unknown.message(), "etcdserver: requested lease not found");
        client.grant(1, 60).await;
        client.grant(2, 5).await;
        client.lock(1).await.unwrap();
        let second = client.start_lock(2);
        client.line_of(2).await;
        tick(&core, 6_000).await;
        let lost = second.await.unwrap().unwrap_err();
        assert_eq!((lost.code(), lost.message()), (Code::Unknown, "mutex: session is expired"));
        // Without a lease, one that lives for a minute.
        client.unlock(Bytes::from("lock/1")).await;
        let locked = client.lock(0).await.unwrap();
        assert_ne!(&locked.key[..], b"lock/0");
    });
}

#[test]
fn a_caller_who_leaves_leaves_the_line() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        for lease in 1..=3 {
            client.grant(lease, 60).await;
        }
        let first = client.lock(1).await.unwrap();
        let second = client.start_lock(2);
        client.line_of(2).await;
        let third = client.start_lock(3);
        client.line_of(3).await;
        second.abort();
        client.line_of(2).await;
        assert_eq!(client.line().await, ["lock/1", "lock/3"]);
        client.unlock(first.key).await;
        assert!(third.await.unwrap().is_ok(), "it waited for one that is gone");
    });
}

#[test]
fn a_caller_whose_time_is_over_leaves_the_line() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Client::connect(&core).await;
        client.grant(1, 60).await;
        client.grant(2, 60).await;
        client.lock(1).await.unwrap();
        let mut request = Request::new(LockRequest { name: Bytes::from("lock"), lease: 2 });
        request.metadata_mut().insert("grpc-timeout", "50m".parse().expect("ascii"));
        let late = client.locks.lock(request).await.unwrap_err();
        // Whichever of the two notices first: the client hangs up, or the member says so.
        assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&late.code()), "{late}");
        client.line_of(1).await;
    });
}

/// One client reads under its lock, is paused for longer than its lease lives, and then writes what
/// it computed. Meanwhile another has had the lock, and has written.
async fn paused_holder(core: &FakeCore) -> (Client, LockResponse, i64) {
    let mut paused = Client::connect(core).await;
    let mut other = Client::connect(core).await;
    paused.grant(1, 5).await;
    other.grant(2, 60).await;
    let lock = paused.lock(1).await.unwrap();
    let stale = paused.count().await;
    // Here it sleeps: a long collection of garbage, a suspended machine, a slow disk.
    tick(core, 6_000).await;
    let theirs = other.lock(2).await.unwrap();
    let count = other.count().await;
    other.keyspace.put(put_count(count + 1)).await.unwrap();
    other.unlock(theirs.key).await;
    (paused, lock, stale)
}

#[test]
fn an_unfenced_client_loses_an_update() {
    let core = FakeCore::start();
    block_on(async {
        let (mut paused, _, stale) = paused_holder(&core).await;
        // It awakes, believes that it has the lock, and writes.
        paused.keyspace.put(put_count(stale + 1)).await.unwrap();
        assert_eq!(paused.count().await, 1, "two increments, and one of them is lost");
    });
}

#[test]
fn a_fenced_client_does_not_lose_an_update() {
    let core = FakeCore::start();
    block_on(async {
        let (mut paused, lock, stale) = paused_holder(&core).await;
        let created = lock.header.as_ref().unwrap().revision;
        let late = put_count_fenced(&lock, created, stale + 1);
        assert!(!paused.keyspace.txn(late).await.unwrap().into_inner().succeeded);
        // It is told, takes the lock anew, and reads anew.
        paused.grant(3, 60).await;
        let lock = paused.lock(3).await.unwrap();
        let created = lock.header.as_ref().unwrap().revision;
        let count = paused.count().await;
        let fenced = put_count_fenced(&lock, created, count + 1);
        assert!(paused.keyspace.txn(fenced).await.unwrap().into_inner().succeeded);
        assert_eq!(paused.count().await, 2, "both increments are there");
    });
}
