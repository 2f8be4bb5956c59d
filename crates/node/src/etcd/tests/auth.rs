//! Authentication over the wire: who is let in, what they may read, and what ends when.

use super::fake_core::{FakeCore, block_on};
use super::keyspace::put;
use crate::etcd::authentication::{AuthSettings, Authentication};
use crate::etcd::client_common_name::ClientCommonName;
use crate::etcd::dispatch::Dispatch;
use crate::etcd::services::etcdserverpb::auth_client::AuthClient;
use crate::etcd::services::etcdserverpb::cluster_client::ClusterClient;
use crate::etcd::services::etcdserverpb::kv_client::KvClient;
use crate::etcd::services::etcdserverpb::lease_client::LeaseClient;
use crate::etcd::services::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::etcd::services::etcdserverpb::watch_client::WatchClient;
use crate::etcd::services::v3electionpb::election_client::ElectionClient;
use bytes::Bytes;
use pb::watch_request::RequestUnion;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use wire::etcd::pb;
use wire::proto::authpb;
use wire::proto::v3electionpb::{CampaignRequest, LeaderRequest, ProclaimRequest};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

const EMPTY: &str = "etcdserver: user name is empty";
const DENIED: &str = "etcdserver: permission denied";
const INVALID: &str = "etcdserver: invalid auth token";
const WATCH_DENIED: &str =
    "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

/// A request that shows a token.
fn shown<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().expect("a token is text"));
    request
}

fn text(error: Status) -> String {
    error.message().to_owned()
}

struct Admin {
    auth: AuthClient<Channel>,
    keyspace: KvClient<Channel>,
    channel: Channel,
}

impl Admin {
    async fn of(core: &FakeCore) -> Admin {
        let channel = core.channel().await;
        let (auth, keyspace) = (AuthClient::new(channel.clone()), KvClient::new(channel.clone()));
        Admin { auth, keyspace, channel }
    }

    /// Adds users with the password of their name, and what ann may do; turns authentication on.
    async fn guard(&mut self, permissions: &[authpb::Permission]) {
        for name in ["root", "ann"] {
            self.add_user("", name).await.unwrap();
        }
        self.grant_role("", "root", "root").await.unwrap();
        let role = pb::AuthRoleAddRequest { name: "some".into() };
        self.auth.role_add(role).await.unwrap();
        self.grant_role("", "ann", "some").await.unwrap();
        for permission in permissions {
            self.grant("", permission.clone()).await.unwrap();
        }
        self.auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    }

    async fn add_user(&mut self, token: &str, name: &str) -> Result<(), Status> {
        let (name, password) = (name.to_owned(), name.to_owned());
        let add = pb::AuthUserAddRequest { name, password, ..Default::default() };
        self.auth.user_add(shown(token, add)).await.map(drop)
    }

    async fn grant_role(&mut self, token: &str, user: &str, role: &str) -> Result<(), Status> {
        let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        self.auth.user_grant_role(shown(token, grant)).await.map(drop)
    }

    async fn grant(&mut self, token: &str, perm: authpb::Permission) -> Result<(), Status> {
        let grant = pb::AuthRoleGrantPermissionRequest { name: "some".into(), perm: Some(perm) };
        self.auth.role_grant_permission(shown(token, grant)).await.map(drop)
    }

    async fn login(&mut self, name: &str, password: &str) -> Result<String, Status> {
        let (name, password) = (name.to_owned(), password.to_owned());
        let login = pb::AuthenticateRequest { name, password };
        Ok(self.auth.authenticate(login).await?.into_inner().token)
    }

    async fn put(&mut self, token: &str, key: &str) -> Result<(), Status> {
        self.keyspace.put(shown(token, put(key, "v"))).await.map(drop)
    }

    async fn get(&mut self, token: &str, range: pb::RangeRequest) -> Result<usize, Status> {
        Ok(self.keyspace.range(shown(token, range)).await?.into_inner().kvs.len())
    }

    async fn change_password(&mut self, token: &str, name: &str) -> Result<(), Status> {
        let change = pb::AuthUserChangePasswordRequest {
            name: name.into(),
            password: "new".into(),
            ..Default::default()
        };
        self.auth.user_change_password(shown(token, change)).await.map(drop)
    }
}

