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
fn a_client_that_stops_reading_is_cut_off_and_not_told_that_it_has_all() {
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
        // Ends it as a minute without reading does.
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
