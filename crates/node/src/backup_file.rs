//! Backup file: the keyspace of one moment as a stream of bytes that says of itself whether it is
//! whole (byte table: docs/formats.md, Backup file).
//!
//! `etcdctl snapshot save` writes the stream down as it comes, and wants of it only that the length
//! leaves 32 when divided by 512 and that the last 32 bytes are the SHA-256 of the rest. Inside is
//! a snapshot as members send it to each other, every chunk with a checksum of its own.
//! Invariants: writing holds one chunk in memory and one snapshot of the engine; a file is read as
//! far as to its last byte, and everything in it checked, before anything is made of it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use clocks::{GroupId, LogPosition, NodeId, Term};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::command::Member;
use store::{
    Engine, MachineKind, SnapshotInspector, SnapshotReader, SnapshotSummary, StoreFailure,
    StoreLimits,
};

const MAGIC: &[u8; 8] = b"QUOR-BAK";
/// Version of the file's layout.
const VERSION: u16 = 1;
/// Magic, version, length of the description.
const PREAMBLE: usize = 14;
const DIGEST: usize = 32;
/// etcd's clients know a snapshot with a digest by its length.
const BLOCK: u64 = 512;
/// A description lists the members; nothing else in it grows.
const DESCRIPTION_MAX: u32 = 1 << 20;
/// A chunk holds at least one record, and a record at most one request's key and value.
const CHUNK_MAX: u32 = 16 << 20;

/// Of which moment of which cluster a backup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupDescription {
    /// The cluster.
    pub cluster: u64,
    /// The member that it was taken of.
    pub member: NodeId,
    /// Whoever reads it must speak at least this feature level.
    pub feature_level: u32,
    /// The last entry of the keyspace that it holds.
    pub position: LogPosition,
    /// Its chunks.
    chunks: u64,
    /// Length of the whole file in bytes, with the digest.
    pub bytes: u64,
    /// Names and peer addresses of the cluster's members, for people.
    pub members: Vec<(String, String)>,
}

impl BackupDescription {
    fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u64(self.cluster);
        body.put_u64(self.member.0);
        body.put_u32(self.feature_level);
        body.put_u64(self.position.term.0);
        body.put_u64(self.position.index);
        body.put_u64(self.chunks);
        body.put_u64(self.bytes);
        body.put_u32(u32::try_from(self.members.len()).expect("far fewer members"));
        for text in self.members.iter().flat_map(|(name, address)| [name, address]) {
            body.put_u32(u32::try_from(text.len()).expect("far shorter names"));
            body.put_slice(text.as_bytes());
        }
        let mut out = BytesMut::with_capacity(PREAMBLE + body.len() + 4);
        out.put_slice(MAGIC);
        out.put_u16(VERSION);
        out.put_u32(u32::try_from(body.len()).expect("far fewer members"));
        out.put_slice(&body);
        let checksum = crc32c::crc32c(&out);
        out.put_u32(checksum);
        out.freeze()
    }

    fn decode(mut body: &[u8]) -> Option<BackupDescription> {
        let input = &mut body;
        let cluster = input.try_get_u64().ok()?;
        let member = NodeId(input.try_get_u64().ok()?);
        let feature_level = input.try_get_u32().ok()?;
        let term = Term(input.try_get_u64().ok()?);
        let position = LogPosition::new(term, input.try_get_u64().ok()?);
        let (chunks, bytes) = (input.try_get_u64().ok()?, input.try_get_u64().ok()?);
        let count = input.try_get_u32().ok()?;
        let mut members = Vec::new();
        for _ in 0..count {
            members.push((text(input)?, text(input)?));
        }
        let description =
            BackupDescription { cluster, member, feature_level, position, chunks, bytes, members };
        input.is_empty().then_some(description)
    }
}

