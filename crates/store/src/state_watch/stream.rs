//! One stream of responses: its queue, and what its client has yet to consume.

use super::{COMPACTED, DUPLICATE_ID, EMPTY_RANGE, TOO_MANY, WatchRequest, WatchResponse};
use crate::event::Event;
use crate::range::KeyRange;
use crate::state_watch::watcher_index::WatcherKey;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Room that every response takes beside its events.
pub(super) const RESPONSE_OVERHEAD: usize = 64;
/// Room that every event takes beside its keys and values.
const EVENT_OVERHEAD: usize = 64;

#[derive(Default)]
pub(super) struct Stream {
    /// By watch id.
    pub(super) watchers: BTreeMap<i64, WatcherKey>,
    /// Those that wait for the stream to consume.
    pub(super) blocked: BTreeSet<WatcherKey>,
    /// Those that are not synced, the blocked ones included.
    pub(super) unsynced: usize,
    /// The client waits to be told the revision.
    pub(super) progress_wanted: bool,
    pub(super) queue: VecDeque<WatchResponse>,
    /// Weight of what is queued, and of what was handed out and not yet consumed.
    outstanding: usize,
    next_id: i64,
}

impl Stream {
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The id of a new watcher, or why there cannot be one (in etcd's order of reasons).
    pub(super) fn choose_id(
        &mut self,
        request: &WatchRequest,
        watchers_max: usize,
    ) -> Result<i64, &'static str> {
        if request.start_revision < 0 {
            return Err(COMPACTED);
        }
        if matches!(&request.keys, KeyRange::Span { start, end } if end <= start) {
            return Err(EMPTY_RANGE);
        }
        if self.watchers.len() >= watchers_max {
            return Err(TOO_MANY);
        }
        match request.watch_id {
            Some(id) if self.watchers.contains_key(&id) => Err(DUPLICATE_ID),
            Some(id) => Ok(id),
            None => {
                while self.watchers.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                Ok(self.next_id - 1)
            }
        }
    }

    /// Queues all of the responses or none: what is outstanding stays within `limit`, unless
    /// nothing is (a response of any size must get through some day).
    pub(super) fn push(&mut self, responses: Vec<WatchResponse>, limit: usize) -> bool {
        let weight: usize = responses.iter().map(|response| response.weight).sum();
        if self.outstanding > 0 && self.outstanding.saturating_add(weight) > limit {
            return false;
        }
        self.outstanding += weight;
        self.queue.extend(responses);
        true
    }

    pub(super) fn consume(&mut self, weight: usize) {
        assert!(weight <= self.outstanding, "no more is consumed than was handed out");
        self.outstanding -= weight;
    }
}

/// About how many bytes an event takes.
pub(super) fn weigh(event: &Event, with_previous: bool) -> usize {
    let previous = event.previous.as_ref().filter(|_| with_previous);
    let pairs = [Some(&event.pair), previous].into_iter().flatten();
    EVENT_OVERHEAD + pairs.map(|pair| pair.key.len() + pair.value.len()).sum::<usize>()
}

/// Splits a response that is heavier than `bytes_max` between events; all parts but the last are
/// marked as fragments.
pub(super) fn split(response: WatchResponse, bytes_max: usize) -> Vec<WatchResponse> {
    let response = response.weighed();
    if response.weight <= bytes_max || response.events.len() < 2 {
        return vec![response];
    }
    let mut parts = Vec::new();
    let (mut from, mut weight) = (0, RESPONSE_OVERHEAD);
    for (place, event) in response.events.iter().enumerate() {
        let event = weigh(event, response.with_previous);
        if place > from && weight + event > bytes_max {
            parts.push(part(&response, from, place));
            (from, weight) = (place, RESPONSE_OVERHEAD);
        }
        weight += event;
    }
    parts.push(part(&response, from, response.events.len()));
    if let Some(last) = parts.last_mut() {
        last.fragment = false;
    }
    parts
}

fn part(response: &WatchResponse, from: usize, to: usize) -> WatchResponse {
    let events = response.events[from..to].into();
    WatchResponse { events, fragment: true, ..response.clone() }.weighed()
}
