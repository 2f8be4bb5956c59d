//! The disk of one simulated machine: numbered files, operations in flight, and what a crash
//! leaves of them.
//!
//! Invariant: what completed is there after any crash; what was in flight is, per sector, there or
//! not. Blocks once synced are never written again in place (design section 5), which is checked
//! here because a torn rewrite would lose what had been acknowledged. Like the page cache models of
//! FoundationDB's and TigerBeetle's simulators. Not here: what rots later (`latent_faults`).

use crate::latent_faults::{LatentFaults, SECTOR};
use crate::rng::{Chance, Rng};
use crate::trace_hash::TraceHash;
use bytes::Bytes;
use std::collections::BTreeMap;
use wal::{Disk, DiskCompletion, DiskError, DiskOp, DiskToken, FileId, FileInfo};

/// How a disk behaves.
#[derive(Clone, Debug)]
pub(crate) struct DiskProfile {
    /// Mean latency of an operation in nanoseconds.
    pub(crate) mean_latency: u64,
    /// How often an operation stalls.
    pub(crate) stall: Chance,
    /// Mean length of a stall in nanoseconds.
    pub(crate) mean_stall: u64,
    /// Whether a sync completes when the bytes survive a power failure.
    pub(crate) sync: SyncPromise,
    /// Whether a removal is durable at once, or with the next file that is made.
    pub(crate) entries: DirectoryEntries,
}

/// When a power failure no longer brings a removed file back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DirectoryEntries {
    /// Once it is removed.
    Durable,
    /// Once the directory was synced for another reason.
    Undurable,
}

/// What the completion of a sync means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncPromise {
    /// The bytes are durable.
    Kept,
    /// The bytes are in a cache that a power failure loses: a planted bug that must be caught.
    Broken,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process is killed; the operating system finishes some of what was asked of it.
    Kill,
    /// The machine loses power: whatever was in flight is torn.
    PowerLoss,
}

/// Names an operation in flight; never reused within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// An operation that has begun and the time that it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    /// Which.
    pub(crate) ticket: Ticket,
    /// Nanoseconds until it is done.
    pub(crate) latency: u64,
}

#[derive(Default)]
struct SimFile {
    bytes: Vec<u8>,
    /// Per block: synced since the file was allocated.
    synced: Vec<bool>,
}

struct InFlight {
    token: DiskToken,
    op: DiskOp,
    /// Writes that were complete when it began.
    before: usize,
}

/// Content of a block before a sync that was only promised.
struct Undo {
    file: FileId,
    offset: usize,
    before: Vec<u8>,
}

/// The disk of one machine.
pub(crate) struct SimDisk {
    profile: DiskProfile,
    rng: Rng,
    files: BTreeMap<FileId, SimFile>,
    in_flight: BTreeMap<Ticket, InFlight>,
    started: Vec<Started>,
    next_ticket: u64,
    /// Operations that recovery may still run before the power fails.
    fuse: Option<u32>,
    /// There is no room for another file.
    full: bool,
    /// The next operation fails, and all after it until a restart.
    broken: bool,
    undo: Vec<Undo>,
    latent: LatentFaults,
    /// Removed, and the directory not synced since.
    removed: Vec<(FileId, SimFile)>,
    /// Files made of others, and files removed, so far.
    recycles: u64,
    removals: u64,
    trace: TraceHash,
}

