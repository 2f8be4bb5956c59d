//! KV over the wire.

use super::fake_core::{CLUSTER, FakeCore, MEMBER, TERM, block_on};
use crate::etcd::authentication::{AuthSettings, Authentication};
use crate::etcd::dispatch::Dispatch;
use crate::etcd::keyspace_service::{KeyspaceService, ReadSize};
use crate::etcd::limits::LARGE_READS;
use crate::etcd::services::etcdserverpb::kv_client::KvClient;
use bytes::Bytes;
use replica::RequestError;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request};
use wire::etcd::keyspace_request::Consistency;
use wire::etcd::pb;

async fn client(core: &FakeCore) -> KvClient<Channel> {
    KvClient::new(core.channel().await)
}

pub(super) fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn everything() -> pb::RangeRequest {
    pb::RangeRequest { range_end: Bytes::from_static(b"\0"), ..get("\0") }
}

#[test]
fn a_put_is_read_back_with_its_revisions_and_a_full_header() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        let written = client.put(put("k", "v1")).await.unwrap().into_inner();
        let header = written.header.unwrap();
        assert_eq!((header.cluster_id, header.member_id), (CLUSTER, MEMBER.0));
        assert_eq!((header.revision, header.raft_term), (2, TERM.0));

        let again = pb::PutRequest { prev_kv: true, ..put("k", "v2") };
        let previous = client.put(again).await.unwrap().into_inner().prev_kv.unwrap();
        assert_eq!(&previous.value[..], b"v1");

        let read = client.range(get("k")).await.unwrap().into_inner();
        let pair = &read.kvs[0];
        assert_eq!((pair.create_revision, pair.mod_revision, pair.version), (2, 3, 2));
        assert_eq!(&pair.value[..], b"v2");

        let old = pb::RangeRequest { revision: 2, ..get("k") };
        let old = client.range(old).await.unwrap().into_inner();
        assert_eq!(&old.kvs[0].value[..], b"v1");
        assert_eq!(old.header.unwrap().revision, 3);
    });
}

#[test]
fn a_range_of_all_keys_is_counted_limited_and_sorted() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        for number in 0..300 {
            client.put(put(&format!("k{number:03}"), "v")).await.unwrap();
        }
        let all = client.range(everything()).await.unwrap().into_inner();
        assert_eq!((all.kvs.len(), all.count, all.more), (300, 300, false));
        let limited = pb::RangeRequest {
            limit: 2,
            sort_order: pb::range_request::SortOrder::Descend as i32,
            ..everything()
        };
        let limited = client.range(limited).await.unwrap().into_inner();
        assert_eq!((limited.kvs.len(), limited.count, limited.more), (2, 300, true));
        assert_eq!(&limited.kvs[0].key[..], b"k299");
        let count = pb::RangeRequest { count_only: true, ..everything() };
        let count = client.range(count).await.unwrap().into_inner();
        assert_eq!((count.kvs.len(), count.count), (0, 300));
    });
}

#[test]
fn a_transaction_compares_branches_and_answers_each_step() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        let compare = pb::Compare {
            target: pb::compare::CompareTarget::Create as i32,
            key: Bytes::from("k"),
            ..Default::default()
        };
        let step = |request| pb::RequestOp { request: Some(request) };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![step(pb::request_op::Request::RequestPut(put("k", "v")))],
            failure: vec![step(pb::request_op::Request::RequestRange(get("k")))],
        };
        let first = client.txn(txn.clone()).await.unwrap().into_inner();
        assert!(first.succeeded);
        let second = client.txn(txn).await.unwrap().into_inner();
        assert!(!second.succeeded);
        let Some(pb::response_op::Response::ResponseRange(range)) = &second.responses[0].response
        else {
            panic!("{second:?}")
        };
        assert_eq!(&range.kvs[0].value[..], b"v");

        // It only reads, so that it takes no place in the log.
        let applied = core.handle.applied(clocks::GroupId::KEYSPACE);
        let reads = pb::TxnRequest {
            success: vec![step(pb::request_op::Request::RequestRange(get("k")))],
            ..Default::default()
        };
        let reads = client.txn(reads).await.unwrap().into_inner();
        assert_eq!((reads.succeeded, reads.header.unwrap().revision), (true, 2));
        assert_eq!(core.handle.applied(clocks::GroupId::KEYSPACE), applied);
    });
}

#[test]
fn compacted_and_future_revisions_are_refused_in_etcds_words() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        for value in ["1", "2", "3"] {
            client.put(put("k", value)).await.unwrap();
        }
        let compact = |revision| pb::CompactionRequest { revision, physical: false };
        client.compact(compact(3)).await.unwrap();
        let at = |revision| pb::RangeRequest { revision, ..get("k") };
        let refused = client.range(at(2)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        assert_eq!(refused.message(), "etcdserver: mvcc: required revision has been compacted");
        let refused = client.range(at(99)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        assert_eq!(refused.message(), "etcdserver: mvcc: required revision is a future revision");
        let refused = client.compact(compact(3)).await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: mvcc: required revision has been compacted");
        let refused = client.compact(compact(99)).await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: mvcc: required revision is a future revision");
    });
}

