//! Requests and replies of the Lease service.

use super::errors::{Code, LEASE_TTL_TOO_LARGE, ProtocolError};
use super::keyspace_reply::Answerer;
use super::pb;
use bytes::Bytes;
use clocks::Term;
use std::time::Duration;
use store::Lease;
use store::command::Command;
use store::limits::{LEASE_SLACK_MS, LEASE_TTL_MAX_S};
use store::range::Revision;
use store::reply::Outcome;

/// How much of the slack of leases an answer may use up on its way: the rest covers what cannot be
/// measured here, which is the way to the client's socket and the resolution of clocks.
const ANSWER_TIME: Duration = Duration::from_millis(LEASE_SLACK_MS - LEASE_SLACK_MS / 10);

/// The time to live in seconds that a grant is about, at least `ttl_min_s` as in etcd.
pub fn granted_ttl_s(
    request: &pb::LeaseGrantRequest,
    ttl_min_s: u64,
) -> Result<u64, ProtocolError> {
    let asked = u64::try_from(request.ttl).unwrap_or(0);
    if asked > LEASE_TTL_MAX_S {
        return Err(LEASE_TTL_TOO_LARGE);
    }
    Ok(asked.max(ttl_min_s))
}

/// The shortest time to live (etcd's `minTTL`): what an election may take.
#[must_use]
pub fn ttl_min_s(election_timeout: Duration) -> u64 {
    let millis = u64::try_from(election_timeout.as_millis()).unwrap_or(u64::MAX);
    millis.saturating_mul(3).div_ceil(2000)
}

/// What may be promised of a time to live that was granted, if the answer is given `elapsed` after
/// the request for it arrived; `None` if nothing is left of it.
#[must_use]
pub fn promised_ttl_s(ttl_s: u64, elapsed: Duration) -> Option<i64> {
    let late_ms = elapsed.saturating_sub(ANSWER_TIME).as_millis();
    let late_s = u64::try_from(late_ms.div_ceil(1000)).unwrap_or(u64::MAX);
    let promised = i64::try_from(ttl_s.saturating_sub(late_s)).unwrap_or(i64::MAX);
    (promised > 0).then_some(promised)
}

/// A LeaseRevoke.
#[must_use]
pub fn revoke(request: &pb::LeaseRevokeRequest) -> Command {
    Command::LeaseRevoke { id: request.id }
}

/// What a LeaseTimeToLive found: the lease, what is left of it, and its keys if asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The lease.
    pub lease: Lease,
    /// The lease clock, as well as the member can tell.
    pub clock_ms: u64,
    /// The keys, if asked for.
    pub keys: Vec<Bytes>,
}

impl Answerer {
    /// Answers a LeaseGrant.
    #[must_use]
    pub fn lease_granted(
        &self,
        term: Term,
        (revision, id): (Revision, i64),
        ttl: i64,
    ) -> pb::LeaseGrantResponse {
        let header = Some(self.header(revision, term));
        pb::LeaseGrantResponse { header, id, ttl, error: String::new() }
    }

    /// Answers a LeaseRevoke.
    pub fn lease_revoked(
        &self,
        term: Term,
        outcome: Outcome,
    ) -> Result<pb::LeaseRevokeResponse, ProtocolError> {
        let Outcome::LeaseRevoked { revision } = outcome else {
            return Err(ProtocolError::of(
                Code::Unknown,
                "quorate: the outcome belongs to another command",
            ));
        };
        Ok(pb::LeaseRevokeResponse { header: Some(self.header(revision, term)) })
    }

    /// Answers a LeaseKeepAlive; a time to live of 0 says that the lease is lost.
    #[must_use]
    pub fn lease_kept(
        &self,
        term: Term,
        (revision, id): (Revision, i64),
        ttl: i64,
    ) -> pb::LeaseKeepAliveResponse {
        pb::LeaseKeepAliveResponse { header: Some(self.header(revision, term)), id, ttl }
    }

    /// Answers a LeaseTimeToLive; etcd says -1 of a lease that is not there.
    #[must_use]
    pub fn lease_time_to_live(
        &self,
        term: Term,
        (revision, id): (Revision, i64),
        found: Option<Found>,
    ) -> pb::LeaseTimeToLiveResponse {
        let header = Some(self.header(revision, term));
        let seconds = |seconds| i64::try_from(seconds).unwrap_or(i64::MAX);
        match found {
            None => pb::LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() },
            Some(Found { lease, clock_ms, keys }) => pb::LeaseTimeToLiveResponse {
                header,
                id,
                ttl: seconds(lease.remaining_ms(clock_ms) / 1000),
                granted_ttl: seconds(lease.ttl_s),
                keys,
            },
        }
    }

    /// Answers a LeaseLeases: as etcd does, those that end first come first.
    #[must_use]
    pub fn leases(
        &self,
        term: Term,
        revision: Revision,
        mut leases: Vec<Lease>,
    ) -> pb::LeaseLeasesResponse {
        leases.sort_unstable_by_key(|lease| (lease.expires_at_ms, lease.id));
        let leases = leases.iter().map(|lease| pb::LeaseStatus { id: lease.id }).collect();
        pb::LeaseLeasesResponse { header: Some(self.header(revision, term)), leases }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clocks::NodeId;

    #[test]
    fn times_to_live_are_bounded_as_in_etcd() {
        let ttl = |ttl| granted_ttl_s(&pb::LeaseGrantRequest { ttl, id: 0 }, 2);
        assert_eq!(ttl(60), Ok(60));
        assert_eq!((ttl(1), ttl(0), ttl(-5)), (Ok(2), Ok(2), Ok(2)));
        assert_eq!(ttl(9_000_000_000), Ok(9_000_000_000));
        assert_eq!(ttl(9_000_000_001), Err(LEASE_TTL_TOO_LARGE));
    }

    #[test]
    fn the_shortest_time_to_live_outlasts_an_election() {
        assert_eq!(ttl_min_s(Duration::from_millis(1000)), 2);
        assert_eq!(ttl_min_s(Duration::from_millis(100)), 1);
        assert_eq!(ttl_min_s(Duration::from_millis(2000)), 3);
        assert_eq!(ttl_min_s(Duration::from_millis(2001)), 4);
    }

    #[test]
    fn an_answer_that_took_longer_than_the_slack_promises_less() {
        let promised = |millis| promised_ttl_s(3, Duration::from_millis(millis));
        assert_eq!(promised(0), Some(3));
        assert_eq!(promised(900), Some(3));
        assert_eq!(promised(901), Some(2));
        assert_eq!(promised(1900), Some(2));
        assert_eq!(promised(2900), Some(1));
        assert_eq!(promised(2901), None, "nothing is left to promise");
        assert_eq!(promised(u64::MAX), None);
    }

    #[test]
    fn what_is_left_is_without_the_slack_and_never_negative() {
        let answerer = Answerer { cluster_id: 1, member: NodeId(2) };
        let lease = Lease { id: 7, ttl_s: 10, expires_at_ms: 21_000 };
        let left = |clock_ms| {
            let found = Found { lease, clock_ms, keys: Vec::new() };
            answerer.lease_time_to_live(Term(3), (4, 7), Some(found)).ttl
        };
        assert_eq!((left(10_000), left(10_001), left(19_999), left(20_500)), (10, 9, 0, 0));
        let lost = answerer.lease_time_to_live(Term(3), (4, 7), None);
        assert_eq!((lost.id, lost.ttl, lost.granted_ttl), (7, -1, 0));
    }
}
