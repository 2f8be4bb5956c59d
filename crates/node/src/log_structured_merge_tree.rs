//! Log-Structured Merge Tree: the embedded engine. Writes gather in memory and leave as sorted
//! tables, which merge in the background.
//!
//! Used by BigTable, Cassandra, RocksDB (CockroachDB, TiKV) and fjall, whose tree this drives
//! (`lsm-tree`) without fjall's own journal: Quorate's log already holds whatever is not flushed,
//! and an unsynced journal torn by a power loss would refuse to open.
//!
//! Invariants: a snapshot sees whole batches and never changes; what a crash leaves is a prefix of
//! the batches, at least up to the last `flush`; memory is bounded by cache and write buffers, not
//! by the number of keys. Not here: what the keys mean (`store`), when to flush (`replica`).

use bytes::Bytes;
use lsm_tree::{AbstractTree, AnyTree, Cache, DescriptorTable, Guard, SequenceNumberCounter};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use store::{Engine, EngineError, EngineSnapshot, Pair, WriteBatch};

/// What the engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Blocks of tables kept in memory, in bytes.
    pub cache_bytes: u64,
    /// A write buffer of this many bytes is sealed and leaves as a table.
    pub buffer_bytes: u64,
    /// Sealed write buffers that wait to leave; beyond it, writers wait for the disk.
    pub sealed_buffers: usize,
    /// Unmerged tables; beyond it, writers wait for the merge.
    pub unmerged_tables: usize,
    /// Files kept open.
    pub open_files: usize,
    /// Space of what was deleted is reclaimed no more often.
    pub reclaim_interval: Duration,
}

impl Default for EngineLimits {
    fn default() -> EngineLimits {
        EngineLimits {
            cache_bytes: 128 << 20,
            buffer_bytes: 32 << 20,
            sealed_buffers: 3,
            unmerged_tables: 24,
            open_files: 512,
            reclaim_interval: Duration::from_secs(5),
        }
    }
}

/// Tables that a merge of everything makes, as large as those of other merges.
const RECLAIMED_TABLE_BYTES: u64 = 64 << 20;

/// The engine in one directory, with its background thread.
pub struct LsmEngine {
    shared: Arc<Shared>,
    background: Option<JoinHandle<()>>,
}

struct Shared {
    tree: AnyTree,
    limits: EngineLimits,
    /// Numbers batches and versions of the tree alike.
    sequence: SequenceNumberCounter,
    /// Deletions since the last time that their space was reclaimed.
    deletions: AtomicU64,
    /// Of buffers that are sealed and no table yet, while there are any.
    sealed_bytes: AtomicU64,
    /// Held for the length of a batch, so that a write buffer is sealed only between batches.
    writer: Mutex<()>,
    snapshots: Mutex<Snapshots>,
    chores: Mutex<Chores>,
    chore_done: Condvar,
    chore_wanted: Condvar,
}

/// Invariant: `published` is above every number of a finished batch and not above the number of
/// one under way. (The tree keeps such a mark of its own, which a background flush moves past a
/// batch under way; it is not used.)
struct Snapshots {
    published: u64,
    /// Mark of open snapshots → how many.
    open: BTreeMap<u64, usize>,
}

#[derive(Default)]
struct Chores {
    wanted: bool,
    /// All tables are to be merged into one run, which leaves out what was deleted.
    reclaim: bool,
    reclaimed_at: Option<Instant>,
    stopping: bool,
    failure: Option<EngineError>,
}

impl LsmEngine {
    /// Opens the engine in `directory`, creating it if there is none. The caller holds the lock of
    /// the data directory.
    pub fn open(directory: &Path, limits: EngineLimits) -> Result<LsmEngine, EngineError> {
        // The tree starts its own numbers at 0, which stands for "before everything" here.
        let sequence = SequenceNumberCounter::new(1);
        let visible = SequenceNumberCounter::default();
        let tree = lsm_tree::Config::new(directory, sequence.clone(), visible)
            .use_cache(Arc::new(Cache::with_capacity_bytes(limits.cache_bytes)))
            .use_descriptor_table(Some(Arc::new(DescriptorTable::new(limits.open_files))))
            .open()
            .map_err(|error| {
                EngineError(format!("cannot open {}: {error:?}", directory.display()))
            })?;
        sequence.fetch_max(tree.get_highest_persisted_seqno().map_or(1, |highest| highest + 1));
        let snapshots = Snapshots { published: sequence.get(), open: BTreeMap::new() };
        let shared = Arc::new(Shared {
            tree,
            limits,
            sequence,
            deletions: AtomicU64::new(1),
            sealed_bytes: AtomicU64::new(0),
            writer: Mutex::default(),
            snapshots: Mutex::new(snapshots),
            chores: Mutex::default(),
            chore_done: Condvar::new(),
            chore_wanted: Condvar::new(),
        });
        let background = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run_chores()
            })
            .map_err(|error| EngineError(format!("cannot start a thread: {error}")))?;
        Ok(LsmEngine { shared, background: Some(background) })
    }
}

