//! Watchdog: once a core is healed, groups move and requests end, each within a bound.
//!
//! A request ends with an answer or with an error, by the deadline that it carries; one that its
//! member forgets would wait for ever. Not here: the rule (`checkers::liveness`), the progress that
//! every single member must make (`cluster`).

use crate::cluster::{Event, Phase, World};
use crate::event_heap::SECOND;
use crate::network::Slot;
use checkers::liveness::{Liveness, Stall};
use clocks::GroupId;
use replica::RequestId;
use std::collections::BTreeMap;

/// Nanoseconds within which a group moves again, and a request ends: elections that fail, and
/// clients that wait, are within them.
const GROUP_BOUND: u64 = 12 * SECOND;
const REQUEST_BOUND: u64 = 5 * SECOND;

/// What is waited for.
pub(crate) struct Watchdog {
    groups: Liveness,
    requests: Liveness,
    /// Who was asked.
    asked: BTreeMap<RequestId, Slot>,
}

impl Watchdog {
    /// One for a world that is not healed yet.
    pub(crate) fn new() -> Watchdog {
        let (groups, requests) = (Liveness::new(GROUP_BOUND), Liveness::new(REQUEST_BOUND));
        Watchdog { groups, requests, asked: BTreeMap::new() }
    }

    /// A request ended.
    pub(crate) fn answered(&mut self, request: RequestId) {
        if self.asked.remove(&request).is_some() {
            self.requests.answered(request.0);
        }
    }

    /// Nobody there knows of any request: the process is gone, or broken for good.
    pub(crate) fn forgets(&mut self, slot: Slot) {
        let of_slot = self.asked.iter().filter(|(_, at)| **at == slot).map(|(request, _)| *request);
        let forgotten: Vec<RequestId> = of_slot.collect();
        forgotten.into_iter().for_each(|request| self.answered(request));
    }

    /// A group answered somebody.
    pub(crate) fn moved(&mut self, group: GroupId, now: u64) {
        self.groups.progressed(&group.to_string(), now);
    }

    fn check(&self, now: u64) -> Result<(), Stall> {
        self.groups.check(now)?;
        self.requests.check(now)
    }
}

impl World {
    /// A member was asked.
    pub(crate) fn watch_request(&mut self, slot: Slot, request: RequestId) {
        if !self.nodes[slot].abandoned {
            self.watchdog.asked.insert(request, slot);
            self.watchdog.requests.asked(request.0, self.heap.now().0);
        }
    }

    /// From now on everything that is not abandoned works.
    pub(crate) fn release_watchdog(&mut self) {
        let now = self.heap.now().0;
        for slot in 0..self.nodes.len() {
            if self.nodes[slot].abandoned {
                self.watchdog.forgets(slot);
            }
        }
        for group in self.keyspaces.clone() {
            self.watchdog.groups.expect(&group.to_string(), now);
        }
        self.watchdog.groups.healed(now);
        self.watchdog.requests.healed(now);
        self.heap.after(SECOND, Event::Watchdog);
    }

    /// Clients ask no more: what they have asked still has to end.
    pub(crate) fn call_off_groups(&mut self) {
        self.watchdog.groups.broken();
    }

    pub(crate) fn on_watchdog(&mut self) {
        if let Err(stall) = self.watchdog.check(self.heap.now().0) {
            let detail = format!("{stall}; {}", self.describe());
            self.violate("a healed cluster moves and answers", detail);
        }
        if self.phase != Phase::Over {
            self.heap.after(SECOND, Event::Watchdog);
        }
    }
}
