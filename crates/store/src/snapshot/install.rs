//! Installing a snapshot: chunk after chunk under a generation of its own, then the switch.

use super::codec::{ChunkError, Record, read_chunk};
use super::{SnapshotRefusal, SnapshotWrite};
use crate::WriteBatch;
use crate::auth;
use crate::envelope::DecodeError;
use crate::event::EventKind;
use crate::key_layout::{
    CurrentRecord, EventId, EventRecord, GenerationRecord, Layout, META_AUTH, META_CLUSTER,
    META_LEASE_CLOCK, META_MEMBERSHIP, META_STATE, PREFIX_LENGTH, Space, StateRecord,
};
use crate::limits::STATE_FORMAT;
use crate::member_table::{ClusterRecord, parse_removed_key};
use crate::state_machine::MachineKind;
use bytes::{BufMut, Bytes, BytesMut};
use clocks::LogPosition;

/// A snapshot that is being received.
pub(crate) struct Staging {
    position: LogPosition,
    layout: Layout,
    next: u64,
    checksum: u64,
    header: Option<(StateRecord, Option<Bytes>)>,
    /// The last event received.
    last: EventId,
}

/// What a chunk leads to.
pub(crate) enum Staged {
    /// Answer this; there is nothing to write.
    Answer(SnapshotWrite),
    /// Write this, then the chunk is stored.
    Store(WriteBatch),
    /// Write this, then the snapshot is live.
    Switch(WriteBatch),
}

impl Staging {
    /// Begins a snapshot under a generation that holds nothing.
    pub(crate) fn new(position: LogPosition, layout: Layout) -> Staging {
        Staging { position, layout, next: 0, checksum: 0, header: None, last: EventId::NONE }
    }

    pub(crate) fn position(&self) -> LogPosition {
        self.position
    }

    pub(crate) fn generation(&self) -> u32 {
        self.layout.generation
    }

    /// Takes a chunk. Until the batch is written, nothing has happened but that the next chunk is
    /// expected; the caller stops if writing fails.
    pub(crate) fn take(
        &mut self,
        kind: MachineKind,
        chunk: u64,
        data: &[u8],
        done: bool,
    ) -> Staged {
        let refuse = |refusal| Staged::Answer(SnapshotWrite::Refused(refusal));
        if chunk + 1 == self.next {
            return Staged::Answer(SnapshotWrite::Written);
        }
        if chunk != self.next {
            return refuse(SnapshotRefusal::Unexpected { next: self.next });
        }
        let mut checksum = self.checksum;
        let records = match read_chunk(data, self.position, chunk, &mut checksum) {
            Ok(records) => records,
            Err(ChunkError::Damaged) => return refuse(SnapshotRefusal::Damaged),
            Err(ChunkError::Foreign(reason)) => return refuse(SnapshotRefusal::Foreign(reason)),
        };
        let batch = match self.translate(kind, &records, done) {
            Ok(batch) => batch,
            Err(DecodeError(reason)) => return refuse(SnapshotRefusal::Foreign(reason)),
        };
        self.checksum = checksum;
        self.next += 1;
        if done { Staged::Switch(self.switch(batch)) } else { Staged::Store(batch) }
    }

    fn translate(
        &mut self,
        kind: MachineKind,
        records: &[Record],
        done: bool,
    ) -> Result<WriteBatch, DecodeError> {
        let mut batch = WriteBatch::default();
        // `self` changes only once all of the chunk is understood.
        let mut header = self.header.clone();
        let (mut last, mut ended) = (self.last, false);
        for record in records {
            if ended {
                return Err(DecodeError("the snapshot goes on behind its end"));
            }
            match record {
                Record::Header { kind: theirs, state, membership } => {
                    let same = *theirs == kind && state.applied == self.position;
                    if !same || header.is_some() || !state.is_sound() {
                        return Err(DecodeError("the snapshot's header is of something else"));
                    }
                    header = Some((*state, membership.clone()));
                }
                Record::Single { name, value } => {
                    check_single(*name, value)?;
                    batch.put(self.layout.meta(*name), value.clone());
                }
                Record::Pair { space, name, value } => {
                    check_pair(*space, name.clone(), value.clone())?;
                    batch.put(self.key(*space, name), value.clone());
                }
                Record::Event { id, record } => {
                    let revision = header.as_ref().map_or(0, |(state, _)| state.revision);
                    if *id <= last || id.main > revision {
                        return Err(DecodeError("an event of the snapshot is out of order"));
                    }
                    last = *id;
                    let event = EventRecord::decode(record.clone())?;
                    self.put_event(&mut batch, *id, event, record.clone());
                }
                Record::Trailer { .. } => ended = true,
            }
            if header.is_none() {
                return Err(DecodeError("the snapshot does not begin with its header"));
            }
        }
        if ended != done {
            return Err(DecodeError("the snapshot's end is not where it was announced"));
        }
        self.header = header;
        self.last = last;
        Ok(batch)
    }

