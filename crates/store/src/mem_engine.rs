//! An engine in memory, deterministic, which forgets on a crash what was not flushed. For the
//! simulator and for tests.
//!
//! Multi-version: a key maps to its versions by write sequence. Invariant: a version stays as long
//! as a live snapshot can see it, and is pruned once none can, so that memory follows the live
//! data and the open snapshots.

use crate::{Engine, EngineError, EngineSnapshot, Pair, WriteBatch};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

/// The engine; clones share it.
#[derive(Clone, Default)]
pub struct MemEngine {
    shared: Arc<Mutex<Versions>>,
}

/// The versions of a key in ascending order of their sequence; `None` is a deletion.
type KeyVersions = Vec<(u64, Option<Bytes>)>;

#[derive(Default)]
struct Versions {
    keys: BTreeMap<Bytes, KeyVersions>,
    /// Sequence of the last write.
    sequence: u64,
    /// Open snapshots: sequence → how many.
    snapshots: BTreeMap<u64, usize>,
    /// Keys to look at again once no snapshot is older than the sequence.
    prunable: BTreeMap<u64, Vec<Bytes>>,
    /// What a crash leaves.
    durable: BTreeMap<Bytes, Bytes>,
    /// Written since the last flush, in order.
    unflushed: Vec<WriteBatch>,
    bytes: u64,
}

impl MemEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> MemEngine {
        MemEngine::default()
    }

    /// Number of batches that a crash may lose.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.lock().unflushed.len()
    }

    /// What a crash leaves: everything flushed, and the first `kept` of the batches after it (at
    /// most `unflushed`), since an engine may write ahead of a flush. The crashed process's
    /// handles keep their old view.
    #[must_use]
    pub fn crash(&self, kept: usize) -> MemEngine {
        let crashed = self.lock();
        let mut durable = crashed.durable.clone();
        for batch in crashed.unflushed.iter().take(kept) {
            apply_to(&mut durable, batch.clone());
        }
        let keys = durable
            .iter()
            .map(|(key, value)| (key.clone(), vec![(0, Some(value.clone()))]))
            .collect();
        let bytes = durable.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        let survivor = Versions { keys, durable, bytes, ..Versions::default() };
        MemEngine { shared: Arc::new(Mutex::new(survivor)) }
    }

    /// Every pair, for comparing engines in tests.
    #[must_use]
    pub fn contents(&self) -> Vec<Pair> {
        let versions = self.lock();
        let live = |(key, all): (&Bytes, &KeyVersions)| {
            let value = visible(all, versions.sequence)?;
            Some((key.clone(), value.clone()))
        };
        versions.keys.iter().filter_map(live).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Versions> {
        self.shared.lock().expect("no holder of the lock panics")
    }
}

impl Engine for MemEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let mut versions = self.lock();
        versions.sequence += 1;
        for (key, value) in &batch.changes {
            versions.set(key, value.clone());
        }
        versions.unflushed.push(batch);
        versions.prune();
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot> {
        let mut versions = self.lock();
        let sequence = versions.sequence;
        *versions.snapshots.entry(sequence).or_insert(0) += 1;
        Box::new(MemSnapshot { engine: self.clone(), sequence })
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut versions = self.lock();
        for batch in std::mem::take(&mut versions.unflushed) {
            apply_to(&mut versions.durable, batch);
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.lock().bytes
    }
}

impl Versions {
    fn set(&mut self, key: &Bytes, value: Option<Bytes>) {
        let sequence = self.sequence;
        let versions = self.keys.entry(key.clone()).or_default();
        let old = visible(versions, sequence).map_or(0, |old| (key.len() + old.len()) as u64);
        let new = value.as_ref().map_or(0, |new| (key.len() + new.len()) as u64);
        self.bytes = self.bytes - old + new;
        match versions.last_mut() {
            Some((last, slot)) if *last == sequence => *slot = value,
            _ => versions.push((sequence, value)),
        }
        if versions.len() > 1 || versions[0].1.is_none() {
            self.prunable.entry(sequence).or_default().push(key.clone());
        }
    }

    /// Drops the versions that neither a snapshot nor a later one can see.
    fn prune(&mut self) {
        let oldest = self.snapshots.keys().next().copied().unwrap_or(self.sequence);
        while let Some(entry) = self.prunable.first_entry() {
            if *entry.key() > oldest {
                break;
            }
            for key in entry.remove() {
                let Some(versions) = self.keys.get_mut(&key) else { continue };
                let hidden = versions.partition_point(|(sequence, _)| *sequence <= oldest);
                // The newest version at or below `oldest` stays, unless it is a deletion.
                let mut drop = hidden.saturating_sub(1);
                if hidden > 0 && versions[hidden - 1].1.is_none() {
                    drop = hidden;
                }
                versions.drain(..drop);
                if versions.is_empty() {
                    self.keys.remove(&key);
                }
            }
        }
    }
}

struct MemSnapshot {
    engine: MemEngine,
    sequence: u64,
}

