//! Renewals of many leases in one entry of the log: those of all streams of a runtime gather while
//! the last entry is under way, and then travel together.
//!
//! Invariants: at most one entry of a runtime is under way, so that nobody waits for a timer; a
//! lease is renewed once for all who asked meanwhile, and not for those who left; what waits is
//! bounded, and whoever finds no place waits for one; whoever asked is answered, or told why not.

use super::limits::{
    RENEWAL_OVERLOAD_PAUSE, RENEWAL_TIMEOUT_ELECTIONS, RENEWALS_WAITING_MAX, REQUEST_TIME_BASE,
};
use crate::{NodeHandle, monotonic_now};
use clocks::GroupId;
use replica::RequestError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::command::{Caller, Command};
use store::limits::LEASE_RENEW_MAX;
use store::range::Revision;
use store::reply::Outcome;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

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
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct Gathered {
    /// Leases in the order of asking, each once.
    order: VecDeque<i64>,
    /// Invariant: nobody but those in `order`, and all of them.
    waiting: BTreeMap<i64, Vec<Waiter>>,
    under_way: bool,
}

struct Waiter {
    answer: oneshot::Sender<Answer>,
    /// Given back with the answer, or once it is this lease's turn and its caller has left.
    _place: OwnedSemaphorePermit,
}

impl Gathered {
    fn ask(&mut self, id: i64, waiter: Waiter) {
        let waiters = self.waiting.entry(id).or_default();
        if waiters.is_empty() {
            self.order.push_back(id);
        }
        waiters.push(waiter);
    }

    /// What travels next: the leases that somebody still waits for.
    fn take_batch(&mut self) -> Vec<(i64, Vec<Waiter>)> {
        let mut batch = Vec::new();
        while batch.len() < LEASE_RENEW_MAX
            && let Some(id) = self.order.pop_front()
        {
            let mut waiters = self.waiting.remove(&id).expect("in order, so somebody waited");
            waiters.retain(|waiter| !waiter.answer.is_closed());
            if !waiters.is_empty() {
                batch.push((id, waiters));
            }
        }
        batch
    }
}

impl LeaseRenewals {
    pub(super) fn new(handle: NodeHandle) -> LeaseRenewals {
        let places = Arc::new(Semaphore::new(RENEWALS_WAITING_MAX));
        LeaseRenewals { handle, gathered: Arc::default(), places }
    }

    /// Has a lease renewed; the answer comes once that is applied here. Waits while too many wait:
    /// a stream that asks is not read from meanwhile.
    pub(super) async fn renew(&self, id: i64) -> oneshot::Receiver<Answer> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let (answer, receiver) = oneshot::channel();
        let mut gathered = self.lock();
        gathered.ask(id, Waiter { answer, _place: place });
        if !std::mem::replace(&mut gathered.under_way, true) {
            tokio::spawn(self.clone().drain());
        }
        receiver
    }

    /// Proposes what has gathered, entry after entry, until nothing has.
    async fn drain(self) {
        loop {
            let batch = {
                let mut gathered = self.lock();
                let batch = gathered.take_batch();
                gathered.under_way = !batch.is_empty();
                batch
            };
            if batch.is_empty() {
                return;
            }
            let ids = batch.iter().map(|(id, _)| *id).collect();
            let outcome = self.propose(ids).await;
            for (place, (_, waiters)) in batch.into_iter().enumerate() {
                for waiter in waiters {
                    // Whoever asked may have left.
                    let _ = waiter.answer.send(answer(&outcome, place));
                }
            }
        }
    }

    /// Nobody's permission is asked for, as in etcd: what a lease may be attached to is. A log that
    /// is overloaded has taken nothing, and is asked again: a stream that ended for it would cost
    /// its client every lease on it.
    async fn propose(&self, ids: Vec<i64>) -> Result<Outcome, RequestError> {
        let elections = RENEWAL_TIMEOUT_ELECTIONS * self.handle.timings().election_timeout;
        let timeout = REQUEST_TIME_BASE + elections;
        let deadline = monotonic_now().after(timeout);
        loop {
            let (caller, command) =
                (Some(Caller::Cluster), Command::LeaseRenew { ids: ids.clone() });
            let left = deadline.since(monotonic_now());
            match self.handle.write_as(caller, GroupId::KEYSPACE, command, left).await {
                Err(RequestError::Overloaded) if monotonic_now() < deadline => {
                    tokio::time::sleep(RENEWAL_OVERLOAD_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_travels_once_for_all_who_ask_and_not_for_those_who_left() {
        let places = Arc::new(Semaphore::new(LEASE_RENEW_MAX + 10));
        let mut gathered = Gathered::default();
        let ask = |gathered: &mut Gathered, id| {
            let place = Arc::clone(&places).try_acquire_owned().expect("there is room");
            let (answer, receiver) = oneshot::channel();
            gathered.ask(id, Waiter { answer, _place: place });
            receiver
        };
        let (_first, left, _again) =
            (ask(&mut gathered, 7), ask(&mut gathered, 8), ask(&mut gathered, 7));
        drop(left);
        let _other = ask(&mut gathered, 9);
        let batch = gathered.take_batch();
        let taken: Vec<_> = batch.iter().map(|(id, waiters)| (*id, waiters.len())).collect();
        assert_eq!(taken, [(7, 2), (9, 1)]);
        assert!(gathered.take_batch().is_empty() && gathered.waiting.is_empty());

        let max = i64::try_from(LEASE_RENEW_MAX).expect("a small number");
        let _many: Vec<_> = (0..=max).map(|id| ask(&mut gathered, id)).collect();
        assert_eq!(gathered.take_batch().len(), LEASE_RENEW_MAX);
        assert_eq!(gathered.take_batch().len(), 1);
        drop(batch);
        assert_eq!(places.available_permits(), LEASE_RENEW_MAX + 10);
    }
}