fn may(kind: authpb::permission::Type, key: &str, range_end: &str) -> authpb::Permission {
    authpb::Permission {
        perm_type: kind as i32,
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
    }
}

fn range(key: &str, range_end: &str, serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
        serializable,
        ..Default::default()
    }
}

use authpb::permission::Type::{Read, Readwrite, Write};

#[test]
fn a_user_may_what_their_roles_allow_and_nobody_anything() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.put("", "a").await.unwrap();
        admin.put("", "b").await.unwrap();
        admin.guard(&[may(Readwrite, "a", ""), may(Read, "c", "d")]).await;
        let ann = admin.login("ann", "ann").await.unwrap();
        let root = admin.login("root", "root").await.unwrap();
        for serializable in [false, true] {
            assert_eq!(admin.get(&ann, range("a", "", serializable)).await.unwrap(), 1);
            for (key, end) in [("b", ""), ("a", "\0"), ("a", "b"), ("\0", "\0"), ("c", "e")] {
                let refused = admin.get(&ann, range(key, end, serializable)).await.unwrap_err();
                assert_eq!(refused.code(), Code::PermissionDenied, "{key:?} to {end:?}");
                assert_eq!(text(refused), DENIED);
            }
            let everything = range("\0", "\0", serializable);
            assert_eq!(admin.get(&root, everything).await.unwrap(), 2);
        }
        assert!(admin.put(&ann, "a").await.is_ok());
        assert_eq!(text(admin.put(&ann, "c").await.unwrap_err()), DENIED);
        let mut keyspace = admin.keyspace.clone();
        let nobody = keyspace.put(put("a", "x")).await.unwrap_err();
        assert_eq!((nobody.code(), nobody.message()), (Code::InvalidArgument, EMPTY));
        let nobody = keyspace.range(range("a", "", true)).await.unwrap_err();
        assert_eq!(text(nobody), EMPTY);
        let forged = admin.put("forged.token", "a").await.unwrap_err();
        assert_eq!((forged.code(), forged.message()), (Code::Unauthenticated, INVALID));
    });
}

#[test]
fn a_read_only_transaction_is_checked_whole() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Read, "a", "")]).await;
        let ann = admin.login("ann", "ann").await.unwrap();
        let get = |key: &str| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestRange(range(key, "", true))),
        };
        let nested = pb::TxnRequest { failure: vec![get("b")], ..Default::default() };
        let hidden = pb::TxnRequest {
            success: vec![
                get("a"),
                pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(nested)) },
            ],
            ..Default::default()
        };
        let compare = pb::Compare { key: "b".into(), ..Default::default() };
        let guess = pb::TxnRequest { compare: vec![compare], ..Default::default() };
        for txn in [hidden, guess] {
            let refused = admin.keyspace.txn(shown(&ann, txn)).await.unwrap_err();
            assert_eq!(text(refused), DENIED);
        }
        let fine = pb::TxnRequest { success: vec![get("a")], ..Default::default() };
        assert!(admin.keyspace.txn(shown(&ann, fine)).await.is_ok());
    });
}

#[test]
fn nothing_is_done_for_a_name_or_password_that_nobody_can_have() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[]).await;
        // Whatever needs the core has no answer from now on.
        core.feel(|mood| mood.silent = true);
        let (name, password) = ("n".repeat(1025), "p".repeat(1025));
        for (name, password) in [(name.as_str(), "ann"), ("ann", password.as_str())] {
            let refused = tokio::time::timeout(PATIENCE, admin.login(name, password)).await;
            let refused = refused.expect("an answer at once").unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(text(refused).contains("authentication failed"));
        }
    });
}

