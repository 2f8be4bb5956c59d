//! Error texts and codes of etcd 3.6, byte for byte (its `api/v3rpc/rpctypes/error.go`): clients
//! compare the texts.
//!
//! Grouped by what the caller does next; each group's doc says it.

use replica::RequestError;
use std::borrow::Cow;
use std::fmt;
use store::MembershipRefusal;
use store::reply::{AuthError, StoreError};

/// gRPC status codes, with their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The caller gave up.
    Canceled = 1,
    /// No code fits.
    Unknown = 2,
    /// The request itself is wrong.
    InvalidArgument = 3,
    /// It was not done in time; it may yet be.
    DeadlineExceeded = 4,
    /// What it names does not exist.
    NotFound = 5,
    /// Not allowed.
    PermissionDenied = 7,
    /// A quota or a queue is full.
    ResourceExhausted = 8,
    /// Not in this state of the system.
    FailedPrecondition = 9,
    /// Beyond what there is.
    OutOfRange = 11,
    /// Not built.
    Unimplemented = 12,
    /// Not now.
    Unavailable = 14,
    /// Data is lost or corrupt.
    DataLoss = 15,
    /// Who are you?
    Unauthenticated = 16,
}

/// A refusal as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// The gRPC code.
    pub code: Code,
    /// The text; clients compare it.
    pub message: Cow<'static, str>,
}

impl ProtocolError {
    /// A refusal with a text of ours: for what etcd has no text for.
    pub fn of(code: Code, message: impl Into<Cow<'static, str>>) -> ProtocolError {
        ProtocolError { code, message: message.into() }
    }

