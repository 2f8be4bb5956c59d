//! A disk in memory that does what disks do: operations are slow, and a crash leaves any subset of
//! the 512-byte sectors of what was not synced.

use bytes::Bytes;
use std::collections::BTreeMap;
use wal::{
    Disk, DiskCompletion, DiskError, DiskOp, DiskToken, FileId, FileInfo, Wal, WalError, WalEvent,
};

/// What the hardware writes whole or not at all.
pub(crate) const SECTOR: usize = 512;

/// The files, and what is under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelDisk {
    /// What would survive power loss.
    pub(crate) files: BTreeMap<u64, Vec<u8>>,
    /// Submitted and not completed, oldest first.
    pub(crate) under_way: Vec<(DiskToken, DiskOp)>,
    /// Everything performed, with the bytes it replaced where that matters.
    pub(crate) history: Vec<DiskOp>,
    /// Bytes that the files may take in all.
    pub(crate) capacity: Option<u64>,
    /// The next write fails with this.
    pub(crate) fail_write: Option<DiskError>,
}

impl ModelDisk {
    /// Performs the `nth` operation under way.
    pub(crate) fn complete(&mut self, nth: usize) -> DiskCompletion {
        let (token, op) = self.under_way.remove(nth);
        let result = self.perform(op);
        DiskCompletion { token, result }
    }

    /// Performs everything under way, and what follows from it, in order.
    pub(crate) fn settle(&mut self, wal: &mut Wal) -> Result<Vec<WalEvent>, WalError> {
        let mut events = Vec::new();
        while !self.under_way.is_empty() {
            let completion = self.complete(0);
            events.extend(wal.handle_completion(completion, self)?);
        }
        Ok(events)
    }

    /// Power loss: of each operation under way, what `choose` says happened. It is asked once per
    /// sector of a write, and once for any other operation.
    pub(crate) fn crash(&mut self, mut choose: impl FnMut() -> bool) {
        for (_, op) in std::mem::take(&mut self.under_way) {
            let DiskOp::WriteSync { file, offset, data } = &op else {
                if choose() {
                    drop(self.perform(op));
                }
                continue;
            };
            let target = self.files.get_mut(&file.0).expect("writes go to files");
            for (nth, sector) in data.chunks(SECTOR).enumerate() {
                if choose() {
                    let at = *offset as usize + nth * SECTOR;
                    target[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
    }

    /// Power loss that tears no write: `choose` says of each operation whether it happened.
    pub(crate) fn crash_by_operation(&mut self, mut choose: impl FnMut() -> bool) {
        for (_, op) in std::mem::take(&mut self.under_way) {
            if choose() {
                drop(self.perform(op));
            }
        }
    }

    /// Performs an operation that nobody waits for.
    pub(crate) fn perform_now(&mut self, op: DiskOp) {
        self.perform(op).expect("nothing fails here");
    }

    /// Bytes of all files.
    pub(crate) fn used(&self) -> u64 {
        self.files.values().map(|bytes| bytes.len() as u64).sum()
    }

    fn perform(&mut self, op: DiskOp) -> Result<Bytes, DiskError> {
        self.history.push(op.clone());
        match op {
            DiskOp::WriteSync { file, offset, data } => {
                if let Some(error) = self.fail_write.take() {
                    return Err(error);
                }
                assert_eq!((offset as usize % DiskOp::BLOCK, data.len() % DiskOp::BLOCK), (0, 0));
                let target = self.files.get_mut(&file.0).expect("writes go to files");
                let at = offset as usize;
                target[at..at + data.len()].copy_from_slice(&data);
                Ok(Bytes::new())
            }
            DiskOp::Read { file, offset, len } => {
                let source = self.files.get(&file.0).expect("reads go to files");
                let range = offset as usize..(offset + len) as usize;
                Ok(Bytes::copy_from_slice(&source[range]))
            }
            DiskOp::Allocate { file, len, recycled } => self.allocate(file, len, recycled),
            DiskOp::Remove { file } => {
                self.files.remove(&file.0).expect("only files are removed");
                Ok(Bytes::new())
            }
        }
    }

    fn allocate(
        &mut self,
        file: FileId,
        len: u64,
        recycled: Option<FileId>,
    ) -> Result<Bytes, DiskError> {
        assert!(!self.files.contains_key(&file.0), "file numbers are never used again");
        let mut bytes = match recycled {
            Some(old) => self.files.remove(&old.0).expect("a recycled file exists"),
            None => Vec::new(),
        };
        let more = len.saturating_sub(bytes.len() as u64);
        if self.capacity.is_some_and(|capacity| self.used() + bytes.len() as u64 + more > capacity)
        {
            if let Some(old) = recycled {
                self.files.insert(old.0, bytes);
            }
            return Err(DiskError::Full);
        }
        bytes.resize(len as usize, 0);
        self.files.insert(file.0, bytes);
        Ok(Bytes::new())
    }
}

impl Disk for ModelDisk {
    fn submit(&mut self, token: DiskToken, op: DiskOp) {
        self.under_way.push((token, op));
    }

    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        let info = |(&number, bytes): (&u64, &Vec<u8>)| FileInfo {
            file: FileId(number),
            len: bytes.len() as u64,
        };
        Ok(self.files.iter().map(info).collect())
    }

    fn run(&mut self, op: DiskOp) -> Result<Bytes, DiskError> {
        self.perform(op)
    }
}
