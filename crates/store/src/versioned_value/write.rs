//! Writing: one transaction, one revision. Every change gets the transaction's main revision and
//! a sub revision that counts the changes; a transaction without a change leaves no trace.

use super::KeyspaceView;
use crate::chain_hash::ChainHash;
use crate::event::{Event, EventKind, RevisionEvents};
use crate::failure::StoreFailure;
use crate::key_layout::{CurrentRecord, EventId, EventRecord, Layout, StateRecord};
use crate::overlay::Overlay;
use crate::range::{KeyRange, KeyValue, Revision};
use bytes::Bytes;

/// A transaction on the keyspace under way.
pub(crate) struct RevisionWriter<'a> {
    overlay: &'a mut Overlay,
    layout: Layout,
    hash: ChainHash,
    before: StateRecord,
    events: Vec<Event>,
}

/// What a transaction leaves.
pub(crate) struct Written {
    pub(crate) revision: Revision,
    pub(crate) hash: ChainHash,
    pub(crate) events: Option<RevisionEvents>,
}

impl<'a> RevisionWriter<'a> {
    pub(crate) fn new(
        overlay: &'a mut Overlay,
        layout: Layout,
        state: &StateRecord,
    ) -> RevisionWriter<'a> {
        let hash = ChainHash(state.chain_hash);
        RevisionWriter { overlay, layout, hash, before: *state, events: Vec::new() }
    }

    /// The keyspace with the changes made so far; its revision counts them.
    pub(crate) fn view(&self) -> KeyspaceView<'_> {
        KeyspaceView {
            snapshot: &*self.overlay,
            layout: self.layout,
            revision: self.before.revision + Revision::from(!self.events.is_empty()),
            compacted: self.before.compacted,
        }
    }

    /// Sets a key and returns the version replaced.
    pub(crate) fn put(
        &mut self,
        key: &Bytes,
        value: Bytes,
        lease: i64,
        replaced: Option<CurrentRecord>,
    ) -> Option<KeyValue> {
        let id = self.next_id();
        let record = EventRecord {
            kind: EventKind::Put,
            previous: replaced.as_ref().map_or(EventId::NONE, |replaced| replaced.id),
            create_revision: replaced.as_ref().map_or(id.main, |old| old.create_revision),
            version: replaced.as_ref().map_or(0, |old| old.version) + 1,
            lease,
            key: key.clone(),
            value,
        };
        let current = CurrentRecord {
            id,
            create_revision: record.create_revision,
            version: record.version,
            lease,
            value: record.value.clone(),
        };
        self.overlay.put(self.layout.current(key), current.encode());
        self.attach(key, replaced.as_ref().map_or(0, |old| old.lease), lease);
        let previous = replaced.map(|replaced| replaced.into_pair(key.clone()));
        self.append(id, record, previous.clone());
        previous
    }

    /// Deletes the keys of a range and returns their versions.
    pub(crate) fn delete_range(&mut self, keys: &KeyRange) -> Result<Vec<KeyValue>, StoreFailure> {
        let live = self.view().live(keys)?;
        Ok(live.into_iter().map(|(key, record)| self.delete(key, record)).collect())
    }

    /// Deletes one key, of which this is the live version.
    pub(crate) fn delete(&mut self, key: Bytes, replaced: CurrentRecord) -> KeyValue {
        let id = self.next_id();
        let record = EventRecord {
            kind: EventKind::Delete,
            previous: replaced.id,
            create_revision: 0,
            version: 0,
            lease: 0,
            key: key.clone(),
            value: Bytes::new(),
        };
        self.overlay.delete(self.layout.current(&key));
        self.attach(&key, replaced.lease, 0);
        let previous = replaced.into_pair(key);
        self.append(id, record, Some(previous.clone()));
        previous
    }

    /// Moves a key from one lease to another; 0 is none.
    fn attach(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if from != 0 {
            self.overlay.delete(self.layout.lease_key(from, key));
        }
        if to != 0 {
            self.overlay.put(self.layout.lease_key(to, key), Bytes::new());
        }
    }

    /// What is changed besides keys.
    pub(crate) fn overlay(&mut self) -> &mut Overlay {
        self.overlay
    }

    /// Takes a change that is not of keys into the chain hash.
    pub(crate) fn note(&mut self, kind: &'static str, content: &[u8]) {
        self.hash.note(kind, content);
    }

    fn next_id(&self) -> EventId {
        let sub = u32::try_from(self.events.len()).expect("a transaction's changes fit in memory");
        EventId { main: self.before.revision + 1, sub }
    }

    fn append(&mut self, id: EventId, record: EventRecord, previous: Option<KeyValue>) {
        self.hash.change(id, &record);
        let kind = Bytes::from_static(match record.kind {
            EventKind::Put => &[1],
            EventKind::Delete => &[2],
        });
        self.overlay.put(self.layout.history(&record.key, id), kind);
        self.overlay.put(self.layout.event(id), record.encode());
        let kind = record.kind;
        self.events.push(Event { kind, pair: record.into_pair(id.main), previous });
    }

    /// Ends the transaction.
    pub(crate) fn finish(self) -> Written {
        let revision = self.view().revision;
        let events = (!self.events.is_empty())
            .then(|| RevisionEvents { revision, events: self.events.into() });
        Written { revision, hash: self.hash, events }
    }
}