#[test]
fn a_token_ends_with_its_users_password_or_life() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Write, "a", "")]).await;
        let root = admin.login("root", "root").await.unwrap();
        let ann = admin.login("ann", "ann").await.unwrap();
        admin.put(&ann, "a").await.unwrap();
        admin.change_password(&root, "ann").await.unwrap();
        assert_eq!(text(admin.put(&ann, "a").await.unwrap_err()), INVALID);
        let wrong = admin.login("ann", "ann").await.unwrap_err();
        assert_eq!(text(wrong), "etcdserver: authentication failed, invalid user ID or password");
        let ann = admin.login("ann", "new").await.unwrap();
        admin.put(&ann, "a").await.unwrap();

        let delete = pb::AuthUserDeleteRequest { name: "ann".into() };
        admin.auth.user_delete(shown(&root, delete)).await.unwrap();
        assert_eq!(text(admin.put(&ann, "a").await.unwrap_err()), INVALID);
        admin.add_user(&root, "ann").await.unwrap();
        admin.grant_role(&root, "ann", "some").await.unwrap();
        assert_eq!(text(admin.put(&ann, "a").await.unwrap_err()), INVALID, "a namesake");
        let ann = admin.login("ann", "ann").await.unwrap();
        admin.put(&ann, "a").await.unwrap();

        admin.auth.auth_disable(shown(&root, pb::AuthDisableRequest {})).await.unwrap();
        admin.put("whatever", "b").await.unwrap();
        admin.auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        assert_eq!(text(admin.put(&ann, "a").await.unwrap_err()), INVALID, "another secret");
    });
}

#[test]
fn users_and_roles_are_shown_to_root_and_those_concerned() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        let status = admin.auth.auth_status(pb::AuthStatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.enabled, status.auth_revision), (false, 1));
        admin.guard(&[may(Read, "a", "\0")]).await;
        let ann = admin.login("ann", "ann").await.unwrap();
        let root = admin.login("root", "root").await.unwrap();
        let nobody = admin.auth.auth_status(pb::AuthStatusRequest {}).await.unwrap_err();
        assert_eq!(text(nobody), EMPTY);
        let status = admin.auth.auth_status(shown(&root, pb::AuthStatusRequest {})).await;
        let status = status.unwrap().into_inner();
        assert_eq!((status.enabled, status.auth_revision), (true, 7));
        assert!(status.header.is_some_and(|header| header.revision == 1));

        let user = |name: &str| pb::AuthUserGetRequest { name: name.into() };
        let role = |role: &str| pb::AuthRoleGetRequest { role: role.into() };
        let own = admin.auth.user_get(shown(&ann, user("ann"))).await.unwrap().into_inner();
        assert_eq!(own.roles, ["some"]);
        let own = admin.auth.role_get(shown(&ann, role("some"))).await.unwrap().into_inner();
        assert_eq!(own.perm, [may(Read, "a", "\0")]);
        let others = admin.auth.user_get(shown(&ann, user("root"))).await.unwrap_err();
        assert_eq!(text(others), DENIED);
        let others = admin.auth.role_get(shown(&ann, role("root"))).await.unwrap_err();
        assert_eq!(text(others), DENIED);
        let list = admin.auth.user_list(shown(&ann, pb::AuthUserListRequest {})).await;
        assert_eq!(text(list.unwrap_err()), DENIED);
        let list = admin.auth.role_list(shown(&ann, pb::AuthRoleListRequest {})).await;
        assert_eq!(text(list.unwrap_err()), DENIED);

        let users = admin.auth.user_list(shown(&root, pb::AuthUserListRequest {})).await;
        assert_eq!(users.unwrap().into_inner().users, ["ann", "root"]);
        let roles = admin.auth.role_list(shown(&root, pb::AuthRoleListRequest {})).await;
        assert_eq!(roles.unwrap().into_inner().roles, ["some"]);
        let nobody = admin.auth.user_get(shown(&root, user("bob"))).await.unwrap_err();
        assert_eq!(text(nobody), "etcdserver: user name not found");
        let none = admin.auth.role_get(shown(&root, role("none"))).await.unwrap_err();
        assert_eq!(text(none), "etcdserver: role name not found");
        let eve = admin.add_user(&ann, "eve").await.unwrap_err();
        assert_eq!(text(eve), DENIED);
    });
}

