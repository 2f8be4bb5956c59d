//! Whether this member can serve: the questions behind every health endpoint, HTTP's and gRPC's.

use super::limits::REQUEST_TIME_BASE;
use crate::NodeHandle;
use clocks::GroupId;
use std::time::Duration;

/// A stuck core is what other probes are about.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

/// One question; names as etcd's `/livez` and `/readyz` have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// No member's state contradicts a majority's.
    DataCorruption,
    /// The local state can be read.
    SerializableRead,
    /// A quorum answers.
    LinearizableRead,
    /// This member votes.
    NonLearner,
}

impl Probe {
    /// What makes a process worth keeping.
    pub(super) const LIVE: [Probe; 1] = [Probe::SerializableRead];

    /// What makes it worth sending requests to.
    pub(super) const READY: [Probe; 4] = [
        Probe::DataCorruption,
        Probe::SerializableRead,
        Probe::LinearizableRead,
        Probe::NonLearner,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Probe::DataCorruption => "data_corruption",
            Probe::SerializableRead => "serializable_read",
            Probe::LinearizableRead => "linearizable_read",
            Probe::NonLearner => "non_learner",
        }
    }

    /// Asks; the error says what is wrong.
    pub(super) async fn ask(self, handle: &NodeHandle) -> Result<(), String> {
        match self {
            // A member that contradicts a majority stops; this is about there being none.
            Probe::DataCorruption => match handle.status(STATUS_PATIENCE).await {
                Ok(status) if !status.corrupt.is_empty() => Err("alarm activated: CORRUPT".into()),
                _ => Ok(()),
            },
            Probe::SerializableRead => {
                handle.reader(GroupId::KEYSPACE).map(drop).map_err(|failure| failure.to_string())
            }
            Probe::LinearizableRead => {
                let timeout = REQUEST_TIME_BASE + 2 * handle.timings().election_timeout;
                let barrier = handle.read_barrier(GroupId::KEYSPACE, timeout).await;
                barrier.map_err(|error| wire::etcd::ProtocolError::from(error).to_string())
            }
            Probe::NonLearner if handle.is_learner() => Err("this member is a learner".to_owned()),
            Probe::NonLearner => Ok(()),
        }
    }
}
