//! Watchers: pinned to a member, they resume at revision + 1 wherever they were cut off, and keep a
//! record of all that they were told.
//!
//! Not here: what they must have been told (`checkers::watch`).

use crate::cluster::{Event, Phase, World};
use crate::event_heap::MILLISECOND;
use crate::mark::Mark;
use crate::mutant::Mutant;
use crate::network::Slot;
use crate::process::Machine;
use crate::rng::Chance;
use bytes::Bytes;
use checkers::watch::{self, Received, Recording, Reference, Selector, WatchEvent};
use clocks::GroupId;
use replica::{Applier, CoreConfig};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::range::{KeyRange, KeyValue, Revision};
use store::{
    EventKind, MachineKind, RevisionEvents, StreamId, WatchHub, WatchLimits, WatchRequest,
};
use store::{WatchResponse, WatchStats};

/// Events of history that one step of catching up looks at.
const CATCH_UP_EVENTS: usize = 32;

/// Input of a watch hub.
pub(crate) enum HubWork {
    /// A keyspace moved on.
    Applied(GroupId, Revision, Arc<[RevisionEvents]>),
    /// A snapshot took a keyspace's place.
    Reset(GroupId, Revision),
    /// A watcher connects.
    Open(usize),
    /// A watcher has read what it was sent.
    Consumed(usize, StreamId, usize),
}

/// The hubs of one process, one per keyspace.
#[derive(Default)]
pub(crate) struct Hubs {
    hubs: BTreeMap<GroupId, WatchHub>,
}

impl Hubs {
    /// Hubs that begin where the state machines stand.
    pub(crate) fn of(config: &CoreConfig, applier: &Applier, limits: WatchLimits) -> Hubs {
        let keyspaces = config.groups.iter().filter(|(_, kind)| *kind == MachineKind::Keyspace);
        let hub = |(group, _): &(GroupId, MachineKind)| {
            (*group, WatchHub::new(limits, applier.reader(*group).revision()))
        };
        Hubs { hubs: keyspaces.map(hub).collect() }
    }
}

/// A client that watches.
pub(crate) struct Watcher {
    slot: Slot,
    group: GroupId,
    keys: KeyRange,
    /// The stream that it listens on, unless it is cut off.
    stream: Option<StreamId>,
    /// Where it goes on.
    next: Revision,
    recording: Recording,
}

impl Watcher {
    /// The watchers of a cluster: per member and keyspace one of everything and one of one pair.
    pub(crate) fn of_cluster(nodes: usize, keyspaces: &[GroupId]) -> Vec<Watcher> {
        let mut watchers = Vec::new();
        for slot in 0..nodes {
            for group in keyspaces {
                let everything = KeyRange::From(Bytes::from_static(b"\0"));
                watchers.push(Watcher::new(slot, *group, everything, true));
                let start = Bytes::from_static(b"pair/1/");
                let pair = KeyRange::Span { start, end: Bytes::from_static(b"pair/10") };
                watchers.push(Watcher::new(slot, *group, pair, false));
            }
        }
        watchers
    }

    fn new(slot: Slot, group: GroupId, keys: KeyRange, previous_values: bool) -> Watcher {
        let selector = match &keys {
            KeyRange::Span { start, end } => {
                Selector { key: start.to_vec(), range_end: end.to_vec() }
            }
            KeyRange::Key(key) => Selector { key: key.to_vec(), range_end: Vec::new() },
            KeyRange::From(start) => Selector { key: start.to_vec(), range_end: vec![0] },
        };
        let recording = Recording {
            watcher: format!("of {selector:?} at node {slot} {group}"),
            selector,
            puts: true,
            deletes: true,
            previous_values,
            received: Vec::new(),
            caught_up: None,
        };
        Watcher { slot, group, keys, stream: None, next: 2, recording }
    }

    /// What it asks its member for; `late` revisions are skipped by a planted bug.
    fn request(&self, late: Revision) -> WatchRequest {
        WatchRequest {
            watch_id: None,
            keys: self.keys.clone(),
            start_revision: self.next + late,
            no_put: false,
            no_delete: false,
            prev_kv: self.recording.previous_values,
            progress_notify: true,
            fragment: false,
        }
    }
}