#[test]
fn maintenance_is_for_root_and_what_probes_ask_is_open() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Readwrite, "\0", "\0")]).await;
        let ann = admin.login("ann", "ann").await.unwrap();
        let root = admin.login("root", "root").await.unwrap();
        let mut maintenance = MaintenanceClient::new(admin.channel.clone());
        let hash = || pb::HashKvRequest::default();
        assert_eq!(text(maintenance.hash_kv(hash()).await.unwrap_err()), EMPTY);
        assert_eq!(text(maintenance.hash_kv(shown(&ann, hash())).await.unwrap_err()), DENIED);
        assert!(maintenance.hash_kv(shown(&root, hash())).await.is_ok());
        assert_eq!(text(maintenance.status(pb::StatusRequest {}).await.unwrap_err()), EMPTY);
        assert!(maintenance.status(shown(&ann, pb::StatusRequest {})).await.is_ok());
        let list = pb::AlarmRequest::default();
        assert!(maintenance.alarm(shown(&ann, list)).await.is_ok());
        let disarm = pb::AlarmRequest { action: 2, ..Default::default() };
        assert_eq!(text(maintenance.alarm(shown(&ann, disarm)).await.unwrap_err()), DENIED);
        let compact = pb::CompactionRequest { revision: 1, ..Default::default() };
        let refused = admin.keyspace.compact(shown(&ann, compact)).await.unwrap_err();
        assert_eq!(text(refused), DENIED);

        let mut cluster = ClusterClient::new(admin.channel.clone());
        assert!(cluster.member_list(pb::MemberListRequest::default()).await.is_ok());
        let add = pb::MemberAddRequest::default();
        assert_eq!(text(cluster.member_add(shown(&ann, add)).await.unwrap_err()), DENIED);
        assert_eq!(super::http::get(&core, "/health").0, 200);
    });
}

#[test]
fn a_lease_does_not_leak_its_keys() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Readwrite, "a", ""), may(Write, "w", "")]).await;
        let ann = admin.login("ann", "ann").await.unwrap();
        let root = admin.login("root", "root").await.unwrap();
        let mut leases = LeaseClient::new(admin.channel.clone());
        let grant = |id| pb::LeaseGrantRequest { id, ttl: 60 };
        assert_eq!(text(leases.lease_grant(grant(1)).await.unwrap_err()), EMPTY);
        for id in [1, 2] {
            leases.lease_grant(shown(&ann, grant(id))).await.unwrap();
        }
        let under = |key: &str, lease| pb::PutRequest { lease, ..put(key, "v") };
        admin.keyspace.put(shown(&root, under("secret", 1))).await.unwrap();
        admin.keyspace.put(shown(&ann, under("a", 2))).await.unwrap();

        let ask = |id, keys| pb::LeaseTimeToLiveRequest { id, keys };
        let refused = leases.lease_time_to_live(shown(&ann, ask(1, true))).await.unwrap_err();
        assert_eq!(text(refused), DENIED);
        assert!(leases.lease_time_to_live(shown(&ann, ask(1, false))).await.is_ok());
        let own = leases.lease_time_to_live(shown(&ann, ask(2, true))).await.unwrap();
        assert_eq!(own.into_inner().keys, ["a"]);
        let all = || pb::LeaseLeasesRequest {};
        assert_eq!(text(leases.lease_leases(shown(&ann, all())).await.unwrap_err()), DENIED);
        let known = leases.lease_leases(shown(&root, all())).await.unwrap().into_inner();
        assert_eq!(known.leases.len(), 2);

        let attach = admin.keyspace.put(shown(&ann, under("a", 1))).await.unwrap_err();
        assert_eq!(text(attach), DENIED, "whoever may write secret could delete it");
        let revoke = pb::LeaseRevokeRequest { id: 1 };
        assert_eq!(text(leases.lease_revoke(shown(&ann, revoke)).await.unwrap_err()), DENIED);
    });
}

#[test]
fn a_stream_keeps_every_lease_alive_that_a_user_names() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Readwrite, "a", "")]).await;
        let ann = admin.login("ann", "ann").await.unwrap();
        let root = admin.login("root", "root").await.unwrap();
        let mut leases = LeaseClient::new(admin.channel.clone());
        for id in [1, 2] {
            let grant = pb::LeaseGrantRequest { id, ttl: 60 };
            leases.lease_grant(shown(&ann, grant)).await.unwrap();
        }
        let secret = pb::PutRequest { lease: 1, ..put("secret", "v") };
        admin.keyspace.put(shown(&root, secret)).await.unwrap();
        let renewals = || tokio_stream::iter([1, 2, 1].map(|id| pb::LeaseKeepAliveRequest { id }));
        let mut kept = leases.lease_keep_alive(shown(&ann, renewals())).await.unwrap().into_inner();
        for id in [1, 2, 1] {
            let one = kept.message().await.expect("the stream goes on").expect("an answer");
            assert_eq!((one.id, one.ttl), (id, 60));
        }
        let forged = leases.lease_keep_alive(shown("forged", renewals())).await.unwrap();
        assert_eq!(text(forged.into_inner().message().await.unwrap_err()), INVALID);
        let nobody = leases.lease_keep_alive(renewals()).await.unwrap();
        assert_eq!(text(nobody.into_inner().message().await.unwrap_err()), EMPTY);
        admin.change_password(&root, "ann").await.unwrap();
        let old = leases.lease_keep_alive(shown(&ann, renewals())).await.unwrap();
        assert_eq!(text(old.into_inner().message().await.unwrap_err()), INVALID);
    });
}

