//! Backups and other operations over the wire.

use super::fake_core::{FakeCore, MEMBER, block_on};
use crate::BackupFile;
use crate::etcd::services::etcdserverpb::kv_client::KvClient;
use crate::etcd::services::etcdserverpb::maintenance_client::MaintenanceClient;
use bytes::Bytes;
use tonic::Code;
use tonic::transport::Channel;
use wire::etcd::pb;

async fn put(channel: &Channel, key: String, value: Vec<u8>) {
    let (key, value) = (Bytes::from(key), Bytes::from(value));
    let request = pb::PutRequest { key, value, ..pb::PutRequest::default() };
    KvClient::new(channel.clone()).put(request).await.expect("put");
}

async fn saved(channel: &Channel) -> Vec<u8> {
    let mut client = MaintenanceClient::new(channel.clone());
    let mut stream = client.snapshot(pb::SnapshotRequest {}).await.expect("accepted").into_inner();
    let (mut file, mut remaining) = (Vec::new(), None);
    while let Some(part) = stream.message().await.expect("a part") {
        file.extend_from_slice(&part.blob);
        assert_eq!(part.version, "3.6.0");
        let said = file.len() as u64 + part.remaining_bytes;
        assert_eq!(*remaining.get_or_insert(said), said, "it says how much is still to come");
    }
    assert_eq!(remaining, Some(file.len() as u64));
    file
}

#[test]
fn a_snapshot_that_a_client_saves_is_a_backup() {
    let core = FakeCore::start();
    block_on(async {
        let channel = core.channel().await;
        for number in 0..40 {
            put(&channel, format!("k{number}"), vec![7; 20_000]).await;
        }
        let file = saved(&channel).await;
        assert_eq!(file.len() % 512, 32);
        assert_eq!(file, saved(&channel).await);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("saved");
        std::fs::write(&path, file).expect("written");
        let backup = BackupFile::check(&path).expect("it is whole");
        assert_eq!(backup.description().member, MEMBER);
        assert_eq!((backup.summary().keys, backup.summary().revision), (40, 41));
    });
}

#[test]
fn a_client_is_not_told_that_it_has_all_if_the_node_stops() {
    let core = FakeCore::start();
    block_on(async {
        let channel = core.channel().await;
        for number in 0..40 {
            put(&channel, format!("k{number}"), vec![7; 500_000]).await;
        }
        let mut client = MaintenanceClient::new(channel);
        let request = client.snapshot(pb::SnapshotRequest {});
        let mut stream = request.await.expect("accepted").into_inner();
        stream.message().await.expect("a part").expect("more than one");
        core.handle.shared.stopping.send_replace(true);
        let end = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        let refused = end.expect_err("what has been read is not all");
        assert_eq!(refused.code(), Code::Unavailable);
    });
}

#[test]
fn a_range_stream_waits_for_its_turn_no_longer_than_its_client() {
    use crate::etcd::keyspace_service::KeyspaceService;
    use crate::etcd::services::etcdserverpb::kv_server::Kv;
    let core = FakeCore::start();
    block_on(async {
        let service = KeyspaceService::new(core.handle.clone());
        let turns = u32::try_from(service.range_streams.available_permits()).expect("few");
        let others = service.range_streams.try_acquire_many(turns).expect("nobody reads");
        let mut request = tonic::Request::new(everything());
        request.set_timeout(std::time::Duration::from_millis(10));
        let refused = service.range_stream(request).await.err().expect("no turn");
        assert_eq!(refused.code(), Code::DeadlineExceeded);
        drop(others);
        service.range_stream(tonic::Request::new(everything())).await.expect("a turn");
    });
}

/// A range as its parts say it, put together, and how many there were.
async fn streamed(channel: &Channel, request: pb::RangeRequest) -> (pb::RangeResponse, usize) {
    let mut client = KvClient::new(channel.clone());
    let mut stream = client.range_stream(request).await.expect("accepted").into_inner();
    let (mut whole, mut parts) = (pb::RangeResponse::default(), 0);
    while let Some(part) = stream.message().await.expect("a part") {
        assert!(whole.header.is_none(), "only the last part has a header");
        let part = part.range_response.expect("every part has one");
        if part.header.is_none() {
            assert!(!part.more && part.count == 0, "only the last part says how many");
        }
        parts += 1;
        whole.kvs.extend(part.kvs);
        (whole.header, whole.more, whole.count) = (part.header, part.more, part.count);
    }
    assert!(whole.header.is_some(), "it came to its end");
    (whole, parts)
}