impl World {
    pub(crate) fn on_watcher_wake(&mut self, index: usize) {
        let Watcher { slot, stream, .. } = self.watchers[index];
        if stream.is_some() {
            return;
        }
        if self.nodes[slot].is_up() {
            self.push_hub(slot, HubWork::Open(index));
        } else {
            let retry = self.rng.between(20, 200) * MILLISECOND;
            self.heap.after(retry, Event::WatcherWake { watcher: index });
        }
    }

    pub(crate) fn push_hub(&mut self, slot: Slot, work: HubWork) {
        self.process(slot).hub_queue.push_back(work);
        self.wake(slot, Machine::Hub);
    }

    /// The process is gone: its watchers are cut off and come back later.
    pub(crate) fn lose_watchers(&mut self, slot: Slot) {
        for index in 0..self.watchers.len() {
            if self.watchers[index].slot == slot {
                self.cut_off(index);
            }
        }
    }

    fn cut_off(&mut self, index: usize) {
        self.watchers[index].stream = None;
        let retry = self.rng.between(20, 200) * MILLISECOND;
        self.heap.after(retry, Event::WatcherWake { watcher: index });
    }

    pub(crate) fn step_hub(&mut self, slot: Slot) {
        for work in std::mem::take(&mut self.process(slot).hub_queue) {
            self.on_hub_work(slot, work);
        }
        for group in self.keyspaces.clone() {
            let process = self.process(slot);
            let hub = process.hubs.hubs.get_mut(&group).expect("one per keyspace");
            if hub.wants_catch_up() {
                let reader = process.applier.reader(group);
                let more = hub.catch_up(&reader, CATCH_UP_EVENTS).expect("memory does not fail");
                if more {
                    self.wake(slot, Machine::Hub);
                }
            }
            self.drain_hub(slot, group);
            if self.is_over() {
                return;
            }
        }
    }

    fn on_hub_work(&mut self, slot: Slot, work: HubWork) {
        match work {
            HubWork::Applied(group, revision, events) => {
                self.hub(slot, group).handle_applied(revision, &events);
                if self.rng.chance(Chance::percent(1)) {
                    self.hub(slot, group).handle_tick();
                }
            }
            HubWork::Reset(group, revision) => {
                self.hub(slot, group).reset_after_snapshot(revision);
            }
            HubWork::Open(index) => {
                let watcher = &self.watchers[index];
                if watcher.stream.is_some() {
                    return;
                }
                let stream = StreamId(self.next_stream);
                self.next_stream += 1;
                let late = self.mutant == Some(Mutant::WatchResumesLate) && watcher.next > 2;
                let (group, request) = (watcher.group, watcher.request(i64::from(late)));
                self.watchers[index].stream = Some(stream);
                let start = self.watchers[index].next.unsigned_abs();
                self.watchers[index].recording.received.push(Received::Opened { start });
                self.streams.insert(stream, index);
                let hub = self.hub(slot, group);
                hub.open_stream(stream);
                hub.create(stream, request);
            }
            HubWork::Consumed(index, stream, weight) => {
                let group = self.watchers[index].group;
                self.hub(slot, group).consumed(stream, weight);
            }
        }
    }

    fn hub(&mut self, slot: Slot, group: GroupId) -> &mut WatchHub {
        self.process(slot).hubs.hubs.get_mut(&group).expect("one per keyspace")
    }

    fn drain_hub(&mut self, slot: Slot, group: GroupId) {
        while let Some((stream, response)) = self.hub(slot, group).poll() {
            let index = self.streams[&stream];
            if self.watchers[index].stream != Some(stream) {
                continue;
            }
            let weight = response.weight;
            self.on_watch_response(index, response);
            if self.watchers[index].stream.is_none() {
                self.hub(slot, group).close_stream(stream);
                continue;
            }
            // Now and then a watcher is slow to read.
            let slow = self.rng.chance(Chance::percent(2));
            let delay = if slow { self.rng.exponential(300 * MILLISECOND) } else { 0 };
            let life = self.nodes[slot].life;
            let event = Event::Consumed { slot, life, watcher: index, stream, weight };
            self.heap.after(delay, event);
        }
    }

