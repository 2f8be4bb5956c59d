//! A client of one member: never moves to another, and says what became of each request.
//!
//! A request whose fate is not certain is [`CallError::Unknown`]; only a refusal that the protocol
//! defines as such is [`CallError::Refused`]. Not here: retrying, which would hide both.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};

use crate::client_access::{ClientAccess, Transport, innermost};
use crate::proto::etcdserverpb::cluster_client::ClusterClient;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::request_op::Request as TxnRequestOp;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, Member, MemberAddRequest,
    MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MoveLeaderRequest, PutRequest,
    RangeRequest, RequestOp, SnapshotRequest, StatusRequest, StatusResponse, TxnRequest,
};

/// How a request failed, by what is known of its effect.
#[derive(Debug, Clone)]
pub enum CallError {
    /// The member said no: nothing changed, and never will.
    Refused(String),
    /// It may have taken effect, or still may.
    Unknown(String),
}

impl CallError {
    /// Without what is known of the effect: for requests that have none.
    pub(crate) fn why(&self) -> &str {
        let (CallError::Refused(why) | CallError::Unknown(why)) = self;
        why
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Refused(why) => write!(f, "refused: {why}"),
            CallError::Unknown(why) => write!(f, "outcome unknown: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<Status> for CallError {
    fn from(status: Status) -> CallError {
        let mut text = format!("{:?}: {}", status.code(), status.message());
        if let Some(cause) = status.source() {
            text = format!("{text}: {}", innermost(cause));
        }
        if status.message().ends_with("user name is empty") {
            text.push_str(" (authentication is on: say --user)");
        }
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented => CallError::Refused(text),
            _ => CallError::Unknown(text),
        }
    }
}

/// One version of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that wrote it.
    pub mod_revision: u64,
}

/// A connection to one member.
#[derive(Debug, Clone)]
pub struct MemberClient {
    channel: Transport,
}

impl MemberClient {
    /// Connects to `address` (`host:port` or a URL) plainly, or says why not; every request gets
    /// `timeout`.
    pub async fn connect(address: &str, timeout: Duration) -> Result<MemberClient, String> {
        MemberClient::connect_by(&ClientAccess::default(), address, timeout).await
    }

    /// The same under what `access` says.
    pub async fn connect_by(
        access: &ClientAccess,
        address: &str,
        timeout: Duration,
    ) -> Result<MemberClient, String> {
        Ok(MemberClient::over(access.channel(address, timeout).await?))
    }

    /// One that is connected.
    pub(crate) fn over(channel: Transport) -> MemberClient {
        MemberClient { channel }
    }

    /// The connection, for services that have no method here.
    pub(crate) fn channel(&self) -> Transport {
        self.channel.clone()
    }

