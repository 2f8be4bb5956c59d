//! Watch over the wire.

use super::fake_core::{CLUSTER, FakeCore, TERM, block_on};
use crate::etcd::services::etcdserverpb::kv_client::KvClient;
use crate::etcd::services::etcdserverpb::watch_client::WatchClient;
use bytes::Bytes;
use clocks::GroupId;
use pb::watch_request::RequestUnion;
use std::time::Duration;
use store::WatchLimits;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use wire::etcd::mvccpb::event::EventType;
use wire::etcd::pb;
use wire::etcd::pb::watch_create_request::FilterType;

/// Longer than any answer takes, shorter than a test may.
const PATIENCE: Duration = Duration::from_secs(20);

/// A watch stream of a client, and its KV side.
struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    keyspace: KvClient<Channel>,
}

impl Watching {
    async fn open(core: &FakeCore) -> Watching {
        Watching::open_with(core, |_| {}).await
    }

    async fn open_with(
        core: &FakeCore,
        change: impl FnOnce(&mut Request<ReceiverStream<pb::WatchRequest>>),
    ) -> Watching {
        let (requests, receiver) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(receiver));
        change(&mut request);
        let channel = core.channel().await;
        let responses = WatchClient::new(channel.clone()).watch(request).await.unwrap();
        let keyspace = KvClient::new(channel);
        Watching { requests, responses: responses.into_inner(), keyspace }
    }

    async fn ask(&self, union: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(union) };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(create)).await;
        self.next().await
    }

    async fn next(&mut self) -> pb::WatchResponse {
        self.result().await.expect("no error").expect("no end")
    }

    async fn result(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        next.expect("an answer in time")
    }

    async fn put(&mut self, key: &str, value: &str) -> i64 {
        let put = pb::PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..Default::default()
        };
        self.keyspace.put(put).await.unwrap().into_inner().header.unwrap().revision
    }

    async fn delete(&mut self, key: &'static str) {
        let delete = pb::DeleteRangeRequest { key: Bytes::from(key), ..Default::default() };
        self.keyspace.delete_range(delete).await.unwrap();
    }
}

fn watch(key: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: Bytes::from(key), ..Default::default() }
}

fn watch_all() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { range_end: Bytes::from("\0"), ..watch("\0") }
}

#[test]
fn a_watch_is_created_hears_of_changes_and_is_canceled() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        client.put("k", "before").await;
        let created = client.create(watch("k")).await;
        assert!(created.created && !created.canceled);
        let header = created.header.unwrap();
        assert_eq!((header.cluster_id, header.raft_term, header.revision), (CLUSTER, TERM.0, 2));

        client.put("other", "unheard").await;
        client.put("k", "heard").await;
        let heard = client.next().await;
        assert_eq!((heard.watch_id, heard.events.len()), (created.watch_id, 1));
        assert_eq!(heard.header.unwrap().revision, 4);
        assert_eq!(&heard.events[0].kv.as_ref().unwrap().value[..], b"heard");

        let cancel = pb::WatchCancelRequest { watch_id: created.watch_id };
        client.ask(RequestUnion::CancelRequest(cancel)).await;
        let canceled = client.next().await;
        assert!(canceled.canceled && !canceled.created);
        assert_eq!(canceled.watch_id, created.watch_id);
    });
}

#[test]
fn a_watch_from_the_past_hears_history_in_order_then_what_follows() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        for value in ["2", "3", "4"] {
            client.put("k", value).await;
        }
        client.create(pb::WatchCreateRequest { start_revision: 3, ..watch("k") }).await;
        client.put("k", "5").await;
        let mut revisions = Vec::new();
        while revisions.len() < 3 {
            let heard = client.next().await;
            let kvs = heard.events.iter().map(|event| event.kv.as_ref().unwrap());
            revisions.extend(kvs.map(|pair| pair.mod_revision));
        }
        assert_eq!(revisions, [3, 4, 5]);
    });
}

