//! Commands: what a log entry asks of a state machine. Their encoding (versioned envelope, byte
//! table in docs/formats.md) is `Envelope::encode` / `decode`.

pub use crate::member_table::{ListedMember, MembershipCommand, MembershipRefusal};
use crate::range::{KeyRange, Range, Revision};
use bytes::Bytes;
use clocks::NodeId;

/// Whose requests a sequence numbers: one incarnation of one member. The first session of a
/// process has the incarnation of its log; refused sessions are followed by fresh ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId {
    /// The member that forwards.
    pub member: NodeId,
    /// Greater than every incarnation that this member used before: an expired session cannot be
    /// opened again, or a late repetition would be applied under it.
    pub incarnation: u64,
}

/// What an entry carries: the command and what makes repeating it harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Whose request; must be open, except for `OpenSession` itself.
    pub session: SessionId,
    /// Grows by one per request of the session, from 1.
    pub sequence: u64,
    /// Every sequence of this session below this one has been answered: forget them.
    pub answered_below: u64,
    /// Wall time at the proposer in milliseconds; advisory, never a version.
    pub advisory_time_ms: u64,
    /// On whose behalf; nobody's while users are not asked who they are.
    pub caller: Option<Caller>,
    /// What to do.
    pub command: Command,
}

/// On whose behalf a command is proposed. What they may do is decided where it is applied, by the
/// users and roles of that very place in the log.
///
/// Members read of one from feature level 2 on, and nothing but those who name one sees to it: the
/// gate of levels (`replica`) looks at commands alone. A front end names no user while its member
/// knows of no authentication, which only a command of level 2 turns on; the cluster is named with
/// commands of that level, or once it is reached. So no caller travels below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A user, as a member has made sure.
    User {
        /// Their name.
        name: String,
        /// The auth revision at which they proved who they are: later changes of the user (a new
        /// password, a namesake after a deletion) make it worthless.
        revision: u64,
    },
    /// The cluster, for its own upkeep: never on behalf of a client.
    Cluster,
}

impl Caller {
    /// About how many bytes it takes in memory and when encoded.
    #[must_use]
    pub fn weight(&self) -> usize {
        const FIXED: usize = 16;
        match self {
            Caller::User { name, .. } => FIXED + name.len(),
            Caller::Cluster => FIXED,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Opens the envelope's session.
    OpenSession,
    /// Keyspace: set a key.
    Put(Put),
    /// Keyspace: delete keys.
    DeleteRange(DeleteRange),
    /// Keyspace: compare, then one of two branches, atomically.
    Txn(Txn),
    /// Keyspace: forget versions superseded at or before this revision.
    Compact {
        /// From here on history stays.
        revision: Revision,
    },
    /// Keyspace: the lease clock moves, and leases that are due end. Made by the leader alone, for
    /// its own term, without a session: it needs no answer, and a late one changes nothing.
    LeaseTick {
        /// The lease clock is at least this, in milliseconds.
        clock_ms: u64,
        /// Leases and keys after which no further lease is revoked by this entry.
        revoke_max: u32,
    },
    /// Keyspace: a lease begins.
    LeaseGrant {
        /// Its id, not 0.
        id: i64,
        /// How long it lives after each renewal, in seconds.
        ttl_s: u64,
    },
    /// Keyspace: a lease ends, and its keys with it.
    LeaseRevoke {
        /// Which.
        id: i64,
    },
    /// Keyspace: leases live on.
    LeaseRenew {
        /// Which; at most [`crate::limits::LEASE_RENEW_MAX`].
        ids: Vec<i64>,
    },
    /// Keyspace: users, roles, and whether anybody is asked who they are.
    Auth(AuthCommand),
    /// Consistent core: a member says who it is and what it speaks.
    RegisterMember(Member),
    /// Consistent core: new formats up to this level may be written.
    RaiseFeatureLevel {
        /// Every member speaks it.
        level: u32,
    },
    /// Consistent core: who is a member.
    Membership(MembershipCommand),
}

impl Caller {
    /// The feature level from which members can read who asks, and may have users at all.
    pub const FEATURE_LEVEL: u32 = 2;
}

impl Envelope {
    /// The feature level from which members understand it.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        let of_caller = if self.caller.is_some() { Caller::FEATURE_LEVEL } else { 1 };
        self.command.feature_level().max(of_caller)
    }
}

impl Command {
    /// The feature level from which members understand it: below that level of the cluster it must
    /// not be proposed, since a member of an older build could not apply it.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        match self {
            Command::OpenSession
            | Command::Put(_)
            | Command::DeleteRange(_)
            | Command::Txn(_)
            | Command::Compact { .. }
            | Command::RegisterMember(_)
            | Command::RaiseFeatureLevel { .. } => 1,
            Command::LeaseTick { .. }
            | Command::LeaseGrant { .. }
            | Command::LeaseRevoke { .. }
            | Command::LeaseRenew { .. }
            | Command::Auth(_)
            | Command::Membership(_) => 2,
        }
    }

    /// Whether it may make a keyspace grow, so that it has to wait while disk space is short. What
    /// makes room again must not.
    #[must_use]
    pub fn takes_space(&self) -> bool {
        match self {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => txn.may_put(),
            Command::OpenSession
            | Command::DeleteRange(_)
            | Command::Compact { .. }
            | Command::LeaseTick { .. }
            | Command::LeaseRevoke { .. }
            | Command::LeaseRenew { .. }
            | Command::Auth(_)
            | Command::RegisterMember(_)
            | Command::RaiseFeatureLevel { .. }
            | Command::Membership(_) => false,
        }
    }
}

