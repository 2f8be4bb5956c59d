//! Idempotent Receiver: a request that arrives twice is applied once.
//!
//! Used by Raft clients (thesis, section 6.3), Kafka's idempotent producer and ZooKeeper's session
//! re-establishment. Sessions are opened through the log, so every member holds the same table; it
//! is bounded, expires by log position only, and travels in snapshots.
//!
//! Invariant: of one session, a sequence is admitted at most once, for ever: a session that gave
//! way cannot be opened again, since a member's incarnations only grow.

use crate::EngineSnapshot;
use crate::command::SessionId;
use crate::envelope::{DecodeError, get_u32, get_u64};
use crate::failure::StoreFailure;
use crate::key_layout::{
    Layout, PREFIX_LENGTH, SESSION_INCARNATION, SESSION_OPEN, Space, as_slices,
};
use crate::limits::StoreLimits;
use crate::overlay::Overlay;
use crate::reply::StoreError;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use clocks::{LogIndex, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// The table of one group.
pub(crate) struct IdempotentReceiver {
    limits: StoreLimits,
    sessions: BTreeMap<SessionId, Session>,
    /// Of each member: the highest incarnation ever opened. Guards against late repetitions.
    incarnations: BTreeMap<NodeId, Incarnation>,
    /// What the engine does not have yet.
    dirty_sessions: BTreeSet<SessionId>,
    dirty_incarnations: BTreeSet<NodeId>,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Apply it.
    Fresh,
    /// It was applied before: do nothing.
    Duplicate,
    /// Answer with the error.
    Refused(StoreError),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    last_used: LogIndex,
    /// Every sequence below was answered, and will not be asked about again.
    answered_below: u64,
    /// Applied sequences at or above that, as inclusive ranges that do not touch: first → last.
    applied: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incarnation {
    highest: u64,
    last_used: LogIndex,
}

impl IdempotentReceiver {
    /// Reads the table of a group.
    pub(crate) fn load(
        snapshot: &dyn EngineSnapshot,
        layout: Layout,
        limits: StoreLimits,
    ) -> Result<IdempotentReceiver, StoreFailure> {
        let mut receiver = IdempotentReceiver::new(limits);
        let bounds = layout.space_bounds(Space::Sessions);
        let (from, to) = as_slices(&bounds);
        for pair in snapshot.scan(from, to) {
            let (mut key, value) = pair?;
            receiver.read_record(key.split_off(PREFIX_LENGTH), value).map_err(|_| {
                StoreFailure::CorruptState { group: layout.group, record: "a session" }
            })?;
        }
        Ok(receiver)
    }

    fn new(limits: StoreLimits) -> IdempotentReceiver {
        IdempotentReceiver {
            limits,
            sessions: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            dirty_sessions: BTreeSet::new(),
            dirty_incarnations: BTreeSet::new(),
        }
    }

    fn read_record(&mut self, mut name: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        let tag = crate::envelope::get_u8(&mut name)?;
        let member = NodeId(get_u64(&mut name)?);
        match tag {
            SESSION_OPEN => {
                let incarnation = get_u64(&mut name)?;
                let session = Session::decode(&mut value)?;
                self.sessions.insert(SessionId { member, incarnation }, session);
            }
            SESSION_INCARNATION => {
                let highest = get_u64(&mut value)?;
                let incarnation = Incarnation { highest, last_used: get_u64(&mut value)? };
                self.incarnations.insert(member, incarnation);
            }
            _ => return Err(DecodeError("a session record is of an unknown kind")),
        }
        if name.has_remaining() || value.has_remaining() {
            return Err(DecodeError("bytes follow a session record's end"));
        }
        Ok(())
    }

    /// Opens a session. Opening an open one again is harmless.
    pub(crate) fn open(&mut self, id: SessionId, index: LogIndex) -> Admission {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.last_used = index;
            self.dirty_sessions.insert(id);
            return Admission::Fresh;
        }
        if self.incarnations.get(&id.member).is_some_and(|known| id.incarnation <= known.highest) {
            return Admission::Refused(StoreError::SessionExpired);
        }
        self.make_room();
        self.sessions.insert(id, Session { last_used: index, ..Session::default() });
        self.dirty_sessions.insert(id);
        let incarnation = Incarnation { highest: id.incarnation, last_used: index };
        self.incarnations.insert(id.member, incarnation);
        self.dirty_incarnations.insert(id.member);
        Admission::Fresh
    }

    fn make_room(&mut self) {
        if self.sessions.len() >= self.limits.sessions_max {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last_used);
            if let Some((id, _)) = oldest {
                let id = *id;
                self.remove(id);
            }
        }
        if self.incarnations.len() >= self.limits.incarnations_max {
            let oldest = self.incarnations.iter().min_by_key(|(_, known)| known.last_used);
            if let Some((member, _)) = oldest {
                let member = *member;
                self.incarnations.remove(&member);
                self.dirty_incarnations.insert(member);
            }
        }
    }

    fn remove(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        self.dirty_sessions.insert(id);
    }

    /// Decides about a request, and remembers it if it is to be applied.
    pub(crate) fn admit(
        &mut self,
        id: SessionId,
        sequence: u64,
        answered_below: u64,
        index: LogIndex,
    ) -> Admission {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Admission::Refused(StoreError::SessionExpired);
        };
        self.dirty_sessions.insert(id);
        session.last_used = index;
        if session.holds(sequence) {
            session.forget_below(answered_below);
            return Admission::Duplicate;
        }
        session.insert(sequence);
        session.forget_below(answered_below);
        if session.applied.len() > self.limits.session_gaps_max {
            // To forget a gap would be to call a lost request applied: the session ends instead.
            self.remove(id);
            return Admission::Refused(StoreError::SessionExpired);
        }
        Admission::Fresh
    }

    /// Whether the request was applied; `None` if the session is not known.
    pub(crate) fn was_applied(&self, id: SessionId, sequence: u64) -> Option<bool> {
        self.sessions.get(&id).map(|session| session.holds(sequence))
    }

    /// Whether the session was opened and has given way: what became of its requests is forgotten.
    pub(crate) fn has_ended(&self, id: SessionId) -> bool {
        let opened = self.incarnations.get(&id.member);
        !self.sessions.contains_key(&id)
            && opened.is_some_and(|known| id.incarnation <= known.highest)
    }

    /// The planted bug: sessions stay, and what they asked is forgotten.
    pub(crate) fn forget_requests(&mut self) {
        for (id, session) in &mut self.sessions {
            *session = Session { last_used: session.last_used, ..Session::default() };
            self.dirty_sessions.insert(*id);
        }
    }

    /// The sessions that are open.
    pub(crate) fn open_sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// Writes what changed since the last call.
    pub(crate) fn write_changes(&mut self, layout: Layout, overlay: &mut Overlay) {
        for id in std::mem::take(&mut self.dirty_sessions) {
            let key = layout.session(id.member.0, id.incarnation);
            match self.sessions.get(&id) {
                Some(session) => overlay.put(key, session.encode()),
                None => overlay.delete(key),
            }
        }
        for member in std::mem::take(&mut self.dirty_incarnations) {
            let key = layout.incarnation(member.0);
            match self.incarnations.get(&member) {
                Some(known) => {
                    let mut value = BytesMut::with_capacity(16);
                    value.put_u64(known.highest);
                    value.put_u64(known.last_used);
                    overlay.put(key, value.freeze());
                }
                None => overlay.delete(key),
            }
        }
    }
}

