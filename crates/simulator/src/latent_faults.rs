//! Latent faults: sectors that read as something else than what was written and synced there.
//!
//! Bits rot, blocks are read from elsewhere (a misdirected write landed on them), writes were lost.
//! Each is an overlay over what is stored, derived from the sector, so that reading again does not
//! heal it; it goes with the file. Only what a later write proves to have been synced is afflicted:
//! rot within the last batch cannot be told from a torn write, which is a stated limit of the log.
//! Not here: how many members may be afflicted (`fault_atlas`).

use crate::rng::Rng;
use std::collections::BTreeMap;
use wal::FileId;

/// What a disk reads and writes at once.
pub(crate) const SECTOR: usize = 512;

/// A synced write.
#[derive(Clone, Copy, Debug)]
struct Extent {
    file: FileId,
    offset: usize,
    len: usize,
}

/// What a sector reads as.
#[derive(Clone, Copy, Debug)]
enum Overlay {
    /// Some bits are others.
    BitsFlipped,
    /// Anything.
    Garbage,
    /// Nothing was ever written.
    Lost,
    /// What was written there.
    Misdirected(FileId, usize),
}

/// The afflicted sectors of one disk, and what may be afflicted.
#[derive(Default)]
pub(crate) struct LatentFaults {
    sectors: BTreeMap<(FileId, usize), Overlay>,
    /// Writes in the order of their completion.
    written: Vec<Extent>,
    /// So many of them are known to have been complete when one began that is complete as well.
    proven: usize,
}

impl LatentFaults {
    /// Writes that are complete.
    pub(crate) fn complete(&self) -> usize {
        self.written.len()
    }

    /// A write is complete; `before` were when it began.
    pub(crate) fn wrote(&mut self, file: FileId, offset: usize, len: usize, before: usize) {
        self.written.push(Extent { file, offset, len });
        self.proven = self.proven.max(before);
    }

    /// The file is gone, and what was wrong with it.
    pub(crate) fn removed(&mut self, file: FileId) {
        self.sectors.retain(|(other, _), _| *other != file);
    }

    /// The disk was exchanged, or repaired.
    pub(crate) fn heal(&mut self) {
        self.sectors.clear();
    }

    /// Whether anything is wrong.
    pub(crate) fn any(&self) -> bool {
        !self.sectors.is_empty()
    }

    /// Afflicts some sectors of a synced write of a file that is there; false if there is none.
    pub(crate) fn afflict(&mut self, rng: &mut Rng, there: impl Fn(FileId) -> bool) -> bool {
        let candidates = self.written[..self.proven].iter();
        let candidates: Vec<Extent> =
            candidates.filter(|extent| there(extent.file)).copied().collect();
        if candidates.is_empty() {
            return false;
        }
        let Extent { file, offset, len } = rng.pick(&candidates);
        let other = rng.pick(&candidates);
        let first = offset / SECTOR + rng.index(len / SECTOR);
        let last = (offset + len) / SECTOR - 1;
        let reach = if rng.flip() { 1 } else { rng.between(1, 8) };
        let kind = rng.below(4);
        for sector in (first..=last).take(usize::try_from(reach).expect("small")) {
            let overlay = match kind {
                0 => Overlay::BitsFlipped,
                1 => Overlay::Garbage,
                2 => Overlay::Lost,
                _ => Overlay::Misdirected(other.file, other.offset / SECTOR + (sector - first)),
            };
            self.sectors.insert((file, sector), overlay);
        }
        true
    }

    /// Lets `bytes`, read from `offset` of the file, be what the disk says. `stored` gives what is
    /// stored in a sector, if the file is there and so long.
    pub(crate) fn lie(
        &self,
        file: FileId,
        offset: usize,
        bytes: &mut [u8],
        stored: impl Fn(FileId, usize) -> Option<Vec<u8>>,
    ) {
        let sectors = offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR);
        for (&(_, sector), overlay) in
            self.sectors.range((file, sectors.start)..(file, sectors.end))
        {
            let Some(truth) = stored(file, sector) else { continue };
            let lie = match *overlay {
                Overlay::BitsFlipped => flipped(truth, file, sector),
                Overlay::Garbage => garbage(file, sector),
                Overlay::Lost => vec![0; SECTOR],
                Overlay::Misdirected(file, other) => {
                    stored(file, other).unwrap_or_else(|| garbage(file, sector))
                }
            };
            for (at, byte) in (sector * SECTOR..).zip(lie) {
                if let Some(shown) = at.checked_sub(offset).and_then(|at| bytes.get_mut(at)) {
                    *shown = byte;
                }
            }
        }
    }
}

/// A number that only the sector decides.
fn fingerprint(file: FileId, sector: usize, salt: u64) -> u64 {
    let mixed = (file.0 << 32 ^ sector as u64 ^ salt << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

fn flipped(mut bytes: Vec<u8>, file: FileId, sector: usize) -> Vec<u8> {
    let at = usize::try_from(fingerprint(file, sector, 1) % SECTOR as u64).expect("small");
    bytes[at] ^= 1 << (fingerprint(file, sector, 2) % 8);
    bytes
}

fn garbage(file: FileId, sector: usize) -> Vec<u8> {
    let words = (0..SECTOR as u64 / 8).map(|word| fingerprint(file, sector, 3 + word));
    words.flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    const FILE: FileId = FileId(1);

    fn shown(faults: &LatentFaults) -> Vec<u8> {
        let stored = vec![7; 16 * SECTOR];
        let mut bytes = stored.clone();
        let sector =
            |_: FileId, at: usize| stored.get(at * SECTOR..(at + 1) * SECTOR).map(<[u8]>::to_vec);
        faults.lie(FILE, 0, &mut bytes, sector);
        bytes
    }

    #[test]
    fn what_no_later_write_proves_synced_is_left_alone() {
        let mut rng = Seed(1).stream("disk", 0);
        let mut faults = LatentFaults::default();
        assert!(!faults.afflict(&mut rng, |_| true), "nothing is written");
        // The second was begun while the first was under way: neither proves the other.
        faults.wrote(FILE, 0, 4096, 0);
        faults.wrote(FILE, 4096, 4096, 0);
        assert!(!faults.afflict(&mut rng, |_| true));
        let mut after = LatentFaults::default();
        after.wrote(FILE, 0, 4096, 0);
        after.wrote(FILE, 4096, 4096, after.complete());
        assert!(!after.afflict(&mut rng, |_| false), "the file is gone");
        assert!(after.afflict(&mut rng, |_| true));
        let bytes = shown(&after);
        assert!(bytes[4096..].iter().all(|byte| *byte == 7), "the last write is as it was");
    }

    #[test]
    fn an_afflicted_sector_reads_the_same_lie_until_its_file_is_gone() {
        let mut changed = 0;
        for seed in 0..40 {
            let mut rng = Seed(seed).stream("disk", 0);
            let mut faults = LatentFaults::default();
            faults.wrote(FILE, 0, 4096, 0);
            faults.wrote(FILE, 4096, 4096, 1);
            assert!(faults.afflict(&mut rng, |_| true) && faults.any());
            assert_eq!(shown(&faults), shown(&faults));
            changed += u32::from(shown(&faults) != vec![7; 16 * SECTOR]);
            faults.removed(FILE);
            assert!(!faults.any());
            assert_eq!(shown(&faults), vec![7; 16 * SECTOR]);
        }
        // A block that reads as one like itself shows nothing.
        assert!(changed > 20, "{changed}");
    }
}
