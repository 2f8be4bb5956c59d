//! Versioned Value: a key has every version since the last compaction, each under the revision of
//! the transaction that wrote it.
//!
//! Used by etcd (whose semantics these are), CockroachDB, Spanner and PostgreSQL. Kept three times:
//! the live version by key (a get is one read of the engine), every event by revision (watches,
//! compaction and snapshots walk it), and which revisions a key has (historical reads).
//!
//! Invariant: the three agree. Above the compacted revision every version is there; at it, the
//! newest version of each key, and every event of that very revision, so that a watch may start
//! there. What else is still stored below is never shown.

pub(crate) mod compaction;
pub(crate) mod history;
pub(crate) mod range_read;
pub(crate) mod write;

use crate::event::EventKind;
use crate::failure::StoreFailure;
use crate::key_layout::{
    CurrentRecord, EventId, EventRecord, Layout, PREFIX_LENGTH, as_slices, parse_history_key,
};
use crate::range::{KeyRange, KeyValue, Revision};
use crate::reply::{AuthError, StoreError};
use crate::{EngineError, EngineSnapshot, Pair};
use bytes::Bytes;
use std::iter::Peekable;

/// Why a step of a command ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command is refused; every member refuses it.
    Refused(StoreError),
    /// The node has to stop.
    Failed(StoreFailure),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Refused(error)
    }
}

impl From<AuthError> for Stop {
    fn from(error: AuthError) -> Stop {
        Stop::Refused(StoreError::Auth(error))
    }
}

impl From<StoreFailure> for Stop {
    fn from(failure: StoreFailure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Stop {
        Stop::Failed(StoreFailure::Engine(error))
    }
}

/// Turns what ended a step into the two levels that callers see.
pub(crate) fn settle<T>(result: Result<T, Stop>) -> Result<Result<T, StoreError>, StoreFailure> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Refused(error)) => Ok(Err(error)),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

/// The keyspace as of one moment.
#[derive(Clone, Copy)]
pub(crate) struct KeyspaceView<'a> {
    pub(crate) snapshot: &'a dyn EngineSnapshot,
    pub(crate) layout: Layout,
    /// Revision of the last change.
    pub(crate) revision: Revision,
    /// History below is forgotten; -1 if nothing ever was.
    pub(crate) compacted: Revision,
}

type Pairs<'a> = Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a>;

impl<'a> KeyspaceView<'a> {
    /// The live version of a key.
    pub(crate) fn current(&self, key: &[u8]) -> Result<Option<CurrentRecord>, StoreFailure> {
        let Some(record) = self.snapshot.get(&self.layout.current(key))? else { return Ok(None) };
        CurrentRecord::decode(record).map(Some).map_err(|_| self.corrupt("a live version"))
    }

    /// The event of an id, if it is still stored.
    pub(crate) fn event(&self, id: EventId) -> Result<Option<EventRecord>, StoreFailure> {
        let Some(record) = self.snapshot.get(&self.layout.event(id))? else { return Ok(None) };
        EventRecord::decode(record).map(Some).map_err(|_| self.corrupt("an event"))
    }

    /// The revision to read at: etcd takes 0 and less for the current one.
    pub(crate) fn resolve(&self, asked: Revision) -> Result<Revision, StoreError> {
        if asked > self.revision {
            return Err(StoreError::FutureRevision { current: self.revision });
        }
        let revision = if asked <= 0 { self.revision } else { asked };
        if revision < self.compacted {
            return Err(StoreError::Compacted { compacted: self.compacted });
        }
        Ok(revision)
    }

