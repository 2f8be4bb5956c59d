//! Deadline: how long a caller waits travels with its request, so that nobody works for callers
//! who have left.
//!
//! Used by gRPC (`grpc-timeout`), Spanner and Finagle. The core drops expired requests when it
//! dequeues them; a call without a deadline gets etcd's: five seconds and two elections.

use super::limits::REQUEST_TIME_BASE;
use crate::{NodeHandle, Timings};
use replica::RequestError;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use wire::etcd::ProtocolError;
use wire::etcd::errors::DEADLINE_EXCEEDED;

/// How long a call may take, and whose wish that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) timeout: Duration,
    set_by_client: bool,
}

impl Deadline {
    /// Of a call with these headers.
    pub(super) fn of(metadata: &MetadataMap, handle: &NodeHandle) -> Deadline {
        Deadline::shorter(asked(metadata), handle.timings())
    }

    fn shorter(asked: Option<Duration>, timings: Timings) -> Deadline {
        let own = REQUEST_TIME_BASE + 2 * timings.election_timeout;
        match asked {
            Some(asked) if asked < own => Deadline { timeout: asked, set_by_client: true },
            _ => Deadline { timeout: own, set_by_client: false },
        }
    }

    /// What is left of it.
    pub(super) fn after(self, elapsed: Duration) -> Deadline {
        Deadline { timeout: self.timeout.saturating_sub(elapsed), ..self }
    }

    /// What it is to the caller that the time is over, if it is not the caller's own.
    pub(super) fn over(self, otherwise: ProtocolError) -> ProtocolError {
        if self.set_by_client { DEADLINE_EXCEEDED } else { otherwise }
    }

    /// What a failed request is to its caller.
    pub(super) fn explain(self, error: RequestError) -> ProtocolError {
        match error {
            RequestError::TimedOut => self.over(error.into()),
            error => error.into(),
        }
    }
}

/// How long the caller waits, if it says so.
pub(super) fn asked(metadata: &MetadataMap) -> Option<Duration> {
    metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse)
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout"); anything else counts as absent.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::etcd::errors::TIMEOUT;

    const TIMINGS: Timings = Timings {
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
    };

    #[test]
    fn reads_every_unit_and_ignores_nonsense() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse("9n"), Some(Duration::from_nanos(9)));
        for nonsense in ["", "S", "1", "1s", "123456789S", "-1S", "+1S", "1.5S", "1é", "é"] {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn the_shorter_of_the_clients_and_etcds_time_counts() {
        let asked = Deadline::shorter(Some(Duration::from_millis(10)), TIMINGS);
        assert_eq!(asked.timeout, Duration::from_millis(10));
        assert_eq!(asked.explain(RequestError::TimedOut), DEADLINE_EXCEEDED);
        let patient = Deadline::shorter(Some(Duration::from_secs(60)), TIMINGS);
        assert_eq!(patient.timeout, Duration::from_secs(7));
        assert_eq!(patient.explain(RequestError::TimedOut), TIMEOUT);
        assert_eq!(Deadline::shorter(None, TIMINGS), patient);
    }
}
