//! Rot at rest: flips a bit in a write-ahead log that was synced long ago, as docs/formats.md
//! describes the file.
//!
//! The batch is in the newest segment, which recovery always reads; it is neither among the last,
//! which cannot be told from a torn write, nor the one that holds the newest state, without which a
//! member must be replaced. Not here: what the member does about it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Batches begin at multiples of this.
const BLOCK: u64 = 4096;

/// Fewer batches leave none that is old.
const BATCHES_MIN: usize = 8;

/// Where a bit was flipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rot {
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
}

/// The head of a batch.
#[derive(Debug, Clone, Copy)]
struct Batch {
    offset: u64,
    sequence: u64,
    /// Sequence of the batch before it that holds the newest state.
    newest_state: u64,
    records_bytes: u32,
}

/// Flips one bit in the log in `directory`, whose member is down.
///
/// # Errors
/// One plain sentence: there is no log, or too little in it.
pub(crate) fn flip(directory: &Path) -> Result<Rot, String> {
    let (file, bytes, batches) = newest_segment(directory)?;
    let failed = |error: std::io::Error| format!("cannot flip bits in {}: {error}", file.display());
    let old = choose(&batches).ok_or_else(|| {
        format!("{} holds {} batches: too few to damage an old one", file.display(), batches.len())
    })?;
    // Behind the head and the head of the first record: in what a client wrote.
    let offset = old.offset + 72 + u64::from(old.records_bytes / 2);
    let at = usize::try_from(offset).expect("it was read into memory");
    let options = File::options().write(true).open(&file).map_err(failed)?;
    options.write_all_at(&[bytes[at] ^ 0x10], offset).map_err(failed)?;
    options.sync_all().map_err(failed)?;
    Ok(Rot { file, offset })
}

/// The segment, its bytes and its batches. A prepared file of a higher number holds none yet.
fn newest_segment(directory: &Path) -> Result<(PathBuf, Vec<u8>, Vec<Batch>), String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", directory.display());
    let files = std::fs::read_dir(directory).map_err(failed)?.flatten().map(|file| file.path());
    let mut segments: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    segments.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).ok().filter(|bytes| bytes.starts_with(b"QUOR-WAL"))?;
        let batches = batches(&bytes);
        (!batches.is_empty()).then_some((path, bytes, batches))
    };
    let newest = segments.into_iter().rev().find_map(read);
    newest.ok_or_else(|| format!("{} holds no log segment", directory.display()))
}

/// Those of the segment's own incarnation, in order; what was left over from others is not.
fn batches(bytes: &[u8]) -> Vec<Batch> {
    let Some(incarnation) = number(bytes, 16) else { return Vec::new() };
    let mut found: Vec<Batch> = Vec::new();
    let mut offset = BLOCK;
    while let Some(head) = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)?.get(..72)) {
        let own = head[4..8] == *b"QBAT"
            && number(head, 8) == Some(incarnation)
            && number(head, 16) == Some(offset);
        if own {
            found.push(Batch {
                offset,
                sequence: number(head, 32).expect("the head is long enough"),
                newest_state: number(head, 56).expect("the head is long enough"),
                records_bytes: u32::from_le_bytes(head[64..68].try_into().expect("four bytes")),
            });
        }
        offset += BLOCK;
    }
    found
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// One from the middle, with something in it, that does not hold the newest state.
fn choose(batches: &[Batch]) -> Option<Batch> {
    if batches.len() < BATCHES_MIN {
        return None;
    }
    let newest_state = batches.last()?.newest_state;
    let middle = &batches[batches.len() / 2..batches.len() - 2];
    let fits = |batch: &&Batch| batch.sequence != newest_state && batch.records_bytes > 0;
    middle.iter().find(fits).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(sequence: u64) -> Batch {
        Batch { offset: sequence * BLOCK, sequence, newest_state: 5, records_bytes: 100 }
    }

    /// A segment with one block per batch; the last three blocks are left over from another.
    fn segment(count: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from((count + 4) * BLOCK).expect("small")];
        bytes[..8].copy_from_slice(b"QUOR-WAL");
        bytes[16..24].copy_from_slice(&7_u64.to_le_bytes());
        for sequence in 1..=count + 3 {
            let offset = sequence * BLOCK;
            let at = usize::try_from(offset).expect("small");
            let incarnation: u64 = if sequence <= count { 7 } else { 6 };
            let fields = [(8, incarnation), (16, offset), (32, sequence), (56, 5), (64, 100)];
            bytes[at + 4..at + 8].copy_from_slice(b"QBAT");
            for (field, value) in fields {
                bytes[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn an_old_batch_without_the_newest_state_is_chosen() {
        let batches: Vec<Batch> = (1..=9).map(batch).collect();
        assert_eq!(choose(&batches).map(|batch| batch.sequence), Some(6), "5 holds the state");
        assert!(choose(&batches[..7]).is_none(), "too few");
    }

    #[test]
    fn one_bit_of_the_newest_segment_is_flipped() {
        let directory = std::env::temp_dir().join(format!("quorate-rot-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("mkdir");
        let path = |number: u64| directory.join(format!("{number:016x}.log"));
        let good = segment(12);
        std::fs::write(path(6), &good).expect("write");
        std::fs::write(path(7), &good).expect("write");
        std::fs::write(path(8), vec![0; good.len()]).expect("a file that was only prepared");
        let rot = flip(&directory).expect("there is enough to damage");
        assert_eq!((&rot.file, rot.offset), (&path(7), 7 * BLOCK + 72 + 50));
        let bad = std::fs::read(path(7)).expect("read");
        let differing = good.iter().zip(&bad).filter(|(good, bad)| good != bad).count();
        assert_eq!(differing, 1);
        assert_eq!(std::fs::read(path(6)).expect("read"), good);
        std::fs::remove_dir_all(&directory).expect("remove");
        let refusal = flip(&directory).expect_err("nothing is there");
        assert!(refusal.contains(&directory.display().to_string()), "{refusal}");
    }
}
