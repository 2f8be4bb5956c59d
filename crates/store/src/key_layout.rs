//! Where things lie in the engine, and how records are encoded (byte tables: docs/formats.md,
//! State).
//!
//! Every key begins (group u32, generation u32, space u8), big-endian, so that a whole group, a
//! generation of it and a space of that are each one range. Invariant: engine order within a space
//! is the order of what the space holds: user keys in byte order, revisions in time order.

use crate::envelope::{DecodeError, get_i64, get_u8, get_u32, get_u64};
use crate::event::EventKind;
use crate::range::{KeyValue, Revision};
use bytes::{BufMut, Bytes, BytesMut};
use clocks::GroupId;
use std::ops::Bound;

/// Length of (group, generation, space).
pub(crate) const PREFIX_LENGTH: usize = 9;

/// What a key holds, after its group and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Space {
    /// Single records of the state machine.
    Meta = 1,
    /// User key → its live version.
    Current = 2,
    /// (User key, revision) → kind: every version kept.
    History = 3,
    /// Revision → event: every version kept.
    Events = 4,
    /// Session → what it applied.
    Sessions = 5,
    /// Node id → member of the cluster.
    Members = 6,
    /// Lease → how long it lives.
    Leases = 7,
    /// (Lease, user key): the live keys attached to it.
    LeaseKeys = 8,
    /// Node id → nothing: those that were members.
    RemovedMembers = 11,
    /// Name → user.
    Users = 9,
    /// Name → role.
    Roles = 10,
}

/// A key and, behind it, the next one of the same text: an exclusive upper bound.
pub(crate) type Bounds = (Bound<Bytes>, Bound<Bytes>);

/// The keys of one generation of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) group: GroupId,
    pub(crate) generation: u32,
}

/// A place in the history of the keyspace: revision, and change within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventId {
    pub(crate) main: Revision,
    pub(crate) sub: u32,
}

impl EventId {
    /// No event.
    pub(crate) const NONE: EventId = EventId { main: 0, sub: 0 };
}

impl Layout {
    fn prefix(self, space: Space, room: usize) -> BytesMut {
        let mut key = BytesMut::with_capacity(PREFIX_LENGTH + room);
        key.put_u32(self.group.0);
        key.put_u32(self.generation);
        key.put_u8(space as u8);
        key
    }

    /// A single record of the state machine.
    pub(crate) fn meta(self, name: u8) -> Bytes {
        let mut key = self.prefix(Space::Meta, 1);
        key.put_u8(name);
        key.freeze()
    }

    pub(crate) fn current(self, user_key: &[u8]) -> Bytes {
        let mut key = self.prefix(Space::Current, user_key.len());
        key.put_slice(user_key);
        key.freeze()
    }

    pub(crate) fn history(self, user_key: &[u8], id: EventId) -> Bytes {
        let mut key = self.prefix(Space::History, user_key.len() + 16);
        put_escaped(&mut key, user_key);
        key.put_slice(&ESCAPE_END);
        put_event_id(&mut key, id);
        key.freeze()
    }

    pub(crate) fn event(self, id: EventId) -> Bytes {
        let mut key = self.prefix(Space::Events, 12);
        put_event_id(&mut key, id);
        key.freeze()
    }

    pub(crate) fn session(self, member: u64, incarnation: u64) -> Bytes {
        let mut key = self.prefix(Space::Sessions, 17);
        key.put_u8(SESSION_OPEN);
        key.put_u64(member);
        key.put_u64(incarnation);
        key.freeze()
    }

    pub(crate) fn incarnation(self, member: u64) -> Bytes {
        let mut key = self.prefix(Space::Sessions, 9);
        key.put_u8(SESSION_INCARNATION);
        key.put_u64(member);
        key.freeze()
    }

    pub(crate) fn member(self, id: u64) -> Bytes {
        let mut key = self.prefix(Space::Members, 8);
        key.put_u64(id);
        key.freeze()
    }

    pub(crate) fn lease(self, id: i64) -> Bytes {
        let mut key = self.prefix(Space::Leases, 8);
        key.put_i64(id);
        key.freeze()
    }

    pub(crate) fn lease_key(self, id: i64, user_key: &[u8]) -> Bytes {
        let mut key = self.prefix(Space::LeaseKeys, 8 + user_key.len());
        key.put_i64(id);
        key.put_slice(user_key);
        key.freeze()
    }

