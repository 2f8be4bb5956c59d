//! What the connection itself bears: sizes, garbage, strangers, floods.

use super::fake_core::{FakeCore, block_on};
use crate::etcd::limits::SHUTDOWN_GRACE;
use crate::etcd::services::etcdserverpb::kv_client::KvClient;
use crate::etcd::services::etcdserverpb::maintenance_client::MaintenanceClient;
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tonic::Code;
use wire::etcd::limits::{MESSAGE_BYTES_MAX, REQUEST_BYTES_MAX};
use wire::etcd::pb;

fn put_of_bytes(bytes: usize) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::from("k"),
        value: Bytes::from(vec![0; bytes]),
        ..Default::default()
    }
}

#[test]
fn sizes_are_refused_as_etcd_refuses_them() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = KvClient::new(core.channel().await);
        assert!(client.put(put_of_bytes(REQUEST_BYTES_MAX - 16)).await.is_ok());
        let refused = client.put(put_of_bytes(REQUEST_BYTES_MAX)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.message(), "etcdserver: request is too large");
        let refused = client.put(put_of_bytes(MESSAGE_BYTES_MAX)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let larger = MESSAGE_BYTES_MAX + 8;
        let text = format!("grpc: received message larger than max ({larger} vs. 2097152)");
        assert_eq!(refused.message(), text);
        assert!(client.put(put_of_bytes(1)).await.is_ok(), "the connection goes on");
    });
}

#[test]
fn what_is_not_built_says_so() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = MaintenanceClient::new(core.channel().await);
        let refused = client.downgrade(pb::DowngradeRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        assert!(refused.message().contains("Downgrade is not built yet"), "{refused}");
    });
}

#[test]
fn malformed_messages_are_errors_and_the_connection_goes_on() {
    let core = FakeCore::start();
    block_on(async {
        // A Put whose bytes are read as a Range: field 1 is a key, field 3 a lease, 2 a range end.
        let channel = core.channel().await;
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Txn");
        let codec: tonic_prost::ProstCodec<pb::PutRequest, pb::TxnResponse> = Default::default();
        let refused =
            grpc.unary(tonic::Request::new(put_of_bytes(3)), path, codec).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal);
        let mut client = KvClient::new(channel);
        assert!(client.put(put_of_bytes(1)).await.is_ok());
    });
}

#[test]
fn garbage_and_half_open_connections_leave_others_alone() {
    let core = FakeCore::start();
    let mut half_open = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(core.address).expect("it listens");
        stream.write_all(b"PRI * HT").expect("it reads");
        half_open.push(stream);
    }
    let mut garbage = TcpStream::connect(core.address).expect("it listens");
    garbage.write_all(&[0xff; 4096]).expect("it reads");
    garbage.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut rest = Vec::new();
    // An answer, an end or a reset: anything but silence.
    match garbage.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    block_on(async {
        let mut client = KvClient::new(core.channel().await);
        assert!(client.put(put_of_bytes(1)).await.is_ok());
    });
}

#[test]
fn many_calls_share_a_connection() {
    let core = FakeCore::start();
    block_on(async {
        let channel = core.channel().await;
        let calls: Vec<_> = (0..500)
            .map(|number| {
                let mut client = KvClient::new(channel.clone());
                tokio::spawn(async move { client.put(put_of_bytes(number)).await })
            })
            .collect();
        let mut revisions = Vec::new();
        for call in calls {
            let reply = call.await.expect("no panic").expect("it is applied").into_inner();
            revisions.push(reply.header.expect("a header").revision);
        }
        revisions.sort_unstable();
        revisions.dedup();
        assert_eq!(revisions.len(), 500);
    });
}

#[test]
fn a_call_under_way_is_answered_though_the_node_stops() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = KvClient::new(core.channel().await);
        core.feel(|mood| mood.silent = true);
        let mut call = tokio::spawn(async move { client.put(put_of_bytes(1)).await });
        while core.handle.shared.replies.len() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        core.handle.shared.stopping.send_replace(true);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut call).await;
        assert!(early.is_err(), "it ended before it was answered: {early:?}");
        core.handle.shared.replies.resolve_all_stopping();
        let refused = call.await.expect("no panic").unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert_eq!(refused.message(), "etcdserver: server stopped");
    });
}

#[test]
fn a_call_without_an_answer_keeps_the_node_from_stopping_only_for_its_grace() {
    let core = FakeCore::start();
    block_on(async {
        let mut client = KvClient::new(core.channel().await);
        core.feel(|mood| mood.silent = true);
        let call = tokio::spawn(async move { client.put(put_of_bytes(1)).await });
        while core.handle.shared.replies.len() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begun = std::time::Instant::now();
        // Waits for the front end's thread, while the client keeps its connection.
        drop(core);
        let took = begun.elapsed();
        assert!(took >= SHUTDOWN_GRACE / 2, "the call was cut off after {took:?}");
        assert!(took < 4 * SHUTDOWN_GRACE, "stopping took {took:?}");
        assert!(call.await.expect("no panic").is_err());
    });
}
