//! Access guard: what a call asks of its caller before its service sees it, by name.
//!
//! Every call that can be served is listed, so that none is open because nobody thought of it: what
//! is not listed is for root alone. Who may call what is etcd 3.6's; what the caller may do with
//! which keys is decided behind the guard, where keys are read or commands applied.

/// What a call asks of its caller while authentication is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Nothing: no token is looked at.
    Open,
    /// To be a user.
    User,
    /// To be a user, or root: its service asks, once it knows what is wanted.
    UserOrRoot,
    /// The role of root.
    Root,
    /// Its service asks with each message of a stream.
    EachMessage,
}

/// Every call, and its guard.
const GUARDS: [(&str, Guard); 54] = [
    ("/etcdserverpb.KV/Range", Guard::User),
    ("/etcdserverpb.KV/Put", Guard::User),
    ("/etcdserverpb.KV/DeleteRange", Guard::User),
    ("/etcdserverpb.KV/Txn", Guard::User),
    ("/etcdserverpb.KV/Compact", Guard::User),
    ("/etcdserverpb.KV/RangeStream", Guard::User),
    ("/etcdserverpb.Watch/Watch", Guard::EachMessage),
    ("/etcdserverpb.Lease/LeaseGrant", Guard::User),
    ("/etcdserverpb.Lease/LeaseRevoke", Guard::User),
    ("/etcdserverpb.Lease/LeaseKeepAlive", Guard::EachMessage),
    ("/etcdserverpb.Lease/LeaseTimeToLive", Guard::User),
    ("/etcdserverpb.Lease/LeaseLeases", Guard::User),
    ("/etcdserverpb.Cluster/MemberAdd", Guard::Root),
    ("/etcdserverpb.Cluster/MemberRemove", Guard::Root),
    ("/etcdserverpb.Cluster/MemberUpdate", Guard::Root),
    ("/etcdserverpb.Cluster/MemberList", Guard::Open),
    ("/etcdserverpb.Cluster/MemberPromote", Guard::Root),
    // Listing alarms is for users, whatever else it does for root.
    ("/etcdserverpb.Maintenance/Alarm", Guard::UserOrRoot),
    ("/etcdserverpb.Maintenance/Status", Guard::User),
    ("/etcdserverpb.Maintenance/Defragment", Guard::Root),
    ("/etcdserverpb.Maintenance/Hash", Guard::Root),
    ("/etcdserverpb.Maintenance/HashKV", Guard::Root),
    ("/etcdserverpb.Maintenance/Snapshot", Guard::Root),
    ("/etcdserverpb.Maintenance/MoveLeader", Guard::Root),
    ("/etcdserverpb.Maintenance/Downgrade", Guard::Root),
    // For root, which is asked where changes are applied, and after a barrier for the rest.
    ("/etcdserverpb.Auth/AuthEnable", Guard::User),
    ("/etcdserverpb.Auth/AuthDisable", Guard::User),
    ("/etcdserverpb.Auth/AuthStatus", Guard::User),
    ("/etcdserverpb.Auth/Authenticate", Guard::Open),
    ("/etcdserverpb.Auth/UserAdd", Guard::User),
    ("/etcdserverpb.Auth/UserGet", Guard::User),
    ("/etcdserverpb.Auth/UserList", Guard::User),
    ("/etcdserverpb.Auth/UserDelete", Guard::User),
    ("/etcdserverpb.Auth/UserChangePassword", Guard::User),
    ("/etcdserverpb.Auth/UserGrantRole", Guard::User),
    ("/etcdserverpb.Auth/UserRevokeRole", Guard::User),
    ("/etcdserverpb.Auth/RoleAdd", Guard::User),
    ("/etcdserverpb.Auth/RoleGet", Guard::User),
    ("/etcdserverpb.Auth/RoleList", Guard::User),
    ("/etcdserverpb.Auth/RoleDelete", Guard::User),
    ("/etcdserverpb.Auth/RoleGrantPermission", Guard::User),
    ("/etcdserverpb.Auth/RoleRevokePermission", Guard::User),
    ("/v3lockpb.Lock/Lock", Guard::User),
    ("/v3lockpb.Lock/Unlock", Guard::User),
    ("/v3electionpb.Election/Campaign", Guard::User),
    ("/v3electionpb.Election/Proclaim", Guard::User),
    ("/v3electionpb.Election/Leader", Guard::User),
    ("/v3electionpb.Election/Observe", Guard::User),
    ("/v3electionpb.Election/Resign", Guard::User),
    // What balancers and probes ask.
    ("/grpc.health.v1.Health/Check", Guard::Open),
    ("/grpc.health.v1.Health/Watch", Guard::Open),
    ("/grpc.health.v1.Health/List", Guard::Open),
    // What these files say anyway.
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Guard::Open),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Guard::Open),
];

impl Guard {
    /// The guard of the call at this path.
    pub(super) fn of(path: &str) -> Guard {
        let listed = GUARDS.iter().find(|(known, _)| *known == path);
        listed.map_or(Guard::Root, |(_, guard)| *guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Calls for which nobody has to be a user, as etcd 3.6 has them, and reflection.
    const WITHOUT_A_USER: [&str; 7] = [
        "/etcdserverpb.Auth/Authenticate",
        "/etcdserverpb.Cluster/MemberList",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ];

    /// Every call of every service that the protocol files describe.
    fn described() -> BTreeSet<String> {
        let roots = ["rpc.proto", "lock.proto", "election.proto", "health.proto"];
        let files = protox::compile(roots, ["../wire/proto"]).expect("the files compile").file;
        let calls = files.iter().flat_map(|file| {
            file.service.iter().flat_map(|service| {
                service.method.iter().map(|method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                })
            })
        });
        calls.collect()
    }

    #[test]
    fn no_endpoint_is_unguarded() {
        let listed: BTreeSet<String> = GUARDS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed.len(), GUARDS.len(), "a call is listed twice");
        let forgotten: Vec<_> = described().difference(&listed).cloned().collect();
        assert_eq!(forgotten, Vec::<String>::new(), "calls without a guard");
        let open = GUARDS.iter().filter(|(_, guard)| *guard == Guard::Open);
        let open: BTreeSet<_> = open.map(|(path, _)| *path).collect();
        assert_eq!(open, BTreeSet::from(WITHOUT_A_USER));
        assert!(described().len() >= 48, "the files describe every service");
    }

    #[test]
    fn what_nobody_thought_of_is_for_root() {
        assert_eq!(Guard::of("/etcdserverpb.KV/Drop"), Guard::Root);
        assert_eq!(Guard::of("/etcdserverpb.KV/range"), Guard::Root);
    }
}