    /// The keys attached to a lease.
    pub(crate) fn lease_keys_bounds(self, id: i64) -> Bounds {
        // The greatest id by its bits is -1.
        let to = match id {
            -1 => self.after(Space::LeaseKeys),
            _ => self.lease_key(id.wrapping_add(1), &[]),
        };
        (Bound::Included(self.lease_key(id, &[])), Bound::Excluded(to))
    }

    pub(crate) fn removed_member(self, id: u64) -> Bytes {
        let mut key = self.prefix(Space::RemovedMembers, 8);
        key.put_u64(id);
        key.freeze()
    }

    pub(crate) fn user(self, name: &str) -> Bytes {
        let mut key = self.prefix(Space::Users, name.len());
        key.put_slice(name.as_bytes());
        key.freeze()
    }

    pub(crate) fn role(self, name: &str) -> Bytes {
        let mut key = self.prefix(Space::Roles, name.len());
        key.put_slice(name.as_bytes());
        key.freeze()
    }

    /// The user keys `start <= key < end` (`None`: no end) among the current ones.
    pub(crate) fn current_bounds(self, start: &[u8], end: Option<&[u8]>) -> Bounds {
        let to = end.map_or_else(|| self.after(Space::Current), |end| self.current(end));
        (Bound::Included(self.current(start)), Bound::Excluded(to))
    }

    /// The user keys `start <= key < end` (`None`: no end) in history.
    pub(crate) fn history_bounds(self, start: &[u8], end: Option<&[u8]>) -> Bounds {
        let escaped = |user_key: &[u8]| {
            let mut key = self.prefix(Space::History, user_key.len() + 4);
            put_escaped(&mut key, user_key);
            key.freeze()
        };
        // The escaped text without its end sorts before the key's first version, and after every
        // version of every smaller key.
        let to = end.map_or_else(|| self.after(Space::History), escaped);
        (Bound::Included(escaped(start)), Bound::Excluded(to))
    }

    /// The versions of one key with `from <= id <= to`.
    pub(crate) fn key_history_bounds(self, key: &[u8], from: EventId, to: EventId) -> Bounds {
        (Bound::Included(self.history(key, from)), Bound::Included(self.history(key, to)))
    }

    /// The events with `from <= revision <= to`.
    pub(crate) fn event_bounds(self, from: EventId, to: Revision) -> Bounds {
        let last = EventId { main: to, sub: u32::MAX };
        (Bound::Included(self.event(from)), Bound::Included(self.event(last)))
    }

    /// Everything of a space.
    pub(crate) fn space_bounds(self, space: Space) -> Bounds {
        (Bound::Included(self.prefix(space, 0).freeze()), Bound::Excluded(self.after(space)))
    }

    /// The first key behind a space.
    fn after(self, space: Space) -> Bytes {
        let mut key = self.prefix(space, 0);
        key[PREFIX_LENGTH - 1] += 1;
        key.freeze()
    }
}

/// Of an engine key: which generation it belongs to.
pub(crate) fn generation_of(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(4..8)?.try_into().ok()?))
}

/// The keys of the generations `from..=to` of a group.
pub(crate) fn generation_bounds(group: GroupId, from: u32, to: u32) -> Bounds {
    let key = |generation: u64| {
        // 64 bits, so that one past the last generation is the first of the next group.
        Bytes::copy_from_slice(&((u64::from(group.0) << 32) + generation).to_be_bytes())
    };
    let end = match (group.0, to) {
        (u32::MAX, u32::MAX) => Bound::Unbounded,
        _ => Bound::Excluded(key(u64::from(to) + 1)),
    };
    (Bound::Included(key(u64::from(from))), end)
}

/// `bounds` as the engine takes them.
pub(crate) fn as_slices(bounds: &Bounds) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (bounds.0.as_ref().map(|key| &key[..]), bounds.1.as_ref().map(|key| &key[..]))
}

pub(crate) const SESSION_OPEN: u8 = 1;
pub(crate) const SESSION_INCARNATION: u8 = 2;

/// A zero byte within a key, so that the end sorts before everything that may follow.
const ESCAPE_ZERO: [u8; 2] = [0x00, 0xff];
const ESCAPE_END: [u8; 2] = [0x00, 0x01];

fn put_escaped(out: &mut BytesMut, user_key: &[u8]) {
    for (place, part) in user_key.split(|byte| *byte == 0).enumerate() {
        if place > 0 {
            out.put_slice(&ESCAPE_ZERO);
        }
        out.put_slice(part);
    }
}

fn put_event_id(out: &mut BytesMut, id: EventId) {
    out.put_i64(id.main);
    out.put_u32(id.sub);
}

