//! Messages of the protobuf protocols, generated from `proto/` by `build.rs`. Byte fields are
//! slices of the received buffer where the transport hands over `Bytes`.

macro_rules! package {
    ($($(#[$doc:meta])* $module:ident = $package:literal;)*) => {
        $(
            $(#[$doc])*
            pub mod $module {
                include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
            }
        )*
    };
}

package! {
    /// etcd's users, roles and permissions.
    authpb = "authpb";
    /// etcd's requests and replies.
    etcdserverpb = "etcdserverpb";
    /// The gRPC health checking protocol.
    health = "grpc.health.v1";
    /// etcd's keys and events.
    mvccpb = "mvccpb";
    /// etcd's elections.
    v3electionpb = "v3electionpb";
    /// etcd's locks.
    v3lockpb = "v3lockpb";
}
