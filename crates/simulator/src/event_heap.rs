//! Virtual time: what happens next, ordered by time and then by the order of scheduling.
//!
//! Invariant: time never runs backwards, and two events are never compared by anything but (time,
//! sequence), so that a run has one order.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// True time of the world in nanoseconds since its start. No node can read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

/// One microsecond of true time.
pub(crate) const MICROSECOND: u64 = 1_000;
/// One millisecond of true time.
pub(crate) const MILLISECOND: u64 = 1_000 * MICROSECOND;
/// One second of true time.
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;

impl Instant {
    /// `nanos` later.
    #[must_use]
    pub(crate) fn after(self, nanos: u64) -> Instant {
        Instant(self.0.checked_add(nanos).expect("a run is shorter than 584 years"))
    }
}

struct Scheduled<E> {
    at: Instant,
    sequence: u64,
    event: E,
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The events to come.
pub(crate) struct EventHeap<E> {
    now: Instant,
    sequence: u64,
    heap: BinaryHeap<Reverse<Scheduled<E>>>,
}

impl<E> Default for EventHeap<E> {
    fn default() -> EventHeap<E> {
        EventHeap { now: Instant::default(), sequence: 0, heap: BinaryHeap::new() }
    }
}

impl<E> EventHeap<E> {
    /// Time of the event taken last.
    #[must_use]
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Number of events taken or waiting.
    #[must_use]
    pub(crate) fn scheduled(&self) -> u64 {
        self.sequence
    }

    /// Schedules `event`; a time that has passed means as soon as possible.
    pub(crate) fn at(&mut self, at: Instant, event: E) {
        let at = at.max(self.now);
        let sequence = self.sequence;
        self.sequence += 1;
        self.heap.push(Reverse(Scheduled { at, sequence, event }));
    }

    /// Schedules `event` in `nanos`.
    pub(crate) fn after(&mut self, nanos: u64, event: E) {
        self.at(self.now.after(nanos), event);
    }

    /// Takes the next event and moves time to it.
    pub(crate) fn next_event(&mut self) -> Option<E> {
        let Reverse(scheduled) = self.heap.pop()?;
        assert!(scheduled.at >= self.now, "time ran backwards");
        self.now = scheduled.at;
        Some(scheduled.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_by_order_of_scheduling() {
        let mut heap = EventHeap::default();
        heap.at(Instant(5), "late");
        heap.at(Instant(1), "first");
        heap.at(Instant(1), "second");
        assert_eq!(heap.next_event(), Some("first"));
        heap.at(Instant(0), "past");
        assert_eq!(heap.next_event(), Some("second"));
        assert_eq!(heap.next_event(), Some("past"));
        assert_eq!(heap.now(), Instant(1));
        assert_eq!(heap.next_event(), Some("late"));
        assert_eq!(heap.now(), Instant(5));
        assert_eq!(heap.next_event(), None);
    }
}
