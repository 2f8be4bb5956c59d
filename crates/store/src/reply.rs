//! What applying a command, or reading, answers.

use crate::member_table::{ListedMember, MembershipRefusal};
use crate::range::{KeyValue, Revision};

/// The effect of a command. `revision` is the keyspace's after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The session is open.
    SessionOpened,
    /// The key was set.
    Put {
        /// Revision of the header.
        revision: Revision,
        /// The version replaced, if asked for.
        previous: Option<KeyValue>,
    },
    /// Keys were deleted.
    DeleteRange {
        /// Revision of the header.
        revision: Revision,
        /// How many.
        deleted: i64,
        /// The versions deleted, if asked for.
        previous: Vec<KeyValue>,
    },
    /// The transaction ran.
    Txn {
        /// Revision of the header.
        revision: Revision,
        /// What it did.
        reply: TxnReply,
    },
    /// History up to the revision is forgotten.
    Compacted {
        /// Revision of the header.
        revision: Revision,
    },
    /// The lease lives.
    LeaseGranted {
        /// Revision of the header.
        revision: Revision,
        /// Its id.
        id: i64,
        /// Its time to live in seconds.
        ttl_s: u64,
    },
    /// The lease and its keys are gone.
    LeaseRevoked {
        /// Revision of the header.
        revision: Revision,
    },
    /// Per lease asked for, in order: the time to live granted anew in seconds; 0 if it is lost.
    LeasesRenewed {
        /// Revision of the header.
        revision: Revision,
        /// The times to live.
        ttls_s: Vec<u64>,
    },
    /// Users or roles are as asked for.
    AuthChanged {
        /// Revision of the header.
        revision: Revision,
    },
    /// The consistent core took note.
    Registered,
    /// The member table changed; this is it now, ascending by id.
    Members(Vec<ListedMember>),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnReply {
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// One per operation of the branch taken.
    pub replies: Vec<TxnOpReply>,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOpReply {
    /// A read.
    Range(RangeReply),
    /// A write, with the version replaced if asked for.
    Put {
        /// The version replaced, if asked for.
        previous: Option<KeyValue>,
    },
    /// A deletion.
    DeleteRange {
        /// How many.
        deleted: i64,
        /// The versions deleted, if asked for.
        previous: Vec<KeyValue>,
    },
    /// A transaction within.
    Txn(TxnReply),
}

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// The keyspace's revision at the time of the read (not the one asked for).
    pub revision: Revision,
    /// The pairs.
    pub pairs: Vec<KeyValue>,
    /// Whether `limit` left some out.
    pub more: bool,
    /// Number of keys in the range, whatever the limit.
    pub count: i64,
}

/// Why a command or a read was refused; nothing changed. Deterministic: every member answers so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The revision asked for has been compacted.
    Compacted {
        /// First revision that can still be read.
        compacted: Revision,
    },
    /// The revision asked for does not exist yet.
    FutureRevision {
        /// The current one.
        current: Revision,
    },
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    KeyNotFound,
    /// The lease to attach does not exist.
    LeaseNotFound,
    /// A lease of this id lives already.
    LeaseExists,
    /// The session is unknown or expired; nothing was applied, and a later try under it never will.
    SessionExpired,
    /// The command is not one of this group's state machine.
    WrongGroup,
    /// A member's directory id is not the one that the consistent core knows.
    ForeignDirectory,
    /// The member table does not allow it.
    Membership(MembershipRefusal),
    /// A user or role cannot be changed so, or the caller may not.
    Auth(AuthError),
}

/// Why a user or role cannot be changed so, or a caller may not do something (etcd's `auth`
/// errors).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// Authentication begins with a user root.
    RootUserNotFound,
    /// The user root has to have the role root.
    RootRoleNotGranted,
    /// A user has the name already.
    UserExists,
    /// A user without a name; also a caller who did not say who they are.
    UserEmpty,
    /// No user has the name.
    UserNotFound,
    /// A role has the name already.
    RoleExists,
    /// A role without a name.
    RoleEmpty,
    /// No role has the name.
    RoleNotFound,
    /// The user does not have the role.
    RoleNotGranted,
    /// The role does not have the permission.
    PermissionNotGranted,
    /// Their roles do not allow it.
    PermissionDenied,
    /// It would leave nobody in charge, or grants nothing.
    InvalidManagement,
    /// What proved who the caller is was overtaken: they have to prove it again.
    OldRevision,
    /// There are as many users, roles or permissions as there can be.
    TooMany,
}

impl AuthError {
    /// Its number in the chain hash; never used again for another.
    pub(crate) fn code(self) -> i64 {
        match self {
            AuthError::RootUserNotFound => 1,
            AuthError::RootRoleNotGranted => 2,
            AuthError::UserExists => 3,
            AuthError::UserEmpty => 4,
            AuthError::UserNotFound => 5,
            AuthError::RoleExists => 6,
            AuthError::RoleEmpty => 7,
            AuthError::RoleNotFound => 8,
            AuthError::RoleNotGranted => 9,
            AuthError::PermissionNotGranted => 10,
            AuthError::PermissionDenied => 11,
            AuthError::InvalidManagement => 12,
            AuthError::OldRevision => 13,
            AuthError::TooMany => 14,
        }
    }
}