    /// The pairs of a range as of `revision` (resolved), ascending by key; lazy.
    pub(crate) fn pairs(
        &self,
        keys: &KeyRange,
        revision: Revision,
    ) -> Result<PairsAt<'a>, StoreFailure> {
        if let KeyRange::Key(key) = keys {
            return Ok(PairsAt::One(self.get_at(key, revision)?));
        }
        let Some(bounds) = self.spans(keys) else { return Ok(PairsAt::One(None)) };
        let (from, to) = as_slices(&bounds.current);
        let current = self.snapshot.scan(from, to);
        if revision >= self.revision {
            return Ok(PairsAt::Current { view: *self, current });
        }
        let (from, to) = as_slices(&bounds.history);
        let history = self.snapshot.scan(from, to);
        let current = current.peekable();
        Ok(PairsAt::Past(PastPairs { view: *self, revision, history, ahead: None, current }))
    }

    /// One key as of `revision` (resolved).
    pub(crate) fn get_at(
        &self,
        key: &Bytes,
        revision: Revision,
    ) -> Result<Option<KeyValue>, StoreFailure> {
        if let Some(current) = self.current(key)?
            && current.id.main <= revision
        {
            return Ok(Some(current.into_pair(key.clone())));
        }
        if revision >= self.revision {
            return Ok(None);
        }
        let last = EventId { main: revision, sub: u32::MAX };
        let bounds = self.layout.key_history_bounds(key, EventId::NONE, last);
        let (from, to) = as_slices(&bounds);
        let Some(newest) = self.snapshot.scan_back(from, to).next() else { return Ok(None) };
        let (engine_key, kind) = newest?;
        let (_, id) = parse_history_key(&engine_key).map_err(|_| self.corrupt("a history key"))?;
        match self.kind(&kind)? {
            EventKind::Delete => Ok(None),
            EventKind::Put => self.stored_event(id).map(|event| Some(event.into_pair(id.main))),
        }
    }

    /// The live versions of a range, ascending by key.
    pub(crate) fn live(
        &self,
        keys: &KeyRange,
    ) -> Result<Vec<(Bytes, CurrentRecord)>, StoreFailure> {
        if let KeyRange::Key(key) = keys {
            let live = self.current(key)?;
            return Ok(live.map(|record| (key.clone(), record)).into_iter().collect());
        }
        let Some(bounds) = self.spans(keys) else { return Ok(Vec::new()) };
        let (from, to) = as_slices(&bounds.current);
        let read = |pair: Result<Pair, EngineError>| {
            let (mut key, record) = pair?;
            let record = CurrentRecord::decode(record);
            let record = record.map_err(|_| self.corrupt("a live version"))?;
            Ok((key.split_off(PREFIX_LENGTH), record))
        };
        self.snapshot.scan(from, to).map(read).collect()
    }

    /// The number of keys of a range as of `revision` (resolved).
    pub(crate) fn count(&self, keys: &KeyRange, revision: Revision) -> Result<i64, StoreFailure> {
        let mut pairs = self.pairs(keys, revision)?;
        let mut count = 0;
        while pairs.skip_one()? {
            count += 1;
        }
        Ok(count)
    }

    fn spans(&self, keys: &KeyRange) -> Option<Spans> {
        let (start, end) = match keys {
            KeyRange::Key(_) => unreachable!("single keys are read by get_at"),
            KeyRange::Span { start, end } if end <= start => return None,
            KeyRange::Span { start, end } => (start, Some(&end[..])),
            KeyRange::From(start) => (start, None),
        };
        Some(Spans {
            current: self.layout.current_bounds(start, end),
            history: self.layout.history_bounds(start, end),
        })
    }

    fn kind(&self, value: &Bytes) -> Result<EventKind, StoreFailure> {
        let code = value.first().copied().unwrap_or(0);
        EventKind::from_code(code).map_err(|_| self.corrupt("a history entry"))
    }

    /// An event that the invariant says is stored.
    fn stored_event(&self, id: EventId) -> Result<EventRecord, StoreFailure> {
        self.event(id)?.ok_or_else(|| self.corrupt("an event is missing"))
    }

    pub(crate) fn corrupt(&self, record: &'static str) -> StoreFailure {
        StoreFailure::CorruptState { group: self.layout.group, record }
    }
}

struct Spans {
    current: crate::key_layout::Bounds,
    history: crate::key_layout::Bounds,
}