fn everything() -> pb::RangeRequest {
    let (key, range_end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
    pb::RangeRequest { key, range_end, ..pb::RangeRequest::default() }
}

#[test]
fn the_parts_of_a_range_stream_are_what_a_range_answers() {
    let core = FakeCore::start();
    block_on(async {
        let channel = core.channel().await;
        for number in 0..30 {
            put(&channel, format!("k{number:02}"), vec![7; 100_000]).await;
        }
        put(&channel, "k00".into(), b"newer".to_vec()).await;
        let requests = [
            everything(),
            pb::RangeRequest { limit: 7, ..everything() },
            pb::RangeRequest { limit: 30, ..everything() },
            pb::RangeRequest { keys_only: true, ..everything() },
            pb::RangeRequest { count_only: true, ..everything() },
            pb::RangeRequest { revision: 12, serializable: true, ..everything() },
            pb::RangeRequest { key: Bytes::from("k03"), range_end: Bytes::new(), ..everything() },
            pb::RangeRequest { key: Bytes::from("none"), range_end: Bytes::new(), ..everything() },
        ];
        for request in requests {
            let whole = KvClient::new(channel.clone()).range(request.clone()).await;
            let (parts, _) = streamed(&channel, request).await;
            assert_eq!(parts, whole.expect("a range").into_inner());
        }
        let (_, parts) = streamed(&channel, everything()).await;
        assert!((3..=4).contains(&parts), "3 MB in parts of 1 MiB, not {parts}");
    });
}

#[test]
fn a_range_stream_is_of_one_moment_and_waits_for_its_reader() {
    let core = FakeCore::start();
    block_on(async {
        let channel = core.channel().await;
        for number in 0..40 {
            put(&channel, format!("k{number:02}"), vec![7; 400_000]).await;
        }
        let mut client = KvClient::new(channel.clone());
        let mut stream = client.range_stream(everything()).await.expect("accepted").into_inner();
        let first = stream.message().await.expect("a part").expect("more than one");
        for number in 0..40 {
            put(&channel, format!("k{number:02}"), b"newer".to_vec()).await;
        }
        let compact = pb::CompactionRequest { revision: 81, physical: true };
        client.compact(compact).await.expect("compacted");
        let mut kvs = first.range_response.expect("a part").kvs;
        while let Some(part) = stream.message().await.expect("compaction takes nothing from it") {
            kvs.extend(part.range_response.expect("a part").kvs);
        }
        assert_eq!(kvs.len(), 40);
        assert!(kvs.iter().all(|pair| pair.value.len() == 400_000), "as of its beginning");
    });
}

#[test]
fn a_range_stream_refuses_what_needs_the_whole_range_in_etcds_words() {
    use pb::range_request::{SortOrder, SortTarget};
    let core = FakeCore::start();
    block_on(async {
        let channel = core.channel().await;
        let refused = async |request: pb::RangeRequest| {
            let stream = KvClient::new(channel.clone()).range_stream(request).await;
            let status = stream.expect_err("refused");
            (status.code(), status.message().to_owned())
        };
        let sorted = |order: SortOrder, target: SortTarget| pb::RangeRequest {
            sort_order: order as i32,
            sort_target: target as i32,
            ..everything()
        };
        let sorting = "RangeStream does not support custom sort orders".to_owned();
        let expected = (Code::Unimplemented, sorting);
        assert_eq!(refused(sorted(SortOrder::Descend, SortTarget::Key)).await, expected);
        assert_eq!(refused(sorted(SortOrder::Ascend, SortTarget::Mod)).await, expected);
        let filters = "RangeStream does not support revision filters".to_owned();
        let filtered = pb::RangeRequest { min_mod_revision: 1, ..everything() };
        assert_eq!(refused(filtered).await, (Code::Unimplemented, filters));
        let future = pb::RangeRequest { revision: 100, ..everything() };
        let text = "etcdserver: mvcc: required revision is a future revision".to_owned();
        assert_eq!(refused(future).await, (Code::OutOfRange, text));
        let empty = refused(pb::RangeRequest::default()).await;
        assert_eq!(empty, (Code::InvalidArgument, "etcdserver: key is not provided".to_owned()));
        streamed(&channel, sorted(SortOrder::Ascend, SortTarget::Key)).await;
        streamed(&channel, sorted(SortOrder::None, SortTarget::Mod)).await;
    });
}

#[test]
fn defragmentation_answers_at_once_and_a_downgrade_is_not_built() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = MaintenanceClient::new(core.channel().await);
        client.defragment(pb::DefragmentRequest {}).await.expect("nothing to do");
        let refused = client.downgrade(pb::DowngradeRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    });
}

#[test]
fn tools_can_ask_what_is_served() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let core = FakeCore::start();
    block_on(async {
        let channel = core.channel().await;
        let ask = async |request: MessageRequest| {
            let message_request = Some(request);
            let request = ServerReflectionRequest { message_request, ..Default::default() };
            let requests = tokio_stream::once(request);
            let mut client = ServerReflectionClient::new(channel.clone());
            let mut replies = client.server_reflection_info(requests).await?.into_inner();
            let reply = replies.message().await?.expect("an answer");
            Ok::<_, tonic::Status>(reply.message_response.expect("it says something"))
        };
        let list = ask(MessageRequest::ListServices(String::new())).await.expect("a list");
        let MessageResponse::ListServicesResponse(list) = list else { panic!("{list:?}") };
        let services: Vec<&str> = list.service.iter().map(|one| one.name.as_str()).collect();
        for service in ["etcdserverpb.KV", "etcdserverpb.Maintenance", "grpc.health.v1.Health"] {
            assert!(services.contains(&service), "{service} is not among {services:?}");
        }
        let symbol = "etcdserverpb.KV.RangeStream".to_owned();
        let file = ask(MessageRequest::FileContainingSymbol(symbol)).await.expect("a file");
        let MessageResponse::FileDescriptorResponse(file) = file else { panic!("{file:?}") };
        assert!(!file.file_descriptor_proto.is_empty());
        let unknown = MessageRequest::FileContainingSymbol("none.at.All".to_owned());
        assert!(!matches!(ask(unknown).await, Ok(MessageResponse::FileDescriptorResponse(_))));
    });
}