/// Blocks that a lying disk has not written back yet, at most.
const UNDO_BLOCKS: usize = 64;

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub(crate) fn new(profile: DiskProfile, rng: Rng) -> SimDisk {
        SimDisk {
            profile,
            rng,
            files: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            started: Vec::new(),
            next_ticket: 0,
            fuse: None,
            full: false,
            broken: false,
            undo: Vec::new(),
            latent: LatentFaults::default(),
            removed: Vec::new(),
            recycles: 0,
            removals: 0,
            trace: TraceHash::default(),
        }
    }

    /// The operations submitted since the last call, to be completed after their latency.
    pub(crate) fn take_started(&mut self) -> Vec<Started> {
        std::mem::take(&mut self.started)
    }

    /// Ends an operation; none if a crash ended it before.
    pub(crate) fn complete(&mut self, ticket: Ticket) -> Option<DiskCompletion> {
        let InFlight { token, op, before } = self.in_flight.remove(&ticket)?;
        let result = if self.broken {
            // What became of it, nobody knows.
            self.interrupt(op, Crash::PowerLoss);
            Err(DiskError::Failed("an injected failure".to_string()))
        } else if self.full && matches!(op, DiskOp::Allocate { recycled: None, .. }) {
            Err(DiskError::Full)
        } else {
            self.perform(op, before)
        };
        Some(DiskCompletion { token, result })
    }

    /// Ends whatever was in flight the way this crash does.
    /// Says whether a write was.
    pub(crate) fn crash(&mut self, crash: Crash) -> bool {
        let in_flight = std::mem::take(&mut self.in_flight);
        let is_write = |flying: &InFlight| matches!(flying.op, DiskOp::WriteSync { .. });
        let interrupted = in_flight.values().any(is_write);
        self.started.clear();
        self.fuse = None;
        self.broken = false;
        for (_, InFlight { op, .. }) in in_flight {
            self.interrupt(op, crash);
        }
        if crash == Crash::PowerLoss {
            let lost = self.rng.index(self.undo.len() + 1);
            for undo in self.undo.split_off(self.undo.len() - lost).into_iter().rev() {
                self.overwrite(undo.file, undo.offset, &undo.before);
            }
            self.undo.clear();
            for (file, content) in std::mem::take(&mut self.removed) {
                if self.rng.flip() {
                    self.files.insert(file, content);
                }
            }
        }
        interrupted
    }

    /// Lets synced sectors read as something else from now on; false if none can be spared.
    pub(crate) fn rot(&mut self) -> bool {
        let files = &self.files;
        self.latent.afflict(&mut self.rng, |file| files.contains_key(&file))
    }

    /// Whether anything reads as something else.
    pub(crate) fn is_rotten(&self) -> bool {
        self.latent.any()
    }

    /// Everything reads as it was written.
    pub(crate) fn heal_rot(&mut self) {
        self.latent.heal();
    }

    /// Everything on it is gone, of a machine that is down.
    pub(crate) fn wipe(&mut self) {
        assert!(self.in_flight.is_empty(), "nobody works on a disk that is wiped");
        self.files.clear();
        self.removed.clear();
        self.undo.clear();
        self.latent = LatentFaults::default();
        self.fuse = None;
    }

    /// Lets the power fail after this many more operations of a recovery.
    pub(crate) fn set_fuse(&mut self, operations: Option<u32>) {
        self.fuse = operations;
    }

    /// Lets there be no room for another file, or room again.
    pub(crate) fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Whether there is no room for another file.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Lets every operation fail until the process ends.
    pub(crate) fn break_down(&mut self) {
        self.broken = true;
    }

    /// Whether it is the disk's fault that a node stops.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether the power failed during the recovery; the machine must then crash.
    #[must_use]
    pub(crate) fn fuse_burnt(&self) -> bool {
        self.fuse == Some(0)
    }

    /// Files made of the blocks of others, and files removed, so far.
    pub(crate) fn reuse(&self) -> (u64, u64) {
        (self.recycles, self.removals)
    }

    /// Hash of everything that was asked of the disk.
    #[must_use]
    pub(crate) fn trace(&self) -> u64 {
        self.trace.value()
    }

    fn perform(&mut self, op: DiskOp, before: usize) -> Result<Bytes, DiskError> {
        match op {
            DiskOp::WriteSync { file, offset, data } => {
                let offset = self.checked_range(file, offset, data.len() as u64)?;
                if self.profile.sync == SyncPromise::Broken {
                    self.remember(file, offset, data.len());
                }
                self.overwrite(file, offset, &data);
                let blocks = offset / DiskOp::BLOCK..(offset + data.len()) / DiskOp::BLOCK;
                self.file(file).synced[blocks].fill(true);
                self.latent.wrote(file, offset, data.len(), before);
                Ok(Bytes::new())
            }
            DiskOp::Read { file, offset, len } => {
                let start = self.checked_range(file, offset, len)?;
                let end = start + usize::try_from(len).expect("checked");
                let mut bytes = self.file(file).bytes[start..end].to_vec();
                let files = &self.files;
                self.latent.lie(file, start, &mut bytes, |file, sector| {
                    let stored = &files.get(&file)?.bytes;
                    stored.get(sector * SECTOR..(sector + 1) * SECTOR).map(<[u8]>::to_vec)
                });
                Ok(Bytes::from(bytes))
            }
            DiskOp::Allocate { file, len, recycled } => {
                let len = usize::try_from(len).expect("a simulated file fits memory");
                let mut bytes = match recycled {
                    Some(old) => self.files.remove(&old).unwrap_or_default().bytes,
                    None => Vec::new(),
                };
                bytes.resize(len, 0);
                recycled.iter().for_each(|old| self.latent.removed(*old));
                self.removed.clear();
                let synced = vec![false; len / DiskOp::BLOCK];
                assert!(!self.files.contains_key(&file), "the log allocated {file:?} twice");
                self.files.insert(file, SimFile { bytes, synced });
                Ok(Bytes::new())
            }
            DiskOp::Remove { file } => {
                self.undo.retain(|undo| undo.file != file);
                self.latent.removed(file);
                match self.files.remove(&file) {
                    Some(content) => {
                        if self.profile.entries == DirectoryEntries::Undurable {
                            self.removed.push((file, content));
                        }
                        Ok(Bytes::new())
                    }
                    None => Err(DiskError::Failed(format!("remove {file:?}: no such file"))),
                }
            }
        }
    }

    fn interrupt(&mut self, op: DiskOp, crash: Crash) {
        match op {
            DiskOp::WriteSync { file, offset, data } => {
                let Ok(offset) = self.checked_range(file, offset, data.len() as u64) else {
                    return;
                };
                match crash {
                    Crash::Kill => {
                        let blocks = data.len() / DiskOp::BLOCK;
                        let written = self.rng.index(blocks + 1) * DiskOp::BLOCK;
                        self.overwrite(file, offset, &data[..written]);
                    }
                    Crash::PowerLoss => self.tear(file, offset, &data),
                }
            }
            DiskOp::Allocate { file, len, recycled } => {
                self.interrupt_allocate(file, len, recycled)
            }
            op @ DiskOp::Remove { .. } => {
                if self.rng.flip() {
                    // A file that is gone already makes no difference after a crash.
                    drop(self.perform(op, 0));
                }
            }
            DiskOp::Read { .. } => {}
        }
    }

    /// The directory entry may be there or not, and the file shorter than asked for.
    fn interrupt_allocate(&mut self, file: FileId, len: u64, recycled: Option<FileId>) {
        if self.rng.flip() {
            return;
        }
        let mut len = usize::try_from(len).expect("a simulated file fits memory");
        let mut bytes = match recycled {
            Some(old) => {
                self.latent.removed(old);
                self.files.remove(&old).unwrap_or_default().bytes
            }
            None => Vec::new(),
        };
        if self.rng.flip() {
            let blocks = len / DiskOp::BLOCK;
            len = self.rng.index(blocks + 1) * DiskOp::BLOCK;
        }
        bytes.resize(len, 0);
        self.files.insert(file, SimFile { bytes, synced: vec![false; len / DiskOp::BLOCK] });
    }

    /// Each page is written, lost or torn; a torn one keeps any of its sectors.
    fn tear(&mut self, file: FileId, offset: usize, data: &[u8]) {
        let whole = self.rng.below(4);
        for (page, block) in data.chunks(DiskOp::BLOCK).enumerate() {
            let at = offset + page * DiskOp::BLOCK;
            match if whole < 2 { whole } else { self.rng.below(3) } {
                0 => {}
                1 => self.overwrite(file, at, block),
                _ => {
                    for (sector, bytes) in block.chunks(SECTOR).enumerate() {
                        if self.rng.flip() {
                            self.overwrite(file, at + sector * SECTOR, bytes);
                        }
                    }
                }
            }
        }
    }

    fn remember(&mut self, file: FileId, offset: usize, len: usize) {
        for at in (offset..offset + len).step_by(DiskOp::BLOCK) {
            let before = self.file(file).bytes[at..at + DiskOp::BLOCK].to_vec();
            self.undo.push(Undo { file, offset: at, before });
        }
        let written_back = self.undo.len().saturating_sub(UNDO_BLOCKS);
        self.undo.drain(..written_back);
    }

    fn overwrite(&mut self, file: FileId, offset: usize, data: &[u8]) {
        // The undo of a lying disk may concern a file that was recycled since.
        if let Some(file) = self.files.get_mut(&file)
            && offset + data.len() <= file.bytes.len()
        {
            file.bytes[offset..offset + data.len()].copy_from_slice(data);
        }
    }

    fn file(&mut self, file: FileId) -> &mut SimFile {
        self.files.get_mut(&file).expect("checked to exist")
    }

    fn checked_range(&self, file: FileId, offset: u64, len: u64) -> Result<usize, DiskError> {
        let size = match self.files.get(&file) {
            Some(found) => found.bytes.len() as u64,
            None => return Err(DiskError::Failed(format!("{file:?}: no such file"))),
        };
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(usize::try_from(offset).expect("within a file")),
            _ => Err(DiskError::Failed(format!("{file:?}: {offset}+{len} is outside its {size}"))),
        }
    }

    /// The log's own duties, whatever the disk does.
    fn check_duties(&mut self, op: &DiskOp) {
        self.trace_op(op);
        let DiskOp::WriteSync { file, offset, data } = op else { return };
        let block = DiskOp::BLOCK as u64;
        let whole = offset.is_multiple_of(block) && data.len().is_multiple_of(DiskOp::BLOCK);
        assert!(whole, "unaligned write");
        assert!(!data.is_empty(), "the log wrote nothing");
        let end = offset + data.len() as u64;
        for other in self.in_flight.values() {
            if let DiskOp::WriteSync { file: file2, offset: offset2, data: data2 } = &other.op {
                let apart = file != file2 || end <= *offset2;
                assert!(
                    apart || offset2 + data2.len() as u64 <= *offset,
                    "two writes in flight overlap in {file:?} at {offset}"
                );
            }
        }
        if let Some(found) = self.files.get(file) {
            let blocks = found.synced.iter().enumerate();
            let rewritten = blocks
                .filter(|(_, synced)| **synced)
                .map(|(at, _)| at as u64 * block)
                .find(|at| (*offset..end).contains(at));
            assert!(rewritten.is_none(), "synced block {rewritten:?} of {file:?} was rewritten");
        }
    }

    fn trace_op(&mut self, op: &DiskOp) {
        match op {
            DiskOp::WriteSync { file, offset, data } => {
                self.trace.number(file.0);
                self.trace.number(*offset);
                self.trace.bytes(data);
            }
            DiskOp::Read { file, offset, len } => {
                for number in [1, file.0, *offset, *len] {
                    self.trace.number(number);
                }
            }
            DiskOp::Allocate { file, len, recycled } => {
                for number in [2, file.0, *len, recycled.map_or(0, |file| file.0 + 1)] {
                    self.trace.number(number);
                }
            }
            DiskOp::Remove { file } => {
                self.trace.number(3);
                self.trace.number(file.0);
            }
        }
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, token: DiskToken, op: DiskOp) {
        self.check_duties(&op);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let mut latency = self.rng.exponential(self.profile.mean_latency);
        if self.rng.chance(self.profile.stall) {
            latency += self.rng.exponential(self.profile.mean_stall);
        }
        let before = self.latent.complete();
        self.recycles += u64::from(matches!(op, DiskOp::Allocate { recycled: Some(_), .. }));
        self.removals += u64::from(matches!(op, DiskOp::Remove { .. }));
        self.in_flight.insert(ticket, InFlight { token, op, before });
        self.started.push(Started { ticket, latency });
    }

    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        let infos = self.files.iter();
        let mut infos: Vec<FileInfo> = infos
            .map(|(file, found)| FileInfo { file: *file, len: found.bytes.len() as u64 })
            .collect();
        // Directories have no order.
        for last in (1..infos.len()).rev() {
            infos.swap(last, self.rng.index(last + 1));
        }
        Ok(infos)
    }

    fn run(&mut self, op: DiskOp) -> Result<Bytes, DiskError> {
        self.check_duties(&op);
        match self.fuse {
            Some(0) => return Err(DiskError::Failed("the power failed".to_string())),
            Some(left) if !matches!(op, DiskOp::Read { .. }) => {
                self.fuse = Some(left - 1);
                if left == 1 {
                    self.interrupt(op, Crash::PowerLoss);
                    return Err(DiskError::Failed("the power failed".to_string()));
                }
            }
            _ => {}
        }
        self.perform(op, self.latent.complete())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    const FILE: FileId = FileId(1);

    fn disk(seed: u64, sync: SyncPromise) -> SimDisk {
        let profile = DiskProfile {
            mean_latency: 100_000,
            stall: Chance(0),
            mean_stall: 0,
            sync,
            entries: DirectoryEntries::Undurable,
        };
        let mut disk = SimDisk::new(profile, Seed(seed).stream("disk", 0));
        disk.run(DiskOp::Allocate { file: FILE, len: 8 << 12, recycled: None }).unwrap();
        disk
    }

    fn write(block: u64, fill: u8, blocks: usize) -> DiskOp {
        let data = Bytes::from(vec![fill; blocks * DiskOp::BLOCK]);
        DiskOp::WriteSync { file: FILE, offset: block << 12, data }
    }

    fn read(disk: &mut SimDisk) -> Bytes {
        disk.run(DiskOp::Read { file: FILE, offset: 0, len: 8 << 12 }).unwrap()
    }

    #[test]
    fn what_completed_survives_a_power_loss() {
        let mut disk = disk(1, SyncPromise::Kept);
        disk.submit(DiskToken(9), write(0, 7, 2));
        let started = disk.take_started();
        let completion = disk.complete(started[0].ticket).unwrap();
        assert_eq!(completion.token, DiskToken(9));
        disk.crash(Crash::PowerLoss);
        assert!(read(&mut disk)[..2 << 12].iter().all(|byte| *byte == 7));
        assert!(disk.complete(started[0].ticket).is_none(), "completed once");
    }

    #[test]
    fn what_was_in_flight_is_written_lost_or_torn_per_sector() {
        let (mut written, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let mut disk = disk(seed, SyncPromise::Kept);
            disk.submit(DiskToken(1), write(0, 7, 1));
            disk.crash(Crash::PowerLoss);
            let bytes = read(&mut disk);
            let kept = bytes.chunks(SECTOR).filter(|sector| sector[0] == 7).count();
            let whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
            assert!(bytes.chunks(SECTOR).all(whole), "a sector is never torn");
            match kept {
                0 => lost += 1,
                8 => written += 1,
                _ => torn += 1,
            }
        }
        assert!(written > 20 && lost > 20 && torn > 20, "{written} {lost} {torn}");
    }

    #[test]
    fn a_power_failure_may_bring_a_removed_file_back_until_the_directory_is_synced() {
        let mut back = 0;
        for seed in 0..40 {
            let mut disk = disk(seed, SyncPromise::Kept);
            disk.run(DiskOp::Remove { file: FILE }).unwrap();
            disk.crash(Crash::PowerLoss);
            back += disk.list().unwrap().len();
            disk.run(DiskOp::Allocate { file: FileId(2), len: 4096, recycled: None }).unwrap();
            disk.crash(Crash::Kill);
            disk.run(DiskOp::Remove { file: FileId(2) }).unwrap();
            disk.run(DiskOp::Allocate { file: FileId(3), len: 4096, recycled: None }).unwrap();
            disk.crash(Crash::PowerLoss);
            assert!(disk.list().unwrap().iter().all(|info| info.file != FileId(2)));
        }
        assert!(back > 5 && back < 35, "{back}");
    }

    #[test]
    fn a_killed_process_leaves_whole_blocks() {
        for seed in 0..50 {
            let mut disk = disk(seed, SyncPromise::Kept);
            disk.submit(DiskToken(1), write(0, 7, 3));
            disk.crash(Crash::Kill);
            let bytes = read(&mut disk);
            let blocks: Vec<u8> = bytes.chunks(DiskOp::BLOCK).map(|block| block[0]).collect();
            let prefix = blocks.iter().take_while(|byte| **byte == 7).count();
            assert!(prefix <= 3 && blocks[prefix..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_broken_promise_loses_what_completed() {
        let mut lost = 0;
        for seed in 0..40 {
            let mut disk = disk(seed, SyncPromise::Broken);
            disk.submit(DiskToken(1), write(0, 7, 1));
            let started = disk.take_started();
            disk.complete(started[0].ticket).unwrap();
            assert_eq!(read(&mut disk)[0], 7);
            disk.crash(Crash::PowerLoss);
            lost += usize::from(read(&mut disk)[0] == 0);
        }
        assert!(lost > 5, "{lost}");
    }

    #[test]
    #[should_panic(expected = "was rewritten")]
    fn rewriting_a_synced_block_is_caught() {
        let mut disk = disk(1, SyncPromise::Kept);
        disk.run(write(0, 7, 1)).unwrap();
        disk.submit(DiskToken(1), write(0, 8, 1));
    }

    #[test]
    fn a_full_disk_makes_no_files_and_a_broken_one_does_nothing() {
        let mut disk = disk(1, SyncPromise::Kept);
        let allocate = DiskOp::Allocate { file: FileId(2), len: 4096, recycled: None };
        disk.set_full(true);
        disk.submit(DiskToken(1), allocate.clone());
        let full = disk.take_started().remove(0).ticket;
        assert_eq!(disk.complete(full).unwrap().result, Err(DiskError::Full));
        disk.set_full(false);
        disk.break_down();
        disk.submit(DiskToken(2), allocate);
        let broken = disk.take_started().remove(0).ticket;
        assert!(matches!(disk.complete(broken).unwrap().result, Err(DiskError::Failed(_))));
        disk.crash(Crash::Kill);
        assert!(!disk.is_broken(), "a restart finds a new disk with the old content");
    }

    #[test]
    fn a_fuse_fails_recovery_at_its_operation() {
        let mut disk = disk(1, SyncPromise::Kept);
        disk.set_fuse(Some(2));
        disk.run(write(0, 7, 1)).unwrap();
        assert!(!disk.fuse_burnt());
        assert!(disk.run(write(1, 7, 1)).is_err());
        assert!(disk.fuse_burnt());
        assert!(disk.run(DiskOp::Read { file: FILE, offset: 0, len: 4096 }).is_err());
        disk.crash(Crash::PowerLoss);
        assert_eq!(read(&mut disk)[0], 7);
    }
}