fn get_event_id(input: &mut Bytes) -> Result<EventId, DecodeError> {
    Ok(EventId { main: get_i64(input)?, sub: get_u32(input)? })
}

/// Reads the id from an engine key of the events.
pub(crate) fn parse_event_key(mut key: Bytes) -> Result<EventId, DecodeError> {
    if key.len() != PREFIX_LENGTH + 12 {
        return Err(BAD_KEY);
    }
    get_event_id(&mut key.split_off(PREFIX_LENGTH))
}

/// Reads user key and id from an engine key of the history. Copies the key only if it holds a
/// zero byte.
pub(crate) fn parse_history_key(key: &Bytes) -> Result<(Bytes, EventId), DecodeError> {
    let Some(end) =
        key.len().checked_sub(12 + ESCAPE_END.len()).filter(|end| *end >= PREFIX_LENGTH)
    else {
        return Err(BAD_KEY);
    };
    let escaped = key.slice(PREFIX_LENGTH..end);
    let id = get_event_id(&mut key.slice(end + ESCAPE_END.len()..))?;
    if !escaped.contains(&0) {
        return Ok((escaped, id));
    }
    let mut user_key = BytesMut::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        user_key.put_u8(*byte);
        if *byte == 0 && bytes.next() != Some(&ESCAPE_ZERO[1]) {
            return Err(BAD_KEY);
        }
    }
    Ok((user_key.freeze(), id))
}

const BAD_KEY: DecodeError = DecodeError("a key of the state has the wrong form");

/// The live version of a key, as the current space keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CurrentRecord {
    pub(crate) id: EventId,
    pub(crate) create_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: i64,
    pub(crate) value: Bytes,
}