    fn key(&self, space: Space, name: &Bytes) -> Bytes {
        let mut key = BytesMut::with_capacity(PREFIX_LENGTH + name.len());
        key.put_u32(self.layout.group.0);
        key.put_u32(self.layout.generation);
        key.put_u8(space as u8);
        key.put_slice(name);
        key.freeze()
    }

    /// Events come in the order of their revisions, so the last one of a key is its live version.
    fn put_event(&self, batch: &mut WriteBatch, id: EventId, event: EventRecord, record: Bytes) {
        let layout = self.layout;
        batch.put(layout.event(id), record);
        let kind = Bytes::copy_from_slice(&[event.kind.code()]);
        batch.put(layout.history(&event.key, id), kind);
        let current = layout.current(&event.key);
        match event.kind {
            EventKind::Delete => batch.delete(current),
            EventKind::Put => {
                let live = CurrentRecord {
                    id,
                    create_revision: event.create_revision,
                    version: event.version,
                    lease: event.lease,
                    value: event.value,
                };
                batch.put(current, live.encode());
            }
        }
    }

    fn switch(&self, mut batch: WriteBatch) -> WriteBatch {
        let (state, membership) = self.header.as_ref().expect("an end comes behind a header");
        batch.put(self.layout.meta(META_STATE), state.encode());
        if let Some(membership) = membership {
            batch.put(self.layout.meta(META_MEMBERSHIP), membership.clone());
        }
        let live = GenerationRecord { format: STATE_FORMAT, live: self.layout.generation };
        batch.put(GenerationRecord::key(self.layout.group), live.encode());
        batch
    }
}

/// Refuses single records that this version does not know, or could not read.
fn check_single(name: u8, value: &Bytes) -> Result<(), DecodeError> {
    match name {
        META_CLUSTER => ClusterRecord::decode(value.clone()).map(drop),
        META_LEASE_CLOCK => crate::lease::check_clock(value),
        META_AUTH => auth::check_record(Space::Meta, &Bytes::new(), value.clone()),
        _ => Err(DecodeError("a single record of the snapshot is unknown")),
    }
}

/// Refuses what would make the state unreadable.
fn check_pair(space: Space, name: Bytes, value: Bytes) -> Result<(), DecodeError> {
    match space {
        Space::Members => {
            let member = crate::envelope::get_member(&mut value.clone())?;
            let named = name == member.id.0.to_be_bytes()[..];
            if named { Ok(()) } else { Err(DecodeError("a member is under another's id")) }
        }
        Space::Leases | Space::LeaseKeys => crate::lease::check_record(space, &name, value),
        Space::RemovedMembers if parse_removed_key(&name).is_some() && value.is_empty() => Ok(()),
        Space::RemovedMembers => Err(DecodeError("a removed member has the wrong form")),
        Space::Users | Space::Roles => auth::check_record(space, &name, value),
        _ => crate::idempotent_receiver::check_record(name, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::codec::seal;
    use clocks::{GroupId, Term};
    use proptest::prelude::*;

    const POSITION: LogPosition = LogPosition::new(Term(1), 9);

    proptest! {
        /// Bytes of a peer whose checksum is right and whose content is anything.
        #[test]
        fn hostile_chunks_are_refused_or_stored_never_a_panic(
            bodies in prop::collection::vec(any::<Vec<u8>>(), 1..4),
            tags in prop::collection::vec(0..19u8, 3),
            done: bool,
        ) {
            let layout = Layout { group: GroupId(1), generation: 2 };
            let mut staging = Staging::new(POSITION, layout);
            let state = StateRecord { applied: POSITION, ..StateRecord::initial() };
            let header = Record::Header { kind: MachineKind::Keyspace, state, membership: None };
            let first = seal(&[header], &[], POSITION, 0);
            let taken = staging.take(MachineKind::Keyspace, 0, &first, false);
            prop_assert!(matches!(taken, Staged::Store(_)));
            for (body, tag) in bodies.into_iter().zip(tags) {
                let garbage = [&[tag][..], &body].concat();
                let chunk = seal(&[], &garbage, POSITION, staging.next);
                staging.take(MachineKind::Keyspace, staging.next, &chunk, done);
            }
        }
    }
}
