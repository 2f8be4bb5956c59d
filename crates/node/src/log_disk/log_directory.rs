//! The files of the log: `<number in 16 hexadecimal digits>.log`, and `.new` while one is being
//! made.
//!
//! Writes go around the page cache and are durable when they return (O_DIRECT | O_DSYNC), where
//! the file system allows it; overwriting allocated blocks needs no journal commit of the file
//! system. Where O_DIRECT is refused (tmpfs), O_DSYNC alone does the same through the cache.

use crate::private_files::{FILE_MODE, create_directory};
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use wal::{DiskError, DiskOp, FileId, FileInfo};

const BLOCK: usize = DiskOp::BLOCK;
/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;
/// Most bytes handed to the kernel at once.
const PIECE: usize = 4 << 20;
/// Files that a writer keeps open: the segment in use and the one before.
const OPEN_FILES: usize = 2;

/// The directory; clones name the same one.
#[derive(Clone, Debug)]
pub(super) struct LogDirectory {
    path: PathBuf,
}

impl LogDirectory {
    pub(super) fn open(path: &Path) -> Result<LogDirectory, DiskError> {
        let made =
            create_directory(path).and_then(|()| path.parent().map_or(Ok(()), sync_directory));
        made.map_err(|error| failed("creating", path, &error))?;
        Ok(LogDirectory { path: path.to_owned() })
    }

    fn file(&self, file: FileId) -> PathBuf {
        self.path.join(format!("{:016x}.log", file.0))
    }

    fn unfinished(&self, file: FileId) -> PathBuf {
        self.path.join(format!("{:016x}.new", file.0))
    }

    /// The files there are. One that a crash left unfinished is removed.
    pub(super) fn list(&self) -> Result<Vec<FileInfo>, DiskError> {
        let context = |error: Error| failed("listing", &self.path, &error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(context)? {
            let entry = entry.map_err(context)?;
            let name = entry.file_name();
            let Some((number, extension)) = name.to_str().and_then(|name| name.split_once('.'))
            else {
                continue;
            };
            let Ok(number) = u64::from_str_radix(number, 16) else { continue };
            match extension {
                "log" => {
                    let len = entry.metadata().map_err(context)?.len();
                    files.push(FileInfo { file: FileId(number), len });
                }
                "new" => std::fs::remove_file(entry.path()).map_err(context)?,
                _ => {}
            }
        }
        Ok(files)
    }

    pub(super) fn read(&self, file: FileId, offset: u64, len: u64) -> Result<Vec<u8>, DiskError> {
        let path = self.file(file);
        let read = || {
            let opened = File::open(&path)?;
            // The length may be a damaged file's word: nothing is allocated that is not there.
            let there = opened.metadata()?.len();
            if offset.checked_add(len).is_none_or(|end| end > there) {
                return Err(Error::from(ErrorKind::UnexpectedEof));
            }
            let mut bytes = vec![0; usize::try_from(len).map_err(Error::other)?];
            opened.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        };
        read()
            .map_err(|error| failed(&format!("reading {len} bytes at {offset} of"), &path, &error))
    }

    /// Every block of `file` is written once and durable, its name too, when this returns.
    pub(super) fn allocate(
        &self,
        file: FileId,
        len: u64,
        recycled: Option<FileId>,
    ) -> Result<(), DiskError> {
        assert!(len.is_multiple_of(BLOCK as u64), "segments are whole blocks");
        let source = recycled.map_or_else(|| self.unfinished(file), |recycled| self.file(recycled));
        let target = self.file(file);
        let extended = extend(&source, len, recycled.is_none());
        if let Err(error) = extended {
            if recycled.is_none() {
                // Best effort: what stays is removed at the next start.
                let _ = std::fs::remove_file(&source);
            }
            return Err(full_or_failed("allocating", &target, &error));
        }
        std::fs::rename(&source, &target)
            .and_then(|()| sync_directory(&self.path))
            .map_err(|error| full_or_failed("naming", &target, &error))
    }

    pub(super) fn remove(&self, file: FileId) -> Result<(), DiskError> {
        let path = self.file(file);
        std::fs::remove_file(&path)
            .and_then(|()| sync_directory(&self.path))
            .map_err(|error| failed("removing", &path, &error))
    }
}

/// Brings a file to `len` bytes, writing the blocks it lacks, and syncs it.
fn extend(path: &Path, len: u64, create: bool) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.write(true).create(create).truncate(create).mode(FILE_MODE);
    let file = open_with(&options, path, OFlags::DIRECT)?;
    let present = file.metadata()?.len();
    if present > len {
        file.set_len(len)?;
    }
    let mut written = present.min(len) / BLOCK as u64 * BLOCK as u64;
    if written < len {
        let zeros = AlignedBuffer::zeros(ZEROS);
        while written < len {
            let piece = usize::try_from(len - written).map_or(ZEROS, |left| left.min(ZEROS));
            if let Err(error) = file.write_all_at(&zeros.bytes()[..piece], written) {
                // Leave a recycled file as it was found.
                let _ = file.set_len(present);
                return Err(error);
            }
            written += piece as u64;
        }
    }
    file.sync_all()
}