#[test]
fn a_member_whose_users_lag_lets_the_place_of_application_decide() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        let behind = core.handle.accounts();
        admin.guard(&[may(Readwrite, "a", "")]).await;
        // The member has not heard yet that authentication is on.
        core.handle.shared.accounts.send_replace(behind);
        let mut keyspace = admin.keyspace.clone();
        assert_eq!(text(keyspace.range(range("a", "", true)).await.unwrap_err()), EMPTY);
        let behind = core.handle.accounts();
        assert!(!behind.is_enabled());
        assert_eq!(text(keyspace.put(put("a", "x")).await.unwrap_err()), EMPTY);
    });
}

#[test]
fn a_member_whose_users_lag_asks_before_it_changes_the_cluster() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        let behind = core.handle.accounts();
        admin.guard(&[may(Readwrite, "\0", "\0")]).await;
        let ann = admin.login("ann", "ann").await.unwrap();
        let root = admin.login("root", "root").await.unwrap();
        let mut cluster = ClusterClient::new(admin.channel.clone());
        let mut maintenance = MaintenanceClient::new(admin.channel.clone());
        // The member has not heard yet that authentication is on.
        let lag = || drop(core.handle.shared.accounts.send_replace(Arc::clone(&behind)));
        let unknown = pb::MemberRemoveRequest { id: 7 };
        let moving = pb::MoveLeaderRequest { target_id: 7 };
        let disarm = pb::AlarmRequest { action: 2, ..Default::default() };
        for (token, refusal) in [(&ann, DENIED), (&String::new(), INVALID)] {
            lag();
            let refused = cluster.member_remove(shown(token, unknown)).await.unwrap_err();
            assert_eq!(text(refused), refusal);
            lag();
            let refused = maintenance.move_leader(shown(token, moving)).await.unwrap_err();
            assert_eq!(text(refused), refusal);
            lag();
            let backup = shown(token, pb::SnapshotRequest::default());
            assert_eq!(text(maintenance.snapshot(backup).await.unwrap_err()), refusal);
            lag();
            let hash = maintenance.hash(shown(token, pb::HashRequest {})).await.map(drop);
            lag();
            let hash_kv = shown(token, pb::HashKvRequest::default());
            let hash_kv = maintenance.hash_kv(hash_kv).await.map(drop);
            lag();
            let defragment = shown(token, pb::DefragmentRequest {});
            let defragment = maintenance.defragment(defragment).await.map(drop);
            lag();
            let disarmed = maintenance.alarm(shown(token, disarm)).await.map(drop);
            for refused in [hash, hash_kv, defragment, disarmed] {
                assert_eq!(text(refused.unwrap_err()), refusal);
            }
        }
        lag();
        assert!(maintenance.alarm(shown(&root, disarm)).await.is_ok());
        lag();
        assert!(maintenance.hash_kv(shown(&root, pb::HashKvRequest::default())).await.is_ok());
        lag();
        let refused = cluster.member_remove(shown(&root, unknown)).await.unwrap_err();
        assert!(![DENIED, INVALID, EMPTY].contains(&refused.message()), "{refused:?}");
        lag();
        assert!(maintenance.move_leader(shown(&root, moving)).await.is_ok());
        lag();
        let backup = || shown(&root, pb::SnapshotRequest::default());
        assert!(maintenance.snapshot(backup()).await.is_ok());
        // Without a leader a backup is for whoever is root by what it holds.
        core.set_leader(None);
        assert!(maintenance.snapshot(backup()).await.is_ok());
        let refused = maintenance.snapshot(shown(&ann, pb::SnapshotRequest::default())).await;
        assert_eq!(text(refused.unwrap_err()), DENIED);
    });
}