    /// Sets `key`; returns the revision of the write.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<u64, CallError> {
        let request =
            PutRequest { key: key.to_vec(), value: value.to_vec(), ..PutRequest::default() };
        let reply = KvClient::new(self.channel.clone()).put(request).await?.into_inner();
        Ok(revision(reply.header.map(|header| header.revision)))
    }

    /// A linearizable read: the keyspace's revision, and what the key holds.
    pub async fn get(&self, key: &[u8]) -> Result<(u64, Option<Versioned>), CallError> {
        self.get_at(key, 0).await
    }

    /// The same as of a revision; 0: of now.
    pub async fn get_at(&self, key: &[u8], at: u64) -> Result<(u64, Option<Versioned>), CallError> {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let request = RangeRequest { key: key.to_vec(), revision: at, ..RangeRequest::default() };
        let reply = KvClient::new(self.channel.clone()).range(request).await?.into_inner();
        let at = revision(reply.header.map(|header| header.revision));
        Ok((at, reply.kvs.into_iter().next().map(versioned)))
    }

    /// What the key holds by this member's account, which asks nobody else and may be late.
    pub async fn local_get(&self, key: &[u8]) -> Result<(u64, Option<Versioned>), CallError> {
        let request =
            RangeRequest { key: key.to_vec(), serializable: true, ..RangeRequest::default() };
        let reply = KvClient::new(self.channel.clone()).range(request).await?.into_inner();
        let at = revision(reply.header.map(|header| header.revision));
        Ok((at, reply.kvs.into_iter().next().map(versioned)))
    }

    /// Deletes every key under `prefix`; returns the revision.
    pub async fn delete_prefix(&self, prefix: &[u8]) -> Result<u64, CallError> {
        let (key, range_end) = (prefix.to_vec(), prefix_end(prefix));
        let request = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
        let reply = KvClient::new(self.channel.clone()).delete_range(request).await?;
        Ok(revision(reply.into_inner().header.map(|header| header.revision)))
    }

    /// Forgets history below `at`.
    pub async fn compact(&self, at: u64) -> Result<(), CallError> {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let request = CompactionRequest { revision: at, ..CompactionRequest::default() };
        KvClient::new(self.channel.clone()).compact(request).await?;
        Ok(())
    }

    /// Every key under `prefix` as this member has it, without asking anybody else.
    pub async fn local_range(&self, prefix: &[u8]) -> Result<(u64, Vec<Versioned>), CallError> {
        let (key, range_end) = prefix_range(prefix);
        let request =
            RangeRequest { key, range_end, serializable: true, ..RangeRequest::default() };
        let client = KvClient::new(self.channel.clone());
        let client = client.max_decoding_message_size(usize::MAX);
        let reply = { client }.range(request).await?.into_inner();
        let at = revision(reply.header.map(|header| header.revision));
        Ok((at, reply.kvs.into_iter().map(versioned).collect()))
    }

    /// Sets `key` if it holds `expect` (nothing: does not exist); returns whether it did, and the
    /// revision of the write or of the look.
    pub async fn compare_and_set(
        &self,
        key: &[u8],
        expect: Option<&[u8]>,
        set: &[u8],
    ) -> Result<(bool, u64), CallError> {
        let (target, union) = match expect {
            Some(value) => (CompareTarget::Value, TargetUnion::Value(value.to_vec())),
            None => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
        };
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key: key.to_vec(),
            range_end: Vec::new(),
            target_union: Some(union),
        };
        let put = PutRequest { key: key.to_vec(), value: set.to_vec(), ..PutRequest::default() };
        let request = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp { request: Some(TxnRequestOp::RequestPut(put)) }],
            failure: Vec::new(),
        };
        let reply = KvClient::new(self.channel.clone()).txn(request).await?.into_inner();
        Ok((reply.succeeded, revision(reply.header.map(|header| header.revision))))
    }

    /// Grants a lease of `ttl` seconds under an id of the member's choice, and returns that.
    pub async fn grant_lease(&self, ttl: i64) -> Result<i64, CallError> {
        let request = LeaseGrantRequest { ttl, id: 0 };
        let reply = LeaseClient::new(self.channel.clone()).lease_grant(request).await?;
        Ok(reply.into_inner().id)
    }

    /// How the member sees itself and the cluster.
    pub async fn status(&self) -> Result<StatusResponse, CallError> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        Ok(client.status(StatusRequest {}).await?.into_inner())
    }

    /// A backup, as `etcdctl snapshot save` would write it down.
    pub async fn snapshot(&self) -> Result<Vec<u8>, CallError> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let mut parts = client.snapshot(SnapshotRequest {}).await?.into_inner();
        let mut file = Vec::new();
        while let Some(part) = parts.message().await? {
            file.extend_from_slice(&part.blob);
        }
        Ok(file)
    }

    /// The members of the cluster.
    pub async fn members(&self) -> Result<Vec<Member>, CallError> {
        let mut client = ClusterClient::new(self.channel.clone());
        let request = MemberListRequest { linearizable: false };
        Ok(client.member_list(request).await?.into_inner().members)
    }

    /// The members of the cluster, as of now.
    pub async fn members_now(&self) -> Result<Vec<Member>, CallError> {
        let mut client = ClusterClient::new(self.channel.clone());
        let request = MemberListRequest { linearizable: true };
        Ok(client.member_list(request).await?.into_inner().members)
    }

    /// Adds a member that its peers will reach at `peer_url`; returns its id and all members.
    pub async fn add_member(
        &self,
        peer_url: &str,
        is_learner: bool,
    ) -> Result<(u64, Vec<Member>), CallError> {
        let request = MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner };
        let mut client = ClusterClient::new(self.channel.clone());
        let reply = client.member_add(request).await?.into_inner();
        Ok((reply.member.map_or(0, |member| member.id), reply.members))
    }

    /// Removes a member for ever; returns those that stay.
    pub async fn remove_member(&self, id: u64) -> Result<Vec<Member>, CallError> {
        let mut client = ClusterClient::new(self.channel.clone());
        let reply = client.member_remove(MemberRemoveRequest { id }).await?;
        Ok(reply.into_inner().members)
    }

    /// Lets a learner vote from now on.
    pub async fn promote_member(&self, id: u64) -> Result<(), CallError> {
        let mut client = ClusterClient::new(self.channel.clone());
        client.member_promote(MemberPromoteRequest { id }).await?;
        Ok(())
    }

    /// Has the leader, which this client must be connected to, hand over to another voter.
    pub async fn move_leader(&self, to: u64) -> Result<(), CallError> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        client.move_leader(MoveLeaderRequest { target_id: to }).await?;
        Ok(())
    }

    /// The stub of the watch service, whose streams have no deadline.
    pub(crate) fn watch_client(&self) -> WatchClient<Transport> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }
}

/// First key and end of the range of keys that start with `prefix`; empty: of all keys.
pub(crate) fn prefix_range(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    // A key is never empty: all of them start at the smallest.
    let key = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
    (key, prefix_end(prefix))
}

/// The end of the range of keys that start with `prefix`, as etcd's clients compute it.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// A revision is never negative; a member that says so is caught by the checks of order.
pub(crate) fn revision(of_header: Option<i64>) -> u64 {
    of_header.and_then(|revision| u64::try_from(revision).ok()).unwrap_or(0)
}

fn versioned(pair: crate::proto::mvccpb::KeyValue) -> Versioned {
    Versioned { mod_revision: revision(Some(pair.mod_revision)), key: pair.key, value: pair.value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_access::CONNECT_TIMEOUT;

    #[test]
    fn a_prefix_ends_where_the_next_one_starts() {
        assert_eq!(prefix_end(b"a"), b"b");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), [0]);
        assert_eq!(prefix_end(b""), [0]);
    }

    #[tokio::test]
    async fn who_does_not_listen_is_said_to_refuse() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("its address").to_string();
        drop(free);
        let refusal = MemberClient::connect(&address, CONNECT_TIMEOUT).await.expect_err("nobody");
        assert!(refusal.contains(&address) && refusal.contains("refused"), "{refusal}");
    }

    #[test]
    fn only_a_refusal_by_the_protocol_is_certain() {
        let refused = CallError::from(Status::new(Code::InvalidArgument, "key is not provided"));
        assert!(matches!(refused, CallError::Refused(_)));
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Unknown, Code::Internal] {
            assert!(matches!(CallError::from(Status::new(code, "")), CallError::Unknown(_)));
        }
    }
}
