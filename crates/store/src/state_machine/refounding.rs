//! A state that outlived its cluster becomes the beginning of a new one: after a restore, and when
//! a lone survivor goes on.
//!
//! Invariant: one batch does all of it. What belonged to the old cluster goes (its membership, the
//! sessions of its members, whose numbers begin anew, every proof of who somebody is); keys,
//! leases, users and roles stay. The same state refounded in the same way is the same state on
//! every member.

use super::StateMachine;
use crate::chain_hash::ChainHash;
use crate::command::TokenSecret;
use crate::failure::StoreFailure;
use crate::key_layout::{
    GenerationRecord, Layout, META_AUTH, META_MEMBERSHIP, META_STATE, Space, StateRecord,
    as_slices, generation_bounds,
};
use crate::limits::STATE_FORMAT;
use crate::range::Revision;
use crate::{Engine, WriteBatch};
use clocks::{GroupId, LogPosition, Term};

/// How the new cluster's keyspace differs from the old one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refounding {
    /// Added to the revision, so that clients of the old cluster, which may have seen later
    /// revisions than the state holds, never see one twice.
    pub bump_revision: u64,
    /// Whether everything up to the revision counts as compacted, so that their watches end.
    pub mark_compacted: bool,
}

/// Revisions stay far from where they would overflow.
const REVISION_MAX: Revision = Revision::MAX / 2;

impl Refounding {
    /// The new cluster's first revision; `None` if it would be out of bounds.
    #[must_use]
    pub fn revision_after(&self, revision: Revision) -> Option<Revision> {
        let bump = Revision::try_from(self.bump_revision).ok()?;
        revision.checked_add(bump).filter(|revision| *revision <= REVISION_MAX)
    }
}

impl StateMachine {
    /// Makes the state the beginning of a new cluster, durably. Its members seal their tokens with
    /// `token_secret`, as long as users are asked who they are.
    ///
    /// # Errors
    /// If the engine fails. The machine is not to be used after it.
    ///
    /// # Panics
    /// If the revision would be out of bounds (see [`Refounding::revision_after`]).
    pub fn refound(
        &mut self,
        refounding: Refounding,
        token_secret: TokenSecret,
    ) -> Result<(), StoreFailure> {
        self.writing(|machine| {
            let mut state = machine.state;
            state.revision =
                refounding.revision_after(state.revision).expect("checked by the caller");
            if refounding.mark_compacted && state.compacted < state.revision {
                state.compact(state.revision).expect("later than what is compacted");
            }
            let mut hash = ChainHash(state.chain_hash);
            hash.note("refounded", &state.revision.to_be_bytes());
            let mut batch = WriteBatch::default();
            if let Some(record) = machine.accounts().refounded(token_secret) {
                hash.note("authentication", &record);
                batch.put(machine.layout.meta(META_AUTH), record);
            }
            state.chain_hash = hash.0;
            batch.put(machine.layout.meta(META_STATE), state.encode());
            batch.delete(machine.layout.meta(META_MEMBERSHIP));
            let sessions = machine.layout.space_bounds(Space::Sessions);
            let (from, to) = as_slices(&sessions);
            // Their number is bounded (`StoreLimits`).
            for pair in machine.engine.snapshot().scan(from, to) {
                batch.delete(pair?.0);
            }
            machine.engine.write(batch)?;
            machine.engine.flush()?;
            machine.reload()
        })
    }
}

/// Makes the consistent core one that nobody ever wrote to, durably and in one step, except that
/// new formats up to `feature_level` may be written: the keyspace that the new cluster begins with
/// may hold them already.
///
/// # Errors
/// If the engine fails.
pub fn refound_core(engine: &dyn Engine, feature_level: u32) -> Result<(), StoreFailure> {
    let group = GroupId::CONSISTENT_CORE;
    let mut kept = Vec::new();
    // Level 1 is what every build speaks, whatever the core has heard.
    if feature_level > 1 {
        // Not in any log: who joins later must be sent it, so it stands behind an entry.
        let applied = LogPosition::new(Term(1), 1);
        let state = StateRecord { applied, feature_level, ..StateRecord::initial() };
        let layout = Layout { group, generation: 1 };
        let live = GenerationRecord { format: STATE_FORMAT, live: layout.generation };
        kept.push((GenerationRecord::key(group), live.encode()));
        kept.push((layout.meta(META_STATE), state.encode()));
    }
    let bounds = generation_bounds(group, 0, u32::MAX);
    let (from, to) = as_slices(&bounds);
    let mut batch = WriteBatch::default();
    for pair in engine.snapshot().scan(from, to) {
        let (key, _) = pair?;
        if kept.iter().all(|(written, _)| *written != key) {
            batch.delete(key);
        }
    }
    for (key, value) in kept {
        batch.put(key, value);
    }
    engine.write(batch)?;
    Ok(engine.flush()?)
}
