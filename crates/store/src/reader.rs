//! Reading a state machine as of one moment, on any thread, beside the applier.

use crate::auth::Accounts;
use crate::command::{Member, SessionId, Txn};
use crate::envelope::DecodeError;
use crate::event::{Event, RevisionEvents};
use crate::failure::StoreFailure;
use crate::idempotent_receiver::IdempotentReceiver;
use crate::key_layout::{
    EventId, GenerationRecord, Layout, META_MEMBERSHIP, META_STATE, StateRecord,
};
use crate::lease::{self, Lease};
use crate::limits::{STATE_FORMAT, StoreLimits};
use crate::member_table::{self, ListedMember, MemberTable};
use crate::range::{KeyRange, KeyValue, Range, Revision};
use crate::reply::{RangeReply, StoreError, TxnReply};
use crate::txn::Resolved;
use crate::versioned_value::history::StoredEvents;
use crate::versioned_value::range_read::{RangeChunk, RangeCursor, StreamError};
use crate::versioned_value::{KeyspaceView, settle};
use crate::{Engine, EngineSnapshot, consistent_core};
use bytes::{BufMut, Bytes, BytesMut};
use clocks::{GroupId, LogPosition, NodeId};
use std::sync::Arc;

/// One moment of one group's state. Holds a snapshot of the engine: drop it when done.
pub struct Reader {
    pub(crate) snapshot: Box<dyn EngineSnapshot>,
    pub(crate) layout: Layout,
    pub(crate) state: StateRecord,
}

/// The hash of the keyspace's history up to a revision (etcd `HashKV`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspaceHash {
    /// CRC-32C of the events that every member retains.
    pub hash: u32,
    /// The compacted revision that it is of; hashes are comparable only at equal ones.
    pub compact_revision: Revision,
    /// The revision up to which it goes.
    pub revision: Revision,
}

impl Reader {
    /// The group's state as of the engine's last write.
    ///
    /// # Errors
    /// If the engine fails or holds what this version does not understand.
    pub fn open(engine: &Arc<dyn Engine>, group: GroupId) -> Result<Reader, StoreFailure> {
        let snapshot = engine.snapshot();
        let Some(layout) = live_layout(&*snapshot, group)? else {
            let layout = Layout { group, generation: 1 };
            return Ok(Reader { snapshot, layout, state: StateRecord::initial() });
        };
        let state = read_state(&*snapshot, layout)?;
        Ok(Reader { snapshot, layout, state })
    }

