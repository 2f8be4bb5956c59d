//! The requests of a client, as a stock client would send them.

use crate::client_access::Transport;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::request_op::Request as TxnRequestOp;
use crate::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::BenchPlan;

/// One client's way to ask.
pub(crate) struct Operations {
    client: KvClient<Transport>,
    value: Vec<u8>,
}

/// The key of this number; all have the same length.
pub(crate) fn key(number: u64) -> Vec<u8> {
    format!("bench/{number:012}").into_bytes()
}

impl Operations {
    pub(crate) fn new(channel: Transport, plan: &BenchPlan) -> Operations {
        let client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
        Operations { client, value: vec![b'v'; plan.value_bytes] }
    }

    pub(crate) async fn put(&mut self, number: u64) -> Result<(), String> {
        let request =
            PutRequest { key: key(number), value: self.value.clone(), ..PutRequest::default() };
        self.client.put(request).await.map(drop).map_err(said)
    }

    pub(crate) async fn get(&mut self, number: u64, serializable: bool) -> Result<(), String> {
        let request = RangeRequest { key: key(number), serializable, ..RangeRequest::default() };
        let reply = self.client.range(request).await.map_err(said)?;
        match reply.get_ref().kvs.first() {
            Some(_) => Ok(()),
            None => Err("a key that was written is not there".to_owned()),
        }
    }

    pub(crate) async fn range(&mut self, number: u64, keys: u32) -> Result<(), String> {
        let (key, range_end) = (key(number), key(number + u64::from(keys)));
        let request = RangeRequest { key, range_end, ..RangeRequest::default() };
        self.client.range(request).await.map(drop).map_err(said)
    }

    /// Reads the key's version and writes if it is still that; somebody faster is no failure.
    pub(crate) async fn compare_and_set(&mut self, number: u64) -> Result<(), String> {
        let look = RangeRequest { key: key(number), ..RangeRequest::default() };
        let found = self.client.range(look).await.map_err(said)?;
        let version = found.get_ref().kvs.first().map_or(0, |pair| pair.version);
        let unmoved = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            key: key(number),
            range_end: Vec::new(),
            target_union: Some(TargetUnion::Version(version)),
        };
        let put =
            PutRequest { key: key(number), value: self.value.clone(), ..PutRequest::default() };
        let request = TxnRequest {
            compare: vec![unmoved],
            success: vec![RequestOp { request: Some(TxnRequestOp::RequestPut(put)) }],
            failure: Vec::new(),
        };
        self.client.txn(request).await.map(drop).map_err(said)
    }
}

pub(crate) fn said(status: tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
