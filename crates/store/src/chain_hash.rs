//! Chain hash: one number that stands for every logical change since the first entry, so that two
//! members whose logic diverged find out at the next comparison.
//!
//! Used by TigerBeetle (state checker), etcd (corruption checker) and CockroachDB (consistency
//! checks), there over stored state; here over *changes*, so that it costs no scan, and a change
//! applied by mistake shows even if a later one hides it. Invariant: after equal entries it is
//! equal on every member, whatever was compacted, installed or restarted in between.
//!
//! The mixing is the folded 64 × 64 → 128 bit multiplication of wyhash (Wang Yi); good dispersion,
//! no defence against chosen input: it looks for faults, not for forgers.

use crate::key_layout::{EventId, EventRecord};
use crate::reply::StoreError;
use clocks::LogIndex;

const SEED: [u64; 4] =
    [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];

/// The hash of a sequence of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainHash(pub(crate) u64);

/// What an entry did, apart from the changes that it made.
#[derive(Clone, Copy)]
pub(crate) enum Effect<'a> {
    /// Nothing of its own (a barrier), or only the changes absorbed before.
    Done,
    /// Changed the membership.
    Membership(&'a [u8]),
    /// Was a repetition.
    Duplicate,
    /// Was refused.
    Refused(&'a StoreError),
}

impl ChainHash {
    fn absorb(&mut self, word: u64, seed: usize) {
        self.0 = fold(self.0 ^ SEED[seed], word ^ SEED[(seed + 1) % SEED.len()]);
    }

    fn absorb_bytes(&mut self, bytes: &[u8]) {
        let mut pairs = bytes.chunks_exact(16);
        let mut hash = self.0 ^ SEED[0];
        for pair in &mut pairs {
            let word = |from| u64::from_le_bytes(pair[from..from + 8].try_into().expect("8 bytes"));
            hash = fold(word(0) ^ SEED[1], word(8) ^ hash);
        }
        let mut tail = [0; 16];
        tail[..pairs.remainder().len()].copy_from_slice(pairs.remainder());
        let tail = u128::from_le_bytes(tail);
        hash = fold(tail as u64 ^ SEED[2], (tail >> 64) as u64 ^ hash);
        self.0 = fold(hash ^ SEED[3], bytes.len() as u64 ^ SEED[1]);
    }

    /// A change of the keyspace.
    pub(crate) fn change(&mut self, id: EventId, record: &EventRecord) {
        self.absorb(u64::from(record.kind.code()), 0);
        self.absorb(id.main.cast_unsigned(), 1);
        self.absorb(u64::from(id.sub), 2);
        self.absorb(record.create_revision.cast_unsigned(), 3);
        self.absorb(record.version.cast_unsigned(), 0);
        self.absorb(record.lease.cast_unsigned(), 1);
        self.absorb_bytes(&record.key);
        self.absorb_bytes(&record.value);
    }

    /// Any other change: a name for its kind, and its content.
    pub(crate) fn note(&mut self, kind: &'static str, content: &[u8]) {
        self.absorb_bytes(kind.as_bytes());
        self.absorb_bytes(content);
    }

    /// Closes an entry.
    pub(crate) fn entry(&mut self, index: LogIndex, effect: Effect<'_>) {
        self.absorb(index, 0);
        match effect {
            Effect::Done => self.absorb(1, 1),
            Effect::Duplicate => self.absorb(2, 1),
            Effect::Membership(content) => {
                self.absorb(3, 1);
                self.absorb_bytes(content);
            }
            Effect::Refused(error) => {
                self.absorb(4, 1);
                self.refusal(error);
            }
        }
    }

    fn refusal(&mut self, error: &StoreError) {
        let (code, detail) = match error {
            StoreError::Compacted { compacted } => (1, *compacted),
            StoreError::FutureRevision { current } => (2, *current),
            StoreError::KeyNotFound => (3, 0),
            StoreError::LeaseNotFound => (4, 0),
            StoreError::SessionExpired => (5, 0),
            StoreError::WrongGroup => (6, 0),
            StoreError::ForeignDirectory => (7, 0),
            StoreError::LeaseExists => (8, 0),
            StoreError::Membership(refusal) => (40, i64::from(refusal.code())),
            StoreError::Auth(error) => (16, error.code()),
        };
        self.absorb(code, 2);
        self.absorb(detail.cast_unsigned(), 3);
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> u64 {
        let mut hash = ChainHash::default();
        parts.iter().for_each(|part| hash.absorb_bytes(part));
        hash.0
    }

    #[test]
    fn contents_lengths_and_borders_count() {
        let hashes = [
            of(&[b""]),
            of(&[b"\0"]),
            of(&[b"ab", b"c"]),
            of(&[b"a", b"bc"]),
            of(&[b"abc"]),
            of(&[&[0; 16]]),
            of(&[&[0; 17]]),
            of(&[&[0; 32]]),
        ];
        for (place, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..place].contains(hash), "{place} collides");
        }
    }

    #[test]
    fn every_flipped_bit_changes_the_hash() {
        let mut bytes = [7u8; 37];
        let before = of(&[&bytes]);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(of(&[&bytes]), before, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// The value is on disk and compared between versions of the program: it may not change.
    #[test]
    fn the_hash_is_the_same_for_ever() {
        let mut hash = ChainHash::default();
        hash.note("feature level", &[1]);
        hash.entry(1, Effect::Done);
        hash.entry(2, Effect::Refused(&StoreError::Compacted { compacted: 9 }));
        assert_eq!(hash.0, GOLDEN, "{:#x}", hash.0);
    }

    const GOLDEN: u64 = 0x033b_e934_c879_8da7;
}
