//! Walking history by revision: for watches that catch up, and for everything that must be the
//! same on every member however far its physical compaction is (hashes, snapshots).
//!
//! Invariant: `retained` depends on the logical state alone: of the events below the compacted
//! revision it shows the newest put of each key that lives there, of the others all.

use super::{KeyspaceView, Pairs};
use crate::event::{Event, EventKind};
use crate::failure::StoreFailure;
use crate::key_layout::{EventId, EventRecord, as_slices, parse_event_key};
use crate::range::{KeyValue, Revision};

/// The stored events of a span of revisions, in order.
pub(crate) struct StoredEvents<'a> {
    view: KeyspaceView<'a>,
    events: Pairs<'a>,
}

impl<'a> KeyspaceView<'a> {
    /// The stored events with `from <= id` and a revision of at most `to`.
    pub(crate) fn stored_events(&self, from: EventId, to: Revision) -> StoredEvents<'a> {
        let bounds = self.layout.event_bounds(from, to);
        let (from, to) = as_slices(&bounds);
        StoredEvents { view: *self, events: self.snapshot.scan(from, to) }
    }

    /// What watchers see of a stored event.
    pub(crate) fn watch_event(
        &self,
        id: EventId,
        record: EventRecord,
        with_previous: bool,
    ) -> Result<Event, StoreFailure> {
        let previous = if with_previous { self.previous_of(id, record.previous)? } else { None };
        Ok(Event { kind: record.kind, pair: record.into_pair(id.main), previous })
    }

    /// The version that an event replaced. etcd reads it at the revision before the event, so that
    /// it is gone once that revision is below the compacted one, whether or not it is stored.
    fn previous_of(
        &self,
        id: EventId,
        previous: EventId,
    ) -> Result<Option<KeyValue>, StoreFailure> {
        if previous == EventId::NONE || id.main - 1 < self.compacted {
            return Ok(None);
        }
        Ok(self.event(previous)?.map(|record| record.into_pair(previous.main)))
    }

    /// Whether compaction at the compacted revision keeps this stored event.
    pub(crate) fn is_retained(
        &self,
        id: EventId,
        record: &EventRecord,
    ) -> Result<bool, StoreFailure> {
        if id.main >= self.compacted {
            return Ok(true);
        }
        if record.kind == EventKind::Delete {
            return Ok(false);
        }
        let next = EventId { sub: id.sub + 1, ..id };
        let last = EventId { main: self.compacted, sub: u32::MAX };
        let bounds = self.layout.key_history_bounds(&record.key, next, last);
        let (from, to) = as_slices(&bounds);
        Ok(self.snapshot.scan(from, to).next().transpose()?.is_none())
    }
}

impl StoredEvents<'_> {
    /// The next stored event.
    pub(crate) fn next(&mut self) -> Result<Option<(EventId, EventRecord)>, StoreFailure> {
        let Some(pair) = self.events.next() else { return Ok(None) };
        let (key, record) = pair?;
        let corrupt = |_| self.view.corrupt("an event");
        let id = parse_event_key(key).map_err(corrupt)?;
        Ok(Some((id, EventRecord::decode(record).map_err(corrupt)?)))
    }

    /// The next event that compaction keeps; `compaction_done` spares asking.
    pub(crate) fn next_retained(
        &mut self,
        compaction_done: bool,
    ) -> Result<Option<(EventId, EventRecord)>, StoreFailure> {
        while let Some((id, record)) = self.next()? {
            if compaction_done || self.view.is_retained(id, &record)? {
                return Ok(Some((id, record)));
            }
        }
        Ok(None)
    }
}