impl CurrentRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(36 + self.value.len());
        put_event_id(&mut out, self.id);
        out.put_i64(self.create_revision);
        out.put_i64(self.version);
        out.put_i64(self.lease);
        out.put_slice(&self.value);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<CurrentRecord, DecodeError> {
        Ok(CurrentRecord {
            id: get_event_id(&mut bytes)?,
            create_revision: get_i64(&mut bytes)?,
            version: get_i64(&mut bytes)?,
            lease: get_i64(&mut bytes)?,
            value: bytes,
        })
    }

    pub(crate) fn into_pair(self, key: Bytes) -> KeyValue {
        KeyValue {
            key,
            value: self.value,
            create_revision: self.create_revision,
            mod_revision: self.id.main,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// A change of a key, as the events space keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventRecord {
    pub(crate) kind: EventKind,
    /// The version that this event superseded; `NONE` if the key did not exist.
    pub(crate) previous: EventId,
    pub(crate) create_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: i64,
    pub(crate) key: Bytes,
    /// Empty for a deletion.
    pub(crate) value: Bytes,
}

impl EventRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(41 + self.key.len() + self.value.len());
        out.put_u8(self.kind.code());
        put_event_id(&mut out, self.previous);
        out.put_i64(self.create_revision);
        out.put_i64(self.version);
        out.put_i64(self.lease);
        crate::envelope::put_bytes(&mut out, &self.key);
        out.put_slice(&self.value);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<EventRecord, DecodeError> {
        Ok(EventRecord {
            kind: EventKind::from_code(get_u8(&mut bytes)?)?,
            previous: get_event_id(&mut bytes)?,
            create_revision: get_i64(&mut bytes)?,
            version: get_i64(&mut bytes)?,
            lease: get_i64(&mut bytes)?,
            key: crate::envelope::get_bytes(&mut bytes)?,
            value: bytes,
        })
    }

    pub(crate) fn into_pair(self, main: Revision) -> KeyValue {
        KeyValue {
            key: self.key,
            value: self.value,
            create_revision: self.create_revision,
            mod_revision: main,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// Which generation of a group is live. Kept at generation 0, which holds nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GenerationRecord {
    pub(crate) format: u16,
    pub(crate) live: u32,
}

impl GenerationRecord {
    pub(crate) fn key(group: GroupId) -> Bytes {
        Layout { group, generation: 0 }.meta(META_GENERATION)
    }

    pub(crate) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(6);
        out.put_u16(self.format);
        out.put_u32(self.live);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<GenerationRecord, DecodeError> {
        let format = u16::from_be_bytes([get_u8(&mut bytes)?, get_u8(&mut bytes)?]);
        // The rest of an unknown format may have any form.
        let live = if format == crate::limits::STATE_FORMAT { get_u32(&mut bytes)? } else { 0 };
        Ok(GenerationRecord { format, live })
    }
}

pub(crate) const META_GENERATION: u8 = b'g';
pub(crate) const META_STATE: u8 = b's';
pub(crate) const META_MEMBERSHIP: u8 = b'm';
pub(crate) const META_LEASE_CLOCK: u8 = b'l';
pub(crate) const META_CLUSTER: u8 = b'c';
pub(crate) const META_AUTH: u8 = b'a';

/// Everything of a state machine that changes with most batches, in one record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateRecord {
    pub(crate) applied: clocks::LogPosition,
    pub(crate) chain_hash: u64,
    /// Keyspace: revision of the last change; 1 at first.
    pub(crate) revision: Revision,
    /// Keyspace: history below is forgotten; 0 at first.
    pub(crate) compacted: Revision,
    /// Keyspace: where physical compaction goes on; done up to `compacted` if beyond it.
    pub(crate) compaction_next: EventId,
    /// Consistent core: formats up to this level may be written.
    pub(crate) feature_level: u32,
}

impl StateRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(56);
        out.put_u64(self.applied.term.0);
        out.put_u64(self.applied.index);
        out.put_u64(self.chain_hash);
        out.put_i64(self.revision);
        out.put_i64(self.compacted);
        put_event_id(&mut out, self.compaction_next);
        out.put_u32(self.feature_level);
        out.freeze()
    }

    /// Whether a state machine may have written it.
    pub(crate) fn is_sound(&self) -> bool {
        self.revision >= 1
            && self.compacted >= -1
            && self.compacted <= self.revision
            && self.revision < Revision::MAX
            && self.compaction_next.main >= 0
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<StateRecord, DecodeError> {
        let input = &mut bytes;
        let term = clocks::Term(get_u64(input)?);
        Ok(StateRecord {
            applied: clocks::LogPosition::new(term, get_u64(input)?),
            chain_hash: get_u64(input)?,
            revision: get_i64(input)?,
            compacted: get_i64(input)?,
            compaction_next: get_event_id(input)?,
            feature_level: get_u32(input)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAYOUT: Layout = Layout { group: GroupId(1), generation: 3 };

    fn user_key() -> impl Strategy<Value = Vec<u8>> {
        // Few distinct bytes, so that prefixes and zero bytes are common.
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 0xfe, 0xff]), 0..5)
    }

    fn event_id() -> impl Strategy<Value = EventId> {
        (0..4i64, 0..3u32).prop_map(|(main, sub)| EventId { main, sub })
    }

    proptest! {
        #[test]
        fn history_keys_sort_by_user_key_then_revision(
            a in (user_key(), event_id()),
            b in (user_key(), event_id()),
        ) {
            let engine = LAYOUT.history(&a.0, a.1).cmp(&LAYOUT.history(&b.0, b.1));
            prop_assert_eq!(engine, a.cmp(&b));
        }

        #[test]
        fn history_keys_are_read_back(key in user_key(), id in event_id()) {
            let (read, read_id) = parse_history_key(&LAYOUT.history(&key, id)).unwrap();
            prop_assert_eq!((&read[..], read_id), (&key[..], id));
        }

        #[test]
        fn history_bounds_hold_exactly_the_keys_between(
            key in user_key(), id in event_id(), start in user_key(), end in user_key(),
        ) {
            let (from, to) = LAYOUT.history_bounds(&start, Some(&end));
            let engine_key = LAYOUT.history(&key, id);
            let (Bound::Included(from), Bound::Excluded(to)) = (from, to) else { unreachable!() };
            let inside = from <= engine_key && engine_key < to;
            prop_assert_eq!(inside, start <= key && key < end);
        }

        #[test]
        fn damaged_records_are_refused_or_read_never_a_panic(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = parse_history_key(&bytes);
            let _ = parse_event_key(bytes.clone());
            let _ = CurrentRecord::decode(bytes.clone());
            let _ = EventRecord::decode(bytes.clone());
            let _ = GenerationRecord::decode(bytes.clone());
            let _ = StateRecord::decode(bytes);
        }
    }

    #[test]
    fn generations_of_one_group_are_one_range() {
        let (from, to) = generation_bounds(GroupId(1), 0, u32::MAX);
        assert_eq!(from, Bound::Included(Bytes::from_static(&[0, 0, 0, 1, 0, 0, 0, 0])));
        assert_eq!(to, Bound::Excluded(Bytes::from_static(&[0, 0, 0, 2, 0, 0, 0, 0])));
        assert_eq!(generation_of(&LAYOUT.member(7)), Some(3));
    }
}