    pub(crate) fn view(&self) -> KeyspaceView<'_> {
        KeyspaceView {
            snapshot: &*self.snapshot,
            layout: self.layout,
            revision: self.state.revision,
            compacted: self.state.compacted,
        }
    }

    /// Position of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> LogPosition {
        self.state.applied
    }

    /// The chain hash after that entry.
    #[must_use]
    pub fn chain_hash(&self) -> u64 {
        self.state.chain_hash
    }

    /// The membership last applied, as the log carried it.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn membership(&self) -> Result<Option<Bytes>, StoreFailure> {
        Ok(self.snapshot.get(&self.layout.meta(META_MEMBERSHIP))?)
    }

    /// Users and roles as of this moment; `known` again if nothing changed since.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn accounts(&self, known: &Arc<Accounts>) -> Result<Arc<Accounts>, StoreFailure> {
        if known.are_of(&*self.snapshot, self.layout)? {
            return Ok(Arc::clone(known));
        }
        Ok(Arc::new(Accounts::load(&*self.snapshot, self.layout)?))
    }

    /// Revision of the keyspace's last change; 1 if there was none.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// History below this revision is forgotten; -1 if none ever was (as in etcd).
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.state.compacted
    }

    /// Serves a read of the keyspace, whole. The inner error refuses it.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn range(&self, range: &Range) -> Result<Result<RangeReply, StoreError>, StoreFailure> {
        settle(self.view().range(range))
    }

    /// The live version of a key.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, StoreFailure> {
        self.view().get_at(key, self.state.revision)
    }

    /// Whether a range holds more than `most` keys now; looks at no more than one beyond them.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn holds_more_than(&self, keys: &KeyRange, most: usize) -> Result<bool, StoreFailure> {
        let mut pairs = self.view().pairs(keys, self.state.revision)?;
        for _ in 0..most {
            if !pairs.skip_one()? {
                return Ok(false);
            }
        }
        pairs.skip_one()
    }

    /// Serves a transaction that only reads (see `Txn::is_read_only`), without the log.
    ///
    /// # Errors
    /// If the engine fails.
    ///
    /// # Panics
    /// If the transaction may write.
    pub fn read_txn(&self, txn: &Txn) -> Result<Result<TxnReply, StoreError>, StoreFailure> {
        assert!(txn.is_read_only(), "a transaction that writes goes through the log");
        let view = self.view();
        settle((|| {
            let resolved = Resolved::of(&view, txn)?;
            resolved.check(&view)?;
            resolved.read(&view)
        })())
    }

    /// Begins a range read in chunks; only in key order and without revision filters.
    ///
    /// # Errors
    /// If the read is refused.
    pub fn stream(&self, range: &Range) -> Result<RangeCursor, StreamError> {
        RangeCursor::new(&self.view(), range)
    }

    /// The next chunk of at most about `bytes_max` bytes (but at least one pair); `None` after the
    /// last.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn next_chunk(
        &self,
        cursor: &mut RangeCursor,
        bytes_max: usize,
    ) -> Result<Option<RangeChunk>, StoreFailure> {
        cursor.next_chunk(&self.view(), bytes_max)
    }

    /// The events of the revisions from `from` on, revision by revision, lazily. Complete for
    /// revisions at and above the compacted one.
    #[must_use]
    pub fn history(&self, from: Revision, previous: Previous) -> History<'_> {
        let view = self.view();
        let from = EventId { main: from.max(0), sub: 0 };
        let events = view.stored_events(from, self.state.revision);
        History { view, events, previous, ahead: None }
    }

    /// The hash of the keyspace up to `revision` (0: the current one). Equal on every member with
    /// the same compacted revision, however far its physical compaction is.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn hash_kv(
        &self,
        revision: Revision,
    ) -> Result<Result<KeyspaceHash, StoreError>, StoreFailure> {
        let view = self.view();
        let revision = match view.resolve(revision) {
            Ok(revision) => revision,
            Err(error) => return Ok(Err(error)),
        };
        let mut events = view.stored_events(EventId::NONE, revision);
        let mut hash = 0;
        while let Some((id, record)) = events.next_retained(self.state.compaction_done())? {
            let mut place = BytesMut::with_capacity(12);
            place.put_i64(id.main);
            place.put_u32(id.sub);
            hash = crc32c::crc32c_append(hash, &place);
            hash = crc32c::crc32c_append(hash, &record.encode());
        }
        let compact_revision = self.state.compacted;
        Ok(Ok(KeyspaceHash { hash, compact_revision, revision }))
    }

    /// The lease clock in milliseconds.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn lease_clock_ms(&self) -> Result<u64, StoreFailure> {
        lease::read_clock(&*self.snapshot, self.layout)
    }

    /// One lease, if it lives.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn lease(&self, id: i64) -> Result<Option<Lease>, StoreFailure> {
        lease::read(&*self.snapshot, self.layout, id)
    }

    /// The keys attached to a lease, ascending.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, StoreFailure> {
        lease::keys(&*self.snapshot, self.layout, id)
    }

    /// Every lease, lazily.
    pub fn leases(&self) -> impl Iterator<Item = Result<Lease, StoreFailure>> + '_ {
        lease::all(&*self.snapshot, self.layout)
    }

    /// The members that the consistent core knows, ascending by id.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn members(&self) -> Result<Vec<Member>, StoreFailure> {
        consistent_core::members(&*self.snapshot, self.layout)
    }

    /// The members as [`Self::members`], each with what it is to the groups.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn listed_members(&self) -> Result<Vec<ListedMember>, StoreFailure> {
        member_table::listed(&*self.snapshot, self.layout)
    }

    /// Who is to be a member of every group; `None` before the first change, while the founders
    /// are.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn member_table(&self) -> Result<Option<MemberTable>, StoreFailure> {
        member_table::read_table(&*self.snapshot, self.layout)
    }

    /// Whether `id` was a member's and is none any more: it is never used again.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn is_removed_member(&self, id: NodeId) -> Result<bool, StoreFailure> {
        member_table::is_removed(&*self.snapshot, self.layout, id)
    }

    /// Formats up to this level may be written.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.state.feature_level
    }

    /// The sessions that are open.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn sessions(&self) -> Result<Vec<SessionId>, StoreFailure> {
        let limits = StoreLimits::default();
        let receiver = IdempotentReceiver::load(&*self.snapshot, self.layout, limits)?;
        Ok(receiver.open_sessions().collect())
    }
}

