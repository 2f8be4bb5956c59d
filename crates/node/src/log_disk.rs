//! The log's disk: `wal::Disk` over real files, with a thread for synced writes and one for what
//! takes long (allocation, reads, removal), so that preparing the next segment delays no commit.
//!
//! Invariants: a completed `WriteSync` would survive power loss; after a failed one every later
//! one fails alike, since nobody knows what the kernel dropped. Not here: what the bytes mean and
//! which files exist (`wal`).

mod held_writes;
mod log_directory;
#[cfg(test)]
mod tests;

pub use held_writes::SyncForm;

use crate::injected_faults::injected;
use crate::meters::Meters;
use crate::update_queue::{QueueLimits, UpdateQueue};
use bytes::Bytes;
use held_writes::HeldWrites;
use log_directory::{LogDirectory, SegmentWriter};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;
use wal::{Disk, DiskCompletion, DiskError, DiskOp, DiskToken, FileId, FileInfo};

/// Called on the disk's threads with every completion.
pub type OnCompletion = Arc<dyn Fn(DiskCompletion) + Send + Sync>;

/// The log bounds what it has under way; the queues only carry it.
const CARRY: QueueLimits = QueueLimits { items: usize::MAX, bytes: usize::MAX };

type Jobs = UpdateQueue<(DiskToken, DiskOp)>;

/// The disk of one log directory.
pub struct LogDisk {
    directory: LogDirectory,
    synced_writes: Jobs,
    slow: Jobs,
    threads: Vec<JoinHandle<()>>,
    /// For synchronous operations during recovery, before anything is submitted.
    recovery: Worker,
}

impl LogDisk {
    /// Opens (or creates) the log directory and starts its threads.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn open(
        path: &Path,
        form: SyncForm,
        meters: &Arc<Meters>,
        on_completion: &OnCompletion,
    ) -> Result<LogDisk, DiskError> {
        let directory = LogDirectory::open(path)?;
        let held = Arc::new(HeldWrites::new(form));
        let worker = || Worker {
            directory: directory.clone(),
            writer: SegmentWriter::new(directory.clone()),
            held: Arc::clone(&held),
            meters: Arc::clone(meters),
            failure: None,
        };
        let spawn = |name: &str| {
            let jobs: Jobs = UpdateQueue::new(CARRY);
            let (worker, on_completion) = (worker(), Arc::clone(on_completion));
            let queue = jobs.clone();
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || worker.run(&queue, &on_completion))
                .map_err(|error| DiskError::Failed(format!("cannot start a thread: {error}")))?;
            Ok((jobs, thread))
        };
        let (synced_writes, sync_thread) = spawn("log-sync")?;
        let (slow, slow_thread) = spawn("log-background")?;
        let recovery = worker();
        let threads = vec![sync_thread, slow_thread];
        Ok(LogDisk { directory, synced_writes, slow, threads, recovery })
    }
}

impl Disk for LogDisk {
    fn submit(&mut self, token: DiskToken, op: DiskOp) {
        match op {
            DiskOp::WriteSync { .. } => self.synced_writes.push((token, op)),
            DiskOp::Read { .. } | DiskOp::Allocate { .. } | DiskOp::Remove { .. } => {
                self.slow.push((token, op));
            }
        }
    }

    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        self.directory.list()
    }

    fn run(&mut self, op: DiskOp) -> Result<Bytes, DiskError> {
        self.recovery.perform(op)
    }
}

impl Drop for LogDisk {
    fn drop(&mut self) {
        self.synced_writes.close();
        self.slow.close();
        for thread in self.threads.drain(..) {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// An operation whose worker panics fails, so that nobody waits for it for ever.
struct UnderWay<'a> {
    token: DiskToken,
    on_completion: &'a OnCompletion,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let sentence = "the log's disk thread broke an invariant (see the message above)";
            let result = Err(DiskError::Failed(sentence.to_owned()));
            (self.on_completion)(DiskCompletion { token: self.token, result });
        }
    }
}

/// Performs operations, one after another.
struct Worker {
    directory: LogDirectory,
    writer: SegmentWriter,
    held: Arc<HeldWrites>,
    meters: Arc<Meters>,
    /// Of the first failed write: final.
    failure: Option<DiskError>,
}

impl Worker {
    fn run(mut self, jobs: &Jobs, on_completion: &OnCompletion) {
        let mut batch = VecDeque::new();
        while jobs.take(&mut batch, self.held.write_back_interval()) {
            for (token, op) in batch.drain(..) {
                let _under_way = UnderWay { token, on_completion };
                let result = self.perform(op);
                on_completion(DiskCompletion { token, result });
            }
            self.write_back(Some(Instant::now()));
        }
        self.write_back(None);
    }

    fn perform(&mut self, op: DiskOp) -> Result<Bytes, DiskError> {
        match op {
            DiskOp::WriteSync { file, offset, data } => {
                self.write_synced(file, offset, &data).map(|()| Bytes::new())
            }
            DiskOp::Read { file, offset, len } => {
                let mut bytes = self.directory.read(file, offset, len)?;
                self.held.overlay(file, offset, &mut bytes);
                Ok(Bytes::from(bytes))
            }
            DiskOp::Allocate { file, len, recycled } => {
                if let Some(recycled) = recycled {
                    self.held.forget(recycled);
                }
                self.directory.allocate(file, len, recycled).map(|()| Bytes::new())
            }
            DiskOp::Remove { file } => {
                self.held.forget(file);
                self.directory.remove(file).map(|()| Bytes::new())
            }
        }
    }

    fn write_synced(&mut self, file: FileId, offset: u64, data: &Bytes) -> Result<(), DiskError> {
        let whole_blocks =
            data.len().is_multiple_of(DiskOp::BLOCK) && offset.is_multiple_of(DiskOp::BLOCK as u64);
        assert!(whole_blocks && !data.is_empty(), "the log writes whole blocks");
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let begun = Instant::now();
        if let Some(faults) = injected() {
            std::thread::sleep(faults.disk_delay());
        }
        let result = match self.held.form() {
            SyncForm::Real => self.writer.write_synced(file, offset, data),
            SyncForm::HeldUntilSync => {
                self.held.hold(file, offset, data.clone());
                let result = self.writer.write_scattered(file, offset, data);
                self.held.release();
                result
            }
            SyncForm::TakenOut => {
                self.held.hold(file, offset, data.clone());
                Ok(())
            }
        };
        self.meters.log_sync.record(begun.elapsed());
        self.failure = result.as_ref().err().cloned();
        result
    }

    /// Only with the sync taken out: copies what was held long enough (everything if `now` is
    /// none), in order.
    fn write_back(&mut self, now: Option<Instant>) {
        if self.held.form() != SyncForm::TakenOut {
            return;
        }
        while let Some((file, offset, data)) = self.held.take_expired(now) {
            // Nobody was promised anything; the file may be gone by now.
            let _ = self.writer.write_scattered(file, offset, &data);
        }
    }
}