/// See [`KeyspaceView::pairs`].
pub(crate) enum PairsAt<'a> {
    One(Option<KeyValue>),
    Current { view: KeyspaceView<'a>, current: Pairs<'a> },
    Past(PastPairs<'a>),
}

impl PairsAt<'_> {
    /// The next pair.
    pub(crate) fn next(&mut self) -> Result<Option<KeyValue>, StoreFailure> {
        match self {
            PairsAt::One(pair) => Ok(pair.take()),
            PairsAt::Current { view, current } => {
                let Some(pair) = current.next() else { return Ok(None) };
                let (mut key, record) = pair?;
                let record = CurrentRecord::decode(record);
                let record = record.map_err(|_| view.corrupt("a live version"))?;
                Ok(Some(record.into_pair(key.split_off(PREFIX_LENGTH))))
            }
            PairsAt::Past(past) => {
                let Some((key, id)) = past.next_id()? else { return Ok(None) };
                past.read(key, id).map(Some)
            }
        }
    }

    /// Passes over the next pair without reading more than its key; false at the end.
    pub(crate) fn skip_one(&mut self) -> Result<bool, StoreFailure> {
        match self {
            PairsAt::One(pair) => Ok(pair.take().is_some()),
            PairsAt::Current { current, .. } => Ok(current.next().transpose()?.is_some()),
            PairsAt::Past(past) => Ok(past.next_id()?.is_some()),
        }
    }
}

/// A range as of an older revision: the history says which version of each key, and the live
/// versions, walked beside it, spare a read for every key that has not changed since.
pub(crate) struct PastPairs<'a> {
    view: KeyspaceView<'a>,
    revision: Revision,
    history: Pairs<'a>,
    /// Taken from `history`, and not used yet.
    ahead: Option<Entry>,
    current: Peekable<Pairs<'a>>,
}

/// A version of a key in history.
type Entry = (Bytes, EventId, EventKind);

impl PastPairs<'_> {
    /// The next key that exists at the revision, and its newest version there.
    fn next_id(&mut self) -> Result<Option<(Bytes, EventId)>, StoreFailure> {
        loop {
            let Some((key, id, kind)) = self.next_entry()? else { return Ok(None) };
            let mut newest = (id.main <= self.revision).then_some((id, kind));
            while let Some((_, id, kind)) = self.next_entry_of(&key)? {
                if id.main <= self.revision {
                    newest = Some((id, kind));
                }
            }
            if let Some((id, EventKind::Put)) = newest {
                return Ok(Some((key, id)));
            }
        }
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, StoreFailure> {
        if let Some(entry) = self.ahead.take() {
            return Ok(Some(entry));
        }
        let Some(entry) = self.history.next() else { return Ok(None) };
        let (engine_key, kind) = entry?;
        let parsed = parse_history_key(&engine_key);
        let (key, id) = parsed.map_err(|_| self.view.corrupt("a history key"))?;
        Ok(Some((key, id, self.view.kind(&kind)?)))
    }

    /// The next entry, if it is of this key.
    fn next_entry_of(&mut self, key: &Bytes) -> Result<Option<Entry>, StoreFailure> {
        self.ahead = self.next_entry()?;
        Ok(self.ahead.take_if(|(other, ..)| other == key))
    }

    fn read(&mut self, key: Bytes, id: EventId) -> Result<KeyValue, StoreFailure> {
        while let Some(Ok((engine_key, _))) = self.current.peek() {
            if engine_key[PREFIX_LENGTH..] >= key[..] {
                break;
            }
            self.current.next();
        }
        if let Some(Ok((engine_key, record))) = self.current.peek()
            && engine_key[PREFIX_LENGTH..] == key[..]
        {
            let record = CurrentRecord::decode(record.clone());
            let record = record.map_err(|_| self.view.corrupt("a live version"))?;
            if record.id == id {
                return Ok(record.into_pair(key));
            }
        }
        // An engine error that `peek` saw shows here, or on the next call.
        Ok(self.view.stored_event(id)?.into_pair(id.main))
    }
}