fn text(input: &mut &[u8]) -> Option<String> {
    let length = input.try_get_u32().ok()? as usize;
    let (text, rest) = input.split_at_checked(length)?;
    *input = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// A backup while it is taken: read part by part until there is none.
pub struct BackupWriter {
    snapshot: SnapshotReader,
    description: BackupDescription,
    next: Next,
    digest: Sha256,
    sent: u64,
}

#[derive(Clone, Copy)]
enum Next {
    Measure,
    Description,
    Chunk(u64),
    Padding,
    Digest,
    Nothing,
}

impl BackupWriter {
    /// Begins a backup of the keyspace as of the engine's last write. Measure it to its end before
    /// the first part is read, so that the stream says from there on how long it is.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn open(
        engine: &Arc<dyn Engine>,
        cluster: u64,
        member: NodeId,
    ) -> Result<BackupWriter, StoreFailure> {
        let limits = StoreLimits::default();
        let group = GroupId::KEYSPACE;
        let snapshot = SnapshotReader::open(engine, group, MachineKind::Keyspace, limits)?;
        // Later than the keyspace: the level never falls, so nothing in there needs a higher one.
        let core = store::Reader::open(engine, GroupId::CONSISTENT_CORE)?;
        let described = |member: Member| {
            let address = member.peer_addresses.into_iter().next().unwrap_or_default();
            (member.name, address)
        };
        let mut description = BackupDescription {
            cluster,
            member,
            feature_level: core.feature_level(),
            position: snapshot.position(),
            chunks: 0,
            bytes: 0,
            members: core.members()?.into_iter().map(described).collect(),
        };
        description.bytes = description.encode().len() as u64;
        let (next, digest) = (Next::Measure, Sha256::new());
        Ok(BackupWriter { snapshot, description, next, digest, sent: 0 })
    }

    /// Reads a chunk only for its length. Whether there is another to measure.
    ///
    /// # Errors
    /// If the engine fails.
    ///
    /// # Panics
    /// If all of it was measured before.
    pub fn measure(&mut self) -> Result<bool, StoreFailure> {
        assert!(matches!(self.next, Next::Measure), "a backup is measured once");
        let description = &mut self.description;
        let chunk = self.snapshot.chunk(description.chunks)?.expect("the next chunk can be read");
        description.chunks += 1;
        description.bytes += 4 + chunk.data.len() as u64;
        if chunk.done {
            description.bytes = description.bytes.next_multiple_of(BLOCK) + DIGEST as u64;
            self.next = Next::Description;
        }
        Ok(!chunk.done)
    }

    /// What it is of.
    #[must_use]
    pub fn description(&self) -> &BackupDescription {
        &self.description
    }

    /// How many bytes `next_part` will still return.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.description.bytes - self.sent
    }

    /// The next bytes of the file; `None` after the last.
    ///
    /// # Errors
    /// If the engine fails.
    ///
    /// # Panics
    /// If it was not measured to its end.
    pub fn next_part(&mut self) -> Result<Option<Bytes>, StoreFailure> {
        let part = match self.next {
            Next::Measure => unreachable!("a backup is measured before it is read"),
            Next::Description => {
                self.next = Next::Chunk(0);
                self.description.encode()
            }
            Next::Chunk(number) => {
                let chunk = self.snapshot.chunk(number)?.expect("it was there a moment ago");
                self.next = if chunk.done { Next::Padding } else { Next::Chunk(number + 1) };
                let mut part = BytesMut::with_capacity(4 + chunk.data.len());
                part.put_u32(u32::try_from(chunk.data.len()).expect("far shorter chunks"));
                part.put_slice(&chunk.data);
                part.freeze()
            }
            Next::Padding => {
                self.next = Next::Digest;
                let length = self.sent.next_multiple_of(BLOCK) - self.sent;
                Bytes::from(vec![0; usize::try_from(length).expect("less than a block")])
            }
            Next::Digest => {
                self.next = Next::Nothing;
                Bytes::copy_from_slice(&self.digest.finalize_reset())
            }
            Next::Nothing => return Ok(None),
        };
        self.digest.update(&part);
        self.sent += part.len() as u64;
        assert!(self.sent <= self.description.bytes, "a snapshot of the engine never changes");
        Ok(Some(part))
    }
}

/// A backup file, checked from its first byte to its last.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    description: BackupDescription,
    summary: SnapshotSummary,
    /// The SHA-256, in hexadecimal.
    digest: String,
}

impl BackupFile {
    /// Reads the whole file and checks everything in it.
    ///
    /// # Errors
    /// One plain sentence that names the file.
    pub fn check(path: &Path) -> Result<BackupFile, String> {
        let mut chunks = ChunkStream::open(path)?;
        // Another format may be whole in another way.
        chunks.preamble()?;
        let digest = check_digest(&mut chunks)?;
        let description = chunks.description()?;
        let mut inspector = SnapshotInspector::new(description.position);
        chunks
            .each(&description, |chunk, done| inspector.take(chunk, done).map_err(str::to_owned))?;
        let summary = inspector.summary();
        Ok(BackupFile { path: path.to_owned(), description, summary, digest })
    }

    /// Of which moment of which cluster it is.
    #[must_use]
    pub fn description(&self) -> &BackupDescription {
        &self.description
    }

    /// What it holds.
    #[must_use]
    pub fn summary(&self) -> SnapshotSummary {
        self.summary
    }

    /// Its SHA-256, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Reads it again, chunk by chunk; the flag tells the last one.
    ///
    /// # Errors
    /// What `take` says, or that the file is another one now.
    pub(crate) fn chunks(
        &self,
        take: impl FnMut(&[u8], bool) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut chunks = ChunkStream::open(&self.path)?;
        let description = chunks.description()?;
        if description != self.description {
            return Err(chunks.wrong("changed while it was read"));
        }
        chunks.each(&description, take)
    }
}

