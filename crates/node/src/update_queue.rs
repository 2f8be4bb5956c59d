//! A queue with one owner: where other threads leave what a machine's singular update queue takes
//! in (`replica`). The owner takes everything that waits at once, so batches form by themselves
//! while it works.
//!
//! Invariants: order of arrival is kept; outside work (`offer`) is bounded in items and bytes and
//! refused when full; inside work (`push`) is always taken, because its producers are bounded by
//! what they were asked for, and two machines that wait for each other's space would stop both.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bounds of outside work in one queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// Items.
    pub(crate) items: usize,
    /// Their weight in bytes.
    pub(crate) bytes: usize,
}

/// Producer and consumer side of one queue; clones share it.
#[derive(Debug)]
pub(crate) struct UpdateQueue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for UpdateQueue<T> {
    fn clone(&self) -> UpdateQueue<T> {
        UpdateQueue { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Shared<T> {
    limits: QueueLimits,
    state: Mutex<State<T>>,
    arrival: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    offered_items: usize,
    offered_bytes: usize,
    /// The owner sleeps: an arrival must wake it. Spares a system call per arrival otherwise.
    owner_sleeps: bool,
    closed: bool,
}

/// Why an offer was not taken; the item comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused<T> {
    /// Items or bytes are at their limit.
    Full(T),
    /// The owner is gone.
    Closed(T),
}

impl<T> UpdateQueue<T> {
    /// An empty queue.
    #[must_use]
    pub(crate) fn new(limits: QueueLimits) -> UpdateQueue<T> {
        assert!(limits.items > 0 && limits.bytes > 0, "a queue that takes nothing");
        UpdateQueue {
            shared: Arc::new(Shared {
                limits,
                state: Mutex::new(State {
                    items: VecDeque::new(),
                    offered_items: 0,
                    offered_bytes: 0,
                    owner_sleeps: false,
                    closed: false,
                }),
                arrival: Condvar::new(),
            }),
        }
    }

    /// Queues outside work of `weight` bytes if there is room. An item heavier than the limit is
    /// taken only while nothing else waits.
    pub(crate) fn offer(&self, item: T, weight: usize) -> Result<(), Refused<T>> {
        let mut state = self.state();
        if state.closed {
            return Err(Refused::Closed(item));
        }
        let limits = self.shared.limits;
        let bytes = state.offered_bytes.saturating_add(weight);
        let too_heavy = bytes > limits.bytes && state.offered_items > 0;
        if state.offered_items >= limits.items || too_heavy {
            return Err(Refused::Full(item));
        }
        state.offered_items += 1;
        state.offered_bytes = bytes;
        self.append(state, item);
        Ok(())
    }

    /// Queues inside work; dropped if the owner is gone.
    pub(crate) fn push(&self, item: T) {
        let state = self.state();
        if !state.closed {
            self.append(state, item);
        }
    }

    /// Queues inside work that belongs together, with one wake-up.
    pub(crate) fn push_all(&self, items: impl IntoIterator<Item = T>) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        state.items.extend(items);
        if !state.items.is_empty() {
            self.wake(state);
        }
    }

    /// Owner: moves everything that waits into `batch` (which must be empty), sleeping up to
    /// `patience` (for ever if none) while there is nothing. Returns false once the queue is
    /// closed and drained.
    pub(crate) fn take(&self, batch: &mut VecDeque<T>, patience: Option<Duration>) -> bool {
        assert!(batch.is_empty(), "a batch was left half done");
        let mut state = self.state();
        if state.items.is_empty() && !state.closed && patience != Some(Duration::ZERO) {
            state.owner_sleeps = true;
            let idle = |state: &mut State<T>| state.items.is_empty() && !state.closed;
            state = match patience {
                None => self
                    .shared
                    .arrival
                    .wait_while(state, idle)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    self.shared
                        .arrival
                        .wait_timeout_while(state, patience, idle)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            state.owner_sleeps = false;
        }
        std::mem::swap(&mut state.items, batch);
        state.offered_items = 0;
        state.offered_bytes = 0;
        !(batch.is_empty() && state.closed)
    }

    /// Takes nothing more; what waits is still handed to the owner.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.wake(state);
    }

    /// Items that wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.state().items.len()
    }

    fn append(&self, mut state: MutexGuard<'_, State<T>>, item: T) {
        state.items.push_back(item);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let sleeps = std::mem::take(&mut state.owner_sleeps);
        drop(state);
        if sleeps {
            self.shared.arrival.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // A producer that panicked left the queue whole: every change is one step.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(items: usize, bytes: usize) -> UpdateQueue<u32> {
        UpdateQueue::new(QueueLimits { items, bytes })
    }

    #[test]
    fn refuses_outside_work_at_either_limit_and_never_inside_work() {
        let full = queue(2, 100);
        assert_eq!(full.offer(1, 10), Ok(()));
        assert_eq!(full.offer(2, 91), Err(Refused::Full(2)), "bytes");
        assert_eq!(full.offer(3, 90), Ok(()));
        assert_eq!(full.offer(4, 0), Err(Refused::Full(4)), "items");
        full.push(5);

        let mut batch = VecDeque::new();
        assert!(full.take(&mut batch, None));
        assert_eq!(batch, [1, 3, 5]);
        assert_eq!(full.offer(6, 1000), Ok(()), "alone, a heavy item is taken");
    }

    #[test]
    fn closing_hands_over_the_rest_and_then_ends() {
        let closing = queue(8, 8);
        closing.push(1);
        closing.close();
        assert_eq!(closing.offer(2, 1), Err(Refused::Closed(2)));
        closing.push(3);
        let mut batch = VecDeque::new();
        assert!(closing.take(&mut batch, None));
        assert_eq!(batch, [1]);
        batch.clear();
        assert!(!closing.take(&mut batch, None));
    }

    #[test]
    fn patience_ends_without_an_arrival() {
        let silent = queue(1, 1);
        let mut batch = VecDeque::new();
        assert!(silent.take(&mut batch, Some(Duration::from_millis(5))));
        assert!(batch.is_empty());
    }

    #[test]
    fn wakes_a_sleeping_owner_and_keeps_the_order_of_each_producer() {
        let shared = queue(1 << 20, 1 << 30);
        let producers: Vec<_> = (0..4)
            .map(|producer| {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    for number in 0..1000 {
                        shared.offer(producer * 1000 + number, 1).expect("room");
                    }
                })
            })
            .collect();
        let mut next = [0, 1000, 2000, 3000];
        let mut batch = VecDeque::new();
        while next != [1000, 2000, 3000, 4000] {
            assert!(shared.take(&mut batch, None));
            for item in batch.drain(..) {
                let producer = (item / 1000) as usize;
                assert_eq!(item, next[producer]);
                next[producer] += 1;
            }
        }
        for producer in producers {
            producer.join().expect("producer");
        }
    }
}