impl Drop for LsmEngine {
    fn drop(&mut self) {
        lock(&self.shared.chores).stopping = true;
        self.shared.chore_wanted.notify_all();
        if let Some(background) = self.background.take() {
            // A panic there has been reported by the panic hook.
            let _ = background.join();
        }
    }
}

impl Engine for LsmEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let shared = &*self.shared;
        shared.wait_for_room()?;
        let changes = last_changes(batch.changes);
        let writing = lock(&shared.writer);
        let number = shared.sequence.next();
        for (key, change) in changes {
            match change {
                Some(value) => shared.tree.insert(key, value, number),
                None => {
                    shared.deletions.fetch_add(1, Ordering::Relaxed);
                    shared.tree.remove(key, number)
                }
            };
        }
        lock(&shared.snapshots).published = number + 1;
        if shared.tree.active_memtable().size() >= shared.limits.buffer_bytes {
            shared.seal();
            shared.want_chores();
        }
        drop(writing);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot> {
        let mut snapshots = lock(&self.shared.snapshots);
        let mark = snapshots.published;
        *snapshots.open.entry(mark).or_default() += 1;
        drop(snapshots);
        Box::new(LsmSnapshot { shared: Arc::clone(&self.shared), mark })
    }

    fn flush(&self) -> Result<(), EngineError> {
        let shared = &*self.shared;
        shared.check()?;
        let writing = lock(&shared.writer);
        shared.seal();
        drop(writing);
        let flushed = shared.flush_sealed();
        shared.want_chores();
        flushed
    }

    fn disk_bytes(&self) -> u64 {
        let shared = &*self.shared;
        // What is being written as a table counts until the table does.
        let sealed = match shared.tree.sealed_memtable_count() {
            0 => 0,
            _ => shared.sealed_bytes.load(Ordering::Relaxed),
        };
        shared.tree.disk_space() + shared.tree.active_memtable().size() + sealed
    }

    fn reclaim(&self) {
        let shared = &*self.shared;
        let mut chores = lock(&shared.chores);
        let recently =
            chores.reclaimed_at.is_some_and(|at| at.elapsed() < shared.limits.reclaim_interval);
        if !recently && shared.deletions.load(Ordering::Relaxed) > 0 {
            (chores.wanted, chores.reclaim) = (true, true);
            shared.chore_wanted.notify_one();
        }
    }
}

impl Shared {
    /// Seals the write buffer: what comes next goes into another. Called by who holds the writer.
    fn seal(&self) {
        if let Some(sealed) = self.tree.rotate_memtable() {
            self.sealed_bytes.fetch_add(sealed.size(), Ordering::Relaxed);
        }
    }

    /// Writes every sealed buffer as a table, durably with the list of tables.
    fn flush_sealed(&self) -> Result<(), EngineError> {
        let flushing = self.tree.get_flush_lock();
        self.tree.flush(&flushing, self.oldest_needed()).map_err(failed)?;
        drop(flushing);
        // Without a batch under way, the version just made may be seen too; otherwise the one
        // before would stay, and its buffers in memory, until the next write.
        let writing = lock(&self.writer);
        let mut snapshots = lock(&self.snapshots);
        snapshots.published = snapshots.published.max(self.sequence.get());
        if self.tree.sealed_memtable_count() == 0 {
            self.sealed_bytes.store(0, Ordering::Relaxed);
        }
        drop(writing);
        Ok(())
    }

    /// What lies below is seen by no snapshot once something newer replaced it.
    fn oldest_needed(&self) -> u64 {
        let snapshots = lock(&self.snapshots);
        let oldest = snapshots.open.first_key_value().map(|(mark, _)| *mark);
        oldest.unwrap_or(snapshots.published).saturating_sub(1)
    }

    fn check(&self) -> Result<(), EngineError> {
        lock(&self.chores).failure.clone().map_or(Ok(()), Err)
    }

    fn is_crowded(&self) -> bool {
        self.tree.sealed_memtable_count() > self.limits.sealed_buffers
            || self.tree.l0_run_count() > self.limits.unmerged_tables
    }