struct ChunkStream {
    path: PathBuf,
    length: u64,
    file: BufReader<File>,
}

impl ChunkStream {
    fn open(path: &Path) -> Result<ChunkStream, String> {
        let cannot = |error| format!("cannot read {}: {error}", path.display());
        let file = File::open(path).map_err(cannot)?;
        let length = file.metadata().map_err(cannot)?.len();
        Ok(ChunkStream { path: path.to_owned(), length, file: BufReader::new(file) })
    }

    fn wrong(&self, what: &str) -> String {
        format!("the backup {} {what}; nothing was changed", self.path.display())
    }

    fn read(&mut self, length: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; length];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.wrong("ends too early: it was cut off or is damaged"))
            }
            Err(error) => Err(format!("cannot read {}: {error}", self.path.display())),
        }
    }

    fn u32(&mut self) -> Result<u32, String> {
        let bytes = self.read(4)?;
        Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
    }

    /// From the first byte on: the preamble, and how long the description behind it is.
    fn preamble(&mut self) -> Result<(Vec<u8>, u32), String> {
        let rewound = self.file.rewind();
        rewound.map_err(|error| format!("cannot read {}: {error}", self.path.display()))?;
        let preamble = self.read(PREAMBLE)?;
        if !preamble.starts_with(MAGIC) {
            return Err(self.wrong("is not one that quorate wrote"));
        }
        let version = u16::from_be_bytes([preamble[8], preamble[9]]);
        if version != VERSION {
            return Err(self.wrong(&format!(
                "has format {version}, and this version of quorate knows only {VERSION}"
            )));
        }
        let length = u32::from_be_bytes(preamble[10..].try_into().expect("four bytes"));
        Ok((preamble, length))
    }

    fn description(&mut self) -> Result<BackupDescription, String> {
        let (preamble, length) = self.preamble()?;
        if length > DESCRIPTION_MAX {
            return Err(self.wrong("is damaged at byte 10"));
        }
        let body = self.read(length as usize)?;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&preamble), &body);
        let sound = self.u32()? == checksum;
        let description = BackupDescription::decode(&body).filter(|_| sound);
        let description = description.ok_or_else(|| self.wrong("is damaged in its first bytes"))?;
        if description.bytes != self.length {
            let (found, expected) = (self.length, description.bytes);
            return Err(self.wrong(&format!("has {found} bytes where {expected} were written")));
        }
        Ok(description)
    }

    /// Goes through the chunks, and to the end of the file.
    fn each(
        &mut self,
        description: &BackupDescription,
        mut take: impl FnMut(&[u8], bool) -> Result<(), String>,
    ) -> Result<(), String> {
        for number in 1..=description.chunks {
            let length = self.u32()?;
            if length > CHUNK_MAX {
                return Err(self.wrong(&format!("is damaged in chunk {number}")));
            }
            let chunk = self.read(length as usize)?;
            take(&chunk, number == description.chunks).map_err(|reason| {
                self.wrong(&format!("cannot be read at chunk {number}: {reason}"))
            })?;
        }
        let mut padding = Vec::new();
        let rest = (&mut self.file).take(BLOCK + DIGEST as u64).read_to_end(&mut padding);
        rest.map_err(|error| format!("cannot read {}: {error}", self.path.display()))?;
        let padded = padding.len().checked_sub(DIGEST).filter(|length| *length < BLOCK as usize);
        match padded {
            Some(length) if padding[..length].iter().all(|byte| *byte == 0) => Ok(()),
            _ => Err(self.wrong("goes on behind its end")),
        }
    }
}

/// Compares the last bytes with what stands before them.
fn check_digest(chunks: &mut ChunkStream) -> Result<String, String> {
    if chunks.length % BLOCK != DIGEST as u64 {
        return Err(chunks.wrong("is not whole: its length is not that of a snapshot"));
    }
    let rewound = chunks.file.rewind();
    rewound.map_err(|error| format!("cannot read {}: {error}", chunks.path.display()))?;
    let mut digest = Sha256::new();
    let mut left = chunks.length - DIGEST as u64;
    while left > 0 {
        let part = chunks.read(usize::try_from(left.min(1 << 16)).expect("at most 64 KiB"))?;
        digest.update(&part);
        left -= part.len() as u64;
    }
    let stored = chunks.read(DIGEST)?;
    if digest.finalize()[..] == stored[..] {
        return Ok(stored.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    Err(chunks.wrong("is damaged: its SHA-256 is not the one written at its end"))
}

#[cfg(test)]
mod tests;