/// Writes segments, durably.
pub(super) struct SegmentWriter {
    directory: LogDirectory,
    /// Numbers of segments only grow, so the lowest is the one not needed any more.
    open: BTreeMap<FileId, File>,
    buffer: AlignedBuffer,
}

impl SegmentWriter {
    pub(super) fn new(directory: LogDirectory) -> SegmentWriter {
        SegmentWriter { directory, open: BTreeMap::new(), buffer: AlignedBuffer::zeros(0) }
    }

    /// Durable when it returns; one system call for up to 4 MiB.
    pub(super) fn write_synced(
        &mut self,
        file: FileId,
        offset: u64,
        data: &[u8],
    ) -> Result<(), DiskError> {
        let mut place = offset;
        for piece in data.chunks(PIECE) {
            self.write_piece(file, place, piece).map_err(|error| {
                let path = self.directory.file(file);
                failed(&format!("writing {} bytes at {place} of", piece.len()), &path, &error)
            })?;
            place += piece.len() as u64;
        }
        Ok(())
    }

    /// As `write_synced`, but block by block and the odd ones first, for the power-loss option: a
    /// kill in between leaves what a torn write may leave.
    pub(super) fn write_scattered(
        &mut self,
        file: FileId,
        offset: u64,
        data: &[u8],
    ) -> Result<(), DiskError> {
        let blocks = data.chunks(BLOCK).zip((offset..).step_by(BLOCK));
        let odd = blocks.clone().skip(1).step_by(2);
        for (block, place) in odd.chain(blocks.step_by(2)) {
            self.write_synced(file, place, block)?;
        }
        Ok(())
    }

    fn write_piece(&mut self, file: FileId, offset: u64, piece: &[u8]) -> Result<(), Error> {
        self.buffer.copy_from(piece);
        if !self.open.contains_key(&file) {
            let path = self.directory.file(file);
            let options = OpenOptions::new().write(true).to_owned();
            self.open.insert(file, open_with(&options, &path, OFlags::DIRECT | OFlags::DSYNC)?);
            if self.open.len() > OPEN_FILES {
                self.open.pop_first();
            }
        }
        let opened = self.open.get(&file).expect("the newest file stays open");
        opened.write_all_at(self.buffer.bytes(), offset)
    }
}

/// Opens with the flags given; without O_DIRECT where the file system refuses it.
fn open_with(options: &OpenOptions, path: &Path, flags: OFlags) -> Result<File, Error> {
    let open = |flags: OFlags| {
        let bits = i32::try_from(flags.bits()).map_err(Error::other)?;
        options.clone().custom_flags(bits).open(path)
    };
    match open(flags) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => open(flags - OFlags::DIRECT),
        opened => opened,
    }
}

fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path)?.sync_all()
}

/// Memory that begins at a block boundary, as O_DIRECT wants it.
struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    fn zeros(len: usize) -> AlignedBuffer {
        let memory = vec![0; len + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        assert!(start < BLOCK, "bytes can be aligned");
        AlignedBuffer { memory, start, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    fn copy_from(&mut self, data: &[u8]) {
        if self.memory.len() < data.len() + BLOCK {
            *self = AlignedBuffer::zeros(data.len().next_power_of_two());
        }
        self.len = data.len();
        self.memory[self.start..self.start + data.len()].copy_from_slice(data);
    }
}

fn failed(doing: &str, path: &Path, error: &Error) -> DiskError {
    DiskError::Failed(format!("{doing} {}: {error}", path.display()))
}

fn full_or_failed(doing: &str, path: &Path, error: &Error) -> DiskError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskError::Full,
        _ => failed(doing, path, error),
    }
}