#[test]
fn a_delete_says_how_many_and_which() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        client.put(put("a", "1")).await.unwrap();
        client.put(put("b", "2")).await.unwrap();
        let delete = pb::DeleteRangeRequest {
            key: Bytes::from("a"),
            range_end: Bytes::from("c"),
            prev_kv: true,
        };
        let deleted = client.delete_range(delete).await.unwrap().into_inner();
        assert_eq!((deleted.deleted, deleted.prev_kvs.len()), (2, 2));
        assert_eq!(client.range(everything()).await.unwrap().into_inner().count, 0);
    });
}

#[test]
fn refusals_of_the_core_have_etcds_codes_and_texts() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        for (error, code, text) in [
            (RequestError::Overloaded, Code::ResourceExhausted, "etcdserver: too many requests"),
            (
                RequestError::NoSpace,
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            (RequestError::TimedOut, Code::Unavailable, "etcdserver: request timed out"),
            (
                RequestError::OutcomeUnknown,
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
            ),
            (RequestError::Stopping, Code::Unavailable, "etcdserver: server stopped"),
        ] {
            core.feel(|mood| mood.refuse = Some(error));
            let refused = client.put(put("k", "v")).await.unwrap_err();
            assert_eq!((refused.code(), refused.message()), (code, text));
            let refused = client.range(get("k")).await.unwrap_err();
            assert_eq!((refused.code(), refused.message()), (code, text));
        }
        let serializable = pb::RangeRequest { serializable: true, ..get("k") };
        assert!(client.range(serializable).await.is_ok(), "it asks nobody");
    });
}

#[test]
fn a_deadline_travels_with_its_request() {
    let core = FakeCore::start();
    block_on(async {
        // Without a channel between: its own deadline would hide the server's answer.
        let authentication = Authentication::new(&AuthSettings::default()).expect("randomness");
        let dispatch = Dispatch::new(core.handle.clone(), Arc::default(), Arc::new(authentication));
        let mut client = KvClient::new(dispatch);
        core.feel(|mood| mood.silent = true);
        let mut request = Request::new(put("k", "v"));
        request.set_timeout(Duration::from_millis(20));
        let answer = tokio::time::timeout(Duration::from_secs(3), client.put(request)).await;
        let refused = answer.expect("long before etcd's own seven seconds").unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded);
        assert_eq!(refused.message(), "etcdserver: context deadline exceeded");
    });
}

#[test]
fn who_requires_a_leader_gets_no_answer_without_one() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = client(&core).await;
        let with_leader = || {
            let mut request = Request::new(pb::RangeRequest { serializable: true, ..get("k") });
            request.metadata_mut().insert("hasleader", "true".parse().unwrap());
            request
        };
        assert!(client.range(with_leader()).await.is_ok());
        core.set_leader(None);
        let refused = client.range(with_leader()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert_eq!(refused.message(), "etcdserver: no leader");
        let without = pb::RangeRequest { serializable: true, ..get("k") };
        assert!(client.range(without).await.is_ok());
    });
}

#[test]
fn a_large_read_waits_for_its_turn_no_longer_than_its_call() {
    let core = FakeCore::start();
    block_on(async {
        let service = KeyspaceService::new(core.handle.clone());
        let all = u32::try_from(LARGE_READS).expect("few");
        let others = service.large_reads.acquire_many(all).await.expect("it is open");
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "20m".parse().expect("ascii"));
        let deadline = service.deadline(&metadata);
        let read = |deadline| service.read(deadline, |_| Ok(ReadSize::Large), |_| Ok(Ok(())));
        let refused = tokio::time::timeout(Duration::from_secs(3), read(deadline)).await;
        let refused = refused.expect("long before etcd's own seven seconds").unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded, "it was the client's own");
        let spent = service.deadline(&MetadataMap::new()).after(Duration::from_secs(60));
        let refused = read(spent).await.expect_err("no time is left");
        assert_eq!(refused.message(), "etcdserver: too many requests");
        drop(others);
        read(deadline).await.expect("there is a place again");
    });
}

#[test]
fn what_one_step_of_a_call_has_spent_the_next_one_lacks() {
    let core = FakeCore::start();
    block_on(async {
        let service = KeyspaceService::new(core.handle.clone());
        let deadline = service.deadline(&MetadataMap::new());
        let left = service.settle(deadline, Consistency::Linearizable).await.expect("it leads");
        assert!(left.timeout < deadline.timeout);
        let left = service.settle(deadline, Consistency::Serializable).await.expect("local");
        assert_eq!(left, deadline, "nobody was asked");
    });
}

#[test]
fn a_large_read_whose_caller_has_left_keeps_its_permit() {
    let core = FakeCore::start();
    block_on(async {
        let service = KeyspaceService::new(core.handle.clone());
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let read = move |_: &store::Reader| {
            begin.send(()).expect("somebody waits");
            released.recv().expect_err("nothing is said");
            Ok(Ok(()))
        };
        let deadline = service.deadline(&MetadataMap::new());
        tokio::select! {
            _ = service.read(deadline, |_| Ok(ReadSize::Large), read) => panic!("it ends early"),
            begun = begun => begun.expect("it begins"),
        }
        assert_eq!(service.large_reads.available_permits(), LARGE_READS - 1);
        drop(release);
        let all = u32::try_from(LARGE_READS).expect("few");
        drop(service.large_reads.acquire_many(all).await.expect("it is open"));
    });
}
