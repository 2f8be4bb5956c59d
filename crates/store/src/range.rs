//! What a read asks of the keyspace (etcd `RangeRequest`, translated).

use bytes::Bytes;

/// Revision of the keyspace: 1 when empty, one more with every transaction that changes it.
pub type Revision = i64;

/// A set of keys in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// One key.
    Key(Bytes),
    /// `start <= key < end`; empty if `end <= start`.
    Span {
        /// First key.
        start: Bytes,
        /// First key not included.
        end: Bytes,
    },
    /// `start <= key`.
    From(Bytes),
}

impl KeyRange {
    /// Whether `key` is in the set.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Key(only) => only == key,
            KeyRange::Span { start, end } => &start[..] <= key && key < &end[..],
            KeyRange::From(start) => &start[..] <= key,
        }
    }

    /// The end in etcd's notation: empty for a single key, a zero byte for no end.
    #[must_use]
    pub fn range_end(&self) -> &[u8] {
        match self {
            KeyRange::Key(_) => &[],
            KeyRange::Span { end, .. } => end,
            KeyRange::From(_) => &[0],
        }
    }

    /// The smallest key that may be in the set.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        match self {
            KeyRange::Key(start) | KeyRange::Span { start, .. } | KeyRange::From(start) => start,
        }
    }
}

/// A version of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Revision of the put that created the key (after its last deletion).
    pub create_revision: Revision,
    /// Revision of the put of this version.
    pub mod_revision: Revision,
    /// Number of puts since creation; 0 means deleted.
    pub version: i64,
    /// Lease attached, or 0.
    pub lease: i64,
}

/// By what to sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// Key bytes.
    #[default]
    Key,
    /// Version.
    Version,
    /// Create revision.
    Create,
    /// Mod revision.
    Mod,
    /// Value bytes.
    Value,
}

/// Direction of sorting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// As stored: ascending by key for target `Key`; other targets ascend, as in etcd.
    #[default]
    None,
    /// Ascending.
    Ascend,
    /// Descending.
    Descend,
}

/// What part of each version to return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Projection {
    /// Everything.
    #[default]
    Full,
    /// Without values.
    KeysOnly,
    /// No pairs, only their count.
    CountOnly,
}

/// A read of the keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub keys: KeyRange,
    /// At which revision; 0 or less: the current one.
    pub revision: Revision,
    /// At most this many pairs; 0: all.
    pub limit: i64,
    /// By what to sort (filters and limit apply after sorting, `count` ignores both).
    pub sort_target: SortTarget,
    /// Direction.
    pub sort_order: SortOrder,
    /// What to return of each pair.
    pub projection: Projection,
    /// Bounds on revisions; 0: no bound.
    pub min_mod_revision: Revision,
    /// See above.
    pub max_mod_revision: Revision,
    /// See above.
    pub min_create_revision: Revision,
    /// See above.
    pub max_create_revision: Revision,
}

impl Range {
    /// All of `keys` at the current revision.
    #[must_use]
    pub fn of(keys: KeyRange) -> Range {
        Range {
            keys,
            revision: 0,
            limit: 0,
            sort_target: SortTarget::default(),
            sort_order: SortOrder::default(),
            projection: Projection::default(),
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }
}
