//! Watch: a watcher sees every change it asked for, once, in order, whole, wherever it resumes.
//!
//! The nine properties that etcd's documentation promises and its robustness tests check, over what
//! each watcher recorded, against a [`Reference`] of what happened. Violations name the property.
//!
//! What other watchers saw counts as having happened: if one saw a change, all must have.
//!
//! Not here: whether the changes should have happened (`linearizability`, `revision_order`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{Bytes, History, MaybeBytes, Revision};

mod judge;

/// Later ones are not reported: they are mostly consequences.
const VIOLATIONS_MAX: usize = 64;

/// A promise to watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// Events come in the order of their revisions.
    Ordered,
    /// No event comes twice.
    Unique,
    /// All events of a revision come in one response.
    Atomic,
    /// No event is left out between others, or below a progress revision.
    Reliable,
    /// A watch shows everything from its start revision on, and nothing below.
    Resumable,
    /// No event comes at or below a revision up to which progress has been reported.
    Bookmarkable,
    /// The previous value is the one that the event replaced.
    PreviousValue,
    /// An event says that it created the key if and only if the key did not exist.
    IsCreate,
    /// Only events of the keys and kinds asked for come.
    Filtered,
    /// Every event is a change that somebody made, and all watchers see the same one.
    Genuine,
}

/// One change, as a watcher was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The revision that changed the key (`mod_revision`).
    pub revision: Revision,
    /// The key.
    pub key: Vec<u8>,
    /// What it holds now; `None`: deleted.
    pub value: Option<Vec<u8>>,
    /// The revision that created the key; 0 for a deletion.
    pub create_revision: Revision,
    /// What it held before, and since which revision, if the watcher was told.
    pub previous: Option<(Vec<u8>, Revision)>,
}

/// What a watcher recorded, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A watch was created, first or again after a broken stream. If no start revision was asked
    /// for, `start` is the revision after that in the header of the reply.
    Opened {
        /// First revision that it shows.
        start: Revision,
    },
    /// One response; fragments are joined before they are recorded, a torn one is left out.
    Events(Vec<WatchEvent>),
    /// Progress up to this revision was reported.
    Progress(Revision),
}

/// Which keys a watcher asked for, as etcd says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The key, or the first of a range.
    pub key: Vec<u8>,
    /// Empty: only `key`. One zero byte: `key` and all after it. Otherwise the first key that does
    /// not belong to the range.
    pub range_end: Vec<u8>,
}

impl Selector {
    /// All keys.
    pub fn everything() -> Self {
        Selector { key: vec![0], range_end: vec![0] }
    }

    /// Whether it asks for this key.
    pub fn selects(&self, key: &[u8]) -> bool {
        match self.range_end.as_slice() {
            [] => key == self.key,
            [0] => key >= self.key.as_slice(),
            end => key >= self.key.as_slice() && key < end,
        }
    }
}

/// All that one watcher was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Its name.
    pub watcher: String,
    /// Which keys it asked for.
    pub selector: Selector,
    /// Whether it asked for puts (no NOPUT filter).
    pub puts: bool,
    /// Whether it asked for deletions (no NODELETE filter).
    pub deletes: bool,
    /// Whether it asked for previous values.
    pub previous_values: bool,
    /// What it got.
    pub received: Vec<Received>,
    /// If the caller waited until the watcher must have caught up: up to this revision.
    pub caught_up: Option<Revision>,
}

impl Recording {
    fn wants(&self, key: &[u8], value: Option<&[u8]>) -> bool {
        self.selector.selects(key) && if value.is_some() { self.puts } else { self.deletes }
    }
}

/// What happened to the keyspace, as far as it is known. Keys are absent at first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    changes: BTreeMap<Revision, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    /// Keys with changes that may not be listed, and the values that those may have left.
    uncertain: BTreeMap<Vec<u8>, BTreeSet<Option<Vec<u8>>>>,
    compacted: Revision,
}

impl Reference {
    /// Nothing happened. For a caller who knows every change and [`Reference::record`]s it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The acknowledged writes of a history; those of unknown outcome may have happened too.
    pub fn from_history(history: &History) -> Self {
        let mut reference = Self::new();
        for operation in history.operations() {
            let write = operation.acknowledged_write();
            match (write, operation.header_revision(), operation.uncertain_write()) {
                (Some(value), Some(revision), _) => {
                    reference.record(revision, &operation.key, value);
                }
                (Some(value), None, _) | (None, _, Some(value)) => {
                    let values = reference.uncertain.entry(operation.key.clone()).or_default();
                    values.insert(value.map(<[u8]>::to_vec));
                }
                (None, _, None) => {}
            }
        }
        reference
    }

    /// A change: `None` is a deletion.
    pub fn record(&mut self, revision: Revision, key: &[u8], value: Option<&[u8]>) {
        let changes = self.changes.entry(revision).or_default();
        changes.insert(key.to_vec(), value.map(<[u8]>::to_vec));
    }

    /// History was compacted at this revision at some time: previous values from below it may be
    /// missing.
    pub fn compacted(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision);
    }

    fn change(&self, revision: Revision, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.changes.get(&revision)?.get(key)
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// To whom.
    pub watcher: String,
    /// Which one.
    pub property: Property,
    /// How, in plain words.
    pub why: String,
}

/// Checks what watchers were told. Empty: every promise was kept.
pub fn check(reference: &Reference, recordings: &[Recording]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let (union, versions) = judge::everything_seen(reference, recordings, &mut violations);
    for recording in recordings {
        judge::Judge::new(recording, &union, &versions).run(&mut violations);
    }
    violations.truncate(VIOLATIONS_MAX);
    violations
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Property::Ordered => "events come in order",
            Property::Unique => "no event comes twice",
            Property::Atomic => "the events of a revision come together",
            Property::Reliable => "no event is left out",
            Property::Resumable => "a watch starts where it was asked to",
            Property::Bookmarkable => "nothing comes below a progress revision",
            Property::PreviousValue => "the previous value is right",
            Property::IsCreate => "creation is told apart from change",
            Property::Filtered => "only what was asked for comes",
            Property::Genuine => "every event is a change that was made",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watcher {}: broken promise that {}: {}", self.watcher, self.property, self.why)
    }
}

impl std::error::Error for Violation {}

impl fmt::Display for WatchEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, value) = (Bytes(&self.key), MaybeBytes(self.value.as_deref()));
        write!(f, "event of revision {}, {key} is {value}", self.revision)
    }
}