    fn on_watch_response(&mut self, index: usize, response: WatchResponse) {
        let watcher = &mut self.watchers[index];
        if response.canceled {
            if response.compact_revision == 0 {
                let detail = format!("watcher {index}: {}", response.cancel_reason);
                return self.violate("sound watches are not canceled", detail);
            }
            // What it lacks is forgotten: it goes on with the oldest that is not.
            self.marks.reach(Mark::WatchCompacted);
            watcher.next = watcher.next.max(response.compact_revision);
            return self.cut_off(index);
        }
        if response.progress {
            self.marks.reach(Mark::WatchProgress);
            watcher.next = watcher.next.max(response.revision + 1);
            watcher.recording.received.push(Received::Progress(response.revision.unsigned_abs()));
        }
        if !response.events.is_empty() {
            let last = response.events.last().expect("not empty").pair.mod_revision;
            watcher.next = last + 1;
            let events = response.events.iter().map(|event| told(event, response.with_previous));
            let events: Vec<WatchEvent> = events.collect();
            self.watched += events.len() as u64;
            watcher.recording.received.push(Received::Events(events));
        }
        // Now and then a client's connection breaks.
        if self.phase == Phase::Safety && self.rng.chance(Chance(2_000)) {
            self.cut_off(index);
        }
    }

    /// Whether every watcher has been told everything.
    pub(crate) fn watchers_have_caught_up(&self) -> bool {
        let idle = |stats: WatchStats| stats.watchers == stats.synced;
        let of_members = self.watchers.iter().filter(|watcher| !self.nodes[watcher.slot].vacant);
        of_members.into_iter().all(|watcher| {
            let Some(process) = &self.nodes[watcher.slot].process else { return false };
            let hub = &process.hubs.hubs[&watcher.group];
            watcher.stream.is_some() && process.hub_queue.is_empty() && idle(hub.stats())
        })
    }

    pub(crate) fn judge_watchers(&mut self) {
        for group in self.keyspaces.clone() {
            let Some(keyspace) = self.witness.keyspace(group) else { continue };
            let mut reference = Reference::new();
            for change in keyspace.revisions() {
                for event in change.events.iter() {
                    let revision = change.revision.unsigned_abs();
                    let value = (event.kind == EventKind::Put).then_some(&event.pair.value[..]);
                    reference.record(revision, &event.pair.key, value);
                }
            }
            if let Some(compacted) = self.compacted.get(&group) {
                reference.compacted(compacted.unsigned_abs());
            }
            let revision = keyspace.revision().unsigned_abs();
            let of_group = self.watchers.iter_mut().filter(|watcher| watcher.group == group);
            let recordings: Vec<Recording> = of_group
                .map(|watcher| {
                    // Where no member lives any more, nobody could tell it the rest.
                    let told = !self.nodes[watcher.slot].vacant;
                    watcher.recording.caught_up = told.then_some(revision);
                    watcher.recording.clone()
                })
                .collect();
            if let Some(violation) = watch::check(&reference, &recordings).first() {
                let detail = format!("{group}: {violation}");
                return self.violate("watchers are told everything once, in order", detail);
            }
        }
    }
}

fn told(event: &store::Event, with_previous: bool) -> WatchEvent {
    let of = |pair: &KeyValue| (pair.value.to_vec(), pair.mod_revision.unsigned_abs());
    WatchEvent {
        revision: event.pair.mod_revision.unsigned_abs(),
        key: event.pair.key.to_vec(),
        value: (event.kind == EventKind::Put).then(|| event.pair.value.to_vec()),
        create_revision: event.pair.create_revision.unsigned_abs(),
        previous: event.previous.as_ref().filter(|_| with_previous).map(of),
    }
}
