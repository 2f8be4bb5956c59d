//! The power-loss option: unsynced log writes live in this process's memory, so that SIGKILL drops
//! them as a power loss drops a disk's write cache. For tests of the whole binary only.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wal::FileId;

/// With the sync taken out, a write reaches the file this long after it was acknowledged.
const WRITE_BACK_AFTER: Duration = Duration::from_millis(1500);
const WRITE_BACK_INTERVAL: Duration = Duration::from_millis(100);

/// What becomes of a write before its sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncForm {
    /// It goes to the disk.
    #[default]
    Real,
    /// It is held in memory, and goes to the file, block by block in a bad order, when it is
    /// synced: a kill before the end loses it in part or in whole.
    HeldUntilSync,
    /// The planted bug: it is called durable while it is only held in memory.
    TakenOut,
}

pub(super) struct HeldWrites {
    form: SyncForm,
    /// In the order in which they were written.
    writes: Mutex<VecDeque<Held>>,
}

struct Held {
    since: Instant,
    file: FileId,
    offset: u64,
    data: Bytes,
}

impl HeldWrites {
    pub(super) fn new(form: SyncForm) -> HeldWrites {
        HeldWrites { form, writes: Mutex::default() }
    }

    pub(super) fn form(&self) -> SyncForm {
        self.form
    }

    /// How long a worker may sleep.
    pub(super) fn write_back_interval(&self) -> Option<Duration> {
        (self.form == SyncForm::TakenOut).then_some(WRITE_BACK_INTERVAL)
    }

    pub(super) fn hold(&self, file: FileId, offset: u64, data: Bytes) {
        self.writes().push_back(Held { since: Instant::now(), file, offset, data });
    }

    /// The newest write has been synced.
    pub(super) fn release(&self) {
        self.writes().pop_back();
    }

    /// The file is gone.
    pub(super) fn forget(&self, file: FileId) {
        self.writes().retain(|held| held.file != file);
    }

    /// The oldest write, if it is old enough at `now` (or in any case, if none).
    pub(super) fn take_expired(&self, now: Option<Instant>) -> Option<(FileId, u64, Bytes)> {
        let mut writes = self.writes();
        let oldest = writes.front()?;
        let expired = now.is_none_or(|now| now - oldest.since >= WRITE_BACK_AFTER);
        let held = expired.then(|| writes.pop_front())??;
        Some((held.file, held.offset, held.data))
    }

    /// Makes bytes read from the file what a reader of the disk would see.
    pub(super) fn overlay(&self, file: FileId, offset: u64, bytes: &mut [u8]) {
        let end = offset + bytes.len() as u64;
        for held in self.writes().iter().filter(|held| held.file == file) {
            let from = held.offset.max(offset);
            let to = (held.offset + held.data.len() as u64).min(end);
            if from < to {
                let place = (from - offset) as usize..(to - offset) as usize;
                let part = (from - held.offset) as usize..(to - held.offset) as usize;
                bytes[place].copy_from_slice(&held.data[part]);
            }
        }
    }

    fn writes(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