#[test]
fn a_watch_of_a_compacted_revision_is_canceled_with_that_revision() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        for value in ["2", "3", "4"] {
            client.put("k", value).await;
        }
        let compact = pb::CompactionRequest { revision: 4, physical: true };
        client.keyspace.compact(compact).await.unwrap();
        let first = client.create(pb::WatchCreateRequest { start_revision: 2, ..watch("k") }).await;
        assert!(first.created);
        let last = client.next().await;
        assert!(last.canceled);
        assert_eq!(last.compact_revision, 4);
    });
}

#[test]
fn a_rejected_watch_is_created_and_canceled_with_id_minus_one() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        let negative = pb::WatchCreateRequest { start_revision: -1, ..watch("k") };
        let rejected = client.create(negative).await;
        assert!(rejected.created && rejected.canceled);
        assert_eq!(rejected.watch_id, -1);
        let reason = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(rejected.cancel_reason, reason);

        let chosen = pb::WatchCreateRequest { watch_id: 7, ..watch("k") };
        assert_eq!(client.create(chosen.clone()).await.watch_id, 7);
        let twice = client.create(chosen).await;
        assert!(twice.created && twice.canceled);
        assert_eq!(twice.watch_id, -1);
        let reason = "mvcc: duplicate watch ID provided on the WatchStream";
        assert_eq!(twice.cancel_reason, reason);

        let empty = pb::WatchCreateRequest { range_end: Bytes::from("a"), ..watch("k") };
        assert_eq!(client.create(empty).await.cancel_reason, "mvcc: watcher range is empty");
    });
}

#[test]
fn filters_and_previous_versions_are_as_asked() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        let deletes = pb::WatchCreateRequest {
            filters: vec![FilterType::Noput as i32],
            prev_kv: true,
            ..watch("k")
        };
        client.create(deletes).await;
        client.put("k", "v").await;
        client.delete("k").await;
        let heard = client.next().await;
        assert_eq!(heard.events.len(), 1);
        let event = &heard.events[0];
        assert_eq!(event.r#type, EventType::Delete as i32);
        assert_eq!(&event.prev_kv.as_ref().unwrap().value[..], b"v");
        assert_eq!(event.kv.as_ref().unwrap().mod_revision, 3);
    });
}

#[test]
fn progress_on_demand_comes_for_the_whole_stream_and_never_ahead_of_events() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        client.create(watch_all()).await;
        let mut heard = 1;
        for round in 0..50 {
            let revision = client.put("k", "v").await;
            client.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
            loop {
                let response = client.next().await;
                if response.watch_id == -1 {
                    let progress = response.header.unwrap().revision;
                    assert!(progress <= heard, "round {round}: {progress} before its events");
                    assert!(response.events.is_empty());
                    break;
                }
                for event in &response.events {
                    let next = event.kv.as_ref().unwrap().mod_revision;
                    assert_eq!(next, heard + 1, "lost, repeated or out of order");
                    heard = next;
                }
            }
            assert_eq!(heard, revision);
        }
    });
}