    /// Backpressure: waits until flush and merge have caught up.
    fn wait_for_room(&self) -> Result<(), EngineError> {
        let mut chores = lock(&self.chores);
        loop {
            if let Some(failure) = &chores.failure {
                return Err(failure.clone());
            }
            if !self.is_crowded() {
                return Ok(());
            }
            chores.wanted = true;
            self.chore_wanted.notify_one();
            chores = self.chore_done.wait(chores).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn want_chores(&self) {
        lock(&self.chores).wanted = true;
        self.chore_wanted.notify_one();
    }

    fn run_chores(&self) {
        let _guard = ChoresGuard { shared: self };
        loop {
            let mut chores = lock(&self.chores);
            while !chores.wanted && !chores.stopping {
                chores = self.chore_wanted.wait(chores).unwrap_or_else(PoisonError::into_inner);
            }
            if chores.stopping {
                return;
            }
            chores.wanted = false;
            let reclaim = std::mem::take(&mut chores.reclaim);
            drop(chores);
            let result = self.flush_sealed().and_then(|()| self.merge());
            let result = if reclaim { result.and_then(|()| self.reclaim()) } else { result };
            let mut chores = lock(&self.chores);
            if let Err(error) = result {
                tracing::error!("the storage engine stops taking writes: {error}");
                chores.failure = Some(error);
            }
            drop(chores);
            self.chore_done.notify_all();
        }
    }

    /// Merges everything into one run without what was deleted.
    fn reclaim(&self) -> Result<(), EngineError> {
        self.deletions.store(0, Ordering::Relaxed);
        let writing = lock(&self.writer);
        self.seal();
        drop(writing);
        self.flush_sealed()?;
        let reclaimed = self.tree.major_compact(RECLAIMED_TABLE_BYTES, self.oldest_needed());
        lock(&self.chores).reclaimed_at = Some(Instant::now());
        reclaimed.map_err(failed)
    }

    /// Merges tables until the strategy finds nothing more to do, or flushes are due.
    fn merge(&self) -> Result<(), EngineError> {
        loop {
            let before = self.tree.current_version().id();
            let strategy = Arc::new(lsm_tree::compaction::Leveled::default());
            self.tree.compact(strategy, self.oldest_needed()).map_err(failed)?;
            self.chore_done.notify_all();
            let chores = lock(&self.chores);
            if self.tree.current_version().id() == before || chores.wanted || chores.stopping {
                return Ok(());
            }
        }
    }
}

/// Writers do not wait for chores that nobody does any more.
struct ChoresGuard<'a> {
    shared: &'a Shared,
}

impl Drop for ChoresGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let sentence = "its background thread broke an invariant (see the message above)";
            lock(&self.shared.chores).failure = Some(EngineError(sentence.to_owned()));
            self.shared.chore_done.notify_all();
        }
    }
}

/// All changes of one batch carry the same number, so each key may appear once: the last stays.
fn last_changes(mut changes: Vec<(Bytes, Option<Bytes>)>) -> Vec<(Bytes, Option<Bytes>)> {
    if changes.is_sorted_by(|left, right| left.0 < right.0) {
        return changes;
    }
    // Stable, so that of one key the last change is the last of its run.
    changes.sort_by(|left, right| left.0.cmp(&right.0));
    let mut last: Vec<(Bytes, Option<Bytes>)> = Vec::with_capacity(changes.len());
    for change in changes {
        match last.last_mut() {
            Some(previous) if previous.0 == change.0 => *previous = change,
            _ => last.push(change),
        }
    }
    last
}

struct LsmSnapshot {
    shared: Arc<Shared>,
    mark: u64,
}

impl LsmSnapshot {
    fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Option<impl DoubleEndedIterator<Item = lsm_tree::IterGuardImpl> + use<>> {
        if is_empty(from, to) {
            return None;
        }
        Some(self.shared.tree.range::<&[u8], _>((from, to), self.mark, None))
    }
}

impl EngineSnapshot for LsmSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.shared.tree.get(key, self.mark).map_err(failed)?.map(Bytes::from))
    }

    fn scan<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a> {
        Box::new(self.range(from, to).into_iter().flatten().map(pair))
    }

    fn scan_back<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a> {
        Box::new(self.range(from, to).into_iter().flat_map(Iterator::rev).map(pair))
    }
}

impl Drop for LsmSnapshot {
    fn drop(&mut self) {
        let mut snapshots = lock(&self.shared.snapshots);
        let open = snapshots.open.get_mut(&self.mark).expect("an open snapshot is counted");
        *open -= 1;
        if *open == 0 {
            snapshots.open.remove(&self.mark);
        }
    }
}

fn pair(guard: lsm_tree::IterGuardImpl) -> Result<Pair, EngineError> {
    let (key, value) = guard.into_inner().map_err(failed)?;
    Ok((Bytes::from(key), Bytes::from(value)))
}

/// Whether no key can be between the bounds; the tree panics when asked for such a range.
fn is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
    }
}

fn failed(error: lsm_tree::Error) -> EngineError {
    EngineError(format!("{error:?}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