impl Drop for MemSnapshot {
    fn drop(&mut self) {
        let mut versions = self.engine.lock();
        let count = versions.snapshots.get_mut(&self.sequence).expect("the snapshot is counted");
        *count -= 1;
        if *count == 0 {
            versions.snapshots.remove(&self.sequence);
            versions.prune();
        }
    }
}

impl EngineSnapshot for MemSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let versions = self.engine.lock();
        Ok(versions.keys.get(key).and_then(|all| visible(all, self.sequence)).cloned())
    }

    fn scan<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a> {
        let (mut from, to) = (owned(from), owned(to));
        Box::new(std::iter::from_fn(move || {
            let pair = self.first(as_bound(&from), as_bound(&to), Direction::Ascending)?;
            from = Bound::Excluded(pair.0.clone());
            Some(Ok(pair))
        }))
    }

    fn scan_back<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a> {
        let (from, mut to) = (owned(from), owned(to));
        Box::new(std::iter::from_fn(move || {
            let pair = self.first(as_bound(&from), as_bound(&to), Direction::Descending)?;
            to = Bound::Excluded(pair.0.clone());
            Some(Ok(pair))
        }))
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Ascending,
    Descending,
}

impl MemSnapshot {
    fn first(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, direction: Direction) -> Option<Pair> {
        if is_empty(from, to) {
            return None;
        }
        let versions = self.engine.lock();
        let mut range = versions.keys.range::<[u8], _>((from, to));
        loop {
            let (key, all) = match direction {
                Direction::Ascending => range.next()?,
                Direction::Descending => range.next_back()?,
            };
            if let Some(value) = visible(all, self.sequence) {
                return Some((key.clone(), value.clone()));
            }
        }
    }
}

fn visible(versions: &KeyVersions, sequence: u64) -> Option<&Bytes> {
    versions.iter().rev().find(|(written, _)| *written <= sequence)?.1.as_ref()
}

fn apply_to(pairs: &mut BTreeMap<Bytes, Bytes>, batch: WriteBatch) {
    for (key, value) in batch.changes {
        match value {
            Some(value) => pairs.insert(key, value),
            None => pairs.remove(&key),
        };
    }
}

/// Whether no key lies between the bounds (which `BTreeMap::range` refuses to be asked).
pub(crate) fn is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
        | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
    }
}

fn owned(bound: Bound<&[u8]>) -> Bound<Bytes> {
    bound.map(Bytes::copy_from_slice)
}

fn as_bound(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|bytes| &bytes[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(changes: &[(&'static str, Option<&'static str>)]) -> WriteBatch {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        WriteBatch { changes: changes.iter().map(|(k, v)| (bytes(k), v.map(bytes))).collect() }
    }

    fn keys(snapshot: &dyn EngineSnapshot) -> Vec<Bytes> {
        let pairs = snapshot.scan(Bound::Unbounded, Bound::Unbounded);
        pairs.map(|pair| pair.expect("memory does not fail").0).collect()
    }

    #[test]
    fn a_snapshot_does_not_see_later_writes_and_old_versions_go_with_it() {
        let engine = MemEngine::new();
        engine.write(batch(&[("a", Some("1")), ("b", Some("1"))])).unwrap();
        let snapshot = engine.snapshot();
        engine.write(batch(&[("a", None), ("b", Some("2")), ("c", Some("2"))])).unwrap();
        assert_eq!(keys(&*snapshot), ["a", "b"]);
        assert_eq!(snapshot.get(b"b").unwrap().unwrap(), "1");
        assert_eq!(keys(&*engine.snapshot()), ["b", "c"]);
        let back = snapshot.scan_back(Bound::Unbounded, Bound::Excluded(b"b"));
        assert_eq!(back.count(), 1);
        drop(snapshot);
        let versions = engine.lock();
        assert_eq!(versions.keys.len(), 2, "the deleted key is gone");
        assert!(versions.keys.values().all(|all| all.len() == 1));
        assert_eq!(versions.bytes, 4);
    }

    #[test]
    fn a_crash_keeps_what_was_flushed_and_a_prefix_of_the_rest() {
        let engine = MemEngine::new();
        engine.write(batch(&[("a", Some("1"))])).unwrap();
        engine.flush().unwrap();
        engine.write(batch(&[("a", None), ("b", Some("2"))])).unwrap();
        engine.write(batch(&[("c", Some("3"))])).unwrap();
        assert_eq!(engine.unflushed(), 2);
        assert_eq!(keys(&*engine.crash(0).snapshot()), ["a"]);
        assert_eq!(keys(&*engine.crash(1).snapshot()), ["b"]);
        assert_eq!(keys(&*engine.crash(9).snapshot()), ["b", "c"]);
    }

    #[test]
    fn an_inverted_range_is_empty() {
        let engine = MemEngine::new();
        engine.write(batch(&[("a", Some("1"))])).unwrap();
        let snapshot = engine.snapshot();
        assert_eq!(snapshot.scan(Bound::Included(b"b"), Bound::Excluded(b"a")).count(), 0);
        assert_eq!(snapshot.scan(Bound::Excluded(b"a"), Bound::Excluded(b"a")).count(), 0);
        assert_eq!(snapshot.scan(Bound::Included(b"a"), Bound::Included(b"a")).count(), 1);
    }
}