/// Whether events come with the versions that they replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    /// They do, at the price of a read each.
    Read,
    /// They do not.
    Omit,
}

/// See [`Reader::history`].
pub struct History<'a> {
    view: KeyspaceView<'a>,
    events: StoredEvents<'a>,
    previous: Previous,
    /// The first event of the next revision.
    ahead: Option<(Revision, Event)>,
}

impl Iterator for History<'_> {
    type Item = Result<RevisionEvents, StoreFailure>;

    /// The next revision that has events.
    fn next(&mut self) -> Option<Self::Item> {
        self.next_revision().transpose()
    }
}

impl History<'_> {
    fn next_revision(&mut self) -> Result<Option<RevisionEvents>, StoreFailure> {
        let first = match self.ahead.take() {
            Some(first) => Some(first),
            None => self.next_event()?,
        };
        let Some((revision, first)) = first else { return Ok(None) };
        let mut events = vec![first];
        loop {
            match self.next_event()? {
                Some((main, event)) if main == revision => events.push(event),
                ahead => {
                    self.ahead = ahead;
                    return Ok(Some(RevisionEvents { revision, events: events.into() }));
                }
            }
        }
    }

    fn next_event(&mut self) -> Result<Option<(Revision, Event)>, StoreFailure> {
        let Some((id, record)) = self.events.next()? else { return Ok(None) };
        let event = self.view.watch_event(id, record, self.previous == Previous::Read)?;
        Ok(Some((id.main, event)))
    }
}

impl StateRecord {
    /// Of a group that has applied nothing.
    pub(crate) fn initial() -> StateRecord {
        StateRecord { revision: 1, compacted: -1, ..StateRecord::default() }
    }
}

/// Where the live generation of a group lies; `None` if the group has no state.
pub(crate) fn live_layout(
    snapshot: &dyn EngineSnapshot,
    group: GroupId,
) -> Result<Option<Layout>, StoreFailure> {
    let Some(record) = snapshot.get(&GenerationRecord::key(group))? else { return Ok(None) };
    let record = GenerationRecord::decode(record).map_err(corrupt(group, "the generation"))?;
    if record.format != STATE_FORMAT {
        return Err(StoreFailure::UnknownFormat { group, found: record.format });
    }
    Ok(Some(Layout { group, generation: record.live }))
}

pub(crate) fn read_state(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
) -> Result<StateRecord, StoreFailure> {
    let record = snapshot.get(&layout.meta(META_STATE))?;
    let record = record.ok_or(corrupt(layout.group, "its state record")(DecodeError("missing")))?;
    StateRecord::decode(record).map_err(corrupt(layout.group, "its state record"))
}

fn corrupt(group: GroupId, record: &'static str) -> impl FnOnce(DecodeError) -> StoreFailure {
    move |_| StoreFailure::CorruptState { group, record }
}