#[test]
fn ten_thousand_watches_on_one_stream_all_hear() {
    const WATCHES: usize = 10_000;
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        let requests = client.requests.clone();
        let creating = tokio::spawn(async move {
            for _ in 0..WATCHES {
                let union = Some(RequestUnion::CreateRequest(watch("k")));
                let request = pb::WatchRequest { request_union: union };
                requests.send(request).await.expect("the stream is open");
            }
        });
        let mut ids = std::collections::BTreeSet::new();
        while ids.len() < WATCHES {
            let created = client.next().await;
            assert!(created.created && !created.canceled, "{created:?}");
            assert!(ids.insert(created.watch_id));
        }
        creating.await.expect("it asked for all");
        client.put("k", "v").await;
        while !ids.is_empty() {
            let heard = client.next().await;
            assert_eq!(heard.events.len(), 1);
            assert!(ids.remove(&heard.watch_id), "watch {} heard twice", heard.watch_id);
        }
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_only_itself() {
    let core = FakeCore::start();
    block_on(async {
        let mut slow = Watching::open(&core).await;
        let mut quick = Watching::open(&core).await;
        slow.create(watch_all()).await;
        quick.create(watch_all()).await;
        let value = "v".repeat(256 * 1024);
        let last = 1 + 64;
        // 16 MiB: far above what transport and hub hold for one stream.
        for revision in 2..=last {
            assert_eq!(quick.put("k", &value).await, revision);
            let heard = quick.next().await;
            assert_eq!(heard.header.unwrap().revision, revision);
        }
        let held = core.handle.shared.watches.stats().outstanding_bytes;
        let bound = WatchLimits::default().stream_bytes_max + value.len() + 1024;
        assert!(held <= bound, "{held} bytes are held for a client that does not read");
        // Reading on, the slow one gets everything, in order and once.
        let mut next = 2;
        while next <= last {
            for event in slow.next().await.events {
                assert_eq!(event.kv.unwrap().mod_revision, next);
                next += 1;
            }
        }
    });
}

#[test]
fn a_transaction_larger_than_a_response_comes_in_fragments_if_asked() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        client.create(pb::WatchCreateRequest { fragment: true, ..watch_all() }).await;
        let value = Bytes::from(vec![7; 16 * 1024]);
        let puts = (0..80).map(|number| {
            let key = Bytes::from(format!("k{number:02}"));
            let put = pb::PutRequest { key, value: value.clone(), ..Default::default() };
            pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
        });
        let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
        client.keyspace.txn(txn).await.unwrap();
        let (mut parts, mut events) = (0, 0);
        loop {
            let part = client.next().await;
            assert_eq!(part.header.unwrap().revision, 2);
            parts += 1;
            events += part.events.len();
            if !part.fragment {
                break;
            }
        }
        assert_eq!(events, 80);
        assert!(parts > 1, "1.25 MiB came in one response");
    });
}

#[test]
fn a_stream_that_requires_a_leader_ends_when_there_is_none() {
    let core = FakeCore::start();
    block_on(async {
        let require = |request: &mut Request<ReceiverStream<pb::WatchRequest>>| {
            request.metadata_mut().insert("hasleader", "true".parse().unwrap());
        };
        let mut strict = Watching::open_with(&core, require).await;
        let mut patient = Watching::open(&core).await;
        strict.create(watch("k")).await;
        patient.create(watch("k")).await;
        core.set_leader(None);
        let ended = strict.result().await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable);
        assert_eq!(ended.message(), "etcdserver: no leader");
        patient.put("k", "v").await;
        assert_eq!(patient.next().await.events.len(), 1);
    });
}

#[test]
fn a_stream_that_is_opened_between_two_leaders_is_served() {
    let core = FakeCore::start();
    block_on(async {
        let leader = core.handle.leader(GroupId::KEYSPACE);
        assert!(leader.is_some());
        core.set_leader(None);
        let require = |request: &mut Request<ReceiverStream<pb::WatchRequest>>| {
            request.metadata_mut().insert("hasleader", "true".parse().unwrap());
        };
        let mut client = Watching::open_with(&core, require).await;
        core.set_leader(leader);
        client.create(watch("k")).await;
        client.put("k", "v").await;
        assert_eq!(client.next().await.events.len(), 1);
    });
}

#[test]
fn a_client_that_stops_asking_is_served_on() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        client.create(watch("k")).await;
        client.requests = mpsc::channel(1).0;
        client.put("k", "v").await;
        assert_eq!(client.next().await.events.len(), 1);
    });
}

#[test]
fn streams_end_when_the_node_stops() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = Watching::open(&core).await;
        client.create(watch("k")).await;
        core.handle.shared.stopping.send_replace(true);
        let ended = client.result().await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable);
    });
}
