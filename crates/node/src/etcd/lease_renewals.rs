//! Renewals of many leases in one entry of the log: those of all streams of a runtime gather while
//! the last entry is under way, and then travel together.
//!
//! Invariants: at most one entry of a runtime is under way, so that nobody waits for a timer; what
//! waits is bounded; whoever asked is answered, or told why not.

use super::limits::{RENEWAL_TIMEOUT_ELECTIONS, RENEWALS_WAITING_MAX, REQUEST_TIME_BASE};
use crate::NodeHandle;
use clocks::GroupId;
use replica::RequestError;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::command::{Caller, Command};
use store::limits::LEASE_RENEW_MAX;
use store::range::Revision;
use store::reply::Outcome;
use tokio::sync::oneshot;

/// A renewal that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Renewed {
    /// The keyspace's revision then.
    pub(super) revision: Revision,
    /// The time to live granted anew; 0 if there is no such lease.
    pub(super) ttl_s: u64,
}

type Answer = Result<Renewed, RequestError>;

/// The renewals of one runtime; clones share them.
#[derive(Clone)]
pub(super) struct LeaseRenewals {
    handle: NodeHandle,
    gathered: Arc<Mutex<Gathered>>,
}

#[derive(Default)]
struct Gathered {
    waiting: VecDeque<(i64, oneshot::Sender<Answer>)>,
    under_way: bool,
}

impl LeaseRenewals {
    pub(super) fn new(handle: NodeHandle) -> LeaseRenewals {
        LeaseRenewals { handle, gathered: Arc::default() }
    }

    /// Has a lease renewed; the answer comes once that is applied here.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) fn renew(&self, id: i64) -> Result<oneshot::Receiver<Answer>, RequestError> {
        let (sender, receiver) = oneshot::channel();
        let mut gathered = self.lock();
        if gathered.waiting.len() >= RENEWALS_WAITING_MAX {
            return Err(RequestError::Overloaded);
        }
        gathered.waiting.push_back((id, sender));
        if !std::mem::replace(&mut gathered.under_way, true) {
            tokio::spawn(self.clone().drain());
        }
        Ok(receiver)
    }

    /// Proposes what has gathered, entry after entry, until nothing has.
    async fn drain(self) {
        loop {
            let batch: Vec<_> = {
                let mut gathered = self.lock();
                let count = gathered.waiting.len().min(LEASE_RENEW_MAX);
                gathered.under_way = count > 0;
                gathered.waiting.drain(..count).collect()
            };
            if batch.is_empty() {
                return;
            }
            let ids = batch.iter().map(|(id, _)| *id).collect();
            let outcome = self.propose(ids).await;
            for (place, (_, asked)) in batch.into_iter().enumerate() {
                // Whoever asked may have left.
                let _ = asked.send(answer(&outcome, place));
            }
        }
    }

    /// Nobody's permission is asked for, as in etcd: what a lease may be attached to is.
    async fn propose(&self, ids: Vec<i64>) -> Result<Outcome, RequestError> {
        let elections = RENEWAL_TIMEOUT_ELECTIONS * self.handle.timings().election_timeout;
        let (caller, command) = (Some(Caller::Cluster), Command::LeaseRenew { ids });
        let timeout = REQUEST_TIME_BASE + elections;
        self.handle.write_as(caller, GroupId::KEYSPACE, command, timeout).await
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(outcome: &Result<Outcome, RequestError>, place: usize) -> Answer {
    match outcome {
        Ok(Outcome::LeasesRenewed { revision, ttls_s }) => {
            let ttl_s = ttls_s.get(place).copied().ok_or(RequestError::OutcomeUnknown)?;
            Ok(Renewed { revision: *revision, ttl_s })
        }
        Ok(_) => Err(RequestError::OutcomeUnknown),
        Err(error) => Err(error.clone()),
    }
}
