//! The next number of a sequence, by the recipe of docs/locks.md: a key's version, moved on by a
//! transaction that compares it.
//!
//! Invariant: no number is given to two callers. One may be given to nobody: its caller's answer
//! was lost.

use std::time::{Duration, Instant};

use crate::client_access::{ClientAccess, Transport};
use crate::first_contact::first_contact;
use crate::member_client::CallError;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long others may get ahead of us, number after number.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes the next number of the sequence called `name` from the first endpoint that answers.
///
/// # Errors
/// One sentence; it says whether a number may have been taken for nothing.
pub async fn next(access: &ClientAccess, endpoints: &[String], name: &str) -> Result<i64, String> {
    let (member, _) = first_contact(access, endpoints, TIMEOUT).await?;
    take(KvClient::new(member.channel()), name).await
}

async fn take(mut client: KvClient<Transport>, name: &str) -> Result<i64, String> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let look = RangeRequest { key: name.into(), ..RangeRequest::default() };
        let found = client.range(look).await.map_err(CallError::from);
        let found = found.map_err(|error| error.why().to_owned())?;
        let version = found.into_inner().kvs.first().map_or(0, |pair| pair.version);
        match client.txn(advance(name, version)).await.map_err(CallError::from) {
            Ok(reply) if reply.get_ref().succeeded => return Ok(version + 1),
            // Somebody was faster: that number is theirs.
            Ok(_) => {}
            Err(CallError::Refused(why)) => return Err(format!("refused: {why}")),
            Err(CallError::Unknown(why)) => {
                return Err(format!(
                    "{why}; number {} may have been taken for nothing: the next call gets another",
                    version + 1
                ));
            }
        }
    }
    Err(format!("others were faster for {PATIENCE:?}"))
}

/// Moves the key from `version` to the next one, whose number it then holds, for people.
fn advance(name: &str, version: i64) -> TxnRequest {
    let unmoved = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: name.into(),
        range_end: Vec::new(),
        target_union: Some(TargetUnion::Version(version)),
    };
    let value = (version + 1).to_string().into_bytes();
    let put = PutRequest { key: name.into(), value, ..PutRequest::default() };
    TxnRequest {
        compare: vec![unmoved],
        success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
        failure: Vec::new(),
    }
}