/// Whether this is a record of the table, as it lies in the engine behind the space.
pub(crate) fn check_record(name: Bytes, value: Bytes) -> Result<(), DecodeError> {
    IdempotentReceiver::new(StoreLimits::default()).read_record(name, value)
}

impl Session {
    fn holds(&self, sequence: u64) -> bool {
        sequence < self.answered_below
            || self
                .applied
                .range(..=sequence)
                .next_back()
                .is_some_and(|(_, last)| sequence <= *last)
    }

    fn insert(&mut self, sequence: u64) {
        assert!(!self.holds(sequence), "a sequence is applied once");
        let before =
            self.applied.range(..sequence).next_back().map(|(first, last)| (*first, *last));
        let first = match before {
            Some((first, last)) if last + 1 == sequence => first,
            _ => sequence,
        };
        let after = sequence.checked_add(1).and_then(|next| self.applied.remove(&next));
        self.applied.insert(first, after.unwrap_or(sequence));
    }

    fn forget_below(&mut self, answered_below: u64) {
        if answered_below <= self.answered_below {
            return;
        }
        self.answered_below = answered_below;
        while let Some(range) = self.applied.first_entry() {
            let last = *range.get();
            if *range.key() >= answered_below {
                break;
            }
            range.remove();
            if last >= answered_below {
                self.applied.insert(answered_below, last);
            }
        }
    }

    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(20 + 16 * self.applied.len());
        out.put_u64(self.last_used);
        out.put_u64(self.answered_below);
        out.put_u32(u32::try_from(self.applied.len()).expect("gaps are bounded"));
        for (first, last) in &self.applied {
            out.put_u64(*first);
            out.put_u64(*last);
        }
        out.freeze()
    }

    fn decode(input: &mut Bytes) -> Result<Session, DecodeError> {
        let last_used = get_u64(input)?;
        let mut session =
            Session { last_used, answered_below: get_u64(input)?, ..Session::default() };
        for _ in 0..get_u32(input)? {
            let (first, last) = (get_u64(input)?, get_u64(input)?);
            let before = session.applied.values().next_back();
            let apart = before.is_none_or(|before| before.checked_add(1) < Some(first));
            if !apart || last < first {
                return Err(DecodeError("the ranges of a session are out of order"));
            }
            session.applied.insert(first, last);
        }
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the dumb form: a set of every sequence ever admitted.
        #[test]
        fn a_sequence_is_admitted_once(
            requests in prop::collection::vec((1..40u64, 0..20u64), 0..120),
        ) {
            let mut session = Session::default();
            let (mut applied, mut floor) = (BTreeSet::new(), 0);
            for (sequence, answered_below) in requests {
                let known = sequence < floor || applied.contains(&sequence);
                prop_assert_eq!(session.holds(sequence), known);
                if !known {
                    session.insert(sequence);
                    applied.insert(sequence);
                }
                session.forget_below(answered_below);
                floor = floor.max(answered_below);
                let read = Session::decode(&mut session.encode()).unwrap();
                prop_assert_eq!(&read, &session);
                let ranges: Vec<_> = session.applied.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| *pair[0].1 + 1 < *pair[1].0));
            }
        }
    }
}