/// A change of users and roles (etcd `Auth` service).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthCommand {
    /// From here on everybody is asked who they are.
    Enable {
        /// Drawn at random by the proposer.
        secret: TokenSecret,
    },
    /// Nobody is asked any more.
    Disable,
    /// A new user.
    UserAdd {
        /// Their name.
        name: String,
        /// Hash of their password.
        password: Bytes,
        /// Known by a certificate alone.
        no_password: bool,
    },
    /// A user goes.
    UserDelete {
        /// Who.
        name: String,
    },
    /// A user gets another password; what proved them before is worthless.
    UserChangePassword {
        /// Who.
        name: String,
        /// Hash of the password; empty: none will fit.
        password: Bytes,
    },
    /// A user gets a role.
    UserGrantRole {
        /// Who.
        name: String,
        /// Which.
        role: String,
    },
    /// A user loses a role.
    UserRevokeRole {
        /// Who.
        name: String,
        /// Which.
        role: String,
    },
    /// A new role, which allows nothing.
    RoleAdd {
        /// Its name.
        name: String,
    },
    /// A role goes, and is taken from all who have it.
    RoleDelete {
        /// Which.
        name: String,
    },
    /// A role allows more; another permission on the very same keys is replaced.
    RoleGrantPermission {
        /// Which.
        name: String,
        /// What.
        permission: Permission,
    },
    /// A role loses the permission on exactly these keys.
    RoleRevokePermission {
        /// Which.
        name: String,
        /// What.
        keys: KeyRange,
    },
}

/// Leave to read or write some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// To do what.
    pub kind: PermissionKind,
    /// Which; not empty.
    pub keys: KeyRange,
}

/// What a permission allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionKind {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
}

/// What members seal their tokens with. Nothing shows it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TokenSecret(pub [u8; 32]);

impl std::fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// A member of the cluster, as the consistent core knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where its peers reach it (`host:port`).
    pub peer_addresses: Vec<String>,
    /// Where its clients reach it (URLs); empty until it has started once.
    pub client_urls: Vec<String>,
    /// Identity of its data directory, zero until it has started once: an empty directory under a
    /// known member id is refused.
    pub directory_id: u128,
    /// Highest feature level that it speaks.
    pub feature_level: u32,
}

/// Set a key (etcd `PutRequest`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The key, not empty.
    pub key: Bytes,
    /// The new value.
    pub value: Bytes,
    /// Lease to attach; 0: none.
    pub lease: i64,
    /// Return the version replaced.
    pub prev_kv: bool,
    /// Keep the value; the key must exist.
    pub ignore_value: bool,
    /// Keep the lease; the key must exist.
    pub ignore_lease: bool,
}

/// Delete keys (etcd `DeleteRangeRequest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRange {
    /// Which.
    pub keys: KeyRange,
    /// Return the versions deleted.
    pub prev_kv: bool,
}

/// Compare and branch (etcd `TxnRequest`). The nesting depth and the number of operations are
/// validated before it is proposed, and bounded again by the decoder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `success`.
    pub compare: Vec<Compare>,
    /// Done if they hold.
    pub success: Vec<TxnOp>,
    /// Done if not.
    pub failure: Vec<TxnOp>,
}

impl Txn {
    /// Whether neither branch can write, at any depth.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            TxnOp::Range(_) => true,
            TxnOp::Put(_) | TxnOp::DeleteRange(_) => false,
            TxnOp::Txn(txn) => txn.is_read_only(),
        })
    }
}

impl Txn {
    /// Whether a branch holds a put, at any depth.
    fn may_put(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            TxnOp::Put(_) => true,
            TxnOp::Range(_) | TxnOp::DeleteRange(_) => false,
            TxnOp::Txn(txn) => txn.may_put(),
        })
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Read, seeing the steps before.
    Range(Range),
    /// Write.
    Put(Put),
    /// Delete.
    DeleteRange(DeleteRange),
    /// A transaction within.
    Txn(Txn),
}

/// A condition on every key of a range; a missing key counts as version, revisions and lease 0 and
/// fails a comparison of values (as etcd's `applyCompares` does).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub keys: KeyRange,
    /// How the key's attribute must stand to the operand.
    pub result: CompareResult,
    /// The attribute and the operand.
    pub target: CompareTarget,
}

/// How the attribute stands to the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// Equal.
    Equal,
    /// Greater.
    Greater,
    /// Less.
    Less,
    /// Not equal.
    NotEqual,
}

/// Attribute and operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The version.
    Version(i64),
    /// The create revision.
    Create(Revision),
    /// The mod revision.
    Mod(Revision),
    /// The value.
    Value(Bytes),
    /// The lease.
    Lease(i64),
}
