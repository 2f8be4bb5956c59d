//! Physical compaction: a walk over the events up to the compacted revision, in steps.
//!
//! Each event knows the version that it superseded, so the walk is sequential and needs no index:
//! a superseded version goes once its successor is met, a deletion below the compacted revision
//! goes itself. Invariant: the walk changes nothing that can be read; the compacted revision,
//! which every member sets at the same entry, alone says what is readable. So each member walks
//! when it likes, and a crash only repeats a step.

use super::KeyspaceView;
use crate::WriteBatch;
use crate::event::EventKind;
use crate::failure::StoreFailure;
use crate::key_layout::{EventId, StateRecord};
use crate::range::Revision;
use crate::reply::StoreError;

impl StateRecord {
    /// Moves the compacted revision (etcd `Compact`).
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted { compacted: self.compacted });
        }
        if revision > self.revision {
            return Err(StoreError::FutureRevision { current: self.revision });
        }
        // What stands at the old compacted revision was kept whole for watches that start there.
        let again = EventId { main: self.compacted.max(0), sub: 0 };
        self.compaction_next = self.compaction_next.min(again);
        self.compacted = revision;
        Ok(())
    }

    /// Whether nothing is stored that compaction would drop.
    pub(crate) fn compaction_done(&self) -> bool {
        self.compaction_next.main > self.compacted
    }
}

/// Looks at up to `budget` events; the batch drops what they supersede, and `state` says where to
/// go on. The caller writes both together.
pub(crate) fn step(
    view: &KeyspaceView<'_>,
    state: &mut StateRecord,
    budget: usize,
) -> Result<WriteBatch, StoreFailure> {
    let mut batch = WriteBatch::default();
    let mut events = view.stored_events(state.compaction_next, state.compacted);
    for _ in 0..budget.max(1) {
        let Some((id, record)) = events.next()? else {
            state.compaction_next = EventId { main: state.compacted + 1, sub: 0 };
            break;
        };
        let mut drop_version = |version: EventId| {
            batch.delete(view.layout.event(version));
            batch.delete(view.layout.history(&record.key, version));
        };
        if record.previous != EventId::NONE && record.previous.main < state.compacted {
            drop_version(record.previous);
        }
        if record.kind == EventKind::Delete && id.main < state.compacted {
            drop_version(id);
        }
        state.compaction_next = match id.sub.checked_add(1) {
            Some(sub) => EventId { sub, ..id },
            None => EventId { main: id.main + 1, sub: 0 },
        };
    }
    Ok(batch)
}
