//! Catching up: watchers that lack something are sent it from history.
//!
//! Fair by turns: the watcher whose turn it is begins a pass over history at the revision that it
//! lacks; watchers that lack the same or later revisions share the pass. So every watcher gets on
//! with every round of turns, and a crowd that starts together costs one walk.

use super::watcher_index::{WatcherIndex, WatcherKey};
use super::{COMPACTED, WatchHub, WatchResponse, stream};
use crate::event::{Event, RevisionEvents};
use crate::failure::StoreFailure;
use crate::range::Revision;
use crate::reader::{Previous, Reader};
use std::collections::BTreeMap;

/// What a watcher is to be sent at the next occasion.
#[derive(Default)]
struct Pending {
    events: Vec<Event>,
    weight: usize,
    /// Of the first event.
    first: Revision,
    /// Of the last event.
    last: Revision,
}

/// One walk over history.
struct Pass {
    watchers: BTreeMap<WatcherKey, Pending>,
    index: WatcherIndex,
    /// Everything up to here has been looked at.
    done: Revision,
}

impl WatchHub {
    /// Sends watchers what they lack, looking at about `budget` events of history. True if there
    /// is more to do, with this reader or a newer one.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn catch_up(&mut self, reader: &Reader, budget: usize) -> Result<bool, StoreFailure> {
        let mut budget = budget.max(1);
        while budget > 0 {
            let Some((turn, key)) = self.turns.first_key_value() else { return Ok(false) };
            let (turn, mut key) = (*turn, *key);
            if self.watchers[&key].next > reader.revision() {
                // Applied since this reader was opened; another may have a use for it.
                let Some((next, other)) = self.waiting.first() else { return Ok(false) };
                if *next > reader.revision() {
                    return Ok(true);
                }
                key = *other;
            }
            if self.watchers[&key].next < reader.compacted() {
                self.cancel_compacted(key, reader.compacted());
                budget -= 1;
                continue;
            }
            self.pass(reader, key, &mut budget)?;
            if self.turns.get(&turn) == Some(&key) {
                // It goes on, after everybody else.
                self.set_pace_of(key);
            }
        }
        Ok(self.wants_catch_up())
    }

    fn cancel_compacted(&mut self, key: WatcherKey, compact_revision: Revision) {
        let (stream, id) = (self.watchers[&key].stream, self.watchers[&key].id);
        self.remove(key);
        let response = WatchResponse {
            canceled: true,
            compact_revision,
            cancel_reason: COMPACTED.to_owned(),
            ..WatchResponse::of(id, self.revision)
        };
        self.queue(stream, response);
        self.settle_progress(stream);
    }

    /// Walks history from what `front` lacks.
    fn pass(
        &mut self,
        reader: &Reader,
        front: WatcherKey,
        budget: &mut usize,
    ) -> Result<(), StoreFailure> {
        let from = self.watchers[&front].next;
        // The reader may be newer than the hub: what the hub is yet to be told is not sent twice.
        let to = reader.revision().min(self.revision);
        let mut pass = self.begin_pass(front, from);
        let wants_previous = |key: &WatcherKey| self.watchers[key].request.prev_kv;
        let previous =
            if pass.watchers.keys().any(wants_previous) { Previous::Read } else { Previous::Omit };
        let mut bytes = 0;
        let mut history = reader.history(from, previous);
        loop {
            let change = history.next().transpose()?;
            let Some(change) = change.filter(|change| change.revision <= to) else {
                pass.done = to;
                break;
            };
            let weigh = |event: &Event| stream::weigh(event, true);
            bytes += change.events.iter().map(weigh).sum::<usize>();
            *budget = budget.saturating_sub(change.events.len());
            self.spread(&mut pass, &change);
            pass.done = change.revision;
            if *budget == 0 || bytes >= self.limits.catch_up_bytes_max || pass.watchers.is_empty() {
                break;
            }
        }
        self.end_pass(pass);
        Ok(())
    }

    fn begin_pass(&self, front: WatcherKey, from: Revision) -> Pass {
        let sharers = self.waiting.range((from, 0)..).map(|(_, key)| *key);
        let chosen = [front].into_iter().chain(sharers.filter(|key| *key != front));
        let mut pass = Pass { watchers: BTreeMap::new(), index: WatcherIndex::default(), done: 0 };
        for key in chosen.take(self.limits.catch_up_watchers_max) {
            pass.watchers.insert(key, Pending::default());
            pass.index.insert(&self.watchers[&key].request.keys, key);
        }
        pass
    }

    /// Gives the events of a revision to those of the pass that want them.
    fn spread(&mut self, pass: &mut Pass, change: &RevisionEvents) {
        let mut wanted: BTreeMap<WatcherKey, Vec<Event>> = BTreeMap::new();
        for event in change.events.iter() {
            pass.index.visit(&event.pair.key, |key| {
                let watcher = &self.watchers[&key];
                if watcher.next <= change.revision && watcher.wants(event) {
                    wanted.entry(key).or_default().push(event.clone());
                }
            });
        }
        for (key, events) in wanted {
            let with_previous = self.watchers[&key].request.prev_kv;
            let weight: usize =
                events.iter().map(|event| stream::weigh(event, with_previous)).sum();
            let pending = pass.watchers.get_mut(&key).expect("the index holds the pass");
            if !pending.events.is_empty()
                && stream::RESPONSE_OVERHEAD + pending.weight + weight
                    > self.limits.response_bytes_max
            {
                let full = std::mem::take(pending);
                if !self.send(key, full) {
                    pass.watchers.remove(&key);
                    pass.index.remove(&self.watchers[&key].request.keys, key);
                    continue;
                }
            }
            let pending = pass.watchers.get_mut(&key).expect("it stays in the pass");
            if pending.events.is_empty() {
                pending.first = change.revision;
            }
            pending.last = change.revision;
            pending.weight += weight;
            pending.events.extend(events);
        }
    }

    fn end_pass(&mut self, pass: Pass) {
        for (key, pending) in pass.watchers {
            if !pending.events.is_empty() && !self.send(key, pending) {
                continue;
            }
            let next = self.watchers[&key].next.max(pass.done + 1);
            self.move_on(key, next);
        }
    }

    /// Sends what is pending; if there is no room, the watcher waits at its first revision.
    fn send(&mut self, key: WatcherKey, pending: Pending) -> bool {
        let before = self.watchers[&key].next;
        if self.offer(key, pending.events.into(), pending.last) {
            let next = self.watchers[&key].next;
            self.waiting.remove(&(before, key));
            self.waiting.insert((next, key));
            return true;
        }
        self.move_on(key, pending.first);
        self.block(key);
        false
    }

    /// Sets where a waiting watcher goes on, and lets it join the synced ones.
    fn move_on(&mut self, key: WatcherKey, next: Revision) {
        let watcher = self.watchers.get_mut(&key).expect("watchers of a pass exist");
        let stream = watcher.stream;
        self.waiting.remove(&(watcher.next, key));
        watcher.next = next;
        self.waiting.insert((next, key));
        if next > self.revision {
            self.set_pace_of(key);
            self.settle_progress(stream);
        }
    }
}
