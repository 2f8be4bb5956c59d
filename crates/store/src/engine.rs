//! The embedded engine behind the state machines: an ordered map of bytes with atomic batches and
//! snapshots. Everything the store keeps fits this trait, so that engines can be exchanged.

use bytes::Bytes;
use std::fmt;
use std::ops::Bound;

/// A key and its value.
pub type Pair = (Bytes, Bytes);

/// Changes that become visible and durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// Puts (`Some`) and deletes (`None`); of one key the last change counts.
    pub changes: Vec<(Bytes, Option<Bytes>)>,
}

impl WriteBatch {
    /// Sets `key`.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.push((key, Some(value)));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: Bytes) {
        self.changes.push((key, None));
    }
}

/// A state of the engine that later writes do not change.
pub trait EngineSnapshot: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The pairs between the bounds in ascending order of keys; lazy, so that a caller who stops
    /// early has paid only for what it took.
    fn scan<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a>;

    /// As `scan`, in descending order.
    fn scan_back<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a>;
}

/// The engine. One writer (the applier); any number of readers on snapshots.
pub trait Engine: Send + Sync {
    /// Applies the batch atomically. Visible at once; durable after a later `flush`, and never
    /// before an earlier batch.
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError>;

    /// The state as of the last `write`.
    fn snapshot(&self) -> Box<dyn EngineSnapshot>;

    /// Returns once everything written before the call is durable.
    fn flush(&self) -> Result<(), EngineError>;

    /// Bytes on disk and on their way there, for reports and quotas.
    fn disk_bytes(&self) -> u64;

    /// Asks for the space of what was deleted, soon and beside everything else; an engine may give
    /// it back by itself.
    fn reclaim(&self) {}
}

/// The engine failed; the node stops, since its state can no longer be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineError(pub String);

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "storage engine: {}", self.0)
    }
}

impl std::error::Error for EngineError {}
