//! Users, their roles, and what these allow.

use etcd_client::{
    Client, GetOptions, LockOptions, Permission, PermissionType, RoleRevokePermissionOptions,
    UserAddOptions, WatchOptions,
};

use crate::cluster::{Checked, Cluster, refused};
use crate::ensure;

/// Of the root user that the checks make, where there is none.
pub const ROOT_PASSWORD: &str = "rust-root";

const DENIED: &str = "etcdserver: permission denied";
const NO_USER: &str = "etcdserver: user name not found";
const NO_ROLE: &str = "etcdserver: role name not found";

pub async fn users_and_roles_are_kept(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    forget(&mut client).await;
    client.user_add("crab", "secret", None).await?;
    let again = client.user_add("crab", "secret", None).await;
    refused(again, "etcdserver: user name already exists")?;
    let unnamed = client.user_add("", "secret", None).await;
    refused(unnamed, "etcdserver: user name is empty")?;
    client.role_add("crab").await?;
    refused(client.role_add("crab").await, "etcdserver: role name already exists")?;
    client.user_grant_role("crab", "crab").await?;
    refused(client.user_grant_role("crab", "nothing").await, NO_ROLE)?;
    refused(client.user_grant_role("nobody", "crab").await, NO_USER)?;
    let users = client.user_list().await?;
    ensure!(users.users().iter().any(|user| user == "crab"), "{users:?}");
    let roles = client.role_list().await?;
    ensure!(roles.roles().iter().any(|role| role == "crab"), "{roles:?}");
    let user = client.user_get("crab").await?;
    ensure!(user.roles() == ["crab"], "{user:?}");

    let wanted = [
        Permission::read("rust/u/a"),
        Permission::read_write("rust/u/mine/").with_prefix(),
        Permission::write("rust/u/z").with_from_key(),
    ];
    for permission in &wanted {
        client.role_grant_permission("crab", permission.clone()).await?;
    }
    let role = client.role_get("crab").await?;
    ensure!(role.permissions() == wanted, "{role:?}");
    let options = RoleRevokePermissionOptions::new().with_prefix();
    client.role_revoke_permission("crab", "rust/u/mine/", Some(options.clone())).await?;
    let again = client.role_revoke_permission("crab", "rust/u/mine/", Some(options)).await;
    refused(again, "etcdserver: permission is not granted to the role")?;
    let role = client.role_get("crab").await?;
    ensure!(role.permissions().len() == 2, "{role:?}");

    client.user_revoke_role("crab", "crab").await?;
    let again = client.user_revoke_role("crab", "crab").await;
    refused(again, "etcdserver: role is not granted to the user")?;
    client.role_delete("crab").await?;
    client.user_delete("crab").await?;
    refused(client.user_get("crab").await, NO_USER)?;
    refused(client.user_delete("crab").await, NO_USER)?;
    refused(client.role_get("crab").await, NO_ROLE)?;
    refused(client.role_delete("crab").await, NO_ROLE)
}

pub async fn authentication_is_switched_on(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    refused(client.auth_enable().await, "etcdserver: root user does not exist")?;
    client.user_add("root", ROOT_PASSWORD, None).await?;
    client.role_add("root").await?;
    client.user_grant_role("root", "root").await?;
    client.auth_enable().await?;
    refused(client.get("rust/u", None).await, "etcdserver: user name is empty")
}

/// Asked by root.
pub async fn authentication_is_switched_off(root: &Cluster) -> Checked {
    let mut client = root.connect().await?;
    client.auth_disable().await?;
    let mut client = root.seen_by_nobody().connect().await?;
    client.get("rust/u", None).await?;
    client.user_delete("root").await?;
    client.role_delete("root").await?;
    Ok(())
}

/// What an earlier check may have left.
async fn forget(root: &mut Client) {
    drop(root.user_delete("crab").await);
    drop(root.role_delete("crab").await);
}

/// A user who may do this with the keys below `rust/u/`.
async fn a_user(root: &mut Client, kind: PermissionType) -> Checked {
    forget(root).await;
    root.role_add("crab").await?;
    let permission = Permission::new(kind, "rust/u/").with_prefix();
    root.role_grant_permission("crab", permission).await?;
    root.user_add("crab", "secret", None).await?;
    root.user_grant_role("crab", "crab").await?;
    Ok(())
}

