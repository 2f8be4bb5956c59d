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
}