/// Clients fetch another token for the second answer, some of them for the first as well.
#[test]
fn a_member_whose_users_lag_takes_an_old_token_once() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Readwrite, "a", "")]).await;
        let root = admin.login("root", "root").await.unwrap();
        let ann = admin.login("ann", "ann").await.unwrap();
        let behind = core.handle.accounts();
        admin.change_password(&root, "ann").await.unwrap();
        core.handle.shared.accounts.send_replace(behind);
        let old = "etcdserver: revision of auth store is old";
        assert_eq!(text(admin.put(&ann, "a").await.unwrap_err()), old);
        assert_eq!(text(admin.put(&ann, "a").await.unwrap_err()), INVALID);
    });
}

#[test]
fn an_observer_hears_nothing_more_once_it_may_not_read() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Read, "mayor/", "mayor0")]).await;
        let root = admin.login("root", "root").await.unwrap();
        let ann = admin.login("ann", "ann").await.unwrap();
        let mut elections = ElectionClient::new(admin.channel.clone());
        let (name, value) = (Bytes::from("mayor"), Bytes::from("ada"));
        let campaign = CampaignRequest { name: name.clone(), lease: 0, value };
        let campaign = elections.campaign(shown(&root, campaign)).await.unwrap().into_inner();
        let observe = shown(&ann, LeaderRequest { name });
        let mut heard = elections.observe(observe).await.unwrap().into_inner();
        assert!(heard.message().await.unwrap().is_some());
        let revoke = pb::AuthRoleRevokePermissionRequest {
            role: "some".into(),
            key: "mayor/".into(),
            range_end: "mayor0".into(),
        };
        admin.auth.role_revoke_permission(shown(&root, revoke)).await.unwrap();
        let proclaim = ProclaimRequest { leader: campaign.leader, value: "secret".into() };
        elections.proclaim(shown(&root, proclaim)).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, heard.message()).await.expect("in time");
        assert_eq!(text(ended.unwrap_err()), DENIED);
    });
}

#[test]
fn no_password_is_hashed_for_whoever_may_not_set_one() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Readwrite, "\0", "\0")]).await;
        // It takes far longer than anybody waits here.
        let settings = AuthSettings { bcrypt_cost: 17, ..AuthSettings::default() };
        let authentication = Arc::new(Authentication::new(&settings).expect("randomness"));
        let dispatch = Dispatch::new(core.handle.clone(), Arc::default(), authentication);
        let mut auth = AuthClient::new(dispatch);
        let add = pb::AuthUserAddRequest {
            name: "eve".into(),
            password: "eve".into(),
            ..Default::default()
        };
        let change =
            pb::AuthUserChangePasswordRequest { name: "root".into(), ..Default::default() };
        let change = pb::AuthUserChangePasswordRequest { password: "eve".into(), ..change };
        let timeout = Duration::from_secs(2);
        let mut add = Request::new(add);
        add.set_timeout(timeout);
        add.extensions_mut().insert(ClientCommonName("ann".to_owned()));
        let mut change = Request::new(change);
        change.set_timeout(timeout);
        change.extensions_mut().insert(ClientCommonName("ann".to_owned()));
        assert_eq!(text(auth.user_add(add).await.unwrap_err()), DENIED);
        assert_eq!(text(auth.user_change_password(change).await.unwrap_err()), DENIED);
    });
}

#[test]
fn a_certificate_names_its_user() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Write, "a", "")]).await;
        let authentication = Authentication::new(&AuthSettings::default()).expect("randomness");
        let authentication = Arc::new(authentication);
        let dispatch =
            Dispatch::new(core.handle.clone(), Arc::default(), Arc::clone(&authentication));
        let mut keyspace = KvClient::new(dispatch);
        let named = |name: &str, key: &str| {
            let mut request = Request::new(put(key, "v"));
            request.extensions_mut().insert(ClientCommonName(name.to_owned()));
            request
        };
        assert!(keyspace.put(named("ann", "a")).await.is_ok());
        assert_eq!(text(keyspace.put(named("ann", "b")).await.unwrap_err()), DENIED);
        assert!(keyspace.put(named("root", "b")).await.is_ok());
        assert_eq!(text(keyspace.put(named("ghost", "a")).await.unwrap_err()), DENIED);
        // A token goes before the certificate.
        let mut both = named("root", "b");
        let ann = admin.login("ann", "ann").await.unwrap();
        both.metadata_mut().insert("token", ann.parse().unwrap());
        assert_eq!(text(keyspace.put(both).await.unwrap_err()), DENIED);
    });
}

struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn open(channel: Channel, token: &str) -> Watching {
        let (requests, receiver) = mpsc::channel(16);
        let request = shown(token, ReceiverStream::new(receiver));
        let responses = WatchClient::new(channel).watch(request).await.unwrap();
        Watching { requests, responses: responses.into_inner() }
    }

    async fn create(&mut self, key: &str, range_end: &str) -> pb::WatchResponse {
        let create = pb::WatchCreateRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            range_end: Bytes::copy_from_slice(range_end.as_bytes()),
            ..Default::default()
        };
        let request_union = Some(RequestUnion::CreateRequest(create));
        let sent = self.requests.send(pb::WatchRequest { request_union }).await;
        sent.expect("the stream is open");
        self.next().await
    }

    /// Asks nothing more; the watchers stay.
    fn half_close(&mut self) {
        self.requests = mpsc::channel(1).0;
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        next.expect("an answer in time").expect("no error").expect("no end")
    }
}

#[test]
fn a_single_key_grant_opens_no_open_ended_watch() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        admin.guard(&[may(Readwrite, "a", "")]).await;
        let ann = admin.login("ann", "ann").await.unwrap();
        let mut watching = Watching::open(admin.channel.clone(), &ann).await;
        // An empty key is the smallest one.
        for (key, end) in [("a", "\0"), ("a", "b"), ("", "\0"), ("", ""), ("b", ""), ("a", "a\0\0")]
        {
            let refused = watching.create(key, end).await;
            assert!(refused.created && refused.canceled, "{key:?} to {end:?}");
            assert_eq!((refused.watch_id, refused.cancel_reason.as_str()), (-1, WATCH_DENIED));
        }
        let made = watching.create("a", "").await;
        assert!(made.created && !made.canceled);
        let mut nobody = Watching::open(admin.channel.clone(), "forged").await;
        let forged = nobody.create("a", "").await.cancel_reason;
        assert_eq!(forged, format!("rpc error: code = Unauthenticated desc = {INVALID}"));
    });
}

#[test]
fn a_watch_ends_with_the_permission_for_it() {
    let core = FakeCore::start();
    block_on(async {
        let mut admin = Admin::of(&core).await;
        // Made while nobody was asked.
        let mut early = Watching::open(admin.channel.clone(), "").await;
        let anonymous = early.create("\0", "\0").await.watch_id;
        admin.guard(&[may(Read, "a", ""), may(Readwrite, "b", "")]).await;
        let ended = early.next().await;
        assert_eq!(ended.watch_id, anonymous);
        assert_eq!(
            ended.cancel_reason,
            format!("rpc error: code = InvalidArgument desc = {EMPTY}")
        );

        let root = admin.login("root", "root").await.unwrap();
        let ann = admin.login("ann", "ann").await.unwrap();
        let mut watching = Watching::open(admin.channel.clone(), &ann).await;
        let lost = watching.create("a", "").await.watch_id;
        let kept = watching.create("b", "").await.watch_id;
        let revoke = pb::AuthRoleRevokePermissionRequest {
            role: "some".into(),
            key: "a".into(),
            range_end: Bytes::new(),
        };
        watching.half_close();
        admin.auth.role_revoke_permission(shown(&root, revoke)).await.unwrap();
        // Whatever is written after the revocation is answered is heard by nobody who lost it.
        admin.put(&root, "a").await.unwrap();
        let ended = watching.next().await;
        assert!(ended.canceled && ended.events.is_empty());
        assert_eq!((ended.watch_id, ended.cancel_reason.as_str()), (lost, WATCH_DENIED));
        admin.put(&ann, "b").await.unwrap();
        let event = watching.next().await;
        assert_eq!((event.watch_id, event.events.len()), (kept, 1));
        admin.change_password(&root, "ann").await.unwrap();
        let ended = watching.next().await;
        let old = "etcdserver: revision of auth store is old";
        assert_eq!(ended.cancel_reason, format!("rpc error: code = InvalidArgument desc = {old}"));
    });
}