pub async fn a_user_does_what_its_roles_allow(cluster: &Cluster) -> Checked {
    let mut root = cluster.connect().await?;
    root.put("rust/secret", "x", None).await?;
    a_user(&mut root, PermissionType::Read).await?;
    let mut client = cluster.seen_by("crab", "secret").connect().await?;
    let prefix = || Some(GetOptions::new().with_prefix());
    client.get("rust/u/", prefix()).await?;
    refused(client.get("rust/", prefix()).await, DENIED)?;
    refused(client.get("rust/secret", None).await, DENIED)?;
    refused(client.put("rust/u/a", "x", None).await, DENIED)?;
    refused(client.delete("rust/u/a", None).await, DENIED)?;
    refused(client.lock("rust/u/lock", None).await, DENIED)?;
    refused(client.compact(1, None).await, DENIED)?;
    refused(client.user_list().await, DENIED)?;
    refused(client.role_add("more").await, DENIED)?;
    refused(client.auth_disable().await, DENIED)?;
    refused(client.defragment().await, DENIED)?;
    let watched = client.watch("rust/secret", Some(WatchOptions::new())).await;
    let mut watched = watched?;
    let response = watched.message().await?.ok_or("the stream ended")?;
    ensure!(response.canceled() && response.cancel_reason().contains(DENIED), "{response:?}");

    let more = Permission::read_write("rust/u/").with_prefix();
    root.role_grant_permission("crab", more).await?;
    client.put("rust/u/a", "x", None).await?;
    let lease = client.lease_grant(30, None).await?.id();
    let options = LockOptions::new().with_lease(lease);
    let lock = client.lock("rust/u/lock", Some(options)).await?;
    client.unlock(lock.key()).await?;
    client.lease_revoke(lease).await?;
    root.user_revoke_role("crab", "crab").await?;
    refused(client.get("rust/u/a", None).await, DENIED)?;
    forget(&mut root).await;
    Ok(())
}

pub async fn a_token_outlives_a_change_of_roles(cluster: &Cluster) -> Checked {
    let mut root = cluster.connect().await?;
    a_user(&mut root, PermissionType::Readwrite).await?;
    let mut client = cluster.seen_by("crab", "secret").connect().await?;
    client.put("rust/u/a", "1", None).await?;
    root.role_add("rust-other").await?;
    root.role_delete("rust-other").await?;
    client.put("rust/u/a", "2", None).await?;
    forget(&mut root).await;
    Ok(())
}

/// Holds if the token is not good any more; a member that lags hears of it from the log alone.
fn ended<T>(reply: Result<T, etcd_client::Error>) -> Checked {
    let text = reply.err().map_or_else(|| "no error".to_owned(), |error| error.to_string());
    let texts = ["etcdserver: invalid auth token", "etcdserver: revision of auth store is old"];
    ensure!(texts.iter().any(|expected| text.contains(expected)), "found {text:?}");
    Ok(())
}

pub async fn a_new_password_ends_tokens(cluster: &Cluster) -> Checked {
    let mut root = cluster.connect().await?;
    a_user(&mut root, PermissionType::Readwrite).await?;
    let mut client = cluster.seen_by("crab", "secret").connect().await?;
    client.put("rust/u/a", "1", None).await?;
    root.user_change_password("crab", "changed").await?;
    ended(client.put("rust/u/a", "2", None).await)?;
    client.update_user(Some(("crab".to_owned(), "changed".to_owned()))).await?;
    client.put("rust/u/a", "3", None).await?;
    root.user_delete("crab").await?;
    ended(client.put("rust/u/a", "4", None).await)?;
    forget(&mut root).await;
    Ok(())
}

pub async fn who_is_not_known_is_refused(cluster: &Cluster) -> Checked {
    let failed = "etcdserver: authentication failed, invalid user ID or password";
    let mut root = cluster.connect().await?;
    a_user(&mut root, PermissionType::Readwrite).await?;
    for (name, password) in [("crab", "wrong"), ("nobody", "secret")] {
        let error = cluster.seen_by(name, password).connect().await.err();
        let text = error.map_or_else(|| "no error".to_owned(), |error| error.to_string());
        ensure!(text.contains(failed), "{name}: {text:?}");
    }
    let mut nobody = cluster.seen_by_nobody().connect().await?;
    let empty = "etcdserver: user name is empty";
    refused(nobody.get("rust/u/a", None).await, empty)?;
    refused(nobody.put("rust/u/a", "x", None).await, empty)?;
    refused(nobody.lock("rust/u/lock", None).await, empty)?;
    refused(nobody.user_list().await, empty)?;
    forget(&mut root).await;
    // A user without a password comes by certificate alone.
    root.user_add("crab", "", Some(UserAddOptions::new().with_no_pwd())).await?;
    let let_in = cluster.seen_by("crab", "").connect().await;
    ensure!(let_in.is_err(), "an empty password for a user without one");
    forget(&mut root).await;
    Ok(())
}

/// Each member in turn takes what another made the token of.
pub async fn a_token_is_good_at_every_member(cluster: &Cluster) -> Checked {
    let mut root = cluster.connect().await?;
    a_user(&mut root, PermissionType::Readwrite).await?;
    let mut client = cluster.seen_by("crab", "secret").connect().await?;
    let mut members = std::collections::BTreeSet::new();
    while members.len() < cluster.endpoints().len() {
        let put = client.put("rust/u/everywhere", "x", None).await?;
        members.insert(put.header().ok_or("no header")?.member_id());
    }
    forget(&mut root).await;
    Ok(())
}