    const fn etcd(code: Code, message: &'static str) -> ProtocolError {
        ProtocolError { code, message: Cow::Borrowed(message) }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ProtocolError {}

macro_rules! errors {
    ($($name:ident $code:ident $text:literal)*) => {
        $(
            #[doc = $text]
            pub const $name: ProtocolError = ProtocolError::etcd(Code::$code, $text);
        )*
        #[cfg(test)]
        const ALL: &[(&str, ProtocolError)] = &[$((stringify!($name), $name)),*];
    };
}

errors! {
    EMPTY_KEY InvalidArgument "etcdserver: key is not provided"
    KEY_NOT_FOUND InvalidArgument "etcdserver: key not found"
    VALUE_PROVIDED InvalidArgument "etcdserver: value is provided"
    LEASE_PROVIDED InvalidArgument "etcdserver: lease is provided"
    TOO_MANY_OPS InvalidArgument "etcdserver: too many operations in txn request"
    DUPLICATE_KEY InvalidArgument "etcdserver: duplicate key given in txn request"
    INVALID_CLIENT_API_VERSION InvalidArgument "etcdserver: invalid client api version"
    INVALID_SORT_OPTION InvalidArgument "etcdserver: invalid sort option"
    COMPACTED OutOfRange "etcdserver: mvcc: required revision has been compacted"
    FUTURE_REVISION OutOfRange "etcdserver: mvcc: required revision is a future revision"
    NO_SPACE ResourceExhausted "etcdserver: mvcc: database space exceeded"

    LEASE_NOT_FOUND NotFound "etcdserver: requested lease not found"
    LEASE_EXISTS FailedPrecondition "etcdserver: lease already exists"
    LEASE_TTL_TOO_LARGE OutOfRange "etcdserver: too large lease TTL"

    WATCH_CANCELED Canceled "etcdserver: watch canceled"

    MEMBER_EXISTS FailedPrecondition "etcdserver: member ID already exist"
    PEER_URL_EXISTS FailedPrecondition "etcdserver: Peer URLs already exists"
    MEMBER_NOT_ENOUGH_STARTED FailedPrecondition
        "etcdserver: re-configuration failed due to not enough started members"
    MEMBER_BAD_URLS InvalidArgument "etcdserver: given member URLs are invalid"
    MEMBER_NOT_FOUND NotFound "etcdserver: member not found"
    MEMBER_NOT_LEARNER FailedPrecondition "etcdserver: can only promote a learner member"
    LEARNER_NOT_READY FailedPrecondition
        "etcdserver: can only promote a learner member which is in sync with leader"
    TOO_MANY_LEARNERS FailedPrecondition "etcdserver: too many learner members in cluster"
    CLUSTER_ID_MISMATCH FailedPrecondition "etcdserver: cluster ID mismatch"

    REQUEST_TOO_LARGE InvalidArgument "etcdserver: request is too large"
    TOO_MANY_REQUESTS ResourceExhausted "etcdserver: too many requests"

    ROOT_USER_NOT_EXIST FailedPrecondition "etcdserver: root user does not exist"
    ROOT_ROLE_NOT_EXIST FailedPrecondition "etcdserver: root user does not have root role"
    USER_ALREADY_EXISTS FailedPrecondition "etcdserver: user name already exists"
    USER_EMPTY InvalidArgument "etcdserver: user name is empty"
    USER_NOT_FOUND FailedPrecondition "etcdserver: user name not found"
    ROLE_ALREADY_EXISTS FailedPrecondition "etcdserver: role name already exists"
    ROLE_NOT_FOUND FailedPrecondition "etcdserver: role name not found"
    ROLE_EMPTY InvalidArgument "etcdserver: role name is empty"
    AUTH_FAILED InvalidArgument
        "etcdserver: authentication failed, invalid user ID or password"
    PERMISSION_NOT_GIVEN InvalidArgument "etcdserver: permission not given"
    PERMISSION_DENIED PermissionDenied "etcdserver: permission denied"
    ROLE_NOT_GRANTED FailedPrecondition "etcdserver: role is not granted to the user"
    PERMISSION_NOT_GRANTED FailedPrecondition "etcdserver: permission is not granted to the role"
    AUTH_NOT_ENABLED FailedPrecondition "etcdserver: authentication is not enabled"
    INVALID_AUTH_TOKEN Unauthenticated "etcdserver: invalid auth token"
    INVALID_AUTH_MANAGEMENT InvalidArgument "etcdserver: invalid auth management"
    AUTH_OLD_REVISION InvalidArgument "etcdserver: revision of auth store is old"

    NO_LEADER Unavailable "etcdserver: no leader"
    NOT_LEADER FailedPrecondition "etcdserver: not leader"
    LEADER_CHANGED Unavailable "etcdserver: leader changed"
    NOT_CAPABLE FailedPrecondition "etcdserver: not capable"
    STOPPED Unavailable "etcdserver: server stopped"
    TIMEOUT Unavailable "etcdserver: request timed out"
    TIMEOUT_LEADER_FAILED Unavailable
        "etcdserver: request timed out, possibly due to previous leader failure"
    TIMEOUT_CONNECTION_LOST Unavailable
        "etcdserver: request timed out, possibly due to connection lost"
    TIMEOUT_APPLIED_INDEX Unavailable
        "etcdserver: request timed out, waiting for the applied index took too long"
    TIMEOUT_LEADER_TRANSFER Unknown
        "etcdserver: request timed out, leader transfer took too long"
    UNHEALTHY Unavailable "etcdserver: unhealthy cluster"
    CORRUPT DataLoss "etcdserver: corrupt cluster"
    NOT_SUPPORTED_FOR_LEARNER FailedPrecondition "etcdserver: rpc not supported for learner"
    BAD_LEADER_TRANSFEREE FailedPrecondition "etcdserver: bad leader transferee"

    WRONG_DOWNGRADE_VERSION_FORMAT InvalidArgument
        "etcdserver: wrong downgrade target version format"
    INVALID_DOWNGRADE_TARGET_VERSION InvalidArgument
        "etcdserver: invalid downgrade target version"
    CLUSTER_VERSION_UNAVAILABLE FailedPrecondition
        "etcdserver: cluster version not found during downgrade"
    DOWNGRADE_IN_PROCESS FailedPrecondition
        "etcdserver: cluster has a downgrade job in progress"
    NO_INFLIGHT_DOWNGRADE FailedPrecondition "etcdserver: no inflight downgrade job"

    CANCELED Canceled "etcdserver: request canceled"
    DEADLINE_EXCEEDED DeadlineExceeded "etcdserver: context deadline exceeded"
}

impl From<StoreError> for ProtocolError {
    fn from(error: StoreError) -> ProtocolError {
        match error {
            StoreError::Compacted { .. } => COMPACTED,
            StoreError::FutureRevision { .. } => FUTURE_REVISION,
            StoreError::KeyNotFound => KEY_NOT_FOUND,
            StoreError::LeaseNotFound => LEASE_NOT_FOUND,
            StoreError::LeaseExists => LEASE_EXISTS,
            StoreError::SessionExpired => ProtocolError::of(
                Code::FailedPrecondition,
                "quorate: the session is unknown or has expired; nothing was applied",
            ),
            StoreError::WrongGroup => ProtocolError::of(
                Code::FailedPrecondition,
                "quorate: this group does not hold what the command is about",
            ),
            StoreError::Membership(refusal) => refusal.into(),
            StoreError::ForeignDirectory => ProtocolError::of(
                Code::FailedPrecondition,
                "quorate: another data directory is known under this member id",
            ),
            StoreError::Auth(error) => error.into(),
        }
    }
}

impl From<AuthError> for ProtocolError {
    fn from(error: AuthError) -> ProtocolError {
        match error {
            AuthError::RootUserNotFound => ROOT_USER_NOT_EXIST,
            AuthError::RootRoleNotGranted => ROOT_ROLE_NOT_EXIST,
            AuthError::UserExists => USER_ALREADY_EXISTS,
            AuthError::UserEmpty => USER_EMPTY,
            AuthError::UserNotFound => USER_NOT_FOUND,
            AuthError::RoleExists => ROLE_ALREADY_EXISTS,
            AuthError::RoleEmpty => ROLE_EMPTY,
            AuthError::RoleNotFound => ROLE_NOT_FOUND,
            AuthError::RoleNotGranted => ROLE_NOT_GRANTED,
            AuthError::PermissionNotGranted => PERMISSION_NOT_GRANTED,
            AuthError::PermissionDenied => PERMISSION_DENIED,
            AuthError::InvalidManagement => INVALID_AUTH_MANAGEMENT,
            AuthError::OldRevision => AUTH_OLD_REVISION,
            AuthError::TooMany => ProtocolError::of(
                Code::ResourceExhausted,
                "quorate: there are as many users, roles or permissions as there can be",
            ),
        }
    }
}

impl From<MembershipRefusal> for ProtocolError {
    fn from(refusal: MembershipRefusal) -> ProtocolError {
        match refusal {
            MembershipRefusal::MemberExists => MEMBER_EXISTS,
            MembershipRefusal::PeerUrlExists => PEER_URL_EXISTS,
            // As etcd says of removed ids.
            MembershipRefusal::MemberNotFound | MembershipRefusal::MemberRemoved => {
                MEMBER_NOT_FOUND
            }
            MembershipRefusal::MemberNotLearner => MEMBER_NOT_LEARNER,
            MembershipRefusal::TooManyLearners => TOO_MANY_LEARNERS,
            MembershipRefusal::TooManyMembers => ProtocolError::of(
                Code::FailedPrecondition,
                "quorate: a cluster has at most 32 members",
            ),
            MembershipRefusal::NotEnoughStarted => MEMBER_NOT_ENOUGH_STARTED,
            MembershipRefusal::LearnerNotReady => LEARNER_NOT_READY,
            MembershipRefusal::Unhealthy => UNHEALTHY,
            MembershipRefusal::NotFounded => ProtocolError::of(
                Code::Unavailable,
                "quorate: the member table is not complete yet; retry",
            ),
        }
    }
}

impl From<RequestError> for ProtocolError {
    fn from(error: RequestError) -> ProtocolError {
        match error {
            RequestError::Refused(error) => error.into(),
            RequestError::Overloaded => TOO_MANY_REQUESTS,
            RequestError::NoSpace => NO_SPACE,
            RequestError::NotCapable => NOT_CAPABLE,
            RequestError::TimedOut => TIMEOUT,
            // Its outcome is unknown to the client, as if the connection had been lost.
            RequestError::OutcomeUnknown => TIMEOUT_CONNECTION_LOST,
            RequestError::Stopping => STOPPED,
            RequestError::NotLeader => NOT_LEADER,
            RequestError::BadLeaderTransferee => BAD_LEADER_TRANSFEREE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_text_is_etcds_own_and_unique() {
        let texts: BTreeSet<&str> = ALL.iter().map(|(_, error)| &*error.message).collect();
        assert_eq!(texts.len(), ALL.len(), "a text is listed twice");
        for (name, error) in ALL {
            assert!(error.message.starts_with("etcdserver: "), "{name}: {error}");
        }
    }

    #[test]
    fn codes_have_the_numbers_of_grpc() {
        assert_eq!(Code::Canceled as u8, 1);
        assert_eq!(Code::Unknown as u8, 2);
        assert_eq!(EMPTY_KEY.code as u8, 3);
        assert_eq!(DEADLINE_EXCEEDED.code as u8, 4);
        assert_eq!(LEASE_NOT_FOUND.code as u8, 5);
        assert_eq!(PERMISSION_DENIED.code as u8, 7);
        assert_eq!(NO_SPACE.code as u8, 8);
        assert_eq!(NOT_LEADER.code as u8, 9);
        assert_eq!(COMPACTED.code as u8, 11);
        assert_eq!(Code::Unimplemented as u8, 12);
        assert_eq!(NO_LEADER.code as u8, 14);
        assert_eq!(CORRUPT.code as u8, 15);
        assert_eq!(INVALID_AUTH_TOKEN.code as u8, 16);
    }

    #[test]
    fn a_read_of_a_compacted_revision_says_what_etcd_says() {
        let error = ProtocolError::from(StoreError::Compacted { compacted: 7 });
        assert_eq!(error.to_string(), "etcdserver: mvcc: required revision has been compacted");
        assert_eq!(error.code, Code::OutOfRange);
    }
}
